//! What room costs on a device that is nearly full: bytes written for a byte that is new.
//!
//! ```text
//!   u of the device is live | replace random pages, until twice the device was written | bytes written / bytes of what is new
//! ```
//!
//! Beside it what the best possible choice of segments comes to when every object is replaced as likely as any other: segments of
//! which `v` lives are cleaned where `u = (v - 1) / ln v`, and cost `1 / (1 - v)` (Rosenblum and Ousterhout, 1992; Desnoyers, 2012).

use crate::Scale;
use crate::inputs::Noise;
use crate::measure::{Cell, Table};
use zspool::swap::DeviceOptions;
use zspool::units::{NodeId, Page};
use zspool::zswap::Zswap;

/// Shares of the device that are live, in percent.
const LIVE: [u64; 4] = [50, 80, 90, 95];

/// Pages that are replaced between two writebacks.
const BATCH: usize = 64;

/// What the best choice costs at a share of `u`.
fn best(u: f64) -> f64 {
    // The share of what is cleaned grows with that of the device: by halving.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let v: f64 = (low + high) / 2.0;
        if (v - 1.0) / v.ln() < u { low = v } else { high = v }
    }
    1.0 / (1.0 - low)
}

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let heads = [
        "live, % of the device",
        "segments",
        "bytes written for a new byte",
        "best choice",
        "over it",
        "refused",
        "used / live at the end",
    ];
    let mut table = Table::new("Cleaning: random pages are replaced on a device that is nearly full.", &heads);
    for live in LIVE {
        let path = scale.dir.join(format!("zspool-swap-bench.{}", std::process::id()));
        // So that the pages there are fill it to the share, as they are on a device.
        let bytes = place_bytes(pages, scale) * 100 / live;
        let size = (bytes + 4096).next_multiple_of(256 << 10) + 4096;
        let zswap = Zswap::builder().pool_limit(8 << 30).worker(false).swap(DeviceOptions::path(&path, size));
        let zswap = zswap.build().expect("an instance");
        let vm = zswap.root().mkdir("vm").expect("a fresh name");
        let slots = zswap.reserve(pages.len() as u64).expect("slots without end");
        let store = |slot: usize, page: usize| {
            zswap.store(slots.base() + slot as u64, &vm, NodeId(0), &pages[page]).expect("the pool has room");
        };
        let area = || zswap.stats().area.expect("there is a device");
        (0..pages.len()).for_each(|k| store(k, k));
        let _ = vm.write_file("memory.reclaim", "1T source=zswap");
        let filled = area();
        let each = filled.live_bytes as f64 / filled.objects as f64;
        let (mut noise, mut fresh, mut refused) = (Noise(11), 0, 0);
        // A permutation that changes by swaps: what is live stays what it was.
        let mut now: Vec<usize> = (0..pages.len()).collect();
        let mut measured = None;
        while area().written_bytes - filled.written_bytes < 3 * size {
            for _ in 0..BATCH / 2 {
                let (a, b) = (noise.below(now.len()), noise.below(now.len()));
                now.swap(a, b);
                store(a, now[a]);
                store(b, now[b]);
            }
            let _ = vm.write_file("memory.reclaim", "1T source=zswap");
            let left = zswap.stats().compressed_pages + zswap.stats().incompressible_pages;
            refused += u64::from(left > 0);
            fresh += BATCH as u64;
            // The first third is for the device to come to rest.
            if measured.is_none() && area().written_bytes - filled.written_bytes >= size {
                measured = Some((area().written_bytes, fresh));
            }
        }
        let (from, fresh_before) = measured.expect("it was written once over");
        let written = (area().written_bytes - from) as f64;
        let cost = written / ((fresh - fresh_before) as f64 * each);
        let share = filled.live_bytes as f64 / filled.size_bytes as f64;
        table.row(vec![
            Cell::number(share * 100.0, 1),
            Cell::count(filled.size_bytes / (256 << 10)),
            Cell::number(cost, 2),
            Cell::number(best(share), 2),
            Cell::number(cost / best(share), 2),
            Cell::count(refused).at_most(0.0),
            Cell::number(area().used_bytes as f64 / area().live_bytes as f64, 3),
        ]);
        let mut back = Page::zeroed();
        for (k, &page) in now.iter().enumerate() {
            zswap.load(slots.base() + k as u64, &mut back).expect("it is stored");
            assert!(back[..] == pages[page][..], "slot {k} came back different");
        }
    }
    table.end()
}

/// Bytes that these pages take on a device.
fn place_bytes(pages: &[Page], scale: &Scale) -> u64 {
    let path = scale.dir.join(format!("zspool-swap-bench.{}", std::process::id()));
    let size = (pages.len() * 4096 * 2) as u64 + (64 << 20);
    let builder = Zswap::builder().pool_limit(8 << 30).worker(false).swap(DeviceOptions::path(path, size));
    let zswap = builder.build().expect("an instance");
    let slots = zswap.reserve(pages.len() as u64).expect("slots without end");
    for (k, page) in pages.iter().enumerate() {
        zswap.store(slots.base() + k as u64, &zswap.root(), NodeId(0), page).expect("there is room");
    }
    let _ = zswap.root().write_file("memory.reclaim", "1T source=zswap");
    zswap.stats().area.expect("there is a device").live_bytes
}
