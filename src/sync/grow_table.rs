//! [`GrowTable`]: an array without a fixed end whose elements never move.
//!
//! ```text
//! bucket   0   1      2          3                     k
//!        +---+-------+----------+---------------------+--
//! holds  | 1 |   2   |    4     |         8           |  2^k elements, boxed when first asked for
//! index  | 0 | 1   2 | 3 ... 6  | 7 ... 14            |
//! ```
//!
//! `get` is two loads and no lock. Buckets are made under no lock either (the loser of a race drops its own) and live as
//! long as the table, so an index once given stays good: type-stable memory.

use super::atomic::{AtomicUsize, Ordering};
use std::marker::PhantomData;
use std::ptr;

const BUCKETS: usize = 32;

/// A growing array of `T` that never moves or frees an element before it is dropped.
pub struct GrowTable<T> {
    /// Addresses of the buckets, 0 where none was made. Set once, by compare-exchange.
    buckets: [AtomicUsize; BUCKETS],
    owns: PhantomData<Box<[T]>>,
}

// SAFETY: the table hands out `&T` only, and owns its elements as a `Box<[T]>` would.
unsafe impl<T: Send + Sync> Sync for GrowTable<T> {}

fn place(index: usize) -> (usize, usize) {
    let bucket = (index + 1).ilog2() as usize;
    (bucket, index + 1 - (1 << bucket))
}

impl<T: Default> GrowTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        GrowTable { buckets: std::array::from_fn(|_| AtomicUsize::new(0)), owns: PhantomData }
    }

    /// The element, if its bucket was made.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        let (bucket, offset) = place(index);
        // Acquire pairs with the release in `get_or_make`: the elements are built before they are seen.
        let base = self.buckets.get(bucket)?.load(Ordering::Acquire) as *const T;
        if base.is_null() {
            return None;
        }
        // SAFETY: a bucket that is not null points to `1 << bucket` elements, and `offset` is below that.
        let element = unsafe { base.add(offset) };
        // SAFETY: elements are initialised before the bucket is published and live as long as `self`.
        Some(unsafe { &*element })
    }

    /// The element; its bucket is allocated if need be.
    ///
    /// # Panics
    /// When the index is 2^32 - 1 or more.
    pub fn get_or_make(&self, index: usize) -> &T {
        let (bucket, _) = place(index);
        if self.buckets[bucket].load(Ordering::Acquire) == 0 {
            let made: Box<[T]> = (0..1usize << bucket).map(|_| T::default()).collect();
            let made = Box::into_raw(made);
            if self.buckets[bucket]
                .compare_exchange(0, made.cast::<T>() as usize, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: `made` came from `Box::into_raw` just above and was not published.
                drop(unsafe { Box::from_raw(made) });
            }
        }
        self.get(index).expect("the bucket was made above")
    }
}

impl<T: Default> Default for GrowTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for GrowTable<T> {
    fn drop(&mut self) {
        for (bucket, base) in self.buckets.iter().enumerate() {
            let base = base.load(Ordering::Acquire) as *mut T;
            if !base.is_null() {
                let elements = ptr::slice_from_raw_parts_mut(base, 1 << bucket);
                // SAFETY: published buckets came from `Box::into_raw` of a slice of this length, and `&mut self` says that
                // nobody has a reference into them.
                drop(unsafe { Box::from_raw(elements) });
            }
        }
    }
}

impl<T> std::fmt::Debug for GrowTable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowTable").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn indexes_fill_the_buckets_without_gap() {
        let places: Vec<_> = (0..15).map(place).collect();
        let expected: Vec<_> = (0..4).flat_map(|b| (0..1 << b).map(move |o| (b, o))).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn elements_stay_where_they_are() {
        let table = GrowTable::<AtomicUsize>::new();
        assert!(table.get(5).is_none());
        let early: *const AtomicUsize = table.get_or_make(5);
        table.get_or_make(5).store(7, Ordering::Relaxed);
        for i in 0..1000 {
            table.get_or_make(i);
        }
        assert!(ptr::eq(early, table.get(5).unwrap()));
        assert_eq!(table.get(5).unwrap().load(Ordering::Relaxed), 7);
    }
}
