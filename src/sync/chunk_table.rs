//! [`ChunkTable`]: an array that grows by small chunks, none of which ever moves.
//!
//! ```text
//!   chunks (reserved address space)   | * | * | 0 | 0 | 0 ..
//!                                       |   |
//!                       elements        |   +--> [ 64 .. 127 ]   boxed when first asked for
//!                                       +------> [  0 ..  63 ]
//! ```
//!
//! As [`GrowTable`](super::GrowTable), with an end that is known, and at most a chunk more than what is asked for instead of
//! twice as much. `get` is two loads and no lock; a chunk lives as long as the table: type-stable memory.

use super::Table;
use super::atomic::{AtomicUsize, Ordering};
use std::io;
use std::marker::PhantomData;
use std::ptr;

/// Elements of a chunk. Under loom, few: each is a tracked object.
const CHUNK: usize = if cfg!(loom) { 2 } else { 64 };

/// An array of up to so many `T` that never moves or frees an element before it is dropped.
pub struct ChunkTable<T> {
    /// Addresses of the chunks, 0 where none was made. Set once, by compare-exchange.
    chunks: Table<AtomicUsize>,
    owns: PhantomData<Box<[T]>>,
}

// SAFETY: the table hands out `&T` only, and owns its elements as a `Box<[T]>` would.
unsafe impl<T: Send + Sync> Sync for ChunkTable<T> {}

impl<T: Default> ChunkTable<T> {
    /// An empty table with room for `capacity` elements.
    ///
    /// # Errors
    /// When there is no address space for the addresses of its chunks.
    pub fn reserve(capacity: usize) -> io::Result<Self> {
        Ok(ChunkTable { chunks: Table::reserve(capacity.div_ceil(CHUNK))?, owns: PhantomData })
    }

    /// The element, if its chunk was made.
    ///
    /// # Panics
    /// When the index is beyond the last chunk.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        // Acquire pairs with the release in `get_or_make`: the elements are built before they are seen.
        let base = self.chunks.get(index / CHUNK).load(Ordering::Acquire) as *const T;
        if base.is_null() {
            return None;
        }
        // SAFETY: a chunk that is not null points to `CHUNK` elements.
        let element = unsafe { base.add(index % CHUNK) };
        // SAFETY: elements are initialised before the chunk is published and live as long as `self`.
        Some(unsafe { &*element })
    }

    /// The element; its chunk is allocated if need be. Whoever makes chunks out of order makes those
    /// before them too, for the table is dropped up to the first gap.
    ///
    /// # Panics
    /// When the index is beyond the last chunk.
    pub fn get_or_make(&self, index: usize) -> &T {
        let chunk = self.chunks.get(index / CHUNK);
        if chunk.load(Ordering::Acquire) == 0 {
            let made: Box<[T]> = (0..CHUNK).map(|_| T::default()).collect();
            let made = Box::into_raw(made);
            if chunk.compare_exchange(0, made.cast::<T>() as usize, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: `made` came from `Box::into_raw` just above and was not published.
                drop(unsafe { Box::from_raw(made) });
            }
        }
        self.get(index).expect("the chunk was made above")
    }

    /// Where the addresses of its chunks lie.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        self.chunks.addresses()
    }

    /// Bytes of memory that `elements` elements from the first on take: their chunks, and pages of addresses of chunks.
    pub fn bytes_of(elements: usize) -> usize {
        let chunks = elements.div_ceil(CHUNK);
        chunks * CHUNK * size_of::<T>() + (chunks * size_of::<AtomicUsize>()).next_multiple_of(crate::units::FRAME_SIZE)
    }
}

impl<T> Drop for ChunkTable<T> {
    fn drop(&mut self) {
        // There is no gap (`get_or_make`), and no use in looking through all addresses of a large table.
        for chunk in 0..self.chunks.capacity() {
            let base = self.chunks.get(chunk).load(Ordering::Acquire) as *mut T;
            if base.is_null() {
                return;
            }
            let elements = ptr::slice_from_raw_parts_mut(base, CHUNK);
            // SAFETY: published chunks came from `Box::into_raw` of a slice of this length, and `&mut self` says that nobody
            // has a reference into them.
            drop(unsafe { Box::from_raw(elements) });
        }
    }
}

impl<T> std::fmt::Debug for ChunkTable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkTable").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::Arc;
    use super::super::atomic::AtomicUsize;
    use super::*;

    /// Counts the elements that are dropped.
    #[derive(Default)]
    struct Counted(Option<Arc<AtomicUsize>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            if let Some(dropped) = &self.0 {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn elements_stay_where_they_are_until_the_table_is_dropped() {
        let table = ChunkTable::<AtomicUsize>::reserve(10 * CHUNK).unwrap();
        assert!(table.get(5).is_none());
        let early: *const AtomicUsize = table.get_or_make(5);
        table.get_or_make(5).store(7, Ordering::Relaxed);
        (0..10 * CHUNK).for_each(|index| assert!(table.get_or_make(index).load(Ordering::Relaxed) <= 7));
        assert!(ptr::eq(early, table.get(5).unwrap()));
        assert_eq!(table.get(5).unwrap().load(Ordering::Relaxed), 7);
    }

    #[test]
    fn every_element_is_dropped_once() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let table = ChunkTable::<Mutexed>::reserve(4 * CHUNK).unwrap();
        for index in 0..CHUNK + 1 {
            table.get_or_make(index).0.lock().unwrap().0 = Some(Arc::clone(&dropped));
        }
        drop(table);
        assert_eq!(dropped.load(Ordering::Relaxed), CHUNK + 1);
    }

    #[derive(Default)]
    struct Mutexed(std::sync::Mutex<Counted>);
}
