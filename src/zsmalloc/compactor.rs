//! [`Compactor`]: a thread that looks after a pool: it compacts when too much is wasted, and gives memory back when
//! nothing happens. (In `zswap` the worker does this.)

use super::pool::{Cells, Pool};
use super::upkeep::Upkeep;
use crate::sync::{Alarm, Arc, Mailbox, thread};
use std::time::Duration;
use std::{fmt, io};

/// The running thread of a pool; stops and joins when dropped.
///
/// Callers pay one load for it. It sleeps as long as nothing happens.
#[must_use = "dropped, it stops"]
pub struct Compactor {
    pool: Arc<dyn Tended>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A pool with whatever cells.
trait Tended: Send + Sync {
    fn mailbox(&self) -> &Mailbox;
    fn alarm(&self) -> &Alarm;
    fn tend(&self, upkeep: &mut Upkeep) -> Option<Duration>;
}

impl<C: Cells> Tended for Pool<C> {
    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
    fn alarm(&self) -> &Alarm {
        self.heap.arena.alarm()
    }
    fn tend(&self, upkeep: &mut Upkeep) -> Option<Duration> {
        upkeep.tend(self, || self.mailbox.stopped())
    }
}

impl Compactor {
    /// Start the thread of a pool. Compaction starts when so many thousandths of the frames backed are wasted
    /// ([`DEFAULT_WASTE_PER_MILLE`](super::DEFAULT_WASTE_PER_MILLE) is a good number); `None`: never, and only warm frames are
    /// given back.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) when the pool has a compactor (or is the pool of a `zswap` with a
    /// worker); what the system says when it refuses a thread.
    pub fn start<C: Cells + 'static>(pool: &Arc<Pool<C>>, waste_per_mille: Option<u32>) -> io::Result<Self> {
        if !pool.heap.arena.alarm().attend() {
            let message = "this pool has a compactor already: drop that one before starting another";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        pool.mailbox.reopen();
        let mut compactor = Compactor { pool: Arc::clone(pool) as Arc<dyn Tended>, thread: None };
        let mine = Arc::clone(&compactor.pool);
        compactor.thread = Some(thread::spawn("zspool-compactor", move || {
            let _attendance = mine.mailbox().attend();
            let mut upkeep = Upkeep::new(waste_per_mille);
            let mut next = mine.tend(&mut upkeep);
            while mine.mailbox().wait(next).is_some() {
                next = mine.tend(&mut upkeep);
            }
        })?);
        Ok(compactor)
    }
}

impl fmt::Debug for Compactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compactor").finish_non_exhaustive()
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.pool.mailbox().stop();
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was printed; a second panic while dropping would end the process.
            let _ = thread.join();
        }
        self.pool.alarm().leave();
    }
}
