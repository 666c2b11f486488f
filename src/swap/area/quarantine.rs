//! [`Quarantine`]: requests that a device has not answered in time, and what may not be used again before it does.
//!
//! ```text
//!   time-out, panic:  Request in flight + its pages, if it writes --> [late][late][late]
//!   settle:           poll each; those that are over ----------------> buffer to its pool, pages free again
//!   area closed:      those that are over are dropped; the others' buffers are never anything else
//! ```
//!
//! 1. A late request is in the list, or with the one thread that took it out because it is over.
//! 2. `len` is the number of late requests whose buffer or pages are not given back yet; with any, the device *hangs*.
//! 3. The buffers aside in the pools are those of the list and of what was just taken out of it.
//! 4. The list was made with room for all buffers, so putting a request into it does not allocate.
//!
//! A device that completes a write late writes old bytes: to pages that nobody else was given meanwhile, so no object is hurt.

use crate::swap::IoBuffer;
use crate::swap::device::{Device, Request};
use crate::swap::segments::Extent;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Bug, Mutex, Planted, Rank, Tally};

/// A request that was given up on while the device had it.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) request: Request,
    /// Whose buffer it has.
    pub(super) lender: Lender,
    /// The pages that it may yet write to.
    pub(super) extent: Option<Extent>,
}

/// The pool of buffers that one is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lender {
    Reads,
    Writes,
    /// Of whole segments, by who moves objects.
    Moves,
}

/// The late requests of an area.
#[derive(Debug)]
pub(in crate::swap) struct Quarantine {
    list: Mutex<Vec<Late>>,
    /// Late requests not settled yet. Relaxed: what it tells of is under the locks of the pools and of the segments.
    len: AtomicUsize,
    /// Requests that came to be late, ever.
    timeouts: Tally,
    planted: Planted,
}

// === impl Quarantine ===

impl Quarantine {
    /// An empty one with room for so many.
    pub(super) fn new(capacity: usize, planted: Planted) -> Self {
        Quarantine {
            list: Mutex::new(Rank::Buffers, Vec::with_capacity(capacity)),
            len: AtomicUsize::new(0),
            timeouts: Tally::new(),
            planted,
        }
    }

    /// A request is late: from now on the device hangs. [`put`](Self::put) follows.
    pub(super) fn announce(&self) {
        self.timeouts.add(1);
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// Take a request that the device has still.
    pub(super) fn put(&self, late: Late) {
        self.list.lock().push(late);
    }

    /// Late requests. 0 says that what they held can be used.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Requests that came to be late, ever.
    pub(super) fn timeouts(&self) -> u64 {
        self.timeouts.get()
    }

    /// Look at all of them, and hand those that are over to `settle`, one at a time and without a lock. Whether any was.
    pub(super) fn settle(&self, device: &dyn Device, mut settle: impl FnMut(Late)) -> bool {
        let mut any = false;
        while self.len() > 0
            && let Some(late) = self.take_over(device)
        {
            settle(late);
            self.len.fetch_sub(1, Ordering::Relaxed);
            any = true;
        }
        any
    }

    /// One that is over.
    fn take_over(&self, device: &dyn Device) -> Option<Late> {
        let mut list = self.list.lock();
        let at = (0..list.len()).find(|&at| {
            let request = &mut list[at].request;
            device.poll(request);
            if self.planted.is(Bug::LateNotAwaited) && request.is_in_flight() {
                let len = request.give_up().len();
                request.return_buffer(IoBuffer::new(len));
            }
            !request.is_in_flight()
        })?;
        Some(list.swap_remove(at))
    }
}
