//! [`Protected`]: private anonymous memory whose pages are write-protected, read in place, and dropped: for kernels without MOVE.
//!
//! ```text
//!   guest range   | p0 | p1 | p2 |     take_out: p1 is protected, its bytes stand still
//!                      |wp  |          put_back: it is not protected any more
//!                                      drop_staged: p1 is dropped
//! ```
//!
//! - **P1** The staged page is the guest's (B3): reads of it do not fault, so staging tells nothing about them.
//! - **P2** The kernel does not say whether a page is pinned for a device, and drops it all the same: pages that devices use must be pinned
//!   by the caller. With MOVE they stay by themselves.
//! - **P3** Dropping raises an event where events of removal are on, and waits for its reader: refused together with them.
//! - **P4** Reading a staged page that the program drops behind our back this moment faults like an access of the guest's, in the thread that
//!   reads: memory is discarded by [`discard`](Backing::discard), not by `madvise`.

use super::Refusal;
use super::backing::{Backing, Installed, Obstacle, Staging, TakenOut};
use super::guest_range::{GuestRange, rest_of_backing};
use crate::guest::uffd::{Entry, Ioctls, Modes};
use crate::units::PAGE_SIZE;
use std::io;

/// Anonymous memory without MOVE.
#[derive(Debug)]
pub(super) struct Protected {
    guest: GuestRange,
}

impl Protected {
    pub(super) fn new(guest: GuestRange) -> Protected {
        Protected { guest }
    }

    /// How many pages from `first` on hold something, up to `most`.
    fn held(&self, first: u32, most: u32) -> io::Result<u32> {
        let mut entries = [Entry::empty(); 64];
        let mut held = 0;
        while held < most {
            let count = (most - held).min(entries.len() as u32);
            self.guest.entries(first + held, count, &mut entries)?;
            let here = entries[..count as usize]
                .iter()
                .take_while(|entry| entry.intersects(Entry::PRESENT | Entry::SWAPPED))
                .count() as u32;
            held += here;
            if here < count {
                break;
            }
        }
        Ok(held)
    }
}

impl Backing for Protected {
    fn register(&self) -> Result<(), Refusal> {
        self.guest.register(Modes::MISSING, Ioctls::COPY | Ioctls::ZEROPAGE | Ioctls::WAKE | Ioctls::WRITEPROTECT)
    }

    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        let held = match self.held(first, pages) {
            Ok(held) => held,
            Err(e) => return nothing(Obstacle::Failed(e.raw_os_error().unwrap_or(libc::EIO))),
        };
        if held > 0
            && let Err(obstacle) = self.guest.protect(first, held)
        {
            // What was protected before the obstacle is written to again before its word says that it may be.
            let _ = self.guest.unprotect(first, held);
            return nothing(obstacle);
        }
        TakenOut { moved: held, obstacle: (held < pages).then_some(Obstacle::Hole) }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        self.guest.unprotect(first, pages)
    }

    fn copy_staged(&self, page: u32, to: &mut [u8; PAGE_SIZE]) -> Result<(), Obstacle> {
        let from = self.guest.address(page) as *const [u8; PAGE_SIZE];
        if !self.guest.holds(from.addr()).unwrap_or(true) {
            return Err(Obstacle::Hole);
        }
        // SAFETY: the page stands where the guest has it while SHADOW is set: who throws pages away waits (B4).
        unsafe { std::ptr::copy_nonoverlapping(from, to, 1) };
        Ok(())
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.guest.drop_pages(first, pages)
    }

    fn staging(&self) -> Staging {
        Staging::InPlace
    }

    rest_of_backing!(guest, private);
}

fn nothing(obstacle: Obstacle) -> TakenOut {
    TakenOut { moved: 0, obstacle: Some(obstacle) }
}
