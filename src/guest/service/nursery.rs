//! [`Nursery`]: what children of fork are made of, before they are born.
//!
//! ```text
//!   thread that serves children   --stock--> [ spare | spare | .. ] --take--> thread that follows changes: a child is born, nothing is allocated
//! ```
//!
//! A thread that forks has the allocator's locks while its event is unread, and may fork again at once. Who follows such events must not need those
//! locks for each of them: forks would come faster than children are born. Whoever makes spares makes many, each time he gets that far.

use super::child::{Child, Copy};
use crate::guest::pages::{Pages, Shared};
use crate::sync::{Arc, Mutex, Rank};

/// Children at most.
const MOST: usize = 16;

/// Copies of regions at most, of all children: each takes addresses.
const MOST_COPIES: usize = 256;

/// A child that is not born, and copies of the regions that there were.
pub(super) struct Spare {
    pub(super) child: Arc<Child>,
    copies: Vec<Arc<Copy>>,
}

/// Spares.
pub(super) struct Nursery(Mutex<Vec<Spare>>);

impl Spare {
    /// For a child that has copies of `regions`.
    pub(super) fn new(payer: &Arc<Shared>, regions: &[Arc<Pages>]) -> Spare {
        let copies = regions.iter().map(|pages| Arc::new(Copy::empty(pages.addresses(), pages.slots()))).collect();
        Spare { child: Arc::new(Child::unborn(Arc::clone(payer), regions.len())), copies }
    }

    /// The copy of a region: made before, or now for one that came since. Slots are never of two regions.
    pub(super) fn copy_of(&mut self, pages: &Pages) -> Arc<Copy> {
        match self.copies.iter().position(|copy| copy.is_of(pages)) {
            Some(at) => self.copies.swap_remove(at),
            None => Arc::new(Copy::empty(pages.addresses(), pages.slots())),
        }
    }
}

impl Nursery {
    /// Empty.
    pub(super) fn new() -> Nursery {
        Nursery(Mutex::new(Rank::Guest, Vec::with_capacity(MOST)))
    }

    /// The next, if there is one. Calls no allocator.
    pub(super) fn take(&self) -> Option<Spare> {
        self.0.lock().pop()
    }

    /// Fill it up.
    pub(super) fn stock(&self, payer: &Arc<Shared>, regions: &[Arc<Pages>]) {
        let wanted = (MOST_COPIES / regions.len().max(1)).clamp(1, MOST);
        while self.0.lock().len() < wanted {
            let spare = Spare::new(payer, regions);
            let mut spares = self.0.lock();
            if spares.len() == spares.capacity() {
                drop(spares); // nobody frees anything under the lock
                return drop(spare);
            }
            spares.push(spare);
        }
    }
}
