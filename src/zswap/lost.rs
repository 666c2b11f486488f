//! A page that cannot be read back from its device: its slot says so from then on.
//!
//! ```text
//!   word: place --- read fails ---> word still the place?  no: start again, it is no failure
//!                                        | yes, and the failure is about the page
//!                                        v
//!                                   word: lost (why, device)    then the segment is condemned, the place freed and uncharged
//! ```
//!
//! - **X1** Only a failure that the page will not survive makes it lost: the device says that it cannot read these bytes, or they
//!   are not what was written. That it had no time, or the system no memory, says nothing about the page: that is an
//!   [`Error::Read`] and the slot stays as it is.
//! - **X2** Only if the slot's word, looked at after the read, is the one that named the place (R-38).
//! - **X3** Not while the slot is on its way to another place: its bytes were verified when it set out, so there is a copy in a
//!   batch, and what becomes of that is waited for.
//! - **X4** It is for ever: a lost page does not come back with the device's mood. Loads answer from the word, without I/O; storing to
//!   the slot, or freeing it, ends it; references are counted as before.

use super::Error;
use super::core::Core;
use super::flights::Replaced;
use crate::swap::{self, Content, Loss, Place, SlotWord, Why};
use crate::sync::{Bug, Step, thread::Backoff};
use crate::units::Slot;
use std::io;

/// What this failure to read a place means for the page there; `None` where it may be read another time.
pub(super) fn loss(place: Place, failure: &swap::Error) -> Option<Loss> {
    let why = match failure {
        swap::Error::Corrupt { .. } => Why::Corrupt,
        swap::Error::Io { source, .. } => match source.raw_os_error() {
            Some(errno) if SAYS_NOTHING.contains(&errno) => return None,
            Some(errno) => Why::Io { errno: errno as u16 },
            None if matches!(source.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => return None,
            None => Why::Io { errno: 0 },
        },
        _ => return None,
    };
    Some(Loss { device: place.device, why })
}

/// What the system says of a read that may succeed another time.
const SAYS_NOTHING: [i32; 17] = [
    // It had no memory for the request, was interrupted, or waited in vain; or we may not ask.
    libc::ENOMEM,
    libc::EAGAIN,
    libc::EINTR,
    libc::ETIMEDOUT,
    libc::EBUSY,
    libc::EPERM,
    libc::EACCES,
    // The way to the device is broken (multipath, iSCSI, nbd), or somebody else has reserved it.
    libc::ENOLINK,
    libc::EBADE,
    libc::EHOSTUNREACH,
    libc::EHOSTDOWN,
    libc::ENETUNREACH,
    libc::ENETDOWN,
    libc::ENOTCONN,
    libc::ECONNRESET,
    libc::ECONNABORTED,
    libc::EPIPE,
];

impl Core {
    /// A read of the place that `word` named for `slot` failed: its error, or `None` when the slot does not hold that any more. No
    /// allocation. Waits for a flight of the slot, so its caller has none of it.
    ///
    /// # Locks
    /// Cluster, then the device's.
    pub(super) fn unread(&self, slot: Slot, word: SlotWord, place: Place, failure: swap::Error) -> Option<Error> {
        let mut backoff = Backoff::new();
        let mut guard = loop {
            let Some(guard) = self.slots.lock(slot).filter(|guard| guard.word().same_content(word)) else {
                // Under the planted bug nobody looked.
                return self.planted.is(Bug::LoadSkipsRevalidation).then_some(Error::Read { slot, source: failure });
            };
            if !guard.word().writeback() || loss(place, &failure).is_none() {
                break guard;
            }
            drop(guard);
            backoff.wait_for_io(); // X3
        };
        self.counters.failed_loads.add(1);
        let Some(loss) = loss(place, &failure) else {
            return Some(Error::Read { slot, source: failure });
        };
        let lost = SlotWord::new(Content::Lost(loss)).expect("a loss always fits in a word");
        let old = Replaced::switch(self, &mut guard, lost);
        drop(guard);
        // While the place is not freed, so that nobody writes there again before.
        self.devices.blame(place, &failure);
        self.steps.pass(Step::LostSwitched);
        drop(old);
        Some(Error::Lost { slot, loss })
    }
}
