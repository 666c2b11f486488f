//! Pages that leave the region for somewhere else: an address that `mremap` gave them, or a child of fork that has a copy.
//!
//! | the word said | departing | inherited |
//! |---|---|---|
//! | Absent | | zeroes |
//! | Resident | it lies there already, without our doing; uncharged here | the kernel shares it |
//! | Staged, Compressing | a copy goes there; dropped here | a copy goes there, and it stays here |
//! | Stored | loaded, and the bytes go there; the slot is given back | the slot gets a reference more |
//! | Poisoned | poisoned there | poisoned there |

use super::discard::By;
use super::owned::{End, Owned};
use super::pages::Pages;
use super::word::State;
use crate::guest::memory::backing::Staging;
use crate::units::{PAGE_SIZE, Slot};

/// What became of a page that is to depart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it may still be here"]
pub(crate) enum Departed {
    /// It is not here any more.
    Gone,
    /// Somebody owns it, or it could not be put there now.
    Later,
}

/// What a child of fork has of a page that the kernel does not give it.
pub(crate) enum Inherited<'a> {
    /// What lies in the slot, which the child gets a reference to if it says so.
    Slot(Slot),
    /// These bytes.
    Bytes(&'a [u8; PAGE_SIZE]),
    /// Nobody can read it.
    Poisoned,
}

impl Pages {
    /// Put a page elsewhere by `elsewhere`, which gets its bytes, or `None` where they cannot be had, and says whether it did. Pages in the
    /// guest range are there already.
    pub(crate) fn depart(&self, page: u32, elsewhere: &mut dyn FnMut(Option<&[u8; PAGE_SIZE]>) -> bool) -> Departed {
        let seen = self.word(page).load();
        if seen.state() == State::Absent {
            return Departed::Gone;
        }
        if seen.state().is_owned() || self.word(page).discard(seen).is_err() {
            return Departed::Later;
        }
        let mut owned = Owned::one(self, page, seen);
        let put = match seen.state() {
            State::Resident => {
                self.no_more_resident(&owned);
                owned.end_front(1, End::silent(State::Absent));
                return Departed::Gone;
            }
            // SAFETY: owned, so the staged page stays as it is.
            State::Staged | State::Compressing => elsewhere(Some(unsafe { &*self.backing().staged(page) })),
            State::Stored => {
                let mut bounce = [0; PAGE_SIZE];
                match self.read(page, &mut bounce, true) {
                    Ok(_) => elsewhere(Some(&bounce)),
                    Err(_) => elsewhere(None),
                }
            }
            _ => elsewhere(None),
        };
        // Not put there: dropped, the word is as it was.
        if !put || self.empty(page, seen, By::Them).is_err() {
            return Departed::Later;
        }
        owned.end_front(1, End::silent(State::Absent));
        Departed::Gone
    }

    /// Tell `heir` what a child of fork has of a page beside what the kernel gives it: nothing is said of pages that are in the guest
    /// range, or nowhere. `heir` says whether it has it. False: later.
    ///
    /// The caller has seen to it that no page comes in or leaves since the fork.
    pub(crate) fn inherit(&self, page: u32, heir: &mut dyn FnMut(Inherited<'_>) -> bool) -> bool {
        let seen = self.word(page).load();
        match seen.state() {
            State::Absent | State::Resident => true,
            State::Stored => heir(Inherited::Slot(self.slot(page))),
            State::Poisoned => heir(Inherited::Poisoned),
            state if state.is_owned() => false,
            // Staged in the guest range: the kernel gives it.
            _ if self.backing().staging() == Staging::InPlace => true,
            _ if self.word(page).discard(seen).is_err() => false,
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
}
