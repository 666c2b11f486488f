//! [`Submission`]: group commit. What stores at their limits pick, one entry each, goes to the device in common batches.
//!
//! ```text
//!   stores    a  b            c  d  e                f
//!             |  | waits      |  |  | wait           | leads the next
//!   batch     [a]             [b c d e]              [f]           <- filled while the one before is at the device
//!             a leads          b leads
//!   device    +--- write a ---+--- write b c d e ---+--- write f ---+
//! ```
//!
//! A device page holds several entries and a request costs the same for one as for many: written one by one, they took 2.8
//! times their payload on the device, and the stores 3.4 times as long.
//!
//! - **G1** Whoever finds nobody writing leads: takes all that have joined, and writes. So what joins waits for one write at
//!   most before its own begins.
//! - **G2** Each who joined is told of his own entries, once; a batch's room is used again when all were told.
//! - **G3** Where there is no room to join, one writes by oneself: nobody waits for room.

use super::core::Core;
use super::writeback::Landed;
use crate::memcg::GroupRef;
use crate::sync::{Bug, Condvar, Mutex, Planted, Rank};
use crate::units::Owner;

/// Batches that are remembered. Who was written for may have to wait for a core before he hears of it.
const BATCHES: usize = 8;

/// Where stores join a batch.
#[derive(Debug)]
pub(super) struct Submission {
    state: Mutex<State>,
    changed: Condvar,
    planted: Planted,
}

#[derive(Debug)]
struct State {
    /// A batch is at the device.
    writing: bool,
    /// Number of the batch that is being filled.
    filling: u64,
    /// By number modulo [`BATCHES`]: the one that is being filled, the one at the device, and those before it whose members
    /// have not all been told.
    batches: [Joint; BATCHES],
}

/// A batch, from the first who joins to the last who is told.
#[derive(Debug, Default)]
struct Joint {
    /// What joined. Its memory is made once.
    members: Vec<Member>,
    /// Was written, or failed.
    done: bool,
    /// What it came to in all.
    outcome: Landed,
    /// How many calls have joined and not been told.
    untold: usize,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    group: GroupRef,
    owner: Owner,
    /// Payload bytes that left the pool with it.
    landed: u64,
}

/// Ends the writing of a batch, also when the device panicked.
struct Lead<'a> {
    submission: &'a Submission,
    number: u64,
    members: Vec<Member>,
    outcome: Landed,
}

// === impl Submission ===

impl Submission {
    /// Batches of up to so many entries.
    pub(super) fn new(most: usize, planted: Planted) -> Self {
        let joint = |_| Joint { members: Vec::with_capacity(most), ..Joint::default() };
        let state = State { writing: false, filling: 0, batches: std::array::from_fn(joint) };
        Submission { state: Mutex::new(Rank::Leaf, state), changed: Condvar::new(), planted }
    }
}

impl Core {
    /// Write these entries of `group` back, together with what others join meanwhile.
    ///
    /// # Locks
    /// None on entry. Waits for the batch under way, and for its own.
    pub(super) fn write_back_joined(&self, group: GroupRef, owners: &[Owner]) -> Landed {
        let submission = &self.submission;
        let mut state = submission.state.lock();
        let number = state.filling;
        let batch = state.batch(number);
        if batch.done || batch.members.len() + owners.len() > batch.members.capacity() {
            drop(state); // G3
            return self.write_back(group, owners, u64::MAX, false);
        }
        let mine = batch.members.len()..batch.members.len() + owners.len();
        batch.members.extend(owners.iter().map(|&owner| Member { group, owner, landed: 0 }));
        batch.untold += 1;
        // G1
        while !state.batch(number).done {
            if state.writing {
                submission.changed.wait(&mut state);
                continue;
            }
            debug_assert_eq!(state.filling, number, "a batch that nobody writes is the one being filled");
            state.writing = true;
            if !submission.planted.is(Bug::JoinsWhatIsAtTheDevice) {
                state.filling += 1;
            }
            let mut lead = Lead {
                submission,
                number,
                members: std::mem::take(&mut state.batch(number).members),
                outcome: Landed::default(),
            };
            drop(state);
            self.lead(&mut lead);
            drop(lead);
            state = submission.state.lock();
        }
        let batch = state.batch(number);
        let mine = batch.members.get(mine).unwrap_or_default();
        assert!(
            mine.iter().map(|member| member.owner).eq(owners.iter().copied()),
            "G2: one is told of one's own entries"
        );
        let landed = Landed {
            entries: mine.iter().filter(|member| member.landed > 0).count(),
            bytes: mine.iter().map(|member| member.landed).sum(),
            device_refused: batch.outcome.device_refused,
            // Another member's, perhaps.
            at_limit: batch.outcome.at_limit && mine.iter().any(|member| member.landed == 0),
        };
        // G2
        batch.untold -= 1;
        if batch.untold == 0 {
            batch.members.clear();
            batch.done = false;
        }
        landed
    }

    fn lead(&self, lead: &mut Lead<'_>) {
        let entries: Vec<_> = lead.members.iter().map(|member| (member.group, member.owner)).collect();
        let members = &mut lead.members;
        lead.outcome = self.write_entries(&entries, u64::MAX, false, |k, bytes| members[k].landed = bytes);
    }
}

impl State {
    fn batch(&mut self, number: u64) -> &mut Joint {
        &mut self.batches[number as usize % BATCHES]
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.submission.state.lock();
        let batch = state.batch(self.number);
        batch.members = std::mem::take(&mut self.members);
        (batch.done, batch.outcome) = (true, self.outcome);
        state.writing = false;
        drop(state);
        self.submission.changed.notify_all();
    }
}
