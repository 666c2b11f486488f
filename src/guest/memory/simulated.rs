//! [`Simulated`]: a guest range and its staging place without a kernel, for models and unit tests.
//!
//! ```text
//!   apart     guest   [ 7  .  9w .  x ]     a token a page: what it holds; w protected, x poisoned
//!             shadow  [ .  3  .  .  . ]     real bytes, of which the first eight are the token
//!
//!   in place  file    [ 7  3  9  .  . ]     and which of them are mapped: 7 and 9
//! ```
//!
//! Each request, and each access of the guest's, is one step under one lock, as the kernel's lock of an address space makes it.
//! Staged bytes are read without it.
//!
//! Where a [`Paint`] is given, all bytes of a page follow from its token, and are compared when a page comes in.

pub(crate) mod changing;

use super::Refusal;
use super::backing::{Backing, Installed, Obstacle, Staging, TakenOut};
use crate::guest::uffd::Event;
use crate::sync::{Arc, Mutex, Rank};
use crate::units::PAGE_SIZE;
use std::cell::UnsafeCell;
use std::io;
use std::ops::Range;

/// Why an access of the guest's does not go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// There is no page.
    Missing,
    /// It is protected, and this is a write.
    Protected,
    /// It is poisoned.
    Poisoned,
}

/// Makes the bytes of a page of its token, which are the first eight of them. Of 0 it makes zeroes.
pub type Paint = fn(u64, &mut [u8; PAGE_SIZE]);

/// One page of the guest range.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// What it holds, if it is there.
    token: Option<u64>,
    /// In place: whether the guest sees it.
    mapped: bool,
    protected: bool,
    poisoned: bool,
    /// The kernel will not move it.
    pinned: bool,
    /// Apart: whether there is a page in the shadow.
    staged: bool,
    /// Threads wait here in the kernel.
    waited_for: bool,
    /// What other memory holds that is mapped here by now, and not registered.
    other: Option<u64>,
    /// Written since the kernel was asked for its marks.
    written: bool,
    /// Somebody else threw it away.
    vanished: bool,
}

/// What requests fail with, on cue.
#[derive(Debug, Default)]
struct Cue {
    /// So many installations, of pages or of poison, still find the address space changing.
    again: u32,
    /// Whoever puts this page back, or drops its frame, finds it changing; and so do so many requests of that kind.
    refused: Option<(u32, u32)>,
    refusing: u32,
    /// Threads that change mappings, and have not gone on.
    changing: u32,
    /// What those say, and nobody has read.
    unread: Vec<Event>,
    /// The range is not registered yet.
    unknown: bool,
}

/// A guest range without a kernel. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Simulated {
    staging: Staging,
    state: Arc<Mutex<State>>,
    /// Bytes of staged pages: in the shadow, or in the file.
    bytes: Arc<Vec<StagedBytes>>,
    /// Without one, only the first bytes of a page are written, and looked at.
    paint: Option<Paint>,
}

/// All pages, and what requests are to come to.
type State = (Vec<Place>, Cue);

struct StagedBytes(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: the cell can be sent with its contents.
unsafe impl Send for StagedBytes {}
// SAFETY: staged bytes are written under the lock, and read by who owns the page; that is the protocol which models check by what
// they read.
unsafe impl Sync for StagedBytes {}

impl Simulated {
    /// So many pages, none there.
    pub(crate) fn new(pages: u32, staging: Staging) -> Self {
        let state = Mutex::new(Rank::Leaf, (vec![Place::default(); pages as usize], Cue::default()));
        let bytes = (0..pages).map(|_| StagedBytes(UnsafeCell::new([0; PAGE_SIZE]))).collect();
        Simulated { staging, state: Arc::new(state), bytes: Arc::new(bytes), paint: None }
    }

    /// The same, with pages of which every byte means something.
    #[allow(dead_code, reason = "loom's models have tokens alone")]
    pub(crate) fn painted(self, paint: Paint) -> Self {
        Simulated { paint: Some(paint), ..self }
    }

    /// What a page of bytes says.
    ///
    /// # Panics
    /// When it is painted, and the rest of it is another page's.
    fn token(&self, bytes: *const [u8; PAGE_SIZE]) -> u64 {
        // SAFETY: who calls gives a page that can be read; eight bytes of it.
        let token = unsafe { bytes.cast::<u64>().read_unaligned() };
        if let Some(paint) = self.paint {
            let mut expected = [0; PAGE_SIZE];
            paint(token, &mut expected);
            // SAFETY: as above, and all of it.
            let same = unsafe { &*bytes } == &expected;
            assert!(same, "a page begins as that of token {token:#x}, and goes on as another");
        }
        token
    }

    fn set_bytes(&self, page: u32, token: u64) {
        let to = self.bytes[page as usize].0.get();
        match self.paint {
            // SAFETY: under the lock; a reader that this races with reads what it must not, which the model sees.
            None => unsafe { to.cast::<u64>().write_unaligned(token) },
            Some(paint) => {
                let mut bytes = [0; PAGE_SIZE];
                paint(token, &mut bytes);
                // SAFETY: as above.
                unsafe { to.write(bytes) };
            }
        }
    }

    /// The guest reads a page.
    pub(crate) fn read(&self, page: u32) -> Result<u64, Trap> {
        self.access(page, false, |token| *token)
    }

    /// The guest writes a page.
    pub(crate) fn write(&self, page: u32, token: u64) -> Result<(), Trap> {
        self.access(page, true, |there| *there = token)?;
        Ok(())
    }

    fn access<R>(&self, page: u32, write: bool, f: impl FnOnce(&mut u64) -> R) -> Result<R, Trap> {
        let mut state = self.state.lock();
        let place = &mut state.0[page as usize];
        if place.poisoned {
            return Err(Trap::Poisoned);
        }
        let mapped = place.mapped;
        let Some(token) = place.token.as_mut().filter(|_| mapped) else { return Err(Trap::Missing) };
        if write && place.protected {
            return Err(Trap::Protected);
        }
        let result = f(token);
        place.written |= write;
        if write && self.staging == Staging::InPlace {
            let token = *token;
            self.set_bytes(page, token);
        }
        Ok(result)
    }

    /// The guest has written a page before the range was registered.
    pub(crate) fn occupy(&self, page: u32, token: u64) {
        let place = &mut self.state.lock().0[page as usize];
        (place.token, place.mapped) = (Some(token), true);
    }

    /// The range is not registered, until it is.
    pub(crate) fn set_unknown(&self) {
        self.state.lock().1.unknown = true;
    }

    /// Somebody throws a page away without telling.
    pub(crate) fn vanish(&self, page: u32) {
        let place = &mut self.state.lock().0[page as usize];
        (place.token, place.mapped, place.protected) = (None, false, false);
        (place.other, place.written, place.vanished) = (None, false, true);
    }

    /// A thread faults and waits in the kernel, unless it can go on by now. Whether it waits.
    pub(crate) fn enqueue(&self, page: u32, write: bool) -> bool {
        let place = &mut self.state.lock().0[page as usize];
        place.waited_for = !place.poisoned && (place.token.is_none() || !place.mapped || write && place.protected);
        place.waited_for
    }

    /// Whether nobody has woken it yet.
    pub(crate) fn is_waited_for(&self, page: u32) -> bool {
        self.state.lock().0[page as usize].waited_for
    }

    /// The kernel pins a page, or lets it go.
    pub(crate) fn set_pinned(&self, page: u32, pinned: bool) {
        self.state.lock().0[page as usize].pinned = pinned;
    }

    /// From this page on, so many requests to put pages back, or to drop their frames, find the address space changing.
    pub(crate) fn set_refused(&self, page: u32, times: u32) {
        self.state.lock().1.refused = Some((page, times));
    }

    /// So many installations find the address space changing.
    pub(crate) fn set_again(&self, times: u32) {
        self.state.lock().1.again = times;
    }

    /// One page after the other, until one is in the way.
    fn each(
        &self,
        first: u32,
        pages: u32,
        mut step: impl FnMut(u32, &mut Place, &mut Cue) -> Result<(), Obstacle>,
    ) -> (u32, Option<Obstacle>) {
        let mut state = self.state.lock();
        let (places, cue) = &mut *state;
        for page in first..first + pages {
            if let Err(obstacle) = step(page, &mut places[page as usize], cue) {
                return (page - first, Some(obstacle));
            }
        }
        (pages, None)
    }

    fn put(&self, page: u32, place: &mut Place, cue: &mut Cue, token: u64, protected: bool) -> Result<(), Obstacle> {
        cue.again()?;
        if place.other.is_some() || cue.unknown {
            return Err(Obstacle::Gone);
        }
        if place.token.is_some() {
            return Err(Obstacle::There);
        }
        (place.token, place.mapped, place.protected, place.poisoned) = (Some(token), true, protected, false);
        (place.waited_for, place.written, place.vanished) = (false, true, false);
        if self.staging == Staging::InPlace {
            self.set_bytes(page, token);
        }
        Ok(())
    }
}

impl Cue {
    /// While somebody changes mappings, nothing comes in or leaves.
    fn unchanging(&self) -> Result<(), Obstacle> {
        if self.changing > 0 { Err(Obstacle::Again) } else { Ok(()) }
    }

    fn refuses(&mut self, page: u32) -> bool {
        if let Some((_, times)) = self.refused.take_if(|(at, _)| *at == page) {
            self.refusing = times;
        }
        let refuses = self.refusing > 0;
        self.refusing -= u32::from(refuses);
        refuses
    }

    fn again(&mut self) -> Result<(), Obstacle> {
        self.unchanging()?;
        if self.again > 0 {
            self.again -= 1;
            return Err(Obstacle::Again);
        }
        Ok(())
    }
}

fn all((_, obstacle): (u32, Option<Obstacle>)) -> Result<(), Obstacle> {
    obstacle.map_or(Ok(()), Err)
}

impl Backing for Simulated {
    fn register(&self) -> Result<(), Refusal> {
        self.state.lock().1.unknown = false;
        Ok(())
    }

    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        let (moved, obstacle) = self.each(first, pages, |page, place, cue| {
            cue.unchanging()?;
            assert_eq!(place.other, None, "page {page} was taken, which is not registered");
            if place.pinned {
                return Err(Obstacle::Busy);
            }
            let token = place.token.filter(|_| place.mapped).ok_or(Obstacle::Hole)?;
            (place.mapped, place.protected, place.written) = (false, false, false);
            if self.staging == Staging::Apart {
                assert!(!place.staged, "the shadow place of page {page} was not empty");
                (place.token, place.staged) = (None, true);
                self.set_bytes(page, token);
            }
            Ok(())
        });
        TakenOut { moved, obstacle }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        let (pages, obstacle) = self.each(first, pages, |page, place, cue| match self.staging {
            _ if cue.refuses(page) => Err(Obstacle::Again),
            Staging::InPlace => {
                cue.unchanging()?;
                place.token.ok_or(Obstacle::Hole)?;
                place.written |= !place.mapped; // it is mapped without a mark
                (place.mapped, place.protected, place.waited_for) = (true, false, false);
                Ok(())
            }
            Staging::Apart if !place.staged => Err(Obstacle::Hole),
            Staging::Apart => {
                let token = self.token(self.bytes[page as usize].0.get());
                self.put(page, place, cue, token, false)?;
                place.staged = false;
                self.set_bytes(page, 0);
                Ok(())
            }
        });
        Installed { pages, obstacle }
    }

    fn staged(&self, page: u32) -> *const [u8; PAGE_SIZE] {
        self.bytes[page as usize].0.get()
    }

    fn copy_staged(&self, page: u32, to: &mut [u8; PAGE_SIZE]) -> Result<(), Obstacle> {
        let state = self.state.lock();
        let place = &state.0[page as usize];
        if self.staging == Staging::InPlace && place.token.is_none() {
            assert!(place.vanished, "page {page} was thrown away while it was read in place");
            return Err(Obstacle::Hole);
        }
        // SAFETY: staged bytes of ours, which nobody writes without the lock.
        unsafe { to.as_mut_ptr().cast::<[u8; PAGE_SIZE]>().copy_from_nonoverlapping(self.staged(page), 1) };
        Ok(())
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        all(self.each(first, pages, |page, place, cue| {
            match self.staging {
                _ if cue.refuses(page) => return Err(Obstacle::Again),
                Staging::Apart => place.staged = false,
                Staging::InPlace => (place.token, place.mapped) = (None, false),
            }
            self.set_bytes(page, 0);
            Ok(())
        }))
    }

    fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed {
        let (pages, obstacle) = self.each(first, pages, |page, place, cue| {
            // SAFETY: the caller gives as many pages as it names.
            let token = self.token(unsafe { from.add((page - first) as usize) });
            self.put(page, place, cue, token, protected)
        });
        Installed { pages, obstacle }
    }

    fn install_zero(&self, first: u32, pages: u32) -> Installed {
        let (pages, obstacle) = self.each(first, pages, |page, place, cue| match place.poisoned {
            true => Err(Obstacle::There),
            false => self.put(page, place, cue, 0, false),
        });
        Installed { pages, obstacle }
    }

    fn unprotect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        all(self.each(first, pages, |_, place, cue| {
            cue.unchanging()?;
            (place.protected, place.waited_for) = (false, false);
            Ok(())
        }))
    }

    fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        all(self.each(first, pages, |_, place, cue| {
            cue.unchanging()?;
            place.protected = true;
            Ok(())
        }))
    }

    fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        all(self.each(first, pages, |_, place, cue| {
            cue.again()?;
            if place.token.is_some() {
                return Err(Obstacle::There);
            }
            (place.poisoned, place.waited_for) = (true, false);
            Ok(())
        }))
    }

    fn wake(&self, first: u32, pages: u32) {
        let _ = self.each(first, pages, |_, place, _| {
            place.waited_for = false;
            Ok(())
        });
    }

    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        all(self.each(first, pages, |page, place, _| {
            (place.token, place.mapped, place.protected, place.poisoned) = (None, false, false, false);
            if self.staging == Staging::InPlace {
                self.set_bytes(page, 0);
            }
            Ok(())
        }))
    }

    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        for page in first..first + pages {
            if self.state.lock().0[page as usize].token.is_some() {
                each(page..page + 1);
            }
        }
        Ok(())
    }

    fn present_apart(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<bool> {
        for page in first..first + pages {
            if self.state.lock().0[page as usize].staged {
                each(page..page + 1);
            }
        }
        Ok(self.staging == Staging::Apart)
    }

    fn release(&self) -> io::Result<()> {
        for place in &mut self.state.lock().0 {
            if place.token.is_none() && !place.poisoned {
                (place.token, place.mapped) = (Some(0), true); // the kernel's zeroes, when it is touched
            }
            place.protected = false;
        }
        Ok(())
    }

    fn staging(&self) -> Staging {
        self.staging
    }
}
