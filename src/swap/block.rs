//! The form of an object on a device: a header, the payload, zeroes up to whole 64-byte blocks.
//!
//! ```text
//! byte 0          8          16         20     22    23    24              24+length     blocks * 64
//!      +----------+----------+----------+------+-----+-----+----------------+------------+
//!      | checksum |   slot   | sequence |length|codec|flags|    payload     |   zeroes   |
//!      +----------+----------+----------+------+-----+-----+----------------+------------+
//!                 |<----------------- hashed, seeded with instance and place ----------->|
//! ```
//!
//! 1. The checksum is xxh3-64 of everything after it, zeroes included, so no byte can change unseen. Its seed is the
//!    area's random number mixed with device, first block and count of blocks: a block that lies elsewhere than it was
//!    written, or that an earlier instance wrote, does not match.
//! 2. A matching block whose slot or generation is not the one looked for is an old one: its successor's write was
//!    lost.
//! 3. No field is believed before the checksum matches.
//!
//! It detects accidents, not attackers: whoever can write to the file and knows the seed can forge a block. See
//! `docs/swapfile-format.md`.

use super::geometry::{BLOCK_BYTES, Geometry, MAX_PAYLOAD};
use super::place::Place;
use std::fmt;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const CHECKSUM: Range<usize> = 0..size_of::<u64>();
const SLOT: Range<usize> = CHECKSUM.end..CHECKSUM.end + size_of::<u64>();
const SEQUENCE: Range<usize> = SLOT.end..SLOT.end + size_of::<u32>();
const LENGTH: Range<usize> = SEQUENCE.end..SEQUENCE.end + size_of::<u16>();
const CODEC: usize = LENGTH.end;
const FLAGS: usize = CODEC + 1;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = FLAGS + 1;

const _: () = assert!(HEADER_BYTES == 24 && HEADER_BYTES < BLOCK_BYTES);
const _: () = assert!(MAX_PAYLOAD <= u16::MAX as usize);

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// The checksum does not match: flipped, torn, misplaced, overwritten, or never written.
    Checksum,
    /// A whole block of another slot: the write that should have replaced it was lost.
    Slot {
        /// The slot it holds.
        found: u64,
    },
    /// A whole block of an earlier use of the place: the write that should have replaced it was lost.
    Generation {
        /// The generation it holds.
        found: u16,
    },
    /// A length that does not need this many blocks.
    Length {
        /// The length it holds.
        found: u16,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Checksum => write!(f, "its checksum does not match"),
            Flaw::Slot { found } => write!(f, "an old block of slot {found} is still there"),
            Flaw::Generation { found } => write!(f, "an old block of generation {found} is still there"),
            Flaw::Length { found } => write!(f, "its length of {found} bytes does not fit its blocks"),
        }
    }
}

/// An object as it was read from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    /// What its writer said about it.
    pub label: Label,
    /// The payload.
    pub bytes: &'a [u8],
}

/// What a writer says about an object, for its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// The codec.
    pub codec: u8,
    /// Flags; the devices do not know what they mean.
    pub flags: u8,
    /// Number of the node the page came from: below 64.
    pub node: u8,
}

/// Bits of the batch's number: for people who look at a damaged file. The node has the six above.
const BATCH_BITS: u32 = 16;

/// The seed of the block at a place.
fn seed_at(seed: u64, place: &Place) -> u64 {
    let word = place.block << (Place::BLOCKS_BITS + Place::DEVICE_BITS)
        | u64::from(place.blocks) << Place::DEVICE_BITS
        | u64::from(place.device);
    // The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): neighbouring places get unrelated seeds.
    let mut z = seed.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Write header and checksum around the payload of `len` bytes that is in `block` already; the bytes after it are
/// zeroes.
///
/// # Panics
/// When the block is not as long as place and length say.
pub(super) fn seal(block: &mut [u8], seed: u64, place: &Place, slot: u64, label: Label, batch: u64, len: usize) {
    assert!(block.len() == place.len_bytes() && Geometry::blocks_for(len) == usize::from(place.blocks));
    debug_assert!(block[HEADER_BYTES + len..].iter().all(|&b| b == 0), "padding is zero");
    debug_assert!(label.node < 64);
    let sequence = u32::from(label.node) << BATCH_BITS | batch as u32 & ((1 << BATCH_BITS) - 1);
    let sequence = sequence << Place::GENERATION_BITS | u32::from(place.generation);
    block[SLOT].copy_from_slice(&slot.to_le_bytes());
    block[SEQUENCE].copy_from_slice(&sequence.to_le_bytes());
    block[LENGTH].copy_from_slice(&(len as u16).to_le_bytes());
    block[CODEC] = label.codec;
    block[FLAGS] = label.flags;
    let checksum = xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(seed, place));
    block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// The object in `block`, if it is the one that was written for `slot` at `place`.
///
/// # Panics
/// When the block is not as long as the place says.
pub(super) fn open<'a>(block: &'a mut [u8], seed: u64, place: &Place, slot: u64) -> Result<ObjectRef<'a>, Flaw> {
    assert_eq!(block.len(), place.len_bytes());
    let checksum = u64::from_le_bytes(block[CHECKSUM].try_into().expect("8 bytes"));
    if checksum != xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(seed, place)) {
        return Err(Flaw::Checksum);
    }
    let found = u64::from_le_bytes(block[SLOT].try_into().expect("8 bytes"));
    if found != slot {
        return Err(Flaw::Slot { found });
    }
    let sequence = u32::from_le_bytes(block[SEQUENCE].try_into().expect("4 bytes"));
    let found = (sequence % u32::from(Place::GENERATIONS)) as u16;
    if found != place.generation {
        return Err(Flaw::Generation { found });
    }
    let found = u16::from_le_bytes(block[LENGTH].try_into().expect("2 bytes"));
    if Geometry::blocks_for(usize::from(found)) != usize::from(place.blocks) {
        return Err(Flaw::Length { found });
    }
    let node = (sequence >> (Place::GENERATION_BITS + BATCH_BITS)) as u8;
    Ok(ObjectRef {
        label: Label { codec: block[CODEC], flags: block[FLAGS], node },
        bytes: &block[HEADER_BYTES..HEADER_BYTES + usize::from(found)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x5eed;

    fn sealed(len: usize, slot: u64, generation: u16) -> (Vec<u8>, Place) {
        let blocks = Geometry::blocks_for(len);
        let place = Place { device: 3, block: 77, blocks: blocks as u8, generation };
        let mut block = vec![0; place.len_bytes()];
        for (i, byte) in block[HEADER_BYTES..HEADER_BYTES + len].iter_mut().enumerate() {
            *byte = (i * 31 + len) as u8;
        }
        seal(&mut block, SEED, &place, slot, Label { codec: 9, flags: 5, node: 63 }, 2, len);
        (block, place)
    }

    #[test]
    fn every_length_comes_back_as_it_was_written() {
        for len in 0..=MAX_PAYLOAD {
            let (mut block, place) = sealed(len, 42, 1023);
            let object = open(&mut block, SEED, &place, 42).unwrap();
            assert_eq!((object.label, object.bytes.len()), (Label { codec: 9, flags: 5, node: 63 }, len));
            assert!(object.bytes.iter().enumerate().all(|(i, &b)| b == (i * 31 + len) as u8));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for len in [0, 1, 40, 41, 100, 500] {
            let (mut block, place) = sealed(len, 42, 7);
            for bit in 0..block.len() * 8 {
                block[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&mut block, SEED, &place, 42), Err(Flaw::Checksum), "bit {bit} of a block of {len}");
                block[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_block_read_at_another_place_or_by_another_instance_does_not_match() {
        let (mut block, place) = sealed(500, 42, 7);
        for bit in 0..34 {
            let elsewhere = Place { block: place.block ^ 1 << bit, ..place };
            assert_eq!(open(&mut block, SEED, &elsewhere, 42), Err(Flaw::Checksum));
        }
        let other_device = Place { device: 4, ..place };
        assert_eq!(open(&mut block, SEED, &other_device, 42), Err(Flaw::Checksum));
        assert_eq!(open(&mut block, SEED + 1, &place, 42), Err(Flaw::Checksum));
        let shorter = Place { blocks: place.blocks - 1, ..place };
        assert_eq!(open(&mut block[..shorter.len_bytes()], SEED, &shorter, 42), Err(Flaw::Checksum));
    }

    #[test]
    fn an_old_block_is_told_by_slot_or_generation() {
        let (mut block, place) = sealed(500, 42, 7);
        assert_eq!(open(&mut block, SEED, &place, 43), Err(Flaw::Slot { found: 42 }));
        let later = Place { generation: 8, ..place };
        assert_eq!(open(&mut block, SEED, &later, 42), Err(Flaw::Generation { found: 7 }));
    }

    #[test]
    fn a_block_of_zeroes_is_no_object() {
        for blocks in 1..=66 {
            let place = Place { device: 0, block: 0, blocks, generation: 0 };
            assert_eq!(open(&mut vec![0; place.len_bytes()], SEED, &place, 0), Err(Flaw::Checksum));
        }
    }

    #[test]
    fn a_forged_length_is_refused_before_it_is_used() {
        let (mut block, place) = sealed(500, 42, 7);
        block[LENGTH].copy_from_slice(&u16::MAX.to_le_bytes());
        let checksum = xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(SEED, &place));
        block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(open(&mut block, SEED, &place, 42), Err(Flaw::Length { found: u16::MAX }));
    }
}
