//! A page as an LZ4 block, in one pass.
//!
//! ```text
//!    anchor        at - from    at               the block, a sequence per match:
//!      |             <--------- |
//!   ...+------------------------+-------+...      token | literals' rest | literals | distance | match's rest
//!      |  literals              | match |           4+4 bits: literals (15: more follow), match less 4 (the same)
//!   ...+------------------------+-------+...
//! ```
//!
//! A general compressor takes inputs of any length, from buffers it has to bound; a page has one length, positions fit in 16 bits,
//! and no match is farther away than the format allows. That leaves a table of half the bytes to clear for each page and fewer branches. Most of
//! the time that remains is branches which cannot be foreseen, so this tries to have few:
//!
//! - It does not look backwards from a match for more of it: a tenth of the time, for 0.3 percent of the bytes.
//! - It ends as soon as what it wrote cannot become less than a page any more.
//!
//! 1. A position in the table is that of an earlier, or the same, word of this page, or 0.
//! 2. As the format wants it, a match begins at least 12 bytes before the end, and the last 5 bytes are literals.
//!
//! The format: `doc/lz4_Block_format.md` of the LZ4 project.

use crate::compress::OUTPUT_BYTES;
use crate::units::PAGE_SIZE;

/// Positions by hash, as a power of two: more find few matches more in 4096 bytes, and all are cleared for each page.
const HASH_BITS: u32 = 12;

/// Bytes that are hashed. One more than the shortest match: what has four bytes in common by chance is not worth a sequence.
const HASHED_BYTES: u32 = 5;

/// The shortest match there is.
const MIN_MATCH: usize = 4;

/// No match begins after this.
const LAST_START: usize = PAGE_SIZE - 12;

/// No match goes on behind this.
const LAST_END: usize = PAGE_SIZE - 5;

/// After so many positions without a match, as a power of two, the next are farther apart by one: noise is not read to its end.
const PATIENCE: u32 = 6;

/// What a field of the token holds at most; then more bytes follow.
const FIELD: usize = 15;

/// Literals are copied so many at a time.
const CHUNK: usize = 16;

const _: () = assert!(PAGE_SIZE <= 1 << 16, "positions and distances have 16 bits");
// A sequence begins below a page's length, with fewer literals than a page has; see `Encoder::literals`.
const _: () = assert!(OUTPUT_BYTES >= PAGE_SIZE + 8 * CHUNK);

/// The last position of each hash in this page.
pub(super) struct Positions([u16; 1 << HASH_BITS]);

/// What is written so far.
struct Block<'a> {
    bytes: &'a mut [u8; OUTPUT_BYTES],
    len: usize,
}

// === impl Positions ===

impl Positions {
    pub(super) const fn new() -> Self {
        Positions([0; 1 << HASH_BITS])
    }

    /// The position there was with this hash; from now on it is `at`.
    #[inline(always)]
    fn replace(&mut self, hash: usize, at: usize) -> usize {
        // By `hash_of`; the compiler sees that it is below.
        std::mem::replace(&mut self.0[hash & ((1 << HASH_BITS) - 1)], at as u16) as usize
    }
}

/// Hash of the first bytes of a word.
#[inline(always)]
fn hash_of(word: u64) -> usize {
    // Fibonacci hashing of what is left when the other bytes are shifted out.
    ((word << (64 - 8 * HASHED_BYTES)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS)) as usize
}

/// Eight bytes of the page.
#[inline(always)]
fn word(page: &[u8; PAGE_SIZE], at: usize) -> u64 {
    debug_assert!(at + 8 <= PAGE_SIZE);
    // SAFETY: callers pass a position of invariant 1, which is `LAST_START` at most, or one that ends before `LAST_END`; a check costs
    // a twentieth of the whole.
    u64::from_le(unsafe { page.as_ptr().add(at).cast::<u64>().read_unaligned() })
}

/// How many bytes from `from` are the same as those from `at`, which comes later.
#[inline(always)]
fn equal(page: &[u8; PAGE_SIZE], mut from: usize, mut at: usize) -> usize {
    let start = at;
    while at + 8 <= LAST_END {
        let differ = word(page, from) ^ word(page, at);
        if differ != 0 {
            return at - start + differ.trailing_zeros() as usize / 8;
        }
        (from, at) = (from + 8, at + 8);
    }
    while at < LAST_END && page[from] == page[at] {
        (from, at) = (from + 1, at + 1);
    }
    at - start
}

// === impl Block ===

impl Block<'_> {
    /// What did not fit into a field of the token.
    #[inline(always)]
    fn rest(&mut self, mut rest: usize) {
        while rest >= 255 {
            self.bytes[self.len] = 255;
            self.len += 1;
            rest -= 255;
        }
        self.bytes[self.len] = rest as u8;
        self.len += 1;
    }

    /// Literals of the page, after room for their token.
    #[inline(always)]
    fn literals(&mut self, page: &[u8; PAGE_SIZE], from: usize, len: usize) {
        self.len += 1;
        if len >= FIELD {
            self.rest(len - FIELD);
        }
        let chunks = len.next_multiple_of(CHUNK);
        if from + chunks <= PAGE_SIZE && self.len + chunks <= OUTPUT_BYTES {
            // A little too much: what comes next is written over it.
            for at in (0..chunks).step_by(CHUNK) {
                let chunk: [u8; CHUNK] = page[from + at..][..CHUNK].try_into().expect("a chunk");
                self.bytes[self.len + at..][..CHUNK].copy_from_slice(&chunk);
            }
        } else {
            self.bytes[self.len..][..len].copy_from_slice(&page[from..][..len]);
        }
        self.len += len;
    }

    /// How far back a match is, and its length; then the token is known.
    #[inline(always)]
    fn match_of(&mut self, token: usize, literals: usize, distance: usize, more: usize) {
        self.bytes[self.len..][..2].copy_from_slice(&(distance as u16).to_le_bytes());
        self.len += 2;
        if more >= FIELD {
            self.rest(more - FIELD);
        }
        self.bytes[token] = (literals.min(FIELD) << 4 | more.min(FIELD)) as u8;
    }
}

/// Write the block of `page` to the front of `output`. Its length, or `None` where it is not shorter than the page.
pub(super) fn compress(
    page: &[u8; PAGE_SIZE],
    output: &mut [u8; OUTPUT_BYTES],
    positions: &mut Positions,
) -> Option<usize> {
    positions.0.fill(0);
    let mut block = Block { bytes: output, len: 0 };
    let (mut anchor, mut at) = (0, 1);
    let mut here = word(page, at);
    'page: loop {
        // The next position whose word was there before.
        let (mut tried, mut step, mut hash) = (1 << PATIENCE, 1, hash_of(here));
        let mut from = loop {
            let next = at + step;
            if next > LAST_START {
                break 'page;
            }
            let from = positions.replace(hash, at);
            if word(page, from) as u32 == here as u32 {
                break from;
            }
            here = word(page, next);
            hash = hash_of(here);
            at = next;
            step = tried >> PATIENCE;
            tried += 1;
        };
        let mut literals = at - anchor;
        if block.len + literals >= PAGE_SIZE {
            return None;
        }
        let mut token = block.len;
        block.literals(page, anchor, literals);
        // One match often follows another.
        loop {
            let more = equal(page, from + MIN_MATCH, at + MIN_MATCH);
            block.match_of(token, literals, at - from, more);
            at += MIN_MATCH + more;
            anchor = at;
            if at > LAST_START || block.len >= PAGE_SIZE {
                break 'page;
            }
            positions.replace(hash_of(word(page, at - 2)), at - 2);
            here = word(page, at);
            from = positions.replace(hash_of(here), at);
            if word(page, from) as u32 != here as u32 {
                break;
            }
            (token, literals) = (block.len, 0);
            block.len += 1;
        }
        at += 1;
        if at > LAST_START {
            break;
        }
        here = word(page, at);
    }
    let (token, literals) = (block.len, PAGE_SIZE - anchor);
    if token + literals >= PAGE_SIZE {
        return None;
    }
    block.literals(page, anchor, literals);
    block.bytes[token] = (literals.min(FIELD) << 4) as u8;
    (block.len < PAGE_SIZE).then_some(block.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page comes back by another decoder, or is called incompressible where that encoder's output is about as long too.
    fn check(page: &[u8; PAGE_SIZE]) -> Option<usize> {
        let mut output = [0xa5; OUTPUT_BYTES];
        let len = compress(page, &mut output, &mut Positions::new());
        let mut back = [0; PAGE_SIZE];
        match len {
            Some(len) => {
                assert!(len < PAGE_SIZE);
                assert_eq!(lz4_flex::block::decompress_into(&output[..len], &mut back).unwrap(), PAGE_SIZE);
                assert!(back == *page, "another page came back");
            }
            None => assert!(lz4_flex::block::compress(page).len() > PAGE_SIZE * 31 / 32, "given up too early"),
        }
        len
    }

    #[test]
    fn runs_of_every_length_at_every_distance_from_the_end() {
        // Noise, a run of one byte, noise, a repetition of the first noise up to `tail` bytes before the end, noise.
        let step = if cfg!(miri) { 1009 } else { 13 };
        for run in (0..PAGE_SIZE - 64).step_by(step) {
            for tail in [0, 1, 4, 5, 6, 11, 12, 13, 17, 40] {
                let mut random = run as u64 + 1;
                let mut page = [0; PAGE_SIZE];
                for (k, byte) in page.iter_mut().enumerate() {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    *byte = if (32..32 + run).contains(&k) { 7 } else { (random >> 56) as u8 };
                }
                let again = (PAGE_SIZE - tail - 32).max(32 + run).min(PAGE_SIZE - tail);
                page.copy_within(..PAGE_SIZE - tail - again, again);
                let len = check(&page);
                assert!(run < 512 || len.is_some_and(|len| len < PAGE_SIZE - run + 64), "a run of {run}: {len:?}");
            }
        }
    }

    #[test]
    fn noise_is_given_up_and_a_page_of_one_byte_is_not() {
        let mut random = 1u64;
        let noise = std::array::from_fn(|_| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 56) as u8
        });
        assert_eq!(check(&noise), None);
        assert!(check(&[3; PAGE_SIZE]).is_some_and(|len| len < 40));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

        /// Few words in any order, some of them cut: sequences of all kinds.
        #[test]
        fn pages_of_few_words_come_back(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..12),
            order in prop::collection::vec((any::<prop::sample::Index>(), 1..80usize), 1..700),
        ) {
            let mut bytes: Vec<u8> = vec![];
            for (word, len) in order {
                bytes.extend(words[word.index(words.len())].iter().cycle().take(len));
            }
            bytes.resize(PAGE_SIZE, 0);
            check(bytes[..].try_into().unwrap());
        }

        #[test]
        fn noise_with_short_repeats_comes_back(mut bytes in prop::collection::vec(any::<u8>(), PAGE_SIZE),
            copies in prop::collection::vec((0..PAGE_SIZE, 0..PAGE_SIZE, 1..64usize), 0..200)) {
            for (from, to, len) in copies {
                let len = len.min(PAGE_SIZE - from.max(to));
                bytes.copy_within(from..from + len, to);
            }
            check(bytes[..].try_into().unwrap());
        }
    }
}
