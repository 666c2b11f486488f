//! Store, load, take, free, share: what a client sees.

mod support;

use support::*;
use zspool::memcg::Memcg;
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, Page, Slot};
use zspool::zswap::{Builder, Error, Installed, Shrunk, Stored, Taken, Zswap};

const N0: NodeId = NodeId(0);

fn small() -> Builder {
    Zswap::builder().pool_limit(8 << 20).slots_in_use(1 << 16).address_space(256 << 20).worker(false)
}

fn with_device() -> Builder {
    small().device(MemoryDevice::new(16 << 20, 4096))
}

fn read(zswap: &Zswap, slot: Slot) -> Page {
    let mut page = Page::zeroed();
    zswap.load(slot, &mut page).unwrap();
    page
}

fn write_back_all(zswap: &Zswap, memcg: &Memcg) -> u64 {
    let mut bytes = 0;
    loop {
        match zswap.shrink_memcg(memcg, 64) {
            Shrunk::Written(n) => bytes += n,
            Shrunk::NoneWritten => {}
            Shrunk::NothingToScan => return bytes,
        }
    }
}

#[test]
fn every_kind_of_page_comes_back_identical_and_everything_returns_to_zero() {
    let zswap = with_device().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(3000).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        zswap.store(slot, &vm, N0, &any_page(k as u64)).unwrap();
    }
    zswap.assert_valid();
    for (k, slot) in slots.iter().enumerate() {
        assert!(read(&zswap, slot)[..] == any_page(k as u64)[..], "page {k}");
    }
    assert!(vm.usage() > 0);
    assert!(slots.iter().all(|slot| zswap.free(slot)));
    zswap.assert_valid();
    assert_eq!(vm.usage(), 0);
    zswap.arena().flush();
    assert_eq!(zswap.stats().backed_bytes, 0);
}

#[test]
fn each_kind_says_how_it_was_stored() {
    let zswap = small().build().unwrap();
    let root = zswap.root();
    let slots = zswap.reserve(8).unwrap();
    let store = |k, kind| zswap.store(slots.get(k).unwrap(), &root, N0, &page_of(kind, 3)).unwrap();
    assert_eq!(store(0, Kind::Zero), Stored::SameFilled);
    assert_eq!(store(1, Kind::SmallPattern), Stored::SameFilled);
    assert_eq!(store(2, Kind::LargePattern), Stored::Pattern { slot_bytes: 32 });
    assert_eq!(store(3, Kind::Random), Stored::Incompressible);
    let Stored::Compressed { payload_bytes, slot_bytes } = store(4, Kind::Mixed(1000)) else { panic!("compressible") };
    assert!((1000..1200).contains(&payload_bytes) && slot_bytes >= payload_bytes);
    zswap.assert_valid();
}

#[test]
fn storing_again_replaces_the_page_whatever_it_was() {
    let zswap = with_device().build().unwrap();
    let root = zswap.root();
    let slot = zswap.reserve(1).unwrap().base();
    let kinds = [Kind::Zero, Kind::Mixed(500), Kind::LargePattern, Kind::Random];
    for (i, &before) in kinds.iter().enumerate() {
        for (j, &after) in kinds.iter().enumerate() {
            for on_device in [false, true] {
                zswap.store(slot, &root, N0, &page_of(before, i as u64)).unwrap();
                if on_device {
                    write_back_all(&zswap, &root);
                }
                let new = page_of(after, 100 + j as u64);
                zswap.store(slot, &root, N0, &new).unwrap();
                assert!(read(&zswap, slot)[..] == new[..]);
                zswap.assert_valid();
            }
        }
    }
}

#[test]
fn slots_that_hold_nothing_say_so() {
    let zswap = small().build().unwrap();
    let slots = zswap.reserve(2).unwrap();
    let mut page = Page::zeroed();
    for slot in [slots.base(), Slot(1 << 50)] {
        assert!(matches!(zswap.load(slot, &mut page), Err(Error::NotStored { .. })));
        assert!(!zswap.free(slot));
        assert!(matches!(zswap.dup(slot), Err(Error::NotStored { .. })));
        assert!(matches!(zswap.put(slot), Err(Error::NotStored { .. })));
        assert!(!zswap.is_stored(slot));
    }
    assert!(zswap.store(Slot(1 << 50), &zswap.root(), N0, &page).is_err(), "never reserved");
}

#[test]
fn a_page_written_back_reads_from_the_device() {
    let zswap = with_device().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(500).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        zswap.store(slot, &vm, N0, &compressible(k as u64, 800)).unwrap();
    }
    let payload = zswap.stats().pool.payload_bytes;
    assert_eq!(write_back_all(&zswap, &vm), payload, "bytes written back are the payload bytes that left the pool");
    zswap.assert_valid();
    assert_eq!((zswap.stats().physical_pages, vm.usage()), (500, 0));
    let mut page = Page::zeroed();
    assert!(matches!(zswap.try_load(slots.base(), &mut page), Err(Error::NeedsIo { .. })));
    for (k, slot) in slots.iter().enumerate() {
        assert!(read(&zswap, slot)[..] == compressible(k as u64, 800)[..]);
    }
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    zswap.assert_valid();
    assert_eq!(zswap.stats().area.unwrap().used_bytes, 0, "space on the device returns");
}

#[test]
fn a_loaded_page_is_passed_over_once() {
    let zswap = with_device().build().unwrap();
    let root = zswap.root();
    let slots = zswap.reserve(2).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &root, N0, &compressible(slot.0, 800)).unwrap();
    }
    read(&zswap, slots.base());
    assert!(matches!(zswap.shrink_memcg(&root, 2), Shrunk::Written(_)));
    let mut page = Page::zeroed();
    zswap.try_load(slots.base(), &mut page).expect("the page that was loaded is still in the pool");
    assert!(matches!(zswap.try_load(slots.get(1).unwrap(), &mut page), Err(Error::NeedsIo { .. })));
}

#[test]
fn take_with_frees_only_what_was_installed() {
    let zswap = with_device().build().unwrap();
    let root = zswap.root();
    let slot = zswap.reserve(1).unwrap().base();
    for on_device in [false, true] {
        let page = compressible(7, 900);
        zswap.store(slot, &root, N0, &page).unwrap();
        if on_device {
            write_back_all(&zswap, &root);
        }
        assert_eq!(zswap.take_with(slot, |_| Installed::No).unwrap(), Taken::Kept);
        assert!(zswap.is_stored(slot));
        let newer = compressible(8, 900);
        let taken = zswap.take_with(slot, |_| {
            zswap.store(slot, &root, N0, &newer).unwrap();
            Installed::Yes
        });
        assert_eq!(taken.unwrap(), Taken::Changed);
        assert!(read(&zswap, slot)[..] == newer[..], "a newer page is not thrown away");
        let mut seen = Page::zeroed();
        let taken = zswap.take_with(slot, |page| {
            seen.copy_from_slice(page);
            Installed::Yes
        });
        assert_eq!(taken.unwrap(), Taken::Freed);
        assert!(seen[..] == newer[..] && !zswap.is_stored(slot));
        zswap.assert_valid();
    }
}

#[test]
fn shared_slots_live_until_the_last_reference() {
    let zswap = with_device().build().unwrap();
    let root = zswap.root();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &root, N0, &compressible(1, 700)).unwrap();
    for n in 2..=10 {
        assert_eq!(zswap.dup(slot).unwrap(), n);
    }
    write_back_all(&zswap, &root);
    for n in (0..10).rev() {
        assert!(read(&zswap, slot)[..] == compressible(1, 700)[..]);
        assert_eq!(zswap.put(slot).unwrap(), n);
    }
    assert!(!zswap.is_stored(slot));
    zswap.assert_valid();
}

#[test]
fn any_number_of_references_survives_what_backs_the_slot() {
    let zswap = with_device().build().unwrap();
    let root = zswap.root();
    let slots = zswap.reserve(2).unwrap();
    let [slot, neighbour] = [0, 1].map(|k| slots.get(k).unwrap());
    zswap.store(neighbour, &root, N0, &Page::zeroed()).unwrap();
    zswap.store(slot, &root, N0, &compressible(1, 700)).unwrap();
    for n in 2..=1000 {
        assert_eq!(zswap.dup(slot).unwrap(), n);
    }
    assert_eq!((zswap.references(slot), zswap.references(neighbour)), (1000, 1));
    write_back_all(&zswap, &root);
    assert!(zswap.stats().physical_pages == 1 && zswap.references(slot) == 1000);
    zswap.quiesce();
    zswap.assert_valid();
    for n in (500..1000).rev() {
        assert_eq!(zswap.put(slot).unwrap(), n);
    }
    // A new content of the slot begins with one reference, whoever held the old one.
    zswap.store(slot, &root, N0, &compressible(2, 700)).unwrap();
    assert_eq!(zswap.references(slot), 1);
    (2..=15).for_each(|n| assert_eq!(zswap.dup(slot).unwrap(), n));
    assert_eq!(zswap.put(slot).unwrap(), 14);
    zswap.assert_valid();
    for n in (0..14).rev() {
        assert!(read(&zswap, slot)[..] == compressible(2, 700)[..]);
        assert_eq!(zswap.put(slot).unwrap(), n);
    }
    assert!(!zswap.is_stored(slot) && zswap.references(slot) == 0);
    assert!(matches!(zswap.dup(slot), Err(Error::NotStored { .. })));
    zswap.assert_valid();
}

#[test]
fn runs_of_pages_go_in_and_out_together() {
    let zswap = small().build().unwrap();
    let root = zswap.root();
    let slots = zswap.reserve(64).unwrap();
    let pages: Vec<_> = (0..64).map(|k| any_page(k).0).collect();
    assert!(matches!(zswap.store_run(slots.base(), &root, N0, &pages), (64, Ok(()))));
    let mut back = vec![[0; 4096]; 64];
    assert!(matches!(zswap.load_run(slots.base(), &mut back), (64, Ok(()))));
    assert!(pages.iter().zip(&back).all(|(a, b)| a[..] == b[..]));
    zswap.free(slots.get(5).unwrap());
    assert!(matches!(zswap.load_run(slots.base(), &mut back), (5, Err(Error::NotStored { .. }))));
}

#[test]
fn an_offline_memcg_takes_no_pages_and_its_own_stay_loadable() {
    let zswap = with_device().build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let child = parent.mkdir("child").unwrap();
    let slots = zswap.reserve(200).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        let memcg = if k % 2 == 0 { &child } else { &parent };
        zswap.store(slot, memcg, N0, &compressible(k as u64, 600)).unwrap();
    }
    let (usage, bytes) = (parent.usage(), zswap.stats().pool.payload_bytes);
    assert!(zswap.offline(&parent).is_err(), "it has a child");
    zswap.offline(&child).unwrap();
    assert!(zswap.offline(&child).is_err(), "only once");
    zswap.assert_valid();
    assert_eq!(parent.usage(), usage);
    assert!(zswap.store(slots.base(), &child, N0, &Page::zeroed()).is_err());
    assert!(!zswap.is_stored(slots.base()), "a failed store leaves no older copy behind");
    zswap.store(slots.base(), &parent, N0, &compressible(0, 600)).unwrap();
    assert!(matches!(zswap.shrink_memcg(&child, 64), Shrunk::NothingToScan));
    assert!(write_back_all(&zswap, &parent) >= bytes - 1000, "the parent's list has the child's entries");
    for (k, slot) in slots.iter().enumerate() {
        assert!(read(&zswap, slot)[..] == compressible(k as u64, 600)[..]);
    }
    zswap.assert_valid();
}

#[test]
fn a_memcg_of_another_instance_is_refused() {
    let (zswap, other) = (with_device().build().unwrap(), small().build().unwrap());
    let slot = zswap.reserve(1).unwrap().base();
    let vm = other.root().mkdir("vm7").unwrap();
    let error = zswap.store(slot, &vm, N0, &compressible(1, 800)).unwrap_err().to_string();
    assert!(error.contains("vm7"), "{error}");
    assert!(matches!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan));
    assert_eq!((vm.usage(), zswap.root().usage()), (0, 0));
}

#[test]
fn an_unknown_codec_names_those_there_are() {
    let error = small().codec("brotli9").build().unwrap_err().to_string();
    assert!(error.contains("brotli9") && error.contains("lz4"), "{error}");
    let zswap = small().build().unwrap();
    assert!(zswap.set_codec("nope").is_err());
}

#[test]
fn many_threads_store_load_and_free_with_writeback_and_compaction() {
    let zswap = Zswap::builder()
        .pool_limit(1 << 20)
        .slots_in_use(1 << 16)
        .address_space(256 << 20)
        .device(MemoryDevice::new(64 << 20, 4096))
        .build()
        .unwrap();
    const PER_THREAD: u64 = 700;
    let slots = zswap.reserve(4 * PER_THREAD).unwrap();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let zswap = &zswap;
            s.spawn(move || {
                let vm = zswap.root().mkdir(&format!("vm{t}")).unwrap();
                let mut random = Random::new(t);
                let mut held = vec![None; PER_THREAD as usize];
                for step in 0..6000u64 {
                    let k = random.below(PER_THREAD);
                    let slot = slots.get(t * PER_THREAD + k).unwrap();
                    match random.below(8) {
                        0..4 => {
                            let number = t << 32 | step;
                            zswap.store(slot, &vm, N0, &any_page(number)).unwrap();
                            held[k as usize] = Some(number);
                        }
                        4..6 => match held[k as usize] {
                            Some(number) => assert!(read(zswap, slot)[..] == any_page(number)[..], "slot {slot:?}"),
                            None => assert!(!zswap.is_stored(slot)),
                        },
                        6 => assert_eq!(zswap.free(slot), held[k as usize].take().is_some()),
                        _ => {
                            let _ = zswap.compact(16 << 10);
                        }
                    }
                }
                for (k, number) in held.into_iter().enumerate() {
                    if let Some(number) = number {
                        let slot = slots.get(t * PER_THREAD + k as u64).unwrap();
                        assert!(read(zswap, slot)[..] == any_page(number)[..]);
                    }
                }
            });
        }
    });
    assert!(zswap.stats().physical_pages > 0, "the limit made pages go to the device");
    zswap.quiesce();
    zswap.assert_valid();
}
