//! From the command line to a run.

use super::error::RunError;
use super::interface::{Settings, Target, Trouble};
use super::rss;
use super::run::{Planned, Run};
use crate::args::{DEFAULT_MAX_PAGES, MemcgLimit, Squeeze};
use crate::report::Report;
use crate::source::command::{self, Command};
use crate::source::core::Core;
use crate::source::image::Image;
use crate::source::names::Names;
use crate::source::process::Process;
use crate::source::survey::survey;
use crate::source::{Source, SourceError};
use std::path::PathBuf;
use zspool::compress::Codecs;
use zspool::sync::thread;

/// Do what `args` say with the store that `open` makes.
///
/// What can be wrong is looked at in the order of what it costs to find out: options, files and processes, the store, and the
/// command last, because it takes seconds and must be ended again.
pub(crate) fn squeeze<T: Target>(
    args: &Squeeze,
    open: impl FnOnce(&Settings) -> Result<T, Trouble>,
) -> Result<Report, RunError> {
    Codecs::builtin().by_name(&args.codec)?;
    let threads = args.threads.unwrap_or_else(thread::available_parallelism);
    let swapfile = swapfile(args)?;
    let mut sources = open_sources(args)?;

    let mut names = Names::default();
    let mut given: Vec<_> = sources.iter().map(|source| names.unique(source.name())).collect();
    if let Some(program) = args.command.first() {
        given.push(names.unique(&command::name(program)));
    }
    check_limits(&args.memcg_limit, &given)?;

    let before = rss::anonymous();
    let settings = Settings { pool_limit: args.pool_limit, codec: args.codec.clone(), swapfile, threads };
    let target = open(&settings).map_err(RunError::Open)?;
    let opening_growth = rss::anonymous().saturating_sub(before);

    if !args.command.is_empty() {
        sources.push(Box::new(Command::start(&args.command, args.after)?));
    }
    let planned = plan(given.into_iter().zip(sources), args);
    Run::new(&target, planned, args.seed)?.squeeze(&args.codec, threads, opening_growth)
}

fn swapfile(args: &Squeeze) -> Result<Option<(PathBuf, u64)>, RunError> {
    match (&args.swapfile, args.swap_size) {
        (Some(path), Some(size)) => Ok(Some((path.clone(), size))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(RunError::SwapfileWithoutSize),
        (None, Some(_)) => Err(RunError::SizeWithoutSwapfile),
    }
}

/// All sources but the command; every process there is, if nothing at all was named.
fn open_sources(args: &Squeeze) -> Result<Vec<Box<dyn Source>>, SourceError> {
    let mut sources: Vec<Box<dyn Source>> = vec![];
    for path in &args.image {
        sources.push(Box::new(Image::open(path)?));
    }
    for path in &args.core {
        sources.push(Box::new(Core::open(path)?));
    }
    for &pid in &args.pid {
        sources.push(Box::new(Process::open(pid)?));
    }
    if args.names_no_source() {
        let found = survey(args.max_pages.unwrap_or(DEFAULT_MAX_PAGES))?;
        if found.denied > 0 {
            eprintln!("Not squeezed, because this user may not read them: {} of the larger processes.", found.denied);
        }
        sources.extend(found.processes.into_iter().map(|process| Box::new(process) as Box<dyn Source>));
    }
    Ok(sources)
}

/// Refuse limits of sources that there are not.
fn check_limits(limits: &[MemcgLimit], names: &[String]) -> Result<(), RunError> {
    let unknown = limits.iter().filter_map(|limit| limit.source.as_ref()).find(|name| !names.contains(name));
    unknown.map_or(Ok(()), |name| Err(RunError::UnknownSource { name: name.clone(), known: names.join(", ") }))
}

/// Give each source its limit and its share of `--max-pages`: as much as is left when its turn comes. What it leaves nothing
/// for is not in the table.
fn plan(sources: impl Iterator<Item = (String, Box<dyn Source>)>, args: &Squeeze) -> Vec<Planned> {
    let mut left = args.max_pages.unwrap_or(if args.names_no_source() { DEFAULT_MAX_PAGES } else { u64::MAX });
    let mut planned = vec![];
    for (name, source) in sources {
        let pages = source.pages_at_most().min(left);
        left -= pages;
        if pages > 0 {
            let memcg_limit = limit_of(&name, &args.memcg_limit);
            planned.push(Planned { name, source, memcg_limit, pages });
        }
    }
    planned
}

/// The limit of a source: the last one given for it by name, else the last one given for all.
fn limit_of(name: &str, limits: &[MemcgLimit]) -> Option<u64> {
    let last = |wanted: Option<&str>| limits.iter().rev().find(|limit| limit.source.as_deref() == wanted);
    last(Some(name)).or_else(|| last(None)).map(|limit| limit.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_by_name_goes_before_one_for_all() {
        let limit = |source: Option<&str>, bytes| MemcgLimit { source: source.map(str::to_owned), bytes };
        let limits = [limit(Some("a"), 1), limit(None, 2), limit(Some("a"), 3), limit(None, 4)];
        assert_eq!(limit_of("a", &limits), Some(3));
        assert_eq!(limit_of("b", &limits), Some(4));
        assert_eq!(limit_of("b", &[]), None);
    }
}
