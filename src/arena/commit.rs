//! [`Arena::ensure`]: have frames backed.
//!
//! A loop of short steps under the lock, with one system call between two of them:
//!
//! ```text
//!   lock: look at the frames --- all Owned ------------------------------> done
//!     |  Warm: Owned at once
//!     |  Unbacked, and there is room: reserve, Committing --> [populate] --> lock: Owned (ahead: Warm), or undone
//!     |  Unbacked, and no room: oldest warm ones Discarding --> [discard] --> lock: Unbacked, look again
//!     |  no room, and nothing warm, but frames in passing: wait, look again
//!     '  another thread's Committing or Discarding: wait, look again
//! ```

use super::Error;
use super::arena::Arena;
use super::config::MAX_RUN_FRAMES;
use super::discard::Batch;
use super::state::State;
use super::warm::{Lists, Spare};
use crate::sync::assert_no_lock_held;
use crate::sync::atomic::Ordering;
use crate::units::{FRAME_SIZE, Frame, Location, NodeId};
use std::io;
use std::ops::Range;

/// Adjacent frames that one system call backs.
#[derive(Clone, Copy, Debug)]
struct Commit {
    first: Frame,
    /// Frames asked for.
    needed: usize,
    /// Frames after those that become warm.
    ahead: usize,
    /// Where they are to lie.
    on: NodeId,
}

impl Commit {
    fn frames(self) -> impl Iterator<Item = Frame> {
        span(self.first, self.needed + self.ahead)
    }

    fn bytes(self) -> Range<usize> {
        let start = self.first.offset();
        start..start + (self.needed + self.ahead) * FRAME_SIZE
    }
}

fn span(first: Frame, count: usize) -> impl Iterator<Item = Frame> + Clone {
    (first.0..first.0 + count as u32).map(Frame)
}

/// What `ensure` has to do next.
enum Step {
    Done,
    Commit(Commit),
    /// Give back the batch that was filled.
    Discard,
    Wait,
    Refuse(Error),
}

/// What `ensure` has learned on its way.
#[derive(Clone, Copy, Default)]
struct Attempt {
    /// The kernel would not take warm frames (locked memory): do not try again.
    cannot_discard: bool,
    /// The kernel had no memory for frames that nobody asked for.
    not_ahead: bool,
    /// Warm frames of other nodes are taken as they are, for the node asked for has no room.
    keep_strays: bool,
}

impl Arena {
    /// Have `count` frames of one run backed and Owned. Frames that are already are left where they lie; others come to
    /// lie on `node` (on real nodes, and simulated ones that [fall back](super::Topology::with_fallback): on it while there
    /// is memory; [`node_of`](Self::node_of) says where).
    /// Several threads may ensure the same frames; one backs each, the others wait for it.
    ///
    /// # Errors
    /// Any frame of the range may then be owned or not: give up with [`release`](Self::release) those that nobody else
    /// claims. [`Error::Limit`] and [`Error::NodeFull`] when there would be no room even with every warm frame given
    /// back; [`Error::NoMemory`]; [`Error::NoSuchNode`].
    ///
    /// # Panics
    /// When the frames are not of one run.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena), and waits for other threads: call it outside all locks.
    pub fn ensure(&self, first: Frame, count: usize, node: NodeId) -> Result<(), Error> {
        if node.index() >= self.topology.len() {
            return Err(Error::NoSuchNode { node, nodes: self.topology.len() });
        }
        let (_, bit) = self.split(first);
        assert!(bit as usize + count <= self.run_frames, "{count} frames from {first:?} are not of one run");
        if span(first, count).all(|frame| self.frames.state(frame) == State::Owned) {
            return Ok(());
        }
        assert_no_lock_held("backing frames");
        let mut attempt = Attempt::default();
        let mut batch = Batch::new();
        let mut lists = self.lists.lock();
        loop {
            match self.next_step(&mut lists, first, count, node, attempt, &mut batch) {
                Step::Done => return Ok(()),
                Step::Refuse(error) => return Err(error),
                Step::Wait => {
                    self.wait(&mut lists);
                    continue;
                }
                Step::Discard => {}
                Step::Commit(commit) => {
                    drop(lists);
                    let outcome = self.back(commit);
                    lists = self.lists.lock();
                    self.publish(&mut lists, commit, &outcome);
                    let Outcome::Failed { error, .. } = outcome else { continue };
                    if commit.ahead > 0 {
                        attempt.not_ahead = true;
                        continue;
                    }
                    if lists.spare.warm == 0 || attempt.cannot_discard {
                        return Err(Error::NoMemory { bytes: commit.bytes().len() as u64, source: error });
                    }
                    self.take_oldest(&mut lists, usize::MAX, None, &mut batch);
                }
            }
            drop(lists);
            attempt.cannot_discard |= self.give_back(&batch) < batch.len();
            lists = self.lists.lock();
        }
    }

    /// Look at the frames and take what is at hand; `batch` is filled if the step is to discard.
    fn next_step(
        &self,
        lists: &mut Lists,
        first: Frame,
        count: usize,
        node: NodeId,
        attempt: Attempt,
        batch: &mut Batch,
    ) -> Step {
        let mut must_wait = false;
        let mut strays = 0;
        let mut commit: Option<Commit> = None;
        for frame in span(first, count) {
            match self.frames.state(frame) {
                State::Owned => {}
                State::Warm if self.frames.node(frame) == node || attempt.cannot_discard || attempt.keep_strays => {
                    self.unwarm(lists, frame, State::Owned);
                }
                State::Warm => strays += 1,
                State::Committing | State::Discarding => must_wait = true,
                State::Unbacked => match &mut commit {
                    None => commit = Some(Commit { first: frame, needed: 1, ahead: 0, on: node }),
                    Some(commit) if commit.first.0 + commit.needed as u32 == frame.0 => commit.needed += 1,
                    Some(_) => {}
                },
            }
        }
        if strays > 0 {
            // Without hope of room on the node they had better stay what they are.
            return match self.hopeless_on(lists, node, strays) {
                Some(_) if self.topology.homes(node).len() > 1 => {
                    let attempt = Attempt { keep_strays: true, ..attempt };
                    self.next_step(lists, first, count, node, attempt, batch)
                }
                Some(error) => Step::Refuse(error),
                None => {
                    self.take_strays(lists, span(first, count), node, batch);
                    Step::Discard
                }
            };
        }
        match commit {
            Some(mut commit) => match self.find_room(lists, &mut commit, attempt, batch) {
                Ok(more) => {
                    let end = commit.first.0 + commit.needed as u32;
                    if end == first.0 + count as u32 && commit.on == node && !attempt.not_ahead {
                        commit.ahead = self.ahead(lists, Frame(end), more);
                    }
                    self.reserve(lists, commit);
                    Step::Commit(commit)
                }
                Err(step) => step,
            },
            None if must_wait => Step::Wait,
            None => Step::Done,
        }
    }

    /// Room for the commit on its node, or, where nodes fall back, for as much of it as there is room for on the nearest: how
    /// many frames more there would be room for, or what to do instead.
    fn find_room(
        &self,
        lists: &mut Lists,
        commit: &mut Commit,
        attempt: Attempt,
        batch: &mut Batch,
    ) -> Result<usize, Step> {
        let (homes, needed) = (self.topology.homes(commit.on), commit.needed);
        let mut refusal = None;
        for &on in homes {
            (commit.on, commit.needed) = (on, needed);
            while commit.needed > 0 {
                match self.room(lists, on, commit.needed, attempt, batch) {
                    Err(Step::Refuse(full @ Error::NodeFull { .. })) => {
                        refusal = refusal.or(Some(full));
                        // The next node may have room for all, but what fits here is nearer.
                        commit.needed = if homes.len() > 1 { commit.needed - 1 } else { 0 };
                    }
                    found => return found,
                }
            }
        }
        Err(Step::Refuse(refusal.expect("no node had room, and the first said so")))
    }

    /// Whether `needed` frames can be reserved: how many more than those could be, or what to do instead.
    fn room(
        &self,
        lists: &mut Lists,
        node: NodeId,
        needed: usize,
        attempt: Attempt,
        batch: &mut Batch,
    ) -> Result<usize, Step> {
        let (backed, limit) = (self.backed_bytes(), self.limit());
        let everywhere = frames_left(limit, backed);
        let here = self.topology.capacity(node).map_or(usize::MAX, |bytes| frames_left(bytes, self.backed_on(node)));
        if needed <= everywhere.min(here) {
            return Ok(everywhere.min(here) - needed);
        }
        let (spare, only, hopeless) = if needed > everywhere {
            (lists.spare, None, hopeless(limit, backed, lists.spare, needed))
        } else {
            (lists.spare_on[node.index()], Some(node), self.hopeless_on(lists, node, needed).is_some())
        };
        Err(if !hopeless && spare.warm > 0 && !attempt.cannot_discard {
            self.take_oldest(lists, usize::MAX, only, batch);
            Step::Discard
        } else if !hopeless && spare.passing > 0 {
            Step::Wait
        } else if only.is_none() {
            Step::Refuse(Error::Limit { backed, limit })
        } else {
            Step::Refuse(Error::NodeFull { node, capacity: self.topology.capacity(node).unwrap_or(u64::MAX) })
        })
    }

    /// The refusal, if `needed` frames would not fit on the node even with all its warm ones gone.
    fn hopeless_on(&self, lists: &Lists, node: NodeId, needed: usize) -> Option<Error> {
        let capacity = self.topology.capacity(node)?;
        let spare = lists.spare_on[node.index()];
        hopeless(capacity, self.backed_on(node), spare, needed).then_some(Error::NodeFull { node, capacity })
    }

    /// How many frames from `next` on to back ahead of need, `room` at most.
    fn ahead(&self, lists: &Lists, next: Frame, room: usize) -> usize {
        let spare = lists.spare.warm.saturating_add(lists.spare.passing);
        let most =
            (self.commit_ahead.saturating_sub(1)).min(self.ahead_bound().saturating_sub(spare as usize)).min(room);
        let left_in_run = match self.split(next) {
            (_, 0) => 0, // the next run
            (_, bit) => self.run_frames - bit as usize,
        };
        span(next, most.min(left_in_run)).take_while(|&frame| self.frames.state(frame) == State::Unbacked).count()
    }

    fn reserve(&self, lists: &mut Lists, commit: Commit) {
        let (bytes, node) = (commit.bytes().len() as u64, commit.on);
        self.backed.fetch_add(bytes, Ordering::Relaxed);
        self.backed_on[node.index()].fetch_add(bytes, Ordering::Relaxed);
        lists.add_passing(node, commit.ahead as u32);
        for frame in commit.frames() {
            self.frames.set_node(frame, node);
            self.frames.set(frame, State::Committing);
        }
    }

    /// The system calls of a commit, outside the lock.
    fn back(&self, commit: Commit) -> Outcome {
        let (range, node) = (commit.bytes(), commit.on);
        let populated = if self.topology.is_numa() {
            let (address, kernel_node) = (self.address() + range.start, self.topology.kernel_node(node));
            super::numa::with_preferred(address, range.len(), kernel_node, || self.populate(range.clone()))
        } else {
            self.populate(range.clone())
        };
        if let Err(error) = populated {
            // Part of it may be backed.
            return Outcome::Failed { error, undone: self.region.discard(range).is_ok() };
        }
        let mut nodes = [node; MAX_RUN_FRAMES];
        if self.topology.is_numa() {
            super::numa::locate(self.address() + range.start, commit.needed + commit.ahead, |index, kernel| {
                nodes[index] = self.topology.from_kernel(kernel).unwrap_or(node);
            });
        }
        self.poison(Location::from_offset(range.start), range.len());
        Outcome::Backed { nodes }
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        let count_down = |left| if left == u64::MAX || left == 0 { None } else { Some(left - 1) };
        if self.commits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down) == Err(0) {
            let half = range.len() / FRAME_SIZE / 2 * FRAME_SIZE;
            self.region.populate(range.start..range.start + half)?;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        loop {
            match self.region.populate(range.clone()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Say what became of a commit.
    fn publish(&self, lists: &mut Lists, commit: Commit, outcome: &Outcome) {
        let node = commit.on;
        lists.remove_passing(node, commit.ahead as u32);
        for (index, frame) in commit.frames().enumerate() {
            match outcome {
                Outcome::Backed { nodes } => {
                    self.note_node(frame, node, nodes[index]);
                    if index < commit.needed {
                        self.frames.set(frame, State::Owned);
                    } else {
                        self.make_warm(lists, frame);
                    }
                }
                Outcome::Failed { undone: true, .. } => {
                    self.unreserve(node, 1);
                    self.frames.set(frame, State::Unbacked);
                }
                // Locked memory: some of it stays behind the frames, so they stay counted.
                Outcome::Failed { undone: false, .. } => self.make_warm(lists, frame),
            }
        }
        self.notify(lists);
    }

    /// A frame counted on one node lies on another.
    fn note_node(&self, frame: Frame, counted: NodeId, actual: NodeId) {
        if counted != actual {
            self.backed_on[counted.index()].fetch_sub(FRAME_SIZE as u64, Ordering::Relaxed);
            self.backed_on[actual.index()].fetch_add(FRAME_SIZE as u64, Ordering::Relaxed);
            self.frames.set_node(frame, actual);
        }
    }
}

/// How the system calls of a commit went.
enum Outcome {
    /// Where each frame lies.
    Backed { nodes: [NodeId; MAX_RUN_FRAMES] },
    /// `undone`: nothing is left behind the frames.
    Failed { error: io::Error, undone: bool },
}

/// Whole frames that fit under `limit`.
fn frames_left(limit: u64, backed: u64) -> usize {
    (limit.saturating_sub(backed) / FRAME_SIZE as u64) as usize
}

/// Whether `needed` frames would not fit even with all that is spare gone.
fn hopeless(limit: u64, backed: u64, spare: Spare, needed: usize) -> bool {
    let spare = (u64::from(spare.warm) + u64::from(spare.passing)) * FRAME_SIZE as u64;
    backed - spare + (needed * FRAME_SIZE) as u64 > limit
}
