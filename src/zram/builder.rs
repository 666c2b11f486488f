//! [`Builder`]: how a device is described.

use super::Error;
use super::cells::ZramCells;
use super::device::Zram;
use crate::arena::{self, Arena, ArenaConfig, Topology};
use crate::compress::{Codec, Contexts, Lz4};
use crate::sync::{Arc, Planted, thread};
use crate::units::{FRAME_SIZE, NodeId, PAGE_SIZE};
use crate::zsmalloc::{self, Geometry, Pool, PoolConfig};

/// Entries name a block by 32 bits.
const MAX_BYTES: u64 = u32::MAX as u64 * PAGE_SIZE as u64;

/// Describes a [`Zram`]; start from [`Zram::builder`].
pub struct Builder {
    disksize: u64,
    mem_limit: u64,
    codec: Box<dyn Codec>,
    geometry: Geometry,
    arena: ArenaConfig,
    node: NodeId,
    contexts: Option<usize>,
    planted: Planted,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            disksize: 0,
            mem_limit: 0,
            codec: Box::new(Lz4),
            geometry: Geometry::default(),
            arena: ArenaConfig::default(),
            node: NodeId(0),
            contexts: None,
            planted: Planted::NONE,
        }
    }

    /// Bytes of the device, rounded up to whole blocks of 4096 bytes. There is no default. A block costs memory once it is
    /// stored to; until then 16 bytes of address space.
    pub fn disksize(mut self, bytes: u64) -> Self {
        self.disksize = bytes;
        self
    }

    /// Bytes of memory that the pool's frames may take, warm ones too, rounded up to whole frames. 0 (default): no limit.
    pub fn mem_limit(mut self, bytes: u64) -> Self {
        self.mem_limit = bytes;
        self
    }

    /// How pages are compressed. Default: [`Lz4`].
    pub fn codec(mut self, codec: impl Codec + 'static) -> Self {
        self.codec = Box::new(codec);
        self
    }

    /// Size classes. [`Geometry::kernel`] packs as the kernel does.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = geometry;
        self
    }

    /// The nodes. Default: this machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.arena.topology = topology;
        self
    }

    /// The node that pages go to while it has room. Default: node 0.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// Bytes of address space for the pool. Default: 16 times the machine's memory.
    pub fn address_space(mut self, bytes: usize) -> Self {
        self.arena.address_space = bytes;
        self
    }

    /// Frames kept backed without an object, to be used again soon; the kernel keeps none. Default: the arena's.
    pub fn warm_frames(mut self, frames: usize) -> Self {
        self.arena.warm_frames = frames;
        self
    }

    /// Threads that can compress at once. Default: the machine's cores.
    pub fn compressing_threads(mut self, threads: usize) -> Self {
        self.contexts = Some(threads);
        self
    }

    /// A bug for a model to find.
    #[doc(hidden)]
    pub fn planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Make the device, all blocks empty.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::TooLarge`]; [`Error::Arena`] for a node that the topology does not have;
    /// [`Error::Table`], [`Error::Arena`] and [`Error::Pool`] when there is no address space.
    pub fn build(mut self) -> Result<Zram, Error> {
        if self.disksize == 0 {
            return Err(Error::ZeroSize);
        }
        if self.disksize > MAX_BYTES {
            return Err(Error::TooLarge { bytes: self.disksize, max: MAX_BYTES });
        }
        let nodes = self.arena.topology.len();
        if self.node.index() >= nodes {
            return Err(arena::Error::NoSuchNode { node: self.node, nodes }.into());
        }
        self.arena.limit_bytes = super::device::limit_bytes(self.mem_limit);
        self.arena.run_frames = self.geometry.max_chain().next_power_of_two();
        let contexts = Contexts::new(self.contexts.unwrap_or_else(thread::available_parallelism));
        let pool = self.pool()?;
        Ok(Zram::new(pool, self.codec, contexts, self.node, self.mem_limit))
    }

    /// A pool whose frames and metadata fit beside each other: where the kernel has no address space for both, they are made half as large.
    fn pool(&mut self) -> Result<Pool<ZramCells>, Error> {
        let blocks = self.disksize.div_ceil(PAGE_SIZE as u64) as u32;
        let floor = self.arena.run_frames * FRAME_SIZE;
        loop {
            let cells = ZramCells::reserve(blocks, self.planted)
                .map_err(|source| Error::Table { bytes: u64::from(blocks) * 16, source })?;
            let arena = Arc::new(Arena::new(self.arena.clone())?);
            let got = arena.address_space();
            // Without accounting, which is the default: see the layer.
            let config = PoolConfig { geometry: self.geometry.clone(), planted: self.planted, ..PoolConfig::default() };
            debug_assert!(config.accounting.is_none());
            match Pool::new(arena, cells, config) {
                Err(zsmalloc::Error::Metadata(_)) if got > floor => {
                    self.arena.address_space = (got / 2).max(floor);
                }
                made => return Ok(made?),
            }
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Builder { disksize, mem_limit, node, .. } = self;
        f.debug_struct("Builder")
            .field("disksize", disksize)
            .field("mem_limit", mem_limit)
            .field("codec", &self.codec.name())
            .field("node", node)
            .finish_non_exhaustive()
    }
}
