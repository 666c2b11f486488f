//! [`BlockWord`]: all there is to know of a block, in 64 bits.
//!
//! ```text
//!  bit  63                                                              3   2   1  0
//!       +-----------------------------------------------------------------+---+------+
//!       |                         payload (61)                            | L | tag  |
//!       +-----------------------------------------------------------------+---+------+
//!  tag
//!  0    empty     0                                            reads as zeroes; the whole word is 0
//!  1    object    |     0 12     | length 13 | location 36 |   in the pool: compressed, or as it was if the length is 4096
//!  2    repeated  | the repeated word, sign-extended from 61 |   no object
//!  3    wide      0                                            the page repeats the word that the second table has
//! ```
//!
//! - *L*: somebody is about to store a wide word. The rest still says what the block holds. Stores and discards wait; loads
//!   do not; compaction may change the location.
//! - *length* 4096 means kept as it is. It is recorded here, never derived from policy.

use crate::units::{Location, PAGE_SIZE};
use crate::zsmalloc::Object;
use std::fmt;

const TAG: u64 = 0b11;
const OBJECT: u64 = 1;
const REPEATED: u64 = 2;
const WIDE: u64 = 3;
const LOCKED: u64 = 1 << 2;
const PAYLOAD_SHIFT: u32 = 3;
const LENGTH_BITS: u32 = 13;

const _: () = assert!(PAGE_SIZE < 1 << LENGTH_BITS);
const _: () = assert!(PAYLOAD_SHIFT + Location::BITS + LENGTH_BITS <= u64::BITS);

/// The word of one block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockWord(u64);

/// What a block word says, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Nothing is stored.
    Empty,
    /// An object of the pool.
    Object(Object),
    /// The page repeats this word.
    Repeated(u64),
    /// The page repeats the word in the second table.
    Wide,
}

impl BlockWord {
    /// Nothing stored.
    pub(super) const EMPTY: Self = BlockWord(0);

    /// A repeated word that does not fit in here.
    pub(super) const WIDE: Self = BlockWord(WIDE);

    /// The word of a block whose page is this object.
    pub(super) fn object(object: Object) -> Self {
        debug_assert!((1..=PAGE_SIZE).contains(&object.len));
        BlockWord((object.location.raw() | (object.len as u64) << Location::BITS) << PAYLOAD_SHIFT | OBJECT)
    }

    /// The word of a block whose page repeats `word`, if it fits.
    pub(super) fn repeated(word: u64) -> Option<Self> {
        let payload = word << PAYLOAD_SHIFT;
        (payload as i64 >> PAYLOAD_SHIFT == word as i64).then_some(BlockWord(payload | REPEATED))
    }

    pub(super) const fn from_raw(raw: u64) -> Self {
        BlockWord(raw)
    }

    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    /// What the block holds.
    pub(super) fn says(self) -> Says {
        let payload = self.0 >> PAYLOAD_SHIFT;
        match self.0 & TAG {
            OBJECT => Says::Object(Object {
                location: Location::from_raw(payload & ((1 << Location::BITS) - 1)),
                len: (payload >> Location::BITS & ((1 << LENGTH_BITS) - 1)) as usize,
            }),
            REPEATED => Says::Repeated((self.0 as i64 >> PAYLOAD_SHIFT) as u64),
            WIDE => Says::Wide,
            _ => Says::Empty,
        }
    }

    /// The block's object, if it has one.
    pub(super) fn names(self) -> Option<Object> {
        match self.says() {
            Says::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Whether the page repeats a word.
    pub(super) fn is_same_filled(self) -> bool {
        matches!(self.says(), Says::Repeated(_) | Says::Wide)
    }

    /// Whether the page is kept as it is.
    pub(super) fn is_huge(self) -> bool {
        self.names().is_some_and(|object| object.len == PAGE_SIZE)
    }

    pub(super) const fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// The same with the lock bit.
    pub(super) const fn locked(self) -> Self {
        BlockWord(self.0 | LOCKED)
    }

    /// The same with its object elsewhere; the lock bit is kept.
    pub(super) fn moved(self, to: Location) -> Option<Self> {
        let object = self.names()?;
        Some(BlockWord(Self::object(Object { location: to, ..object }).0 | self.0 & LOCKED))
    }
}

impl fmt::Debug for BlockWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.says(), if self.is_locked() { ", locked" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_keep_location_and_length() {
        for raw in [0, 1, (1 << Location::BITS) - 1] {
            for len in [1, 2, 4095, 4096] {
                let object = Object { location: Location::from_raw(raw), len };
                let word = BlockWord::object(object);
                assert_eq!((word.names(), word.locked().names()), (Some(object), Some(object)));
                assert_eq!((word.is_huge(), word.is_same_filled()), (len == 4096, false));
                let to = Location::from_raw(raw ^ 5);
                let moved = word.locked().moved(to).unwrap();
                assert_eq!(moved.names(), Some(Object { location: to, len }));
                assert!(moved.is_locked() && !word.moved(to).unwrap().is_locked());
            }
        }
    }

    #[test]
    fn words_of_61_bits_fit_and_others_do_not() {
        for fits in [0, 1, u64::MAX, (1 << 60) - 1, !0 << 60] {
            let word = BlockWord::repeated(fits).unwrap();
            assert_eq!((word.says(), word.is_same_filled(), word.names()), (Says::Repeated(fits), true, None));
            assert_eq!(word.locked().says(), Says::Repeated(fits));
        }
        for wide in [1 << 60, 1 << 63, !(1 << 60), 0x1234_5678_9abc_def0] {
            assert_eq!(BlockWord::repeated(wide), None, "{wide:#x}");
        }
    }

    #[test]
    fn an_empty_word_is_zero() {
        assert_eq!((BlockWord::EMPTY.raw(), BlockWord::EMPTY.says()), (0, Says::Empty));
        assert_eq!(BlockWord::WIDE.says(), Says::Wide);
        assert!(BlockWord::EMPTY.moved(Location::from_raw(1)).is_none());
    }
}
