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
    let heads = ["pages", "free, ns", "words", "links", "reverse words", "all, bytes a slot"];
    let mut table = Table::new("Freeing, in random order; memory of the slots that hold them.", &heads);
    let each = |bytes: u64| Cell::number(bytes as f64 / pages.len() as f64, 2);
    for written in [false, true] {
        let mut times = vec![];
        let mut bytes = [0; 3];
        for round in 0..scale.rounds {
            let subject = Subject::new(pages, scale, true);
            subject.store(0..pages.len());
            if written {
                subject.write_back();
            }
            subject.zswap.quiesce();
            let (slots, area) = (subject.zswap.metadata(), subject.zswap.stats().area);
            bytes = [slots.slot_words, slots.links, area.expect("there is a device").reverse_bytes];
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
            each(bytes[0]),
            each(bytes[1]),
            each(bytes[2]),
            // Clusters are 512 slots; the last one may be used in part.
            each(bytes.iter().sum()).at_most(16.1),
        ]);
    }
    table.end()
}
