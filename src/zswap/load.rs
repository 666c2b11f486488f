//! Load: a page comes back.
//!
//! ```text
//!   word (no lock) --- object in the pool --> pin, codec, look at slot and word again, decode, unpin
//!        |  ^                                       |
//!        |  +------------- moved, freed, replaced --+
//!        +-- same-filled, on a device, empty: word again under the cluster lock, then
//!              fill | read, check, decode; a failure counts only if the word is unchanged after it (`lost.rs`) | not stored
//! ```
//!
//! No allocator, no lazily made or droppable thread-local, no lock that is held over client memory.

use super::Error;
use super::cells::SlotCells;
use super::core::{Core, Zswap};
use super::payload::Payload;
use crate::compress;
use crate::memcg::{Event, ObjcgId};
use crate::swap::{Content, Place, SlotGuard, SlotWord};
use crate::sync::{self, thread::Backoff};
use crate::units::{NodeId, Owner, PAGE_SIZE, Slot};
use crate::zsmalloc::ReadGuard;

/// What the closure of [`take_with`](Zswap::take_with) did with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The page is where it belongs: the slot may be freed.
    Yes,
    /// It is not (a race was lost, the target is gone): the slot keeps its page.
    No,
}

/// What became of the slot in [`take_with`](Zswap::take_with).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "where it was not taken, the slot still holds a page"]
pub enum Taken {
    /// The page was installed and the reference to it put: the last one frees the slot.
    Freed,
    /// The page was installed; the slot's content changed hands meanwhile (stored again, written to a device, or moved), or
    /// may have (a repeated word has no name of its own), so it was left alone. A client that is alone in storing to the slot
    /// knows that it is the same page, and frees it.
    Changed,
    /// The page was not installed; the slot keeps it.
    Kept,
}

/// Where a page was that [`load_from`](Zswap::load_from) has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedFrom {
    /// In the pool.
    Pool {
        /// Bytes of its payload.
        bytes: usize,
    },
    /// On a device.
    Device,
    /// In the slot itself: one word that the page repeats.
    SameFilled(u64),
}

impl Zswap {
    /// Read the page of a slot into `page`. The slot keeps it, and counts as referenced.
    ///
    /// # Errors
    /// [`Error::NotStored`]; [`Error::Lost`] when the device cannot read it back, now and ever after; [`Error::Read`] when it may
    /// be read another time; [`Error::Corrupt`]. After an error the contents of `page` are unspecified.
    ///
    /// # Locks
    /// Directory (shared); for pages not in the pool the cluster. None while decoding or reading.
    pub fn load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
        self.core.load(slot, page, true).map(drop)
    }

    /// As [`load`](Self::load), or with `wait` false as [`try_load`](Self::try_load), and say where it was.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`try_load`](Self::try_load).
    pub fn load_from(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, Error> {
        let read = self.core.load(slot, page, wait)?;
        Ok(match read.word.content() {
            Content::SameFilled(pattern) => LoadedFrom::SameFilled(pattern),
            Content::Compressed(entry) | Content::Pattern(entry) => LoadedFrom::Pool { bytes: entry.length },
            _ => LoadedFrom::Device,
        })
    }

    /// As [`load`](Self::load), but never waits for a device.
    ///
    /// # Errors
    /// [`Error::NeedsIo`] when the page lies on one; else as [`load`](Self::load).
    pub fn try_load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
        self.core.load(slot, page, false).map(drop)
    }

    /// Hand the page of a slot to `install` and [`put`](Self::put) the slot only if it says [`Installed::Yes`] and the slot
    /// still holds that page, which other references keep. So there is never a moment without a copy (the kernel once lost pages
    /// here: 25cd241408a2).
    ///
    /// Uses about 5 KiB of stack. `install` runs without locks; what is in the pool stays there until it returns.
    ///
    /// # Errors
    /// As [`load`](Self::load); then `install` was not called.
    ///
    /// # Examples
    /// ```
    /// # use zspool::units::{NodeId, Page};
    /// # use zspool::zswap::{Installed, Taken, Zswap};
    /// # let zswap = Zswap::builder().build()?;
    /// # let slot = zswap.reserve(1)?.base();
    /// # let root = zswap.root();
    /// zswap.store(slot, &root, NodeId(0), &Page::zeroed())?;
    /// let mut guest = Page::zeroed();
    /// let taken = zswap.take_with(slot, |page| {
    ///     guest.copy_from_slice(page);
    ///     Installed::Yes
    /// })?;
    /// assert_eq!(taken, Taken::Freed);
    /// # Ok::<(), zspool::zswap::Error>(())
    /// ```
    pub fn take_with(&self, slot: Slot, install: impl FnOnce(&[u8; PAGE_SIZE]) -> Installed) -> Result<Taken, Error> {
        let mut page = [0; PAGE_SIZE];
        let read = self.core.load(slot, &mut page, true)?;
        if install(&page) == Installed::No {
            return Ok(Taken::Kept);
        }
        let Some(guard) = self.core.slots.lock(slot) else { return Ok(Taken::Changed) };
        if !read.is_still_in(&guard) {
            return Ok(Taken::Changed);
        }
        drop(read);
        self.core.put(guard);
        Ok(Taken::Freed)
    }
}

/// What was read: enough to tell whether the slot still holds it, and not only something that looks the same.
pub(super) struct Read<'a> {
    word: SlotWord,
    /// Keeps the object's place from being used again. `None` for what is not in the pool.
    object: Option<ReadGuard<'a, SlotCells>>,
    /// The slot's owner and how often its cluster was stored to, for what is not in the pool.
    state: Option<(Owner, u64)>,
}

fn state(guard: &SlotGuard<'_>) -> (Owner, u64) {
    (guard.owner(), guard.stores())
}

impl Read<'_> {
    /// Whether the slot holds what was read. It may say no for an object that was just moved, and for a repeated word when
    /// another slot of the cluster was stored to: those have no name of their own.
    fn is_still_in(&self, guard: &SlotGuard<'_>) -> bool {
        let now = guard.word();
        match (&self.object, now.content()) {
            (Some(object), _) => now.entry().is_some_and(|entry| entry.location == object.location()),
            (None, Content::SameFilled(_)) => now.same_content(self.word) && self.state == Some(state(guard)),
            // A place comes back after its page was handed out as often as places have generations.
            (None, _) => now.same_content(self.word),
        }
    }
}

/// One attempt to read an object in the pool.
enum Attempt<'a> {
    Done(Read<'a>),
    /// It moved, or the slot changed: look at the word again.
    Again,
}

impl Core {
    /// Read a page and say what was read.
    pub(super) fn load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], may_wait: bool) -> Result<Read<'_>, Error> {
        sync::assert_no_lock_held("loading a page");
        let mut backoff = Backoff::new();
        loop {
            let owner = self.slots.owner(slot).ok_or(Error::NotStored { slot })?;
            self.lru.prefetch(owner);
            let (mut word, mut locked, mut payer) = (self.slots.word(owner), None, ObjcgId::NONE);
            let mut stalled = None;
            if word.entry().is_none() {
                // Words that name no pinned object are only to be trusted under the lock.
                let guard = self.slots.lock(slot);
                word = guard.as_ref().map_or(SlotWord::EMPTY, SlotGuard::word);
                locked = guard.as_ref().map(state);
                if let (Content::Physical(place), true) = (word.content(), may_wait) {
                    // The lock keeps the place, and so the payer.
                    payer = ObjcgId::from_raw(self.devices.payer(place));
                    stalled = sync::TIMES_LOADS.then(|| self.tree.borrow(payer));
                }
            }
            let read = Read { word, object: None, state: locked };
            match word.content() {
                Content::Compressed(_) | Content::Pattern(_) => match self.read_object(slot, owner, word, page)? {
                    Attempt::Done(read) => return Ok(read),
                    Attempt::Again => backoff.wait(),
                },
                Content::SameFilled(pattern) => {
                    compress::fill(page, pattern);
                    return Ok(read);
                }
                Content::Physical(_) if !may_wait => return Err(Error::NeedsIo { slot }),
                Content::Physical(place) => {
                    let stalled = stalled.map(|objcg| self.tree.stall(objcg.id()));
                    let failure = match self.read_place(slot, word, place, page) {
                        Ok(node) => {
                            self.note_swapin(payer, node);
                            return Ok(read);
                        }
                        Err(failure) => failure,
                    };
                    drop(stalled);
                    if let Some(error) = failure {
                        return Err(error);
                    }
                }
                Content::Lost(loss) => return Err(Error::Lost { slot, loss }),
                Content::Empty => return Err(Error::NotStored { slot }),
            }
        }
    }

    fn read_object(
        &self,
        slot: Slot,
        owner: Owner,
        word: SlotWord,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<Attempt<'_>, Error> {
        let entry = word.entry().expect("the caller looked");
        let Some(object) = self.pool.read(owner, entry.location, entry.length) else { return Ok(Attempt::Again) };
        // While it is pinned the object's place is not used again; so if slot and word still name it after the codec was
        // read, the codec is its own and the owner is the slot's. What the word says beside the location is to be believed
        // from here on: the one before the pin may have named an earlier object of the slot at the same place.
        let (codec, objcg) = (self.lru.codec(owner), object.objcg());
        let is_ours = self.slots.is_owner(slot, owner);
        let word = self.slots.word(owner);
        let named = word.entry().is_some_and(|now| now.location == entry.location);
        if !is_ours || !named {
            return Ok(Attempt::Again);
        }
        let pattern = matches!(word.content(), Content::Pattern(_));
        // Whoever loads a page mostly frees its slot next; the codec runs for longer than these take to arrive.
        self.lru.prefetch_neighbours(owner);
        object.with(|bytes| self.decode(slot, Payload { bytes, codec, pattern }, page))?;
        self.lru.mark_referenced(owner);
        self.tree.count(objcg, Event::ZswpIn, 1);
        Ok(Attempt::Done(Read { word, object: Some(object), state: None }))
    }

    /// Read the page at the place that `word` names for `slot`, and say which node it came from.
    ///
    /// # Errors
    /// None where the word has changed meanwhile: then it is no failure.
    fn read_place(
        &self,
        slot: Slot,
        word: SlotWord,
        place: Place,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<NodeId, Option<Error>> {
        // Decoded on the stack: `page` may be client memory, whose faults may need the read buffer that is held meanwhile.
        let mut decoded = [0; PAGE_SIZE];
        let read = self.devices.read(place, slot.0, |object| {
            let decoded = self.decode(slot, Payload::of(&object), &mut decoded);
            decoded.map(|()| NodeId(object.label.node))
        });
        let node = match read {
            Ok(decoding) => decoding.map_err(Some)?,
            Err(failure) => return Err(self.unread(slot, word, place, failure)),
        };
        *page = decoded;
        Ok(node)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::swap::Entry;
    use crate::units::NodeId;

    #[test]
    fn a_word_that_was_replaced_before_the_pin_does_not_say_how_to_decode() {
        let zswap = Zswap::builder().address_space(1 << 24).slots_in_use(1 << 10).worker(false).build().unwrap();
        let slot = zswap.reserve(1).unwrap().base();
        let mut stored = [0; PAGE_SIZE];
        compress::fill(&mut stored, 0x0123_4567_89ab_cdef); // does not fit in a word
        zswap.store(slot, &zswap.root(), NodeId(0), &stored).unwrap();
        // A loader that has read the word of what was in the slot before, of the same length and at the same place.
        let owner = zswap.core.slots.owner(slot).unwrap();
        let now = zswap.core.slots.word(owner);
        let entry = now.entry().unwrap();
        let before = Entry { generation: entry.generation.wrapping_sub(1), ..entry };
        let before = SlotWord::new(Content::Compressed(before)).unwrap();
        let mut page = [0; PAGE_SIZE];
        let read = zswap.core.read_object(slot, owner, before, &mut page);
        assert!(matches!(read, Ok(Attempt::Done(Read { word, .. })) if word == now));
        assert_eq!(page, stored);
    }
}
