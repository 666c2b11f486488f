//! Pages that are owned come in together: those of a slot by runs of copies or by a MOVE, staged ones back as they are, and zeroes.
//!
//! ```text
//!   run, owned   [ s s s s s s s s s s ]
//!                  |<- up to 16: loaded into a buffer, one installation ->|      without a free buffer one after the other
//!                  |<- 34 to 64: loaded straight into frames that are moved in ->|
//! ```
//!
//! Each comes from the front: what came is ended, and what is left when something is in the way is as it was.

use super::bits::{KeptSize, State};
use super::bounces::BY_COPY;
use super::owned::{End, Owned};
use super::pages::Pages;
use crate::guest::memory::backing::{Installed, Obstacle};
use crate::units::PAGE_SIZE;
use crate::zswap::LoadedFrom;

/// Fewest pages that are moved in rather than copied: below, each page of a move is a flush of its own.
const BY_MOVE: u32 = 34;

/// How they come.
pub(super) struct How {
    /// Whether to read from devices.
    pub(super) wait: bool,
    /// Whether copies may be kept.
    pub(super) may_keep: bool,
}

/// What came of pages that came in together.
pub(super) struct Came {
    pub(super) pages: u32,
    /// What kept the first from coming in, if that is so.
    first: Option<WhyNot>,
}

/// Whoever wants to know more asks for the page alone.
#[derive(Clone, Copy)]
enum WhyNot {
    Unreadable,
    Obstacle,
}

impl Pages {
    /// Bring stored pages in that are owned and paid for, as many from the first on as can be.
    pub(super) fn come_together(&self, mut run: Owned<'_>, how: &How) -> Came {
        let mut came = Came { pages: 0, first: None };
        while run.len() > 0 && came.first.is_none() {
            let step = if run.len() >= BY_MOVE && !self.shared().kept.is_on() && self.backing().can_move_in(run.len()) {
                self.move_in(&mut run, how)
            } else {
                let copied = self.shared().bounces.with(|buffer| self.copy_in(&mut run, buffer, BY_COPY, how));
                copied.unwrap_or_else(|| {
                    let mut one = [0; PAGE_SIZE];
                    self.copy_in(&mut run, &raw mut one, 1, how)
                })
            };
            came.pages += step.pages;
            came.first = step.first;
        }
        came
    }

    /// Load up to `most` pages into a buffer and install them together.
    fn copy_in(&self, run: &mut Owned<'_>, buffer: *mut [u8; PAGE_SIZE], most: u32, how: &How) -> Came {
        let first = run.first();
        let mut from = [LoadedFrom::Device; BY_COPY as usize];
        let mut kept: [Option<KeptSize>; BY_COPY as usize] = [None; BY_COPY as usize];
        let (mut len, mut why_not) = (0, None);
        for page in first..first + run.len().min(most) {
            // SAFETY: the buffer has room for `most` pages, and is ours for the call.
            let to = unsafe { &mut *buffer.wrapping_add(len) };
            match self.read(page, to, how.wait) {
                Ok(found) => (from[len], len) = (found, len + 1),
                Err(_) => {
                    why_not = Some(WhyNot::Unreadable);
                    break;
                }
            }
        }
        if len == 0 {
            return Came { pages: 0, first: why_not };
        }
        // All protected, or none.
        for (kept, &from) in kept.iter_mut().zip(&from[..len]) {
            *kept = if how.may_keep { self.keep(from) } else { None };
        }
        let protected = kept[..len].iter().all(Option::is_some);
        if !protected {
            kept.iter_mut().for_each(|kept| self.unkeep(kept.take()));
        }
        let done = self.backing().install(first, buffer, len as u32, protected);
        for k in 0..done.pages {
            self.came_in(run, kept[k as usize]);
        }
        kept[done.pages as usize..].iter_mut().for_each(|kept| self.unkeep(kept.take()));
        Came { pages: done.pages, first: self.obstacle(run, &done) }
    }

    /// Load pages straight into frames that are moved in.
    fn move_in(&self, run: &mut Owned<'_>, how: &How) -> Came {
        let first = run.first();
        let mut why_not = None;
        let done = self.backing().move_in(first, run.len(), &mut |page, frame| {
            // SAFETY: a frame of 4096 bytes, ours to fill; every byte pattern is a page.
            match self.read(page, unsafe { &mut *frame }, how.wait) {
                Ok(_) => true,
                Err(_) => {
                    why_not = Some(WhyNot::Unreadable);
                    false
                }
            }
        });
        for _ in 0..done.pages {
            self.came_in(run, None);
        }
        let obstacle = self.obstacle(run, &done);
        let first = if done.pages == 0 { obstacle.or(why_not) } else { obstacle };
        Came { pages: done.pages, first }
    }

    /// The first page that is owned is in the guest range.
    fn came_in(&self, run: &mut Owned<'_>, kept: Option<KeptSize>) {
        let (page, was) = (run.first(), run.was(run.first()));
        self.loaded(page, was.stamp(), kept.is_some());
        self.arrived(was.state(), 1);
        run.end_front(1, End { kept, ..End::at(State::Resident) });
    }

    /// What is in the way of the next page. One that is there already is no obstacle.
    fn obstacle(&self, run: &mut Owned<'_>, done: &Installed) -> Option<WhyNot> {
        match done.obstacle? {
            Obstacle::There => {
                self.came_in(run, None);
                None
            }
            _ => Some(WhyNot::Obstacle),
        }
    }

    /// Put staged pages back that are owned, because they are `wanted` or not. How many, from the first on.
    pub(super) fn put_run_back(&self, mut run: Owned<'_>, wanted: bool) -> u32 {
        let (first, len, mut back) = (run.first(), run.len(), 0);
        while back < len {
            let done = self.backing().put_back(first + back, len - back);
            back += done.pages;
            match done.obstacle {
                None => {}
                // There already, or thrown away behind our back: whoever touches it finds out.
                Some(Obstacle::Hole | Obstacle::There) => back += 1,
                Some(_) => break,
            }
        }
        for page in first..first + back {
            self.forget_copy(page, run.was(page), false); // it can be written from here on
            if wanted {
                self.word(page).set_referenced(true);
            }
        }
        self.arrived(State::Staged, back);
        run.end_front(back, End::at(State::Resident));
        back
    }

    /// Have zeroes where there is nothing. How many pages, from the first on.
    pub(super) fn zero_run(&self, mut run: Owned<'_>) -> u32 {
        let done = self.backing().install_zero(run.first(), run.len());
        self.arrived(State::Absent, done.pages);
        run.end_front(done.pages, End::at(State::Resident));
        done.pages
    }
}
