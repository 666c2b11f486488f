//! Writeback: cold entries go from the pool to the device, as they are, in batches.
//!
//! ```text
//!   launch, per entry    cluster lock { still there, not in flight: record, writeback bit }
//!                        charge the place, else clear the bit
//!                        pin { copy the bytes into the batch }           the entry stays loadable all the time
//!   write                one aligned run, no lock held
//!   land, per entry      cluster lock { record live? word: object -> place; off the LRU }  then free the object
//!                        cancelled: free the place.  write failed: clear the bit, the entry stays
//! ```
//!
//! - **W1** A slot has exactly one valid copy the word names; the object is freed only after the word names the place.
//! - **W2** Emptying or replacing a slot in flight cancels its record under the cluster lock; a cancelled flight never
//!   switches a word, whatever the slot holds by then (R-12).
//! - **W3** Bytes count as written back when their word was switched: payload bytes, not slot sizes (T1).

use super::core::Core;
use super::error::Unwritable;
use super::inflight::Record;
use super::places::{PlaceCharge, note_refused};
use super::store::BlockFlags;
use crate::memcg::{Event, GroupRef, MemcgId, Objcg, ObjcgId};
use crate::swap::{Allowed, Content, Outgoing, Place, SlotWord};
use crate::sync::{self, Bug, thread::Backoff};
use crate::units::{Owner, PAGE_SIZE};

/// An entry on its way to the device.
struct Flight<'a> {
    owner: Owner,
    record: Record,
    place: Place,
    charge: PlaceCharge<'a>,
    /// Payload bytes on their way.
    length: usize,
}

/// The flights of a batch. What has not landed when it is dropped (a device panicked) ends as if the write had failed, so that
/// no slot stays marked.
struct Flights<'a> {
    core: &'a Core,
    /// Each with its place among the entries that the caller named.
    under_way: Vec<(usize, Flight<'a>)>,
    /// Somebody asked for it by name.
    proactive: bool,
}

impl Flights<'_> {
    /// Land them all, and tell of each that left the pool; what did in all.
    fn land(&mut self, written: bool, mut each: impl FnMut(usize, u64)) -> Landed {
        let mut landed = Landed::default();
        while let Some((at, flight)) = self.under_way.pop() {
            if let Some(length) = self.core.land(flight, written, self.proactive) {
                landed.entries += 1;
                landed.bytes += length as u64;
                each(at, length as u64);
            }
        }
        landed
    }
}

impl Drop for Flights<'_> {
    fn drop(&mut self) {
        self.land(false, |_, _| {});
    }
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Landed {
    /// Entries whose object left the pool.
    pub(super) entries: usize,
    /// Payload bytes of those.
    pub(super) bytes: u64,
    /// The device had no place for them, or failed to write: trying others now is no use.
    pub(super) device_refused: bool,
    /// A `memory.swap.max` admits no places for some of them: whose.
    pub(super) at_limit: Option<MemcgId>,
}

impl Core {
    /// Write these entries of `group` back, as many as a batch and the device hold and until their payloads have `most_bytes`.
    /// Entries that meanwhile left the group, are in flight or are gone are passed over. `proactive`: somebody asked for it by
    /// name.
    pub(super) fn write_back(&self, group: GroupRef, owners: &[Owner], most_bytes: u64, proactive: bool) -> Landed {
        let entries: Vec<_> = owners.iter().map(|&owner| (group, owner)).collect();
        self.write_entries(&entries, most_bytes, proactive, |_, _| {})
    }

    /// The same for entries of several groups. Calls `each` for those that left the pool, with its place in `entries` and its
    /// payload bytes.
    pub(super) fn write_entries(
        &self,
        entries: &[(GroupRef, Owner)],
        most_bytes: u64,
        proactive: bool,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        let mut left = most_bytes;
        self.by_tiers(entries, each_landed, |allowed, entries, each| {
            let landed = self.write_alike(allowed, entries, left, proactive, each);
            left = left.saturating_sub(landed.bytes);
            landed
        })
    }

    /// The same for entries that may all go to the same devices.
    fn write_alike(
        &self,
        allowed: &Allowed,
        entries: &[(GroupRef, Owner)],
        most_bytes: u64,
        proactive: bool,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        sync::assert_no_lock_held("writing back");
        if self.devices.is_empty() {
            return Landed::default();
        }
        entries.chunk_by(|a, b| a.0 == b.0).for_each(|alike| self.swapins.prepare(alike[0].0));
        // Room for any one object; and for the others as if their headers cost nothing: what is too much is given back.
        let geometry = self.devices.geometry();
        let (least, each) = (geometry.pages_for(PAGE_SIZE), PAGE_SIZE / geometry.page_bytes);
        let begun = self.devices.begin(allowed, least, least + each * entries.len());
        let Ok(mut batch) = begun.inspect_err(|error| self.note_trouble(Some(Unwritable::of(error)))) else {
            let memcg = entries.first().and_then(|&(group, _)| self.tree.get(group));
            memcg.iter().for_each(|memcg| note_refused(memcg, false));
            // Others may have tiers where there is room.
            let at_limit = memcg.filter(|_| allowed.is_restricted()).map(|memcg| memcg.id());
            return Landed { device_refused: at_limit.is_none(), at_limit, ..Landed::default() };
        };
        let mut flights = Flights { core: self, under_way: Vec::with_capacity(entries.len()), proactive };
        let (mut launched, mut full, mut at_limit) = (0, None, None);
        for (at, &(group, owner)) in entries.iter().enumerate() {
            // Their lengths may be others than when they were picked.
            if launched >= most_bytes {
                break;
            }
            if full == Some(group) {
                continue;
            }
            match self.launch(group, owner, &mut batch) {
                Launch::Off(flight) => {
                    launched += flight.length as u64;
                    flights.under_way.push((at, flight));
                }
                Launch::PassedOver => {}
                Launch::AtLimit(whose) => (full, at_limit) = (Some(group), Some(whose)),
                Launch::BatchFull => break,
            }
        }
        if flights.under_way.is_empty() {
            return Landed { at_limit, ..Landed::default() };
        }
        if self.planted.is(Bug::WritebackSwitchesEarly) {
            flights.land(true, |_, _| {});
        }
        let written = batch.write().is_ok() || self.planted.is(Bug::WritebackIgnoresFailure);
        if !written {
            self.counters.failed_writes.add(1);
        }
        self.note_trouble((!written).then_some(Unwritable::WriteFailed));
        Landed { device_refused: !written, at_limit, ..flights.land(written, each_landed) }
    }

    fn launch(&self, group: GroupRef, owner: Owner, batch: &mut Outgoing<'_>) -> Launch<'_> {
        let Some(mut guard) = self.slots.lock_owner(owner) else { return Launch::PassedOver };
        let word = guard.word();
        let is_free = !word.writeback() || self.planted.is(Bug::LaunchTwice);
        let Some(payer) = self.owned_by(owner, word, group).filter(|_| is_free) else { return Launch::PassedOver };
        let Some(record) = self.inflight.begin(owner) else { return Launch::BatchFull };
        guard.set_writeback(true);
        let slot = guard.slot();
        let codec = self.lru.codec(owner);
        let length = word.entry().expect("it was just found to belong to the group").length;
        drop(guard);

        let charge = match PlaceCharge::take(&self.tree, payer, length) {
            Ok(charge) => charge,
            Err(hit) => {
                if self.end(owner, record)
                    && let Some(memcg) = self.tree.get(group)
                {
                    note_refused(&memcg, true);
                }
                return Launch::AtLimit(hit.id());
            }
        };
        let flags = BlockFlags::of(matches!(word.content(), Content::Pattern(_))).bits();
        let mut backoff = Backoff::new();
        let place = loop {
            let now = self.slots.word(owner);
            let Some(entry) = now.entry().filter(|_| now.same_content(word)) else {
                break None; // replaced: the record is cancelled
            };
            if let Some(object) = self.pool.read(owner, entry.location, entry.length) {
                break object
                    .with(|bytes| batch.push(slot.0, codec, flags, bytes.len(), |to| to.copy_from_slice(bytes)));
            }
            backoff.wait(); // compaction moved it: the word says where to
        };
        match place {
            Some(place) => Launch::Off(Flight { owner, record, place, charge, length }),
            None => {
                let cancelled = !self.end(owner, record);
                if cancelled { Launch::PassedOver } else { Launch::BatchFull }
            }
        }
    }

    /// The objcg of the object that the word names, if its memcg is `group` (a memcg at its limit writes back its own entries
    /// only). Under the cluster lock, which keeps the object, and so its reference.
    fn owned_by(&self, owner: Owner, mut word: SlotWord, group: GroupRef) -> Option<Objcg> {
        while let Some(entry) = word.entry() {
            let objcg = self.pool.objcg_at(owner, entry.location);
            let again = self.slots.word(owner);
            if again == word {
                let trusting = self.planted.is(Bug::LaunchTrustsPick);
                let is_ours = |&objcg: &ObjcgId| trusting || self.tree.is_current(objcg, group);
                return objcg.filter(is_ours).map(|objcg| self.tree.borrow(objcg));
            }
            word = again; // moved while we looked
        }
        None
    }

    /// End a flight that does not switch its word: clear the bit unless it was cancelled. Whether it was live.
    fn end(&self, owner: Owner, record: Record) -> bool {
        let guard = self.slots.lock_owner(owner);
        let live = self.inflight.finish(record);
        if live {
            let mut guard = guard.expect("a cluster with a slot in flight is not reaped");
            guard.set_writeback(false);
        }
        live
    }

    /// The batch is written, or failed: switch the word unless the flight was cancelled. Payload bytes that left the pool.
    fn land(&self, flight: Flight<'_>, written: bool, proactive: bool) -> Option<usize> {
        let Flight { owner, record, place, charge, .. } = flight;
        if !written {
            self.end(owner, record);
            return None; // the batch gave its places back
        }
        let guard = self.slots.lock_owner(owner);
        if !self.inflight.finish(record) {
            drop(guard);
            self.devices.free(place);
            if self.planted.is(Bug::CancelKeepsCharge) {
                std::mem::forget(charge);
            }
            return None;
        }
        let mut guard = guard.expect("a cluster with a slot in flight is not reaped");
        let switched = SlotWord::new(Content::Physical(place)).expect("a place always fits in a word");
        let old = guard.switch(switched);
        let Some(entry) = old.entry() else {
            // Only under a planted bug: the slot was emptied or replaced, and the flight not told.
            assert!(self.planted.is(Bug::WritebackIgnoresCancel), "W2: a live flight's slot holds its entry");
            return None;
        };
        let objcg = self.pool.objcg_at(owner, entry.location).expect("an object out of its cell stays where it is");
        self.off_the_lru(owner, old);
        charge.leave_to(owner, &self.lru, place);
        self.lru.set_origin(owner, self.pool.home_node(entry.location));
        self.counters.leave(old);
        self.counters.enter(switched);
        self.tree.count(objcg, Event::ZswpWb, 1);
        self.tree.count(objcg, Event::ZswpWbBytes, entry.length as u64);
        if proactive {
            self.tree.count(objcg, Event::ZswpWbProactiveBytes, entry.length as u64);
        }
        drop(guard);
        self.pool.free(owner, entry.location, entry.length);
        Some(entry.length)
    }
}

enum Launch<'a> {
    Off(Flight<'a>),
    PassedOver,
    /// The `memory.swap.max` of this memcg admits no place for it.
    AtLimit(MemcgId),
    BatchFull,
}
