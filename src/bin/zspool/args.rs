//! The command line.

use crate::size;
use crate::tiers::spec::Spec;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Threads nobody needs more of; each has a few hundred KiB.
const THREADS_MAX: usize = 1024;

/// Replacements of every page that nobody waits for more of.
const TIMES_MAX: u64 = 1000;

/// Pages read when no source is given and no `--max-pages`.
pub(crate) const DEFAULT_MAX_PAGES: u64 = 65_536;

#[derive(Debug, Parser)]
#[command(name = "zspool", version, about = "Compressed memory for userspace", after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Compress real memory, account for it, read it back and compare
    #[command(after_help = AFTER_HELP)]
    Squeeze(Squeeze),
    /// Show where the bytes of the pool go: size classes, and a picture
    #[command(after_help = AFTER_CLASSES)]
    Classes(Classes),
    /// Show pages on devices in tiers: written back, read, cleaned, and moved off again
    #[command(after_help = AFTER_SWAP)]
    Swap(Swap),
    /// Print the control files that every memcg has: what they say, and what can be written to them
    #[command(after_help = AFTER_FILES)]
    Files,
    /// Run a program under a memory limit: what is over it leaves, compressed, and comes back when it is touched
    #[cfg(feature = "guest")]
    #[command(after_help = crate::run::args::AFTER_RUN)]
    Run(crate::run::args::Run),
    /// Show what runs under a limit, live
    #[cfg(feature = "guest")]
    #[command(after_help = crate::run::args::AFTER_TOP)]
    Top(crate::run::args::Top),
    /// Ask or tell a program that runs under a limit
    #[cfg(feature = "guest")]
    #[command(after_help = crate::run::args::AFTER_CTL)]
    Ctl(crate::run::args::Ctl),
}

const EXAMPLES: &str = "\
Examples:
  zspool squeeze                       compress the memory of the running programs, and compare
  zspool squeeze -- python3 -c 'import time; x = list(range(10**6)); time.sleep(60)'
  zspool classes --image a.pages       where the bytes of the pool go
  zspool swap --image a.pages          the same through swapfiles, with a table of them
  zspool files                         the control files of a memcg
  zspool squeeze --help                everything it can do";

// No option has a long text, so `--help` is as short as `-h`.
const AFTER_HELP: &str = "\
Each source becomes a memcg; --pid, --image and --core can be given more than once. Without a source, the
processes this user may read are taken, largest first. Nothing is stopped but COMMAND, which is ended.

SIZE is a number of bytes, or one with K, M, G or T behind it (steps of 1024).

A swapfile is made, or reused if it is an earlier one of ours; with `unnamed`, PATH is a folder, and the file has no name
in it; with `block`, PATH is a block device, which must be empty or ours; with `overwrite` too, what is on it is lost. Tiers of higher priority are used first; one that
names none comes after those named before it; swapfiles of one tier share the load.

Examples:
  zspool squeeze                                  memory of the running programs
  zspool squeeze --pid 4711 --classes --json -    one program, as JSON; the table goes to standard error
  zspool squeeze -- python3 -c 'import time; x = list(range(10**6)); time.sleep(60)'
  zspool squeeze --image a.pages --image b.pages --memcg-limit a=8M \\
                 --pool-limit 32M --swapfile /var/tmp/zspool.swap --swap-size 1G
  zspool squeeze --image a.pages --pool-limit 8M --swapfile /fast/swap,size=16M,tier=fast \\
                 --swapfile /var/tmp,size=1G,tier=slow,unnamed --swapoff fast
  zspool squeeze --mount /mnt/zspool --hold       and in another shell: cat /mnt/zspool/*/memory.stat

Exit status: 0 if every page came back identical, 1 if one did not, 2 if the run could not be made,
128 and the signal's number if it was interrupted.";

/// What to take pages from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// Resident anonymous memory of a live process, which is neither stopped nor signalled
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Vec<u32>,

    /// A file of flat 4096-byte pages
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,

    /// An ELF core file
    #[arg(long, value_name = "FILE")]
    pub(crate) core: Vec<PathBuf>,

    /// Start this, read its memory after a while, and end it
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// How long COMMAND runs before its memory is read
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) after: Duration,

    /// Read at most this many pages in all [default: 65536 when no source is given]
    #[arg(long, value_name = "N", value_parser = max_pages)]
    pub(crate) max_pages: Option<u64>,
}

impl Sources {
    /// Whether the processes there are will be surveyed.
    pub(crate) fn names_no_source(&self) -> bool {
        self.image.is_empty() && self.core.is_empty() && self.pid.is_empty() && self.command.is_empty()
    }
}

/// Where pages go that memory has no room for.
#[derive(Debug, Args)]
pub(crate) struct Swapfiles {
    /// Where pages go that a limit leaves no room for: PATH[,size=SIZE][,tier=NAME][,priority=N][,unnamed|,block[,overwrite]]
    #[arg(long, value_name = "PATH[,...]", value_parser = Spec::parse)]
    pub(crate) swapfile: Vec<Spec>,

    /// How large a swapfile may become that names no size
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) swap_size: Option<u64>,

    /// Write pages to swapfiles as they are, with a checksum instead of a cipher
    #[arg(long)]
    pub(crate) no_encryption: bool,
}

const AFTER_CLASSES: &str = "\
Sources are those of `zspool squeeze`. Pages are stored by one thread, and nothing runs in the background, so that the same
pages give the same picture. Parts of the frames add up to what the pool has backed, to the byte.

Examples:
  zspool classes --image a.pages                          after a fill
  zspool classes --image a.pages --free-half              with holes in it
  zspool classes --image a.pages --free-half --compact    packed again
  zspool classes --churn=4 --json - -- COMMAND            after replacing each page four times, as JSON

Exit status: as that of `zspool squeeze`.";

const AFTER_SWAP: &str = "\
Sources and swapfiles are those of `zspool squeeze`. Without a swapfile there are two, of a tier each, without names in the
folder for temporary files. Everything is stored, written back and read; then each device is taken off, first of the table
first: what it holds goes to the others, or into memory. Ctrl-C cancels that.

Examples:
  zspool swap --image a.pages                  two tiers, and what the metadata costs a page
  zspool swap --image a.pages --free-half      free a random half, and clean the devices
  zspool swap --swapfile /fast/swap,size=64M,tier=fast --swapfile /slow/swap,size=4G,tier=slow --json - -- COMMAND

Exit status: as that of `zspool squeeze`; 1 as well if a device could not be taken off.";

const AFTER_FILES: &str = "\
r: can be read, w: can be written. With `zspool squeeze --mount DIR` each memcg is a directory with these files in it.

Sizes are bytes, or have K, M, G or T behind them (steps of 1024).";

#[derive(Debug, Args)]
pub(crate) struct Squeeze {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// memory.zswap.max of a source's memcg, by its name in the table; of every one without SOURCE
    #[arg(long, value_name = "[SOURCE=]SIZE", value_parser = memcg_limit)]
    pub(crate) memcg_limit: Vec<MemcgLimit>,

    #[command(flatten)]
    pub(crate) swapfiles: Swapfiles,

    /// Before pages are read back, move everything off this tier or swapfile; Ctrl-C cancels that and no more
    #[arg(long, value_name = "TIER|PATH")]
    pub(crate) swapoff: Vec<String>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Threads that store and load [default: one per core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,

    /// Decides the order of the read-back
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// Show the size classes
    #[arg(long)]
    pub(crate) classes: bool,

    /// Show each memcg's memory.stat
    #[arg(long)]
    pub(crate) stat: bool,

    /// Mount the memcgs at this empty directory while it runs, to be watched and driven like cgroup v2's
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,

    /// Between storing and reading back, wait for Ctrl-C, or for DIR to be unmounted
    #[arg(long, requires = "mount")]
    pub(crate) hold: bool,

    /// Write the report as JSON as well; with -, to standard output, and the table to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Classes {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Replace pages by others at random, TIMES as many as there are
    #[arg(long, value_name = "TIMES", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = times)]
    pub(crate) churn: Option<u64>,

    /// Free a random half of the pages (after --churn)
    #[arg(long)]
    pub(crate) free_half: bool,

    /// Compact the pool (at the end)
    #[arg(long)]
    pub(crate) compact: bool,

    /// Decides which pages --churn and --free-half take
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// Write the numbers as JSON as well; with -, to standard output, and the picture to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Swap {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) swapfiles: Swapfiles,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Free a random half of the pages when all are written, and clean the devices
    #[arg(long)]
    pub(crate) free_half: bool,

    /// Decides which pages --free-half takes, and the order of the read-back
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// Write the numbers as JSON as well; with -, to standard output, and the text to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

/// One `--memcg-limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemcgLimit {
    /// None for every source.
    pub(crate) source: Option<String>,
    pub(crate) bytes: u64,
}

fn memcg_limit(text: &str) -> Result<MemcgLimit, String> {
    // Sizes have no `=`, so a name may.
    let (source, bytes) = match text.rsplit_once('=') {
        Some(("", _)) => {
            return Err("There is no source's name before the equals sign; leave both out to limit all.".into());
        }
        Some((source, bytes)) => (Some(source.to_owned()), bytes),
        None => (None, text),
    };
    Ok(MemcgLimit { source, bytes: size::parse(bytes).map_err(|e| e.to_string())? })
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("Zero threads would store nothing; use at least 1.".into()),
        Ok(n) if n <= THREADS_MAX => Ok(n),
        Ok(_) => Err(format!("At most {THREADS_MAX} threads are started; use fewer.")),
        Err(_) => Err("The number of threads is a whole number, at least 1.".into()),
    }
}

fn max_pages(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("Zero pages would leave nothing to do; use at least 1.".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("The number of pages is a whole number, at least 1.".into()),
    }
}

fn times(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("Zero times would replace nothing; leave --churn out, or use at least 1.".into()),
        Ok(n) if n <= TIMES_MAX => Ok(n),
        Ok(_) => Err(format!("At most {TIMES_MAX} times are possible; use fewer.")),
        Err(_) => Err("How often pages are replaced is a whole number, at least 1.".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "The time is a number of seconds that is not negative, such as 2 or 0.5.".to_owned();
    Duration::try_from_secs_f64(text.parse().map_err(|_| wrong())?).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn limits_have_a_source_or_not() {
        let limit = |source: Option<&str>, bytes| MemcgLimit { source: source.map(str::to_owned), bytes };
        assert_eq!(memcg_limit("10M"), Ok(limit(None, 10 << 20)));
        assert_eq!(memcg_limit("0"), Ok(limit(None, 0)));
        assert_eq!(memcg_limit("java-12=1"), Ok(limit(Some("java-12"), 1)));
        assert_eq!(memcg_limit("a=b=1K"), Ok(limit(Some("a=b"), 1024)));
        for wrong in ["=1", "a=", "a", "a=1Q"] {
            assert!(memcg_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "nan", "inf", "1e300", "x", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
