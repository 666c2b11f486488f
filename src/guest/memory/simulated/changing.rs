//! Mappings of the simulated range change, as the kernel has it: who changes one waits until that was read.
//!
//! ```text
//!   munmap    pages go, event ... read --> goes on, maps something else
//!   madvise             event ... read --> goes on, pages go
//!   fork      a copy,   event ... read --> goes on
//!             |<--- EAGAIN for others --->|
//! ```

use super::{Place, Simulated};
use crate::guest::memory::backing::{Marks, Staging};
use crate::guest::uffd::{Descriptor, Event};
use crate::units::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::ops::Range;

/// The addresses of a page.
pub(crate) fn addresses(page: u32) -> Range<usize> {
    page as usize * PAGE_SIZE..(page as usize + 1) * PAGE_SIZE
}

impl Simulated {
    /// A thread drops pages, and says so before it does.
    pub(crate) fn begin_removal(&self, page: u32) {
        let cue = &mut self.state.lock().1;
        cue.changing += 1;
        cue.unread.push(Event::Remove(addresses(page)));
    }

    /// A thread has unmapped a page, and says so.
    pub(crate) fn unmap(&self, page: u32) {
        let (places, cue) = &mut *self.state.lock();
        let place = &mut places[page as usize];
        (place.token, place.mapped, place.protected, place.written) = (None, false, false, false);
        place.vanished = true;
        cue.changing += 1;
        cue.unread.push(Event::Unmap(addresses(page)));
    }

    /// A thread has moved a page behind all others, and says so. When that was read, it says that the place is unmapped where the page was.
    pub(crate) fn remap(&self, page: u32) {
        let (places, cue) = &mut *self.state.lock();
        let (from, to) = (addresses(page), addresses(places.len() as u32));
        let place = &mut places[page as usize];
        (place.token, place.mapped, place.protected, place.written) = (None, false, false, false);
        place.vanished = true;
        cue.changing += 1;
        cue.unread.push(Event::Remap { from: from.start, to: to.start, bytes: PAGE_SIZE });
    }

    /// A thread has forked, and says so: what the child has.
    pub(crate) fn fork(&self) -> Vec<Option<u64>> {
        let (places, cue) = &mut *self.state.lock();
        cue.changing += 1;
        // The child has no kernel either: nothing is asked of its descriptor.
        let nothing = File::open("/dev/null").expect("there is a null device");
        cue.unread.push(Event::Fork(Descriptor::received(nothing.into())));
        places.iter().map(|place| place.token.filter(|_| place.mapped || self.staging == Staging::InPlace)).collect()
    }

    /// Read what was said. How many events.
    pub(crate) fn read_events(&self, events: &mut [Event]) -> usize {
        let unread = &mut self.state.lock().1.unread;
        let read = unread.len().min(events.len());
        events.iter_mut().zip(unread.drain(..read)).for_each(|(place, event)| *place = event);
        read
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
}

impl Marks for Simulated {
    fn take_written(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.each_place(|place| place.token.is_some() && place.mapped && std::mem::take(&mut place.written), each)
    }

    fn unmapped(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.each_place(|place| !(place.mapped || place.protected), each)
    }
}

impl Simulated {
    /// Tell `each` those that are meant: page by page, as the kernel goes.
    fn each_place(
        &self,
        mut is_meant: impl FnMut(&mut Place) -> bool,
        each: &mut dyn FnMut(Range<u32>),
    ) -> io::Result<()> {
        for page in 0..self.bytes.len() as u32 {
            let meant = is_meant(&mut self.state.lock().0[page as usize]);
            if meant {
                each(page..page + 1);
            }
        }
        Ok(())
    }
}
