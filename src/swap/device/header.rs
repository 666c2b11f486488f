//! The first 4096 bytes of a swapfile or disk: they say that it is ours, and may be thrown away.
//!
//! ```text
//! byte 0       8        12      16       20        24      32         48                    4088       4096
//!      +-------+--------+-------+--------+---------+-------+----------+---------------------+----------+
//!      | magic | version| page  | block  | header  | size  | instance | zeroes              | checksum |
//!      +-------+--------+-------+--------+---------+-------+----------+---------------------+----------+
//! ```
//!
//! 1. The magic number decides whether a file is ours at all, the version how the rest is read, the checksum whether to
//!    believe it. Only then are the other fields looked at.
//! 2. No field is used to find, size or allocate anything: the contents of a swapfile are never read by another
//!    instance.
//!
//! Numbers are little-endian. `docs/swapfile-format.md` has a table of the fields.

use crate::swap::geometry::BLOCK_BYTES;
use crate::units::{PAGE_SIZE, Page};
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of the header: one page, so that what follows is aligned for direct I/O.
pub const SWAPFILE_HEADER_BYTES: u64 = PAGE_SIZE as u64;

/// What our files begin with. The first byte is no text, and the last is changed by transfers that translate
/// newlines.
const MAGIC: [u8; 8] = *b"\x8fzspool\n";

/// Version of the format that this program writes.
pub(super) const VERSION: u32 = 2;

const MAGIC_AT: Range<usize> = 0..MAGIC.len();
const VERSION_AT: Range<usize> = MAGIC_AT.end..MAGIC_AT.end + size_of::<u32>();
const PAGE_AT: Range<usize> = VERSION_AT.end..VERSION_AT.end + size_of::<u32>();
const BLOCK_AT: Range<usize> = PAGE_AT.end..PAGE_AT.end + size_of::<u32>();
const HEADER_AT: Range<usize> = BLOCK_AT.end..BLOCK_AT.end + size_of::<u32>();
const SIZE_AT: Range<usize> = HEADER_AT.end..HEADER_AT.end + size_of::<u64>();
const INSTANCE_AT: Range<usize> = SIZE_AT.end..SIZE_AT.end + size_of::<u128>();
const CHECKSUM_AT: Range<usize> = PAGE_SIZE - size_of::<u64>()..PAGE_SIZE;

const _: () = assert!(INSTANCE_AT.end <= CHECKSUM_AT.start && SIZE_AT.start.is_multiple_of(8));

/// What a header of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the whole file when it was last opened.
    pub(super) size: u64,
    /// Random number of the instance that last opened it.
    pub(super) instance: u128,
}

/// Why bytes are no header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// They do not begin as ours do.
    Foreign,
    /// They begin as ours do, but the checksum, a size or a reserved byte is wrong.
    Damaged,
    /// Another version of the format.
    Version(u32),
    /// Other page or block sizes.
    Units { page: u32, block: u32 },
}

impl Header {
    /// Of an instance that opens `size` bytes, with a random number of its own.
    pub(super) fn of_new(size: u64) -> Self {
        let random = || std::hash::RandomState::new().build_hasher().finish();
        Header { size, instance: u128::from(random()) << 64 | u128::from(random()) }
    }

    /// The bytes of the header.
    pub(super) fn encode(&self) -> Page {
        let mut page = Page::zeroed();
        page[MAGIC_AT].copy_from_slice(&MAGIC);
        page[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        page[PAGE_AT].copy_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        page[BLOCK_AT].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        page[HEADER_AT].copy_from_slice(&(SWAPFILE_HEADER_BYTES as u32).to_le_bytes());
        page[SIZE_AT].copy_from_slice(&self.size.to_le_bytes());
        page[INSTANCE_AT].copy_from_slice(&self.instance.to_le_bytes());
        let checksum = xxh3_64(&page[..CHECKSUM_AT.start]);
        page[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// The header in the first bytes of a file, of which there may be fewer than a page. Any bytes are good input.
    pub(super) fn decode(bytes: &[u8]) -> Result<Header, Unfit> {
        if bytes.get(MAGIC_AT) != Some(&MAGIC) {
            return Err(Unfit::Foreign);
        }
        let u32_at = |at: Range<usize>| bytes.get(at).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")));
        // Before the checksum: another version may keep it elsewhere.
        match u32_at(VERSION_AT) {
            Some(VERSION) => {}
            Some(version) => return Err(Unfit::Version(version)),
            None => return Err(Unfit::Damaged),
        }
        let page: &[u8; PAGE_SIZE] = bytes.first_chunk().ok_or(Unfit::Damaged)?;
        if page[CHECKSUM_AT] != xxh3_64(&page[..CHECKSUM_AT.start]).to_le_bytes() {
            return Err(Unfit::Damaged);
        }
        let number = |at| u32_at(at).expect("a page was read");
        let (page_bytes, block) = (number(PAGE_AT), number(BLOCK_AT));
        if (page_bytes as usize, block as usize) != (PAGE_SIZE, BLOCK_BYTES) {
            return Err(Unfit::Units { page: page_bytes, block });
        }
        let zeroes = page[INSTANCE_AT.end..CHECKSUM_AT.start].iter().all(|&b| b == 0);
        if u64::from(number(HEADER_AT)) != SWAPFILE_HEADER_BYTES || !zeroes {
            return Err(Unfit::Damaged);
        }
        Ok(Header {
            size: u64::from_le_bytes(page[SIZE_AT].try_into().expect("8 bytes")),
            instance: u128::from_le_bytes(page[INSTANCE_AT].try_into().expect("16 bytes")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header { size: 1 << 30, instance: 0xfeed_beef };

    /// Change bytes and make the checksum right again, as an attacker would.
    fn forged(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut page = HEADER.encode().to_vec();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = xxh3_64(&page[..CHECKSUM_AT.start]);
        page[CHECKSUM_AT].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        assert_eq!(Header::decode(&HEADER.encode()[..]), Ok(HEADER));
    }

    #[test]
    fn every_flipped_byte_makes_it_unfit() {
        let good = HEADER.encode();
        for at in 0..PAGE_SIZE {
            let mut page = good.to_vec();
            page[at] ^= 0x10;
            let unfit = Header::decode(&page).unwrap_err();
            let expected = if MAGIC_AT.contains(&at) {
                Unfit::Foreign
            } else if VERSION_AT.contains(&at) {
                Unfit::Version(VERSION ^ 0x10 << (8 * (at - VERSION_AT.start)))
            } else {
                Unfit::Damaged
            };
            assert_eq!(unfit, expected, "byte {at}");
        }
    }

    #[test]
    fn every_shortened_header_is_unfit() {
        let good = HEADER.encode();
        for len in 0..PAGE_SIZE {
            let expected = if len < MAGIC_AT.end { Unfit::Foreign } else { Unfit::Damaged };
            assert_eq!(Header::decode(&good[..len]), Err(expected), "{len} bytes");
        }
    }

    #[test]
    fn forged_fields_are_told_apart() {
        assert_eq!(Header::decode(&forged(VERSION_AT.start, &[1])), Err(Unfit::Version(1)));
        assert_eq!(Header::decode(&forged(PAGE_AT.start, &[0, 64])), Err(Unfit::Units { page: 16384, block: 64 }));
        assert_eq!(Header::decode(&forged(BLOCK_AT.start, &[0])), Err(Unfit::Units { page: 4096, block: 0 }));
        assert_eq!(Header::decode(&forged(HEADER_AT.start, &[1])), Err(Unfit::Damaged));
        assert_eq!(Header::decode(&forged(100, &[1])), Err(Unfit::Damaged));
        // The size is told, not used.
        assert_eq!(Header::decode(&forged(SIZE_AT.start, &[0xff; 8])).map(|h| h.size), Ok(u64::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_make_decode_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), ours in any::<bool>()) {
            if ours {
                let n = bytes.len().min(12);
                bytes[..n].copy_from_slice(&HEADER.encode()[..n]);
            }
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }
}
