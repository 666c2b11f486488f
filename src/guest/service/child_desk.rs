//! [`ChildDesk`]: the faults of a child, and what it does to its mappings; by one thread, which serves all children.

use super::child::{Child, Whose};
use super::children::Care;
use super::family::Family;
use super::gate::Closed;
use super::nursery::Spare;
use super::reader::{Idle, Parking, Reader};
use super::source::Source;
use super::wards::Ward;
use super::{Answer, Change, Desk, Gate, answers};
use crate::guest::uffd::Fault;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::thread::Backoff;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The desk of a child.
pub(super) struct ChildDesk {
    pub(super) child: Arc<Child>,
    pub(super) family: Arc<Family>,
    pub(super) care: Arc<Care>,
}

impl ChildDesk {
    /// Serve what there is. One that panics is tried again with the next look, its word as it was.
    pub(super) fn serve(&self, reader: &mut Reader) {
        let served = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match reader.round(self, Idle::Return) {
                    Ok(0) if !reader.has_parked() || !self.child.lives() => return,
                    Ok(_) => {}
                    Err(_) => return, // it has ended: seen with the next look
                }
            }
        }));
        drop(served);
    }

    /// What it misses is in its memory from here on, unless it ends. Its changes are followed meanwhile: nothing can be installed before.
    pub(super) fn bring_all_in(&self, reader: &mut Reader) {
        let mut backoff = Backoff::new();
        while self.child.lives() && !self.child.bring_in(self.family.zswap()) {
            self.serve(reader);
            backoff.wait_for_io();
        }
    }
}

impl Desk for ChildDesk {
    fn source(&self) -> &dyn Source {
        self.child.memory.descriptor()
    }

    fn gate(&self) -> Option<&Gate> {
        None
    }

    fn answer(&self, fault: Fault) -> Answer {
        if !self.child.ready.load(Ordering::Acquire) {
            return Answer::Again;
        }
        let Some((copy, page)) = self.child.find(fault.address) else { return Answer::Stranger };
        if fault.protected {
            return Answer::Stranger; // protected in the parent, for whom that had a meaning
        }
        self.child.fill(&copy, page, self.family.zswap()).unwrap_or(Answer::Again)
    }

    fn follow(&self, change: &mut Option<Change>, _closed: &mut [Option<Closed>; 2]) -> bool {
        match change.take() {
            Some(Change::Removed(range)) => self.child.forget_range(&range, self.family.zswap()),
            Some(Change::Unmapped(range)) => {
                self.child.forget_range(&range, self.family.zswap());
                self.child.drop_copies(&range, &self.family);
            }
            Some(Change::Moved { from, to, bytes }) => self.child.move_pages(from..from + bytes, to, &self.family),
            Some(Change::Forked(descriptor)) => self.bear(descriptor),
            None => {}
        }
        true
    }

    fn stranger(&self, fault: Fault) -> bool {
        answers::stranger(self.child.memory.descriptor(), fault)
    }

    fn parking(&self) -> &Parking {
        &self.child.parking
    }

    fn state(&self, _address: usize) -> &'static str {
        "a child's"
    }
}

impl ChildDesk {
    /// The child has a child: it has copies of its parent's words.
    fn bear(&self, descriptor: Ward) {
        let grandchild = self.family.adopt(Whose::Own(descriptor), &mut Spare::new(&self.child.payer, &[]).child);
        grandchild.inherit_all_from(&self.child, &self.family, &mut None);
        grandchild.is_born();
        self.care.ring();
    }
}
