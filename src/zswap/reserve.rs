//! [`Reserved`]: the parts of an instance that live in reserved address space, made together.
//!
//! ```text
//!  room below `ulimit -v`
//!  +---------------------------------------------+-------------+---------+----------+
//!  | arena: frames, descriptors, entries         | slot words  | links   | headroom |  stacks, buffers, tables of what
//!  +---------------------------------------------+-------------+---------+----------+  is still to be made
//! ```
//!
//! Where the kernel refuses one part, all of them are made half as large: halved one by one, the first would take what the
//! others need, and no instance could be made under any limit.

use super::Error;
use super::cells::SlotCells;
use super::lru::Lru;
use crate::arena::{self, Arena, ArenaConfig};
use crate::memcg::{Event, Tree, TreeConfig};
use crate::swap::{self, Slots};
use crate::sync::{Arc, Clock, HEADROOM, Planted, Region};
use crate::units::{FRAME_SIZE, PAGE_SIZE};
use crate::zsmalloc::{self, Geometry, Original, Pool, PoolConfig};

/// Frames are not given up below this many bytes of addresses, nor slots below this number.
const ADDRESS_SPACE_FLOOR: usize = 16 << 20;
const FEWEST_SLOTS: u64 = 1 << 16;

/// Slots are not given up below so many for each frame of address space: pages compressed to a quarter.
const SLOTS_PER_FRAME: u64 = 4;

/// What is asked for.
pub(super) struct Asked {
    pub(super) arena: ArenaConfig,
    pub(super) slots_in_use: u64,
    pub(super) geometry: Geometry,
    pub(super) tree: TreeConfig,
    pub(super) clock: Clock,
    pub(super) planted: Planted,
}

/// What was made.
pub(super) struct Reserved {
    pub(super) arena: Arc<Arena>,
    pub(super) slots: Arc<Slots>,
    pub(super) lru: Arc<Lru>,
    pub(super) tree: Tree,
    pub(super) pool: Pool<SlotCells>,
}

impl Reserved {
    /// Reserve everything, as large as asked or as the kernel allows.
    ///
    /// # Errors
    /// When even the smallest is refused, with what to do; what else a part refuses.
    pub(super) fn new(asked: &Asked) -> Result<Self, Error> {
        // For the worker's stack, scratch memory of codecs, tables of memcgs: asked of the global allocator, which ends the
        // process when it gets none. Held until all is made, and not taken from that allocator, which may have some left.
        let headroom = Region::reserve(HEADROOM);
        let _headroom = headroom.map_err(|source| arena::Error::Reserve { bytes: HEADROOM as u64, source })?;
        let (mut arena, mut in_use) = (asked.arena.clone(), asked.slots_in_use);
        let limit = usize::try_from(arena.limit_bytes).unwrap_or(usize::MAX);
        let floor = ADDRESS_SPACE_FLOOR.min(limit).max(arena.run_frames * FRAME_SIZE);
        loop {
            match Self::of_size(asked, &arena, in_use) {
                // An arena halves by itself; then it has taken what the others need.
                Ok(reserved)
                    if reserved.arena.address_space() >= arena.address_space || arena.address_space <= floor =>
                {
                    return Ok(reserved);
                }
                Err(refused) if !lacks_address_space(&refused) => return Err(refused),
                Err(refused) if arena.address_space <= floor && in_use <= FEWEST_SLOTS => return Err(refused),
                _ => {}
            }
            arena.address_space = (arena.address_space / 2).max(floor).min(arena.address_space);
            let per_frame = (arena.address_space / FRAME_SIZE) as u64 * SLOTS_PER_FRAME;
            in_use = (in_use / 2).max(per_frame.max(FEWEST_SLOTS).min(in_use));
        }
    }

    fn of_size(asked: &Asked, arena: &ArenaConfig, slots_in_use: u64) -> Result<Self, Error> {
        let Asked { geometry, tree, clock, planted, .. } = asked;
        let planted = *planted;
        let slots = Arc::new(Slots::new(slots_in_use, planted)?);
        let owners = slots.capacity();
        let nodes = arena.topology.len();
        let lru = Lru::new(owners, nodes, clock.clone(), planted)
            .map_err(|source| Error::AddressSpace { bytes: owners as u64 * 8, source })?;
        let lru = Arc::new(lru);
        let arena = Arc::new(Arena::new(arena.clone())?);
        let keeper = Arc::clone(&lru);
        let tree = Tree::kept(
            TreeConfig { nodes, planted, ..tree.clone() },
            Box::new(move |handover| {
                let (child, parent) = (handover.child(), handover.parent());
                keeper.reparent(child, parent, || handover.switch())
            }),
        );
        let config = PoolConfig {
            geometry: geometry.clone(),
            accounting: Some(tree.clone()),
            original: Original::Fixed(PAGE_SIZE as u64),
            stored: Some(Event::ZswpOut),
            planted,
        };
        let pool = Pool::new(Arc::clone(&arena), SlotCells(Arc::clone(&slots)), config)?;
        Ok(Reserved { arena, slots, lru, tree, pool })
    }
}

fn lacks_address_space(error: &Error) -> bool {
    matches!(
        error,
        Error::AddressSpace { .. }
            | Error::Swap(swap::Error::AddressSpace { .. })
            | Error::Arena(arena::Error::Reserve { .. })
            | Error::Pool(zsmalloc::Error::Metadata(_))
    )
}
