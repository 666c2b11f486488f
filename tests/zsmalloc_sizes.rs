//! Every payload size, through every class: what is written is what is read, and neighbours stay as they are.

use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::sync::Arc;
use zspool::zsmalloc::{Error, Geometry, Handle, HandleError, Pool, PoolConfig, TagSpace};

fn pool(geometry: Geometry) -> Pool {
    let config = ArenaConfig { address_space: 1 << 28, topology: Topology::simulated(1), ..ArenaConfig::default() };
    let config = (Arc::new(Arena::new(config).unwrap()), PoolConfig { geometry, ..PoolConfig::default() });
    Pool::open(config.0, config.1, &TagSpace::new()).unwrap()
}

/// Bytes that tell the object and the place in it.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 131 + i / 251) as u8).collect()
}

fn fill_and_check(geometry: Geometry) {
    let pool = pool(geometry);
    let write = |len, seed| pool.draft(len).unwrap().write(&pattern(len, seed)).unwrap();
    // All sizes live at once: each has neighbours of its class on both sides.
    let mut live: Vec<(Handle, usize, usize)> = Vec::new();
    for round in 0..3 {
        for len in 1..=4096 {
            live.push((write(len, round * 5000 + len), len, round * 5000 + len));
        }
    }
    let check = |live: &[(Handle, usize, usize)]| {
        for &(handle, len, seed) in live {
            assert_eq!(&*pool.get(handle).unwrap(), pattern(len, seed), "{len} bytes");
        }
    };
    check(&live);
    pool.assert_valid();
    let stats = pool.stats();
    assert_eq!(stats.objects, 3 * 4096);
    assert_eq!(stats.payload_bytes, 3 * (1..=4096).sum::<u64>());
    assert!(stats.frame_bytes >= stats.slot_bytes && stats.slot_bytes >= stats.payload_bytes);
    assert_eq!(pool.arena().backed_bytes() / 4096 - pool.arena().warm_frames() as u64, stats.frame_bytes / 4096);

    // Free two of three, write others in their place, and look again.
    let mut kept = Vec::new();
    for (i, object) in live.into_iter().enumerate() {
        if i % 3 == 0 { kept.push(object) } else { pool.remove(object.0).unwrap() }
    }
    check(&kept);
    pool.assert_valid();
    for len in (1..=4096).step_by(3) {
        kept.push((write(len, len + 7), len, len + 7));
    }
    check(&kept);
    let before = pool.stats();
    let compacted = pool.compact(u64::MAX);
    check(&kept);
    pool.assert_valid();
    let after = pool.stats();
    assert_eq!(after.frame_bytes + compacted.frames_won() * 4096, before.frame_bytes);
    assert_eq!((after.objects, after.payload_bytes), (before.objects, before.payload_bytes));
    for (handle, ..) in kept {
        pool.remove(handle).unwrap();
    }
    pool.assert_valid();
    pool.flush();
    assert_eq!(pool.arena().backed_bytes(), 0, "no object, no frame");
    assert_eq!(pool.arena().used_runs(), 0);
    assert_eq!(pool.stats(), Default::default());
    pool.close().unwrap();
}

#[test]
fn every_size_in_the_default_geometry() {
    fill_and_check(Geometry::default());
}

#[test]
fn every_size_in_the_kernels_geometry() {
    fill_and_check(Geometry::kernel(8).unwrap());
}

#[test]
fn every_size_in_a_coarse_geometry() {
    fill_and_check(Geometry::new(64, 208, 3).unwrap());
}

#[test]
fn compaction_packs_what_random_frees_leave() {
    let pool = pool(Geometry::default());
    let lens = [600, 1000, 1400, 2000, 2700];
    let mut handles = Vec::new();
    for n in 0..lens.len() * 1000 {
        let len = lens[n % lens.len()];
        handles.push(pool.draft(len).unwrap().write(&pattern(len, n)).unwrap());
    }
    let overhead = || pool.stats().frame_bytes as f64 / pool.stats().payload_bytes as f64;
    let full = overhead();
    let mut random = 88_172_645_463_325_252u64;
    let mut live = Vec::new();
    for (n, handle) in handles.into_iter().enumerate() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random.is_multiple_of(2) { pool.remove(handle).unwrap() } else { live.push((handle, n)) }
    }
    let sparse = overhead();
    let done = pool.compact(u64::MAX);
    let packed = overhead();
    println!("full {full:.3}, sparse {sparse:.3}, compacted {packed:.3}: {done:?}");
    // What is left over are frames that became empty inside zspages: the slots that straddle into them cannot be used.
    assert!(full < 1.03 && sparse > 1.6 && packed < 1.09, "full {full:.3}, sparse {sparse:.3}, compacted {packed:.3}");
    pool.assert_valid();
    for (handle, n) in live {
        assert_eq!(&*pool.get(handle).unwrap(), pattern(lens[n % lens.len()], n));
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let pool = pool(Geometry::default());
    for len in [0, 4097, usize::MAX] {
        assert!(matches!(pool.draft(len), Err(HandleError::Pool(Error::Length { len: said })) if said == len));
    }
    let refused = pool.draft(10).unwrap().write(&[1; 9]);
    assert!(matches!(refused, Err(HandleError::Pool(Error::WrongLength { written: 9, len: 10 }))));
    assert_eq!(pool.stats().objects, 0);
    pool.assert_valid();
}

#[test]
fn a_pool_needs_runs_as_long_as_its_zspages() {
    let config = ArenaConfig {
        address_space: 1 << 24,
        run_frames: 8,
        topology: Topology::simulated(1),
        ..ArenaConfig::default()
    };
    let refused = Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &TagSpace::new());
    assert!(matches!(refused, Err(HandleError::Pool(Error::ShortRuns { chain: 16, run_frames: 8 }))));
}
