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
    /// By number modulo 2: the one that is being filled, and the one before it, whose members may not all have been told.
    batches: [Joint; 2],
}

/// A batch, from the first who joins to the last who is told.
#[derive(Debug, Default)]
struct Joint {
    /// What joined. Its memory is made once.
    members: Vec<Member>,
    /// Was written, or failed.
    done: bool,
    /// The device refused it.
    refused: bool,
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
    refused: bool,
}

// === impl Submission ===

impl Submission {
    /// Batches of up to so many entries.
    pub(super) fn new(most: usize, planted: Planted) -> Self {
        let joint = || Joint { members: Vec::with_capacity(most), ..Joint::default() };
        let state = State { writing: false, filling: 0, batches: [joint(), joint()] };
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
            state.filling += 1;
            let mut lead =
                Lead { submission, number, members: std::mem::take(&mut state.batch(number).members), refused: false };
            drop(state);
            self.lead(&mut lead);
            drop(lead);
            state = submission.state.lock();
        }
        let batch = state.batch(number);
        let landed = Landed {
            entries: batch.members[mine.clone()].iter().filter(|member| member.landed > 0).count(),
            bytes: batch.members[mine].iter().map(|member| member.landed).sum(),
            device_refused: batch.refused,
            at_limit: false,
        };
        // G2
        batch.untold -= 1;
        if batch.untold == 0 {
            batch.members.clear();
            (batch.done, batch.refused) = (false, false);
        }
        landed
    }

    fn lead(&self, lead: &mut Lead<'_>) {
        let forgotten = usize::from(lead.members.len() > 1 && self.submission.planted.is(Bug::LeaderForgetsFollower));
        let entries: Vec<_> = lead.members.iter().map(|member| (member.group, member.owner)).collect();
        let members = &mut lead.members;
        let landed = self.write_entries(&entries[..entries.len() - forgotten], u64::MAX, false, |k, bytes| {
            members[k].landed = bytes
        });
        lead.refused = landed.device_refused;
    }
}

impl State {
    fn batch(&mut self, number: u64) -> &mut Joint {
        &mut self.batches[(number % 2) as usize]
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.submission.state.lock();
        let batch = state.batch(self.number);
        batch.members = std::mem::take(&mut self.members);
        (batch.done, batch.refused) = (true, self.refused);
        state.writing = false;
        drop(state);
        self.submission.changed.notify_all();
    }
}
