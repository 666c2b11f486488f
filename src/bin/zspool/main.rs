//! `zspool`: shows what the crate does, from the shell.
//!
//! | file | holds |
//! |---|---|
//! | [`cli`] | the command line; what several commands take: [`args`], [`size`] |
//! | [`squeeze`] | the main job: in, limited, out again identical |
//! | [`classes`] | where the bytes of the pool go, as a picture |
//! | [`swap`] | pages through devices in tiers |
//! | [`files`] | the control files of a memcg, as a table |
//! | `run`, `top` | an unmodified program under a limit; what runs so (feature `guest`) |
//!
//! Below the commands, which do not know each other:
//!
//! | file | holds |
//! |---|---|
//! | [`source`] | where pages come from |
//! | [`target`] | the store they go into |
//! | [`kept`], [`hashes`], [`shuffle`] | pages in an instance, what each was, and the order in which they are read back |
//! | [`tiers`], [`drain`] | swapfiles in tiers, and one that is taken off |
//! | [`histogram`], [`table`], [`progress`], [`output`], [`json`] | what is told about it |
//! | [`error`], [`signals`] | why it is not done, how it is interrupted |

#[cfg(not(target_os = "linux"))]
compile_error!("the program reads /proc and needs Linux; the library (without the feature `cli`) does not");

mod args;
mod classes;
mod cli;
mod drain;
mod error;
mod files;
mod hashes;
mod histogram;
mod json;
mod kept;
mod output;
mod progress;
#[cfg(feature = "guest")]
mod run;
mod shuffle;
mod signals;
mod size;
mod source;
mod squeeze;
mod swap;
mod table;
mod target;
mod tiers;
#[cfg(feature = "guest")]
mod top;

use clap::Parser;
use classes::args::Classes;
use cli::{Cli, Verb};
use error::RunError;
use output::Output;
use squeeze::args::Squeeze;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use swap::args::Swap;

/// A page came back different, or something else that must not happen did.
const BAD: u8 = 1;
/// The run could not be made. The command line parser uses it too.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    signals::prepare();
    let good = match Cli::parse().verb {
        Verb::Squeeze(args) => squeeze(&args),
        Verb::Classes(args) => classes(&args),
        Verb::Swap(args) => swap(&args),
        Verb::Files => output::print(&files::table()).map(|_| true),
        #[cfg(feature = "guest")]
        Verb::Run(args) => return run(&args),
        #[cfg(feature = "guest")]
        Verb::Top(args) => top::top(&args).map(|()| true),
        #[cfg(feature = "guest")]
        Verb::Ctl(args) => return top::ctl(&args),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BAD),
        Err(error) => {
            // Where nobody listens the status has to do.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(match error {
                RunError::Stopped(by) => by.exit_code(),
                RunError::Lost { .. } => BAD,
                _ => REFUSED,
            })
        }
    }
}

/// As the program ended.
#[cfg(feature = "guest")]
fn run(args: &run::args::Run) -> ExitCode {
    match run::run(args) {
        Ok(ended) => ended.imitate(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Whether all is well.
fn squeeze(args: &Squeeze) -> Result<bool, RunError> {
    let output = Output::open(args.json.as_deref(), args.sources.files().chain(args.swapfiles.files()))?;
    let report = squeeze::squeeze(args, target::zswap::open).inspect_err(|_| output.abandon())?;
    let mut text = String::new();
    let mut show = || {
        squeeze::show(&report, &mut text)?;
        if args.classes {
            writeln!(text)?;
            classes::show_classes(&report.pool.classes, usize::MAX, &mut text)?;
        }
        if args.stat { squeeze::show_stat(&report.sources, &mut text) } else { Ok(()) }
    };
    show().expect("writing to a string does not fail");
    output.write(&text, &report)?;
    Ok(report.is_good())
}

/// Whether all is well.
fn classes(args: &Classes) -> Result<bool, RunError> {
    let output = Output::open(args.json.as_deref(), args.sources.files())?;
    let report = classes::classes(args).inspect_err(|_| output.abandon())?;
    let mut text = String::new();
    let terminal = classes::Terminal::find(output.json_on_stdout());
    classes::show(&report, terminal, &mut text).expect("writing to a string does not fail");
    output.write(&text, &report)?;
    Ok(report.is_good())
}

/// Whether all is well.
fn swap(args: &Swap) -> Result<bool, RunError> {
    let output = Output::open(args.json.as_deref(), args.sources.files().chain(args.swapfiles.files()))?;
    let report = swap::swap(args).inspect_err(|_| output.abandon())?;
    let mut text = String::new();
    swap::show(&report, &mut text).expect("writing to a string does not fail");
    output.write(&text, &report)?;
    Ok(report.is_good())
}
