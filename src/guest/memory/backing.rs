//! [`Backing`]: what the kernel does for the pages of one region, whatever kind of memory it is.
//!
//! ```text
//!                 take_out                    drop_staged
//!     guest range ---------->  staged bytes  ------------->  (frames go back)
//!         ^  ^    <----------                                     |
//!         |  |     put_back                                       |
//!         |  +------- install, install_zero, move_in  <-----------+  (from wherever the bytes were kept)
//!         +---------- protect, unprotect, poison, discard, wake
//! ```
//!
//! | | staged bytes lie | [`Staging`] |
//! |---|---|---|
//! | anonymous memory, by MOVE | at the same index of the shadow range | `Apart` |
//! | anonymous memory, by write protection | in the guest range, write-protected | `InPlace` |
//! | memfd | in the page cache | `InPlace` |
//!
//! What a caller keeps to:
//! - **B1** No call but [`present`](Backing::present), [`wake`](Backing::wake) and [`unshare`](Backing::unshare) without owning the
//!   words of all pages it names.
//! - **B2** Where staging is `Apart`, the shadow place of a page is empty unless the page is Leaving, Staged, Compressing or its
//!   SHADOW flag is set. [`take_out`](Backing::take_out) of a page with SHADOW would throw the compressor's bytes away.
//! - **B3** Where staging is `InPlace`, the staged page *is* the guest's page. So (a) a fault on a Compressing page is served by
//!   [`put_back`](Backing::put_back), as one on a Staged page, and the page needs no new charge; (b) a compressor that lost its page
//!   must not call [`drop_staged`](Backing::drop_staged): it would throw the guest's page away; (c) one that did not lose it goes
//!   Compressing -> Dropping (owned, so that a write fault waits), `drop_staged`, and only then -> Stored.
//! - **B4** Where staging is `InPlace`, a page with SHADOW stays in the guest range, except by who compresses it: who throws it away by a call
//!   waits until the flag is cleared.
//!
//! No call allocates, and all but [`present`](Backing::present) may be made in a signal handler.

use super::Refusal;
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;

/// What the kernel can do for the pages of one region. Pages are numbered from the start of the region.
pub trait Backing: Send + Sync {
    /// Register the range with its descriptor: from here on, accesses to pages that are not there fault. Whoever serves faults must know the
    /// range by now. To be called once, before all else.
    ///
    /// # Errors
    /// When the kernel refuses the range, or another descriptor has it.
    fn register(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Take `pages` pages out of the guest range, from `first` on: the guest's next access to one of them faults. Their words are Leaving.
    ///
    /// Pages before the obstacle are staged, the others are where they were; one with an obstacle stays in the guest range (`Busy`:
    /// pinned, shared after a fork, or its protection differs) or is not there (`Hole`).
    fn take_out(&self, first: u32, pages: u32) -> TakenOut;

    /// Bring staged pages back into the guest range, and wake who waits for them. What is told as back can be written, the others cannot.
    ///
    /// `There`: the guest range has a page in that place, and the staged one stays.
    fn put_back(&self, first: u32, pages: u32) -> Installed;

    /// Where the bytes of a page lie that is Staged or Compressing, where staging is [`Apart`](Staging::Apart). Nobody writes them.
    fn staged(&self, page: u32) -> *const [u8; PAGE_SIZE] {
        unreachable!("page {page} is staged in place, and copied");
    }

    /// Copy the bytes of a page that is staged and owned, or whose SHADOW flag is set. Where a fault has put back one that is staged
    /// [`InPlace`](Staging::InPlace), the guest may be writing it: the copy is worth nothing then, and its maker finds that the page is lost.
    ///
    /// # Errors
    /// `Hole`: it is staged in place, and was thrown away behind our back.
    fn copy_staged(&self, page: u32, to: &mut [u8; PAGE_SIZE]) -> Result<(), Obstacle> {
        // SAFETY: memory of ours, which nobody writes while the page is staged.
        unsafe { std::ptr::copy_nonoverlapping(self.staged(page), to, 1) };
        Ok(())
    }

    /// Give the frames of staged pages back; the guest's next access faults as on a page that is not there.
    ///
    /// # Errors
    /// The obstacle: some of the frames may still be held. Those of a page alone are, and in place it is as it was.
    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Install copies of `pages` pages that lie one after the other at `from`, write-protected where asked, and wake who waits.
    ///
    /// `There` is an obstacle: it was installed meanwhile, and stays as it is. The mark of a poisoned page is none: the page takes its place.
    fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed;

    /// Install pages that read as zero, and wake who waits. The mark of a poisoned page is in the way in private memory, and is `There`.
    fn install_zero(&self, first: u32, pages: u32) -> Installed;

    /// Whether pages of [`install_zero`](Self::install_zero) take no memory before they are written.
    fn shares_zeroes(&self) -> bool {
        true
    }

    /// Whether [`move_in`](Self::move_in) of so many pages has frames at hand, and so costs less than [`install`](Self::install).
    fn can_move_in(&self, pages: u32) -> bool {
        let _ = pages;
        false
    }

    /// Install pages whose bytes `fill` writes, called with the page's number in ascending order, and wake who waits. Where `fill` says false, the
    /// page and those after it are left out, without an obstacle.
    ///
    /// `fill` gets frames that may hold anything and must write all 4096 bytes.
    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut [u8; PAGE_SIZE]) -> bool) -> Installed {
        install_one_by_one(self, first, pages, fill)
    }

    /// Let pages be written again, and wake who waits.
    ///
    /// # Errors
    /// The obstacle.
    fn unprotect(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Have the next write to each page fault (with asynchronous write protection: be noted).
    ///
    /// # Errors
    /// The obstacle.
    fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Have every access to pages that are not there end in SIGBUS, and wake who waits.
    ///
    /// # Errors
    /// The obstacle; `Failed(ENOSYS)` or `Failed(EINVAL)` where the kernel cannot.
    fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Wake who waits for the pages, to fault again. Needs no word.
    fn wake(&self, first: u32, pages: u32);

    /// Drop what the guest range has: the next access faults as on a page that is not there. Staged pages are not touched where
    /// staging is `Apart`.
    ///
    /// # Errors
    /// The obstacle.
    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Take the mark of a poisoned page off: the next access faults as on a page that is not there.
    ///
    /// # Errors
    /// The obstacle.
    fn unpoison(&self, page: u32) -> Result<(), Obstacle> {
        self.discard(page, 1)
    }

    /// Whether pages that are out may be thrown away now; nothing is asked of the kernel.
    ///
    /// # Errors
    /// `Again` while their mapping changes: a child of fork may be about to inherit them.
    fn steady(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        let _ = (first, pages);
        Ok(())
    }

    /// Tell `each` which runs of pages hold something, in ascending order. Needs no word: what moves meanwhile may be told either way.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had.
    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()>;

    /// Tell `each` which runs of pages have something in a staging place of ours, in ascending order: for checks, while nothing moves.
    /// False where there is no such place.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had.
    fn present_apart(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<bool> {
        let _ = (first, pages, each);
        Ok(false)
    }

    /// Unregister the range from the descriptor, and wake everybody who waits. What is not there reads as zero from now on.
    ///
    /// # Errors
    /// What the kernel said.
    fn release(&self) -> io::Result<()>;

    /// Where staged bytes lie: see B3.
    fn staging(&self) -> Staging {
        Staging::Apart
    }

    /// After a fork whose child has ended: make pages that [`take_out`](Self::take_out) calls `Busy` the process's own again, and say how
    /// many were looked at and can be tried again. To be called owning no word: it may fault like a write of the guest's.
    fn unshare(&self, first: u32, pages: u32) -> u32 {
        let _ = (first, pages);
        0
    }
}

/// What the kernel noted of the pages of one region. Needs no word.
pub(crate) trait Marks {
    /// Tell `each` runs of mapped pages that were written since this was asked, and forget it.
    fn take_written(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()>;

    /// Tell `each` runs of pages that are not mapped, and have no mark either.
    fn unmapped(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()>;
}

/// The rest of an `impl Backing` for one that does something before requests of the backing in this field: what it only hands on.
macro_rules! rest_of_inner {
    ($inner:ident) => {
        fn register(&self) -> Result<(), $crate::guest::memory::Refusal> {
            self.$inner.register()
        }

        fn staged(&self, page: u32) -> *const [u8; $crate::units::PAGE_SIZE] {
            self.$inner.staged(page)
        }

        fn copy_staged(
            &self,
            page: u32,
            to: &mut [u8; $crate::units::PAGE_SIZE],
        ) -> Result<(), $crate::guest::memory::backing::Obstacle> {
            self.$inner.copy_staged(page, to)
        }

        fn wake(&self, first: u32, pages: u32) {
            self.$inner.wake(first, pages);
        }

        fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(std::ops::Range<u32>)) -> std::io::Result<()> {
            self.$inner.present(first, pages, each)
        }

        fn present_apart(
            &self,
            first: u32,
            pages: u32,
            each: &mut dyn FnMut(std::ops::Range<u32>),
        ) -> std::io::Result<bool> {
            self.$inner.present_apart(first, pages, each)
        }

        fn release(&self) -> std::io::Result<()> {
            self.$inner.release()
        }

        fn staging(&self) -> $crate::guest::memory::backing::Staging {
            self.$inner.staging()
        }

        fn unshare(&self, first: u32, pages: u32) -> u32 {
            self.$inner.unshare(first, pages)
        }
    };
}
pub(crate) use rest_of_inner;

/// Install pages one by one from a bounce page on the stack: [`Backing::move_in`] of those who know no better way.
pub fn install_one_by_one<B: Backing + ?Sized>(
    backing: &B,
    first: u32,
    pages: u32,
    fill: &mut dyn FnMut(u32, *mut [u8; PAGE_SIZE]) -> bool,
) -> Installed {
    let mut bounce = [0u8; PAGE_SIZE];
    for done in 0..pages {
        if !fill(first + done, &raw mut bounce) {
            return Installed { pages: done, obstacle: None };
        }
        let one = backing.install(first + done, &raw const bounce, 1, false);
        if one.pages == 0 {
            return Installed { pages: done, obstacle: one.obstacle };
        }
    }
    Installed { pages, obstacle: None }
}

/// Where the bytes of staged pages lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Staging {
    /// In memory of ours: the guest's page and the staged one are two.
    Apart,
    /// In the guest's own page.
    InPlace,
}

/// What [`Backing::take_out`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct TakenOut {
    /// Pages that are staged now, from the first on.
    pub moved: u32,
    /// What is the matter with the page after them; `None` when all are staged.
    pub obstacle: Option<Obstacle>,
}

/// What [`Backing::install`] and its like did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Installed {
    /// Pages installed, from the first on.
    pub pages: u32,
    /// What is the matter with the page after them.
    pub obstacle: Option<Obstacle>,
}

impl Installed {
    /// Whether all were.
    ///
    /// # Errors
    /// The obstacle.
    pub fn all(self) -> Result<(), Obstacle> {
        self.obstacle.map_or(Ok(()), Err)
    }
}

/// Why the kernel did not do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// EBUSY: somebody else holds the page.
    Busy,
    /// ENOENT: there is no page.
    Hole,
    /// EEXIST: there is a page already.
    There,
    /// EAGAIN: the mapping is changing. Read the descriptor's events, then try again.
    Again,
    /// The range or the process is gone.
    Gone,
    /// Something else, by its number.
    Failed(i32),
}
