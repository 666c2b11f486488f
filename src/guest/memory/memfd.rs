//! [`Filed`]: shared memory of a memfd. A page that was taken out stays in the file until it is compressed.
//!
//! ```text
//!   guest's view  | p0 |    | p2 |     take_out: p1's entry of the page table is zapped, the next access is a MINOR fault
//!                   |         |        put_back: CONTINUE maps it again
//!   file          | p0 | p1 | p2 |     copy_staged: p1 is read; drop_staged: a hole is punched, the next access is a MISSING fault
//! ```
//!
//! Zapping raises an event where events of removal are on, and waits for its reader. So with them writes are held off instead
//! ([`Out::Protect`]); punching holes raises none.
//!
//! - **F1** The staged page is the guest's (B3).
//! - **F2** A page may be in the file and not mapped at any time: the kernel unmaps what it swaps out, and somebody may have written to the
//!   file. What fills a page and finds one maps that one, and says `There`: the fault that asked for it is served.
//! - **F3** Whoever has the file may make it shorter at any time: so it is read as a file, and mapped nowhere by us.
//! - **F4** As with anonymous memory without MOVE, the kernel does not say that a page is pinned: the caller has to.

use super::Refusal;
use super::backing::{Backing, Installed, Obstacle, Staging, TakenOut};
use super::guest_range::{GuestRange, rest_of_backing};
use crate::guest::uffd::{Errno, Ioctls, Modes};
use crate::units::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// How a page is taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Out {
    /// Its entry is zapped: any access faults.
    Zap,
    /// Writes are held off.
    Protect,
}

/// Memory of a memfd.
#[derive(Debug)]
pub(super) struct Filed {
    guest: GuestRange,
    /// A description of our own, whose position nobody else moves.
    file: File,
    /// Where in it the range begins.
    offset: u64,
    out: Out,
}

impl Filed {
    /// `file` shows at `offset` what the guest range begins with.
    pub(super) fn new(guest: GuestRange, file: &OwnedFd, offset: u64, out: Out) -> Result<Filed, Refusal> {
        // Opened again: the position of the caller's description is the caller's.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Refusal::Proc { what: "/proc/self/fd", source })?;
        Ok(Filed { guest, file, offset, out })
    }

    fn in_file(&self, page: u32) -> u64 {
        self.offset + u64::from(page) * PAGE_SIZE as u64
    }

    /// The first run of pages that the file has at or behind `first`, cut off at `end`.
    fn next_held(&self, first: u32, end: u32) -> io::Result<Option<Range<u32>>> {
        let seek = |page: u32, whence: libc::c_int| {
            // SAFETY: moves the position of our own description, which nobody uses.
            let at = unsafe { libc::lseek(self.file.as_raw_fd(), self.in_file(page) as libc::off_t, whence) };
            if at >= 0 { Ok(at as u64) } else { Err(Errno::last()) }
        };
        let page_of = |at: u64| ((at - self.offset) / PAGE_SIZE as u64).min(u64::from(end)) as u32;
        let start = match seek(first, libc::SEEK_DATA) {
            Ok(at) => page_of(at),
            Err(Errno(libc::ENXIO)) => return Ok(None), // nothing behind it
            Err(errno) => return Err(errno.into()),
        };
        if start >= end {
            return Ok(None);
        }
        Ok(Some(start..page_of(seek(start, libc::SEEK_HOLE)?)))
    }

    fn punch(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, bytes) = (self.in_file(first) as libc::off_t, pages as libc::off_t * PAGE_SIZE as libc::off_t);
        loop {
            // SAFETY: frees pages of the file that the caller owns.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, bytes) } == 0 {
                return Ok(());
            }
            match Errno::last() {
                Errno(libc::EINTR) => {}
                errno => return Err(Obstacle::Failed(errno.0)),
            }
        }
    }

    /// F2: where a page was found, map it. Whoever mapped it meanwhile has done the same.
    fn map_what_is_there(&self, first: u32, installed: Installed) -> Installed {
        if installed.obstacle == Some(Obstacle::There) {
            let page = first + installed.pages;
            match self.guest.map_from_file(page, 1).obstacle {
                None | Some(Obstacle::There) => self.guest.wake(page, 1),
                Some(other) => return Installed { obstacle: Some(other), ..installed },
            }
        }
        installed
    }

    /// Map pages that the file has; those that are mapped already are passed over.
    fn map(&self, first: u32, pages: u32) -> Installed {
        let mut done = 0;
        while done < pages {
            let mapped = self.guest.map_from_file(first + done, pages - done);
            done += mapped.pages;
            match mapped.obstacle {
                None => {}
                Some(Obstacle::There) => {
                    self.guest.wake(first + done, 1);
                    done += 1;
                }
                // Not in the file.
                Some(Obstacle::Failed(libc::EFAULT)) => {
                    return Installed { pages: done, obstacle: Some(Obstacle::Hole) };
                }
                obstacle => return Installed { pages: done, obstacle },
            }
        }
        Installed { pages, obstacle: None }
    }
}

impl Backing for Filed {
    fn register(&self) -> Result<(), Refusal> {
        let need = Ioctls::COPY | Ioctls::ZEROPAGE | Ioctls::WAKE;
        match self.out {
            Out::Zap => self.guest.register(Modes::MISSING | Modes::MINOR, need | Ioctls::CONTINUE),
            Out::Protect => self.guest.register(Modes::MISSING | Modes::MINOR, need | Ioctls::WRITEPROTECT),
        }
    }

    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        let held = match self.next_held(first, first + pages) {
            Ok(Some(run)) if run.start == first => run.len() as u32,
            Ok(_) => 0,
            Err(e) => {
                return TakenOut { moved: 0, obstacle: Some(Obstacle::Failed(e.raw_os_error().unwrap_or(libc::EIO))) };
            }
        };
        let taken = match self.out {
            _ if held == 0 => Ok(()),
            Out::Zap => self.guest.drop_pages(first, held),
            Out::Protect => self.guest.protect(first, held),
        };
        match taken {
            Ok(()) => TakenOut { moved: held, obstacle: (held < pages).then_some(Obstacle::Hole) },
            Err(obstacle) => {
                // Part of it may be out, and nothing is lost by it: it is mapped again when it is touched (F2). Writes must go on, though.
                if self.out == Out::Protect {
                    let _ = self.guest.unprotect(first, held);
                }
                TakenOut { moved: 0, obstacle: Some(obstacle) }
            }
        }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        match self.out {
            Out::Zap => self.map(first, pages),
            Out::Protect => {
                let back = self.guest.unprotect(first, pages);
                // The kernel may have unmapped it meanwhile; what cannot be mapped now is when it is touched (F2).
                let _ = self.map(first, back.pages);
                back
            }
        }
    }

    fn copy_staged(&self, page: u32, to: &mut [u8; PAGE_SIZE]) -> Result<(), Obstacle> {
        let mut read = 0;
        while read < PAGE_SIZE {
            match self.file.read_at(&mut to[read..], self.in_file(page) + read as u64) {
                Ok(0) if read == 0 => return Err(Obstacle::Hole),
                Ok(0) => break, // the file ends in this page
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Obstacle::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
        to[read..].fill(0);
        Ok(())
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.punch(first, pages)
    }

    fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed {
        let installed = self.guest.install(first, from, pages, protected);
        self.map_what_is_there(first, installed)
    }

    fn install_zero(&self, first: u32, pages: u32) -> Installed {
        let installed = self.guest.install_zero(first, pages);
        self.map_what_is_there(first, installed)
    }

    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.punch(first, pages)
    }

    /// The kernel keeps marks of a file's mapping until it is unmapped, whatever is thrown away (6.18), but installs over them: a page of
    /// zeroes first, and that goes. What is written in between goes with it, as what is written just before a discard.
    fn unpoison(&self, page: u32) -> Result<(), Obstacle> {
        match self.guest.install_zero(page, 1).obstacle {
            None | Some(Obstacle::There) => self.punch(page, 1),
            Some(obstacle) => Err(obstacle),
        }
    }

    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        let mut at = first;
        while let Some(run) = self.next_held(at, first + pages)? {
            at = run.end;
            each(run);
            if at == first + pages {
                break;
            }
        }
        Ok(())
    }

    fn shares_zeroes(&self) -> bool {
        false // each is a page of the file
    }

    fn staging(&self) -> Staging {
        Staging::InPlace
    }

    rest_of_backing!(guest);
}
