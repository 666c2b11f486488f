//! [`Entries`]: memory for the arrays of entries, from a slab of its own.
//!
//! ```text
//! page (512 words of 8 bytes), cut for arrays of 3 words
//!
//! word  0   1   2   3   4   5   6   7   8             507 508 509 510 511
//!       +---+---+---+---+---+---+---+---+---+-- ... --+---+---+---+---+---+
//!       | e | e | 0 | > | 0 | 0 | e | e | e |         | > | 0 | 0 |  spare |    e entry, 0 free entry, > link
//!       +---+---+---+---+---+---+---+---+---+-- ... --+---+---+---+---+---+
//!         array 0   | free array| array 2   |         | free array|
//! ```
//!
//! A frame has an array of one word per object that starts in it, made with the first and given back after the last.
//! Their lengths are few (1 to 128 words), so pages are cut into arrays of one of [`STEPS`] and those with free arrays
//! are listed by step. A page all of whose arrays are free may be cut for any step again, and [`trim`](Entries::trim)
//! gives the memory of such pages back.
//!
//! Why not the global allocator: arrays are given back on the `free` path, which must not call it; and readers look at
//! words of arrays that are gone already, which is harmless only in memory that stays words of entries for ever.
//!
//! Invariants:
//! - **E1** A word of a free array is a free entry to whoever reads it: zero, or a link.
//! - **E2** The words of an array are zero when it is handed out and when it is given back.
//! - **E3** Of a cut page's arrays, `free` are in its list; it is listed under its step exactly if `free` is not 0.
//! - **E4** A page is cut, idle (dirty or clean), in a trimmer's hands, or above the high-water mark.

use super::entry::Entry;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Rank, Table};
use std::io;

/// Words of a page: a page of memory, so that it can be given back.
const PAGE_WORDS: usize = 512;

/// Lengths of arrays in words. Every slot size from 32 bytes gives 1 to 128 to a frame; few sizes need more than 4. Each
/// step leaves half a page unused: twice as many of them would cost a small pool more than they save.
const STEPS: [u16; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

/// Idle pages with old contents that may gather before a trim is due.
const IDLE_PAGES: u32 = 16;

const _: () = assert!(STEPS[STEPS.len() - 1] as usize == crate::units::FRAME_SIZE / 32);

/// An array of entries: number of its first word. 0 is never an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Array(u32);

/// All arrays of entries of a pool.
#[derive(Debug)]
pub(super) struct Entries {
    /// The entries. Read by anybody; links and zeroes of free arrays are written under the lock.
    words: Table<AtomicU64>,
    /// Per page: step, list of free arrays, links. Under the lock.
    pages: Table<[AtomicU32; 4]>,
    lists: Mutex<Lists>,
    /// Copy of `lists.dirty_len`, to ask without the lock.
    dirty: AtomicU32,
}

/// What the lock guards. Pages are named by number, 0 ends a list: page 0 is not used.
#[derive(Debug)]
struct Lists {
    /// First page with free arrays, by step.
    partial: [u32; STEPS.len()],
    /// Idle pages with old contents.
    dirty: u32,
    dirty_len: u32,
    /// Idle pages without memory behind them.
    clean: u32,
    clean_len: u32,
    /// The first page never used.
    fresh: u32,
}

// A page's fields in its row of `pages`.
/// Step (low byte) and number of arrays cut so far (above): pages are cut as arrays are needed.
const CUT: usize = 0;
/// Free arrays in the page, those not cut yet included (low half); first of the list as word in the page plus 1 (high
/// half).
const FREE: usize = 1;
const PREV: usize = 2;
const NEXT: usize = 3;

fn step_for(words: usize) -> usize {
    STEPS.partition_point(|&step| (step as usize) < words)
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
}

// === impl Entries ===

impl Entries {
    /// Room for `words` entries or a little more, none backed.
    pub(super) fn reserve(words: u64) -> io::Result<Self> {
        // Arrays are named by 32 bits. Page 0 is left out.
        let pages = words.div_ceil(PAGE_WORDS as u64).min(u64::from(u32::MAX) / PAGE_WORDS as u64 - 1) as usize + 1;
        let lists = Lists { partial: [0; STEPS.len()], dirty: 0, dirty_len: 0, clean: 0, clean_len: 0, fresh: 1 };
        Ok(Entries {
            // And a page that is nobody's: who finds an array of one class by the shape of another looks past its end.
            words: Table::reserve((pages + 1) * PAGE_WORDS)?,
            pages: Table::reserve(pages)?,
            lists: Mutex::new(Rank::Entries, lists),
            dirty: AtomicU32::new(0),
        })
    }

    /// The word of entry `ordinal` of the array.
    #[inline]
    pub(super) fn word(&self, array: Array, ordinal: usize) -> &AtomicU64 {
        self.words.get(array.0 as usize + ordinal)
    }

    /// The entry, as it is now. Under the class lock, or to be checked again by the caller.
    #[inline]
    pub(super) fn entry(&self, array: Array, ordinal: usize) -> Entry {
        // Acquire pairs with the release of an unpin, so that whoever sees no pins comes after what was read under
        // them.
        Entry::from_raw(self.word(array, ordinal).load(Ordering::Acquire))
    }

    fn field(&self, page: u32, field: usize) -> u32 {
        self.pages.get(page as usize)[field].load(Ordering::Relaxed) // ordered by the lock
    }

    fn set(&self, page: u32, field: usize, value: u32) {
        self.pages.get(page as usize)[field].store(value, Ordering::Relaxed); // ordered by the lock
    }

    fn push(&self, head: &mut u32, page: u32) {
        self.set(page, PREV, 0);
        self.set(page, NEXT, *head);
        if *head != 0 {
            self.set(*head, PREV, page);
        }
        *head = page;
    }

    fn unlink(&self, head: &mut u32, page: u32) {
        let (prev, next) = (self.field(page, PREV), self.field(page, NEXT));
        match prev {
            0 => *head = next,
            prev => self.set(prev, NEXT, next),
        }
        if next != 0 {
            self.set(next, PREV, prev);
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

    /// An array of at least `words` zero entries; `None` when the table is full.
    ///
    /// # Locks
    /// Takes [`Rank::Entries`]; no system call but the first touch of a page.
    pub(super) fn alloc(&self, words: usize) -> Option<Array> {
        let step = step_for(words);
        let mut lists = self.lists.lock();
        let lists = &mut *lists;
        if lists.partial[step] == 0 {
            let page = match self.pop(&mut lists.dirty, &mut lists.dirty_len) {
                Some(page) => {
                    self.dirty.store(lists.dirty_len, Ordering::Relaxed); // a hint
                    page
                }
                None => self.pop(&mut lists.clean, &mut lists.clean_len).or_else(|| {
                    let page = lists.fresh;
                    ((page as usize) < self.pages.capacity()).then(|| lists.fresh += 1)?;
                    Some(page)
                })?,
            };
            self.cut(page, step);
            self.push(&mut lists.partial[step], page);
        }
        let page = lists.partial[step];
        let free = self.field(page, FREE);
        let (count, first) = (free & 0xffff, free >> 16);
        let (word, next) = match first {
            0 => (self.cut_next(page), 0),
            first => {
                let word = self.words.get(page as usize * PAGE_WORDS + first as usize - 1);
                let next = Entry::from_raw(word.load(Ordering::Relaxed)).linked(); // ordered by the lock
                word.store(0, Ordering::Release); // as every store of an entry: see `zspage`
                (first - 1, next)
            }
        };
        self.set(page, FREE, next << 16 | (count - 1));
        if count == 1 {
            self.unlink(&mut lists.partial[step], page);
        }
        Some(Array(page * PAGE_WORDS as u32 + word))
    }

    /// Make a page all free arrays of one step.
    fn cut(&self, page: u32, step: usize) {
        self.set(page, CUT, step as u32);
        self.set(page, FREE, (PAGE_WORDS / STEPS[step] as usize) as u32);
    }

    /// Cut one more array off the page and return its first word in the page.
    fn cut_next(&self, page: u32) -> u32 {
        let cut = self.field(page, CUT);
        self.set(page, CUT, cut + (1 << 8));
        let len = STEPS[cut as usize & 0xff] as usize;
        let first = (cut >> 8) as usize * len;
        for word in first..first + len {
            self.words.get(page as usize * PAGE_WORDS + word).store(0, Ordering::Release); // E1: free before and after
        }
        first as u32
    }

    /// Give back an array whose entries are all free.
    ///
    /// # Locks
    /// Takes [`Rank::Entries`].
    pub(super) fn free(&self, array: Array) {
        let (page, word) = (array.0 / PAGE_WORDS as u32, array.0 % PAGE_WORDS as u32);
        let mut lists = self.lists.lock();
        let lists = &mut *lists;
        let step = (self.field(page, CUT) & 0xff) as usize;
        let arrays = (PAGE_WORDS / STEPS[step] as usize) as u32;
        let free = self.field(page, FREE);
        let (count, first) = (free & 0xffff, free >> 16);
        self.words.get(array.0 as usize).store(Entry::link(first).raw(), Ordering::Release); // E1
        self.set(page, FREE, (word + 1) << 16 | (count + 1));
        if count == 0 {
            self.push(&mut lists.partial[step], page);
        }
        if count + 1 == arrays {
            self.unlink(&mut lists.partial[step], page);
            self.push(&mut lists.dirty, page);
            lists.dirty_len += 1;
            self.dirty.store(lists.dirty_len, Ordering::Relaxed); // a hint
        }
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
            // A refusal (locked memory) leaves links behind, which `cut` overwrites.
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
                idle += 1;
                page = self.field(page, NEXT);
            }
            assert_eq!(page, 0, "E4: a list of idle pages is as long as its count");
        }
        let (mut free_arrays, mut partial) = (0, 0);
        for (step, &head) in lists.partial.iter().enumerate() {
            let mut page = head;
            while page != 0 {
                assert_eq!((self.field(page, CUT) & 0xff) as usize, step, "E3: page {page} is listed under its step");
                let free = self.field(page, FREE);
                assert_ne!(free & 0xffff, 0, "E3: page {page} is listed and has a free array");
                let arrays = (PAGE_WORDS / STEPS[step] as usize) as u32;
                let uncut = arrays - (self.field(page, CUT) >> 8);
                let mut at = free >> 16;
                for _ in uncut..free & 0xffff {
                    assert_ne!(at, 0, "E3: page {page} has as many free arrays as it counts");
                    let first = page as usize * PAGE_WORDS + at as usize - 1;
                    for k in 0..STEPS[step] as usize {
                        let entry = Entry::from_raw(self.words.get(first + k).load(Ordering::Relaxed));
                        assert_eq!(entry.state(), super::entry::State::Free, "E1: word {}", first + k);
                        assert!(k == 0 || entry == Entry::FREE, "E2: word {}", first + k);
                    }
                    at = Entry::from_raw(self.words.get(first).load(Ordering::Relaxed)).linked();
                }
                assert_eq!(at, 0, "E3: page {page} has as many free arrays as it counts");
                free_arrays += u64::from(free & 0xffff);
                partial += 1;
                page = self.field(page, NEXT);
            }
        }
        let (mut cut, mut all) = (0, 0);
        // Idle pages keep their last step and a full count of free arrays; pages never used have neither.
        for page in 1..lists.fresh {
            let here = (PAGE_WORDS / STEPS[(self.field(page, CUT) & 0xff) as usize] as usize) as u64;
            if u64::from(self.field(page, FREE) & 0xffff) < here {
                cut += 1;
                all += here;
            }
        }
        assert_eq!(cut + idle, u64::from(lists.fresh - 1), "E4: every used page is cut or idle");
        assert!(partial <= cut, "E3: only cut pages are listed under a step");
        assert_eq!(all - free_arrays, arrays, "as many arrays are out as frames have one");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_length_has_a_step_with_little_slack() {
        for words in 1..=128 {
            let step = STEPS[step_for(words)] as usize;
            assert!(step >= words && step * 2 < words * 3, "{words} in {step}");
        }
    }

    #[test]
    fn a_stale_reader_may_look_past_the_last_array() {
        let entries = Entries::reserve(512).unwrap();
        let arrays: Vec<_> = (0..512).map(|_| entries.alloc(1).unwrap()).collect();
        // It has the array of the zspage that is there now, and the ordinal of a class that was there before.
        assert_eq!(entries.entry(*arrays.last().unwrap(), 127), Entry::FREE);
    }

    #[test]
    fn an_idle_page_serves_another_length() {
        let entries = Entries::reserve(512).unwrap();
        let long: Vec<_> = (0..4).map(|_| entries.alloc(128).unwrap()).collect();
        assert_eq!(entries.alloc(1), None, "the only page is cut for others");
        entries.assert_valid(4);
        for array in long {
            entries.free(array);
        }
        entries.assert_valid(0);
        assert_eq!(entries.bytes(), 4096);
        entries.trim(0);
        assert_eq!(entries.bytes(), 0);
        entries.assert_valid(0);
        let short: Vec<_> = (0..512).map(|_| entries.alloc(1).unwrap()).collect();
        assert_eq!(entries.alloc(1), None);
        entries.assert_valid(512);
        assert!(short.iter().all(|&a| entries.entry(a, 0) == Entry::FREE), "E2");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arrays_never_overlap(
            ops in prop::collection::vec((0usize..3, 1usize..=128, any::<prop::sample::Index>()), 1..150),
        ) {
            let entries = Entries::reserve(16 * 512).unwrap();
            let mut out: Vec<(Array, usize, u64)> = Vec::new();
            for (n, (op, len, which)) in ops.into_iter().enumerate() {
                if op > 0 || out.is_empty() {
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
                    entries.free(array);
                    if len % 3 == 0 {
                        entries.trim(len as u32 % 2);
                    }
                }
                entries.assert_valid(out.len() as u64);
            }
        }
    }
}
