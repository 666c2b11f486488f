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
//! - **W3** Bytes count as written back when their word was switched: payload bytes, not slot sizes.

use super::core::Core;
use super::error::Unwritable;
use super::flights::{Flight, Flights, Landing, Marked, Toll};
use super::payload::Payload;
use super::places::{PlaceCharge, note_refused};
use crate::memcg::{GroupRef, MemcgId, Objcg, ObjcgId};
use crate::swap::{Allowed, Content, Entry, Geometry, Outgoing, SlotWord, Tenant};
use crate::sync::{self, Bug, Step, thread::Backoff};
use crate::units::{Owner, PAGE_SIZE, TierMask};

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

/// What is to be written, beside which entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// It ends with the entry whose payload meets this.
    pub(super) most_bytes: u64,
    /// Somebody asked for it by name.
    pub(super) proactive: bool,
    /// The tiers that they may go to, as far as their memcgs allow.
    pub(super) tiers: TierMask,
}

impl Terms {
    /// All, to wherever they may go.
    pub(super) const ALL: Terms = Terms { most_bytes: u64::MAX, proactive: false, tiers: TierMask::ALL };
}

/// Entries that may all go to the same devices, on their way there, a batch after another.
struct Entries<'a, F> {
    core: &'a Core,
    entries: &'a [(GroupRef, Owner)],
    allowed: Allowed,
    terms: Terms,
    each_landed: F,
    /// The first that no batch was offered to.
    next: usize,
    /// Payload bytes on their way, or landed.
    launched: u64,
    /// Of whom nothing more may be charged.
    full: Option<GroupRef>,
    landed: Landed,
}

impl Core {
    /// Write these entries of `group` back, as many as devices hold and until their payloads meet the terms. Entries that
    /// meanwhile left the group, are in flight or are gone are passed over. Calls `each_landed` for those that left the pool, with
    /// its place in `owners` and its payload bytes.
    pub(super) fn write_back(
        &self,
        group: GroupRef,
        owners: &[Owner],
        terms: Terms,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        let entries: Vec<_> = owners.iter().map(|&owner| (group, owner)).collect();
        self.write_entries(&entries, terms, each_landed)
    }

    /// The same for entries of several groups.
    pub(super) fn write_entries(
        &self,
        entries: &[(GroupRef, Owner)],
        terms: Terms,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        let mut left = terms;
        self.by_tiers(entries, each_landed, |allowed, entries, each| {
            let landed = self.write_alike(allowed.within(terms.tiers), entries, left, each);
            left.most_bytes = left.most_bytes.saturating_sub(landed.bytes);
            landed
        })
    }

    /// The same for entries that may all go to the same devices.
    fn write_alike(
        &self,
        allowed: Allowed,
        entries: &[(GroupRef, Owner)],
        terms: Terms,
        each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        sync::assert_no_lock_held("writing back");
        if self.devices.is_empty() {
            return Landed::default();
        }
        entries.chunk_by(|a, b| a.0 == b.0).for_each(|alike| self.swapins.prepare(alike[0].0));
        let (next, launched, full, landed) = (0, 0, None, Landed::default());
        let mut writing = Entries { core: self, entries, allowed, terms, each_landed, next, launched, full, landed };
        while writing.goes_on() && writing.write_some() {}
        writing.landed
    }
}

impl<F: FnMut(usize, u64)> Entries<'_, F> {
    fn goes_on(&self) -> bool {
        self.next < self.entries.len() && self.launched < self.terms.most_bytes
    }

    /// Offer the entries from the next one on to one device after another, until one has written some. False when none has.
    fn write_some(&mut self) -> bool {
        let (core, first, mut allowed) = (self.core, self.next, self.allowed);
        let mut failed = None;
        self.full = None;
        loop {
            let (least, most) = self.pages(&allowed);
            let begun = core.begin_batch(&allowed, least, most);
            let begun = begun.map_err(|error| failed.unwrap_or(Unwritable::of(&error)));
            let step = core.steps.reach(Step::WritebackBegun);
            let batch = match begun.and_then(|batch| step.map(|()| batch).map_err(|_| Unwritable::DeviceFull)) {
                Ok(batch) => batch,
                Err(why) => {
                    self.refuse(why, failed.is_some());
                    return false;
                }
            };
            let number = batch.number();
            if self.write_batch(batch) {
                return true;
            }
            // All over again, also for the refusal if nobody takes them.
            (self.next, self.full) = (first, None);
            failed = Some(Unwritable::WriteFailed);
            allowed = allowed.without(number);
        }
    }

    /// Pages of devices for the shortest of the entries that are left, and for all of them, as long as they are now. What is asked
    /// for beyond that would be a segment of its own where the tail of another will do.
    fn pages(&self, allowed: &Allowed) -> (usize, usize) {
        let geometry = self.core.devices.geometry();
        let whole = self.core.wants_whole_pages(allowed);
        let (mut shortest, mut blocks, mut bytes) = (PAGE_SIZE, 0, self.launched);
        for &(_, owner) in &self.entries[self.next..] {
            if bytes >= self.terms.most_bytes || blocks >= geometry.batch_pages * geometry.blocks_per_page() {
                break;
            }
            let length = self.core.slots.word(owner).entry().map_or(0, |entry| entry.length);
            // What a device gets as it is has to fit there.
            let there = if whole && length > 0 { PAGE_SIZE } else { length };
            shortest = if there > 0 { shortest.min(there) } else { shortest };
            blocks += Geometry::blocks_for(there);
            bytes += length as u64;
        }
        let least = geometry.pages_for(shortest);
        (least, blocks.div_ceil(geometry.blocks_per_page()).max(least))
    }

    /// No device takes what is left.
    fn refuse(&mut self, why: Unwritable, failed: bool) {
        self.core.note_trouble(Some(why));
        let memcg = self.core.tree.get(self.entries[self.next].0).filter(|_| !failed && self.launched == 0);
        memcg.iter().for_each(|memcg| note_refused(memcg, false));
        // Others may have tiers where there is room.
        let restricted = memcg.filter(|_| self.allowed.is_restricted());
        self.landed.device_refused = restricted.is_none();
        self.landed.at_limit = self.landed.at_limit.or(restricted.map(|memcg| memcg.id()));
    }

    /// Fill a batch and write it. False when the write failed: then nothing has changed.
    fn write_batch(&mut self, mut batch: Outgoing<'_>) -> bool {
        let (core, before) = (self.core, self.launched);
        let mut flights = Flights::new(core, self.entries.len() - self.next, LANDING);
        while self.goes_on() {
            let (group, owner) = self.entries[self.next];
            if self.full != Some(group) {
                match core.launch(group, owner, &mut batch) {
                    Launch::Off(flight) => {
                        self.launched += flight.length() as u64;
                        flights.push(self.next, flight);
                    }
                    Launch::PassedOver => {}
                    Launch::AtLimit(whose) => {
                        self.full = Some(group);
                        self.landed.at_limit = self.landed.at_limit.or(Some(whose));
                    }
                    Launch::BatchFull if flights.len() > 0 => break,
                    Launch::BatchFull => {} // there are as many flights as there may be
                }
            }
            self.next += 1;
        }
        if flights.len() == 0 {
            return true;
        }
        let (landed, each_landed, proactive) = (&mut self.landed, &mut self.each_landed, self.terms.proactive);
        let each = |at, bytes| {
            landed.entries += 1;
            landed.bytes += bytes;
            each_landed(at, bytes);
        };
        if core.planted.is(Bug::WritebackSwitchesEarly) {
            flights.land(proactive, each);
            return batch.write().is_ok();
        }
        if batch.write().is_err() && !core.planted.is(Bug::WritebackIgnoresFailure) {
            core.counters.failed_writes.add(1);
            drop(flights);
            self.launched = before;
            return false;
        }
        core.note_trouble(None);
        flights.arrive();
        if core.steps.reach(Step::WritebackWritten).is_ok() {
            flights.land(proactive, each);
        }
        true
    }
}

impl Core {
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

        let is_raw = word.entry().is_some_and(Entry::is_raw);
        let whole = batch.device().whole_pages() && !is_raw;
        let charge = match PlaceCharge::take(&self.tree, payer, if whole { PAGE_SIZE } else { length }) {
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
        let pattern = matches!(word.content(), Content::Pattern(_));
        let tenant = Tenant { owner, payer: charge.objcg().raw() };
        let mut backoff = Backoff::new();
        let place = loop {
            let now = self.slots.word(owner);
            let Some(entry) = now.entry().filter(|_| now.same_content(word)) else {
                break None; // replaced: the record is cancelled
            };
            if let Some(object) = self.pool.read(owner, entry.location, entry.length) {
                let node = self.pool.home_node(entry.location);
                break object.with(|bytes| {
                    let mut push = |payload: Payload<'_>| {
                        let bytes = payload.bytes;
                        batch.push(slot.0, payload.label(node), tenant, bytes.len(), |to| to.copy_from_slice(bytes))
                    };
                    let payload = Payload { bytes, codec, pattern };
                    if !whole {
                        return push(payload);
                    }
                    // If it cannot be decoded, that is for a load to say.
                    push(self.unpack(slot, payload, &mut [0; PAGE_SIZE]).ok()?)
                });
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
