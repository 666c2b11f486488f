//! Runs, the end of the address space, and address space that is refused.

use super::*;
use crate::arena::Error;

#[test]
fn runs_with_warm_frames_are_handed_out_first_then_the_last_freed_then_new_ones() {
    let arena = arena(|_| ());
    let runs: Vec<Run> = (0..4).map(|_| arena.alloc_run().unwrap()).collect();
    arena.ensure(arena.first_frame(runs[1]), 1, N0).unwrap();
    arena.release(arena.first_frame(runs[1]));
    for &run in &runs[..3] {
        arena.free_run(run);
        arena.assert_valid();
    }
    assert_eq!(arena.used_runs(), 1);
    let again: Vec<Run> = (0..4).map(|_| arena.alloc_run().unwrap()).collect();
    assert_eq!(again, [runs[1], runs[2], runs[0], Run(4)]);
}

#[test]
fn a_free_run_that_loses_its_warm_frames_is_an_ordinary_one() {
    let arena = arena(|_| ());
    let (a, b) = (arena.alloc_run().unwrap(), arena.alloc_run().unwrap());
    arena.ensure(arena.first_frame(a), 3, N0).unwrap();
    (0..3).for_each(|k| arena.release(frame(&arena, a, k)));
    arena.free_run(a);
    arena.free_run(b);
    assert_eq!(arena.flush(), 3);
    arena.assert_valid();
    assert_eq!(arena.backed_bytes(), 0);
    assert_eq!([arena.alloc_run().unwrap(), arena.alloc_run().unwrap()], [a, b]);
}

#[test]
fn the_last_run_is_handed_out_and_then_none() {
    let arena = arena(|c| c.address_space = 3 * 8 * FRAME_SIZE);
    assert_eq!((arena.run_count(), arena.address_space()), (3, 3 * 8 * FRAME_SIZE));
    for k in 0..3 {
        assert_eq!(arena.alloc_run().unwrap(), Run(k));
    }
    let refused = arena.alloc_run().unwrap_err();
    assert!(matches!(refused, Error::NoRun { runs: 3 }));
    assert_eq!(
        refused.to_string(),
        "all 3 runs of the pool's address space are in use; make the pool with a larger `address_space`"
    );
    // The last frame of all can be used.
    let last = frame(&arena, Run(2), 7);
    arena.ensure(last, 1, N0).unwrap();
    write_stamp(&arena, last, 1);
}

#[test]
#[should_panic(expected = "freed but free already")]
fn freeing_a_run_twice_panics() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    arena.free_run(run);
    arena.free_run(run);
}

#[test]
#[should_panic(expected = "Owned")]
fn freeing_a_run_with_an_owned_frame_panics() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 7), 1, N0).unwrap();
    arena.free_run(run);
}

#[test]
#[should_panic(expected = "not of one run")]
fn frames_of_two_runs_panic() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    let _ = arena.ensure(frame(&arena, run, 7), 2, N0);
}

/// Run this test binary again for `test` with a limit on its address space of `room` bytes more than it has.
fn in_limited_child(test: &str, room: u64, child: impl FnOnce()) {
    const VARIABLE: &str = "ZSPOOL_TEST_CHILD";
    if std::env::var_os(VARIABLE).is_some_and(|name| name == *test) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let bytes = pages * FRAME + room;
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: reads the struct, which lives on.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        return child();
    }
    let path = format!("arena::tests::address_space::{test}");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &path, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn address_space_that_is_refused_is_halved() {
    in_limited_child("address_space_that_is_refused_is_halved", 200 << 20, || {
        let arena = Arena::new(ArenaConfig::default()).unwrap();
        assert_eq!(arena.address_space(), 128 << 20);
        assert_eq!(arena.run_count(), (128 << 20) / (16 * FRAME_SIZE));
        let first = arena.first_frame(arena.alloc_run().unwrap());
        arena.ensure(first, 16, N0).unwrap();
        arena.assert_valid();
    });
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn address_space_below_the_floor_is_refused_with_a_way_out() {
    in_limited_child("address_space_below_the_floor_is_refused_with_a_way_out", 10 << 20, || {
        let refused = Arena::new(ArenaConfig::default()).unwrap_err();
        assert!(matches!(refused, Error::Reserve { bytes: 16_777_216, .. }), "{refused:?}");
        let said = refused.to_string();
        assert!(said.starts_with("16777216 bytes of address space could not be reserved"), "{said}");
        assert!(said.contains("raise `ulimit -v`"), "{said}");
        // With a smaller limit on backed bytes the floor is lower.
        let small = Arena::new(ArenaConfig { limit_bytes: 1 << 20, ..ArenaConfig::default() }).unwrap();
        assert!((1 << 20..16 << 20).contains(&small.address_space()));
    });
}
