//! The steps: fill, churn, free half, compact, and compare what is left.

use super::args::Classes;
use super::report::{Bytes, Report, Step};
use crate::error::{RunError, check_not_stopped};
use crate::kept::Kept;
use crate::progress::Progress;
use crate::shuffle::{Shuffle, mix};
use crate::source::chosen::Chosen;
use crate::target::Target;
use zspool::compress::Codecs;
use zspool::units::Page;
use zspool::zswap::Zswap;

/// Do what `args` say.
///
/// # Errors
/// When a source cannot be read, the instance cannot be made, or a signal came.
pub(crate) fn classes(args: &Classes) -> Result<Report, RunError> {
    Codecs::builtin().by_name(&args.codec)?;
    let chosen = Chosen::open(&args.sources)?;
    let mut builder = Zswap::builder().codec(&args.codec).compressing_threads(1).worker(false);
    if let Some(bytes) = args.pool_limit {
        builder = builder.pool_limit(bytes);
    }
    let zswap = builder.build().map_err(|error| RunError::Open(error.into()))?;
    let taken = chosen.take(&args.sources)?;

    let (kept, sources) = Kept::fill(&zswap, taken)?;
    let mut run = Run { kept, steps: vec![] };
    run.note("fill", sources.iter().map(|source| source.pages).sum());
    if let Some(times) = args.churn {
        run.churn(times, args.seed)?;
    }
    if args.free_half {
        run.free_half(args.seed)?;
    }
    if args.compact {
        let won = zswap.compact(u64::MAX).frames_freed;
        run.note("compact", won);
    }
    let stats = zswap.stats();
    let (classes, stored_pages) = (zswap.classes(), run.kept.stored());
    let mismatched_pages = run.kept.compare(|k| k, |_| {})?;
    Ok(Report {
        codec: args.codec.clone(),
        seed: args.seed,
        sources,
        stored_pages,
        same_filled_pages: stats.same_filled_pages + stats.pattern_pages,
        incompressible_pages: stats.incompressible_pages,
        refused_pages: run.kept.refused,
        refusal: run.kept.refusal,
        mismatched_pages,
        steps: run.steps,
        classes,
    })
}

struct Run<'a> {
    kept: Kept<'a>,
    steps: Vec<Step>,
}

impl Run<'_> {
    fn note(&mut self, step: &'static str, count: u64) {
        self.steps.push(Step { step, count, bytes: Bytes::of(self.kept.zswap) });
    }

    /// Replace random pages by other random pages, `times` as many as there are.
    fn churn(&mut self, times: u64, seed: u64) -> Result<(), RunError> {
        let total = self.kept.len();
        let progress = Progress::pages("replacing", times * total);
        let (mut page, mut replaced) = (Page::zeroed(), 0);
        let random = |k: u64| mix(mix(seed).wrapping_add(k)) % total;
        for k in 0..times * total {
            if k % 64 == 0 {
                check_not_stopped()?;
                progress.add(64.min(times * total - k));
            }
            let (to, from) = (random(2 * k), random(2 * k + 1));
            if self.kept.holds(from) {
                self.kept.load(from, &mut page)?;
                self.kept.store(to, &page);
                replaced += 1;
            }
        }
        drop(progress);
        self.note("churn", replaced);
        Ok(())
    }

    fn free_half(&mut self, seed: u64) -> Result<(), RunError> {
        let freed = self.kept.free_half(&Shuffle::new(self.kept.len(), seed))?;
        self.note("free half", freed);
        Ok(())
    }
}
