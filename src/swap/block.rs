//! The form of an object on a device: a header, the payload, zeroes up to whole 64-byte blocks.
//!
//! ```text
//! byte 0                     16         24     26    27    28   29   32            32+length     blocks * 64
//!      +---------------------+----------+------+-----+-----+----+----+----------------+------------+
//!      |         tag         |  nonce   |length|codec|flags|node| 0  |    payload     |   zeroes   |   sealed
//!      +---------------------+----------+------+-----+-----+----+----+----------------+------------+
//!                                       |<------------------ encrypted ------------------------->|
//!      +----------+----------+----------+------+-----+-----+----+----+----------------+------------+
//!      | checksum |   slot   | sequence |length|codec|flags|node| 0  |    payload     |   zeroes   |   checksum
//!      +----------+----------+----------+------+-----+-----+----+----+----------------+------------+
//!      0          8          |<------------- hashed, from byte 8, seeded with instance and place -->|
//! ```
//!
//! 1. Sealed: the tag is over all that is encrypted and over slot, place (device, first block, count of blocks) and
//!    generation, with a key that the instance alone has. What is not exactly what was written there for that slot does not
//!    open, whoever made it.
//! 2. With a checksum: xxh3-64 of everything after it, zeroes included, so no byte can change unseen. Its seed is the
//!    instance's random number mixed with the place: a block that lies elsewhere than it was written, or that an earlier
//!    instance wrote, does not match. A matching block whose slot or generation is not the one looked for is an old one:
//!    its successor's write was lost. This detects accidents, not attackers.
//! 3. No field is believed before tag or checksum match.
//! 4. Both forms have headers of one length, so what an object takes does not depend on the form.
//!
//! See `docs/swapfile-format.md`.

pub(super) mod key;
pub(super) mod seal;

use self::key::{Key, NONCE_BYTES, TAG_BYTES};
use self::seal::Protection;
use super::geometry::{BLOCK_BYTES, Geometry, MAX_PAYLOAD};
use super::place::Place;
use std::fmt;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

// Sealed.
const TAG: Range<usize> = 0..TAG_BYTES;
const NONCE: Range<usize> = TAG.end..TAG.end + NONCE_BYTES;

// With a checksum.
const CHECKSUM: Range<usize> = 0..size_of::<u64>();
const SLOT: Range<usize> = CHECKSUM.end..CHECKSUM.end + size_of::<u64>();
const SEQUENCE: Range<usize> = SLOT.end..SLOT.end + size_of::<u64>();

// Both.
const LENGTH: Range<usize> = NONCE.end..NONCE.end + size_of::<u16>();
const CODEC: usize = LENGTH.end;
const FLAGS: usize = CODEC + 1;
const NODE: usize = FLAGS + 1;
const RESERVED: Range<usize> = NODE + 1..NODE + 4;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = RESERVED.end;

const _: () = assert!(HEADER_BYTES == 32 && HEADER_BYTES < BLOCK_BYTES && SEQUENCE.end == NONCE.end);
const _: () = assert!(MAX_PAYLOAD <= u16::MAX as usize);

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// Sealed, and not what was sealed at that place for that slot with this key: flipped, torn, misplaced, an old one,
    /// forged, or never written.
    Seal,
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
            Flaw::Seal => write!(f, "its seal does not open"),
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
    /// Number of the node the page came from.
    pub node: u8,
}

/// The place in a word, injectively.
fn place_word(place: &Place) -> u64 {
    let block = place.block << Place::BLOCKS_BITS | u64::from(place.blocks);
    (block << Place::DEVICE_BITS | u64::from(place.device)) << Place::GENERATION_BITS | u64::from(place.generation)
}

/// What a seal is bound to besides the bytes under it.
fn associated(place: &Place, slot: u64) -> [u8; 16] {
    let mut data = [0; 16];
    data[..8].copy_from_slice(&slot.to_le_bytes());
    data[8..].copy_from_slice(&place_word(place).to_le_bytes());
    data
}

/// The seed of the block at a place.
fn seed_at(seed: u64, place: &Place) -> u64 {
    let word = place_word(place) >> Place::GENERATION_BITS;
    // The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): neighbouring places get unrelated seeds.
    let mut z = seed.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Protect the payload of `len` bytes that is in `block` already, after [`HEADER_BYTES`], as that of `slot` at `place`; the
/// bytes after it are zeroes. `batch` is the number of the batch, for people who look at a damaged file.
///
/// # Panics
/// When the block is not as long as place and length say.
pub(super) fn seal(
    block: &mut [u8],
    protection: &Protection,
    place: &Place,
    slot: u64,
    label: Label,
    batch: u64,
    len: usize,
) {
    assert!(block.len() == place.len_bytes() && Geometry::blocks_for(len) == usize::from(place.blocks));
    debug_assert!(block[HEADER_BYTES + len..].iter().all(|&b| b == 0), "padding is zero");
    block[LENGTH].copy_from_slice(&(len as u16).to_le_bytes());
    (block[CODEC], block[FLAGS], block[NODE]) = (label.codec, label.flags, label.node);
    block[RESERVED].fill(0);
    match protection {
        Protection::Sealed(key) => {
            let (nonce, tag) = key.seal(&associated(place, slot), &mut block[NONCE.end..]);
            block[TAG].copy_from_slice(&tag);
            block[NONCE].copy_from_slice(&nonce);
        }
        Protection::Checksum(seed) => {
            let sequence = batch << Place::GENERATION_BITS | u64::from(place.generation);
            block[SLOT].copy_from_slice(&slot.to_le_bytes());
            block[SEQUENCE].copy_from_slice(&sequence.to_le_bytes());
            let checksum = xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(*seed, place));
            block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

/// The object in `block`, if it is the one that was written for `slot` at `place`. A sealed one is decrypted in place, so a
/// block opens once; one that does not is left as anything. No allocation.
///
/// # Panics
/// When the block is not as long as the place says.
pub(super) fn open<'a>(
    block: &'a mut [u8],
    protection: &Protection,
    place: &Place,
    slot: u64,
) -> Result<ObjectRef<'a>, Flaw> {
    assert_eq!(block.len(), place.len_bytes());
    match protection {
        Protection::Sealed(key) => unseal(block, key, place, slot)?,
        Protection::Checksum(seed) => verify(block, *seed, place, slot)?,
    }
    let found = u16::from_le_bytes(block[LENGTH].try_into().expect("2 bytes"));
    if Geometry::blocks_for(usize::from(found)) != usize::from(place.blocks) {
        return Err(Flaw::Length { found });
    }
    Ok(ObjectRef {
        label: Label { codec: block[CODEC], flags: block[FLAGS], node: block[NODE] },
        bytes: &block[HEADER_BYTES..HEADER_BYTES + usize::from(found)],
    })
}

fn unseal(block: &mut [u8], key: &Key, place: &Place, slot: u64) -> Result<(), Flaw> {
    let tag = block[TAG].try_into().expect("16 bytes");
    let nonce = block[NONCE].try_into().expect("8 bytes");
    let opens = key.open(nonce, tag, &associated(place, slot), &mut block[NONCE.end..]);
    if opens { Ok(()) } else { Err(Flaw::Seal) }
}

fn verify(block: &[u8], seed: u64, place: &Place, slot: u64) -> Result<(), Flaw> {
    let number = |at: Range<usize>| u64::from_le_bytes(block[at].try_into().expect("8 bytes"));
    if number(CHECKSUM) != xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(seed, place)) {
        return Err(Flaw::Checksum);
    }
    let found = number(SLOT);
    if found != slot {
        return Err(Flaw::Slot { found });
    }
    let found = (number(SEQUENCE) % u64::from(Place::GENERATIONS)) as u16;
    if found != place.generation {
        return Err(Flaw::Generation { found });
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::key::Cipher;
    use super::*;

    const SEED: u64 = 0x5eed;

    /// All forms: what they are, and the flaw of a block that is not right.
    fn forms() -> Vec<(Protection, Flaw)> {
        let mut forms = vec![(Protection::Checksum(SEED), Flaw::Checksum)];
        if !cfg!(miri) {
            let sealed = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].map(|c| Protection::sealed(c).unwrap());
            forms.extend(sealed.map(|form| (form, Flaw::Seal)));
        }
        forms
    }

    fn sealed(form: &Protection, len: usize, slot: u64, generation: u16) -> (Vec<u8>, Place) {
        let blocks = Geometry::blocks_for(len);
        let place = Place { device: 3, block: 77, blocks: blocks as u8, generation };
        let mut block = vec![0; place.len_bytes()];
        for (i, byte) in block[HEADER_BYTES..HEADER_BYTES + len].iter_mut().enumerate() {
            *byte = (i * 31 + len) as u8;
        }
        seal(&mut block, form, &place, slot, Label { codec: 9, flags: 5, node: 3 }, 2, len);
        (block, place)
    }

    /// What is wrong with a copy of the block, read at a place for a slot.
    fn flaw(form: &Protection, block: &[u8], place: &Place, slot: u64) -> Option<Flaw> {
        open(&mut block.to_vec(), form, place, slot).err()
    }

    #[test]
    fn every_length_comes_back_as_it_was_written() {
        for (form, _) in forms() {
            for len in 0..=MAX_PAYLOAD {
                let (mut block, place) = sealed(&form, len, 42, 1023);
                let object = open(&mut block, &form, &place, 42).unwrap();
                assert_eq!((object.label, object.bytes.len()), (Label { codec: 9, flags: 5, node: 3 }, len));
                assert!(object.bytes.iter().enumerate().all(|(i, &b)| b == (i * 31 + len) as u8));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for (form, wrong) in forms() {
            for len in [0, 1, 32, 33, 100, 500] {
                let (mut block, place) = sealed(&form, len, 42, 7);
                for bit in 0..block.len() * 8 {
                    block[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(flaw(&form, &block, &place, 42), Some(wrong), "bit {bit} of a block of {len}");
                    block[bit / 8] ^= 1 << (bit % 8);
                }
                assert_eq!(flaw(&form, &block, &place, 42), None);
            }
        }
    }

    #[test]
    fn a_block_read_at_another_place_or_by_another_instance_does_not_match() {
        for ((form, wrong), (other, _)) in forms().into_iter().zip(forms()) {
            let (block, place) = sealed(&form, 500, 42, 7);
            for bit in 0..34 {
                let elsewhere = Place { block: place.block ^ 1 << bit, ..place };
                assert_eq!(flaw(&form, &block, &elsewhere, 42), Some(wrong));
            }
            for bit in 0..5 {
                let other_device = Place { device: place.device ^ 1 << bit, ..place };
                assert_eq!(flaw(&form, &block, &other_device, 42), Some(wrong));
            }
            let other = if let Protection::Checksum(seed) = other { Protection::Checksum(seed + 1) } else { other };
            assert_eq!(flaw(&other, &block, &place, 42), Some(wrong));
            let shorter = Place { blocks: place.blocks - 1, ..place };
            assert_eq!(flaw(&form, &block[..shorter.len_bytes()], &shorter, 42), Some(wrong));
        }
    }

    #[test]
    fn an_old_block_is_told_by_slot_or_generation() {
        for (form, wrong) in forms() {
            let (block, place) = sealed(&form, 500, 42, 7);
            let told = |flaw| if wrong == Flaw::Seal { wrong } else { flaw };
            for bit in 0..64 {
                assert_eq!(flaw(&form, &block, &place, 42 ^ 1 << bit), Some(told(Flaw::Slot { found: 42 })));
            }
            for bit in 0..10 {
                let other = Place { generation: 7 ^ 1 << bit, ..place };
                assert_eq!(flaw(&form, &block, &other, 42), Some(told(Flaw::Generation { found: 7 })));
            }
        }
    }

    #[test]
    fn a_block_of_zeroes_is_no_object() {
        for (form, wrong) in forms() {
            for blocks in 1..=66 {
                let place = Place { device: 0, block: 0, blocks, generation: 0 };
                assert_eq!(flaw(&form, &vec![0; place.len_bytes()], &place, 0), Some(wrong));
            }
        }
    }

    #[test]
    fn a_forged_length_is_refused_before_it_is_used() {
        let form = Protection::Checksum(SEED);
        let (mut block, place) = sealed(&form, 500, 42, 7);
        block[LENGTH].copy_from_slice(&u16::MAX.to_le_bytes());
        let checksum = xxh3_64_with_seed(&block[CHECKSUM.end..], seed_at(SEED, &place));
        block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(flaw(&form, &block, &place, 42), Some(Flaw::Length { found: u16::MAX }));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri cannot run the cipher")]
    fn a_sealed_block_shows_nothing_of_what_is_in_it() {
        let form = Protection::sealed(Cipher::fastest()).unwrap();
        let place = Place { device: 3, block: 77, blocks: 66, generation: 1 };
        let zeroes = |slot| {
            let mut block = vec![0; place.len_bytes()];
            seal(&mut block, &form, &place, slot, Label::default(), 0, MAX_PAYLOAD);
            block
        };
        // The same page twice for the same slot, and no 8 bytes of one are in the other, nor twice in itself.
        let (first, second) = (zeroes(1), zeroes(1));
        let mut words: Vec<_> = [&first, &second].iter().flat_map(|b| b[NONCE.end..].chunks_exact(8)).collect();
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
        assert_ne!(first[NONCE], second[NONCE]);
        assert_ne!(first[TAG], second[TAG]);
    }
}
