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
//! - **W1**, **W2**, **W4** Those of flights: `flights.rs`.
//! - **W3** Bytes count as written back when their word was switched: payload bytes, not slot sizes (T1).

use super::core::Core;
use super::error::Unwritable;
use super::flights::{Flight, Flights, Landing, Marked, Toll};
use super::places::{PlaceCharge, note_refused};
use super::store::BlockFlags;
use crate::memcg::{GroupRef, MemcgId, Objcg, ObjcgId};
use crate::swap::{Allowed, Content, Outgoing, SlotWord};
use crate::sync::{self, Bug, Step, thread::Backoff};
use crate::units::{Owner, PAGE_SIZE};

/// The steps of the landing.
const LANDING: Landing = [Step::EntryLanding, Step::EntrySwitched, Step::EntryFreed];

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
    pub(super) fn write_back(
        &self,
        group: GroupRef,
        owners: &[Owner],
        most_bytes: u64,
        proactive: bool,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        let entries: Vec<_> = owners.iter().map(|&owner| (group, owner)).collect();
        self.write_entries(&entries, most_bytes, proactive, each_landed)
    }

    /// The same for entries of several groups. Calls `each` for those that left the pool, with its place in `entries` and its
    /// payload bytes.
    pub(super) fn write_entries(
        &self,
        entries: &[(GroupRef, Owner)],
        most_bytes: u64,
        proactive: bool,
        mut each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        sync::assert_no_lock_held("writing back");
        if self.devices.is_empty() {
            return Landed::default();
        }
        entries.chunk_by(|a, b| a.0 == b.0).for_each(|alike| self.swapins.prepare(alike[0].0));
        // Room for any one object; and for the others as if their headers cost nothing: what is too much is given back.
        let geometry = self.devices.geometry();
        let (least, each) = (geometry.pages_for(PAGE_SIZE), PAGE_SIZE / geometry.page_bytes);
        let Ok(mut batch) = self.devices.begin(&Allowed::ALL, least, least + each * entries.len()) else {
            self.note_trouble(Some(Unwritable::DeviceFull));
            if let Some(memcg) = entries.first().and_then(|&(group, _)| self.tree.get(group)) {
                note_refused(&memcg, false);
            }
            return Landed { device_refused: true, ..Landed::default() };
        };
        let mut flights = Flights::new(self, entries.len(), LANDING);
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
                    launched += flight.length() as u64;
                    flights.push(at, flight);
                }
                Launch::PassedOver => {}
                Launch::AtLimit(whose) => (full, at_limit) = (Some(group), Some(whose)),
                Launch::BatchFull => break,
            }
        }
        if flights.len() == 0 {
            return Landed { at_limit, ..Landed::default() };
        }
        let mut landed = Landed { at_limit, ..Landed::default() };
        let each = |at, bytes| {
            landed.entries += 1;
            landed.bytes += bytes;
            each_landed(at, bytes);
        };
        if self.planted.is(Bug::WritebackSwitchesEarly) {
            flights.land(proactive, each);
            landed.device_refused = batch.write().is_err();
            return landed;
        }
        let written = batch.write().is_ok() || self.planted.is(Bug::WritebackIgnoresFailure);
        self.note_trouble((!written).then_some(Unwritable::WriteFailed));
        if !written {
            self.counters.failed_writes.add(1);
            return Landed { device_refused: true, ..landed };
        }
        flights.arrive();
        if self.steps.reach(Step::WritebackWritten).is_ok() {
            flights.land(proactive, each);
        }
        landed
    }

    fn launch(&self, group: GroupRef, owner: Owner, batch: &mut Outgoing<'_>) -> Launch<'_> {
        let Some(mut guard) = self.slots.lock_owner(owner) else { return Launch::PassedOver };
        let word = guard.word();
        let is_free = !word.writeback() || self.planted.is(Bug::LaunchTwice);
        let Some(payer) = self.owned_by(owner, word, group).filter(|_| is_free) else { return Launch::PassedOver };
        let Some(marked) = Marked::begin(self, &mut guard) else { return Launch::BatchFull };
        let slot = guard.slot();
        let codec = self.lru.codec(owner);
        let length = word.entry().expect("it was just found to belong to the group").length;
        drop(guard);
        if self.steps.reach(Step::EntryMarked).is_err() {
            return Launch::PassedOver;
        }

        let charge = match PlaceCharge::take(&self.tree, payer, length) {
            Ok(charge) => charge,
            Err(hit) => {
                if marked.end()
                    && let Some(memcg) = self.tree.get(group)
                {
                    note_refused(&memcg, true);
                }
                return Launch::AtLimit(hit.id());
            }
        };
        if self.steps.reach(Step::EntryCharged).is_err() {
            return Launch::PassedOver;
        }
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
        let Some(place) = place else {
            return if marked.end() { Launch::BatchFull } else { Launch::PassedOver };
        };
        let mut flight = Flight::new(marked, None, place, Toll::Paid(charge), length);
        if self.steps.reach(Step::EntryCopied).is_err() {
            flight.abort();
        }
        Launch::Off(flight)
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
}

enum Launch<'a> {
    Off(Flight<'a>),
    PassedOver,
    /// The `memory.swap.max` of this memcg admits no place for it.
    AtLimit(MemcgId),
    BatchFull,
}
