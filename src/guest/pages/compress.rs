//! Staged pages become slots' content, one after the other; their frames go back together.
//!
//! ```text
//!   1. Staged -> Compressing|shadow, compressed into its slot    meanwhile a fault may take the page away: Filling|shadow
//!   2. Compressing -> Dropping: ours          ... or lost: what was stored is given back; then the frame is left to who
//!   3. frames of runs that are ours go back        fills the page, or given back; then shadow is cleared
//!   4. Dropping -> Stored
//!
//!   not smaller    2. Compressing -> Filling: ours    3. put back    4. Filling -> Resident, stiff: left alone for a while
//! ```
//!
//! Nothing is owned while a page is compressed: a fault never waits for the codec. What is compressed is memory that nobody
//! writes: a staged page lies in memory of ours; or, where it is staged in place, it is copied first, as a fault puts it back.

use super::bits::{Bits, MAX_BAN, State};
use super::outcomes::Compressed;
use super::owned::{End, Owned, TOGETHER};
use super::pages::Pages;
use super::ports::{Count, Effort, Gauge, Why};
use super::word::{Frame, Through};
use crate::guest::memory::backing::{Obstacle, Staging};
use crate::sync::Bug;
use crate::units::PAGE_SIZE;
use crate::zswap::{Error, Unwritable};
use std::io;

/// What became of a page in step 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Nothing was to be done.
    None,
    /// Begun, and not stored: the charge is ours.
    Begun,
    /// Stored, which the charge has become.
    Stored,
    /// Its slot had an equal copy; the charge is ours.
    Clean,
    /// It does not shrink, and no device takes it; the charge is ours.
    Stiff,
    /// Staged in place, and thrown away there behind our back; the charge is ours.
    Vanished,
}

/// Pages of a run that this thread compresses. Dropped, also by a panic of the codec's, they are staged again.
struct Batch<'a> {
    pages: &'a Pages,
    first: u32,
    len: u32,
    work: [Work; TOGETHER as usize],
    /// What was stored takes so many bytes.
    slot_bytes: [u16; TOGETHER as usize],
}

impl Pages {
    /// Compress those of up to 64 pages that are staged.
    pub(crate) fn compress_run(&self, first: u32, len: u32, effort: Effort) -> Compressed {
        let mut done = Compressed::default();
        let (work, slot_bytes) = ([Work::None; TOGETHER as usize], [0; TOGETHER as usize]);
        let mut batch = Batch { pages: self, first, len: len.min(TOGETHER), work, slot_bytes };
        for page in first..first + len.min(TOGETHER) {
            match self.word(page).compress() {
                Some(was) => batch.store(page, was, effort, &mut done),
                None => {
                    done.back += 1;
                    // Whoever is at it may leave it staged: it must not fall out of the queue. (Leaving pages join it by themselves.)
                    if matches!(self.word(page).load().state(), State::Filling | State::Dropping | State::Staged) {
                        self.shared().regions.push_again(self.id(), page, 1);
                    }
                }
            }
            if done.refused > 0 {
                // The rest waits for room.
                self.shared().regions.push_again(self.id(), page, first + len - page);
                break;
            }
        }
        batch.finish(&mut done);
        self.shared().observer.count(Count::PutAway, done.pages);
        done
    }
}

impl<'a> Batch<'a> {
    fn work(&mut self, page: u32) -> &mut Work {
        &mut self.work[(page - self.first) as usize]
    }

    /// Step 1 for a page that is Compressing now.
    fn store(&mut self, page: u32, was: Bits, effort: Effort, done: &mut Compressed) {
        let (pages, shared) = (self.pages, self.pages.shared());
        if was.is_kept() {
            // In place it may have been thrown away behind our back, and must not come back from its copy.
            let gone = pages.backing().staging() == Staging::InPlace && matches!(pages.is_there(page), Ok(false));
            *self.work(page) = if gone { Work::Vanished } else { Work::Clean };
            return;
        }
        *self.work(page) = Work::Begun;
        let mut copy;
        let bytes = match pages.backing().staging() {
            // SAFETY: the staged page lies in memory of ours, where it stays while `shadow` is set and nobody writes it.
            Staging::Apart => unsafe { &*pages.backing().staged(page) },
            Staging::InPlace => {
                copy = [0; PAGE_SIZE];
                match pages.backing().copy_staged(page, &mut copy) {
                    Ok(()) => &copy,
                    Err(Obstacle::Hole) => return *self.work(page) = Work::Vanished,
                    Err(_) => return *self.work(page) = Work::Stiff, // it stays where it is
                }
            }
        };
        match shared.store.put_away(pages.slot(page), &*shared.purse, bytes, effort) {
            Ok(stored) => {
                *self.work(page) = Work::Stored;
                self.slot_bytes[(page - self.first) as usize] = stored.slot_bytes() as u16;
            }
            Err(Error::Incompressible { reason, .. }) if reason != Unwritable::NotTried => {
                *self.work(page) = Work::Stiff;
            }
            Err(error) => {
                *self.work(page) = Work::None;
                let later = matches!(error, Error::Incompressible { .. });
                if !later {
                    shared.observer.count(Count::Refused, 1);
                }
                match pages.word(page).not_compressed() {
                    Through::Mine if later => {
                        done.later += 1;
                        shared.regions.push_again(pages.id(), page, 1);
                    }
                    Through::Mine => done.refused += 1,
                    Through::Lost => {
                        done.back += 1;
                        shared.purse.uncharge(1);
                        pages.give_frame_up(page);
                    }
                }
            }
        }
    }

    /// Steps 2 to 4.
    fn finish(mut self, done: &mut Compressed) {
        let (pages, shared) = (self.pages, self.pages.shared());
        let mut run = Owned::none(pages, self.first);
        let mut stiff = Owned::none(pages, self.first);
        for page in self.first..self.first + self.len {
            let work = std::mem::replace(self.work(page), Work::None);
            let mine = match work {
                Work::None => false,
                Work::Begun => unreachable!("each was stored, or refused"),
                Work::Stored => match pages.word(page).compressed() {
                    Through::Mine => true,
                    Through::Lost => {
                        // Before `shadow` is cleared: after that the page may be stored again.
                        if !shared.planted.is(Bug::LostKeepsSlot) {
                            shared.store.give_back(pages.slot(page));
                        }
                        shared.observer.count(Count::Wasted, 1);
                        false
                    }
                },
                Work::Clean => match pages.word(page).compressed() {
                    Through::Mine => {
                        shared.observer.count(Count::PutAwayClean, 1);
                        true
                    }
                    Through::Lost => {
                        shared.purse.uncharge(1);
                        false
                    }
                },
                Work::Vanished => {
                    self.drop_frames(&mut run, page + 1, done);
                    self.vanished(page, done);
                    continue;
                }
                Work::Stiff => match pages.word(page).not_shrunk() {
                    Through::Mine => {
                        if stiff.first() + stiff.len() != page {
                            done.stayed += pages.put_stiff_back(&mut stiff, page);
                        }
                        stiff.push(pages.word(page).load().as_staged());
                        self.drop_frames(&mut run, page + 1, done);
                        continue;
                    }
                    Through::Lost => {
                        if !shared.planted.is(Bug::StiffKeepsCharge) {
                            shared.purse.uncharge(1);
                        }
                        false
                    }
                },
            };
            if mine {
                // What to do if it is not stored after all, which only a panic below could bring about.
                run.push(pages.word(page).load().as_staged());
                if work == Work::Clean {
                    pages.unkeep(run.was(page).kept());
                }
                continue;
            }
            self.drop_frames(&mut run, page + 1, done);
            if work != Work::None {
                done.back += 1;
                pages.give_frame_up(page);
            }
        }
        self.drop_frames(&mut run, self.first, done);
        done.stayed += pages.put_stiff_back(&mut stiff, self.first);
    }

    /// A page that could not be read: it is nowhere, unless somebody took it away.
    fn vanished(&self, page: u32, done: &mut Compressed) {
        let (pages, shared) = (self.pages, self.pages.shared());
        shared.purse.uncharge(1);
        match pages.word(page).compressed() {
            Through::Mine => {
                shared.observer.count(Count::Vanished, 1);
                shared.observer.change(Gauge::Staged, -1);
                done.won += PAGE_SIZE as u64;
                let was = pages.word(page).load().as_staged();
                pages.forget_copy(page, was, false);
                Owned::one(pages, page, was).end_front(1, End::at(State::Absent));
            }
            Through::Lost => {
                done.back += 1;
                pages.give_frame_up(page);
            }
        }
    }

    /// Steps 3 and 4 for the pages that are owned; the next run begins at `next`.
    fn drop_frames(&self, run: &mut Owned<'a>, next: u32, done: &mut Compressed) {
        let mut run = std::mem::replace(run, Owned::none(self.pages, next));
        let (backing, len) = (self.pages.backing(), run.len());
        if len == 0 {
            return;
        }
        // A frame in a place of ours that the kernel does not take back is zapped when it is in the way.
        if backing.drop_staged(run.first(), len).is_ok() || backing.staging() == Staging::Apart {
            return self.stored(&mut run, len, done);
        }
        // In place it is the guest's page: what is there still must not be in two places, and what is gone must be in its slot.
        while run.len() > 0 {
            match self.drop_one(run.first()) {
                Ok(()) => self.stored(&mut run, 1, done),
                Err(obstacle) => self.left_in_place(&mut run, obstacle, done),
            }
        }
    }

    /// Drop a page in place that may be gone by now. Where the kernel does not tell it counts as gone.
    fn drop_one(&self, page: u32) -> Result<(), Obstacle> {
        if !matches!(self.pages.is_there(page), Ok(true)) {
            return Ok(());
        }
        match self.pages.backing().drop_staged(page, 1) {
            Err(Obstacle::Gone) => Ok(()),
            done => done,
        }
    }

    /// The first `len` are in their slots, and nowhere else.
    fn stored(&self, run: &mut Owned<'a>, len: u32, done: &mut Compressed) {
        let shared = self.pages.shared();
        for page in run.first()..run.first() + len {
            let slot_bytes = if run.was(page).is_kept() {
                shared.purse.uncharge(1); // the slot is paid for
                0
            } else {
                self.slot_bytes[(page - self.first) as usize]
            };
            done.won += PAGE_SIZE as u64 - u64::from(slot_bytes);
        }
        done.pages += len;
        shared.observer.change(Gauge::Staged, -i64::from(len));
        shared.observer.change(Gauge::Stored, len.into());
        run.end_front(len, End { moved: false, ..End::at(State::Stored) });
    }

    /// The first stays in the guest range: what was stored of it goes. While its mapping changes it waits where it is; one that was locked
    /// meanwhile, say, is put back, and left alone for a while.
    fn left_in_place(&self, run: &mut Owned<'a>, obstacle: Obstacle, done: &mut Compressed) {
        let (pages, shared, page) = (self.pages, self.pages.shared(), run.first());
        if !run.was(page).is_kept() {
            shared.purse.must_charge(1, Why::Call); // it had become the slot's
        }
        shared.store.give_back(pages.slot(page));
        if obstacle != Obstacle::Again && pages.backing().put_back(page, 1).all().is_ok() {
            done.back += 1; // and not `stayed`: those rest for longer, and a search for others goes on
            pages.word(page).set_ban(MAX_BAN);
            pages.arrived(State::Staged, 1);
            run.end_front(1, End::at(State::Resident));
        } else {
            done.later += 1;
            run.end_front(1, End { moved: false, ..End::at(State::Staged) });
            shared.regions.push_again(pages.id(), page, 1);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut begun = false;
        for page in self.first..self.first + self.len {
            let work = std::mem::replace(self.work(page), Work::None);
            if work == Work::None {
                continue;
            }
            begun = true;
            // The codec, or a device, panicked. The charge went with the page that it was at, or into what was stored.
            let (pages, shared) = (self.pages, self.pages.shared());
            if work == Work::Stored {
                shared.store.give_back(pages.slot(page));
            }
            if matches!(work, Work::Begun | Work::Stored) {
                shared.purse.must_charge(1, Why::Call);
            }
            if let Through::Lost = pages.word(page).not_compressed() {
                shared.purse.uncharge(1);
                pages.give_frame_up(page);
            }
        }
        if begun {
            self.pages.shared().regions.push_again(self.pages.id(), self.first, self.len);
        }
    }
}

impl Pages {
    /// Whether a page that is staged in place is there still.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn is_there(&self, page: u32) -> io::Result<bool> {
        let mut is_there = false;
        self.backing().present(page, 1, &mut |_| is_there = true)?;
        Ok(is_there)
    }

    /// Have the pages back in the guest range that do not shrink and are owned; the next run begins at `next`. How many are back.
    fn put_stiff_back<'a>(&'a self, run: &mut Owned<'a>, next: u32) -> u32 {
        let run = std::mem::replace(run, Owned::none(self, next));
        let (first, len) = (run.first(), run.len());
        if len == 0 {
            return 0;
        }
        let observer = &self.shared().observer;
        let stiffer = (first..first + len).filter(|&page| self.word(page).stiffen()).count();
        observer.change(Gauge::Stiff, stiffer as i64);
        let back = self.put_run_back(run, false);
        observer.count(Count::Stayed, back);
        if back < len {
            self.shared().regions.push_again(self.id(), first + back, len - back);
        }
        back
    }

    /// This compressor lost its page, and what it stored is given back.
    fn give_frame_up(&self, page: u32) {
        let word = self.word(page);
        if self.shared().planted.is(Bug::FrameDroppedUnderReader) {
            let _ = self.backing().drop_staged(page, 1);
            return word.shadow_gone();
        }
        match word.hand_over() {
            Frame::Handed => {}
            Frame::Staged => word.shadow_gone(),
            Frame::Ours => {
                if self.backing().staging() == Staging::Apart {
                    let _ = self.backing().drop_staged(page, 1);
                }
                word.shadow_gone();
            }
        }
    }
}
