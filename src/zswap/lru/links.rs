//! [`Links`]: a word for each entry, that chains it into its list.
//!
//! ```text
//!  bit  63    60   59    58   57   56  55            28 27             0
//!       +--------+------+-----+---+-----+---------------+--------------+
//!       | codec  | mark | new |   | ref |     next      |     prev     |    next 0: off the lists, END at an end,
//!       +--------+------+-----+---+-----+---------------+--------------+    else owner + 1
//! ```
//!
//! Off the lists the codec stays: a reader that pinned the object before it went decodes with it. Nothing else of the word means
//! anything then: a slot whose page lies on a device, or that repeats a word, needs none.
//!
//! - *mark*: an age mark of its list names the entry (see `ages`).
//! - *new*: it has not been looked at since it was stored, and policy gives it a second chance for that.
//! - *ref*: it was loaded since it was looked at.
//!
//! Links, mark and new change under the lock of the entry's group, *ref* by anyone, and the codec under the cluster lock of the
//! entry while it is on no list.

use crate::sync::Table;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::Owner;
use std::io;
use std::ops::Range;

const LINK_BITS: u32 = 28;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
const NEXT_SHIFT: u32 = LINK_BITS;
const CODEC_SHIFT: u32 = 60;

/// What `next` says off the lists.
const OFF: u32 = 0;
/// What `prev` and `next` say at an end; the head and tail of an empty list.
pub(super) const END: u32 = LINK_MASK as u32;
pub(super) const REFERENCED: u64 = 1 << 56;
pub(super) const NEW: u64 = 1 << 58;
pub(super) const MARK: u64 = 1 << 59;

/// The link of an owner.
pub(super) fn link(owner: Owner) -> u32 {
    owner.0 + 1
}

/// The owner of a link that is neither OFF nor END.
pub(super) fn owner(link: u32) -> Owner {
    debug_assert!(link != OFF && link != END);
    Owner(link - 1)
}

/// A link word as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(u64);

impl Word {
    pub(super) fn prev(self) -> u32 {
        (self.0 & LINK_MASK) as u32
    }

    pub(super) fn next(self) -> u32 {
        (self.0 >> NEXT_SHIFT & LINK_MASK) as u32
    }

    pub(super) fn is_listed(self) -> bool {
        self.next() != OFF
    }

    pub(super) fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// The words of all owners.
#[derive(Debug)]
pub(super) struct Links {
    words: Table<AtomicU64>,
}

impl Links {
    pub(super) fn new(owners: usize) -> io::Result<Self> {
        Ok(Links { words: Table::reserve(owners)? })
    }

    pub(super) fn word(&self, link: u32) -> Word {
        Word(self.words.get(link as usize - 1).load(Ordering::Relaxed))
    }

    /// Change bits of a word, whatever others do to its referenced bit. Returns what it was.
    fn change(&self, link: u32, clear: u64, set: u64) -> Word {
        let word = self.words.get(link as usize - 1);
        // Relaxed: the group's lock orders all but the codec, which `prepare` does.
        let old = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !clear | set));
        Word(old.unwrap_or_else(|word| word))
    }

    pub(super) fn set_prev(&self, link: u32, prev: u32) {
        self.change(link, LINK_MASK, prev.into());
    }

    pub(super) fn set_next(&self, link: u32, next: u32) {
        self.change(link, LINK_MASK << NEXT_SHIFT, u64::from(next) << NEXT_SHIFT);
    }

    /// Make it the last one, after `prev`, and clear these bits too. Returns what it was.
    pub(super) fn set_last(&self, link: u32, prev: u32, clear: u64) -> Word {
        self.change(link, LINK_MASK | LINK_MASK << NEXT_SHIFT | clear, u64::from(prev) | u64::from(END) << NEXT_SHIFT)
    }

    /// Take it off its list. The mark goes too.
    pub(super) fn set_off(&self, link: u32) {
        self.change(link, LINK_MASK | LINK_MASK << NEXT_SHIFT | MARK, u64::from(OFF) << NEXT_SHIFT);
    }

    pub(super) fn set_mark(&self, link: u32, on: bool) {
        self.change(link, MARK, if on { MARK } else { 0 });
    }

    /// Prepare the word of an entry that is on no list, under its cluster lock and before its slot word is published.
    pub(super) fn prepare(&self, owner: Owner, codec: u8, new: bool) {
        debug_assert!(codec < 16);
        let word = self.words.get(owner.0 as usize);
        debug_assert!(!Word(word.load(Ordering::Relaxed)).is_listed(), "L1: on a list");
        // Release pairs with the acquire in `codec`: a reader that sees this codec also sees that the slot was emptied before.
        word.store(u64::from(codec) << CODEC_SHIFT | if new { NEW } else { 0 }, Ordering::Release);
    }

    /// The codec of an entry. Right if the slot word, read again afterwards, still names the object that was pinned before.
    #[inline]
    pub(super) fn codec(&self, owner: Owner) -> u8 {
        (self.words.get(owner.0 as usize).load(Ordering::Acquire) >> CODEC_SHIFT) as u8
    }

    #[inline]
    pub(super) fn mark_referenced(&self, owner: Owner) {
        let word = self.words.get(owner.0 as usize);
        // Most loads find the bit set: a plain load keeps the line shared. A hint: no order needed.
        if word.load(Ordering::Relaxed) & REFERENCED == 0 {
            word.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, owner: Owner) {
        self.words.prefetch(owner.0 as usize);
    }

    /// Fetch the words of its neighbours, which are written when it leaves its list. A hint: they may not be neighbours any more.
    #[inline]
    pub(super) fn prefetch_neighbours(&self, owner: Owner) {
        if !crate::sync::FETCHES_AHEAD {
            return;
        }
        let word = Word(self.words.get(owner.0 as usize).load(Ordering::Relaxed));
        for link in [word.prev(), word.next()] {
            if link != OFF && link != END && (link as usize) <= self.words.capacity() {
                self.words.prefetch(link as usize - 1);
            }
        }
    }

    pub(super) fn addresses(&self) -> Range<usize> {
        self.words.addresses()
    }

    pub(super) fn discard(&self, owners: Range<usize>) {
        // A refusal (locked memory) costs memory only: words off the lists are set before they are used.
        let _ = self.words.discard(owners);
    }
}
