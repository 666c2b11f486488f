//! With the slots in use: 10^4 to 10^7.

use crate::growing::{Growing, decades, each, time};
use crate::inputs::Noise;
use crate::measure::Table;
use crate::subject::{Subject, write_back};
use std::hint::black_box;
use zspool::memcg::Cancel;

/// Operations that are timed where there are that many slots.
const SAMPLE: usize = 100_000;

/// Objects that are written back, and whose device is taken off.
const COLD: usize = 5_000;

pub(crate) fn tables(quick: bool) -> Vec<Table> {
    let sizes: Vec<usize> = decades(10_000, if quick { 100_000 } else { 10_000_000 }).collect();
    let costs = ["fill, ns", "load, ns", "replace, ns", "free and store, ns", "a random line, ns"];
    let mut operations = Growing::new("Slots in use: operations at random, each page 150 bytes.", "slots", &costs);
    let costs = [
        "write back an object, ns",
        "swapoff of 5,000 objects, ms",
        "offline, us",
        "memory.stat, us",
        "metadata, bytes a slot",
    ];
    let mut rest = vec![];
    for &slots in &sizes {
        let mut subject = Subject::new(slots, |builder| builder);
        let vm = subject.zswap.root().mkdir("vm").expect("a fresh name");
        let fill = each(slots, |k| subject.store(k, &vm));
        let mut noise = Noise(3);
        let picks: Vec<usize> = (0..SAMPLE.min(slots)).map(|_| noise.below(slots)).collect();
        let load = each(picks.len(), |k| subject.load(picks[k]));
        let replace = each(picks.len(), |k| subject.store(picks[k], &vm));
        let again = each(picks.len(), |k| {
            subject.free(picks[k]);
            subject.store(picks[k], &vm);
        });
        operations
            .row(slots, &[fill, load, replace, again, a_random_line(subject.zswap.stats().backed_bytes as usize)]);

        let metadata = subject.zswap.metadata().total() as f64 / slots as f64;
        let device = subject.swapon(64 << 20);
        let bytes = COLD * (subject.zswap.stats().pool.slot_bytes as usize / slots);
        let (took, written) = time(|| write_back(&subject, &vm, bytes));
        assert!(written > 0, "there was something to write back");
        let write = took.as_nanos() as f64 / written as f64;
        // As many as there are, whatever the size of the rest.
        let (took, report) = time(|| subject.zswap.swapoff(device, &Cancel::new(), |_| {}).expect("the pool has room"));
        assert_eq!(report.touched, written, "it touches what lives there");
        let off = took.as_secs_f64() * 1e3 / written as f64 * COLD as f64;
        let stat = each(200, |_| drop(black_box(vm.read_file("memory.stat").expect("a file"))));
        let (offline, ()) = time(|| subject.zswap.offline(&vm).expect("it has no children"));
        rest.push((slots, [write, off, offline.as_secs_f64() * 1e6, stat / 1e3, metadata]));
    }
    let first = operations.end();
    let mut others = Growing::new("Slots in use: everything else.", "slots", &costs);
    rest.iter().for_each(|(slots, costs)| others.row(*slots, costs));
    vec![first, others.end()]
}

/// Nanoseconds to read a random line of a table of so many bytes, one after the other.
fn a_random_line(bytes: usize) -> f64 {
    let lines = (bytes / 64).next_power_of_two();
    let table = vec![[1u64; 8]; lines];
    let (mut noise, mut at) = (Noise(9), 0usize);
    each(SAMPLE, |_| at = (at + table[at][0] as usize + noise.next() as usize) & (lines - 1))
}
