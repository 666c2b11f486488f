//! [`Builder`]: how a pool with handles is described.
//!
//! ```text
//! limit, address space, nodes, warm frames ---> arena ---+
//! geometry, accounting, original -----------> config ---+--> Pool::open --> Pool
//! tags: the process's, or a space of one's own ----------+
//! ```
//!
//! Invariants:
//! - **B1** The runs of the arena are as long as the longest chain of the geometry, so that the two always fit together.
//! - **B2** Address space that the kernel refuses is asked for by halves, frames and metadata together: what is built has
//!   entries and cells for every frame it may have.

use super::error::{Error, HandleError};
use super::geometry::Geometry;
use super::handle::TagSpace;
use super::pool::{Pool, PoolConfig};
use super::share::Original;
use crate::arena::{self, Arena, ArenaConfig, Topology};
use crate::memcg::Tree;
use crate::sync::{Arc, Planted};
use crate::units::FRAME_SIZE;

/// Share of the machine's memory that a pool may take if no limit is set (the kernel's `max_pool_percent`).
const DEFAULT_LIMIT_PERCENT: u64 = 20;

/// What address space may be halved down to, in bytes: as for the arena, less makes no pool worth having.
const ADDRESS_SPACE_FLOOR: usize = 16 << 20;

/// Bytes of frames that a pool may take if no limit is set.
pub(crate) fn default_limit() -> u64 {
    arena::physical_memory() / 100 * DEFAULT_LIMIT_PERCENT
}

/// Describes a [`Pool`] with handles; start from [`Pool::builder`].
#[derive(Debug)]
#[must_use = "nothing is made before `build`"]
pub struct Builder {
    arena: ArenaConfig,
    geometry: Geometry,
    accounting: Option<Tree>,
    original: Original,
    tags: TagSpace,
    planted: Planted,
}

impl Pool {
    /// Start to describe a pool with handles of its own. To bring an arena, or cells, see [`Pool::open`] and [`Pool::new`].
    ///
    /// ```
    /// use zspool::zsmalloc::Pool;
    ///
    /// let pool = Pool::builder().limit(64 << 20).build()?;
    /// let handle = pool.insert(b"1 to 4096 bytes")?;
    /// assert_eq!(&*pool.get(handle)?, b"1 to 4096 bytes");
    /// println!("{}", pool.classes());
    /// # Ok::<(), zspool::zsmalloc::HandleError>(())
    /// ```
    pub fn builder() -> Builder {
        let PoolConfig { geometry, accounting, original, planted, stored: _ } = PoolConfig::default();
        let arena = ArenaConfig { limit_bytes: default_limit(), ..ArenaConfig::default() };
        Builder { arena, geometry, accounting, original, tags: TagSpace::process(), planted }
    }
}

impl Builder {
    /// Bytes of memory that frames may take at any instant, warm ones too. Default: a fifth of the machine's memory.
    /// Entries, descriptors and cells come on top: about 20 bytes an object.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.arena.limit_bytes = bytes;
        self
    }

    /// Bytes of address space for frames. Default: 16 times the machine's memory, at most 1 TiB. Where the kernel refuses so
    /// much, half is tried, down to 16 MiB.
    pub fn address_space(mut self, bytes: usize) -> Self {
        self.arena.address_space = bytes;
        self
    }

    /// The nodes. Default: this machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.arena.topology = topology;
        self
    }

    /// Frames kept backed without an object at most, to be used again soon. Default 128, and no more than a 256th of the frames
    /// backed (but 16).
    pub fn warm_frames(mut self, frames: usize) -> Self {
        self.arena.warm_frames = frames;
        self
    }

    /// Size classes. The default suits pages compressed to a quarter or so.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = geometry;
        self
    }

    /// Charge objects to the memcgs of this tree, which has as many nodes as the topology. Default: nobody is charged.
    pub fn accounting(mut self, tree: Tree) -> Self {
        self.accounting = Some(tree);
        self
    }

    /// What counts as an object's original bytes, with accounting. Default: 4096.
    pub fn original(mut self, original: Original) -> Self {
        self.original = original;
        self
    }

    /// Who the pool's handles are told apart from. Default: those of all pools of the process that have this default too.
    pub fn tags(mut self, tags: &TagSpace) -> Self {
        self.tags = tags.clone();
        self
    }

    /// A bug for a model to find.
    #[doc(hidden)]
    pub fn planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Make the pool.
    ///
    /// # Errors
    /// [`HandleError::NoTag`] for the 257th pool of the tag space that is open; in [`HandleError::Pool`]:
    /// [`Error::Arena`] and [`Error::Metadata`] without address space, [`Error::Nodes`] when tree and topology differ.
    pub fn build(mut self) -> Result<Pool, HandleError> {
        self.arena.run_frames = self.geometry.max_chain().next_power_of_two(); // B1
        let run_bytes = self.arena.run_frames * FRAME_SIZE;
        let limit = usize::try_from(self.arena.limit_bytes).unwrap_or(usize::MAX);
        let floor = ADDRESS_SPACE_FLOOR.min(limit).max(run_bytes);
        loop {
            let arena = Arc::new(Arena::new(self.arena.clone()).map_err(Error::from)?);
            let got = arena.address_space();
            let config = PoolConfig {
                stored: None,
                geometry: self.geometry.clone(),
                accounting: self.accounting.clone(),
                original: self.original,
                planted: self.planted,
            };
            match Pool::open(arena, config, &self.tags) {
                // B2: the frames took what the metadata would have needed.
                Err(HandleError::Pool(Error::Metadata(_))) if got > floor => {
                    self.arena.address_space = (got / 2).max(floor);
                }
                done => return done,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pool_without_a_limit_takes_a_fifth_of_the_machine_at_most() {
        let share = default_limit() as f64 / arena::physical_memory() as f64;
        assert!((share - 0.2).abs() < 1e-3, "{share}");
        assert_eq!(Pool::builder().arena.limit_bytes, default_limit());
        assert_eq!(Pool::builder().build().unwrap().arena().limit(), default_limit());
    }
}
