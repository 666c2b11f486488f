//! Every word against the kernel, the store and what is charged.

use super::bits::State;
use super::pages::Pages;
use crate::guest::memory::backing::Staging;
use crate::sync::thread::Backoff;

/// Looks at a page that somebody is at before that is an error.
const TRIES: u32 = if cfg!(loom) { 0 } else { 4096 };

/// Pages of a region by where they are, as its words say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) resident: u64,
    pub(crate) staged: u64,
    pub(crate) stored: u64,
    pub(crate) poisoned: u64,
    pub(crate) kept: u64,
    pub(crate) pinned: u64,
    /// Of those in memory, found not to shrink.
    pub(crate) stiff: u64,
}

impl Pages {
    /// Check every page; only while nobody touches them. Who served the last fault may not have given its word back, though its thread goes on:
    /// that is waited for. What there is.
    ///
    /// # Panics
    /// When a page is not where its word says.
    pub(crate) fn assert_valid(&self) -> Sums {
        (0..self.count()).for_each(|page| self.await_quiet(page));
        let mut sums = Sums::default();
        let mut checked = 0;
        let mut check = |upto: u32, present: bool| {
            while checked < upto {
                self.check(checked, present, &mut sums);
                checked += 1;
            }
        };
        self.backing()
            .present(0, self.count(), &mut |present| {
                check(present.start, false);
                check(present.end, true);
            })
            .expect("the kernel says what is in the guest range");
        check(self.count(), false);
        self.check_apart();
        sums
    }

    /// Wait until nobody is at a page, for some seconds at most.
    fn await_quiet(&self, page: u32) {
        let mut backoff = Backoff::new();
        for _ in 0..TRIES {
            let seen = self.word(page).load();
            if !seen.state().is_owned() && seen.state() != State::Compressing && !seen.has_shadow() {
                return;
            }
            backoff.wait_for_io();
        }
    }

    /// The staging place has what is staged, and nothing else.
    fn check_apart(&self) {
        let mut checked = 0;
        let mut check = |upto: u32, present: bool| {
            for page in checked..upto {
                let seen = self.word(page).load();
                let is_staged = seen.state() == State::Staged;
                assert_eq!(present, is_staged, "the staging place of page {page} is not as its word says: {seen:?}");
            }
            checked = upto;
        };
        let told = self.backing().present_apart(0, self.count(), &mut |present| {
            check(present.start, false);
            check(present.end, true);
        });
        if told.expect("the kernel says what is in the staging place") {
            check(self.count(), false);
        }
    }

    fn check(&self, page: u32, present: bool, sums: &mut Sums) {
        let seen = self.word(page).load();
        let stored = self.shared().store.holds(self.slot(page));
        let in_place = self.backing().staging() == Staging::InPlace;
        let at = || {
            format!("page {page}, {}present, slot {}: {seen:?}", if present { "" } else { "not " }, u8::from(stored))
        };
        assert!(!seen.has_shadow() && !seen.is_handed(), "somebody is at it: {}", at());
        let (is_in, is_stored) = match seen.state() {
            State::Absent => (Some(false), Some(false)),
            State::Resident => {
                sums.resident += 1;
                sums.pinned += u64::from(seen.pins() > 0);
                (Some(true), Some(seen.is_kept()))
            }
            State::Staged => {
                sums.staged += 1;
                ((!in_place).then_some(false), Some(seen.is_kept()))
            }
            State::Stored => {
                sums.stored += 1;
                assert!(!seen.is_kept(), "kept by itself: {}", at());
                (Some(false), Some(true))
            }
            State::Poisoned => {
                sums.poisoned += 1;
                (None, None) // lost, perhaps
            }
            State::Leaving | State::Compressing | State::Filling | State::Dropping => {
                panic!("somebody is at it: {}", at())
            }
        };
        sums.kept += u64::from(seen.is_kept() && seen.state() != State::Poisoned);
        sums.stiff += u64::from(seen.stiff() > 0);
        assert!(is_in.is_none_or(|is_in| is_in == present), "not where its word says: {}", at());
        assert!(is_stored.is_none_or(|is_stored| is_stored == stored), "its slot is not as its word says: {}", at());
    }
}
