//! `zspool run`: an unmodified program under a memory limit.
//!
//! ```text
//!   zspool run --memory-max 256M -- python3 x.py
//!     |  is it a program into which a library can be preloaded? may it serve faults?        program, library (elf), permission
//!     |  fork; LD_PRELOAD, ZSPOOL_RUN="pid=.. memory-max=.."; exec                           launch
//!     |                                                   python3 + libzspool_preload.so
//!     |  signals -->                                         |
//!     |  status, once a second  <-- control socket --        |                               watch, samples
//!     |  the same exit status   <--------------------------- ends
//!     +- --stat FILE                                                                         stat
//! ```

pub(crate) mod args;
mod elf;
mod launch;
mod library;
mod program;
mod samples;
mod stat;
mod watch;

use crate::json::JsonFile;
use crate::tiers::spec;
use args::Run;
use std::io;
use std::path::{Path, PathBuf};
use zspool::guest::control::{ControlError, Place, Settings, SwapKind, SwapSettings};
use zspool::guest::uffd;

/// The smallest limit, in bytes: pages leave by 64, and what a fault brings in must have room beside them. Below it a limit is passed by
/// almost every fault, which is hardly what was meant (`--memory-max 64` for 64M).
const LEAST: u64 = 1 << 20;

/// The program was not started.
const REFUSED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    #[error(transparent)]
    Library(#[from] library::LibraryError),
    #[error("{0}")]
    Permission(uffd::Error),
    #[error(
        "This user may not serve page faults that happen in system calls, which PROGRAM makes with memory that is out (userfaultfd: EPERM; \
         /dev/userfaultfd: {0}). Do one of these: run `zspool run` as root; or have root set `sysctl vm.unprivileged_userfaultfd=1`; or have root \
         give this user access to the device, as by `setfacl -m u:USER:rw /dev/userfaultfd`."
    )]
    NotPermitted(io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    #[error("There is no limit: give --memory-max SIZE, --memory-high SIZE or --evict-cold-after SECONDS.")]
    NoLimit,
    #[error(
        "{option} {bytes} is less than a program can do with, which is {LEAST}: give what it may have in memory, as in {option} 64M."
    )]
    TooSmall { option: &'static str, bytes: u64 },
    #[error(
        "--memory-high {high} is above --memory-max {max}: what is over the maximum cannot wait; take a lower one."
    )]
    HighAboveMax { high: u64, max: u64 },
    #[error("With --children every program has the limits for itself, and {} can be used by one only: write {},unnamed with its folder's path.", .0.display(), .0.display())]
    NamedForChildren(PathBuf),
    #[error("--stat {} cannot be written ({cause}): name a file in a folder that you may write to.", path.display())]
    Stat { path: PathBuf, cause: io::Error },
    #[error("No process can be started ({0}): see `ulimit -u`.")]
    Fork(io::Error),
}

impl StartError {
    /// As other programs that start programs have it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            StartError::Program(program::ProgramError::NotFound(_)) => NOT_FOUND,
            StartError::Program(program::ProgramError::NotExecutable { .. }) => NOT_EXECUTABLE,
            _ => REFUSED,
        }
    }
}

/// Run it; how it ended.
///
/// # Errors
/// When it was not started.
pub(crate) fn run(args: &Run) -> Result<watch::Ended, StartError> {
    let (program, arguments) = args.program.split_first().expect("the command line has a program");
    let settings = settings(args)?;
    let path = program::find(program)?;
    let library = library::find(args.preload.as_deref())?;
    permission()?;
    let place = Place::of_this_user();
    place.make()?;
    let stat = JsonFile::open(args.stat.as_deref(), args.swapfiles.files()).map_err(cannot_write)?;
    let made = files_to_be_made(&settings);
    let launch = launch::Launch {
        path,
        name: program,
        arguments,
        preload: library,
        settings: Settings { place: place.folder().into(), ..settings },
    };
    let child = launch.start().inspect_err(|_| stat.abandon())?;
    let ended = watch::watch(child, &place);
    ended.hear_signals();
    for file in made {
        // Nothing of it can be read any more. Who removed it was faster.
        let _ = std::fs::remove_file(file);
    }
    stat.write(&stat::report(&args.program, &ended), &mut io::stderr()).map_err(cannot_write)?;
    Ok(ended)
}

fn cannot_write((path, cause): (&Path, io::Error)) -> StartError {
    StartError::Stat { path: path.to_owned(), cause }
}

/// Whether this user may serve faults of the kernel's.
fn permission() -> Result<(), StartError> {
    let ask = uffd::Ask { user_mode_only: false, ..uffd::Ask::default() };
    match uffd::Descriptor::open(ask) {
        Ok(_) => Ok(()),
        // Its own advice is for who embeds the crate.
        Err(uffd::Error::NotPermitted { device }) => Err(StartError::NotPermitted(device)),
        Err(error) => Err(StartError::Permission(error)),
    }
}

fn settings(args: &Run) -> Result<Settings, StartError> {
    if args.memory_max.is_none() && args.memory_high.is_none() && args.evict_cold_after.is_none() {
        return Err(StartError::NoLimit);
    }
    for (option, bytes) in [("--memory-max", args.memory_max), ("--memory-high", args.memory_high)] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes < LEAST) {
            return Err(StartError::TooSmall { option, bytes });
        }
    }
    if let (Some(high), Some(max)) = (args.memory_high, args.memory_max)
        && high > max
    {
        return Err(StartError::HighAboveMax { high, max });
    }
    let swapfiles = args.swapfiles.planned()?;
    if let Some(named) = swapfiles.iter().find(|swap| args.children && swap.kind != spec::Kind::Unnamed) {
        return Err(StartError::NamedForChildren(named.path.clone()));
    }
    let swapfiles = swapfiles.into_iter().map(|planned| SwapSettings {
        kind: match planned.kind {
            spec::Kind::File => SwapKind::File,
            spec::Kind::Unnamed => SwapKind::Unnamed,
            spec::Kind::Block if planned.overwrite => SwapKind::BlockOverwrite,
            spec::Kind::Block => SwapKind::Block,
        },
        size: planned.size,
        priority: planned.priority,
        tier: planned.tier,
        // The program may work elsewhere.
        path: std::path::absolute(&planned.path).unwrap_or(planned.path),
    });
    Ok(Settings {
        pid: 0, // not known yet
        children: args.children,
        memory_max: args.memory_max,
        memory_high: args.memory_high,
        pool_limit: args.pool_limit,
        codec: Some(args.codec.clone()),
        evict_cold_after: args.evict_cold_after,
        least: args.least,
        plain_devices: args.swapfiles.no_encryption,
        swapfiles: swapfiles.collect(),
        place: PathBuf::new(),
    })
}

/// Swapfiles that are not there yet: they go when the program has ended.
fn files_to_be_made(settings: &Settings) -> Vec<PathBuf> {
    let files = settings.swapfiles.iter().filter(|swap| swap.kind == SwapKind::File && !swap.path.exists());
    files.map(|swap| swap.path.clone()).collect()
}
