//! Long runs over an area: filled and thinned at random, by several threads, with faults in between.
//!
//! Properties:
//! - an object reads back as it was written, or with an error: never as anything else;
//! - the counters are those of the objects that live, after every step.

#![cfg(not(loom))]

#[path = "support/area.rs"]
mod support;

use proptest::prelude::*;
use support::{area_of, check, faulty, memory, push, tenant};
use zspool::swap::{Error, Fault, MAX_PAYLOAD, Place, Plan};

#[test]
fn a_device_filled_and_thinned_at_random_reads_back_whole() {
    let area = area_of(&memory(2 << 20));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut live: Vec<(u64, Place, usize)> = Vec::new();
    let mut slot = 0;
    let mut times_full = 0;
    while times_full < 12 {
        match area.begin_at_least(2, 1 + next(64)) {
            Ok(mut batch) => {
                let mut pending = Vec::new();
                loop {
                    let len = next(MAX_PAYLOAD + 1);
                    let Some(place) = push(&mut batch, slot, len) else { break };
                    pending.push((slot, place, len));
                    slot += 1;
                }
                if next(10) == 0 {
                    drop(batch);
                } else {
                    batch.write().unwrap();
                    live.extend(pending);
                }
            }
            Err(Error::Full { .. }) => {
                times_full += 1;
                for &(slot, place, len) in &live {
                    check(&area, place, slot, len).unwrap();
                }
                for _ in 0..live.len() * 2 / 3 {
                    area.free(live.swap_remove(next(live.len())).1);
                }
                area.maintain();
                area.assert_valid();
            }
            Err(other) => panic!("{other}"),
        }
    }
    for (slot, place, _) in live {
        assert_eq!(area.free(place), tenant(slot).payer);
    }
    assert_eq!(area.stats().used_bytes, 0);
    area.assert_valid();
}

#[test]
fn threads_write_read_free_and_maintain_at_once() {
    let area = area_of(&memory(4 << 20));
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let area = &area;
            scope.spawn(move || {
                for round in 0..60 {
                    let mut batch = area.begin(8).unwrap();
                    let mut places = Vec::new();
                    for k in 0..6 {
                        let slot = thread << 32 | round << 8 | k;
                        let len = 100 + (slot as usize * 37) % 3900;
                        places.extend(push(&mut batch, slot, len).map(|place| (slot, place, len)));
                    }
                    batch.write().unwrap();
                    for (slot, place, len) in places {
                        check(area, place, slot, len).unwrap();
                        area.free(place);
                    }
                    if round % 8 == thread {
                        area.maintain();
                    }
                }
            });
        }
    });
    assert_eq!((area.stats().used_bytes, area.stats().io_errors), (0, 0));
    area.assert_valid();
}

#[derive(Clone, Debug)]
enum Step {
    Write { most: usize, lens: Vec<usize>, fault: Option<Fault> },
    Free { which: usize },
    Read { which: usize, fault: Option<Fault> },
    Maintain,
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Errno(libc::EIO))),
        1 => Just(Some(Fault::Errno(libc::ENOSPC))),
        1 => (0usize..20_000).prop_map(|bytes| Some(Fault::Short { bytes })),
        1 => (0usize..40).prop_map(|sectors| Some(Fault::Torn { sectors })),
        1 => any::<u32>().prop_map(|bit| Some(Fault::Flip { bit: bit as usize })),
        1 => Just(Some(Fault::Lost)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1usize..64, prop::collection::vec(0..=MAX_PAYLOAD, 1..20), fault())
            .prop_map(|(most, lens, fault)| Step::Write { most, lens, fault }),
        6 => any::<prop::sample::Index>().prop_map(|i| Step::Free { which: i.index(1 << 16) }),
        4 => (any::<prop::sample::Index>(), fault())
            .prop_map(|(i, fault)| Step::Read { which: i.index(1 << 16), fault }),
        1 => Just(Step::Maintain),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_read_gives_what_was_written_or_an_error(steps in steps()) {
        let (device, area) = faulty(512 << 10);
        let mut live: Vec<(u64, Place, usize, bool)> = Vec::new();
        let mut slot = 0;
        for step in steps {
            match step {
                Step::Write { most, lens, fault } => {
                    device.replan(fault.map_or(Plan::none(), |fault| Plan::none().at(1, fault)));
                    let Ok(mut batch) = area.begin(most) else { continue };
                    let mut pending = Vec::new();
                    for len in lens {
                        let Some(place) = push(&mut batch, slot, len) else { break };
                        pending.push((slot, place, len, fault.is_some()));
                        slot += 1;
                    }
                    if batch.write().is_ok() {
                        live.extend(pending);
                    }
                }
                Step::Free { which } if !live.is_empty() => _ = area.free(live.swap_remove(which % live.len()).1),
                Step::Read { which, fault } if !live.is_empty() => {
                    device.replan(fault.map_or(Plan::none(), |fault| Plan::none().at(1, fault)));
                    let (slot, place, len, doubtful) = live[which % live.len()];
                    let result = check(&area, place, slot, len);
                    prop_assert!(result.is_ok() || doubtful || fault.is_some(), "{:?}", result);
                }
                Step::Maintain => {
                    device.replan(Plan::none());
                    area.maintain();
                }
                Step::Free { .. } | Step::Read { .. } => {}
            }
            area.assert_valid();
            let stats = area.stats();
            let blocks: u64 = live.iter().map(|(_, place, ..)| u64::from(place.blocks)).sum();
            prop_assert_eq!((stats.objects, stats.live_bytes), (live.len() as u64, blocks * 64));
        }
        device.replan(Plan::none());
        for (slot, place, len, doubtful) in live {
            let result = check(&area, place, slot, len);
            prop_assert!(result.is_ok() || doubtful, "{:?}", result);
            area.free(place);
        }
        prop_assert_eq!(area.stats().used_bytes, 0);
    }
}
