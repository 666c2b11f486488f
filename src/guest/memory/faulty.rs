//! [`Faulty`]: another backing, with failures on cue. For tests.
//!
//! ```text
//!   caller -- install of page 5 --> Faulty -- cue: the 3rd install says Busy --> (nothing reaches the kernel)
//!                                          -- no cue ------------------------> the backing
//! ```

use super::backing::{Backing, Installed, Obstacle, TakenOut, rest_of_inner};
use crate::sync::{Mutex, Rank};
use crate::units::PAGE_SIZE;

/// The calls that can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the trait's
pub enum Call {
    TakeOut,
    PutBack,
    DropStaged,
    Install,
    InstallZero,
    MoveIn,
    Protect,
    Unprotect,
    Poison,
    Discard,
}

/// One failure, or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cue {
    call: Call,
    /// Only calls about this page, or that come to it; `None`: any.
    page: Option<u32>,
    /// So many calls go well first.
    after: u32,
    /// So many fail then.
    times: u32,
    obstacle: Obstacle,
}

/// A backing that fails where it was told to.
pub struct Faulty {
    inner: Box<dyn Backing>,
    cues: Mutex<Vec<Cue>>,
    failed: Mutex<u32>,
}

impl Faulty {
    /// One that does what `inner` does.
    pub fn new(inner: Box<dyn Backing>) -> Faulty {
        Faulty { inner, cues: Mutex::new(Rank::Leaf, Vec::new()), failed: Mutex::new(Rank::Leaf, 0) }
    }

    /// Let `times` calls fail, after `after` that go well.
    pub fn fail(&self, call: Call, after: u32, times: u32, obstacle: Obstacle) {
        self.cues.lock().push(Cue { call, page: None, after, times, obstacle });
    }

    /// Let `times` calls fail at `page`: what lies before it in the same call is done.
    pub fn fail_at(&self, call: Call, page: u32, times: u32, obstacle: Obstacle) {
        self.cues.lock().push(Cue { call, page: Some(page), after: 0, times, obstacle });
    }

    /// How many calls failed by cue.
    pub fn failed(&self) -> u32 {
        *self.failed.lock()
    }

    /// Whether a call fails: after how many of its pages, and how.
    fn cue(&self, call: Call, first: u32, pages: u32) -> Option<(u32, Obstacle)> {
        let mut cues = self.cues.lock();
        for cue in cues.iter_mut().filter(|cue| cue.call == call && cue.times > 0) {
            let before = match cue.page {
                Some(page) if (first..first + pages).contains(&page) => page - first,
                Some(_) => continue,
                None => 0,
            };
            if cue.after > 0 {
                cue.after -= 1;
                continue;
            }
            cue.times -= 1;
            let failure = (before, cue.obstacle);
            drop(cues);
            *self.failed.lock() += 1;
            return Some(failure);
        }
        None
    }

    fn all_or_nothing(
        &self,
        call: Call,
        first: u32,
        pages: u32,
        inner: impl Fn(u32) -> Result<(), Obstacle>,
    ) -> Result<(), Obstacle> {
        match self.cue(call, first, pages) {
            None => inner(pages),
            Some((before, obstacle)) => {
                if before > 0 {
                    inner(before)?;
                }
                Err(obstacle)
            }
        }
    }

    fn partly(&self, call: Call, first: u32, pages: u32, mut inner: impl FnMut(u32) -> Installed) -> Installed {
        match self.cue(call, first, pages) {
            None => inner(pages),
            Some((0, obstacle)) => Installed { pages: 0, obstacle: Some(obstacle) },
            Some((before, obstacle)) => match inner(before) {
                Installed { pages, obstacle: None } if pages == before => Installed { pages, obstacle: Some(obstacle) },
                other => other,
            },
        }
    }
}

impl Backing for Faulty {
    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        let as_installed = |pages| {
            let taken = self.inner.take_out(first, pages);
            Installed { pages: taken.moved, obstacle: taken.obstacle }
        };
        let done = self.partly(Call::TakeOut, first, pages, as_installed);
        TakenOut { moved: done.pages, obstacle: done.obstacle }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        self.partly(Call::PutBack, first, pages, |pages| self.inner.put_back(first, pages))
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::DropStaged, first, pages, |pages| self.inner.drop_staged(first, pages))
    }

    fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed {
        self.partly(Call::Install, first, pages, |pages| self.inner.install(first, from, pages, protected))
    }

    fn install_zero(&self, first: u32, pages: u32) -> Installed {
        self.partly(Call::InstallZero, first, pages, |pages| self.inner.install_zero(first, pages))
    }

    fn can_move_in(&self, pages: u32) -> bool {
        self.inner.can_move_in(pages)
    }

    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut [u8; PAGE_SIZE]) -> bool) -> Installed {
        self.partly(Call::MoveIn, first, pages, |pages| self.inner.move_in(first, pages, fill))
    }

    fn unprotect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::Unprotect, first, pages, |pages| self.inner.unprotect(first, pages))
    }

    fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::Protect, first, pages, |pages| self.inner.protect(first, pages))
    }

    fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::Poison, first, pages, |pages| self.inner.poison(first, pages))
    }

    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::Discard, first, pages, |pages| self.inner.discard(first, pages))
    }

    fn unpoison(&self, page: u32) -> Result<(), Obstacle> {
        self.all_or_nothing(Call::Discard, page, 1, |_| self.inner.unpoison(page))
    }

    fn shares_zeroes(&self) -> bool {
        self.inner.shares_zeroes()
    }

    rest_of_inner!(inner);
}
