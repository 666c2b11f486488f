//! What several commands take: sources of pages, and swapfiles.

use crate::size;
use crate::tiers::spec::Spec;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Pages read when no source is given and no `--max-pages`.
pub(crate) const DEFAULT_MAX_PAGES: u64 = 65_536;

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

fn max_pages(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("Zero pages would leave nothing to do; use at least 1.".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("The number of pages is a whole number, at least 1.".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "The time is a number of seconds that is not negative, such as 2 or 0.5.".to_owned();
    Duration::try_from_secs_f64(text.parse().map_err(|_| wrong())?).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "nan", "inf", "1e300", "x", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
