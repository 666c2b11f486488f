//! What compaction wins, to the frame, and what it is charged for.

use super::{Compacted, End};
use crate::arena::{Arena, ArenaConfig, Topology};
use crate::sync::Arc;
use crate::units::FRAME_SIZE;
use crate::zsmalloc::stats::ClassStats;
use crate::zsmalloc::{Handle, Pool, PoolConfig, TagSpace};

fn pool() -> Pool {
    let topology = Topology::simulated(1);
    let config = ArenaConfig { address_space: 1 << 28, commit_ahead: 1, topology, ..ArenaConfig::default() };
    Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &TagSpace::new()).unwrap()
}

/// The one class that is in use.
fn row(pool: &Pool) -> ClassStats {
    let mut rows = pool.classes().0.into_iter().filter(|row| row.obj_used > 0);
    let row = rows.next().expect("a class is in use");
    assert!(rows.next().is_none(), "and no other");
    row
}

fn bytes(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 31 + at * 7) as u8).collect()
}

/// So many objects of this length, of which about `kept` of 16 are left.
fn thinned(pool: &Pool, objects: usize, len: usize, kept: u64, seed: u64) -> Vec<(usize, Handle)> {
    let all: Vec<_> = (0..objects).map(|n| (n, pool.insert(&bytes(n, len)).unwrap())).collect();
    let mut random = seed * 2 + 1;
    let (left, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|_| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        random >> 60 < kept
    });
    gone.into_iter().for_each(|(_, handle)| pool.remove(handle).unwrap());
    left
}

fn check(pool: &Pool, left: &[(usize, Handle)], len: usize) {
    for &(n, handle) in left {
        assert_eq!(*pool.get(handle).unwrap(), *bytes(n, len), "object {n} of {len} bytes");
    }
    pool.assert_valid();
}

/// The fewest frames that hold so many objects of a class.
fn fewest(row: &ClassStats) -> u64 {
    let (full, rest) = (row.obj_used / row.objs_per_zspage as u64, row.obj_used as usize % row.objs_per_zspage);
    full * row.pages_per_zspage as u64 + (rest * row.size).div_ceil(FRAME_SIZE) as u64
}

#[test]
fn a_class_is_packed_into_the_fewest_frames_that_hold_it() {
    let mut frames_more = 0;
    for len in [32, 96, 700, 1000, 1040, 1360, 2080, 3000, 3136, 3800] {
        for (kept, seed) in [(1, 1), (4, 2), (8, 3), (12, 4)] {
            let pool = pool();
            let left = thinned(&pool, 300, len, kept, seed);
            let before = row(&pool);
            let done = pool.compact(u64::MAX);
            let after = row(&pool);
            let more = after.pages_used - fewest(&after);
            assert!(more <= 3, "{more} frames more for {} of {} bytes, {done:?}", after.obj_used, after.size);
            frames_more += more;
            assert_eq!((before.obj_used, before.payload_bytes), (after.obj_used, after.payload_bytes));
            assert_eq!((done.end(), done.busy, done.out_of_budget), (End::NothingToWin, 0, false));
            assert_eq!(done.frames_won(), before.pages_used - after.pages_used);
            assert_eq!(done.moved_bytes, done.moved_objects * after.size as u64);
            assert!(done.moved_objects <= 2 * after.obj_used, "{done:?} for {} objects", after.obj_used);
            check(&pool, &left, len);
            assert_eq!(pool.compact(u64::MAX), Compacted::default(), "nothing is left to win");
            assert_eq!(pool.compaction_stats().freeable, after.freeable);
        }
    }
    // Of forty pools with some 500 frames, as it was measured: what straddles, and the last zspage.
    assert!(frames_more <= 14, "{frames_more} frames more in all");
}

#[test]
fn a_budget_is_kept_and_what_it_leaves_is_done_by_the_next_call() {
    for len in [1000, 3000] {
        let pool = pool();
        let left = thinned(&pool, 300, len, 6, 5);
        let (size, before) = (row(&pool).size as u64, row(&pool).pages_used);
        let (mut won, mut calls) = (0, 0);
        loop {
            let done = pool.compact(3 * size);
            calls += 1;
            won += done.frames_freed as i64 - done.frames_backed as i64;
            assert!(done.moved_bytes <= 3 * size && done.moved_bytes == done.moved_objects * size);
            if done.end() == End::NothingToWin {
                break;
            }
            assert_eq!((done.end(), done.moved_objects), (End::OutOfBudget, 3));
        }
        let after = row(&pool);
        assert_eq!((after.pages_used, won), (fewest(&after), before as i64 - after.pages_used as i64));
        assert_eq!(pool.compaction_stats().calls, calls);
        assert_eq!(pool.compact(size - 1), Compacted::default());
        check(&pool, &left, len);
    }
}

#[test]
fn what_somebody_reads_stays_and_all_else_is_moved() {
    let pool = pool();
    let left = thinned(&pool, 300, 3000, 6, 6);
    let held = pool.get(left[left.len() / 2].1).unwrap();
    let done = pool.compact(u64::MAX);
    assert!(done.frames_won() > 0 && row(&pool).pages_used < fewest(&row(&pool)) + 16, "{done:?}");
    drop(held);
    let _ = pool.compact(u64::MAX);
    assert_eq!(row(&pool).pages_used, fewest(&row(&pool)));
    check(&pool, &left, 3000);
}

#[test]
fn the_table_says_what_each_class_holds_and_the_last_line_their_sum() {
    let pool = pool();
    let _some: Vec<_> = (0..10).map(|_| pool.insert(&[1; 3000]).unwrap()).collect();
    let _more: Vec<_> = (0..7).map(|_| pool.insert(&[1; 4096]).unwrap()).collect();
    let classes = pool.classes();
    let row = |size: usize| classes.0.iter().find(|row| row.size == size).unwrap();
    let (some, more) = (row(3008), row(4096));
    assert_eq!((some.obj_used, some.payload_bytes, some.pages_used), (10, 30_000, 8));
    assert_eq!((some.obj_allocated, some.zspages.iter().sum::<u64>()), (10, 1));
    assert_eq!(
        (some.zspages[12], more.zspages[12]),
        (1, 1),
        "what has room only where no frame is touched stands last"
    );
    assert_eq!((more.obj_used, more.payload_bytes, more.pages_used, more.freeable), (7, 7 * 4096, 7, 0));
    let total = classes.total();
    assert_eq!((total.obj_used, total.payload_bytes, total.pages_used), (17, 30_000 + 7 * 4096, 15));
    assert_eq!((total.obj_allocated, total.zspages.iter().sum::<u64>(), total.freeable), (17, 2, some.freeable));
    let stats = pool.stats();
    assert_eq!((stats.objects, stats.payload_bytes), (17, 30_000 + 7 * 4096));
    assert_eq!((stats.slot_bytes, stats.frame_bytes), (10 * 3008 + 7 * 4096, 15 * 4096));
    assert_eq!(stats.metadata_bytes, pool.usage().metadata_bytes() - pool.usage().cell_bytes);
    let overhead = (stats.frame_bytes + stats.metadata_bytes) as f64 / stats.payload_bytes as f64;
    assert!((stats.overhead() - overhead).abs() < 1e-9 && overhead > 1.0);
    let text = classes.to_string();
    let last = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!((last[0], &last[13..]), ("Total", &["17", "17", "15", &some.freeable.to_string()][..]));
    assert_eq!(text.lines().count(), classes.0.len() + 3);
}
