//! The instance of the models of the whole: the real `Zswap`, as small as it can be.

use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::memcg::TreeConfig;
use zspool::swap;
use zspool::sync::Planted;
use zspool::units::PAGE_SIZE;
use zspool::zsmalloc::Geometry;
use zspool::zswap::{Builder, Zswap};

/// A page of a model.
pub type Page = Box<[u8; PAGE_SIZE]>;

/// A page that is not same-filled and that the stub codec makes two bytes of.
pub fn page(number: u8) -> Page {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[0] = number;
    page
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
