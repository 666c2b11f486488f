//! What a page on the device costs in memory, and what it costs to free one.

use crate::Scale;
use crate::inputs::Noise;
use crate::measure::{Cell, Table, median};
use crate::subject::Subject;
use std::time::Instant;
use zspool::units::Page;

/// Pages freed between two looks at the clock.
const TURN: usize = 256;

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let heads = ["pages", "free, ns", "slot words and links, bytes a page"];
    let mut table = Table::new("Freeing, in random order; memory of the slots that hold them.", &heads);
    for written in [false, true] {
        let mut times = vec![];
        let mut bytes = 0.0;
        for round in 0..scale.rounds {
            let subject = Subject::new(pages, scale);
            subject.store(0..pages.len());
            if written {
                subject.write_back();
            }
            bytes = subject.zswap.stats().slot_table_bytes as f64 / pages.len() as f64;
            for turn in Noise(round as u64).shuffled(pages.len()).chunks_exact(TURN) {
                let start = Instant::now();
                for &k in turn {
                    subject.zswap.free(subject.slot(k));
                }
                times.push(start.elapsed().as_secs_f64() / TURN as f64);
            }
        }
        table.row(vec![
            Cell::text(if written { "on the device" } else { "in the pool" }),
            Cell::number(median(times) * 1e9, 0),
            Cell::number(bytes, 1),
        ]);
    }
    table.end()
}
