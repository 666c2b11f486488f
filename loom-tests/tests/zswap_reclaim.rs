//! Races of reclaim: who waits for room against who makes it, batches that stores share, and what a failure leaves behind.
//!
//! | model | race |
//! |---|---|
//! | `look_vs_turn` | a waiter looks in vain, and what it waits for is done before it waits |
//! | `three_join` | threads join a batch while one is under way, and wait for each other |
//! | `store_vs_worker` | a store waits for the room that the worker makes, which may be there already |
//! | `worker_vs_offline` | a memcg that is being written down is removed |
//! | `failing_store_vs_writeback` | a store fails while what its slot held is on its way to the device |
//! | `failing_write_vs_load` | a write fails while the page is loaded and its slot stored to |
//!
//! Every model says which outcomes it has seen; twins with a planted bug must fail.
use loom_tests::{catches, empty_and_check, outcomes, outcomes_of_long, race};
use std::time::Duration;
use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::memcg::{Memcg, TreeConfig};
use zspool::swap::{self, Device, Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Arc, Bug, Convoy, Passed, Planted, Turnstile};
use zspool::units::{NodeId, PAGE_SIZE, Slot, SlotRange};
use zspool::zsmalloc::Geometry;
use zspool::zswap::{Builder, Error, Shrunk, Unwritable, Zswap};

const N0: NodeId = NodeId(0);

type Page = Box<[u8; PAGE_SIZE]>;

/// A page that is not same-filled and that the stub codec makes two bytes of.
fn page(number: u8) -> Page {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[0] = number;
    page
}

/// An instance whose objects take a frame each; a batch takes two entries.
fn tiny(planted: Planted) -> Builder {
    on(MemoryDevice::new(6 * 256, 256), planted)
}

fn on(device: impl Device + 'static, planted: Planted) -> Builder {
    Zswap::builder()
        .codecs(Codecs::none().with(Tagged).unwrap())
        .codec("tagged")
        .compressing_threads(2)
        .pool_limit(1 << 20)
        .topology(Topology::simulated(1))
        .address_space(8 * 4096)
        .geometry(Geometry::new(4096, 4096, 1).unwrap())
        .warm_frames(0)
        .automatic_compaction(None)
        .slots_in_use(4)
        .scan(1, 1)
        .tree(TreeConfig { objcg_ids: 3, stripes: 1, patience: 4, ..TreeConfig::default() })
        .device(device)
        .device_geometry(swap::Geometry {
            page_bytes: 256,
            batch_pages: 2,
            max_payload: 64,
            write_buffers: 1,
            read_buffers: 1,
        })
        .worker(false)
        .planted(planted)
}

fn store(zswap: &Zswap, memcg: &Memcg, slot: Slot, number: u8) -> Result<(), Error> {
    zswap.store(slot, memcg, N0, &page(number)).map(drop)
}

/// The numbers of the pages that the slots hold; 0 for an empty one.
fn numbers(zswap: &Zswap, slots: SlotRange) -> Vec<u8> {
    let load = |slot| {
        let mut read = page(0);
        match zswap.load(slot, &mut read) {
            Ok(()) => read[0],
            Err(Error::NotStored { .. }) => 0,
            Err(other) => panic!("{other}"),
        }
    };
    slots.iter().map(load).collect()
}

// === a waiter at the turnstile ===

/// How often it waited.
fn look_vs_turn(planted: Planted) -> usize {
    let (stile, room) = (Arc::new(Turnstile::new(planted)), Arc::new(AtomicU64::new(0)));
    stile.open();
    let waiter = {
        let (stile, room) = (Arc::clone(&stile), Arc::clone(&room));
        loom::thread::spawn(move || {
            let mut waits = 0;
            loop {
                let ticket = stile.ticket();
                if room.load(Ordering::Relaxed) == 1 {
                    return waits;
                }
                waits += 1;
                let ticket = ticket.expect("there was room before it was closed");
                let passed = stile.wait(ticket, Duration::from_secs(1));
                assert_eq!(passed, Passed::Turned, "S1: the turn came after the ticket");
            }
        })
    };
    let maker = {
        let (stile, room) = (Arc::clone(&stile), Arc::clone(&room));
        loom::thread::spawn(move || {
            room.store(1, Ordering::Relaxed); // the turnstile orders it
            stile.turn();
        })
    };
    maker.join().unwrap();
    stile.close(); // or who missed the turn would wait without end
    waiter.join().unwrap()
}

#[test]
fn no_turn_is_missed_between_look_and_wait() {
    assert_eq!(outcomes(|| look_vs_turn(Planted::NONE)), [0, 1].into());
}

#[test]
fn a_wait_that_forgets_its_ticket_is_seen() {
    let message = catches(|| outcomes(|| look_vs_turn(Planted::bug(Bug::TurnstileForgetsTicket))));
    assert!(message.contains("S1"), "{message}");
}

// === a convoy ===

/// Three threads, an item each. How many batches it took, and how often somebody had to work alone.
fn three_join(planted: Planted) -> (u64, u64) {
    let convoy = Arc::new(Convoy::new(2, planted));
    let (batches, alone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let done = Arc::new([0, 1, 2].map(|_| AtomicU64::new(0)));
    let join = |me: usize| {
        let (convoy, batches, alone, done) =
            (Arc::clone(&convoy), Arc::clone(&batches), Arc::clone(&alone), Arc::clone(&done));
        move || {
            let work = |items: &mut [(usize, u64)]| {
                batches.fetch_add(1, Ordering::Relaxed);
                for (item, times) in items {
                    *times = 1 + done[*item].fetch_add(1, Ordering::Relaxed);
                }
            };
            match convoy.join(&[(me, 0)], work, |told| told.to_vec()) {
                Some(told) => assert_eq!(told, [(me, 1)], "V2: one is told of one's own, which was done once"),
                None => _ = alone.fetch_add(1, Ordering::Relaxed),
            }
        }
    };
    let threads = [1, 2].map(|me| loom::thread::spawn(join(me)));
    join(0)();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let alone = alone.load(Ordering::Relaxed);
    let done: u64 = done.iter().map(|times| times.load(Ordering::Relaxed)).sum();
    assert_eq!(done + alone, 3);
    (batches.load(Ordering::Relaxed), alone)
}

#[test]
fn whoever_joins_is_worked_for_once_and_told_of_it() {
    // One after the other; the second and third together; a third that finds two in the batch that is being filled.
    assert_eq!(outcomes(|| three_join(Planted::NONE)), [(2, 0), (3, 0)].into());
}

#[test]
fn a_batch_that_is_done_before_its_work_is_seen() {
    let message = catches(|| outcomes(|| three_join(Planted::bug(Bug::ConvoyTellsBeforeWork))));
    assert!(message.contains("V2"), "{message}");
}

// === a store that waits for the worker ===

/// Whether the store found room at once.
fn store_vs_worker(planted: Planted) -> bool {
    // Two frames, both taken; above the accept threshold by one.
    let builder = tiny(planted).pool_limit(2 * 4096).accept_threshold_percent(50);
    let zswap = Arc::new(builder.build().unwrap());
    let (root, slots) = (zswap.root(), zswap.reserve(3).unwrap());
    store(&zswap, &root, slots.get(0).unwrap(), 1).unwrap();
    store(&zswap, &root, slots.get(1).unwrap(), 2).unwrap();
    let last = slots.get(2).unwrap();
    race(
        &zswap,
        |zswap| zswap.work(),
        move |zswap| {
            store(zswap, &zswap.root(), last, 3).unwrap();
            zswap.stop_work();
        },
    );
    assert_eq!(numbers(&zswap, slots), [1, 2, 3]);
    let physical = zswap.stats().physical_pages;
    empty_and_check(&zswap, slots.iter());
    physical == 1
}

#[test]
fn a_store_that_waits_for_the_worker_is_woken() {
    // The worker may have gone on to the threshold. A wake-up that is lost would be a deadlock, which loom reports; its twin is that
    // of the turnstile.
    let seen = outcomes_of_long(|| store_vs_worker(Planted::NONE));
    assert_eq!(seen, [false, true].into());
}

// === a memcg that is written down goes ===

/// Whether its entry was written.
fn worker_vs_offline(planted: Planted) -> bool {
    let zswap = Arc::new(tiny(planted).build().unwrap());
    let (child, slots) = (zswap.root().mkdir("c").unwrap(), zswap.reserve(1).unwrap());
    store(&zswap, &child, slots.base(), 1).unwrap();
    zswap.set_zswap_max(&child, 0).unwrap();
    race(
        &zswap,
        |zswap| zswap.work(),
        move |zswap| {
            zswap.offline(&child).unwrap();
            drop(child);
            zswap.stop_work();
        },
    );
    let written = zswap.stats().physical_pages == 1;
    assert!(zswap.root().usage() == if written { 0 } else { 4096 }, "it is counted once, and by the parent");
    // What was left is the parent's, on its list and to be found by its walks.
    if !written {
        assert!(matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
    }
    assert_eq!(numbers(&zswap, slots), [1]);
    empty_and_check(&zswap, slots.iter());
    written
}

#[test]
fn a_memcg_may_go_while_it_is_written_down() {
    let seen = outcomes_of_long(|| worker_vs_offline(Planted::NONE));
    assert_eq!(seen, [false, true].into());
}

// === a store that fails over an older page (R-11) ===

fn failing_store_vs_writeback(planted: Planted) -> bool {
    let zswap = Arc::new(tiny(planted).build().unwrap());
    let (root, slots) = (zswap.root(), zswap.reserve(1).unwrap());
    let refuses = root.mkdir("refuses").unwrap();
    refuses.set_writeback(false).unwrap();
    refuses.set_zswap_max(0).unwrap();
    let slot = slots.base();
    store(&zswap, &root, slot, 1).unwrap();
    let (shrunk, ()) = race(
        &zswap,
        |zswap| zswap.shrink_memcg(&zswap.root(), 1),
        move |zswap| {
            let refused = store(zswap, &refuses, slot, 2).unwrap_err();
            assert!(matches!(refused, Error::Limit { reason: Unwritable::Disabled, .. }), "{refused}");
        },
    );
    assert_eq!(numbers(&zswap, slots), [0], "no older page comes back");
    empty_and_check(&zswap, slots.iter());
    matches!(shrunk, Shrunk::Written(_))
}

#[test]
fn a_store_that_fails_leaves_no_older_page_even_if_it_is_on_its_way_to_the_device() {
    let seen = outcomes_of_long(|| failing_store_vs_writeback(Planted::NONE));
    assert_eq!(seen, [false, true].into());
}

#[test]
fn an_older_page_that_stays_is_seen() {
    let message = catches(|| outcomes_of_long(|| failing_store_vs_writeback(Planted::bug(Bug::FailedStoreKeepsOlder))));
    assert!(message.contains("no older page"), "{message}");
}

// === a write that fails (R-16) ===

fn failing_write_vs_load(planted: Planted) -> u8 {
    let device = FaultyDevice::new(MemoryDevice::new(6 * 256, 256), Plan::none().at(1, Fault::Errno(5)));
    let zswap = Arc::new(on(device, planted).build().unwrap());
    let slots = zswap.reserve(1).unwrap();
    let slot = slots.base();
    store(&zswap, &zswap.root(), slot, 1).unwrap();
    let (shrunk, read) = race(
        &zswap,
        |zswap| zswap.shrink_memcg(&zswap.root(), 1),
        move |zswap| {
            let mut read = page(0);
            zswap.load(slot, &mut read).unwrap();
            zswap.free(slot);
            store(zswap, &zswap.root(), slot, 2).unwrap();
            read[0]
        },
    );
    assert_eq!(read, 1);
    // Nothing was there between the free and the store.
    assert!(matches!(shrunk, Shrunk::NoneWritten | Shrunk::NothingToScan), "{shrunk:?}");
    let failed = zswap.stats().failed_writes;
    assert_eq!(numbers(&zswap, slots), [2]);
    // Nothing of the failed flight is left: the next one lands, once the entry has lost its second chance and the device failed once.
    let tries: Vec<_> = (0..3).map(|_| zswap.shrink_memcg(&zswap.root(), 1)).collect();
    assert!(tries.iter().any(|tried| matches!(tried, Shrunk::Written(_))), "{tries:?}");
    assert_eq!(zswap.stats().failed_writes, 1, "the device failed once");
    empty_and_check(&zswap, slots.iter());
    failed as u8
}

#[test]
fn a_failed_write_leaves_the_page_readable_and_its_slot_free_to_use() {
    let seen = outcomes_of_long(|| failing_write_vs_load(Planted::NONE));
    // The entry was passed over, and nothing written at first; or it failed.
    assert_eq!(seen, [0, 1].into());
}

#[test]
fn a_failed_write_that_is_ignored_is_seen() {
    let message = catches(|| outcomes_of_long(|| failing_write_vs_load(Planted::bug(Bug::WritebackIgnoresFailure))));
    assert!(!message.is_empty());
}
