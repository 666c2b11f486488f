//! [`Compactor`]: a thread that looks after a pool: it compacts when too much is wasted, and gives memory back when
//! nothing happens. (In `zswap` the worker does this.)

use super::cells::Cells;
use super::pool::Pool;
use super::upkeep::Upkeep;
use crate::arena::Arena;
use crate::sync::{Arc, Mailbox, thread};
use std::io;

/// The running thread of a pool; stops and joins when dropped.
///
/// Callers pay one load for it. It sleeps as long as nothing happens.
#[derive(Debug)]
#[must_use = "dropped, it stops"]
pub struct Compactor {
    mailbox: Arc<Mailbox>,
    arena: Arc<Arena>,
    thread: Option<thread::JoinHandle<()>>,
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
        // Made before the thread: if that is refused, the drop lets another start.
        let (mailbox, arena) = (Arc::clone(&pool.mailbox), Arc::clone(&pool.heap.arena));
        let mut compactor = Compactor { mailbox, arena, thread: None };
        let pool = Arc::clone(pool);
        compactor.thread = Some(thread::spawn("zspool-compactor", move || {
            let mailbox = &pool.mailbox;
            let _attendance = mailbox.attend();
            let mut upkeep = Upkeep::new(waste_per_mille);
            let mut next = upkeep.tend(&pool, || mailbox.stopped());
            while mailbox.wait(next).is_some() {
                next = upkeep.tend(&pool, || mailbox.stopped());
            }
        })?);
        Ok(compactor)
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was printed; a second panic while dropping would end the process.
            let _ = thread.join();
        }
        self.arena.alarm().leave();
    }
}
