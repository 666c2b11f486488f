//! Which processes there are to read when no source is given: all this user may read, largest first.

use super::process::Process;
use super::{Source, SourceError};
use std::fs;

/// What a survey found.
pub(crate) struct Survey {
    /// Largest first.
    pub(crate) processes: Vec<Process>,
    /// Processes this user may not read.
    pub(crate) denied: usize,
}

/// Bytes of a process's resident anonymous memory, by its `status`. None for kernel threads and the dead.
fn rss_anon(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Numbers of all processes.
pub(super) fn pids() -> Result<impl Iterator<Item = u32>, SourceError> {
    let proc = fs::read_dir("/proc").map_err(|cause| SourceError::Io { path: "/proc".into(), cause })?;
    Ok(proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Open processes, largest first, until they have `max_pages` pages between them.
///
/// # Errors
/// When there is none that this user may read.
pub(crate) fn survey(max_pages: u64) -> Result<Survey, SourceError> {
    let ourselves = std::process::id();
    let mut sizes: Vec<_> = pids()?
        .filter(|&pid| pid != ourselves)
        .filter_map(|pid| Some((rss_anon(pid)?, pid)))
        .filter(|s| s.0 > 0)
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));

    let mut found = Survey { processes: vec![], denied: 0 };
    let mut pages = 0;
    for (_, pid) in sizes {
        if pages >= max_pages {
            break;
        }
        match Process::open(pid) {
            Ok(process) => {
                pages += process.pages_at_most();
                found.processes.push(process.that_may_end());
            }
            Err(SourceError::NotPermitted { .. }) => found.denied += 1,
            // Ended meanwhile, or nothing resident any more.
            Err(
                SourceError::NoSuchProcess { .. }
                | SourceError::NothingResident { .. }
                | SourceError::KernelThread { .. },
            ) => {}
            // Too many open files, for one: go on with those that are open.
            Err(_) if !found.processes.is_empty() => break,
            Err(other) => return Err(other),
        }
    }
    match (found.processes.is_empty(), found.denied) {
        (false, _) => Ok(found),
        (true, 0) => Err(SourceError::NothingFound),
        (true, denied) => Err(SourceError::not_permitted(format!("any of the {denied} processes there are"))),
    }
}
