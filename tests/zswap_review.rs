//! Traps found by reading, each once sprung.

mod support;

use support::*;
use zspool::units::{NodeId, Page};
use zspool::zswap::{Builder, Zswap};

const N0: NodeId = NodeId(0);

fn small() -> Builder {
    Zswap::builder().pool_limit(8 << 20).slots_in_use(1 << 12).address_space(64 << 20).worker(false)
}

#[test]
fn a_memcg_removed_by_its_own_method_leaves_its_entries_to_the_parent() {
    let zswap = small().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(2).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &vm, N0, &compressible(slot.0, 300)).unwrap();
    }
    vm.offline().unwrap();
    zswap.assert_valid();
    let mut page = Page::zeroed();
    zswap.load(slots.base(), &mut page).unwrap();
    assert!(zswap.free(slots.base()));
    zswap.assert_valid();
}
