//! [`Table`]: a large array of zero-born atomics, backed where it was touched.
//!
//! Metadata whose index is dense but whose size is unknown in advance: slot words, LRU links, zspages, object entries. An
//! element can be looked at whatever became of what it described, for its memory is never unmapped: stale readers read a
//! stale word, fail their check and look again.

use std::io;
use std::ops::Range;

/// Types that all-zero bytes are a good value of, equal to their `Default`.
///
/// # Safety
/// All-zero bytes must be a valid value of the type, and it must have no destructor. (Under loom elements are built by
/// `Default` instead.)
pub unsafe trait Zeroed: Default {
    /// Make it zero, under loom, where nothing is unmapped. Release: that the kernel unmaps a page is seen by all, with what was
    /// before it.
    #[doc(hidden)]
    fn clear(&self) {}
}

macro_rules! zeroed {
    ($($t:ident)*) => {$(
        // SAFETY: an atomic integer has the layout of its integer, for which zero is a value.
        unsafe impl Zeroed for super::atomic::$t {
            fn clear(&self) {
                self.store(0, super::atomic::Ordering::Release);
            }
        }
    )*};
}
zeroed!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize);

// SAFETY: an array of such values is such a value.
unsafe impl<T: Zeroed> Zeroed for [T; 16] {}
// SAFETY: as above.
unsafe impl<T: Zeroed> Zeroed for [T; 4] {}

/// An array of `T` in reserved address space.
pub struct Table<T: Zeroed> {
    capacity: usize,
    imp: imp::Table<T>,
}

impl<T: Zeroed> Table<T> {
    /// Room for `capacity` elements, all zero, none backed.
    ///
    /// # Errors
    /// When there is no address space for them.
    pub fn reserve(capacity: usize) -> io::Result<Self> {
        Ok(Table { capacity, imp: imp::Table::reserve(capacity)? })
    }

    /// Elements there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The element.
    ///
    /// # Panics
    /// When the index is not below the capacity.
    #[inline]
    pub fn get(&self, index: usize) -> &T {
        assert!(index < self.capacity, "index {index} of {}", self.capacity);
        self.imp.get(index)
    }

    /// Have the caches fetch the element; a hint.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        self.imp.prefetch(index);
    }

    /// Where its elements lie, to look them up in `/proc/self/pagemap`.
    #[cfg(not(loom))]
    pub fn addresses(&self) -> Range<usize> {
        let start = self.imp.get(0) as *const T as usize;
        start..start + self.capacity * size_of::<T>()
    }

    /// Under loom, nowhere in particular.
    #[cfg(loom)]
    pub fn addresses(&self) -> Range<usize> {
        0..0
    }

    /// Give back the memory of the whole pages inside `range`, whose elements nobody writes any more. They are, or become,
    /// zero.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn discard(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.end <= self.capacity);
        self.imp.discard(range)
    }
}

impl<T: Zeroed> std::fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
mod imp {
    use super::super::Region;
    use super::Zeroed;
    use crate::units::FRAME_SIZE;
    use std::io;
    use std::marker::PhantomData;
    use std::ops::Range;

    pub(super) struct Table<T> {
        region: Region,
        base: *const T,
        elements: PhantomData<T>,
    }

    // SAFETY: only `&T` is handed out.
    unsafe impl<T: Sync> Sync for Table<T> {}
    // SAFETY: the mapping belongs to no thread, and `T` has no destructor that could care.
    unsafe impl<T: Send> Send for Table<T> {}

    impl<T: Zeroed> Table<T> {
        pub(super) fn reserve(capacity: usize) -> io::Result<Self> {
            const { assert!(align_of::<T>() <= FRAME_SIZE && !std::mem::needs_drop::<T>()) };
            let region = Region::reserve(capacity.max(1) * size_of::<T>())?;
            let base = region.with(0..0, |p| p.cast::<T>());
            Ok(Table { region, base, elements: PhantomData })
        }

        #[inline]
        pub(super) fn get(&self, index: usize) -> &T {
            // SAFETY: the caller checked the index against the capacity, which the region has room for.
            let element = unsafe { self.base.add(index) };
            // SAFETY: mapped for the life of `self`, page-aligned at the base; zero bytes are a value (`Zeroed`), and only
            // shared references exist, so later contents are values stored through atomics.
            unsafe { &*element }
        }

        #[inline]
        pub(super) fn prefetch(&self, index: usize) {
            let start = index * size_of::<T>();
            self.region.prefetch(start..start + size_of::<T>());
        }

        pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            let start = (range.start * size_of::<T>()).next_multiple_of(FRAME_SIZE);
            let end = range.end * size_of::<T>() / FRAME_SIZE * FRAME_SIZE;
            if start < end { self.region.discard(start..end) } else { Ok(()) }
        }
    }
}

#[cfg(loom)]
mod imp {
    use super::Zeroed;
    use std::collections::HashMap;
    use std::io;
    use std::ops::Range;
    use std::sync::Mutex;

    /// Elements made with the table, before a model starts its threads. Loom takes the making of an atomic for a write, and
    /// one that a thread makes while another looks for it would be reported as a race.
    const MADE_AT_ONCE: usize = 16;

    /// Elements past the first few are made when first looked at: a model touches few of many.
    pub(super) struct Table<T> {
        elements: Mutex<HashMap<usize, Box<T>>>,
    }

    impl<T: Zeroed> Table<T> {
        pub(super) fn reserve(capacity: usize) -> io::Result<Self> {
            let first = (0..capacity.min(MADE_AT_ONCE)).map(|index| (index, Box::default()));
            Ok(Table { elements: Mutex::new(first.collect()) })
        }

        pub(super) fn get(&self, index: usize) -> &T {
            let element: *const T = &**self.elements.lock().unwrap().entry(index).or_default();
            // SAFETY: boxes are never removed before the table is dropped, and a box's contents do not move.
            unsafe { &*element }
        }

        pub(super) fn prefetch(&self, _index: usize) {}

        pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            for index in range {
                let element: Option<*const T> = self.elements.lock().unwrap().get(&index).map(|e| &raw const **e);
                // SAFETY: boxes are never removed before the table is dropped, and a box's contents do not move.
                element.inspect(|&element| unsafe { &*element }.clear());
            }
            Ok(())
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::atomic::{AtomicU64, Ordering};
    use super::*;

    #[test]
    fn elements_are_born_zero_and_keep_what_is_stored() {
        let table = Table::<AtomicU64>::reserve(100_000_000).unwrap();
        assert_eq!(table.get(99_999_999).load(Ordering::Relaxed), 0);
        table.get(7).store(3, Ordering::Relaxed);
        assert_eq!(table.get(7).load(Ordering::Relaxed), 3);
    }

    #[test]
    fn discard_spares_elements_on_shared_pages() {
        let table = Table::<AtomicU64>::reserve(4096).unwrap();
        for i in 0..4096 {
            table.get(i).store(1, Ordering::Relaxed);
        }
        table.discard(1..1024 + 1).unwrap();
        let kept = |i| table.get(i).load(Ordering::Relaxed);
        assert_eq!((kept(1), kept(511), kept(512), kept(1023), kept(1024)), (1, 1, 0, 0, 1));
    }
}
