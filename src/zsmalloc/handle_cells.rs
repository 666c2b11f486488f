//! [`HandleCells`]: the cells behind a pool's own handles.
//!
//! ```text
//! word         63      | 62 .... 61 | 60 ...... 48 | 47 .. 36 | 35 ............ 0
//!   in use     1       |            | length       |          | location
//!   free       0       |                               32 bits: next free index + 1, 0 ends the list
//! generation   32 bits: the index's generation less 1
//! ```
//!
//! Invariants:
//! - **C1** A cell's generation only grows, by one for each object freed; who makes it grow frees that object, and
//!   nobody else.
//! - **C2** A cell in the free list is in nobody's hands; one whose generation is used up is never put there.

use super::cells::{Cells, Object};
use super::handle::{Handle, Tag};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Bug, Mutex, Planted, Rank, Table};
use crate::units::{Location, Owner};
use std::io;

const IN_USE: u64 = 1 << 63;
const LEN_SHIFT: u32 = 48;
const LEN_MASK: u64 = 0x1fff;
const LOCATION_MASK: u64 = (1 << Location::BITS) - 1;

/// The cells of a pool with handles. An index is the [`Owner`] its objects have.
#[derive(Debug)]
pub struct HandleCells {
    /// Tells the pool's handles from those of other pools.
    tag: Tag,
    words: Table<AtomicU64>,
    generations: Table<AtomicU32>,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    /// First free index plus 1.
    head: u32,
    /// Indexes given out at least once.
    made: u32,
}

fn word_of(object: Object) -> u64 {
    IN_USE | (object.len as u64) << LEN_SHIFT | object.location.raw()
}

fn object_of(word: u64) -> Option<Object> {
    let object =
        || Object { location: Location::from_raw(word & LOCATION_MASK), len: (word >> LEN_SHIFT & LEN_MASK) as usize };
    (word & IN_USE != 0).then(object)
}

impl HandleCells {
    pub(super) fn reserve(cells: u32, tag: Tag) -> io::Result<Self> {
        Ok(HandleCells {
            tag,
            words: Table::reserve(cells as usize)?,
            generations: Table::reserve(cells as usize)?,
            free: Mutex::new(Rank::Cells, Free { head: 0, made: 0 }),
        })
    }

    fn word(&self, index: u32) -> &AtomicU64 {
        self.words.get(index as usize)
    }

    /// What the handles' tags say.
    pub(super) fn tag(&self) -> u8 {
        self.tag.number()
    }

    /// Cells there is room for.
    pub(super) fn capacity(&self) -> u32 {
        self.words.capacity() as u32
    }

    /// Indexes given out at least once.
    pub(super) fn made(&self) -> u32 {
        self.free.lock().made
    }

    /// Generation of the index now.
    pub(super) fn generation(&self, index: u32) -> u32 {
        // Acquire pairs with `end`: who sees the next generation sees that this one's object is being freed.
        self.generations.get(index as usize).load(Ordering::Acquire) + 1
    }

    /// A cell for a new object; `None` when none is left.
    pub(super) fn take(&self) -> Option<u32> {
        let mut free = self.free.lock();
        if let Some(index) = free.head.checked_sub(1) {
            let word = self.word(index);
            free.head = word.load(Ordering::Relaxed) as u32; // ordered by the lock
            word.store(0, Ordering::Relaxed);
            return Some(index);
        }
        let index = free.made;
        (index < self.capacity()).then(|| free.made += 1)?;
        Some(index)
    }

    /// Give a cell back whose object is gone, unless its generations are used up (C2).
    pub(super) fn put(&self, index: u32) {
        if self.generation(index) > Handle::LAST_GENERATION {
            return;
        }
        let mut free = self.free.lock();
        self.word(index).store(u64::from(free.head), Ordering::Relaxed); // ordered by the lock
        free.head = index + 1;
    }

    /// Let the cell name an object. Release pairs with the acquire in `object`.
    pub(super) fn name(&self, index: u32, object: Object) {
        self.word(index).store(word_of(object), Ordering::Release);
    }

    /// End a generation and take out the object it named, if it is the index's and names one.
    pub(super) fn end(&self, index: u32, generation: u32, planted: Planted) -> Option<Object> {
        let object = object_of(self.word(index).load(Ordering::Acquire))?;
        let stored = generation - 1;
        if planted.is(Bug::RemoveSkipsClaim) {
            self.generations.get(index as usize).store(stored + 1, Ordering::Release);
            self.word(index).store(0, Ordering::Release);
            return Some(object);
        }
        if planted.is(Bug::RemoveKeepsGeneration) {
            return object_of(self.word(index).swap(0, Ordering::AcqRel));
        }
        // Release pairs with `generation`; C1: of several who try, one succeeds.
        self.generations
            .get(index as usize)
            .compare_exchange(stored, stored + 1, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        // Acquire pairs with a relocation: the last one counts, and none comes after.
        object_of(self.word(index).swap(0, Ordering::AcqRel))
    }

    /// For tests: as if all generations of the index up to this one had been used.
    #[cfg(test)]
    pub(super) fn age(&self, index: u32, generation: u32) {
        self.generations.get(index as usize).store(generation - 1, Ordering::Release);
    }
}

impl Cells for HandleCells {
    fn object(&self, owner: Owner) -> Option<Object> {
        // Acquire pairs with `name` and `relocate`.
        object_of(self.word(owner.0).load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let word = self.word(owner.0);
        let moved = |word| {
            let object = object_of(word).filter(|object| object.location == from)?;
            Some(word_of(Object { location: to, ..object }))
        };
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved).is_ok()
    }

    /// Cells stay backed once they were given out.
    fn memory_bytes(&self) -> u64 {
        u64::from(self.made()) * (size_of::<u64>() + size_of::<u32>()) as u64
    }

    /// Each cell is free, retired, or names one of the objects.
    fn assert_valid(&self, live: u64) {
        let free = self.free.lock();
        let (mut at, mut len) = (free.head, 0);
        while let Some(index) = at.checked_sub(1) {
            let word = self.word(index).load(Ordering::Relaxed);
            assert!(index < free.made && word & IN_USE == 0, "C2: index {index} in the free list is free");
            assert!(self.generation(index) <= Handle::LAST_GENERATION, "C2: index {index} has generations left");
            at = word as u32;
            len += 1;
            assert!(len <= free.made, "C2: the free list ends");
        }
        let (mut used, mut retired) = (0, 0);
        for index in 0..free.made {
            used += u64::from(self.word(index).load(Ordering::Relaxed) & IN_USE != 0);
            retired += u64::from(self.generation(index) > Handle::LAST_GENERATION);
        }
        assert_eq!(used, live, "each live object has a cell that names it");
        assert_eq!(u64::from(len) + used + retired, u64::from(free.made), "C2: a cell is free, retired or used");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::handle::TagSpace;
    use super::*;

    const OBJECT: Object = Object { location: Location::from_raw(LOCATION_MASK), len: 4096 };

    #[test]
    fn words_keep_location_and_length() {
        assert_eq!(object_of(word_of(OBJECT)), Some(OBJECT));
        assert_eq!(object_of(u64::from(u32::MAX)), None, "a link of the free list names nothing");
    }

    #[test]
    fn an_index_whose_generations_are_used_up_is_retired() {
        let cells = HandleCells::reserve(2, TagSpace::new().take().unwrap()).unwrap();
        let index = cells.take().unwrap();
        cells.age(index, Handle::LAST_GENERATION);
        cells.name(index, OBJECT);
        assert_eq!(cells.end(index, Handle::LAST_GENERATION, Planted::NONE), Some(OBJECT));
        assert_eq!(cells.end(index, Handle::LAST_GENERATION, Planted::NONE), None);
        cells.put(index);
        cells.assert_valid(0);
        let other = cells.take().unwrap();
        assert_ne!(other, index);
        assert_eq!(cells.take(), None, "the first is never given out again");
    }

    #[test]
    fn a_cell_moves_only_from_where_it_is() {
        let cells = HandleCells::reserve(1, TagSpace::new().take().unwrap()).unwrap();
        let owner = Owner(cells.take().unwrap());
        cells.name(owner.0, OBJECT);
        let to = Location::from_raw(7);
        assert!(!cells.relocate(owner, to, OBJECT.location));
        assert!(cells.relocate(owner, OBJECT.location, to));
        assert_eq!(cells.object(owner), Some(Object { location: to, len: 4096 }));
        assert_eq!(cells.end(owner.0, 1, Planted::NONE).map(|object| object.location), Some(to));
        assert!(!cells.relocate(owner, to, OBJECT.location), "an object being freed stays where it is");
    }
}
