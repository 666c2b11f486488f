//! Store: a page goes in.
//!
//! ```text
//!   same-filled ------------------------------------------------> word in the slot
//!   compress (outside all locks; not smaller: raw; among others that did not shrink: raw untried, see sampling.rs)
//!     charge + slot of a size class --- refused? reclaim, again
//!     fill
//!     cluster lock { empty the slot (old content out, off the LRU, its flight cancelled)
//!                    codec, word, LRU }                          one section: nobody sees half an entry
//!     give the old content back
//! ```
//!
//! A page that can never be admitted (its limit is below its slot's size) goes straight to the device, and one that cannot
//! be admitted now is refused; in both cases no older copy of the slot stays behind (R-11).

use super::Error;
use super::cells::SlotCells;
use super::core::{Core, Zswap};
use super::effort::Effort;
use super::error::Unwritable;
use super::payload::Payload;
use super::places::{PlaceCharge, note_refused, place_bytes};
use super::sampling::Unseen;
use crate::arena;
use crate::compress::{self, CodecId, Compressed};
use crate::memcg::{Event, LimitHit, Memcg, ObjcgId};
use crate::swap::{Content, Entry, SlotWord, Tenant};
use crate::sync::{self, Bug, atomic::Ordering};
use crate::units::{FRAME_SIZE, Location, NodeId, Owner, PAGE_SIZE, Slot};
use crate::zsmalloc::{self, Uncommitted};

/// How a page was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// One repeated word, kept in the slot itself: nothing charged.
    SameFilled,
    /// One repeated word that does not fit in the slot: an object of 8 bytes.
    Pattern {
        /// Size of the slot they make unusable, which is what is charged.
        slot_bytes: usize,
    },
    /// Compressed to `payload_bytes` in a slot of `slot_bytes`, which is what is charged.
    Compressed {
        /// Length of the compressed bytes.
        payload_bytes: usize,
        /// Size of the slot they make unusable.
        slot_bytes: usize,
    },
    /// Stored as it is, because compression did not make it smaller, or was not tried where it seldom does
    /// ([`Sampling`](super::Sampling)).
    Incompressible,
    /// Written to the device without entering the pool: a limit does not admit it, or it does not shrink
    /// ([`swap_out_to_win`](Zswap::swap_out_to_win)).
    WrittenThrough,
}

impl Stored {
    /// Bytes of pool memory that the page takes now, which its memcg is charged for.
    pub fn slot_bytes(self) -> usize {
        match self {
            Stored::SameFilled | Stored::WrittenThrough => 0,
            Stored::Pattern { slot_bytes } | Stored::Compressed { slot_bytes, .. } => slot_bytes,
            Stored::Incompressible => PAGE_SIZE, // no class is larger, and no object smaller than the page is kept so
        }
    }
}

/// Who is charged for a page.
#[derive(Clone, Copy)]
pub(super) struct Payer<'a> {
    pub(super) memcg: &'a Memcg,
    /// Bytes that it is charged for the page already, as resident: its `memory.max` is not asked again.
    pub(super) prepaid: Option<u64>,
    /// Neither the allocator nor a device may help: a store that does not fit as things are is refused.
    pub(super) unaided: bool,
    /// What becomes of a page that hardly shrinks.
    pub(super) poor: Poor,
}

/// What becomes of a page of which the pool would hold nearly as much as memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poor {
    /// It is stored all the same, raw if it does not shrink at all.
    Kept,
    /// It is refused.
    Refused,
    /// It is written to a device, or refused where none takes it.
    Written,
}

/// What a page has to win to be stored where that is asked: an eighth. With less, more than eight would have to go for one that comes,
/// each of them to fault again.
const LEAST_WON: usize = PAGE_SIZE / 8;

/// Whether a page may enter the pool.
pub(super) enum Admission<'a> {
    /// Yes: charged and allocated.
    Object(Uncommitted<'a, SlotCells>),
    /// Not even into an empty pool.
    Never(Refusal),
}

/// Which limit refused.
pub(super) enum Refusal {
    Limit(LimitHit),
    Pool(zsmalloc::Error),
    /// None: it does not shrink.
    Poor,
}

impl Zswap {
    /// Store a page in a slot for `memcg`, preferably on `node`. What the slot held before is gone, also on failure: then the
    /// caller's page is the only copy.
    ///
    /// Nobody else may write `page` meanwhile: the borrow says so; memory that a guest can write has to be copied or
    /// protected first.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::PoolFull`], [`Error::NodesFull`] when no room can be made; [`Error::Memcg`] when the memcg is offline;
    /// [`Error::Swap`] when the slot was never reserved; [`Error::Arena`] when the system has no memory.
    ///
    /// # Locks
    /// Class, arena, cluster, LRU, one after the other; none while compressing or writing.
    pub fn store(&self, slot: Slot, memcg: &Memcg, node: NodeId, page: &[u8; PAGE_SIZE]) -> Result<Stored, Error> {
        self.core.store_or_empty(slot, Payer { memcg, prepaid: None, unaided: false, poor: Poor::Kept }, node, page)
    }
}

/// A store that has not succeeded. Dropped, it has failed, also by a panic of a codec's or a device's: the slot is emptied.
struct Failing<'a> {
    core: &'a Core,
    slot: Slot,
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.core.counters.refused.add(1);
        if !self.core.planted.is(Bug::FailedStoreKeepsOlder) {
            self.core.free(self.slot);
        }
    }
}

impl Core {
    /// Store a page, or leave the slot empty (R-11).
    pub(super) fn store_or_empty(
        &self,
        slot: Slot,
        payer: Payer<'_>,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
    ) -> Result<Stored, Error> {
        let failing = Failing { core: self, slot };
        let stored = self.store(slot, payer, node, page);
        match stored {
            Ok(_) => std::mem::forget(failing),
            Err(_) => drop(failing),
        }
        self.kick_if_high();
        stored
    }

    fn store(&self, slot: Slot, payer: Payer<'_>, node: NodeId, page: &[u8; PAGE_SIZE]) -> Result<Stored, Error> {
        sync::assert_no_lock_held("storing a page");
        let memcg = payer.memcg;
        if !memcg.tree().is(&self.tree) {
            return Err(Error::ForeignMemcg { path: memcg.path() });
        }
        if let Some(word) = compress::same_filled(page) {
            if let Some(word) = SlotWord::new(Content::SameFilled(word)) {
                // Same-filled pages are stored even under a limit of 0, but not for a memcg that is gone.
                memcg.objcg()?;
                self.replace(slot, |_, _| word)?;
                return Ok(Stored::SameFilled);
            }
            let word = word.to_ne_bytes();
            let payload = Payload::pattern(&word);
            let charged = self.store_payload(slot, payer, node, payload, None)?;
            return Ok(charged.map_or(Stored::WrittenThrough, |slot_bytes| Stored::Pattern { slot_bytes }));
        }
        let mut refused_raw = None;
        // Who is refused what does not shrink remembers that for each page.
        if payer.poor == Poor::Kept && self.sampler.passes_by(slot) {
            match self.store_unseen(slot, payer, node, page)? {
                Unseen::Stored(stored) => return Ok(stored),
                Unseen::Refused(error) => refused_raw = error,
            }
        }
        let codec = self.codecs.by_id(CodecId::new(self.codec.load(Ordering::Relaxed)));
        let codec = codec.expect("the current codec is in the registry");
        let mut context = self.contexts.checkout();
        let payload = match codec.compress(&mut context, page) {
            Compressed::Bytes(bytes) => Payload { bytes, codec: codec.id().get(), pattern: false },
            Compressed::Incompressible => Payload::raw(page),
        };
        let shrank = payload.codec != CodecId::RAW.get();
        self.sampler.learn(slot, shrank);
        if let (false, Some(error)) = (shrank, refused_raw) {
            return Err(error); // a whole page was asked for already
        }
        let payload_bytes = payload.bytes.len();
        if payer.poor != Poor::Kept && self.slot_bytes(payload_bytes) > PAGE_SIZE - LEAST_WON {
            drop(context);
            return self.store_poor(slot, payer, node, page);
        }
        let stored = match self.allocate(payer, payload_bytes, node) {
            Ok(object) => self.put_object(slot, object, payload).map(Some),
            // What it says does not matter: nothing was tried.
            Err(refused) if payer.unaided => self.admit(payer, node, payload_bytes, Some(refused)).map(|_| None),
            Err(refused) => {
                // Making room may wait for the device: not with scratch memory in hand that other stores wait for.
                let bytes = payload.bytes.to_vec();
                let payload = Payload { bytes: &bytes, ..payload };
                drop(context);
                self.store_payload(slot, payer, node, payload, Some(refused))
            }
        };
        Ok(match stored? {
            None => Stored::WrittenThrough,
            Some(_) if payload_bytes == PAGE_SIZE => Stored::Incompressible,
            Some(slot_bytes) => Stored::Compressed { payload_bytes, slot_bytes },
        })
    }

    /// Store bytes as an object, making room where there is none, and return its slot's size, or `None` when they went straight
    /// to the device.
    fn store_payload(
        &self,
        slot: Slot,
        payer: Payer<'_>,
        node: NodeId,
        payload: Payload<'_>,
        refused: Option<zsmalloc::Error>,
    ) -> Result<Option<usize>, Error> {
        match self.admit(payer, node, payload.bytes.len(), refused)? {
            Admission::Object(object) => self.put_object(slot, object, payload).map(Some),
            Admission::Never(refusal) => self.write_through(slot, payer.memcg, node, payload, refusal).map(|()| None),
        }
    }

    /// Size of the slot of an object of so many bytes.
    fn slot_bytes(&self, len: usize) -> usize {
        let geometry = self.pool.geometry();
        geometry.class_of(len).map_or(PAGE_SIZE, |class| geometry.class(class).size())
    }

    /// A page that hardly shrinks, and is not to be kept in the pool: to a device, as it is, or nowhere.
    fn store_poor(&self, slot: Slot, payer: Payer<'_>, node: NodeId, page: &[u8; PAGE_SIZE]) -> Result<Stored, Error> {
        if payer.poor == Poor::Refused {
            let reason = match () {
                () if self.devices.is_empty() => Unwritable::NoDevice,
                () if !payer.memcg.writeback() => Unwritable::Disabled,
                () => Unwritable::NotTried,
            };
            return Err(Error::Incompressible { slot, reason });
        }
        let payload = Payload::raw(page);
        self.write_through(slot, payer.memcg, node, payload, Refusal::Poor)?;
        Ok(Stored::WrittenThrough)
    }

    /// Charge and allocate an object.
    #[inline]
    fn allocate(
        &self,
        payer: Payer<'_>,
        len: usize,
        node: NodeId,
    ) -> Result<Uncommitted<'_, SlotCells>, zsmalloc::Error> {
        match payer.prepaid {
            None => self.pool.malloc(Some(payer.memcg), len, node),
            Some(bytes) => self.pool.malloc_prepaid(payer.memcg, len, node, bytes),
        }
    }

    /// Fill an object, put it into the slot, and return its slot's size.
    pub(super) fn put_object(
        &self,
        slot: Slot,
        mut object: Uncommitted<'_, SlotCells>,
        payload: Payload<'_>,
    ) -> Result<usize, Error> {
        object.write(payload.bytes).expect("as many bytes as were just asked for");
        let slot_bytes = self.slot_bytes(payload.bytes.len());
        let objcg = object.objcg();
        let mut pinned = None;
        self.replace(slot, |owner, generation| {
            // Pinned until its word is in place: compaction would find a cell that does not name it yet.
            let published = pinned.insert(object.publish(owner));
            self.make_entry(owner, objcg, payload, published.location(), generation)
        })?;
        // After the locks: a walker that found the lists empty looks again under the tree lock before it passes by.
        self.tree.enlist(objcg);
        drop(pinned);
        Ok(slot_bytes)
    }

    /// Put the entry of an object at the warm end of its list, and make the word for its slot, which is put there under the same
    /// cluster lock.
    #[inline]
    pub(super) fn make_entry(
        &self,
        owner: Owner,
        objcg: ObjcgId,
        payload: Payload<'_>,
        location: Location,
        generation: u8,
    ) -> SlotWord {
        self.lru.set_codec(owner, payload.codec, self.policy.new_is_referenced);
        let entry = Entry { location, length: payload.bytes.len(), generation };
        self.lru.add(owner, &self.tree, objcg, self.which_list(entry));
        payload.word(entry)
    }

    /// Put a new content into a slot: `make` builds its word for this owner and generation, under the cluster lock.
    fn replace(&self, slot: Slot, make: impl FnOnce(Owner, u8) -> SlotWord) -> Result<(), Error> {
        let mut guard = self.slots.lock_or_make(slot)?;
        let owner = guard.owner();
        let old = self.take_out(&mut guard);
        let generation = guard.next_generation();
        let word = make(owner, generation);
        self.counters.enter(word);
        guard.put(word);
        drop(guard);
        self.give_back(owner, old);
        Ok(())
    }

    /// Allocate and charge an object, making room where a limit asks for it, which may have `refused` it already.
    pub(super) fn admit(
        &self,
        payer: Payer<'_>,
        node: NodeId,
        len: usize,
        mut refused: Option<zsmalloc::Error>,
    ) -> Result<Admission<'_>, Error> {
        let mut effort = Effort::new(&self.policy);
        let mut stalled = None;
        loop {
            let refused = match refused.take() {
                Some(refused) => refused,
                None => match self.allocate(payer, len, node) {
                    Ok(object) => return Ok(Admission::Object(object)),
                    Err(refused) => refused,
                },
            };
            if payer.unaided {
                return Err(Error::unaided(refused));
            }
            // What the store waits for from here on is memory.
            stalled.get_or_insert_with(|| payer.memcg.stall());
            match refused {
                zsmalloc::Error::Limit(hit) => {
                    if hit.limit() < hit.asked() {
                        return Ok(Admission::Never(Refusal::Limit(hit)));
                    }
                    let room = self.make_room_below(&hit, &mut effort);
                    if !effort.goes_on(room) {
                        let reason = effort.why();
                        return Err(Error::Limit { source: hit, reason });
                    }
                }
                zsmalloc::Error::Arena(arena::Error::Limit { limit, .. }) => {
                    if limit < 2 * FRAME_SIZE as u64 {
                        return Ok(Admission::Never(Refusal::Pool(refused)));
                    }
                    let room = self.make_room_in_pool(&mut effort);
                    if !effort.goes_on(room) {
                        let reason = effort.why();
                        return Err(Error::PoolFull { source: refused, reason });
                    }
                }
                zsmalloc::Error::NodesFull { nodes, capacity, .. } => {
                    if capacity.is_some_and(|bytes| bytes < 2 * FRAME_SIZE as u64) {
                        return Ok(Admission::Never(Refusal::Pool(refused)));
                    }
                    let room = self.make_room_on(nodes);
                    if !effort.goes_on(room) {
                        let reason = effort.why();
                        return Err(Error::NodesFull { source: refused, reason });
                    }
                }
                zsmalloc::Error::Memcg(removed) => return Err(removed.into()),
                other => return Err(other.into()),
            }
        }
    }

    /// Write a page that its limit can never admit, or of which the pool would win nothing, to a device, in a batch as writeback's
    /// are.
    fn write_through(
        &self,
        slot: Slot,
        memcg: &Memcg,
        node: NodeId,
        payload: Payload<'_>,
        refusal: Refusal,
    ) -> Result<(), Error> {
        let refuse = |reason| match refusal {
            Refusal::Limit(source) => Error::Limit { source, reason },
            Refusal::Pool(source @ zsmalloc::Error::NodesFull { .. }) => Error::NodesFull { source, reason },
            Refusal::Pool(source) => Error::PoolFull { source, reason },
            Refusal::Poor => Error::Incompressible { slot, reason },
        };
        if self.devices.is_empty() {
            return Err(refuse(Unwritable::NoDevice));
        }
        if !memcg.writeback() {
            return Err(refuse(Unwritable::Disabled));
        }
        // A raw payload is the client's page: it is touched before the write buffer is ours, which who serves its fault may
        // be waiting for.
        let mut bytes = [0; PAGE_SIZE];
        let bytes = &mut bytes[..payload.bytes.len()];
        bytes.copy_from_slice(payload.bytes);
        let Ok(mut charge) = PlaceCharge::take(&self.tree, memcg.objcg()?, bytes.len()) else {
            note_refused(memcg, true);
            return Err(refuse(Unwritable::SwapMax));
        };
        let packed = Payload { bytes, ..payload };
        let (mut allowed, mut failed) = (self.allowed(memcg.group()), None);
        let (place, tenant) = loop {
            let most = if self.wants_whole_pages(&allowed) { PAGE_SIZE } else { packed.bytes.len() };
            let pages = self.devices.geometry().pages_for(most);
            let mut batch = match self.begin_batch(&allowed, pages, pages) {
                Ok(batch) => batch,
                Err(error) => {
                    if failed.is_none() {
                        note_refused(memcg, false);
                    }
                    return Err(refuse(failed.unwrap_or(Unwritable::of(&error))));
                }
            };
            let mut page = [0; PAGE_SIZE];
            let payload = match batch.device().whole_pages() && packed.bytes.len() < PAGE_SIZE {
                true => self.unpack(slot, packed, &mut page)?,
                false => packed,
            };
            let bytes = payload.bytes;
            if charge.bytes() != place_bytes(bytes.len()) {
                // Not both at once: there may be room for one only.
                drop(charge);
                charge = match PlaceCharge::take(&self.tree, memcg.objcg()?, bytes.len()) {
                    Ok(charge) => charge,
                    Err(_) => {
                        note_refused(memcg, true);
                        return Err(refuse(Unwritable::SwapMax));
                    }
                };
            }
            let payer = charge.objcg();
            // Its number may be another one once it is written: nothing keeps its cluster, which may be empty still if the write
            // fails.
            let mut guard = self.slots.lock_or_make(slot)?;
            let tenant = Tenant { owner: guard.owner(), payer: payer.raw() };
            guard.note_idle();
            drop(guard);
            let place = batch.push(slot.0, payload.label(node), tenant, bytes.len(), |to| to.copy_from_slice(bytes));
            let Some(place) = place else { return Err(refuse(Unwritable::DeviceFull)) };
            let number = batch.number();
            if batch.write().is_ok() {
                break (place, tenant);
            }
            // The next tier may do better.
            self.counters.failed_writes.add(1);
            failed = Some(Unwritable::WriteFailed);
            allowed = allowed.without(number);
        };
        let word = SlotWord::new(Content::Physical(place)).expect("a place always fits in a word");
        let put = self.replace(slot, |owner, _| {
            // While the charge has its reference: afterwards the slot may be emptied by anyone.
            let payer = charge.objcg();
            self.tree.count(payer, Event::ZswpWb, 1);
            self.tree.count(payer, Event::ZswpWbBytes, packed.bytes.len() as u64);
            if owner != tenant.owner {
                self.devices.get(place.device).expect("D5: it holds the object").set_owner(place, owner);
            }
            charge.leave_to(place);
            word
        });
        put.inspect_err(|_| _ = self.devices.free(place))?;
        self.swapins.prepare(memcg.group());
        self.counters.written_through.add(1);
        Ok(())
    }
}
