//! [`Watch`]: what one handler is at, for the watchdog to look at.

use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What a handler is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It has words follow a change of mappings.
    Following,
    /// It serves a fault.
    Serving,
}

/// What one handler is doing, written by it alone.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Odd while it is at something.
    pub(super) step: AtomicU64,
    pub(super) address: AtomicUsize,
    pub(super) phase: AtomicU8,
    /// The thread's id, for what the kernel knows of it.
    pub(super) thread: AtomicU32,
}

// === impl Watch ===

impl Watch {
    /// This thread is the handler.
    pub(crate) fn is_mine(&self) {
        // SAFETY: takes nothing and returns a number.
        self.thread.store(unsafe { libc::gettid() } as u32, Ordering::Relaxed);
    }

    /// The handler begins something.
    #[inline]
    pub(crate) fn busy(&self, phase: Phase, address: usize) {
        self.address.store(address, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
        // Release pairs with the watchdog's acquire: it sees this address, or a later one and then another step too. Only this
        // thread writes it.
        self.step.store((self.step.load(Ordering::Relaxed) + 1) | 1, Ordering::Release);
    }

    /// What it is at, or was last.
    pub(crate) fn address(&self) -> usize {
        self.address.load(Ordering::Relaxed)
    }

    /// It is through.
    #[inline]
    pub(crate) fn idle(&self) {
        let step = self.step.load(Ordering::Relaxed);
        self.step.store(step + (step & 1), Ordering::Release);
    }
}
