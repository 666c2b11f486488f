//! With the memcgs: 1 to 10^4, of which each has its part of the same pages.

use crate::growing::{Growing, decades, each, time};
use crate::inputs::Noise;
use crate::measure::Table;
use crate::subject::{Subject, write_back};
use std::hint::black_box;

/// Operations that are timed.
const SAMPLE: usize = 50_000;

pub(crate) fn tables(quick: bool) -> Vec<Table> {
    let (most, pages) = if quick { (100, 20_000) } else { (10_000, 200_000) };
    let costs = [
        "store, ns",
        "load, ns",
        "replace, ns",
        "write back an object, ns",
        "mkdir and offline, us",
        "memory.stat of the root, us",
        "memory, bytes a memcg",
    ];
    let mut table = Growing::new(
        &format!("Memcgs: {pages} pages of them all, operations at random; a request of the root goes round."),
        "memcgs",
        &costs,
    );
    for memcgs in decades(1, most) {
        let mut subject = Subject::new(pages, |builder| builder);
        let before = crate::measure::anonymous();
        let groups: Vec<_> =
            (0..memcgs).map(|k| subject.zswap.root().mkdir(&format!("vm{k}")).expect("a fresh name")).collect();
        let of = |slot: usize| &groups[slot % memcgs];
        let made = crate::measure::anonymous() - before;
        let mut noise = Noise(3);
        let order = noise.shuffled(pages);
        let store = each(pages, |k| subject.store(order[k], of(order[k])));
        let picks: Vec<usize> = (0..SAMPLE.min(pages)).map(|_| noise.below(pages)).collect();
        let load = each(picks.len(), |k| subject.load(picks[k]));
        let replace = each(picks.len(), |k| subject.store(picks[k], of(picks[k])));
        let root = subject.zswap.root();
        let stat = each(20, |_| drop(black_box(root.read_file("memory.stat").expect("a file"))));
        let mkdir = each(500, |_| {
            let group = root.mkdir("another").expect("a fresh name");
            subject.zswap.offline(&group).expect("it is empty");
        });
        subject.swapon(128 << 20);
        let (took, written) = time(|| write_back(&subject, &root, 2 << 20));
        assert!(written > 0, "there was something to write back");
        let write = took.as_nanos() as f64 / written as f64;
        table.row(memcgs, &[store, load, replace, write, mkdir / 1e3, stat / 1e3, made as f64 / memcgs as f64]);
    }
    vec![table.end()]
}
