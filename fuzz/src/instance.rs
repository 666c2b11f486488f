//! [`Instance`]: what both targets on a whole instance begin with.

use super::meddler::{Meddler, SLOTS, STRIDE};
use std::sync::Arc;
use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::swap;
use zspool::units::{FRAME_SIZE, NodeId, Slot, SlotRange};
use zspool::zswap::{Builder, Zswap};

/// A small instance without a worker, its device if it has one, and slots.
pub struct Instance {
    /// The instance.
    pub zswap: Arc<Zswap>,
    /// Its device, which fails on cue and meddles.
    pub device: Option<Arc<Meddler>>,
    /// Every [`STRIDE`]th of them is used.
    pub slots: SlotRange,
}

/// An instance of so many frames and nodes (less one, modulo 3); node 1 has a capacity in frames unless it is 0.
pub fn builder(pool_frames: u8, nodes: u8, capacity: u8) -> Builder {
    let mut topology = Topology::simulated(1 + usize::from(nodes % 3));
    if topology.len() > 1 && capacity > 0 {
        topology = topology.with_capacity(NodeId(1), u64::from(capacity) * FRAME_SIZE as u64);
    }
    Zswap::builder()
        .pool_limit(u64::from(pool_frames) * FRAME_SIZE as u64)
        .slots_in_use(4096)
        .address_space(16 << 20)
        .warm_frames(4)
        .topology(topology)
        .codecs(Codecs::builtin().with(Tagged).unwrap())
        .compressing_threads(3) // one is waiting for the device, one meddles with it
        .device_geometry(swap::Geometry {
            batch_pages: 16,
            write_buffers: 3,
            read_buffers: 3,
            ..swap::Geometry::default()
        })
        // The device looks into what is written, to see whose it is, and lists run alike; `swapfile_bytes` has the encrypted form.
        .encryption(false)
        .worker(false)
        .encryption(false) // the meddler looks for slots in what is written
}

impl Instance {
    /// With a device of so many bytes, none for 0.
    pub fn new(builder: Builder, device_bytes: usize) -> Instance {
        let device = (device_bytes > 0).then(|| Arc::new(Meddler::new(device_bytes)));
        let builder = match &device {
            Some(device) => builder.device(Arc::clone(device)),
            None => builder,
        };
        let zswap = Arc::new(builder.build().unwrap());
        let slots = zswap.reserve(u64::from(SLOTS) * STRIDE).unwrap();
        if let Some(device) = &device {
            device.attach(&zswap, slots);
        }
        Instance { zswap, device, slots }
    }

    /// The slot of that number.
    pub fn slot(&self, slot: u8) -> Slot {
        self.slots.get(u64::from(slot) * STRIDE).unwrap()
    }
}
