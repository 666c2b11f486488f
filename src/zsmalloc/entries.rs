//! [`Entries`]: memory for the arrays of entries, from a slab of its own.
//!
//! ```text
//! page: 512 words in 128 units of 4                     free units, a bit each
//!
//! unit    0     1     2     3     4     5     6                126   127
//!       +-----+-----+-----+-----+-----+-----+-----+-- ... --+-----+-----+
//!       | eeee e000 | 0000  0000 0000 | eeee  e0ee|         |   free    |    e entry, 0 free entry
//!       +-----+-----+-----+-----+-----+-----+-----+-- ... --+-----+-----+
//!       |  array 0  |      free       |  array 5  |
//!                   |<- longest run: 3 (here) --->|   which list the page is in
//! ```
//!
//! A zspage has an array of one word per slot, made with its first object and given back after its last. Arrays of all
//! lengths share pages: one is cut from the page whose longest run of free units is the shortest that will do, so what
//! is left over is in the last pages only. [`trim`](Entries::trim) gives the memory of idle pages back.
//!
//! Why not the global allocator: arrays are given back on the `free` path, which must not call it; and readers look at
//! words of arrays that are gone already, which is harmless only in memory that stays words of entries for ever.
//!
//! Invariants:
//! - **E1** A word of no array is a free entry, zero, to whoever reads it.
//! - **E2** The words of an array are zero when it is handed out and when it is given back.
//! - **E3** A page's free units are those of no array; it is listed by the length of the longest run of them, if there is
//!   one.
//! - **E4** A page holds arrays, is idle (dirty or clean), in a trimmer's hands, or above the high-water mark.

use super::entry::Entry;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Rank, Table};
use std::io;

/// Words of a page: a page of memory, so that it can be given back.
const PAGE_WORDS: usize = 512;

/// Words of a unit: an array is rounded up to whole ones.
const UNIT_WORDS: usize = 4;

/// Units of a page, a bit of a `u128` each.
const PAGE_UNITS: usize = PAGE_WORDS / UNIT_WORDS;

/// The longest array in words.
pub(super) const MAX_WORDS: usize = PAGE_WORDS;

/// Idle pages with old contents that may gather before a trim is due.
const IDLE_PAGES: u32 = 16;

const _: () = assert!(PAGE_UNITS == u128::BITS as usize);

/// An array of entries: number of its first unit. 0 is never an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Array(u32);

/// All arrays of entries of a pool.
#[derive(Debug)]
pub(super) struct Entries {
    /// The entries. Read by anybody.
    words: Table<AtomicU64>,
    /// Per page, under the lock: free units (two words), links in its list (previous in the low half).
    pages: Table<[AtomicU64; 4]>,
    lists: Mutex<Lists>,
    /// Copy of `lists.dirty_len`, to ask without the lock.
    dirty: AtomicU32,
}

/// What the lock guards. Pages are named by number, 0 ends a list: page 0 is not used.
#[derive(Debug)]
struct Lists {
    /// First page of those with arrays whose longest run of free units is 1 and more.
    partial: [u32; PAGE_UNITS - 1],
    /// Bit k: `partial[k]` has a page.
    some: u128,
    /// Idle pages with old contents.
    dirty: u32,
    dirty_len: u32,
    /// Idle pages without memory behind them.
    clean: u32,
    clean_len: u32,
    /// The first page never used.
    fresh: u32,
    /// Arrays that are out.
    arrays: u64,
}

// Fields of a page in its row of `pages`.
/// Bit u: unit u is free (here and in the word after it).
const FREE: usize = 0;
const LINKS: usize = 2;

/// The longest run of ones.
fn longest_run(free: u128) -> usize {
    if free == 0 || free == u128::MAX {
        return free.count_ones() as usize;
    }
    // Bit u of `starts[k]`: a run of 2^k ones begins at u. The last that is not 0 is looked for.
    let mut starts = [free; PAGE_UNITS.ilog2() as usize];
    let mut k = 0;
    while k + 1 < starts.len() {
        starts[k + 1] = starts[k] & starts[k] >> (1 << k);
        if starts[k + 1] == 0 {
            break;
        }
        k += 1;
    }
    // The longest run is shorter than twice that: lengthen it by every smaller power that there is room for.
    let (mut at, mut len) = (starts[k], 1 << k);
    while k > 0 {
        k -= 1;
        let longer = at & starts[k] >> len;
        if longer != 0 {
            (at, len) = (longer, len + (1 << k));
        }
    }
    len
}

/// Where the first run of `len` ones begins; there is one.
fn first_run(free: u128, len: usize) -> usize {
    // Bit u of `starts`: the `have` bits from u on are ones.
    let (mut starts, mut have) = (free, 1);
    while have < len {
        let more = have.min(len - have);
        starts &= starts >> more;
        have += more;
    }
    starts.trailing_zeros() as usize
}

/// The bits of `len` units from `first` on.
fn units(first: usize, len: usize) -> u128 {
    (u128::MAX >> (PAGE_UNITS - len)) << first
}

// === impl Array ===

impl Array {
    /// The number to keep in a descriptor, 0 for none.
    pub(super) fn to_raw(array: Option<Array>) -> u32 {
        array.map_or(0, |array| array.0)
    }

    /// The array with this number.
    #[inline]
    pub(super) fn from_raw(raw: u32) -> Option<Array> {
        (raw != 0).then_some(Array(raw))
    }

    fn page(self) -> u32 {
        self.0 / PAGE_UNITS as u32
    }

    fn unit(self) -> usize {
        self.0 as usize % PAGE_UNITS
    }
}

// === impl Lists ===

impl Lists {
    /// The list of pages with arrays whose longest run of free units is `run`, not 0.
    fn partial(&mut self, run: usize) -> &mut u32 {
        &mut self.partial[run - 1]
    }

    fn settle(&mut self, run: usize) {
        let bit = 1 << (run - 1);
        self.some = if self.partial[run - 1] == 0 { self.some & !bit } else { self.some | bit };
    }
}

// === impl Entries ===

impl Entries {
    /// Room for `arrays` arrays of any length up to [`MAX_WORDS`], none backed.
    pub(super) fn reserve(arrays: usize) -> io::Result<Self> {
        // A page for each is enough: none is taken while another has room. Units are named by 32 bits. Page 0 is left out.
        let pages = arrays.min(u32::MAX as usize / PAGE_UNITS - 1) + 1;
        let lists = Lists {
            partial: [0; PAGE_UNITS - 1],
            some: 0,
            dirty: 0,
            dirty_len: 0,
            clean: 0,
            clean_len: 0,
            fresh: 1,
            arrays: 0,
        };
        Ok(Entries {
            // And a page that is nobody's: who finds an array of one class by the shape of another looks past its end.
            words: Table::reserve((pages + 1) * PAGE_WORDS)?,
            pages: Table::reserve(pages)?,
            lists: Mutex::new(Rank::Entries, lists),
            dirty: AtomicU32::new(0),
        })
    }

    /// The word of slot `slot` of the array's zspage.
    #[inline]
    pub(super) fn word(&self, array: Array, slot: usize) -> &AtomicU64 {
        self.words.get(array.0 as usize * UNIT_WORDS + slot)
    }

    /// The entry, as it is now. Under the class lock, or to be checked again by the caller.
    #[inline]
    pub(super) fn entry(&self, array: Array, slot: usize) -> Entry {
        // Acquire pairs with the release of an unpin, so that whoever sees no pins comes after what was read under
        // them.
        Entry::from_raw(self.word(array, slot).load(Ordering::Acquire))
    }

    fn field(&self, page: u32, field: usize) -> u64 {
        self.pages.get(page as usize)[field].load(Ordering::Relaxed) // ordered by the lock
    }

    fn set(&self, page: u32, field: usize, value: u64) {
        self.pages.get(page as usize)[field].store(value, Ordering::Relaxed); // ordered by the lock
    }

    fn free_units(&self, page: u32) -> u128 {
        u128::from(self.field(page, FREE)) | u128::from(self.field(page, FREE + 1)) << 64
    }

    fn set_free_units(&self, page: u32, free: u128) {
        self.set(page, FREE, free as u64);
        self.set(page, FREE + 1, (free >> 64) as u64);
    }

    /// The pages before and after this one in its list.
    fn links(&self, page: u32) -> (u32, u32) {
        let links = self.field(page, LINKS);
        (links as u32, (links >> 32) as u32)
    }

    fn set_links(&self, page: u32, prev: u32, next: u32) {
        self.set(page, LINKS, u64::from(prev) | u64::from(next) << 32);
    }

    fn push(&self, head: &mut u32, page: u32) {
        self.set_links(page, 0, *head);
        if *head != 0 {
            self.set_links(*head, page, self.links(*head).1);
        }
        *head = page;
    }

    fn unlink(&self, head: &mut u32, page: u32) {
        let (prev, next) = self.links(page);
        match prev {
            0 => *head = next,
            prev => self.set_links(prev, self.links(prev).0, next),
        }
        if next != 0 {
            self.set_links(next, prev, self.links(next).1);
        }
    }

    fn pop(&self, head: &mut u32, len: &mut u32) -> Option<u32> {
        let page = *head;
        if page == 0 {
            return None;
        }
        self.unlink(head, page);
        *len -= 1;
        Some(page)
    }

    /// Change the free units of a page with arrays, before or after, and what list it is in.
    fn set_free(&self, lists: &mut Lists, page: u32, old: u128, new: u128) {
        self.set_free_units(page, new);
        let (was, is) = (longest_run(old), longest_run(new));
        if was == is {
            return;
        }
        if (1..PAGE_UNITS).contains(&was) {
            self.unlink(lists.partial(was), page);
            lists.settle(was);
        }
        match is {
            0 => {}
            PAGE_UNITS => {
                self.push(&mut lists.dirty, page);
                lists.dirty_len += 1;
                self.dirty.store(lists.dirty_len, Ordering::Relaxed); // a hint
            }
            is => {
                self.push(lists.partial(is), page);
                lists.settle(is);
            }
        }
    }

    /// A page without arrays.
    fn idle_page(&self, lists: &mut Lists) -> Option<u32> {
        if let Some(page) = self.pop(&mut lists.dirty, &mut lists.dirty_len) {
            self.dirty.store(lists.dirty_len, Ordering::Relaxed); // a hint
            return Some(page);
        }
        self.pop(&mut lists.clean, &mut lists.clean_len).or_else(|| {
            let page = lists.fresh;
            ((page as usize) < self.pages.capacity()).then(|| lists.fresh += 1)?;
            Some(page)
        })
    }

    /// An array of at least `words` zero entries, [`MAX_WORDS`] at most; `None` when the table is full.
    ///
    /// # Locks
    /// Takes [`Rank::Entries`]; no system call but the first touch of a page.
    pub(super) fn alloc(&self, words: usize) -> Option<Array> {
        let len = words.div_ceil(UNIT_WORDS);
        let mut lists = self.lists.lock();
        let lists = &mut *lists;
        let long_enough = lists.some >> (len - 1);
        let (page, free) = match long_enough {
            0 => (self.idle_page(lists)?, u128::MAX),
            some => {
                let page = *lists.partial(len + some.trailing_zeros() as usize);
                (page, self.free_units(page))
            }
        };
        let first = first_run(free, len);
        self.set_free(lists, page, free, free & !units(first, len));
        lists.arrays += 1;
        let array = Array(page * PAGE_UNITS as u32 + first as u32);
        for word in 0..len * UNIT_WORDS {
            // Zero before and after (E1), unless the memory is new; released as every store of an entry: see `zspage`.
            self.word(array, word).store(Entry::FREE.raw(), Ordering::Release);
        }
        Some(array)
    }

    /// Give back an array made for `words` entries, all of which are free.
    ///
    /// # Locks
    /// Takes [`Rank::Entries`].
    pub(super) fn free(&self, array: Array, words: usize) {
        let mut lists = self.lists.lock();
        let free = self.free_units(array.page());
        let freed = units(array.unit(), words.div_ceil(UNIT_WORDS));
        debug_assert_eq!(free & freed, 0, "E3: {array:?} is out");
        self.set_free(&mut lists, array.page(), free, free | freed);
        lists.arrays -= 1;
    }

    /// Whether enough idle pages have gathered that a [`trim`](Self::trim) pays.
    #[inline]
    pub(super) fn wants_trim(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) > IDLE_PAGES // a hint
    }

    /// Give back the memory of idle pages until `keep` are left with theirs. One system call per page, outside the
    /// lock.
    pub(super) fn trim(&self, keep: u32) {
        loop {
            let page = {
                let mut lists = self.lists.lock();
                let lists = &mut *lists;
                if lists.dirty_len <= keep {
                    return;
                }
                let page = self.pop(&mut lists.dirty, &mut lists.dirty_len).expect("E4: the count says there is one");
                self.dirty.store(lists.dirty_len, Ordering::Relaxed); // a hint
                page
            };
            let first = page as usize * PAGE_WORDS;
            // After a refusal (locked memory) the zeroes are still there.
            let _ = self.words.discard(first..first + PAGE_WORDS);
            let mut lists = self.lists.lock();
            let lists = &mut *lists;
            self.push(&mut lists.clean, page);
            lists.clean_len += 1;
        }
    }

    /// Bytes of memory behind arrays and idle pages.
    pub(super) fn bytes(&self) -> u64 {
        let lists = self.lists.lock();
        u64::from(lists.fresh - 1 - lists.clean_len) * (PAGE_WORDS * size_of::<u64>()) as u64
    }

    /// Check E1, E3 and E4, and that exactly `arrays` arrays are out. At a quiet point.
    pub(super) fn assert_valid(&self, arrays: u64) {
        let lists = self.lists.lock();
        let mut idle = 0;
        for (head, len) in [(lists.dirty, lists.dirty_len), (lists.clean, lists.clean_len)] {
            let mut page = head;
            for _ in 0..len {
                assert_ne!(page, 0, "E4: a list of idle pages is as long as its count");
                assert_eq!(self.free_units(page), u128::MAX, "E4: no array is in idle page {page}");
                idle += 1;
                page = self.links(page).1;
            }
            assert_eq!(page, 0, "E4: a list of idle pages is as long as its count");
        }
        let mut listed = 0;
        for (k, &head) in lists.partial.iter().enumerate() {
            assert_eq!(lists.some >> k & 1 == 1, head != 0, "E3: it is known which lists have pages");
            let (mut page, mut before) = (head, 0);
            while page != 0 {
                assert_eq!(longest_run(self.free_units(page)), k + 1, "E3: page {page} is listed by its longest run");
                assert_eq!(self.links(page).0, before, "E3: page {page} knows the page before it");
                listed += 1;
                (before, page) = (page, self.links(page).1);
            }
        }
        let (mut holding, mut with_room) = (0, 0);
        for page in 1..lists.fresh {
            let free = self.free_units(page);
            holding += u64::from(free != u128::MAX);
            with_room += u64::from(free != u128::MAX && free != 0);
            for word in (0..PAGE_WORDS).filter(|word| free >> (word / UNIT_WORDS) & 1 == 1) {
                let entry = Entry::from_raw(self.words.get(page as usize * PAGE_WORDS + word).load(Ordering::Relaxed));
                assert_eq!(entry, Entry::FREE, "E1: word {word} of page {page} is of no array");
            }
        }
        assert_eq!(listed, with_room, "E3: a page with arrays and free units is listed");
        assert_eq!(holding + idle, u64::from(lists.fresh - 1), "E4: every used page holds arrays or is idle");
        assert_eq!(lists.arrays, arrays, "as many arrays are out as zspages have one");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_of_ones_are_found() {
        for (free, longest) in
            [(0, 0), (1, 1), (0b1101_1100, 3), (u128::MAX, 128), (u128::MAX << 1, 127), (1 << 127, 1)]
        {
            assert_eq!(longest_run(free), longest, "{free:#b}");
        }
        for (free, len, first) in [(0b1101_1100, 2, 2), (0b1101_1100, 3, 2), (0b1110_0110, 3, 5), (u128::MAX, 128, 0)] {
            assert_eq!(first_run(free, len), first, "{len} of {free:#b}");
        }
        assert_eq!(first_run(u128::MAX << 57, 71), 57);
    }

    proptest! {
        #[test]
        fn the_longest_run_is_what_counting_says(ones: Vec<(u8, u8)>) {
            let free = ones.iter().fold(0, |free, &(first, len)| {
                let first = usize::from(first) % PAGE_UNITS;
                free | units(first, (usize::from(len) % 40 + 1).min(PAGE_UNITS - first))
            });
            let (mut rest, mut counted) = (free, 0);
            while rest != 0 {
                rest &= rest >> 1;
                counted += 1;
            }
            prop_assert_eq!(longest_run(free), counted);
            if counted > 0 {
                let run = units(first_run(free, counted), counted);
                prop_assert_eq!(free & run, run);
            }
        }
    }

    #[test]
    fn a_stale_reader_may_look_past_the_last_array() {
        let entries = Entries::reserve(1).unwrap();
        let arrays: Vec<_> = (0..PAGE_UNITS).map(|_| entries.alloc(1).unwrap()).collect();
        assert_eq!(entries.alloc(1), None);
        // It has the array of the zspage that is there now, and the slot of a class that was there before.
        assert_eq!(entries.entry(*arrays.last().unwrap(), MAX_WORDS - 1), Entry::FREE);
    }

    #[test]
    fn an_array_is_cut_where_it_fits_best() {
        let entries = Entries::reserve(8).unwrap();
        let of = |units: usize| entries.alloc(units * UNIT_WORDS).unwrap();
        let roomy = of(100); // leaves 28
        let tight = of(118); // leaves 10
        assert_ne!(roomy.page(), tight.page());
        assert_eq!(of(10).page(), tight.page(), "10 units fill the page that has just so many");
        assert_eq!(of(10).page(), roomy.page(), "that one is full");
        entries.free(tight, 118 * UNIT_WORDS);
        assert_eq!(of(18).page(), roomy.page(), "the page with 18 left is filled, not the one with 118");
        entries.assert_valid(4);
    }

    #[test]
    fn an_idle_page_serves_another_length() {
        let entries = Entries::reserve(1).unwrap();
        let long: Vec<_> = (0..4).map(|_| entries.alloc(128).unwrap()).collect();
        assert_eq!(entries.alloc(1), None, "the only page is full");
        entries.assert_valid(4);
        for array in long {
            entries.free(array, 128);
        }
        entries.assert_valid(0);
        assert_eq!(entries.bytes(), 4096);
        entries.trim(0);
        assert_eq!(entries.bytes(), 0);
        entries.assert_valid(0);
        let short: Vec<_> = (0..PAGE_UNITS).map(|_| entries.alloc(3).unwrap()).collect();
        assert_eq!(entries.alloc(1), None);
        entries.assert_valid(PAGE_UNITS as u64);
        assert!(short.iter().all(|&a| entries.entry(a, 0) == Entry::FREE), "E2");
    }

    #[test]
    fn a_page_for_each_array_is_enough() {
        let entries = Entries::reserve(40).unwrap();
        let mut out: Vec<(Array, usize)> = Vec::new();
        for k in 0..4000 {
            if out.len() == 40 {
                let (array, words) = out.swap_remove(k * 7 % 40);
                entries.free(array, words);
            }
            // Long and short by turns, so that the short ones are in the way.
            let words = if k % 2 == 0 { 1 + k % 9 } else { MAX_WORDS - k % 90 };
            out.push((entries.alloc(words).expect("no more arrays are out than there are pages"), words));
        }
        entries.assert_valid(40);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arrays_never_overlap(
            ops in prop::collection::vec((0usize..3, 1usize..=MAX_WORDS, any::<prop::sample::Index>()), 1..150),
        ) {
            let entries = Entries::reserve(16).unwrap();
            let mut out: Vec<(Array, usize, u64)> = Vec::new();
            for (n, (op, len, which)) in ops.into_iter().enumerate() {
                if op > 0 || out.is_empty() {
                    let len = if op == 1 { len.div_ceil(16) } else { len };
                    let Some(array) = entries.alloc(len) else { continue };
                    for k in 0..len {
                        prop_assert_eq!(entries.entry(array, k), Entry::FREE);
                        entries.word(array, k).store(n as u64 * 4 + 2, Ordering::Relaxed);
                    }
                    out.push((array, len, n as u64 * 4 + 2));
                } else {
                    let (array, len, mark) = out.swap_remove(which.index(out.len()));
                    for k in 0..len {
                        prop_assert_eq!(entries.word(array, k).swap(0, Ordering::Relaxed), mark);
                    }
                    entries.free(array, len);
                    if len % 3 == 0 {
                        entries.trim(len as u32 % 2);
                    }
                }
                entries.assert_valid(out.len() as u64);
            }
        }
    }
}
