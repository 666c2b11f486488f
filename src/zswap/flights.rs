//! Flights: slots whose bytes are on their way to a place, from the pool or from another place.
//!
//! ```text
//!                begin                          write                       land
//!   Marked: record, writeback bit      the batch, no lock held     cluster lock { record live? word: old -> place }
//!   Flight: + promised place, charge                               give the old content back
//!                                                                  cancelled, failed: the place is freed, the bit cleared
//! ```
//!
//! - **W1** A slot has exactly one valid copy that its word names; what it named before is given back only after the word names
//!   the place.
//! - **W2** Emptying or replacing a slot in flight cancels its record under the cluster lock; a cancelled flight never
//!   switches a word, whatever the slot holds by then (R-12).
//! - **W4** Every step gives back what it has taken when it is dropped, so that an error, or a panic of a client's device, at any
//!   of them leaves one valid copy and nothing charged that is not there.

use super::core::Core;
use super::inflight::Record;
use super::places::PlaceCharge;
use super::release::Held;
use crate::memcg::Event;
use crate::swap::{Content, Place, SlotGuard, SlotWord};
use crate::sync::{Bug, Step, StepFailed};
use crate::units::Owner;

/// A slot with a live record; dropped, its flight ends without having switched its word.
#[must_use = "dropped, the flight ends"]
pub(super) struct Marked<'a> {
    core: &'a Core,
    owner: Owner,
    /// `None` once it has ended.
    record: Option<Record>,
}

/// A slot's bytes on their way to a place.
pub(super) struct Flight<'a> {
    marked: Marked<'a>,
    /// The place where they are now; `None` for an object in the pool.
    from: Option<Place>,
    to: Place,
    /// There is an object at `to`, which nobody's word names yet.
    arrived: bool,
    toll: Toll<'a>,
    /// Bytes that leave where they are.
    length: usize,
}

/// Who pays for the place a flight goes to.
pub(super) enum Toll<'a> {
    /// It was charged for.
    Paid(PlaceCharge<'a>),
    /// Whoever pays for the place it comes from, which is as large.
    Carried,
}

/// What a word named until it was switched: given back when dropped, outside of the cluster lock.
#[must_use = "dropped, it is given back"]
pub(super) struct Replaced<'a> {
    core: &'a Core,
    owner: Owner,
    held: Held,
    /// Another place takes over what this one is charged.
    keeps_charge: bool,
}

/// The flights of a batch. Those that have not landed when it is dropped end.
pub(super) struct Flights<'a> {
    core: &'a Core,
    /// Each with its place among what the caller named.
    under_way: Vec<(usize, Flight<'a>)>,
    steps: Landing,
}

/// The steps that a landing passes: before the word is switched, after it, after what was there was given back.
pub(super) type Landing = [Step; 3];

// === impl Marked ===

impl<'a> Marked<'a> {
    /// Mark a slot that is not in flight. `None` when there are as many flights as there may be.
    pub(super) fn begin(core: &'a Core, guard: &mut SlotGuard<'_>) -> Option<Self> {
        let owner = guard.owner();
        let record = core.inflight.begin(owner)?;
        guard.set_writeback(true);
        Some(Marked { core, owner, record: Some(record) })
    }

    /// End the flight: the bit is cleared unless it was cancelled. Whether it was live.
    pub(super) fn end(mut self) -> bool {
        self.end_now()
    }

    fn end_now(&mut self) -> bool {
        let Some(record) = self.record.take() else { return false };
        let guard = self.core.slots.lock_owner(self.owner);
        let live = self.core.inflight.finish(record);
        if live {
            let mut guard = guard.expect("a cluster with a slot in flight is not reaped");
            guard.set_writeback(false);
        }
        live
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.end_now();
    }
}

// === impl Flight ===

impl<'a> Flight<'a> {
    /// What `marked` names is in a batch, which promised it this place. `from`: where it is now, if that is a place too.
    pub(super) fn new(marked: Marked<'a>, from: Option<Place>, to: Place, toll: Toll<'a>, length: usize) -> Self {
        Flight { marked, from, to, arrived: false, toll, length }
    }

    /// Bytes on their way.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// It shall not switch its word; what the batch promised it is nobody's.
    pub(super) fn abort(&mut self) {
        self.marked.end_now();
    }

    /// Switch the word, unless the flight was cancelled. What it named before.
    fn switch(&mut self, proactive: bool) -> Option<Replaced<'a>> {
        let (core, owner) = (self.marked.core, self.marked.owner);
        let record = self.marked.record.take()?;
        let guard = core.slots.lock_owner(owner);
        if !core.inflight.finish(record) {
            return None;
        }
        let mut guard = guard.expect("a cluster with a slot in flight is not reaped");
        let switched = SlotWord::new(Content::Physical(self.to)).expect("a place always fits in a word");
        self.arrived = false; // it is the slot's
        let word = guard.word();
        let as_it_began = self.from.map_or(word.entry().is_some(), |from| word.content() == Content::Physical(from));
        if !as_it_began {
            // The slot was emptied or replaced, and the flight not told.
            let told =
                [Bug::WritebackIgnoresCancel, Bug::MoveTrustsReverseWord].iter().all(|&bug| !core.planted.is(bug));
            assert!(!told, "W2: a live flight's slot holds what it began with");
            guard.switch(switched);
            return None;
        }
        let mut replaced = Replaced::switch(core, &mut guard, switched);
        let old = replaced.word();
        replaced.keeps_charge = matches!(self.toll, Toll::Carried);
        if let Some(entry) = old.entry() {
            let objcg = core.pool.objcg_at(owner, entry.location).expect("an object out of its cell stays where it is");
            core.off_the_lru(owner, old);
            core.tree.count(objcg, Event::ZswpWb, 1);
            core.tree.count(objcg, Event::ZswpWbBytes, entry.length as u64);
            if proactive {
                core.tree.count(objcg, Event::ZswpWbProactiveBytes, entry.length as u64);
            }
        }
        if let Toll::Paid(charge) = std::mem::replace(&mut self.toll, Toll::Carried) {
            charge.leave_to(self.to);
        }
        Some(replaced)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.marked.end_now();
        if self.arrived {
            self.marked.core.devices.free(self.to);
        }
        if self.marked.core.planted.is(Bug::CancelKeepsCharge) && self.arrived {
            std::mem::forget(std::mem::replace(&mut self.toll, Toll::Carried));
        }
    }
}

// === impl Replaced ===

impl<'a> Replaced<'a> {
    /// Switch the word of `guard`'s slot, and count what it held and holds.
    pub(super) fn switch(core: &'a Core, guard: &mut SlotGuard<'_>, to: SlotWord) -> Self {
        let (owner, word) = (guard.owner(), guard.switch(to));
        core.counters.leave(word);
        core.counters.enter(to);
        Replaced { core, owner, held: Held { word }, keeps_charge: false }
    }

    /// The word.
    pub(super) fn word(&self) -> SlotWord {
        self.held.word
    }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        match self.held.word.content() {
            Content::Physical(place) if self.keeps_charge => _ = self.core.devices.free(place),
            _ => self.core.give_back(self.owner, self.held),
        }
    }
}

// === impl Flights ===

impl<'a> Flights<'a> {
    /// None yet; there is room for so many.
    pub(super) fn new(core: &'a Core, capacity: usize, steps: Landing) -> Self {
        Flights { core, under_way: Vec::with_capacity(capacity), steps }
    }

    /// One more, of what the caller named as its `at`th.
    pub(super) fn push(&mut self, at: usize, flight: Flight<'a>) {
        self.under_way.push((at, flight));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// The batch is on the device: every place that it promised is an object now.
    pub(super) fn arrive(&mut self) {
        self.under_way.iter_mut().for_each(|(_, flight)| flight.arrived = true);
    }

    /// Land those that are there still, the last one first, and tell of each that did with its bytes. Which step failed, if a
    /// test has one fail.
    pub(super) fn land(mut self, proactive: bool, mut each: impl FnMut(usize, u64)) -> Option<StepFailed> {
        let [landing, switched, given_back] = self.steps;
        let mut failed = None;
        while let Some((at, mut flight)) = self.under_way.pop() {
            if let Err(step) = self.core.steps.reach(landing) {
                failed = Some(step);
                continue;
            }
            if let Some(replaced) = flight.switch(proactive) {
                self.core.steps.pass(switched);
                drop(replaced);
                self.core.steps.pass(given_back);
                each(at, flight.length as u64);
            }
        }
        failed
    }
}
