//! `zspool`: shows what the crate does, from the shell.
//!
//! | file | holds |
//! |---|---|
//! | [`args`], [`size`] | the command line |
//! | [`source`] | where pages come from |
//! | [`squeeze`] | the main job: in, limited, out again identical |
//! | [`target`] | the store it goes into |
//! | [`report`], [`table`], [`progress`] | what is told about it |
//! | [`signals`] | how it is interrupted |

#[cfg(not(target_os = "linux"))]
compile_error!("the program reads /proc and needs Linux; the library (without the feature `cli`) does not");

mod args;
mod progress;
mod report;
mod signals;
mod size;
mod source;
mod squeeze;
mod table;
mod target;

use args::{Cli, Squeeze, Verb};
use clap::Parser;
use report::Report;
use squeeze::RunError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// A page came back different, or something else that must not happen did.
const BAD: u8 = 1;
/// The run could not be made. The command line parser uses it too.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    signals::prepare();
    let Verb::Squeeze(args) = Cli::parse().verb;
    match squeeze(&args) {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(BAD),
        Err(error) => {
            // Where nobody listens the status has to do.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(match error {
                RunError::Stopped(by) => by.exit_code(),
                _ => REFUSED,
            })
        }
    }
}

fn squeeze(args: &Squeeze) -> Result<Report, RunError> {
    let json = args.json.as_deref();
    let to_stdout = json == Some(Path::new("-"));
    let cannot_write = |cause| RunError::Json { path: json.unwrap_or(Path::new("-")).to_owned(), cause };
    let mut made = None;
    if let Some(path) = json.filter(|_| !to_stdout) {
        // Learn now, and not after the run, that it cannot be written; what is there stays until there is something new.
        made = (!path.exists()).then_some(path);
        OpenOptions::new().append(true).create(true).open(path).map_err(cannot_write)?;
    }

    let report = squeeze::squeeze(args, target::open).inspect_err(|_| {
        // Not an empty report where there was none. If it cannot be removed, that is not what went wrong.
        let _ = made.map(std::fs::remove_file);
    })?;

    let mut text = String::new();
    let mut show = || {
        table::show(&report, &mut text)?;
        if args.classes {
            table::show_classes(&report.pool.classes, &mut text)?;
        }
        if args.stat { table::show_stat(&report.sources, &mut text) } else { Ok(()) }
    };
    show().expect("writing to a string does not fail");
    // A reader that has seen enough and closed the pipe is no failure of the run.
    let _ = if to_stdout { io::stderr().write_all(text.as_bytes()) } else { io::stdout().write_all(text.as_bytes()) };

    if let Some(path) = json {
        let mut bytes = serde_json::to_vec_pretty(&report).expect("a report has no maps with strange keys");
        bytes.push(b'\n');
        let written = if to_stdout {
            io::stdout().write_all(&bytes)
        } else {
            File::create(path).and_then(|mut file| file.write_all(&bytes))
        };
        written.map_err(cannot_write)?;
    }
    Ok(report)
}
