//! From the command line to a run.

use super::args::{MemcgLimit, Squeeze};
use super::report::Report;
use super::rss;
use super::run::{Planned, Run, Todo};
use crate::error::RunError;
use crate::source::chosen::{Chosen, Taken};
use crate::target::{Live, Settings, Target, Trouble};
use crate::tiers::spec;
use std::io::Write as _;
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
    if args.mount.is_some() && cfg!(not(feature = "fuse")) {
        return Err(RunError::NoFuse);
    }
    let threads = args.threads.unwrap_or_else(thread::available_parallelism);
    let swapfiles = args.swapfiles.planned()?;
    let swapoff = spec::meant(&args.swapoff, &swapfiles)?;
    let chosen = Chosen::open(&args.sources)?;
    check_limits(&args.memcg_limit, chosen.names())?;

    let before = rss::anonymous();
    let settings = Settings {
        pool_limit: args.pool_limit,
        codec: args.codec.clone(),
        swapfiles,
        encryption: !args.swapfiles.no_encryption,
        threads,
    };
    let target = open(&settings).map_err(RunError::Open)?;
    let opening_growth = rss::anonymous().saturating_sub(before);
    let live = args.mount.as_deref().map(|at| target.mount(at)).transpose().map_err(RunError::Mount)?;

    let taken = chosen.take(&args.sources)?.into_iter();
    let planned = taken.map(|Taken { name, source, pages }| {
        let memcg_limit = limit_of(&name, &args.memcg_limit);
        Planned { name, source, memcg_limit, pages }
    });
    let run = Run::new(&target, planned.collect(), args.seed)?;
    let todo = Todo { codec: &args.codec, threads, opening_growth, live: live.as_deref(), hold: args.hold, swapoff };
    let report = run.squeeze(&todo);
    if let Some(Err(error)) = live.map(Live::unmount) {
        // The report is worth more than an empty directory; where nobody listens, nothing can be done.
        let _ = writeln!(std::io::stderr(), "{error}.");
    }
    report
}

/// Refuse limits of sources that there are not.
fn check_limits(limits: &[MemcgLimit], names: &[String]) -> Result<(), RunError> {
    let unknown = limits.iter().filter_map(|limit| limit.source.as_ref()).find(|name| !names.contains(name));
    unknown.map_or(Ok(()), |name| Err(RunError::UnknownSource { name: name.clone(), known: names.join(", ") }))
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
