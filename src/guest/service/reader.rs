//! [`Reader`]: takes events from a descriptor and serves them, changes of mappings before faults.
//!
//! ```text
//!   descriptor --read, up to 32--> [ c f f c f ]     c  remove, unmap, remap, fork
//!                                    |   |           f  fault
//!                1. c c              |   |
//!                2. what is parked   |   |  <---------------------------------------+
//!                3. f f f  ----------+---+-- not now (EAGAIN) --> parked, up to 64 --+
//! ```
//!
//! 1. Changes of a read are followed before any fault of it is served, and what is parked is tried only after another read: the kernel
//!    answers EAGAIN until its changes were read, and its thread has run.
//!    Several readers of a descriptor follow what each has read in the order of their reads (see [`Gate`]).
//! 2. While something is parked, no read waits: the reader looks for events, and pauses for a little longer each time.
//! 3. What it has read lies in the reader, not on the stack: after a panic it goes on at the same event.
//! 4. It remembers no more than it has room for. What is unread waits in the kernel, and so does each thread that a change comes from: a flood of
//!    them cannot take more memory than there are threads.
//! 5. Where the system has no descriptor for a child, or no memory, the fork waits until it has, and so does the thread that forks.
//! 6. It allocates nothing, and waits without end for nobody who may: a thread that forks has the locks of the allocator while it waits until its
//!    event is read.

use super::answers::Answer;
use super::bell::Bell;
use super::desk::{Change, Desk};
use super::gate::{ALL, Closed, Gate};
use super::source::Source;
use super::wards::Ward;
use super::watch::{Phase, Watch};
use crate::guest::uffd::{Errno, Event, Fault, MOST_EVENTS};
use crate::sync::thread::{self, Backoff};
use crate::sync::{Arc, Bug, Deadline, Mutex, Rank};
use crate::units::PAGE_SIZE;
use std::time::Duration;

/// Faults that can be parked. As many threads are waiting for them.
const PARKED: usize = 2 * MOST_EVENTS;

/// The longest pause between two looks at what is parked.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// How long no event is read while everything is closed.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a reader does when there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// The descriptor's read waits.
    Read,
    /// `poll` does, for the descriptor's read does not.
    Poll,
    /// Nobody: the embedder knows when to come again.
    Return,
}

/// How many readers of a descriptor have something parked: meanwhile none of its reads waits.
#[derive(Debug)]
pub(crate) struct Parking(Mutex<usize>);

/// Reads and serves.
pub(crate) struct Reader {
    events: [Event; MOST_EVENTS],
    /// What each change has closed, twice for a remap.
    closed: [[Option<Closed>; 2]; MOST_EVENTS],
    /// The children that were born.
    born: [Option<Ward>; MOST_EVENTS],
    /// How many events there are, and how far changes and faults have come.
    read: usize,
    changes: usize,
    faults: usize,
    /// When the changes of this read may be followed: in the order of reads.
    turn: Option<u64>,
    parked: [Option<Fault>; PARKED],
    parked_len: usize,
    /// Which of what is parked is looked at.
    retrying: usize,
    pause: Duration,
    /// How long the next pause is because of what the system lacks.
    lack: Duration,
    /// The last read found nothing, though reads wait: another reader has something parked.
    empty: bool,
    /// It has said that it has something parked.
    parking: bool,
    bell: Option<Arc<Bell>>,
    rung: bool,
    watch: Arc<Watch>,
    /// At most so many a read: where several read, each should leave something to the others.
    most: usize,
}

// === impl Parking ===

impl Parking {
    /// Nobody has.
    pub(crate) fn new() -> Self {
        Parking(Mutex::new(Rank::Leaf, 0))
    }

    /// A reader has, or has no longer.
    fn set(&self, source: &dyn Source, parking: bool) {
        let mut readers = self.0.lock();
        let (before, after) = (*readers, if parking { *readers + 1 } else { *readers - 1 });
        *readers = after;
        // Under the lock, so that the last change is the last one told.
        if (before == 0) != (after == 0) {
            source.set_nonblocking(after > 0);
        }
    }
}

// === impl Reader ===

impl Reader {
    /// With nothing read. `readers` share the descriptor.
    pub(crate) fn new(readers: usize, watch: Arc<Watch>) -> Self {
        Reader {
            events: [const { Event::None }; MOST_EVENTS],
            closed: [const { [None, None] }; MOST_EVENTS],
            born: [const { None }; MOST_EVENTS],
            read: 0,
            changes: 0,
            faults: 0,
            turn: None,
            parked: [None; PARKED],
            parked_len: 0,
            retrying: 0,
            pause: Duration::ZERO,
            lack: Duration::ZERO,
            empty: false,
            parking: false,
            bell: None,
            rung: false,
            watch,
            most: if readers > 1 { 4 } else { MOST_EVENTS },
        }
    }

    /// Have it end when this rings.
    pub(crate) fn with_bell(mut self, bell: &Arc<Bell>) -> Self {
        self.bell = Some(Arc::clone(bell));
        self
    }

    /// Whether it is to end: its bell has rung, and it owes nobody anything.
    pub(crate) fn is_to_end(&self) -> bool {
        self.rung && self.parked_len == 0 && self.faults == self.read
    }

    /// Whether something that was read waits to be tried again.
    pub(crate) fn has_parked(&self) -> bool {
        self.parked_len > 0
    }

    /// Read once and serve what was read. How many events.
    ///
    /// # Errors
    /// What `read` or `poll` said, but for EINTR and for the end of the process that it is about.
    pub(crate) fn round(&mut self, desk: &dyn Desk, idle: Idle) -> Result<usize, Errno> {
        let mut read = 0;
        // After a panic there may be some left.
        if self.changes == self.read && self.faults == self.read {
            read = self.take(desk, idle)?;
        }
        self.follow(desk);
        self.retry(desk);
        self.serve(desk);
        self.watch.idle();
        if idle == Idle::Read && self.has_parked() != self.parking {
            self.parking = self.has_parked();
            desk.parking().set(desk.source(), self.parking);
        }
        Ok(read)
    }

    /// Read.
    pub(crate) fn take(&mut self, desk: &dyn Desk, idle: Idle) -> Result<usize, Errno> {
        (self.read, self.changes, self.faults) = (0, 0, 0);
        if self.parked_len > 0 {
            desk.source().wait(Some(self.pause))?;
            self.pause = (2 * self.pause).clamp(Duration::from_micros(20), LONGEST_PAUSE);
        } else {
            self.pause = Duration::ZERO;
            if idle == Idle::Poll || self.empty {
                desk.source().wait(None)?;
            }
        }
        desk.gate().inspect(|gate| throttle(gate));
        let most = self.most;
        let (events, turn) = (&mut self.events[..most], &mut self.turn);
        let read = match desk.gate() {
            Some(gate) => gate.alone(|close| {
                let read = read(desk.source(), events, &mut self.born)?;
                for ((event, born), closed) in events[..read].iter().zip(&self.born).zip(&mut self.closed) {
                    match event {
                        Event::Remove(range) | Event::Unmap(range) => closed[0] = Some(close(range.clone())),
                        Event::Remap { from, to, bytes } => {
                            gate.note_moved();
                            *closed = [Some(close(*from..from + bytes)), Some(close(*to..to + bytes))];
                        }
                        // No page comes in or leaves before the child has copies of all words.
                        _ if born.is_some() => closed[0] = Some(close(ALL)),
                        _ => continue,
                    }
                    turn.get_or_insert_with(|| gate.take_turn());
                }
                Ok(read)
            }),
            None => read(desk.source(), events, &mut self.born),
        };
        match read {
            Ok(read) => {
                self.lack = Duration::ZERO;
                self.read = read;
                self.empty = read == 0 && idle == Idle::Read;
                Ok(read)
            }
            Err(Errno(libc::EINTR)) => Ok(0),
            // A fork waits to be read, with which comes a descriptor. It waits on, and is readable all the time; faults are read before it.
            Err(Errno(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                self.lack = (2 * self.lack).clamp(Duration::from_micros(20), LONGEST_PAUSE);
                thread::sleep(self.lack);
                Ok(0)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Have words follow the changes of this read.
    pub(crate) fn follow(&mut self, desk: &dyn Desk) {
        if let (Some(turn), Some(gate)) = (self.turn, desk.gate()) {
            self.watch.busy(Phase::Following, 0);
            let mut backoff = Backoff::new();
            while !gate.is_turn(turn) {
                backoff.wait_for_io();
            }
        }
        while self.changes < self.read {
            let place = self.changes;
            self.watch.busy(Phase::Following, 0);
            let mut change = match &self.events[place] {
                Event::Remove(range) => Some(Change::Removed(range.clone())),
                Event::Unmap(range) => Some(Change::Unmapped(range.clone())),
                Event::Remap { from, to, bytes } => Some(Change::Moved { from: *from, to: *to, bytes: *bytes }),
                Event::Fork(_) | Event::Fault(_) | Event::None | Event::Unknown(_) => None,
            };
            change = change.or(self.born[place].take().map(Change::Forked));
            if desk.gate().is_some_and(|gate| gate.planted().is(Bug::GateOpensEarly)) {
                self.open(desk, place);
            }
            let mut backoff = Backoff::new();
            while change.is_some() && !desk.follow(&mut change, &mut self.closed[place]) {
                backoff.wait_for_io();
            }
            // Only now: after a panic it is followed again, closed still.
            self.changes += 1;
            self.open(desk, place);
        }
        if let (Some(turn), Some(gate)) = (self.turn.take(), desk.gate()) {
            gate.end_turn(turn);
        }
    }

    /// What a change has closed is open, unless somebody else is to open it.
    fn open(&mut self, desk: &dyn Desk, place: usize) {
        if let Some(gate) = desk.gate() {
            self.closed[place].iter_mut().filter_map(Option::take).for_each(|closed| gate.open(closed));
        }
    }

    /// Serve the faults of this read.
    fn serve(&mut self, desk: &dyn Desk) {
        while self.faults < self.read {
            if let Event::Fault(fault) = self.events[self.faults]
                && !self.answered(desk, fault)
            {
                if self.parked_len < PARKED {
                    self.parked[self.parked_len] = Some(fault);
                    self.parked_len += 1;
                } else {
                    // No room: its thread makes the access again, and so it is read again. What is never done is to read no more: the changes
                    // that others wait for come after the faults.
                    let page = fault.address & !(PAGE_SIZE - 1);
                    desk.source().wake(page..page + PAGE_SIZE);
                }
            }
            self.faults += 1;
        }
    }

    /// Try again what is parked.
    fn retry(&mut self, desk: &dyn Desk) {
        while self.retrying < self.parked_len {
            let fault = self.parked[self.retrying];
            if fault.is_none_or(|fault| self.answered(desk, fault)) {
                self.parked_len -= 1;
                self.parked.swap(self.retrying, self.parked_len);
            } else {
                self.retrying += 1;
            }
        }
        self.retrying = 0;
    }

    /// Serve one. False where the kernel says that it must be asked again later.
    fn answered(&mut self, desk: &dyn Desk, fault: Fault) -> bool {
        if let Some(bell) = self.bell.as_ref().filter(|bell| bell.is_at(fault.address)) {
            // One ring for each reader: the next is for another.
            if self.rung {
                bell.leave(fault.address);
            } else {
                self.rung = bell.answer(fault.address);
            }
            return true;
        }
        if desk.gate().is_some_and(|gate| !gate.is_open(fault.address..fault.address + 1)) {
            return false; // another reader is following a change there
        }
        self.watch.busy(Phase::Serving, fault.address);
        match desk.answer(fault) {
            Answer::Served | Answer::Poisoned => true,
            Answer::Again => false,
            Answer::Stranger => desk.stranger(fault),
        }
    }
}

/// Read, and before anything else keep the children that were born: this process may be killed.
fn read(source: &dyn Source, events: &mut [Event], born: &mut [Option<Ward>]) -> Result<usize, Errno> {
    let read = source.read_events(events)?;
    for (event, born) in events[..read].iter_mut().zip(born) {
        *born = match std::mem::take(event) {
            Event::Fork(child) => Some(Ward::new(child)),
            other => {
                *event = other;
                None
            }
        };
    }
    Ok(read)
}

/// While everything is closed no fault can be served, and the next event may be a fork again. So whoever opens it gets some time: forks that
/// follow each other faster than their children are born would keep it closed for ever. But not without end: the thread that forks may have the
/// lock of the allocator, for which he waits, and it is given back when the event was read.
fn throttle(gate: &Gate) {
    let until = Deadline::after(PATIENCE);
    let mut backoff = Backoff::new();
    while gate.is_all_closed() && !until.passed() {
        backoff.wait_for_io();
    }
}
