//! What somebody inherits who has a copy of all pages: a child of fork, or the address to which `mremap` moved them.
//!
//! | the word says | inherited |
//! |---|---|
//! | Absent | zeroes |
//! | Resident | the kernel shares it, or has moved it |
//! | Staged, Compressing | a copy of the bytes (staged in place: as Resident) |
//! | Stored | the slot, if the heir takes a reference more |
//! | Poisoned | that |
//!
//! Where the kernel tells nobody of a fork, a child has what is in the guest range, and nothing else: so all is brought in before, and
//! [held](Pages::hold) there.

use super::bits::{Bits, State};
use super::owned::Owned;
use super::pages::Pages;
use crate::guest::Error;
use crate::guest::memory::backing::Staging;
use crate::sync::Bug;
use crate::units::{PAGE_SIZE, Slot};

/// What a child of fork has of a page that the kernel does not give it.
#[derive(Clone, Copy)]
pub(crate) enum Inherited<'a> {
    /// What lies in the slot, which the child gets a reference to if it says so.
    Slot(Slot),
    /// These bytes.
    Bytes(&'a [u8; PAGE_SIZE]),
    /// Nobody can read it.
    Poisoned,
}

impl Pages {
    /// Tell `heir` what it has of a page beside what the kernel gives it: nothing is said of pages that are in the guest range, or nowhere.
    /// `heir` says whether it has it. False: later.
    ///
    /// The caller has seen to it that no page comes in or leaves since the fork, or the move.
    pub(crate) fn inherit(&self, page: u32, heir: &mut dyn FnMut(Inherited<'_>) -> bool) -> bool {
        let seen = self.word(page).load();
        match seen.state() {
            State::Absent | State::Resident => true,
            State::Stored => heir(Inherited::Slot(self.slot(page))),
            State::Poisoned => heir(Inherited::Poisoned),
            state if state.is_owned() => false,
            // Staged in the guest range: the kernel gives it.
            _ if self.backing().staging() == Staging::InPlace => true,
            // Filling: a compressor that it is taken from leaves the frame to us. One that is Dropping it would give back at once, while
            // the heir reads it, and the page would be staged again without one.
            _ if !self.own_for_heir(page, seen) => false,
            _ => {
                let owned = Owned::one(self, page, seen);
                // SAFETY: owned, so the staged page stays as it is.
                let bytes = unsafe { &*self.backing().staged(page) };
                let has = heir(Inherited::Bytes(bytes));
                drop(owned); // as it was
                has
            }
        }
    }

    /// Before a fork that nobody will tell of: nobody takes pages out from here on, until they are [let go](Self::reopen); and what is out comes in.
    /// How many pages that were. In this order: what is nowhere now may be written at any time, and is not to leave then.
    pub(crate) fn hold(&self) -> (u64, Result<(), Error>) {
        self.close();
        let is_out = |page: &u32| !matches!(self.word(*page).load().state(), State::Absent | State::Resident);
        let out = (0..self.count()).filter(is_out).count() as u64;
        (out, self.bring_back(0..self.count()))
    }

    fn own_for_heir(&self, page: u32, seen: Bits) -> bool {
        let word = self.word(page);
        let owned =
            if self.shared().planted.is(Bug::HeirOwnsAsDropping) { word.discard(seen) } else { word.fill(seen) };
        owned.is_ok()
    }
}
