//! Ten thousand faults: rounds of a client on a device that goes wrong by a seeded plan, in every way a device can.
//!
//! A round is one instance under plans of one kind: some operations of the device go wrong while the client works; then the device
//! is well and everything must work. What must hold is in `support/oracle.rs`; the seed of a round that fails is in its title.
//! `ZSPOOL_FAULTS=n` asks for `n` faults instead.

#![cfg(not(any(loom, miri)))]

#[path = "support/oracle.rs"]
mod oracle;
mod support;
#[path = "support/trouble.rs"]
mod trouble;

use oracle::{Cost, Oracle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::Random;
use trouble::{Split, TROUBLES, Trouble};
use zspool::memcg::Cancel;
use zspool::swap::{DeviceOptions, FaultyDevice, Geometry, MemoryDevice, Plan};
use zspool::zswap::Zswap;

/// Faults to be met in all.
const FAULTS: u64 = 10_000;

const DEVICE_BYTES: usize = 384 * 4096;
const SLOTS: u64 = 96;
const STEPS: usize = 500;

/// The client's work comes in so many parts, between which hung requests are let go.
const PARTS: usize = 10;

/// What lies on the device may be lost to trouble that says nothing, or that has reads fail.
fn cost_of(trouble: Trouble) -> Cost {
    if trouble.may_lose() { Cost::OnDevice(u64::MAX) } else { Cost::Nothing }
}

/// An instance with the device, and in every third round a healthy one of a lower tier.
fn instance(device: Arc<Split>, random: &mut Random) -> Zswap {
    let faulty = DeviceOptions::device(device).tier("faulty", 1).retire_after(8 * random.below(2) as u32);
    let spare = MemoryDevice::new(DEVICE_BYTES, 4096);
    let geometry = Geometry {
        batch_pages: [4, 8, 16][random.below(3) as usize],
        write_buffers: 2,
        read_buffers: 2,
        ..Geometry::default()
    };
    let builder = Zswap::builder()
        .pool_limit((8 + random.below(16)) * 4096)
        .warm_frames(2)
        .slots_in_use(1 << 16)
        .address_space(16 << 20)
        .compressing_threads(2)
        .scan(8, 2) // small batches: more of them
        .worker(random.below(2) == 0)
        .device_geometry(geometry)
        .swap(faulty);
    let builder = match random.below(3) {
        0 => builder.swap(DeviceOptions::device(spare).tier("spare", 0)),
        _ => builder,
    };
    builder.build().unwrap()
}

/// A round; the faults that were met.
fn round(trouble: Trouble, seed: u64, cost: Cost) -> u64 {
    let random = &mut Random::new(seed);
    let plain = Arc::new(MemoryDevice::new(DEVICE_BYTES, 4096));
    // Requests that hang are given up at once.
    let faulty = FaultyDevice::with_timeout(Arc::clone(&plain), Plan::none(), Duration::ZERO);
    let device = Arc::new(Split { plain, faulty, trouble });
    let threads = 1 + random.below(2);
    let title = format!("{trouble:?}, seed {seed}, {threads} threads");
    let zswap = instance(Arc::clone(&device), random);
    let mut oracle = Oracle::new(title, zswap, threads, SLOTS / threads, seed);
    oracle.fill();
    oracle.verify(Cost::Nothing);
    let mut met = 0;
    for _ in 0..3 {
        device.faulty.replan(trouble.plan(2, DEVICE_BYTES as u64, &mut |end| random.below(end)));
        for _ in 0..PARTS {
            oracle.churn(STEPS / threads as usize / PARTS);
            // What hangs is done late, and what it held is used again.
            if device.faulty.release() > 0 {
                oracle.zswap.quiesce();
            }
        }
        met += device.faulty.faults();
        // Well again: what was lost is known by its error, and stays so.
        device.faulty.replan(Plan::none());
        if trouble == Trouble::Hangs {
            oracle.zswap.quiesce(); // whatever the worker has begun hangs by now
            device.faulty.release();
            oracle.zswap.quiesce();
        }
        oracle.verify(cost);
        oracle.settle();
    }
    // Now and then the device is taken off for another one.
    if random.below(4) == 0 {
        let fresh = DeviceOptions::device(MemoryDevice::new(2 * DEVICE_BYTES, 4096)).tier("fresh", 2);
        oracle.zswap.swapon(fresh).expect("a new tier");
        let number = oracle.zswap.devices().iter().find(|row| row.tier == "faulty").expect("it is on").number;
        let report = oracle.zswap.swapoff(number, &Cancel::new(), |_| {}).expect("there is room on the other one");
        assert_eq!(report.lost, 0, "{}: {report:?}", oracle.title);
        oracle.verify(Cost::Nothing);
    }
    oracle.churn(STEPS / threads as usize);
    oracle.verify(Cost::Nothing);
    oracle.finish();
    met
}

#[test]
fn ten_thousand_faults_give_no_wrong_byte_and_lose_nothing_that_has_another_copy() {
    let wanted = std::env::var("ZSPOOL_FAULTS").map_or(FAULTS, |n| n.parse().expect("ZSPOOL_FAULTS is a number"));
    let (mut met, mut seed) = (BTreeMap::new(), 0);
    while met.values().sum::<u64>() < wanted {
        for trouble in TROUBLES {
            seed += 1;
            *met.entry(trouble).or_default() += round(trouble, seed, cost_of(trouble));
        }
    }
    println!("{} faults in {seed} rounds: {met:?}", met.values().sum::<u64>());
    assert!(met.values().all(|&n| n > 0), "some trouble was never met: {met:?}");
}

/// What the client looks for: writes that a device claims to have done, held against what may be lost to writes that it admits to
/// have failed.
#[test]
#[should_panic(expected = "nothing may be lost")]
fn the_client_notices_writes_that_were_not_done() {
    (1..50).for_each(|seed| _ = round(Trouble::LostWrites, seed, Cost::Nothing));
}
