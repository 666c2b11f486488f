//! What several commands take: sources of pages, and swapfiles.

use crate::size;
use crate::tiers::spec::{self, Planned, Spec, SpecError};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages read when no source is given and no `--max-pages`.
pub(crate) const DEFAULT_MAX_PAGES: u64 = 65_536;

/// Thirty-one years: nobody waits for longer, and any clock can be added to it.
const MOST_SECONDS: Duration = Duration::from_secs(1_000_000_000);

/// What to take pages from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// Resident anonymous memory of a live process, which is neither stopped nor signalled
    #[arg(long, value_name = "PID", allow_hyphen_values = true, value_parser = pid)]
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
    #[arg(long, value_name = "SECONDS", default_value = "2", allow_hyphen_values = true, value_parser = seconds)]
    pub(crate) after: Duration,

    /// Read at most this many pages in all [default: 65536 when no source is given]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = max_pages)]
    pub(crate) max_pages: Option<u64>,
}

impl Sources {
    /// Whether the processes there are will be surveyed.
    pub(crate) fn names_no_source(&self) -> bool {
        self.image.is_empty() && self.core.is_empty() && self.pid.is_empty() && self.command.is_empty()
    }

    /// Files that are read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.image.iter().chain(&self.core).map(PathBuf::as_path)
    }
}

/// Where pages go that memory has no room for.
#[derive(Debug, Args)]
pub(crate) struct Swapfiles {
    /// Where pages go that a limit leaves no room for: PATH[,size=SIZE][,tier=NAME][,priority=N][,unnamed|,block[,overwrite]]
    #[arg(long, value_name = "PATH[,...]", value_parser = OsStringValueParser::new().try_map(Spec::parse))]
    pub(crate) swapfile: Vec<Spec>,

    /// How large a swapfile may become that names no size
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) swap_size: Option<u64>,

    /// Write pages to swapfiles as they are, with a checksum instead of a cipher
    #[arg(long)]
    pub(crate) no_encryption: bool,
}

impl Swapfiles {
    /// All of them; there may be none, and then nothing that is said of them.
    ///
    /// # Errors
    /// As [`spec::planned`].
    pub(crate) fn planned(&self) -> Result<Vec<Planned>, SpecError> {
        match self.no_encryption && self.swapfile.is_empty() {
            true => Err(SpecError::NothingEncrypted),
            false => spec::planned(&self.swapfile, self.swap_size),
        }
    }

    /// Files that are written.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.swapfile.iter().map(|spec| spec.path.as_path())
    }
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
    let time = text.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(time) {
        Ok(time) if time <= MOST_SECONDS => Ok(time),
        Err(_) if time.is_nan() || time < 0.0 => Err(wrong()),
        _ => Err(format!("The longest time is {} seconds; give a shorter one.", MOST_SECONDS.as_secs())),
    }
}

pub(crate) fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("0 is no process, but the kernel's own work; take the number of one, as `ps` shows it.".into()),
        Ok(pid) => Ok(pid),
        Err(_) => Err("The number of a process is a whole number, as `ps` shows it.".into()),
    }
}

pub(crate) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("The seed is a whole number from 0 to {}.", u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_not_negative_and_not_too_many_for_a_clock() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("1e9"), Ok(MOST_SECONDS));
        for wrong in ["-1", "-inf", "nan", "x", ""] {
            assert!(seconds(wrong).unwrap_err().contains("not negative"), "{wrong}");
        }
        for long in ["1000000001", "1e19", "1e20", "inf", "1e300"] {
            assert!(seconds(long).unwrap_err().contains("1000000000"), "{long}");
        }
        assert!(std::time::Instant::now().checked_add(MOST_SECONDS).is_some());
    }

    #[test]
    fn processes_have_numbers_from_1() {
        assert_eq!(pid("1"), Ok(1));
        for (wrong, part) in [("0", "the kernel's own"), ("-1", "whole number"), ("abc", "whole number")] {
            let said = pid(wrong).unwrap_err();
            assert!(said.contains(part) && said.ends_with('.'), "{wrong}: {said}");
        }
    }
}
