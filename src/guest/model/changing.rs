//! Mappings change behind a model's back: the program's threads, and the reader of what the kernel says about them.
//!
//! The gate and the backing behind it are the service's own; the reader is as short as its rules: read alone, close, follow, open.

use super::Model;
use crate::guest::pages::{Access, Pages, Served, Waiting};
use crate::guest::service::gate::ALL;
use crate::sync::Bug;
use crate::sync::thread::yield_now;
use crate::units::PAGE_SIZE;
use std::ops::Range;

impl Model {
    /// A thread of the program drops a page by `madvise`, and the reader follows. `woken` is called as soon as the event was read: the thread goes
    /// on with [`emptied`](Self::emptied), whoever else runs.
    pub fn follow_removal(&self, page: u32, woken: impl FnOnce()) {
        self.backing.begin_removal();
        self.follow(addresses(page), woken, |pages| {
            let awaited = !pages.shared().planted.is(Bug::RemovalNotAwaited);
            while awaited && pages.first_present(page..page + 1).is_some() {
                yield_now();
            }
            drop_page(pages, page);
        });
    }

    /// The thread that drops a page goes on: the kernel empties its place.
    pub fn emptied(&self, page: u32) {
        self.backing.end_change();
        self.backing.vanish(page);
    }

    /// A thread of the program unmaps a page, and the reader follows. Woken, the thread goes on with [`map_other`](Self::map_other).
    pub fn follow_unmapping(&self, page: u32, woken: impl FnOnce()) {
        self.backing.unmap(page);
        self.follow(addresses(page), woken, |pages| drop_page(pages, page));
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

    /// A thread of the program forks, and the reader follows. Woken, the thread goes on with [`forked`](Self::forked). What the child has of a page
    /// from the kernel, and what from its word.
    pub fn follow_fork(&self, page: u32, woken: impl FnOnce()) -> (Option<u64>, Option<u64>) {
        let kernel = self.backing.fork()[page as usize];
        (kernel, self.follow(ALL, woken, |_| self.inherit(page)))
    }

    /// The thread that forked goes on.
    pub fn forked(&self) {
        self.backing.end_change();
    }

    fn follow<R>(&self, range: Range<usize>, woken: impl FnOnce(), words: impl FnOnce(&Pages) -> R) -> R {
        let closed = self.gate.alone(|close| {
            woken(); // by the read, before anything can be closed
            close(range)
        });
        if self.pages.shared().planted.is(Bug::GateOpensEarly) {
            self.gate.open(closed);
            return words(&self.pages);
        }
        let result = words(&self.pages);
        self.gate.open(closed);
        result
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

    /// Ask which of the first 64 pages were written since this was asked: the kernel's marks first, as they who ask it do.
    pub fn take_dirty(&self) -> u64 {
        let mut dirty = [0];
        let changed = self.pages.changed().expect("only gated models are traced");
        let _marks = self.pages.marks().lock();
        for page in 0..self.pages.count() {
            dirty[0] |= u64::from(self.backing.take_written(page)) << page;
        }
        self.pages.note_going();
        changed.take(&mut dirty);
        dirty[0]
    }
}

fn addresses(page: u32) -> Range<usize> {
    page as usize * PAGE_SIZE..(page as usize + 1) * PAGE_SIZE
}

fn drop_page(pages: &Pages, page: u32) {
    while pages.removed(page..page + 1).is_some() {
        yield_now();
    }
}
