//! What the fuzz targets found, and their seeds, replayed without libFuzzer.
//!
//! 1. Every finding is a list of operations with a name, written out below.
//! 2. Every seed of `fuzz/seeds` runs, and together they come upon all that the targets are for: if an operation no longer
//!    gets anywhere, this fails before a campaign runs for hours for nothing.

#[path = "../fuzz/src/lib.rs"]
#[allow(missing_docs, dead_code, unreachable_pub)]
mod zspool_fuzz;

use arbitrary::{Arbitrary, Unstructured};
use std::path::Path;
use zspool_fuzz::list::List;
use zspool_fuzz::{Reached, pool_ops, zswap_ops};

/// Run every seed of a target, as libFuzzer would.
fn replay<R: for<'a> Arbitrary<'a>>(target: &str, run: impl Fn(R) -> Reached) -> Reached {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut reached = Reached::new();
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{} cannot be read: {error}", dir.display()));
    for entry in entries {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        // Too short for one: libFuzzer passes over it too.
        if let Ok(list) = R::arbitrary_take_rest(Unstructured::new(&seed)) {
            reached.merge(&run(list));
        }
    }
    reached
}

fn assert_reached(reached: &Reached, all: &[&str]) {
    let missing: Vec<_> = all.iter().filter(|what| reached.get(what) == 0).collect();
    assert!(missing.is_empty(), "the seeds no longer come upon {missing:?}:\n{reached}");
}

#[test]
fn seeds_of_the_pool_reach_what_they_are_for() {
    let reached = replay("pool_ops", pool_ops::run);
    assert_reached(
        &reached,
        &[
            "address space used up",
            "all nodes full",
            "arena limits hit",
            "commits failed",
            "compactions out of budget",
            "drafts dropped or cancelled",
            "frames too busy for compaction",
            "frames won by compaction",
            "memcg limits hit",
            "memcgs taken offline with objects",
            "objects freed under guards",
            "objects moved by compaction",
            "objects spilled to another node",
            "slots returned by the last guard",
            "stale names refused",
        ],
    );
}

#[test]
fn seeds_of_zswap_reach_what_they_are_for() {
    let reached = replay("zswap_ops", zswap_ops::run);
    assert_reached(
        &reached,
        &[
            "batches the device failed",
            "corrupt blocks found",
            "frames won by compaction",
            "memcgs taken offline with entries",
            "objects moved by compaction",
            "operations done during a request",
            "pages of a repeated word in an object",
            "pages on the device at the end",
            "pages written back or through",
            "pages written through",
            "reads the device failed",
            "shrinks in vain",
            "shrinks that wrote",
            "slots freed or replaced during their write",
            "slots that changed while they were taken",
            "stores refused for a memcg's limit",
            "stores refused for the pool limit",
            "stores refused for want of memory",
        ],
    );
}

// === findings ===

/// Objects that were moved to a frame which was emptied later used up the moves that compaction allowed itself (one for each
/// object), so it ended with a frame still to win.
#[test]
fn compaction_goes_on_until_no_frame_can_be_won() {
    use pool_ops::{Budget, Classes, Op, Run};
    let ops = vec![
        Op::Burst { len: 46153, n: 158, memcg: 158, node: 116 },
        Op::Thin { step: 10 },
        Op::Compact { budget: Budget::All },
    ];
    pool_ops::run(Run {
        handles: true,
        accounting: false,
        original_is_payload: false,
        classes: Classes::Kernel8,
        nodes: 101,
        capacities: [32, 32, 10],
        space: 73,
        warm: 180,
        ops: List(ops),
    });
}
