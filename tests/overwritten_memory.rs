//! Pool memory that somebody overwrites: what is noticed and what is not (docs/fault-model.md).

// With pool memory poisoned the sanitizer notices first.
#![cfg(not(feature = "poison"))]

mod support;

use support::*;
use zspool::units::{NodeId, Page};
use zspool::zram::Zram;
use zspool::zsmalloc::{Cells, Pool};
use zspool::zswap::{Error, Zswap};

const N0: NodeId = NodeId(0);

/// Change the bytes of every object in the pool.
fn overwrite<C: Cells>(pool: &Pool<C>, change: impl Fn(&mut [u8])) {
    let mut objects = Vec::new();
    pool.for_each_object(|object| objects.push((object.location, object.slot_bytes)));
    assert!(!objects.is_empty());
    for (location, bytes) in objects {
        pool.arena().with_mut(location, bytes, |start| {
            // SAFETY: the slot's bytes, which nobody reads or writes meanwhile.
            change(unsafe { std::slice::from_raw_parts_mut(start, bytes) });
        });
    }
}

fn one_page(page: &Page) -> (Zswap, zspool::units::Slot) {
    let zswap = Zswap::builder().pool_limit(8 << 20).address_space(64 << 20).worker(false).build().unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &zswap.root(), N0, page).unwrap();
    (zswap, slot)
}

#[test]
fn bytes_that_are_no_compressed_page_are_an_error_for_the_slot() {
    let (zswap, slot) = one_page(&compressible(1, 1000));
    overwrite(zswap.pool(), |bytes| bytes.fill(0xff));
    let mut page = Page::zeroed();
    let error = zswap.load(slot, &mut page).unwrap_err();
    assert!(matches!(error, Error::Corrupt { slot: at } if at == slot), "{error:?}");
    assert!(zswap.free(slot), "the slot can be used again");
    zswap.store(slot, &zswap.root(), N0, &compressible(2, 1000)).unwrap();
    zswap.load(slot, &mut page).unwrap();
    assert!(page[..] == compressible(2, 1000)[..]);
    zswap.assert_valid();
}

/// Objects in the pool have no checksum, like any other memory of the process: this is what the fault model says.
#[test]
fn a_bit_of_a_page_kept_as_it_is_changes_unseen() {
    let stored = page_of(Kind::Random, 1);
    let (zswap, slot) = one_page(&stored);
    overwrite(zswap.pool(), |bytes| bytes[100] ^= 1);
    let mut page = Page::zeroed();
    zswap.load(slot, &mut page).unwrap();
    assert!(page[100] == stored[100] ^ 1);
}

#[test]
fn bytes_that_are_no_compressed_page_are_an_error_for_the_block() {
    let zram = Zram::builder().disksize(16 * 4096).address_space(64 << 20).build().unwrap();
    zram.store(7, &compressible(1, 1000)).unwrap();
    overwrite(zram.pool(), |bytes| bytes.fill(0xff));
    let mut page = Page::zeroed();
    let error = zram.load(7, &mut page).unwrap_err();
    assert!(matches!(error, zspool::zram::Error::Corrupt { block: 7 }), "{error:?}");
    assert!(error.to_string().contains("discard or store the block"), "{error}");
    zram.store(7, &compressible(2, 1000)).unwrap();
    zram.load(7, &mut page).unwrap();
    assert!(page[..] == compressible(2, 1000)[..]);
    zram.assert_valid();
}
