//! [`Owned`]: words that this thread owns, and gives back on every path.
//!
//! ```text
//!   first                    first + len
//!     | ended | ended | owned | owned | owned |        ended from the front, in order; what is left when it is dropped
//!                                                      goes back to what it was
//! ```
//!
//! Its holder waits for no word, and asks the kernel, the store and who pays without holding a lock.

use super::bits::{Bits, KeptSize, State};
use super::pages::Pages;
use super::ports::{Gauge, Why};
use super::word::Ended;
use crate::guest::memory::backing::Staging;
use crate::sync::Bug;

/// Words that can be owned together: as many as are moved together.
pub(crate) const TOGETHER: u32 = 64;

/// Consecutive words that this thread owns.
pub(crate) struct Owned<'a> {
    pages: &'a Pages,
    first: u32,
    len: u32,
    /// Those that were not charged as resident are by now, by this thread.
    paid: bool,
    /// What each said before, at its number modulo [`TOGETHER`].
    was: [Bits; TOGETHER as usize],
}

/// How a word is ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) to: State,
    /// Its slot holds an equal copy of the page in the guest range.
    pub(crate) kept: Option<KeptSize>,
    /// It moved: it gets the stamp of now.
    pub(crate) moved: bool,
}

impl End {
    /// In this state, to which it moved.
    pub(crate) const fn at(to: State) -> End {
        End { to, kept: None, moved: true }
    }
}

impl<'a> Owned<'a> {
    /// None yet; the first will be `first`.
    pub(crate) fn none(pages: &'a Pages, first: u32) -> Self {
        Owned { pages, first, len: 0, paid: false, was: [Bits::default(); TOGETHER as usize] }
    }

    /// One, which said `was` before this thread made it an owned state.
    pub(crate) fn one(pages: &'a Pages, page: u32, was: Bits) -> Self {
        let mut owned = Owned::none(pages, page);
        owned.push(was);
        owned
    }

    /// The next one is owned too, and said this before.
    pub(crate) fn push(&mut self, was: Bits) {
        debug_assert!(self.len < TOGETHER);
        self.was[((self.first + self.len) % TOGETHER) as usize] = was;
        self.len += 1;
    }

    /// The one before the first is owned too, and said this before.
    pub(crate) fn push_front(&mut self, was: Bits) {
        debug_assert!(self.len < TOGETHER);
        self.first -= 1;
        self.was[(self.first % TOGETHER) as usize] = was;
        self.len += 1;
    }

    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// What a page said before it was owned.
    pub(crate) fn was(&self, page: u32) -> Bits {
        debug_assert!((self.first..self.first + self.len).contains(&page));
        self.was[(page % TOGETHER) as usize]
    }

    /// End the first `n`.
    pub(crate) fn end_front(&mut self, n: u32, end: End) {
        for _ in 0..n.min(self.len) {
            let page = self.first;
            self.first += 1;
            self.len -= 1;
            self.pages.end(page, end);
        }
    }

    /// Those from `page` on, as a value of their own; these are the others.
    pub(crate) fn split_off(&mut self, page: u32) -> Owned<'a> {
        debug_assert!((self.first..=self.first + self.len).contains(&page));
        let len = self.first + self.len - page;
        self.len -= len;
        Owned { pages: self.pages, first: page, len, paid: self.paid, was: self.was }
    }

    /// Those that need a charge of their own to be resident: how many.
    pub(crate) fn unpaid(&self) -> u32 {
        (self.first..self.first + self.len).filter(|&page| needs_charge(self.was(page))).count() as u32
    }

    /// They are charged now.
    pub(crate) fn set_paid(&mut self) {
        self.paid = true;
    }

    /// Give the first back as it was, and its charge.
    pub(crate) fn restore_front(&mut self) {
        let (page, was) = (self.first, self.was(self.first));
        self.first += 1;
        self.len -= 1;
        self.pages.restore(page, was, self.paid);
    }

    /// Give those from `page` on back as they were.
    pub(crate) fn restore_from(&mut self, page: u32) {
        while self.len > 0 && self.first + self.len > page {
            self.len -= 1;
            let last = self.first + self.len;
            self.pages.restore(last, self.was[(last % TOGETHER) as usize], self.paid);
        }
    }
}

/// Whether who brings such a page in has to pay for it: else it is paid for already.
fn needs_charge(was: Bits) -> bool {
    // A compressor has the charge of what it compresses.
    matches!(was.state(), State::Absent | State::Stored | State::Poisoned | State::Compressing)
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        while self.len > 0 {
            self.restore_front();
        }
    }
}

impl Pages {
    /// End an owned word, and wake who waits.
    fn end(&self, page: u32, end: End) {
        let word = self.word(page);
        if end.to == State::Resident {
            self.used.note(page);
        }
        let stamp = end.moved.then(|| self.shared().observer.epoch());
        loop {
            match word.end(end.to, end.kept, stamp) {
                Ok(ended) => {
                    if ended.softened {
                        self.shared().observer.change(Gauge::Stiff, -1);
                    }
                    return self.tell(page, ended);
                }
                // The compressor that we took the page from was through first, and left us its frame: the one we copied.
                Err(_) => {
                    if end.to != State::Staged && self.backing().staging() == Staging::Apart {
                        let _ = self.backing().drop_staged(page, 1);
                    }
                    word.took_over();
                }
            }
        }
    }

    /// Give a word back as it was: nothing came of it.
    fn restore(&self, page: u32, was: Bits, paid: bool) {
        let purse = &self.shared().purse;
        let mut end = End { to: was.state(), kept: was.kept(), moved: false };
        if was.state() == State::Compressing {
            match self.word(page).untake(self.shared().planted) {
                // The compressor does not know: it is as if nothing had been.
                Some(ended) => {
                    self.tell(page, ended);
                    if paid {
                        purse.uncharge(1);
                    }
                }
                // What it compressed is thrown away, with its charge; the frame is all there is.
                None => {
                    if !paid {
                        purse.must_charge(1, Why::Call);
                    }
                    end.to = State::Staged;
                    self.end(page, end);
                    self.shared().regions.push_again(self.id(), page, 1);
                }
            }
            return;
        }
        self.end(page, end);
        if paid && needs_charge(was) {
            purse.uncharge(1);
        }
    }

    /// Wake who waits for the owner: in the word, and in the kernel, where a request that woke all may have been before the fault that
    /// was left to us (a write of a page that it protected, say).
    fn tell(&self, page: u32, ended: Ended) {
        if ended.waiter {
            self.word(page).wake();
        }
        if ended.left && !self.shared().planted.is(Bug::EndForgetsLeft) {
            self.backing().wake(page, 1);
        }
    }
}
