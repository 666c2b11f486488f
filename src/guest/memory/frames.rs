//! [`Frames`]: a few runs of frames of pages that went out, for pages that come in.
//!
//! ```text
//!   shadow  -- drop_staged of 64 -->  [run 0: 64 frames]  -- filled, then moved -->  guest
//!   range                             [run 1: none     ]                             range
//! ```
//!
//! A new frame costs more than the move of 64 that installs it (it is found, charged and zeroed), and pages that are moved from a
//! run of used frames need none. Runs are filled only where they were missed since, so that a VM that brings nothing in by runs
//! holds nothing here; at most [`RUNS`] of them are held.
//!
//! Each run is one word, exchanged by whoever uses it: no lock, as faults are served in signal handlers.

use super::guest_range::through;
use super::reserved::Reserved;
use crate::guest::uffd::{Descriptor, Errno, Mode};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::PAGE_SIZE;

/// Pages of a run: above 33 a move flushes the TLB once.
pub(super) const RUN: u32 = 64;
/// Runs that are held at most: 1 MiB.
pub(super) const RUNS: usize = 4;

/// How often a run is drained again that the kernel says is in the way of itself.
const TRIES: u32 = 8;

const RUN_BYTES: usize = RUN as usize * PAGE_SIZE;
pub(super) const POOL_BYTES: usize = RUNS * RUN_BYTES;

// States of a run.
const NONE: u32 = 0;
const IN_USE: u32 = 1;
const FULL: u32 = 2;

/// Runs of frames, in memory that is registered with the descriptor that moves pages there.
#[derive(Debug)]
pub(super) struct Frames {
    memory: Reserved,
    runs: [AtomicU32; RUNS],
    /// Runs that were asked for and not there, less those that were kept since; [`RUNS`] at most.
    missed: AtomicU32,
}

/// A run in use: emptied when dropped.
pub(super) struct Run<'a> {
    frames: &'a Frames,
    index: usize,
}

impl Frames {
    /// Of memory of [`POOL_BYTES`].
    pub(super) fn new(memory: Reserved) -> Frames {
        debug_assert_eq!(memory.addresses().len(), POOL_BYTES);
        Frames { memory, runs: std::array::from_fn(|_| AtomicU32::new(NONE)), missed: AtomicU32::new(0) }
    }

    /// Keep the frames of a run at `from`, if one was missed and there is room. The 64 pages there are gone then.
    pub(super) fn keep(&self, mover: &Descriptor, from: usize) -> bool {
        if self.missed.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let Some(run) = self.seize(NONE) else { return false };
        // SAFETY: the caller owns the pages there and throws them away.
        let moved = through(RUN, Errno::INVALID, |at, pages| unsafe {
            let at = at as usize * PAGE_SIZE;
            mover.mov(run.address() + at, from + at, pages as usize * PAGE_SIZE, Mode::QUIET)
        });
        if moved != (RUN, None) {
            return false; // what was moved is emptied with the run
        }
        let _ = self.missed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |missed| missed.checked_sub(1));
        run.give_back_full();
        true
    }

    /// Drop what `pages` pages from `from` on hold, by way of runs: their own memory is not told that anything is dropped.
    ///
    /// # Errors
    /// What the kernel said to the move.
    pub(super) fn drain(&self, mover: &Descriptor, from: usize, pages: u32) -> Result<(), Errno> {
        let (mut drained, mut tries) = (0, 0);
        while drained < pages {
            // Others hold a run for the time of two system calls.
            let none = self.seize(NONE);
            let full = none.is_none();
            let Some(run) = none.or_else(|| self.seize(FULL)) else {
                crate::sync::thread::yield_now();
                continue;
            };
            let count = (pages - drained).min(RUN);
            if full {
                run.empty();
            }
            // SAFETY: the caller owns the pages there and throws them away.
            let (_, stopped) = through(count, Errno::INVALID, |at, count| unsafe {
                let (to, from) = (at as usize * PAGE_SIZE, (drained + at) as usize * PAGE_SIZE + from);
                mover.mov(run.address() + to, from, count as usize * PAGE_SIZE, Mode::QUIET | Mode::OVER_HOLES)
            });
            match stopped {
                None => (drained, tries) = (drained + count, 0),
                // Said of pages that were moved (`shadowed.rs`, A5): those are holes now, and the run is emptied.
                Some(Errno::EXISTS) if tries < TRIES => tries += 1,
                Some(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether there is a full run. If not it counts as missed, and the next that goes out is kept.
    pub(super) fn is_ready(&self) -> bool {
        let ready = self.runs.iter().any(|run| run.load(Ordering::Relaxed) == FULL);
        if !ready {
            self.miss();
        }
        ready
    }

    /// A full run.
    pub(super) fn take(&self) -> Option<Run<'_>> {
        let run = self.seize(FULL);
        if run.is_none() {
            self.miss();
        }
        run
    }

    fn miss(&self) {
        let more = |missed: u32| Some((missed + 1).min(RUNS as u32));
        let _ = self.missed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn seize(&self, state: u32) -> Option<Run<'_>> {
        // Acquire: the frames are as whoever gave the run back (Release) left them.
        let taken = |run: &AtomicU32| run.compare_exchange(state, IN_USE, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let index = self.runs.iter().position(taken)?;
        Some(Run { frames: self, index })
    }

    /// Runs that are held full.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.runs.iter().filter(|run| run.load(Ordering::Relaxed) == FULL).count()
    }
}

impl Run<'_> {
    fn address(&self) -> usize {
        self.frames.memory.addresses().start + self.index * RUN_BYTES
    }

    /// One of its frames.
    pub(super) fn frame(&self, index: u32) -> *mut [u8; PAGE_SIZE] {
        assert!(index < RUN);
        (self.address() + index as usize * PAGE_SIZE) as *mut [u8; PAGE_SIZE]
    }

    fn empty(&self) {
        let start = self.index * RUN_BYTES;
        // Our own memory: the kernel has no reason to refuse. If it did, the next move here would say EEXIST, and this happens again.
        let _ = self.frames.memory.empty(start..start + RUN_BYTES);
    }

    fn give_back_full(self) {
        self.frames.runs[self.index].store(FULL, Ordering::Release);
        std::mem::forget(self);
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.empty();
        self.frames.runs[self.index].store(NONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::uffd::{Ask, Features, Modes};

    fn full_of(reserved: &Reserved, byte: u8) {
        let start = reserved.addresses().start as *mut u8;
        // SAFETY: memory of the test's.
        unsafe { start.write_bytes(byte, reserved.addresses().len()) };
    }

    #[test]
    fn frames_are_kept_where_they_were_missed_and_no_more_than_that() {
        let Ok(mover) = Descriptor::open(Ask { features: Features::MOVE, ..Ask::default() }) else {
            return; // said aloud by tests/guest_backings.rs
        };
        let pool = Reserved::new(POOL_BYTES).expect("address space");
        // SAFETY: memory of the test's.
        unsafe { mover.register(pool.addresses(), Modes::PROTECT) }.expect("it is registered");
        let frames = Frames::new(pool);
        let shadow = Reserved::new(RUN_BYTES).expect("address space");
        let from = shadow.addresses().start;
        full_of(&shadow, 1);
        assert!(!frames.keep(&mover, from), "nobody missed any");
        for _ in 0..2 * RUNS {
            assert!(frames.take().is_none());
        }
        for kept in 0..RUNS {
            full_of(&shadow, kept as u8 + 2);
            assert!(frames.keep(&mover, from));
            assert_eq!(frames.held(), kept + 1);
        }
        full_of(&shadow, 99);
        assert!(!frames.keep(&mover, from), "as many as may be are held");
        // What is taken is gone when it is done with.
        let run = frames.take().expect("a run");
        // SAFETY: a frame of the run.
        assert_eq!(unsafe { run.frame(63).read_volatile() }[4095], 2);
        drop(run);
        assert_eq!(frames.held(), RUNS - 1);
        // A run that has a hole is not kept.
        shadow.empty(0..PAGE_SIZE).expect("it is empty");
        while frames.take().is_some() {}
        assert!(!frames.keep(&mover, from));
        assert_eq!(frames.held(), 0);
    }

    #[test]
    fn what_is_drained_is_gone_holes_or_not() {
        let Ok(mover) = Descriptor::open(Ask { features: Features::MOVE, ..Ask::default() }) else {
            return; // said aloud by tests/guest_backings.rs
        };
        let pool = Reserved::new(POOL_BYTES).expect("address space");
        // SAFETY: memory of the test's.
        unsafe { mover.register(pool.addresses(), Modes::PROTECT) }.expect("it is registered");
        let frames = Frames::new(pool);
        let shadow = Reserved::new(3 * RUN_BYTES).expect("address space");
        for round in 0..4 {
            full_of(&shadow, 7);
            if round > 0 {
                // Runs that are kept are drained through, too.
                let _ = frames.take();
                frames.keep(&mover, shadow.addresses().start);
            }
            shadow.empty(5 * PAGE_SIZE..9 * PAGE_SIZE).expect("holes");
            frames.drain(&mover, shadow.addresses().start, 3 * RUN - 1).expect("drained");
            let byte = |page: usize| {
                let address = (shadow.addresses().start + page * PAGE_SIZE) as *const u8;
                // SAFETY: memory of the test's.
                unsafe { address.read_volatile() }
            };
            assert!((0..3 * RUN as usize - 1).all(|page| byte(page) == 0), "round {round}");
            assert_eq!(byte(3 * RUN as usize - 1), 7, "round {round}: what was not meant is there");
        }
    }
}
