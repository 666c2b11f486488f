//! [`Backing`]: what the kernel does for the pages of one region, whatever kind of memory it is.
//!
//! ```text
//!                 take_out                        drop_staged
//!   guest range ------------> staging place ------------------> nothing
//!       ^  ^                       |                               |
//!       |  +------ put_back -------+                               |
//!       +--------- install, install_zero, move_in -----------------+
//! ```
//!
//! Pages are named by their index in the region. Who calls owns the words of the pages, so that no two requests about one page
//! are under way. Requests go from the first page on and stop at an obstacle: what came before it is done.

use std::io;
use std::ops::Range;

/// A page of memory that is not ours: read and written through pointers only.
pub(crate) type RawPage = [u8; 4096];

/// What stopped a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// EBUSY: the page is pinned by the kernel, or shared with a forked child. It stays.
    Busy,
    /// ENOENT: there is no page where one was to be taken from.
    Hole,
    /// EEXIST: there is a page where one was to be put.
    There,
    /// EAGAIN: the address space is changing; events have to be read first.
    Again,
    /// ENOENT or ESRCH: the range is not registered any more, or its process is gone.
    Gone,
    /// Another error, by its number.
    Failed(i32),
}

/// How far [`Backing::take_out`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TakenOut {
    /// Pages that are in the staging place now, from the first on.
    pub(crate) moved: u32,
    /// What is in the way at the page after them.
    pub(crate) obstacle: Option<Obstacle>,
}

/// How far an installation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Pages that are in the guest range now, from the first on.
    pub(crate) pages: u32,
    /// What is in the way at the page after them.
    pub(crate) obstacle: Option<Obstacle>,
}

/// The kernel's side of a region. No method allocates, takes a lock that is held over guest memory, or touches the guest range
/// itself but by asking the kernel.
pub(crate) trait Backing: Send + Sync {
    /// Take pages that are in the guest range out of it, to the staging place. Their words are Leaving.
    fn take_out(&self, first: u32, pages: u32) -> TakenOut;

    /// Put staged pages back where they were, and wake who waits for them.
    ///
    /// # Errors
    /// Where an obstacle is met; none, or some, of the pages are back: what is, is not staged.
    fn put_back(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Where a staged page can be read, for as long as it is staged.
    fn staged(&self, page: u32) -> *const RawPage;

    /// Whether a staged page lies where it would be installed (in place, or in the page cache of a file): then dropping what is
    /// staged and installing a page are about the same memory, and exclude each other.
    fn in_place(&self) -> bool {
        false
    }

    /// Give the frames of staged pages back. Where nothing is staged it does nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Copy pages into the guest range, write-protected if asked for, and wake who waits for them.
    fn install(&self, first: u32, from: *const RawPage, pages: u32, protected: bool) -> Installed;

    /// Have pages of zeroes in the guest range, and wake who waits for them.
    fn install_zero(&self, first: u32, pages: u32) -> Installed;

    /// Have `fill` write pages into frames that then become the guest's. Where it says no, it ends before that page.
    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut RawPage) -> bool) -> Installed {
        let mut bounce = crate::units::Page::zeroed();
        for k in 0..pages {
            if !fill(first + k, &raw mut bounce.0) {
                return Installed { pages: k, obstacle: None };
            }
            let one = self.install(first + k, &raw const bounce.0, 1, false);
            if one.pages == 0 {
                return Installed { pages: k, obstacle: one.obstacle };
            }
        }
        Installed { pages, obstacle: None }
    }

    /// Let pages be written again, and wake who waits to.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn unprotect(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Have writes to pages fault.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Have touches of pages that are not there raise SIGBUS, and wake who waits for them.
    ///
    /// # Errors
    /// When the kernel refuses, or knows no such thing.
    fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Have who waits for pages touch them again.
    fn wake(&self, first: u32, pages: u32);

    /// Drop pages of the guest range, poison marks with them: they are missing afterwards.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle>;

    /// Say which pages are in the guest range, in order.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()>;

    /// Unregister the range: missing pages are the kernel's business from here on.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn release(&self) -> io::Result<()>;
}
