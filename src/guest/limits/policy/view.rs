//! [`View`]: a region under the clock hand, and runs of pages that can go together.
//!
//! Why runs have these lengths: a MOVE of consecutive pages flushes each of them up to 33, and everything at once above that. 64 cost
//! what 20 do, and 17 to 33 are the worst there is; so a run is cut to 16 or is 34 to 64 long.

use super::super::evictable::Clocked;
use crate::guest::pages::outcomes::Staged;

/// The longest run.
const LONGEST: u32 = 64;

/// A run of this length to 33 is cut.
const CUT: u32 = 16;

/// From this length on the kernel flushes everything at once.
const LONG: u32 = 34;

/// A page that the kernel keeps where it is has cost a request of its own, as much as looking at so many words: a fault that makes room
/// among pages that a child shares is through after some dozens of them.
const BUSY_WORDS: u32 = 128;

/// What a page's word says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// It is in memory in its place, and not pinned: it can go.
    pub takeable: bool,
    /// It came back from staging, and was not passed by since.
    pub referenced: bool,
    /// So many passes are to leave it alone.
    pub ban: u8,
    /// When it moved last, as an epoch; 0: long ago.
    pub stamp: u8,
}

/// A region as a policy sees it, from the hand on.
pub struct View<'a> {
    region: &'a dyn Clocked,
    at: u32,
    want: u32,
    budget: u32,
    passed: u32,
    staged: Staged,
    changed: bool,
}

impl<'a> View<'a> {
    pub(crate) fn new(region: &'a dyn Clocked, at: u32, want: u32, budget: u32) -> Self {
        View { region, at: at.min(region.pages()), want, budget, passed: 0, staged: Staged::default(), changed: false }
    }

    /// Pages of the region.
    pub fn pages(&self) -> u32 {
        self.region.pages()
    }

    /// Where the hand is.
    pub fn at(&self) -> u32 {
        self.at
    }

    /// How many pages are wanted yet.
    pub fn want(&self) -> u32 {
        self.want.saturating_sub(self.staged.pages)
    }

    /// The page under the hand, which goes on; `None` at the end, or when enough was looked at, or nothing is wanted any more.
    pub fn advance(&mut self) -> Option<(u32, Look)> {
        if self.at >= self.pages() || self.passed >= self.budget || self.want() == 0 {
            return None;
        }
        let page = self.at;
        self.at += 1;
        self.passed += 1;
        Some((page, self.region.look(page)))
    }

    /// What a page's word says, wherever the hand is.
    pub fn look(&self, page: u32) -> Look {
        self.region.look(page)
    }

    /// It used its second chance up.
    pub fn spend_chance(&mut self, page: u32) {
        self.region.spend_chance(page);
        self.changed = true;
    }

    /// One pass less will leave it alone.
    pub fn spend_ban(&mut self, page: u32) {
        self.region.spend_ban(page);
        self.changed = true;
    }

    /// Take consecutive pages out. Those that cannot go stay.
    pub fn take(&mut self, first: u32, pages: u32) {
        let staged = self.region.stage(first, pages.min(self.pages().saturating_sub(first)));
        self.changed |= staged.pages > 0;
        self.passed = self.passed.saturating_add(staged.busy.saturating_mul(BUSY_WORDS));
        self.staged += staged;
    }

    /// It is in use: it is passed by once.
    pub fn give_chance(&self, page: u32) {
        self.region.give_chance(page);
    }

    /// The hand goes to the end: the next region's turn.
    pub fn end(&mut self) {
        self.at = self.pages();
    }

    /// Give the page another stamp.
    pub fn restamp(&self, page: u32, from: u8, to: u8) {
        self.region.restamp(page, from, to);
    }

    /// Runs of pages written since this was asked last. False where the kernel does not tell.
    pub fn written(&self, each: &mut dyn FnMut(std::ops::Range<u32>)) -> bool {
        self.region.written(each)
    }

    /// Take runs of those pages that `may` go, as long as they can be (see the module), until no more are wanted. `may` is asked once for
    /// each page that can be taken, under the hand.
    pub fn take_runs(&mut self, mut may: impl FnMut(&mut Self, u32, Look) -> bool) {
        while self.want() > 0 {
            self.at = self.region.next_used(self.at).min(self.pages());
            let (first, mut len) = (self.at, 0);
            // One page more than the longest run is not looked at: the hand must not go past what it does not take.
            while len < LONGEST
                && let Some((page, look)) = self.advance()
            {
                if !look.takeable || !may(self, page, look) {
                    break;
                }
                len += 1;
            }
            match len {
                0 if self.at == first => return, // the end, or the budget's
                0 => {}
                CUT..LONG => (0..len).step_by(CUT as usize).for_each(|k| self.take(first + k, CUT.min(len - k))),
                _ => self.take(first, len),
            }
        }
    }

    pub(crate) fn staged(&self) -> Staged {
        self.staged
    }

    pub(crate) fn passed(&self) -> u32 {
        self.passed
    }

    /// Whether anything was taken, or a chance or a ban spent.
    pub(crate) fn changed(&self) -> bool {
        self.changed
    }
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("at", &self.at).field("pages", &self.pages()).field("want", &self.want()).finish()
    }
}
