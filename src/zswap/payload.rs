//! [`Payload`]: what a page became, what is said of it on a device, and how it becomes a page again.
//!
//! | the page | bytes | codec | pattern |
//! |---|---|---|---|
//! | shrank | what the codec made of it | that codec | no |
//! | did not, or was not tried | the page | raw | no |
//! | repeats a word that the slot has no room for | the word | raw | yes |
//!
//! In the pool the codec stands in the link word and the rest in the slot word; on a device all of it in the object's label.

use super::Error;
use super::core::Core;
use crate::compress::{self, CodecId};
use crate::swap::{Content, Entry, Label, ObjectRef, SlotWord};
use crate::units::{NodeId, PAGE_SIZE, Slot};

/// What a page became.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) codec: u8,
    /// The page repeats the 8 bytes.
    pub(super) pattern: bool,
}

bitflags::bitflags! {
    /// What a label says of its object beside codec and node. Bits, once given, keep their meaning.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u8 {
        /// 8 bytes that the page repeats.
        const PATTERN = 1;
    }
}

impl<'a> Payload<'a> {
    /// A page as it is.
    pub(super) fn raw(page: &'a [u8; PAGE_SIZE]) -> Self {
        Payload { bytes: page, codec: CodecId::RAW.get(), pattern: false }
    }

    /// A word that the page repeats.
    pub(super) fn pattern(word: &'a [u8; 8]) -> Self {
        Payload { bytes: word, codec: CodecId::RAW.get(), pattern: true }
    }

    /// Of an object that was read from a device.
    pub(super) fn of(object: &ObjectRef<'a>) -> Self {
        let pattern = Flags::from_bits_retain(object.label.flags).contains(Flags::PATTERN);
        Payload { bytes: object.bytes, codec: object.label.codec, pattern }
    }

    /// What is said of it on a device: it came from this node.
    pub(super) fn label(self, node: NodeId) -> Label {
        let flags = if self.pattern { Flags::PATTERN } else { Flags::empty() };
        Label { codec: self.codec, flags: flags.bits(), node: node.0 }
    }

    /// The word of a slot that has it as this object.
    pub(super) fn word(self, entry: Entry) -> SlotWord {
        let content = if self.pattern { Content::Pattern(entry) } else { Content::Compressed(entry) };
        SlotWord::new(content).expect("an entry always fits in a word")
    }
}

impl Core {
    /// The page that became `payload`, which is that of `slot`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    #[inline]
    pub(super) fn decode(&self, slot: Slot, payload: Payload<'_>, page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
        let Payload { bytes, codec, pattern } = payload;
        let corrupt = || Error::Corrupt { slot };
        if pattern {
            compress::fill(page, u64::from_ne_bytes(bytes.try_into().map_err(|_| corrupt())?));
        } else if codec == CodecId::RAW.get() {
            page.copy_from_slice(<&[u8; PAGE_SIZE]>::try_from(bytes).map_err(|_| corrupt())?);
        } else {
            let codec = self.codecs.by_id(CodecId::from_bits(codec.into())).ok_or_else(corrupt)?;
            codec.decompress(bytes, page).map_err(|_| corrupt())?;
        }
        Ok(())
    }

    /// The same page as it is, for a device that wants pages so; `page` is where it is unpacked.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(super) fn unpack<'p>(
        &self,
        slot: Slot,
        payload: Payload<'_>,
        page: &'p mut [u8; PAGE_SIZE],
    ) -> Result<Payload<'p>, Error> {
        self.decode(slot, payload, page)?;
        Ok(Payload::raw(page))
    }
}
