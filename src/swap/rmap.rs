//! [`Rmap`]: who has the objects of a segment: one word for each, in device order.
//!
//! ```text
//!   word    63        40 39        28 27                   0
//!          +------------+------------+----------------------+
//!          |  payer 24  | last blk 12|       owner 28       |     owner all ones: the object is dead
//!          +------------+------------+----------------------+
//!
//!   array   | begins | word | word | word | ..                   begins: a bit for each page at which a batch begins
//!
//!   blocks  | obj 0 | obj 1      | obj 2  | padding | obj 3 ..   first = the last object's end, or the batch's first block
//!           ^ batch                                 ^ batch
//! ```
//!
//! 1. Words are in order of their blocks, so that a place is found by halving.
//! 2. Objects of a batch follow each other without a gap, and no object crosses the page at which a batch begins: with
//!    that, the ends of all objects say where each begins.
//! 3. A dead word keeps its block, for its neighbours' sake.
//!
//! It knows blocks of one segment and opaque labels for payers; it neither locks nor allocates, but for [`Rmap::room`].

use super::geometry::MAX_BATCH_PAGES;
use crate::units::{MAX_SLOTS_IN_USE, Owner};

const OWNER_BITS: u32 = 28;
const BLOCK_BITS: u32 = 12;
const PAYER_BITS: u32 = 24;
const BLOCK_SHIFT: u32 = OWNER_BITS;
const PAYER_SHIFT: u32 = OWNER_BITS + BLOCK_BITS;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;
/// The owner of a dead object: the last numbers are no owners (see [`Slots::new`](super::Slots::new)).
const DEAD: u64 = OWNER_MASK;

const _: () = assert!(PAYER_SHIFT + PAYER_BITS == u64::BITS);
const _: () = assert!(MAX_SLOTS_IN_USE - 1 <= DEAD);
const _: () = assert!(MAX_BATCH_PAGES <= u64::BITS as usize, "a bit for each page of a segment");
const _: () = assert!(MAX_BATCH_PAGES * crate::units::PAGE_SIZE / super::geometry::BLOCK_BYTES == 1 << BLOCK_BITS);

/// Words before those of the objects: `begins`.
const HEAD: usize = 1;

/// Who an object on a device belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Dense number of the slot that names the place, or will; below 2^28 - 1.
    pub owner: Owner,
    /// Who pays for the place: a label of 24 bits that means something to the caller only.
    pub payer: u32,
}

impl Tenant {
    /// The word of an object that ends with this block of its segment.
    ///
    /// # Panics
    /// When a number is too large for its field.
    pub(super) fn word(self, last_block: usize) -> u64 {
        assert!(u64::from(self.owner.0) < DEAD, "{:?} has no room in a reverse word", self.owner);
        assert!(self.payer < 1 << PAYER_BITS, "payer {} has no room in a reverse word", self.payer);
        debug_assert!(last_block < 1 << BLOCK_BITS);
        u64::from(self.payer) << PAYER_SHIFT | (last_block as u64) << BLOCK_SHIFT | u64::from(self.owner.0)
    }
}

fn last_block(word: u64) -> usize {
    (word >> BLOCK_SHIFT & BLOCK_MASK) as usize
}

fn tenant(word: u64) -> Option<Tenant> {
    let owner = word & OWNER_MASK;
    (owner != DEAD).then_some(Tenant { owner: Owner(owner as u32), payer: (word >> PAYER_SHIFT) as u32 })
}

/// An object of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Its first block in the segment.
    pub(super) first: usize,
    /// Its blocks.
    pub(super) blocks: usize,
    pub(super) tenant: Tenant,
}

/// The reverse words of a segment, exactly as many as objects were written there.
#[derive(Clone, Debug, Default)]
pub(super) struct Rmap(Option<Box<[u64]>>);

const _: () = assert!(size_of::<Rmap>() == 16);

// === impl Rmap ===

impl Rmap {
    /// Room for the words of so many objects, for [`append`](Self::append). This allocates.
    pub(super) fn room(objects: usize) -> Box<[u64]> {
        vec![0; HEAD + objects].into_boxed_slice()
    }

    /// Words, those of dead objects included.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |words| words.len() - HEAD)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |words| size_of_val(&**words))
    }

    /// The objects of a batch that begins at page `begin` come after those there are; `room` is for both, and what was used so
    /// far is returned, to be dropped where nobody waits.
    ///
    /// # Panics
    /// When the room is not that large.
    #[must_use = "drop it outside the lock"]
    pub(super) fn append(&mut self, mut room: Box<[u64]>, begin: usize, batch: &[u64]) -> Rmap {
        let before = HEAD + self.len();
        assert_eq!(room.len(), before + batch.len(), "the room is for the objects there are and those that come");
        if let Some(words) = &self.0 {
            room[..before].copy_from_slice(words);
        }
        room[0] |= 1 << begin;
        room[before..].copy_from_slice(batch);
        std::mem::replace(self, Rmap(Some(room)))
    }

    /// The number of the object at exactly these blocks, dead or alive.
    #[inline]
    pub(super) fn find(&self, first: usize, blocks: usize, page_shift: u32) -> Option<usize> {
        let words = self.0.as_ref()?;
        let index = words[HEAD..].partition_point(|&word| last_block(word) < first);
        let at = index < words.len() - HEAD && self.extent(index, page_shift) == (first, blocks);
        at.then_some(index)
    }

    /// First block of an object and how many it has.
    #[inline]
    fn extent(&self, index: usize, page_shift: u32) -> (usize, usize) {
        let words = self.0.as_ref().expect("there are objects");
        let last = last_block(words[HEAD + index]);
        // The batch: the last one that begins at or before this page.
        let pages = u64::MAX >> (u64::BITS as usize - 1 - (last >> page_shift));
        let batch = (words[0] & pages).ilog2() as usize;
        let after = if index == 0 { 0 } else { last_block(words[HEAD + index - 1]) + 1 };
        let first = after.max(batch << page_shift);
        (first, last + 1 - first)
    }

    /// Who has the object; `None` when it is dead.
    #[inline]
    pub(super) fn tenant(&self, index: usize) -> Option<Tenant> {
        tenant(self.0.as_ref()?[HEAD + index])
    }

    /// The object is dead from now on. Returns who had it; `None` when it was dead before.
    #[inline]
    pub(super) fn kill(&mut self, index: usize) -> Option<Tenant> {
        let word = &mut self.0.as_mut()?[HEAD + index];
        let was = tenant(*word)?;
        *word = *word & BLOCK_MASK << BLOCK_SHIFT | DEAD;
        Some(was)
    }

    /// Another slot has the object.
    pub(super) fn set_owner(&mut self, index: usize, owner: Owner) {
        let words = self.0.as_mut().expect("there are objects");
        let word = &mut words[HEAD + index];
        let was = tenant(*word).expect("the object is alive");
        *word = Tenant { owner, ..was }.word(last_block(*word));
    }

    /// The live objects, in order of their blocks.
    pub(super) fn objects(&self, page_shift: u32) -> impl Iterator<Item = Object> + '_ {
        (0..self.len()).filter_map(move |index| {
            let tenant = self.tenant(index)?;
            let (first, blocks) = self.extent(index, page_shift);
            Some(Object { first, blocks, tenant })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHIFT: u32 = 6;

    fn someone(n: usize) -> Tenant {
        Tenant { owner: Owner(n as u32), payer: 0xff_ffff - n as u32 }
    }

    #[test]
    fn all_numbers_of_a_word_have_room() {
        let most = Tenant { owner: Owner(DEAD as u32 - 1), payer: (1 << PAYER_BITS) - 1 };
        let mut map = Rmap::default();
        drop(map.append(Rmap::room(1), 0, &[most.word(4095)]));
        assert_eq!(map.objects(SHIFT).collect::<Vec<_>>(), [Object { first: 0, blocks: 4096, tenant: most }]);
        assert_eq!((map.kill(0), map.kill(0), map.tenant(0)), (Some(most), None, None));
        assert_eq!(map.find(0, 4096, SHIFT), Some(0), "a dead word keeps its block");
    }

    #[test]
    #[should_panic(expected = "no room in a reverse word")]
    fn the_owner_that_means_dead_is_refused() {
        Tenant { owner: Owner(DEAD as u32), payer: 0 }.word(0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Batches of objects one after another, each from a new page: every object is found at its blocks and nowhere else,
        /// whatever died before.
        #[test]
        fn ends_say_where_objects_begin(batches in prop::collection::vec(prop::collection::vec(1usize..=66, 1..12), 1..6)) {
            let mut map = Rmap::default();
            let mut plain = Vec::new();
            let mut page = 0;
            for sizes in batches {
                let (begin, mut at) = (page, page << SHIFT);
                let mut words = Vec::new();
                for blocks in sizes {
                    if at + blocks > 4096 {
                        break;
                    }
                    plain.push((at, blocks, someone(plain.len())));
                    at += blocks;
                    words.push(plain.last().unwrap().2.word(at - 1));
                }
                if words.is_empty() {
                    break;
                }
                let room = Rmap::room(map.len() + words.len());
                drop(map.append(room, begin, &words));
                page = at.div_ceil(1 << SHIFT);
            }
            prop_assert_eq!(map.bytes(), 8 + 8 * plain.len());
            for k in (0..plain.len()).step_by(3) {
                prop_assert_eq!(map.kill(k), Some(plain[k].2));
            }
            let mut seen = map.objects(SHIFT);
            for (k, &(first, blocks, tenant)) in plain.iter().enumerate() {
                prop_assert_eq!(map.find(first, blocks, SHIFT), Some(k));
                for (first, blocks) in [(first + 1, blocks), (first, blocks + 1), (first + blocks, blocks + 1)] {
                    prop_assert!(map.find(first, blocks, SHIFT).is_none_or(|at| (plain[at].0, plain[at].1) == (first, blocks)));
                }
                if k % 3 != 0 {
                    prop_assert_eq!(seen.next(), Some(Object { first, blocks, tenant }));
                }
            }
            prop_assert_eq!(seen.next(), None);
        }
    }
}
