//! The steps.

use super::args::Swap as Arguments;
use super::report::{Cleaned, Report, Written};
use crate::drain::drain;
use crate::error::{RunError, check_not_stopped};
use crate::histogram::{Histogram, Quantiles};
use crate::kept::Kept;
use crate::progress::Progress;
use crate::shuffle::Shuffle;
use crate::source::chosen::Chosen;
use crate::target::{Settings, Target, zswap as store};
use crate::tiers::spec::{self, Kind, Planned};
use std::time::Instant;
use zspool::compress::Codecs;
use zspool::memcg::{Cancel, ReclaimRequest, Source};
use zspool::units::PAGE_SIZE;
use zspool::zswap::Zswap;

/// Compressed bytes that are written back between two looks at signals and bar.
const STEP: u64 = 4 << 20;

/// Do what `args` say.
///
/// # Errors
/// When a source cannot be read, the instance cannot be made, or a signal came.
pub(crate) fn swap(args: &Arguments) -> Result<Report, RunError> {
    Codecs::builtin().by_name(&args.codec)?;
    // Without any there are two, to which `--no-encryption` applies as well.
    let mut swapfiles = spec::planned(&args.swapfiles.swapfile, args.swapfiles.swap_size)?;
    let chosen = Chosen::open(&args.sources)?;
    let taken = chosen.take(&args.sources)?;
    if swapfiles.is_empty() {
        swapfiles = by_default(taken.iter().map(|taken| taken.pages).sum());
    }
    let encryption = !args.swapfiles.no_encryption;
    let settings =
        Settings { pool_limit: args.pool_limit, codec: args.codec.clone(), swapfiles, encryption, threads: 1 };
    let zswap =
        store::builder(&settings).and_then(|builder| Ok(builder.worker(false).build()?)).map_err(RunError::Open)?;

    let (mut kept, sources) = Kept::fill(&zswap, taken)?;
    let (stored_pages, written) = (kept.stored(), write_back(&zswap)?);
    let filled = Target::swap(&zswap);
    let shuffle = Shuffle::new(kept.len(), args.seed);
    let mut times = Histogram::new();
    let mut mismatched_pages = kept.compare(|k| shuffle.at(k), |time| times.add(time.as_nanos() as u64))?;
    let cleaned = if args.free_half { Some(free_half(&mut kept, &shuffle)?) } else { None };
    let numbers: Vec<_> = filled.devices.iter().map(|row| row.number).collect();
    let swapoffs = drain(&zswap, &filled, &numbers);
    check_not_stopped()?;
    mismatched_pages += kept.compare(|k| shuffle.at(k), |_| {})?;
    Ok(Report {
        codec: args.codec.clone(),
        encryption,
        seed: args.seed,
        sources,
        stored_pages,
        refused_pages: kept.refused,
        refusal: kept.refusal,
        written,
        filled,
        load_ns: Quantiles::of(&times),
        cleaned,
        swapoffs,
        end: Target::swap(&zswap),
        mismatched_pages,
    })
}

/// Two files without names, each with room for everything.
fn by_default(pages: u64) -> Vec<Planned> {
    let size = pages * PAGE_SIZE as u64 / 8 * 9 + (2 << 20);
    let tiers = [("first", 0), ("second", -1)];
    let planned = tiers.map(|(tier, priority)| Planned {
        path: std::env::temp_dir(),
        size: Some(size),
        tier: tier.to_owned(),
        priority,
        kind: Kind::Unnamed,
        overwrite: false,
    });
    planned.into()
}

/// Have everything written back for which there is room.
fn write_back(zswap: &Zswap) -> Result<Written, RunError> {
    let before = Target::swap(zswap);
    let progress = Progress::objects("writing back", before.memory_slots);
    let start = Instant::now();
    let (request, cancel) = (ReclaimRequest::new(STEP).from_sources(Source::ZSWAP), Cancel::new());
    // An error means that there is nothing more, or no room for it: the table says which.
    while zswap.root().reclaim(&request, &cancel).is_ok() {
        check_not_stopped()?;
        progress.at(zswap.stats().physical_pages);
    }
    let seconds = start.elapsed().as_secs_f64();
    zswap.settle(); // links of clusters without an object in the pool are given back
    let after = Target::swap(zswap);
    Ok(Written {
        pages: after.physical_slots - before.physical_slots,
        bytes: after.written_bytes() - before.written_bytes(),
        seconds,
    })
}

/// Free a random half, and have the devices cleaned.
fn free_half(kept: &mut Kept<'_>, shuffle: &Shuffle) -> Result<Cleaned, RunError> {
    let freed_pages = kept.free_half(shuffle)?;
    let freed = Target::swap(kept.zswap);
    let start = Instant::now();
    store::clean(kept.zswap);
    let (seconds, clean) = (start.elapsed().as_secs_f64(), Target::swap(kept.zswap));
    Ok(Cleaned {
        freed_pages,
        freed_used_bytes: freed.used_bytes(),
        freed_live_bytes: freed.live_bytes(),
        used_bytes: clean.used_bytes(),
        live_bytes: clean.live_bytes(),
        rewritten_bytes: clean.written_bytes() - freed.written_bytes(),
        seconds,
    })
}
