//! Relics: what `mremap` has moved out of regions, and that was out then. It is served where it is now, like a child's copy, in this process.
//!
//! ```text
//!   region   [ p0 p1 p2 p3 ]  --mremap p1..p3-->   region [ p0 .  .  p3 ]     relics: [ p1 p2 ] at the new address, until a region is made there
//! ```

use super::answers::Answer;
use super::child::{Child, Copy};
use super::claim::{BUSY, OUT, POISONED, STATE, word};
use super::family::Family;
use super::gate::Gate;
use super::last_words;
use super::space::Here;
use crate::guest::Error;
use crate::guest::pages::{Inherited, Pages};
use crate::sync::atomic::Ordering;
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Deadline};
use crate::units::{PAGE_SIZE, SlotRange};
use std::ops::Range;
use std::time::Duration;

/// How long what changes is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Try it again while something changes. Whether it was done at last.
pub(super) fn patiently(mut tried: impl FnMut() -> bool) -> bool {
    let (patience, mut backoff) = (Deadline::after(PATIENCE), Backoff::new());
    loop {
        if tried() {
            return true;
        }
        if patience.passed() {
            return false;
        }
        backoff.wait_for_io();
    }
}

impl Family {
    /// Whether `mremap` has moved anything.
    pub(super) fn has_relics(&self) -> bool {
        self.relics.lock().is_some()
    }

    pub(super) fn relics(&self) -> Option<Arc<Child>> {
        self.relics.lock().clone()
    }

    /// Nobody serves them any more.
    pub(super) fn let_relics_go(&self) -> Option<Arc<Child>> {
        self.relics.lock().take()
    }

    /// The pages of a region have other addresses: they are served there from here on.
    pub(super) fn take_relics(&self, memory: Here, pages: &Pages, there: Range<u32>, to: usize) {
        let relics = self.relics().unwrap_or_else(|| {
            let relics = Arc::new(Child::ours(memory, Arc::clone(pages.shared())));
            Arc::clone(self.relics.lock().get_or_insert(relics))
        });
        let origin = SlotRange::new(pages.slot(there.start), there.len() as u64);
        let copy = Arc::new(Copy::empty(to..to + there.len() * PAGE_SIZE, origin));
        self.note_list();
        relics.copies.push(Arc::clone(&copy));
        for (n, page) in there.enumerate() {
            let mut backoff = Backoff::new();
            while !pages.inherit(page, &mut |what| self.keep_relic(&relics, &copy, n, what)) {
                backoff.wait_for_io();
            }
            while pages.removed(page..page + 1).is_some() {
                backoff.wait_for_io();
            }
        }
    }

    /// Bytes cannot be installed there now, for the mapping is changing: they are stored. False: later.
    fn keep_relic(&self, relics: &Child, copy: &Copy, page: usize, what: Inherited<'_>) -> bool {
        let Inherited::Bytes(bytes) = what else { return relics.inherit(copy, page, what, self) };
        match self.store_for(&relics.payer, bytes) {
            Ok(slot) => {
                copy.words.get(page).store(word(OUT, slot), Ordering::Release);
                true
            }
            Err(error) => last_words::end(format_args!(
                "there is no room to store a page that was about to be, and that mremap has moved to {:#x} ({error}): it would read as zero there, \
                 so the process ends; have a larger pool limit, or a swap device",
                copy.address(page)
            )),
        }
    }

    /// Whether an address is of what was moved.
    pub(super) fn is_relic(&self, address: usize) -> bool {
        self.relics().is_some_and(|relics| relics.copies.any(|copy| copy.addresses.contains(&address)))
    }

    /// Serve a fault of what was moved, if that is there. `None` where it is not.
    pub(super) fn answer_relic(&self, address: usize) -> Option<Answer> {
        let relics = self.relics()?;
        let (copy, page) = relics.find(address)?;
        Some(relics.fill(&copy, page, &self.zswap).unwrap_or(Answer::Again))
    }

    /// The same, of a page that its region takes for nowhere: the region was registered before we were told what has moved there.
    pub(super) fn answer_relic_that_is_out(&self, address: usize) -> Option<Answer> {
        let relics = self.relics()?;
        let (copy, page) = relics.find(address)?;
        let out = matches!(copy.words.get(page).load(Ordering::Acquire) & STATE, OUT | POISONED | BUSY);
        out.then(|| relics.fill(&copy, page, &self.zswap).unwrap_or(Answer::Again))
    }

    /// Mappings changed where such pages are.
    pub(super) fn forget_relics(&self, range: &Range<usize>) {
        if let Some(relics) = self.relics() {
            relics.forget_range(range, &self.zswap);
        }
    }

    /// And nothing is there any more.
    pub(super) fn drop_relics(&self, range: &Range<usize>) {
        if let Some(relics) = self.relics() {
            relics.drop_copies(range, self);
        }
    }

    /// As [`forget_relics`](Self::forget_relics), for a second move.
    pub(super) fn move_relics(&self, from: Range<usize>, to: usize) {
        if let Some(relics) = self.relics() {
            relics.move_pages(from, to, self);
        }
    }

    /// Have nothing of it out: a child would have zeroes there, of whom nobody tells.
    ///
    /// # Errors
    /// When its mapping changes all the time.
    pub(super) fn bring_relics_in(&self) -> Result<(), Error> {
        let Some(relics) = self.relics() else { return Ok(()) };
        match patiently(|| relics.bring_in(&self.zswap)) {
            true => Ok(()),
            false => Err(Error::Moving { range: relics.copies.nth(0).map_or(0..0, |copy| copy.addresses.clone()) }),
        }
    }

    /// A range is to be registered: what is out of it is in memory from here on, and nobody's. False: its mapping is changing, and
    /// something is out still.
    pub(super) fn settle_relics(&self, range: &Range<usize>, gate: Option<&Gate>) -> bool {
        // A move that was read of, and is still to be followed, may bring pages here.
        if gate.is_some_and(|gate| gate.pass(range.clone()).is_none()) {
            return false;
        }
        let Some(relics) = self.relics() else { return true };
        if !relics.put_in_place(range, &self.zswap) {
            return false;
        }
        relics.forget_range(range, &self.zswap);
        relics.drop_copies(range, self);
        true
    }
}
