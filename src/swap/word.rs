//! [`SlotWord`]: all there is to know of a slot, in 64 bits.
//!
//! ```text
//!  bit  63                                                          8   7   6      3 2    0
//!       +-----------------------------------------------------------+---+----------+------+
//!       |                        payload (56)                       | W | count(4) | tag  |
//!       +-----------------------------------------------------------+---+----------+------+
//!  tag
//!  0    empty        0                                       nothing stored; the whole word is 0
//!  1    compressed   | generation 8 | length - 1 12 | location 36 |
//!  2    pattern      | generation 8 |        7      | location 36 |   the page repeats the object's 8 bytes
//!  3    same-filled  | the repeated word, sign-extended from 56   |   no object, no charge, no LRU
//!  4    physical     | generation 10 | blocks 7 | block 34 | device 5 |   see place.rs
//!  5    lost         |   0    | errno 16 | why 3 | device 5        |   the page cannot be read back; see loss.rs
//! ```
//!
//! - *count*: references to the slot ([`dup`](crate::zswap::Zswap::dup)); 1 to 14 where something is stored, 15 where it is
//!   referred to so often that the number stands elsewhere (`slots/counts.rs`).
//! - *W*: a writeback of the slot is in flight. Pickers skip it; whoever empties or replaces the slot cancels the flight.
//! - *length* 4096 means stored raw: recorded here, never derived from policy (R-29).
//! - *generation* tells two contents of one slot apart where a location comes back.
//!
//! | tag | object in the pool | place on a device | charged | on an LRU list |
//! |---|---|---|---|---|
//! | compressed, pattern | yes | no | yes | yes |
//! | same-filled | no | no | no | no |
//! | physical | no | yes | as Swap | no |
//! | lost | no | no | no | no |
//!
//! Words of one cluster change under its lock; only compaction changes the location in a word without it, by
//! compare-exchange, so every other change is a swap or a compare-exchange too.

use super::{Loss, Place};
use crate::units::{Location, PAGE_SIZE};
use std::fmt;

const TAG_BITS: u32 = 3;
const COUNT_SHIFT: u32 = TAG_BITS;
const COUNT_BITS: u32 = 4;
const WRITEBACK: u64 = 1 << (COUNT_SHIFT + COUNT_BITS);
const PAYLOAD_SHIFT: u32 = 8;
const PAYLOAD_BITS: u32 = 56;

const LENGTH_SHIFT: u32 = Location::BITS;
const LENGTH_BITS: u32 = 12;
const GENERATION_SHIFT: u32 = LENGTH_SHIFT + LENGTH_BITS;

const _: () = assert!(PAYLOAD_SHIFT + PAYLOAD_BITS == 64);
const _: () = assert!(COUNT_SHIFT + COUNT_BITS + 1 == PAYLOAD_SHIFT);
const _: () = assert!(GENERATION_SHIFT + 8 == PAYLOAD_BITS);
const _: () = assert!(1 << LENGTH_BITS == PAGE_SIZE);
const _: () = assert!(Place::BITS == PAYLOAD_BITS);
const _: () = assert!(Loss::BITS <= PAYLOAD_BITS);

/// The count of a slot whose number of references stands in the table of counts.
pub(in crate::swap) const MANY: u8 = (1 << COUNT_BITS) - 1;

/// The word of one slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotWord(u64);

/// What a slot word says, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing is stored.
    Empty,
    /// An object in the pool: compressed bytes, or the page as it was when `length` is 4096.
    Compressed(Entry),
    /// An object of 8 bytes in the pool that the page repeats.
    Pattern(Entry),
    /// The page repeats this word.
    SameFilled(u64),
    /// A place on a device.
    Physical(Place),
    /// Nothing any more: the page could not be read back. It stays so until the slot is stored again or freed.
    Lost(Loss),
}

/// Where an object of a slot is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it starts in the pool.
    pub location: Location,
    /// Payload in bytes: 1 to 4096.
    pub length: usize,
    /// Which content of the slot this is, modulo 256.
    pub generation: u8,
}

impl Entry {
    /// Whether the page is kept as it was.
    #[inline]
    pub const fn is_raw(self) -> bool {
        self.length == PAGE_SIZE
    }

    fn payload(self) -> u64 {
        debug_assert!((1..=PAGE_SIZE).contains(&self.length));
        self.location.raw() | (self.length as u64 - 1) << LENGTH_SHIFT | u64::from(self.generation) << GENERATION_SHIFT
    }

    fn from_payload(payload: u64) -> Self {
        Entry {
            location: Location::from_raw(payload & ((1 << Location::BITS) - 1)),
            length: (payload >> LENGTH_SHIFT & ((1 << LENGTH_BITS) - 1)) as usize + 1,
            generation: (payload >> GENERATION_SHIFT) as u8,
        }
    }
}

impl SlotWord {
    /// Nothing stored.
    pub const EMPTY: SlotWord = SlotWord(0);

    /// The word of a slot that holds `content` for one reference. `None` for a repeated word that does not fit in 56 bits.
    pub fn new(content: Content) -> Option<Self> {
        let (tag, payload) = match content {
            Content::Empty => return Some(Self::EMPTY),
            Content::Compressed(entry) => (1, entry.payload()),
            Content::Pattern(entry) => (2, entry.payload()),
            Content::SameFilled(word) => {
                let payload = word << PAYLOAD_SHIFT;
                if (payload as i64 >> PAYLOAD_SHIFT) as u64 != word {
                    return None;
                }
                (3, payload >> PAYLOAD_SHIFT)
            }
            Content::Physical(place) => (4, place.pack()),
            Content::Lost(loss) => (5, loss.pack()),
        };
        debug_assert!(payload >> PAYLOAD_BITS == 0);
        Some(SlotWord(payload << PAYLOAD_SHIFT | 1 << COUNT_SHIFT | tag))
    }

    /// The word as it lies in memory.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The word that lies in memory.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        SlotWord(raw)
    }

    /// Whether nothing is stored.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What the slot holds.
    #[inline]
    pub fn content(self) -> Content {
        let payload = self.0 >> PAYLOAD_SHIFT;
        match self.0 & ((1 << TAG_BITS) - 1) {
            0 => Content::Empty,
            1 => Content::Compressed(Entry::from_payload(payload)),
            2 => Content::Pattern(Entry::from_payload(payload)),
            3 => Content::SameFilled((self.0 as i64 >> PAYLOAD_SHIFT) as u64),
            4 => Content::Physical(Place::unpack(payload)),
            5 => Content::Lost(Loss::unpack(payload)),
            tag => unreachable!("no slot word has tag {tag}"),
        }
    }

    /// The object in the pool, if the slot has one.
    #[inline]
    pub fn entry(self) -> Option<Entry> {
        match self.content() {
            Content::Compressed(entry) | Content::Pattern(entry) => Some(entry),
            _ => None,
        }
    }

    /// References to the slot up to 14, and 15 for more ([`SlotGuard::references`](super::SlotGuard::references) knows them); 0 where
    /// nothing is stored.
    #[inline]
    pub const fn count(self) -> u8 {
        (self.0 >> COUNT_SHIFT) as u8 & MANY
    }

    /// With another count. Only the guard of a slot changes it: what stands in the table of counts belongs to it.
    #[inline]
    pub(in crate::swap) const fn with_count(self, count: u8) -> Self {
        assert!(count <= MANY);
        SlotWord(self.0 & !((MANY as u64) << COUNT_SHIFT) | (count as u64) << COUNT_SHIFT)
    }

    /// Whether a writeback is in flight.
    #[inline]
    pub const fn writeback(self) -> bool {
        self.0 & WRITEBACK != 0
    }

    /// With the writeback bit set or clear.
    #[inline]
    pub(in crate::swap) const fn with_writeback(self, on: bool) -> Self {
        SlotWord(if on { self.0 | WRITEBACK } else { self.0 & !WRITEBACK })
    }

    /// With the object at another location; everything else stays.
    #[inline]
    pub fn with_location(self, to: Location) -> Self {
        const MASK: u64 = ((1 << Location::BITS) - 1) << PAYLOAD_SHIFT;
        SlotWord(self.0 & !MASK | to.raw() << PAYLOAD_SHIFT)
    }

    /// Whether `later` holds the same content of the slot: equal but for reference count, writeback bit and where
    /// compaction may have moved the object.
    #[inline]
    pub fn same_content(self, later: SlotWord) -> bool {
        match (self.entry(), later.entry()) {
            (Some(a), Some(b)) => self.0 & 7 == later.0 & 7 && a.length == b.length && a.generation == b.generation,
            _ => self.with_count(0).with_writeback(false) == later.with_count(0).with_writeback(false),
        }
    }
}

impl fmt::Debug for SlotWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} x{}{}", self.content(), self.count(), if self.writeback() { " W" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Why;
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        (0u64..1 << 36, 1usize..=4096, any::<u8>()).prop_map(|(location, length, generation)| Entry {
            location: Location::from_raw(location),
            length,
            generation,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn contents_survive_the_word(entry in entry(), to in 0u64..1 << 36, count in 1u8..=15) {
            for content in [Content::Compressed(entry), Content::Pattern(entry)] {
                let word = SlotWord::new(content).unwrap();
                prop_assert_eq!(word.content(), content);
                prop_assert_eq!(word.count(), 1);
                let marked = word.with_count(count).with_writeback(true);
                prop_assert_eq!((marked.content(), marked.count(), marked.writeback()), (content, count, true));
                let moved = marked.with_location(Location::from_raw(to));
                prop_assert_eq!(moved.entry(), Some(Entry { location: Location::from_raw(to), ..entry }));
                prop_assert!(word.same_content(moved));
            }
        }

        #[test]
        fn places_survive_the_word(device in 0u8..32, block in 0u64..1 << 34, blocks in 1u8..=66, generation in 0u16..1024) {
            let content = Content::Physical(Place { device, block, blocks, generation });
            prop_assert_eq!(SlotWord::new(content).unwrap().content(), content);
        }

        #[test]
        fn small_words_of_either_sign_fit(word in -(1i64 << 55)..1i64 << 55) {
            let content = Content::SameFilled(word as u64);
            prop_assert_eq!(SlotWord::new(content).unwrap().content(), content);
        }
    }

    #[test]
    fn losses_survive_the_word() {
        for why in [Why::Io { errno: 5 }, Why::Corrupt] {
            let content = Content::Lost(Loss { device: 31, why });
            let word = SlotWord::new(content).unwrap();
            assert_eq!((word.content(), word.count(), word.entry()), (content, 1, None));
            assert!(word.same_content(word.with_count(9)) && !word.is_empty());
        }
    }

    #[test]
    fn words_past_56_bits_do_not_fit() {
        for word in [1i64 << 55, -(1i64 << 55) - 1, i64::MAX, i64::MIN] {
            assert_eq!(SlotWord::new(Content::SameFilled(word as u64)), None);
        }
    }

    #[test]
    fn another_content_is_another_generation() {
        let entry = Entry { location: Location::from_raw(5), length: 100, generation: 1 };
        let one = SlotWord::new(Content::Compressed(entry)).unwrap();
        let two = SlotWord::new(Content::Compressed(Entry { generation: 2, ..entry })).unwrap();
        assert!(!one.same_content(two) && !one.same_content(SlotWord::EMPTY));
    }

    #[test]
    fn the_writeback_bit_stays_as_it_is_set() {
        let word = SlotWord::new(Content::SameFilled(7)).unwrap();
        let on = word.with_writeback(true);
        assert!(on.writeback() && on.with_writeback(true) == on && on.content() == word.content());
        assert!(on.with_writeback(false) == word && word.with_writeback(false) == word);
    }
}
