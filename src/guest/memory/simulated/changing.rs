//! Mappings of the simulated range change, as the kernel has it: who changes one waits until that was read.
//!
//! ```text
//!   munmap    pages go, event ... read --> goes on, maps something else
//!   madvise             event ... read --> goes on, pages go
//!   fork      a copy,   event ... read --> goes on
//!             |<--- EAGAIN for others --->|
//! ```

use super::Simulated;
use crate::guest::memory::backing::Staging;

impl Simulated {
    /// A thread drops pages, and says so before it does.
    pub(crate) fn begin_removal(&self) {
        self.state.lock().1.changing += 1;
    }

    /// A thread has unmapped a page, and says so.
    pub(crate) fn unmap(&self, page: u32) {
        let (places, cue) = &mut *self.state.lock();
        let place = &mut places[page as usize];
        (place.token, place.mapped, place.protected, place.written) = (None, false, false, false);
        cue.changing += 1;
    }

    /// A thread has forked, and says so: what the child has.
    pub(crate) fn fork(&self) -> Vec<Option<u64>> {
        let (places, cue) = &mut *self.state.lock();
        cue.changing += 1;
        places.iter().map(|place| place.token.filter(|_| place.mapped || self.staging == Staging::InPlace)).collect()
    }

    /// The thread goes on, for it was read: nobody is told EAGAIN any more.
    pub(crate) fn end_change(&self) {
        self.state.lock().1.changing -= 1;
    }

    /// Other memory is mapped where a page was.
    pub(crate) fn map_other(&self, page: u32, token: u64) {
        self.state.lock().0[page as usize].other = Some(token);
    }

    /// What is in it.
    pub(crate) fn other(&self, page: u32) -> Option<u64> {
        self.state.lock().0[page as usize].other
    }

    /// The kernel's marks: whether a page is there and was written since this was asked, which begins anew.
    pub(crate) fn take_written(&self, page: u32) -> bool {
        let place = &mut self.state.lock().0[page as usize];
        place.token.is_some() && place.mapped && std::mem::take(&mut place.written)
    }
}
