//! [`Shadowed`]: private anonymous memory whose pages are moved out and back, without a copy and without stopping who uses them.
//!
//! ```text
//!   guest range   | p0 | p1 | .. | p3 |     registered: missing pages, write protection
//!                    ^    |
//!           put_back |    | take_out         one request, atomic: there is no moment at which a write could be lost
//!                    |    v
//!   shadow range  |    |    | p2 |    |     same index, same protection, registered for write protection only: holes read as zero
//! ```
//!
//! - **A1** The shadow is registered with the guest's own descriptor, and pages move out through it: while the guest's range is being unmapped or
//!   moved, and the event of it is unread, a move says EAGAIN. A descriptor without that event would take what somebody else has mapped
//!   in that place since; the kernel does not ask whose the page is.
//! - **A2** A place of the shadow is empty before a page is moved to it: EEXIST means that a page was left behind, which is dropped.
//! - **A3** A page whose protection was changed since it went out cannot be moved back (EINVAL): it is copied back, and the staged one dropped.
//! - **A4** Where the descriptor has events, dropping frames of the shadow would raise one and wait for its reader, who may be the very thread that
//!   drops them. There frames are first moved on, to memory of a descriptor without events, and dropped there.
//! - **A5** EEXIST does not say that nothing was done: Linux (seen in 6.18) says so too of pages that it has just moved, when an entry changed
//!   while it looked: the first write to a page of zeroes, say. So who gets it looks where the page is ([`Shadowed::is_moved`]).

use super::Refusal;
use super::backing::{Backing, Installed, Obstacle, TakenOut, install_one_by_one};
use super::frames::{Frames, RUN};
use super::guest_range::{GuestRange, rest_of_backing, through};
use super::reserved::Reserved;
use crate::guest::uffd::{Descriptor, Errno, Ioctls, Mode, Modes};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;

/// From how many pages on moving them in beats copying them (33 pages are flushed one by one).
const MOVES_PAY: u32 = 34;

/// Where frames of all ranges of a VM go that are dropped.
#[derive(Debug)]
pub(super) struct Drain {
    /// To which `frames` is registered: the guest's, or one without events.
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) frames: Frames,
    /// All frames have to go there: A4.
    pub(super) only: bool,
}

/// Anonymous memory with MOVE.
#[derive(Debug)]
pub(super) struct Shadowed {
    guest: GuestRange,
    shadow: Reserved,
    drain: Arc<Drain>,
    /// All of it has the protection of the frames' pool.
    frames_fit: bool,
}

impl Shadowed {
    /// `executable` are the parts of the range that may be executed, in bytes from its start.
    pub(super) fn new(guest: GuestRange, drain: Arc<Drain>, executable: &[Range<usize>]) -> Result<Shadowed, Refusal> {
        if drain.only && !executable.is_empty() {
            return Err(Refusal::NoMethod {
                method: super::Method::Move,
                why: "frames of memory that may be executed cannot be dropped without an event, and events are on. Register what is \
                      writable and not executable, or leave the events off.",
            });
        }
        let shadow = Reserved::new(guest.pages() as usize * PAGE_SIZE)?;
        for part in executable {
            shadow.protect(part.clone(), true)?;
        }
        // SAFETY: memory of ours.
        unsafe { guest.descriptor.register(shadow.addresses(), Modes::PROTECT)? };
        Ok(Shadowed { guest, shadow, drain, frames_fit: executable.is_empty() })
    }

    fn shadow(&self, page: u32) -> usize {
        self.shadow.addresses().start + page as usize * PAGE_SIZE
    }

    /// Drop what places of the shadow hold, if anything.
    fn empty(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        if self.drain.only {
            let drained = self.drain.frames.drain(&self.drain.descriptor, self.shadow(first), pages);
            return drained.map_err(|errno| Obstacle::Failed(errno.0));
        }
        let start = first as usize * PAGE_SIZE;
        self.shadow
            .empty(start..start + pages as usize * PAGE_SIZE)
            .map_err(|e| Obstacle::Failed(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Whether the kernel has moved a page that the caller owns, though it said EEXIST: A5. Where that cannot be told it has not.
    fn is_moved(&self, from: usize, to: usize) -> bool {
        !self.guest.holds(from).unwrap_or(true) && self.guest.holds(to).unwrap_or(false)
    }

    /// Copy one staged page back where it cannot be moved: A3.
    fn copy_back(&self, page: u32) -> Result<(), Obstacle> {
        match self.guest.install(page, self.staged(page), 1, false).obstacle {
            // It is back, whatever becomes of the frame: a place that is not empty is emptied when it is in the way (A2).
            None => {
                let _ = self.empty(page, 1);
                Ok(())
            }
            Some(obstacle) => Err(obstacle),
        }
    }

    /// Move pages of ours. How many, and what was in the way of the next.
    ///
    /// # Safety
    /// The caller owns the pages at `from`, and the places at `to`.
    unsafe fn mov(&self, to: usize, from: usize, pages: u32, mode: Mode) -> (u32, Option<Errno>) {
        let at = |base: usize, page: u32| base + page as usize * PAGE_SIZE;
        let mut moved = 0;
        loop {
            let (more, stopped) = through(pages - moved, Errno::INVALID, |page, count| {
                let (to, from) = (at(to, moved + page), at(from, moved + page));
                // SAFETY: the caller's promise.
                unsafe { self.guest.descriptor.mov(to, from, count as usize * PAGE_SIZE, mode) }
            });
            moved += more;
            let place = at(to, moved);
            if stopped != Some(Errno::EXISTS) || !self.is_moved(at(from, moved), place) {
                return (moved, stopped);
            }
            // A5: and woken nobody.
            if !mode.contains(Mode::QUIET) {
                let _ = self.guest.descriptor.wake(place..place + PAGE_SIZE); // refused only for what is not a page
            }
            moved += 1;
        }
    }

    /// Move pages of ours at `from` into the guest range.
    fn move_to_guest(&self, first: u32, from: usize, pages: u32) -> (u32, Option<Errno>) {
        // SAFETY: the pages are staged or filled frames, whose owner the caller is, and belong into the guest range.
        unsafe { self.mov(self.guest.address(first), from, pages, Mode::empty()) }
    }
}

impl Backing for Shadowed {
    fn register(&self) -> Result<(), Refusal> {
        self.guest.register(Modes::MISSING, Ioctls::COPY | Ioctls::ZEROPAGE | Ioctls::WAKE)
    }

    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        let mut moved = 0;
        let mut emptied = None;
        loop {
            let (to, from) = (self.shadow(first + moved), self.guest.address(first + moved));
            // SAFETY: the caller owns the pages' words: they leave.
            let (more, stopped) = unsafe { self.mov(to, from, pages - moved, Mode::QUIET) };
            moved += more;
            let obstacle = match stopped {
                None => None,
                // A2. One place only: pages behind it may have been moved as this one might.
                Some(Errno::EXISTS) if emptied != Some(moved) => {
                    emptied = Some(moved);
                    match self.empty(first + moved, 1) {
                        Ok(()) => continue,
                        Err(obstacle) => Some(obstacle),
                    }
                }
                // Not to be moved as it is now: its protection or its locks were changed; or it is no page but a mark, of poison.
                Some(Errno::INVALID | Errno::FAULT) => Some(Obstacle::Busy),
                Some(errno) => Some(self.guest.obstacle(first + moved, errno)),
            };
            return TakenOut { moved, obstacle };
        }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        let mut back = 0;
        while back < pages {
            let (more, stopped) = self.move_to_guest(first + back, self.shadow(first + back), pages - back);
            back += more;
            match stopped {
                None => {}
                Some(Errno::INVALID | Errno::BUSY) => match self.copy_back(first + back) {
                    Ok(()) => back += 1,
                    Err(obstacle) => return Installed { pages: back, obstacle: Some(obstacle) },
                },
                Some(errno) => {
                    return Installed { pages: back, obstacle: Some(self.guest.obstacle(first + back, errno)) };
                }
            }
        }
        Installed { pages, obstacle: None }
    }

    fn staged(&self, page: u32) -> *const [u8; PAGE_SIZE] {
        debug_assert!(page < self.guest.pages());
        self.shadow(page) as *const [u8; PAGE_SIZE]
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        let mut dropped = 0;
        if self.frames_fit {
            while pages - dropped >= RUN && self.drain.frames.keep(&self.drain.descriptor, self.shadow(first + dropped))
            {
                dropped += RUN;
            }
        }
        if dropped < pages { self.empty(first + dropped, pages - dropped) } else { Ok(()) }
    }

    fn can_move_in(&self, pages: u32) -> bool {
        self.frames_fit && pages >= MOVES_PAY && self.drain.frames.is_ready()
    }

    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut [u8; PAGE_SIZE]) -> bool) -> Installed {
        let mut done = 0;
        while done < pages {
            let count = (pages - done).min(RUN);
            let run = if self.frames_fit && count >= MOVES_PAY { self.drain.frames.take() } else { None };
            let Some(run) = run else {
                let rest = install_one_by_one(self, first + done, count, fill);
                done += rest.pages;
                if rest.pages < count {
                    return Installed { pages: done, obstacle: rest.obstacle };
                }
                continue;
            };
            let filled = (0..count).find(|&at| !fill(first + done + at, run.frame(at))).unwrap_or(count);
            let (moved, stopped) = self.move_to_guest(first + done, run.frame(0) as usize, filled);
            done += moved;
            let obstacle = match stopped {
                None if filled < count => return Installed { pages: done, obstacle: None },
                None => continue,
                // A3, for a page that was filled.
                Some(Errno::INVALID | Errno::BUSY) => {
                    let rest = self.guest.install(first + done, run.frame(moved), filled - moved, false);
                    done += rest.pages;
                    match rest.obstacle {
                        None if filled < count => return Installed { pages: done, obstacle: None },
                        None => continue,
                        obstacle => obstacle,
                    }
                }
                Some(errno) => Some(self.guest.obstacle(first + done, errno)),
            };
            return Installed { pages: done, obstacle };
        }
        Installed { pages, obstacle: None }
    }

    fn present_apart(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<bool> {
        let start = self.shadow(first);
        self.guest.present_at(start..start + pages as usize * PAGE_SIZE, first, each)?;
        Ok(true)
    }

    rest_of_backing!(guest, private);
}

impl Drop for Shadowed {
    fn drop(&mut self) {
        // Unmapped while it is registered, it would raise an event.
        let _ = self.guest.descriptor.unregister(self.shadow.addresses());
    }
}
