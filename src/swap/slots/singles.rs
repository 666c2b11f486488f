//! [`Singles`]: slots allocated one by one, for clients without numbers of their own.
//!
//! ```text
//!   claim   stripe of the thread: its current cluster --full--> refill, under a lock:
//!               a word that is empty there, from a cursor on        roomy clusters: o -> o -> o      first
//!               put: the slot is the caller's                       else 512 numbers never used before
//!
//!   take    (the last put) a sixteenth of a full cluster is empty --> it is roomy again
//! ```
//!
//! A slot is in use exactly while its word is not empty: claiming puts a word, under the cluster lock, so no slot is handed out
//! twice, whatever became of the cluster meanwhile (R-27 of `docs/races.md`).
//!
//! - **A1** A cluster with [`SINGLES`](Flags::SINGLES) was assigned by a refill; its numbers belong to nobody but who
//!   claimed them. Taken back, it loses the flag, and its numbers are never handed out again.
//! - **A2** One with [`ROOMY`](Flags::ROOMY) is on the stack, whatever it is assigned to by now; who pops it looks.
//! - **A3** A full cluster that no stripe has as its current one is roomy when a sixteenth of it is empty. Before it is refused
//!   that there are no more slots, fuller ones are used too.

use super::cluster::{Cluster, Flags, NIL, State, push};
use super::{Slots, split};
use crate::swap::{Error, SlotWord};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Bug, CLUSTER_SLOTS, Mutex, Rank, thread};
use crate::units::Slot;

/// Empty slots that make a full cluster worth going back to: looking for one looks at 16 words on average then, and not at all 512.
const ROOM: usize = CLUSTER_SLOTS.div_ceil(16);

/// Where threads allocate from.
#[derive(Debug)]
pub(super) struct Singles {
    /// By a hint of the thread.
    stripes: Box<[Stripe]>,
    /// Top of the stack of roomy clusters, plus one. Pushed under the cluster's lock, popped under `refill`: by one at a time, so
    /// that no cluster can come back under who pops.
    roomy: AtomicU32,
    refill: Mutex<()>,
}

#[derive(Debug, Default)]
#[repr(align(128))] // two lines: neighbours are fetched in pairs
struct Stripe {
    /// The virtual cluster allocated from, plus one. Changes under `refill`.
    current: AtomicU64,
    /// Where to go on looking in it: a hint.
    cursor: AtomicU32,
}

impl Singles {
    /// For instances of so many clusters.
    pub(super) fn new(clusters: usize) -> Self {
        // A stripe keeps a cluster for itself; they are to be few among all.
        let stripes = thread::available_parallelism().min(clusters / 16).max(1).next_power_of_two();
        Singles {
            stripes: (0..stripes).map(|_| Stripe::default()).collect(),
            roomy: AtomicU32::new(NIL),
            refill: Mutex::new(Rank::Refill, ()),
        }
    }

    fn stripe(&self) -> &Stripe {
        let hint = thread::hint();
        &self.stripes[(hint ^ hint >> 15) & (self.stripes.len() - 1)]
    }

    /// A slot of a cluster for singles was emptied, which is not roomy and nobody's current one. Under its lock.
    pub(super) fn note_room(&self, ordinal: u32, state: &mut State, cluster: &Cluster) {
        if CLUSTER_SLOTS - usize::from(state.live) >= ROOM {
            state.flags |= Flags::ROOMY;
            push(&self.roomy, ordinal, &cluster.next_roomy);
        }
    }
}

impl Slots {
    /// Put `word` into a slot that nobody has, and return the slot: the caller's until it is empty again. Allocates memory now and
    /// then.
    ///
    /// # Errors
    /// [`Error::TooManySlots`] when all slots that can be in use at once are.
    ///
    /// # Locks
    /// Cluster; now and then that of refills, the directory and other clusters.
    pub fn claim(&self, word: SlotWord) -> Result<Slot, Error> {
        let stripe = self.singles.stripe();
        loop {
            // Acquire pairs with the release in `refill`: the cluster is made.
            let current = stripe.current.load(Ordering::Acquire);
            if let Some(cluster) = current.checked_sub(1)
                && let Some(slot) = self.claim_in(cluster, &stripe.cursor, word)
            {
                return Ok(slot);
            }
            self.refill(stripe, current)?;
        }
    }

    /// Put the word into an empty slot of the cluster, if it is (still) one for singles and has one.
    fn claim_in(&self, cluster: u64, cursor: &AtomicU32, word: SlotWord) -> Option<Slot> {
        let first = cluster * CLUSTER_SLOTS as u64;
        let mut guard = self.lock(Slot(first))?;
        if !guard.state.has(Flags::SINGLES) {
            return None; // taken back, and made by a client who kept one of its numbers
        }
        if usize::from(guard.state.live) == CLUSTER_SLOTS {
            return None;
        }
        let start = cursor.load(Ordering::Relaxed) as usize;
        let mut offsets = (0..CLUSTER_SLOTS).map(|k| (start + k) % CLUSTER_SLOTS);
        let offset = offsets.find(|&offset| {
            guard.go_to(Slot(first + offset as u64));
            guard.word().is_empty()
        })?;
        if self.planted.is(Bug::ClaimInTwoSteps) {
            let slot = guard.slot();
            drop(guard);
            guard = self.lock(slot)?;
        }
        cursor.store((offset + 1) as u32, Ordering::Relaxed);
        guard.next_generation();
        guard.put(word);
        Some(guard.slot())
    }

    /// Give the stripe another cluster, unless somebody did since `seen`.
    #[cold]
    fn refill(&self, stripe: &Stripe, seen: u64) -> Result<(), Error> {
        let refilling = self.singles.refill.lock();
        if stripe.current.load(Ordering::Relaxed) != seen {
            return Ok(());
        }
        if let Some(before) = seen.checked_sub(1) {
            self.leave(before);
        }
        let next = match self.pop_roomy() {
            Some(cluster) => cluster,
            None => match self.make_for_singles() {
                Ok(cluster) => cluster,
                Err(refused) => self.any_with_room().ok_or(refused)?,
            },
        };
        // Release pairs with the acquire in `claim`.
        stripe.current.store(next + 1, Ordering::Release);
        drop(refilling);
        Ok(())
    }

    /// A stripe does not allocate from this cluster any more.
    fn leave(&self, cluster: u64) {
        if let Some(mut guard) = self.lock(Slot(cluster * CLUSTER_SLOTS as u64)) {
            guard.state.flags -= Flags::CURRENT;
            guard.note_room(); // somebody else may have found it full, and slots were emptied since
        }
    }

    /// A cluster with room from the stack. Under `refill`.
    fn pop_roomy(&self) -> Option<u64> {
        loop {
            // Acquire pairs with the release of the push.
            let top = self.singles.roomy.load(Ordering::Acquire);
            let ordinal = top.checked_sub(1)?;
            let cluster = self.cluster_at(ordinal);
            let next = cluster.next_roomy.load(Ordering::Relaxed);
            if self.singles.roomy.compare_exchange(top, next, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue; // another one was pushed; this one cannot have gone
            }
            let mut state = cluster.state.lock();
            state.flags -= Flags::ROOMY;
            if let Some(assigned) = self.take_for_singles(cluster, &mut state) {
                return Some(assigned);
            }
        }
    }

    /// The virtual cluster of this one, which is a stripe's from now on, if it is for singles and has an empty slot.
    fn take_for_singles(&self, cluster: &Cluster, state: &mut State) -> Option<u64> {
        let assigned = cluster.assigned()?;
        if !state.has(Flags::SINGLES) || usize::from(state.live) == CLUSTER_SLOTS {
            return None;
        }
        state.flags |= Flags::CURRENT;
        Some(assigned)
    }

    fn make_for_singles(&self) -> Result<u64, Error> {
        let range = self.reserve(CLUSTER_SLOTS as u64)?;
        let mut guard = self.lock_or_make(range.base())?;
        guard.state.flags |= Flags::SINGLES | Flags::CURRENT;
        Ok(split(range.base()).0)
    }

    /// Any cluster for singles with an empty slot, be it another stripe's: looks at all of them.
    fn any_with_room(&self) -> Option<u64> {
        let used = self.directory.lock().used;
        (0..used).find_map(|ordinal| {
            let cluster = self.cluster_at(ordinal);
            self.take_for_singles(cluster, &mut cluster.state.lock())
        })
    }
}
