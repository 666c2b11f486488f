//! [`Epochs`]: what the 8-bit stamps on pages mean, in time and in evictions of their VM.
//!
//! ```text
//!   stamp     0          1        2        3  ...  254      255 | 1 ...
//!             longer     +--------+--------+--------+--------+
//!             ago        | began: milliseconds, evictions till then
//!                        +--------+--------+--------+--------+      an epoch ends after a 32nd of the VM's memory was
//!                                        ^ now                      evicted, or eight seconds
//! ```
//!
//! A page gets the stamp of the epoch in which it moves (in or out). From the stamp follows how long ago that was, and how many pages of its
//! VM left meanwhile: the refault distance (see Weiner's workingset.c), in steps of an epoch.
//!
//! - **S1** Numbers go round: a stamp that is [`FORGET`] epochs old is set to 0 by the [sweep](Epochs::sweep), long before its number is
//!   used again. (A page that the sweep meets while it is owned keeps its stamp until the next; in the worst case it looks young.)
//!
//! Callers: `account` stamps and asks; the evictor goes on and sweeps.

use crate::guest::pages::bits::MAX_STIFF;
use crate::sync::Tally;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Numbers of epochs: 1 to 255; 0 is longer ago than is remembered.
const NUMBERS: u32 = 255;

/// Epochs after which a stamp is forgotten: three quarters of those there are, so that the sweep has a quarter to come by.
const FORGET: u32 = 192;

/// An epoch ends after this time.
const MILLIS: u64 = 8000;

/// An epoch ends when so large a part of the VM's pages has left.
const PART: u64 = 32;

/// Epochs for which a page is left alone that did not shrink.
const FIRST_REST: u32 = 8;

const _: () = assert!(FIRST_REST << (MAX_STIFF - 1) < FORGET, "who rests is not forgotten");

/// Or so many, if it is small: a run.
const LEAST: u64 = 64;

/// One VM's.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// How many epochs have begun, the one of now included: its number is this, less one, modulo [`NUMBERS`], plus one.
    begun: AtomicU32,
    /// Pages that have left.
    evicted: Tally,
    /// By number.
    began: Box<[Began; NUMBERS as usize + 1]>,
    /// Where the sweep goes on: a page of all the VM's.
    swept: Tally,
    /// Epochs that had begun when the sweep was last asked for.
    seen: Tally,
}

#[derive(Debug, Default)]
struct Began {
    millis: Tally,
    evicted: Tally,
}

fn number(begun: u32) -> u8 {
    ((begun - 1) % NUMBERS + 1) as u8
}

impl Epochs {
    /// The first begins.
    pub(crate) fn new(now: u64) -> Self {
        let began: Box<[Began; NUMBERS as usize + 1]> = Box::new(std::array::from_fn(|_| Began::default()));
        began[1].millis.set(now);
        Epochs { begun: AtomicU32::new(1), evicted: Tally::new(), began, swept: Tally::new(), seen: Tally::new() }
    }

    /// The stamp of a page that moves now: 1 to 255.
    #[inline]
    pub(crate) fn stamp(&self) -> u8 {
        number(self.begun.load(Ordering::Relaxed))
    }

    /// So many pages have left the guest's range, of a VM that has `resident`.
    pub(crate) fn evicted(&self, pages: u64, resident: u64, now: u64) {
        self.evicted.add(pages);
        self.go_on(resident, now);
    }

    /// So many of those came to nothing: they are back, as if they had not left.
    pub(crate) fn unevicted(&self, pages: u64) {
        self.evicted.sub(pages);
    }

    /// Begin another epoch if this one is over. True if it did.
    pub(crate) fn go_on(&self, resident: u64, now: u64) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let this = &self.began[usize::from(number(begun))];
        let left = self.evicted.get().saturating_sub(this.evicted.get());
        if left < (resident / PART).max(LEAST) && now.saturating_sub(this.millis.get()) < MILLIS {
            return false;
        }
        // Several threads write nearly the same here, and one begins it.
        let next = &self.began[usize::from(number(begun + 1))];
        next.millis.set(now);
        next.evicted.set(self.evicted.get());
        self.begun.compare_exchange(begun, begun + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many epochs ago a stamp was given. `None`: longer than is remembered.
    fn since(&self, stamp: u8) -> Option<u32> {
        let begun = self.begun.load(Ordering::Relaxed);
        let ago = (u32::from(number(begun)) + NUMBERS - u32::from(stamp)) % NUMBERS;
        (stamp != 0 && ago < begun).then_some(ago)
    }

    /// Whether a page that was put back at this stamp rests still, as it did not shrink, `times` times in a row: for 8 epochs (a quarter of the
    /// VM's memory has left, or a minute is over), 16, and so on up to 128.
    pub(crate) fn rests(&self, stamp: u8, times: u32) -> bool {
        self.since(stamp).is_some_and(|ago| ago < FIRST_REST << (times - 1))
    }

    /// Milliseconds since a page got this stamp, as of `now`. `None`: longer than is remembered.
    pub(crate) fn age(&self, stamp: u8, now: u64) -> Option<u64> {
        self.since(stamp)?;
        Some(now.saturating_sub(self.began[usize::from(stamp)].millis.get()))
    }

    /// Pages of the VM that have left since the epoch of this stamp began. `None`: it is longer ago than is remembered.
    pub(crate) fn distance(&self, stamp: u8) -> Option<u64> {
        self.since(stamp)?;
        // What came to nothing may have begun an epoch before that was known: less has left by now than had then.
        Some(self.evicted.get().saturating_sub(self.began[usize::from(stamp)].evicted.get()))
    }

    /// Whether a stamp is to be forgotten.
    pub(crate) fn is_stale(&self, stamp: u8) -> bool {
        stamp != 0 && self.since(stamp).is_none_or(|ago| ago >= FORGET)
    }

    /// Go on, and say whether an epoch began since this was asked last.
    pub(crate) fn is_behind(&self, resident: u64, now: u64) -> bool {
        self.go_on(resident, now);
        let begun = u64::from(self.begun.load(Ordering::Relaxed));
        self.seen.replace(begun) != begun
    }

    /// Which of `pages` to look at after an epoch began, so that all are met within a quarter of the numbers.
    pub(crate) fn sweep(&self, pages: u64) -> (u64, u64) {
        let most = pages.div_ceil(u64::from(NUMBERS - FORGET) / 2);
        let from = self.swept.get() % pages.max(1);
        self.swept.set(from + most);
        (from, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_time_and_evictions_since() {
        let epochs = Epochs::new(1000);
        let first = epochs.stamp();
        assert_eq!((first, epochs.age(first, 1500), epochs.distance(first)), (1, Some(500), Some(0)));
        epochs.evicted(63, 100, 1500);
        assert_eq!(epochs.stamp(), first, "a small VM's epoch has a run");
        epochs.evicted(1, 100, 1600);
        assert_eq!((epochs.stamp(), epochs.distance(1), epochs.distance(2)), (2, Some(64), Some(0)));
        assert!(!epochs.go_on(6400, 1600 + MILLIS - 1) && epochs.go_on(6400, 1600 + MILLIS));
        assert_eq!(epochs.age(2, 20_000), Some(18_400));
        assert_eq!((epochs.age(0, 20_000), epochs.distance(0)), (None, None));
        assert_eq!(epochs.age(200, 20_000), None, "nobody can have it yet");
    }

    #[test]
    fn what_came_to_nothing_makes_no_time_pass() {
        let epochs = Epochs::new(0);
        for _ in 0..1000 {
            epochs.evicted(64, 100, 0);
            epochs.unevicted(64);
        }
        assert_eq!(
            (epochs.stamp(), epochs.distance(1)),
            (2, Some(0)),
            "the first run was not known to come to nothing"
        );
        epochs.evicted(64, 100, 0);
        epochs.evicted(64, 100, 0);
        assert_eq!((epochs.stamp(), epochs.since(1), epochs.distance(1)), (3, Some(2), Some(128)));
    }

    #[test]
    fn stamps_are_forgotten_before_their_number_comes_again() {
        let epochs = Epochs::new(0);
        let mut words = vec![1u8; 1000];
        let mut young = 0;
        for epoch in 0..2000u64 {
            while !epochs.go_on(0, epoch * MILLIS) {
                if epoch == 0 {
                    break;
                }
            }
            let (from, most) = epochs.sweep(words.len() as u64);
            for page in from..from + most {
                let word = &mut words[page as usize % 1000];
                if epochs.is_stale(*word) {
                    *word = 0;
                }
            }
            words[7] = epochs.stamp();
            let seen = words.iter().enumerate().filter(|&(page, &word)| {
                page != 7 && epochs.age(word, epoch * MILLIS).is_some_and(|age| age + MILLIS < epoch * MILLIS)
            });
            young += seen.count();
            assert_eq!(epochs.age(words[7], epoch * MILLIS), Some(0));
        }
        assert_eq!(young, 0, "a page of the first epoch looked younger than it is");
        assert!(words.iter().enumerate().all(|(page, &word)| page == 7 || word == 0));
    }
}
