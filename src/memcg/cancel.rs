//! [`Cancel`]: a flag that ends what runs long: reclaim by request, a device that is taken off.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Ends what runs long, from another thread or a signal handler. Clones are the same flag.
#[derive(Clone, Debug)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
}

impl Cancel {
    /// Not set.
    pub fn new() -> Self {
        Cancel { flag: Arc::new(AtomicBool::new(false)) }
    }

    /// Set it, for good. Takes no lock and does not allocate: also for a signal handler.
    pub fn cancel(&self) {
        // Relaxed: it orders nothing, and is seen soon.
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Whether it is set.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}
