//! The instance of the models of the whole: the real `Zswap`, as small as it can be.

use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::memcg::{Counter, TreeConfig};
use zspool::swap;
use zspool::sync::Planted;
use zspool::units::{PAGE_SIZE, Slot};
use zspool::zsmalloc::Geometry;
use zspool::zswap::{Builder, Error, Zswap};

/// A page of a model.
pub type Page = Box<[u8; PAGE_SIZE]>;

/// A page that is not same-filled and that the stub codec makes two bytes of.
pub fn page(number: u8) -> Page {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[0] = number;
    page
}

/// What a slot holds: its number, and whether it lies on the device.
///
/// # Panics
/// When it cannot be had, or is not one page.
pub fn look(zswap: &Zswap, slot: Slot) -> (u8, bool) {
    let mut read = page(0);
    let on_device = match zswap.try_load(slot, &mut read) {
        Ok(()) => false,
        Err(Error::NeedsIo { .. }) => {
            zswap.load(slot, &mut read).unwrap();
            true
        }
        Err(other) => panic!("{other}"),
    };
    assert!(read[1..].iter().all(|&byte| byte == 0), "a page mixed from two");
    (read[0], on_device)
}

/// Check that all adds up, before and after these slots, which are all there are, are freed.
///
/// # Panics
/// When it does not.
pub fn empty_and_check(zswap: &Zswap, slots: impl IntoIterator<Item = Slot>) {
    let check = || {
        zswap.assert_valid();
        let on_devices = zswap.stats().area.map_or(0, |area| area.live_bytes);
        assert_eq!(zswap.root().current(Counter::Swap), on_devices, "what lies on a device is charged");
    };
    check();
    slots.into_iter().for_each(|slot| _ = zswap.free(slot));
    check();
    assert_eq!(Counter::ALL.map(|counter| zswap.root().current(counter)), [0, 0, 0], "nothing stays charged");
    assert_eq!(zswap.stats().area.map_or(0, |area| area.used_bytes), 0, "every place is given back");
}

/// Segments of two pages of 256 bytes, and one buffer of each kind.
pub const GEOMETRY: swap::Geometry =
    swap::Geometry { page_bytes: 256, batch_pages: 2, max_payload: 64, write_buffers: 1, read_buffers: 1 };

/// An instance for a slot or two without a device: segments are two pages of 256 bytes, and there is one buffer of each kind.
pub fn builder(planted: Planted) -> Builder {
    Zswap::builder()
        .codecs(Codecs::none().with(Tagged).unwrap())
        .codec("tagged")
        .compressing_threads(2)
        .pool_limit(1 << 20)
        .topology(Topology::simulated(1))
        .address_space(4 * 2 * 4096)
        .geometry(Geometry::new(1024, 1024, 2).unwrap())
        .warm_frames(0)
        .slots_in_use(4)
        .scan(1, 1)
        .tree(TreeConfig { objcg_ids: 3, stripes: 1, patience: 4, ..TreeConfig::default() })
        .device_geometry(GEOMETRY)
        .worker(false)
        .planted(planted)
}
