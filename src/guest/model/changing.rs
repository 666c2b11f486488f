//! Mappings change behind a model's back: the program's threads, and who reads what the kernel says about them.
//!
//! ```text
//!   a thread of the program -- begin_removal, unmap, remap, fork --> Simulated: unread --> Reader --> ModelDesk: words follow
//!             ^                                                                              | woken, as soon as it was read
//!             +-- goes on: emptied, map_other, forked <--------------------------------------+
//! ```
//!
//! The gate with the backing behind it, the reader, and how words follow what was dropped or unmapped are the service's own code.

use super::Model;
use crate::guest::pages::{Access, Pages, Served, Waiting};
use crate::guest::service::answers::Answer;
use crate::guest::service::desk::{Change, Desk};
use crate::guest::service::emptied::{Words, drop_emptied, drop_pages, drop_unmapped};
use crate::guest::service::gate::{Closed, Gate};
use crate::guest::service::reader::{Idle, Parking, Reader};
use crate::guest::service::source::Source;
use crate::guest::service::watch::Watch;
use crate::guest::uffd::{Errno, Event, Fault};
use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;
use crate::units::PAGE_SIZE;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::time::Duration;

/// What a model's reader needs of it.
struct ModelDesk<'a> {
    model: &'a Model,
    parking: Parking,
    left_there: AtomicU64,
    /// What is done as soon as something was read, whoever runs then.
    woken: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
    /// What somebody inherited of a page that was moved, or that a child has: nothing of it, or so much.
    heir: Cell<Option<Option<u64>>>,
}

/// Changes that a reader has read, and not followed.
pub struct ReadChanges(Box<Reader>);

impl<'a> ModelDesk<'a> {
    fn new(model: &'a Model, woken: impl FnOnce() + 'a) -> Self {
        ModelDesk {
            model,
            parking: Parking::new(),
            left_there: AtomicU64::new(0),
            woken: RefCell::new(Some(Box::new(woken))),
            heir: Cell::new(None),
        }
    }

    /// Read what there is.
    fn read(&self) -> ReadChanges {
        let mut reader = Box::new(Reader::new(2, Arc::new(Watch::default())));
        let read = reader.take(self, Idle::Poll).expect("a model's events can be read");
        assert!(read > 0, "something was said");
        ReadChanges(reader)
    }

    /// Read and follow it.
    fn follow_all(&self) {
        self.read().0.follow(self);
    }
}

impl Source for ModelDesk<'_> {
    fn read_events(&self, events: &mut [Event]) -> Result<usize, Errno> {
        let read = self.model.backing.read_events(events);
        if read > 0
            && let Some(woken) = self.woken.take()
        {
            woken();
        }
        Ok(read)
    }

    fn wait(&self, _at_most: Option<Duration>) -> Result<(), Errno> {
        Ok(())
    }

    fn wake(&self, _page: Range<usize>) {}

    fn set_nonblocking(&self, _yes: bool) {}
}

impl Words for ModelDesk<'_> {
    fn regions_in(&self, range: &Range<usize>, each: &mut dyn FnMut(&Pages, Range<u32>)) {
        let count = self.model.pages.count();
        let page = |address: usize| (address / PAGE_SIZE).min(count as usize) as u32;
        each(&self.model.pages, page(range.start)..page(range.end));
    }

    fn forget_moved(&self, _range: &Range<usize>) {}

    fn gate(&self) -> Option<&Gate> {
        Some(&self.model.gate)
    }

    fn left_there(&self) -> &AtomicU64 {
        &self.left_there
    }
}

impl Desk for ModelDesk<'_> {
    fn source(&self) -> &dyn Source {
        self
    }

    fn gate(&self) -> Option<&Gate> {
        Some(&self.model.gate)
    }

    fn answer(&self, _fault: Fault) -> Answer {
        unreachable!("a model's faults are served where they are")
    }

    fn follow(&self, change: &mut Option<Change>, _closed: &mut [Option<Closed>; 2]) -> bool {
        match change.take() {
            Some(Change::Removed(range)) => drop_emptied(self, &range),
            Some(Change::Unmapped(range)) => drop_unmapped(self, &range),
            Some(Change::Moved { from, .. }) => {
                self.heir.set(Some(self.model.inherit((from / PAGE_SIZE) as u32)));
                drop_pages(self, &(from..from + PAGE_SIZE));
            }
            Some(Change::Forked(_child)) => self.heir.set(Some(self.model.inherit(0))),
            None => {}
        }
        true
    }

    fn stranger(&self, _fault: Fault) -> bool {
        unreachable!("a model has no strangers")
    }

    fn parking(&self) -> &Parking {
        &self.parking
    }

    fn state(&self, _address: usize) -> &'static str {
        "a model's"
    }
}

impl Model {
    /// A thread of the program drops a page by `madvise`, and the reader follows. `woken` is called as soon as the event was read: the thread goes
    /// on with [`emptied`](Self::emptied), whoever else runs.
    pub fn follow_removal(&self, page: u32, woken: impl FnOnce()) {
        self.backing.begin_removal(page);
        ModelDesk::new(self, woken).follow_all();
    }

    /// As [`follow_removal`](Self::follow_removal) by a reader that has seen MADV_FREE, and waits for nothing: what the kernel has not emptied yet
    /// stays, and is held.
    pub fn follow_removal_in_haste(&self, page: u32, woken: impl FnOnce()) {
        self.backing.begin_removal(page);
        ModelDesk { left_there: AtomicU64::new(1), ..ModelDesk::new(self, woken) }.follow_all();
    }

    /// The thread that drops a page goes on: the kernel empties its place.
    pub fn emptied(&self, page: u32) {
        self.backing.end_change();
        self.backing.vanish(page);
    }

    /// A thread of the program unmaps a page, and the reader follows. Woken, the thread goes on with [`map_other`](Self::map_other).
    pub fn follow_unmapping(&self, page: u32, woken: impl FnOnce()) {
        self.backing.unmap(page);
        ModelDesk::new(self, woken).follow_all();
    }

    /// The thread that unmapped a page goes on, and maps something else there.
    pub fn map_other(&self, page: u32, token: u64) {
        self.backing.end_change();
        self.backing.map_other(page, token);
    }

    /// What is mapped there that is not registered.
    pub fn other(&self, page: u32) -> Option<u64> {
        self.backing.other(page)
    }

    /// A thread of the program forks, and the reader follows. Woken, the thread goes on with [`forked`](Self::forked). What the child has of page 0
    /// from the kernel, and what from its word.
    pub fn follow_fork(&self, woken: impl FnOnce()) -> (Option<u64>, Option<u64>) {
        let kernel = self.backing.fork()[0];
        let desk = ModelDesk::new(self, woken);
        desk.follow_all();
        (kernel, desk.heir.get().expect("the reader has followed the fork"))
    }

    /// The thread that forked goes on.
    pub fn forked(&self) {
        self.backing.end_change();
    }

    /// A thread of the program moves a page elsewhere, of which the kernel says two things, one after the other: each is read by another reader.
    pub fn read_a_move(&self, page: u32) -> [ReadChanges; 2] {
        self.backing.remap(page);
        let moved = ModelDesk::new(self, || ()).read();
        self.backing.end_change();
        self.backing.unmap(page);
        let unmapped = ModelDesk::new(self, || ()).read();
        self.backing.end_change();
        [moved, unmapped]
    }

    /// A reader follows what it has read. What came along of a page that was moved, if it has followed that.
    pub fn follow(&self, mut read: ReadChanges) -> Option<Option<u64>> {
        let desk = ModelDesk::new(self, || ());
        read.0.follow(&desk);
        desk.heir.get()
    }

    /// The guest reads a page; what is told EAGAIN is parked, as a reader of events does. `None`: it is to be made again when the range is open.
    pub fn read_or_park(&self, page: u32) -> Option<u64> {
        loop {
            match self.backing.read(page) {
                Ok(token) => return Some(token),
                Err(_) => self.fault_once(page, Access::Read).then_some(())?,
            }
        }
    }

    /// The same for a write.
    pub fn write_or_park(&self, page: u32, token: u64) -> Option<()> {
        loop {
            match self.backing.write(page, token) {
                Ok(()) => return Some(()),
                Err(_) => self.fault_once(page, Access::Write).then_some(())?,
            }
        }
    }

    /// A fault is served that was read a while ago: its page may be there by now. False: not now.
    pub fn serve_late_fault(&self, page: u32) -> bool {
        self.fault_once(page, Access::Read)
    }

    fn fault_once(&self, page: u32, access: Access) -> bool {
        match self.pages.fault(page, access, Waiting::Wait) {
            Served::Installed(_) => true,
            Served::Again => false,
            other => panic!("a fault of page {page} came to {other:?}"),
        }
    }

    /// Ask which of the first 64 pages were written since this was asked.
    pub fn take_dirty(&self) -> u64 {
        let mut dirty = [0];
        self.pages.take_changed(&self.backing, &mut dirty).expect("it has no kernel that could refuse");
        dirty[0]
    }
}
