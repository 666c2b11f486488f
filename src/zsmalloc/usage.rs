//! [`Usage`]: where every byte of a pool's memory goes.
//!
//! ```text
//! frames that objects touch                                             frames that none does
//! +---------+----------+--------------------------+---------------------+------+
//! | payload | rounding | free slots               | tails               | warm |    = what the arena has backed
//! +---------+----------+--------------------------+---------------------+------+
//! |<- slots in use --->|  of which nothing is     |  in no slot that can be used:
//!                         left to commit             halves of slots that reach into an untouched frame,
//!                                                    and what the last slot leaves over
//! entries | descriptors | cells                                                    = metadata, beside the frames
//! ```

use super::cells::Cells;
use super::pool::Pool;
use super::zspage::Zspage;
use crate::units::FRAME_SIZE;
use std::ops::{Add, AddAssign};

/// Bytes of memory by what they are for. Each class is exact at the time it is looked at; together they are at a quiet
/// point, and then [`backed_bytes`](Self::backed_bytes) is what the arena says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What clients wrote.
    pub payload_bytes: u64,
    /// Of slots in use, what is larger than the payload.
    pub rounding_bytes: u64,
    /// Free slots that can be used without another frame: partly filled zspages. Compaction packs them.
    pub free_slot_bytes: u64,
    /// Bytes of touched frames that belong to no slot that could be used without another frame.
    pub tail_bytes: u64,
    /// Frames that are kept for what comes next.
    pub warm_bytes: u64,
    /// Arrays of entries, idle pages of them included.
    pub entry_bytes: u64,
    /// Descriptors of zspages in use.
    pub descriptor_bytes: u64,
    /// Cells that are the pool's own; a client counts its own ones.
    pub cell_bytes: u64,
}

impl Usage {
    /// Frames, as the limit counts them.
    pub fn backed_bytes(&self) -> u64 {
        self.payload_bytes + self.rounding_bytes + self.free_slot_bytes + self.tail_bytes + self.warm_bytes
    }

    /// What is needed to find objects and their owners.
    pub fn metadata_bytes(&self) -> u64 {
        self.entry_bytes + self.descriptor_bytes + self.cell_bytes
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.backed_bytes() + self.metadata_bytes()
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.payload_bytes += other.payload_bytes;
        self.rounding_bytes += other.rounding_bytes;
        self.free_slot_bytes += other.free_slot_bytes;
        self.tail_bytes += other.tail_bytes;
        self.warm_bytes += other.warm_bytes;
        self.entry_bytes += other.entry_bytes;
        self.descriptor_bytes += other.descriptor_bytes;
        self.cell_bytes += other.cell_bytes;
    }
}

impl Add for Usage {
    type Output = Usage;
    fn add(mut self, other: Usage) -> Usage {
        self += other;
        self
    }
}

impl<C: Cells> Pool<C> {
    /// Where the bytes go.
    ///
    /// # Locks
    /// Takes `Class`, `Entries` and `Arena`, one at a time.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for (index, shape) in self.heap.geometry.classes() {
            let size = shape.size() as u64;
            for node in self.heap.arena.topology().nodes() {
                let class = self.heap.lock(index, node);
                let (used, free) = (class.inuse * size, class.reusable * size);
                sum += Usage {
                    payload_bytes: class.payload,
                    rounding_bytes: used - class.payload,
                    free_slot_bytes: free,
                    // Slots in use and reusable ones lie in touched frames with all their bytes (Z2, Z5).
                    tail_bytes: class.frames * FRAME_SIZE as u64 - used - free,
                    descriptor_bytes: class.zspages * size_of::<Zspage>() as u64,
                    ..Usage::default()
                };
            }
        }
        sum.warm_bytes = self.heap.arena.warm_frames() as u64 * FRAME_SIZE as u64;
        sum.entry_bytes = self.heap.entries.bytes();
        sum.cell_bytes = self.cells.memory_bytes();
        sum
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaConfig, Topology};
    use crate::sync::Arc;
    use crate::zsmalloc::{PoolConfig, TagSpace};

    /// Numbers that differ from each other, so many times.
    fn times(n: u64) -> Usage {
        Usage {
            payload_bytes: n,
            rounding_bytes: 10 * n,
            free_slot_bytes: 100 * n,
            tail_bytes: 1000 * n,
            warm_bytes: 10_000 * n,
            entry_bytes: 100_000 * n,
            descriptor_bytes: 1_000_000 * n,
            cell_bytes: 10_000_000 * n,
        }
    }

    #[test]
    fn each_byte_is_counted_once_in_every_sum() {
        assert_eq!(times(3) + times(4), times(7));
        assert_eq!(times(7).backed_bytes(), 77_777);
        assert_eq!(times(7).metadata_bytes(), 77_700_000);
        assert_eq!(times(7).total_bytes(), 77_777_777);
    }

    #[test]
    fn frames_are_split_into_what_objects_take_and_what_they_leave() {
        let topology = Topology::simulated(1);
        let config = ArenaConfig { address_space: 1 << 28, commit_ahead: 1, topology, ..ArenaConfig::default() };
        let pool: Pool =
            Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &TagSpace::new()).unwrap();
        // Five slots of 3008 bytes, one behind the other, touch four frames.
        let mut handles: Vec<_> = (0..5).map(|_| pool.insert(&[1; 3000]).unwrap()).collect();
        let usage = pool.usage();
        assert_eq!((usage.payload_bytes, usage.rounding_bytes), (15_000, 40));
        assert_eq!((usage.free_slot_bytes, usage.tail_bytes), (0, 4 * 4096 - 5 * 3008));
        assert_eq!((usage.backed_bytes(), pool.stats().frame_bytes), (4 * 4096, 4 * 4096));
        pool.remove(handles.remove(1)).unwrap();
        let usage = pool.usage();
        assert_eq!((usage.payload_bytes, usage.rounding_bytes), (12_000, 32));
        assert_eq!((usage.free_slot_bytes, usage.tail_bytes), (3008, 4 * 4096 - 5 * 3008));
        assert_eq!((usage.warm_bytes, usage.descriptor_bytes), (0, size_of::<Zspage>() as u64));
        assert!(usage.entry_bytes > 0 && usage.cell_bytes > 0);
        handles.into_iter().for_each(|handle| pool.remove(handle).unwrap());
        let empty = pool.usage();
        assert_eq!(
            (empty.payload_bytes, empty.free_slot_bytes, empty.tail_bytes, empty.descriptor_bytes),
            (0, 0, 0, 0)
        );
        assert_eq!(empty.warm_bytes, pool.arena().warm_frames() as u64 * 4096);
        assert_eq!(empty.backed_bytes(), pool.arena().backed_bytes());
    }
}
