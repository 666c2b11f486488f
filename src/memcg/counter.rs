//! One counter of one group: the bytes charged, what they may come to, and where somebody should be told.
//!
//! ```text
//! usage   63 ....... 48 | 47 .. 42 | 41 .................. 0
//!         generation    | version  | bytes charged              version: bumped when limit or mark is set
//! peak    63 ....... 48 |          | 41 .................. 0
//!         generation    |          | the most it was            a later life's is always larger
//!
//!              0 ------ usage -------- mark ------ limit        above the mark the group is noted (see `excess`),
//!                                                               above the limit nothing is charged
//! ```
//!
//! A group has one of each [`Counter`], each on a cache line of its own.
//!
//! Invariants:
//! - **G1** `usage` never grows past the limit that is in force when it grows, but by [`force`](Words::force) (see there). The
//!   limit is a second word; a setter stores it and then bumps the version in `usage`, so that a compare-exchange that began
//!   under the old limit fails and looks again.
//! - **G4** A charge that ends above the mark sees the mark, or whoever set the mark sees the charge: both change `usage`,
//!   so one is first. The charger looks at the mark after its change, the setter stores it before.
//! - **G5** What charges that stand have brought `usage` to is in the peak: whoever uncharges raises it before, and a charger
//!   once its charge stands.
//!
//! Callers: `charge` (reserving and giving back), `hierarchy` and `handle` under the tree lock (lives, limits).

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Bug, Planted, Tally};

/// Bits of a usage word that count bytes.
const BYTES_BITS: u32 = 42;
/// Bits below the generation. What is left of them counts settings of the limit: a charger would have to sleep
/// between its load and its compare-exchange through 64 settings, and the usage be the same again, to miss one.
pub(super) const GENERATION_SHIFT: u32 = 48;
const BYTES: u64 = (1 << BYTES_BITS) - 1;
const VERSION_ONE: u64 = 1 << BYTES_BITS;
pub(super) const BELOW_GENERATION: u64 = (1 << GENERATION_SHIFT) - 1;
const VERSIONS: u64 = BELOW_GENERATION & !BYTES;

/// The most bytes a group can be charged: 4 TiB less one, four times what the locations of one pool reach.
pub const MAX_USAGE: u64 = BYTES;

/// A limit that is none. (Usage ends at [`MAX_USAGE`] all the same.)
pub const NO_LIMIT: u64 = u64::MAX;

/// The part of a limit that is left between the mark and it, and the most that is: enough for what arrives while somebody
/// is woken, and little of a small limit.
const MARGIN_PART: u64 = 64;
const MARGIN_MOST: u64 = 256 << 10;

/// What bytes are charged as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Counter {
    /// Slots of compressed objects: `memory.zswap.current`.
    Zswap,
    /// Those, and what upper layers hold resident: `memory.current`.
    Memory,
    /// Places on devices: `memory.swap.current`.
    Swap,
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All of them.
    pub const ALL: [Counter; Counter::COUNT] = [Counter::Zswap, Counter::Memory, Counter::Swap];

    /// What is charged where this is asked for: an object is memory as well.
    #[inline]
    pub(super) const fn charged(self) -> &'static [Counter] {
        match self {
            Counter::Zswap => &[Counter::Zswap, Counter::Memory],
            Counter::Memory => &[Counter::Memory],
            Counter::Swap => &[Counter::Swap],
        }
    }

    /// The file that holds its limit.
    pub const fn max_file(self) -> &'static str {
        match self {
            Counter::Zswap => "memory.zswap.max",
            Counter::Memory => "memory.max",
            Counter::Swap => "memory.swap.max",
        }
    }

    /// Where a group is noted that has this limit and, for [`Counter::Memory`], this `memory.high`.
    pub(super) fn mark(self, limit: u64, high: u64) -> u64 {
        let below = limit - margin(limit);
        match self {
            Counter::Zswap => below,
            Counter::Memory => below.min(high),
            Counter::Swap => u64::MAX,
        }
    }
}

/// How far below a limit its mark lies.
pub(super) fn margin(limit: u64) -> u64 {
    (limit / MARGIN_PART).min(MARGIN_MOST)
}

#[inline]
pub(super) fn generation(word: u64) -> u16 {
    (word >> GENERATION_SHIFT) as u16
}

#[inline]
pub(super) fn born(generation: u16, count: u64) -> u64 {
    u64::from(generation) << GENERATION_SHIFT | count
}

/// Why a group does not take a charge.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The index belongs to another memcg by now, or to none.
    Stale,
    /// The limit forbids it.
    Over(Over),
}

/// A limit's refusal, with what is needed to tell whether it was somebody's transient reservation that caused it.
#[derive(Debug)]
pub(super) struct Over {
    /// Bytes charged when it refused.
    pub(super) usage: u64,
    /// Its limit in bytes then.
    pub(super) limit: u64,
    /// `rollbacks` before `usage` was read.
    pub(super) rollbacks: u32,
}

/// What a charge that asked no limit came to.
#[derive(Debug)]
pub(super) struct Forced {
    /// Bytes charged now.
    pub(super) usage: u64,
    /// The limit in bytes, or [`NO_LIMIT`].
    pub(super) limit: u64,
    /// That is more than ever, or above the mark.
    pub(super) notable: bool,
}

/// The words of one counter of one group.
#[derive(Debug, Default)]
#[repr(align(64))] // a charge finds all of them on one line
pub(super) struct Words {
    /// Generation, version, bytes charged here and below.
    usage: AtomicU64,
    /// Bytes there may be, or [`NO_LIMIT`]. Set under the tree lock.
    limit: AtomicU64,
    /// Bytes above which the group is noted. Set under the tree lock.
    mark: AtomicU64,
    /// Generation, the most bytes there were.
    peak: Tally,
    /// Charges that were reserved here and taken back because a group further up refused.
    rollbacks: AtomicU32,
}

// === lives ===

impl Words {
    /// Begin a life in `life`, without a limit. Under the tree lock; what publishes the group publishes this.
    pub(super) fn birth(&self, life: u16) {
        debug_assert_eq!(generation(self.usage.load(Ordering::Relaxed)), life);
        self.limit.store(NO_LIMIT, Ordering::Release);
        self.mark.store(u64::MAX, Ordering::Release);
        self.peak.set(born(life, 0));
    }

    /// End a life; the next is `next`. Under the tree lock.
    pub(super) fn bury(&self, next: u16) {
        // Release pairs with the acquire of a charger that finds the generation changed: it then also sees that its
        // objcg points elsewhere.
        self.usage.swap(born(next, 0), Ordering::AcqRel);
    }
}

// === charging ===

impl Words {
    /// Add `bytes` in this life, if the limit allows. True when that is more than ever, or above the mark.
    #[inline]
    pub(super) fn reserve(&self, life: u16, bytes: u64, planted: Planted) -> Result<bool, Refusal> {
        let mut rollbacks = None;
        // Acquire pairs with `set_limit`'s bump (G1) and with `bury`.
        let mut word = self.usage.load(Ordering::Acquire);
        loop {
            if generation(word) != life {
                return Err(Refusal::Stale);
            }
            let usage = word & BYTES;
            // Acquire: a later life's limit is only seen together with its generation, by `birth` and `bury`.
            let limit = self.limit.load(Ordering::Acquire).min(MAX_USAGE);
            if bytes > limit || usage > limit - bytes {
                let Some(rollbacks) = rollbacks else {
                    // Note the rollbacks, then look again: one that ends after this is noticed by whoever waits for it.
                    // Acquire pairs with `note_rollback`.
                    rollbacks = Some(self.rollbacks.load(Ordering::Acquire));
                    word = self.usage.load(Ordering::Acquire);
                    continue;
                };
                return Err(Refusal::Over(Over { usage, limit, rollbacks }));
            }
            if planted.is(Bug::CheckThenCharge) {
                self.usage.fetch_add(bytes, Ordering::AcqRel);
                return Ok(false);
            }
            // Release: who sees this reservation also sees that we are climbing (`charge::Climbs`). Acquire: what it comes
            // after, a setter's bump or a reset of the peak, is seen below (G4).
            match self.usage.compare_exchange_weak(word, word + bytes, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(self.is_notable(word + bytes)),
                Err(now) => word = now,
            }
        }
    }

    /// Add `bytes` in this life, whatever the limit. `None` when the life is over, and nothing was changed.
    ///
    /// # Panics
    /// When there would be more than a word counts.
    pub(super) fn force(&self, life: u16, bytes: u64, planted: Planted) -> Option<Forced> {
        let add = |word| {
            (generation(word) == life || planted.is(Bug::ForceSkipsGeneration)).then(|| {
                let usage = word & BYTES;
                assert!(
                    bytes <= MAX_USAGE - usage,
                    "{bytes} bytes more than the {usage} charged do not fit in a counter"
                );
                word + bytes
            })
        };
        // As in `reserve`.
        let before = self.usage.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).ok()?;
        let limit = self.limit.load(Ordering::Acquire);
        Some(Forced { usage: (before + bytes) & BYTES, limit, notable: self.is_notable(before + bytes) })
    }

    #[inline]
    fn is_notable(&self, word: u64) -> bool {
        word & BYTES > self.mark.load(Ordering::Relaxed) || word & !VERSIONS > self.peak.get()
    }

    /// Take `bytes` away in this life. False when the life is over, and nothing was changed. `stood`: they were charged, and
    /// not only reserved, so that what is charged now may be the peak (G5).
    ///
    /// # Panics
    /// When fewer are charged.
    #[inline]
    #[must_use]
    pub(super) fn give_back(&self, life: u16, bytes: u64, stood: bool, planted: Planted) -> bool {
        if planted.is(Bug::UnchargeSkipsGeneration) {
            let _ = self.usage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word & !BYTES | (word & BYTES).wrapping_sub(bytes) & BYTES)
            });
            return true;
        }
        // Acquire on failure pairs with `bury`: the caller then finds its objcg elsewhere.
        self.usage
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                if generation(word) != life {
                    return None;
                }
                assert!(word & BYTES >= bytes, "{bytes} bytes uncharged of {} charged", word & BYTES);
                if stood && !planted.is(Bug::UnchargeSkipsPeak) {
                    self.peak.raise(word & !VERSIONS);
                }
                Some(word - bytes)
            })
            .is_ok()
    }

    /// Note that a reservation was given back because a group further up refused.
    pub(super) fn note_rollback(&self) {
        // Release: who sees the number changed sees the bytes given back.
        self.rollbacks.fetch_add(1, Ordering::Release);
    }

    /// Rollbacks so far; only a change means something.
    pub(super) fn rollbacks(&self) -> u32 {
        self.rollbacks.load(Ordering::Acquire)
    }
}

// === usage, limit, mark, peak ===

impl Words {
    /// Which life it is in. Acquire pairs with `bury`: who finds another one than it came for also sees that its objcg points
    /// elsewhere.
    pub(super) fn life(&self) -> u16 {
        generation(self.usage.load(Ordering::Acquire))
    }

    /// Bytes charged now.
    #[inline]
    pub(super) fn usage(&self) -> u64 {
        self.usage.load(Ordering::Acquire) & BYTES
    }

    /// The limit in bytes, or [`NO_LIMIT`].
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Bytes above which the group is noted.
    #[inline]
    pub(super) fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }

    /// How many bytes are charged above the mark.
    pub(super) fn excess(&self) -> u64 {
        self.usage().saturating_sub(self.mark())
    }

    /// Set limit and mark, under the tree lock. When this returns, nothing is charged past the limit any more, and the group
    /// is noted for what is charged above the mark from here on. What was charged before, the caller must look at.
    pub(super) fn set_limit(&self, limit: u64, mark: u64, planted: Planted) {
        self.limit.store(limit, Ordering::Release);
        if !planted.is(Bug::MarkSetLate) {
            self.mark.store(mark, Ordering::Release);
        }
        // The bump makes every compare-exchange fail that began before it (G1); release publishes both to those that begin
        // after, acquire shows the caller what came before (G4). A carry must not reach the generation.
        let _ = self.usage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            Some(word & !VERSIONS | word.wrapping_add(VERSION_ONE) & VERSIONS)
        });
        if planted.is(Bug::MarkSetLate) {
            self.mark.store(mark, Ordering::Release);
        }
    }

    /// Have the peak be at least what is charged now, in whichever life.
    pub(super) fn raise_peak(&self) {
        self.peak.raise(self.usage.load(Ordering::Acquire) & !VERSIONS);
    }

    /// The most bytes there were, as far as it is noted. Touches no usage, so it may be asked for in a record.
    pub(super) fn noted_peak(&self) -> u64 {
        self.peak.get() & BYTES
    }

    /// The most bytes there were.
    pub(super) fn peak(&self) -> u64 {
        self.raise_peak();
        self.noted_peak()
    }

    /// Begin the peak anew and say what it was: under the tree lock, of an online group, between
    /// [`raise_peak`](Self::raise_peak) and [`settle_peak`](Self::settle_peak).
    pub(super) fn begin_peak(&self, life: u16) -> u64 {
        self.peak.replace(born(life, 0)) & BYTES
    }

    /// Have the peak that was begun be at least what is charged now.
    pub(super) fn settle_peak(&self) {
        // As G4: a charge that is not seen here sees the peak that was begun.
        self.peak.raise(self.usage.fetch_add(0, Ordering::AcqRel) & !VERSIONS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let words = Words::default();
        words.birth(0);
        words
    }

    fn fits(words: &Words, bytes: u64) -> bool {
        words.reserve(0, bytes, Planted::NONE).is_ok()
    }

    #[test]
    fn the_largest_usage_fits_and_one_byte_more_does_not() {
        let words = words();
        assert!(fits(&words, MAX_USAGE));
        words.raise_peak();
        assert!(!fits(&words, 1));
        assert!(words.give_back(0, MAX_USAGE, true, Planted::NONE));
        assert!(!fits(&words, MAX_USAGE + 1));
        assert!(!fits(&words, u64::MAX));
        assert_eq!((words.usage(), words.peak()), (0, MAX_USAGE));
    }

    #[test]
    fn versions_wrap_without_touching_bytes_or_generation() {
        let words = words();
        assert!(fits(&words, 5));
        for limit in 0..200 {
            words.set_limit(limit, limit, Planted::NONE);
            assert_eq!((words.usage(), words.limit()), (5, limit));
        }
        assert!(fits(&words, 194));
        assert!(!fits(&words, 1));
        assert_eq!(words.peak(), 199);
    }

    #[test]
    fn buried_words_take_and_give_nothing_and_the_next_life_starts_at_zero() {
        let words = words();
        assert!(fits(&words, 5));
        words.raise_peak();
        words.bury(1);
        assert!(matches!(words.reserve(0, 1, Planted::NONE), Err(Refusal::Stale)));
        assert!(!words.give_back(0, 1, true, Planted::NONE));
        words.birth(1);
        assert_eq!((words.usage(), words.peak(), words.limit()), (0, 0, NO_LIMIT));
    }

    #[test]
    fn a_charge_is_notable_above_the_mark_and_above_the_peak() {
        let words = words();
        let reserve = |bytes| words.reserve(0, bytes, Planted::NONE).unwrap();
        assert!(reserve(10), "more than ever");
        words.raise_peak();
        assert!(words.give_back(0, 10, true, Planted::NONE));
        assert!(!reserve(10), "as much as ever");
        words.set_limit(20, 9, Planted::NONE);
        assert!(reserve(0), "above the mark");
        assert_eq!(words.excess(), 1);
        words.set_limit(20, 10, Planted::NONE);
        assert!(!reserve(0) && words.excess() == 0, "at the mark");
        assert!(words.give_back(0, 4, true, Planted::NONE));
        assert_eq!(words.begin_peak(0), 10);
        words.settle_peak();
        assert_eq!((words.noted_peak(), words.peak()), (6, 6));
        assert!(!reserve(0) && reserve(1));
    }

    #[test]
    fn a_mark_leaves_a_margin_below_the_limit() {
        let [zswap, memory, swap] = Counter::ALL.map(|counter| move |limit, high| counter.mark(limit, high));
        assert_eq!([0, 63, 64, 1 << 20, 1 << 30].map(|limit| zswap(limit, 5)), [0, 63, 63, 63 << 14, 4095 << 18]);
        assert!(zswap(NO_LIMIT, 5) > MAX_USAGE && memory(NO_LIMIT, NO_LIMIT) > MAX_USAGE);
        assert_eq!((memory(64, 62), memory(64, 64), memory(NO_LIMIT, 64)), (62, 63, 64));
        assert_eq!(swap(0, 0), u64::MAX);
    }

    #[test]
    #[should_panic(expected = "3 bytes uncharged of 2 charged")]
    fn uncharging_more_than_was_charged_panics() {
        let words = words();
        assert!(fits(&words, 2));
        let _ = words.give_back(0, 3, true, Planted::NONE);
    }

    #[test]
    fn a_forced_charge_is_notable_above_the_mark_and_above_the_peak() {
        let words = words();
        words.set_limit(20, 18, Planted::NONE);
        let force = |bytes| words.force(0, bytes, Planted::NONE).unwrap();
        assert!(matches!(force(10), Forced { usage: 10, limit: 20, notable: true }), "more than ever");
        words.raise_peak();
        assert!(matches!(force(1), Forced { usage: 11, limit: 20, notable: true }));
        words.raise_peak();
        assert!(words.give_back(0, 2, true, Planted::NONE));
        assert!(matches!(force(2), Forced { usage: 11, limit: 20, notable: false }), "as much as ever");
        assert!(matches!(force(100), Forced { usage: 111, limit: 20, notable: true }), "no limit is asked");
    }
}
