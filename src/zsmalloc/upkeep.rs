//! [`Upkeep`]: what a pool needs done in the background, and when.
//!
//! ```text
//!   wasted frames, for longer than a moment
//!     ^            /|        /|
//!     |  trigger  / |       / |              a pass begins above the trigger, goes on to three fifths of it, or until no
//!     |----------/--|------/--|----          frame can be won, and sets the trigger anew: the share of the frames, or
//!     |         /   |_____/   |  ________    what was left over and half of that share, or more if passes win little
//!     |________/              |_/ left over
//!     +-----------------------------------> operations
//! ```
//!
//! When no frame has changed hands for a while, what can be won still is, if it is worth a pass; then warm frames go back
//! to the kernel, and idle pages of entries with them. After that, and as long as nothing happens, nobody wakes up.

use super::cells::Cells;
use super::compaction::End;
use super::pool::Pool;
use crate::sync::now;
use crate::units::FRAME_SIZE;
use std::time::{Duration, Instant};

/// Wasted frames, in thousandths of the frames backed, above which compaction starts by itself, unless configured
/// otherwise. Random replacements without end waste 40 to 60 thousandths of 64 MiB of pages. Held below 25, they cost a move
/// for every tenth store (held below 15, for every fifth); of a GiB they waste little more than that by themselves.
pub const DEFAULT_WASTE_PER_MILLE: u32 = 25;

/// Wasted frames that no pool is compacted for: every class may have one.
const LEAST: u64 = 32;

/// Bytes that a pass may move before it looks whether it is to stop.
const BUDGET: u64 = 256 << 10;

/// Waste is compacted that is found at so many looks, ..
const LOOKS: u32 = 3;

/// .. one after the other: frames of what is freed and stored again at once would have to be backed again. Nobody rings
/// meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Without a frame changing hands for so long, warm ones go back.
const IDLE: Duration = Duration::from_millis(100);

/// When objects were held, try again after this, twice as long each time, ..
const RETRY: Duration = Duration::from_millis(50);

/// .. and so often at most: then more waste has to come first.
const RETRIES: u32 = 6;

/// Doublings of the step at most, when passes win little.
const MAX_BACKOFF: u32 = 6;

/// The state of the thread that looks after a pool: each call of [`tend`](Self::tend) does what is due.
#[derive(Debug)]
pub struct Upkeep {
    /// Share of the backed frames that may be wasted, in thousandths; `None`: compaction never starts by itself.
    per_mille: Option<u32>,
    /// Passes in a row that won little.
    backoff: u32,
    /// Wasted frames that the last pass has left over, of which there may be fewer by now.
    left_over: u64,
    /// Passes in a row that found objects held.
    retries: u32,
    /// Try again then although the trigger is not reached.
    retry: Option<Instant>,
    /// Waste above this level was seen so often, and the last time then.
    seen: Option<(u64, u32, Instant)>,
    /// Wasted frames that the last pass of an idle pool has left over, and a bit: not tried again before there are more.
    idle_waste: u64,
    /// What the arena counted when it was last looked at, and when.
    turns: u64,
    looked: Option<Instant>,
}

impl Upkeep {
    /// Compaction starts when so many thousandths of the frames backed are wasted; `None`: never.
    pub fn new(per_mille: Option<u32>) -> Self {
        Upkeep {
            per_mille,
            backoff: 0,
            left_over: 0,
            retries: 0,
            retry: None,
            seen: None,
            idle_waste: 0,
            turns: 0,
            looked: None,
        }
    }

    /// Do what is due now, stopping early if `stopped` says so. Returns when to call again at the latest; without a time,
    /// when the alarm of the arena is rung.
    ///
    /// # Locks
    /// As [`Pool::compact`].
    pub fn tend<C: Cells>(&mut self, pool: &Pool<C>, stopped: impl Fn() -> bool) -> Option<Duration> {
        pool.heap.arena.alarm().answer(pool.planted, || {
            let retry = self.gather(pool, &stopped);
            let idle = self.give_back(pool, &stopped);
            retry.into_iter().chain(idle).min()
        })
    }

    /// Compact if too much is wasted. Returns when to try again although nothing happens.
    fn gather<C: Cells>(&mut self, pool: &Pool<C>, stopped: &impl Fn() -> bool) -> Option<Duration> {
        let waste = &pool.heap.waste;
        let Some(per_mille) = self.per_mille else {
            waste.set_trigger(u64::MAX); // or all waste would wake us
            return None;
        };
        let left = self.retry.map(|at| at.saturating_duration_since(now()));
        // The pool may have grown or shrunk since the trigger was set.
        self.left_over = self.left_over.min(waste.frames());
        let share = share_of(pool, per_mille);
        let trigger = self.seen.map_or_else(|| self.trigger(share), |(level, ..)| level.max(share));
        if waste.frames() <= trigger && left != Some(Duration::ZERO) {
            self.seen = None;
            // What came before it was set has not rung.
            if waste.set_trigger(trigger) <= trigger {
                return left;
            }
        }
        if left != Some(Duration::ZERO) {
            let (_, looks, last) = self.seen.unwrap_or((trigger, 0, now()));
            let rest = LOOK_AGAIN.saturating_sub(now() - last);
            let early = looks > 0 && !rest.is_zero();
            if early || looks + 1 < LOOKS {
                waste.set_trigger(u64::MAX);
                if !early {
                    self.seen = Some((trigger, looks + 1, now()));
                }
                return left.into_iter().chain([if early { rest } else { LOOK_AGAIN }]).min();
            }
        }
        self.seen = None;
        let before = waste.frames();
        // Not to the last frame: where objects come and go, the next ones would have to back it again.
        let (won, end) = pass(pool, share * 3 / 5, stopped);
        // Less than an eighth of what was to be had is little.
        self.backoff = if won * 8 >= before { 0 } else { (self.backoff + 1).min(MAX_BACKOFF) };
        self.left_over = if end == End::OutOfBudget { 0 } else { waste.frames() };
        waste.set_trigger(self.trigger(share_of(pool, per_mille)));
        self.retries = if end == End::Busy { self.retries + 1 } else { 0 };
        let again = (1..=RETRIES).contains(&self.retries).then(|| RETRY * (1 << (self.retries - 1)));
        self.retry = again.map(|time| now() + time);
        again
    }

    /// Wasted frames above which a pass begins, where `share` are too many.
    fn trigger(&self, share: u64) -> u64 {
        share.max(self.left_over + ((share / 2) << self.backoff))
    }

    /// When nothing happens: compact what is left, and give warm frames back. Returns when to look again.
    fn give_back<C: Cells>(&mut self, pool: &Pool<C>, stopped: &impl Fn() -> bool) -> Option<Duration> {
        // Not earlier because of a kick.
        if let Some(left) = self.looked.and_then(|at| IDLE.checked_sub(now() - at)) {
            return Some(left);
        }
        let arena = &pool.heap.arena;
        if self.per_mille.is_some()
            && arena.turns() == self.turns
            && pool.heap.waste.frames() > self.idle_waste.max(LEAST)
        {
            let _ = pass(pool, 0, stopped);
            self.idle_waste = pool.heap.waste.frames() * 5 / 4;
            self.turns = arena.turns(); // the pass's own
        } else if pool.heap.waste.frames() <= LEAST {
            self.idle_waste = 0;
        }
        let again = arena.flush_if_idle(&mut self.turns);
        if !again {
            pool.heap.entries.trim(0);
        }
        self.looked = again.then(now);
        again.then_some(IDLE)
    }
}

/// Wasted frames that are too many.
fn share_of<C: Cells>(pool: &Pool<C>, per_mille: u32) -> u64 {
    (pool.heap.arena.backed_bytes() / FRAME_SIZE as u64 * u64::from(per_mille) / 1000).max(LEAST)
}

/// Compact until nothing can be won, or no more than `enough` frames are wasted. Returns the frames won, and why it ended.
fn pass<C: Cells>(pool: &Pool<C>, enough: u64, stopped: &impl Fn() -> bool) -> (u64, End) {
    let began = now();
    let mut won = 0;
    let end = loop {
        let done = pool.compact(BUDGET);
        won += done.frames_won();
        let enough = pool.heap.waste.frames() <= enough;
        if done.end() != End::OutOfBudget || done.frames_won() == 0 || enough || stopped() {
            break done.end();
        }
    };
    pool.compaction.note_automatic(now() - began);
    (won, end)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaConfig, Topology};
    use crate::sync::Arc;
    use crate::zsmalloc::{Handle, PoolConfig, TagSpace};

    /// A pool that somebody attends to, with so many objects, two a frame.
    fn pool(objects: usize) -> (Pool, Vec<Handle>) {
        let topology = Topology::simulated(1);
        let config = ArenaConfig { address_space: 1 << 28, commit_ahead: 1, topology, ..ArenaConfig::default() };
        let pool = Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &TagSpace::new()).unwrap();
        assert!(pool.heap.arena.alarm().attend());
        let handles = (0..objects).map(|_| pool.insert(&[1; 2048]).unwrap()).collect();
        (pool, handles)
    }

    /// Free every second of these objects: their frames stay.
    fn waste(pool: &Pool, handles: &[Handle]) {
        handles.iter().step_by(2).for_each(|&handle| pool.remove(handle).unwrap());
    }

    #[test]
    fn waste_wakes_nobody_who_does_not_compact() {
        let (pool, handles) = pool(1000);
        let alarm = pool.heap.arena.alarm();
        assert_eq!(Upkeep::new(None).tend(&pool, || false), None);
        waste(&pool, &handles);
        assert!(pool.heap.waste.frames() > 200 && !alarm.is_rung());
        // Another who does is told, and does it.
        alarm.leave();
        assert!(alarm.attend());
        let mut upkeep = Upkeep::new(Some(DEFAULT_WASTE_PER_MILLE));
        let _ = upkeep.tend(&pool, || false);
        assert!(pool.heap.waste.frames() <= LEAST, "{} frames are wasted", pool.heap.waste.frames());
    }

    #[test]
    fn the_trigger_falls_with_the_pool() {
        let (pool, mut handles) = pool(10_000);
        let mut upkeep = Upkeep::new(Some(100));
        let _ = upkeep.tend(&pool, || false);
        assert_eq!(pool.heap.waste.trigger(), 500);
        handles.drain(1000..).for_each(|handle| pool.remove(handle).unwrap());
        pool.flush();
        let _ = upkeep.tend(&pool, || false);
        assert_eq!(pool.heap.waste.trigger(), 50);
        waste(&pool, &handles);
        assert!(pool.heap.arena.alarm().is_rung());
    }

    #[test]
    fn the_trigger_stands_above_what_was_left_over_and_higher_after_passes_in_vain() {
        let at = |left_over, backoff| Upkeep { left_over, backoff, ..Upkeep::new(Some(25)) }.trigger(100);
        assert_eq!([at(0, 0), at(50, 0), at(80, 0), at(80, 1), at(80, 3)], [100, 100, 130, 180, 480]);
    }

    #[test]
    fn waste_is_compacted_when_it_is_seen_three_times_some_time_apart() {
        let (pool, handles) = pool(4000);
        let passes = || pool.compaction_stats().automatic_passes;
        let mut upkeep = Upkeep::new(Some(DEFAULT_WASTE_PER_MILLE));
        assert_eq!(upkeep.gather(&pool, &|| false), None, "nothing is wasted");
        waste(&pool, &handles);
        let before = pool.heap.waste.frames();
        assert!(before > 900, "{before} frames are wasted");
        assert_eq!(upkeep.gather(&pool, &|| false), Some(LOOK_AGAIN));
        for looks in 1..LOOKS {
            let (level, seen, _) = upkeep.seen.unwrap();
            assert_eq!((seen, pool.heap.waste.trigger()), (looks, u64::MAX), "and nobody rings meanwhile");
            upkeep.seen = Some((level, looks, now() + RETRY * 1000));
            assert_eq!(upkeep.gather(&pool, &|| false), Some(LOOK_AGAIN));
            assert_eq!((upkeep.seen.unwrap().1, passes()), (looks, 0), "a look that comes early is none");
            upkeep.seen = Some((level, looks, now() - LOOK_AGAIN));
            let again = upkeep.gather(&pool, &|| false);
            assert_eq!(again, (looks + 1 < LOOKS).then_some(LOOK_AGAIN));
        }
        let (left, share) = (pool.heap.waste.frames(), share_of(&pool, DEFAULT_WASTE_PER_MILLE));
        assert_eq!((passes(), upkeep.seen.is_none(), upkeep.backoff, upkeep.retries), (1, true, 0, 0));
        assert!(
            left <= share * 3 / 5 && upkeep.left_over <= left,
            "{left} of {before} frames are left, of {share} allowed"
        );
        assert_eq!(pool.heap.waste.trigger(), upkeep.trigger(share));
        assert!(pool.compaction_stats().pages_compacted >= before - left);
        // What is left is no reason for another.
        assert_eq!(upkeep.gather(&pool, &|| false), None);
        assert_eq!(passes(), 1);
    }

    #[test]
    fn waste_that_goes_before_it_was_seen_three_times_is_left_alone() {
        let (pool, handles) = pool(4000);
        let mut upkeep = Upkeep::new(Some(DEFAULT_WASTE_PER_MILLE));
        waste(&pool, &handles);
        assert_eq!(upkeep.gather(&pool, &|| false), Some(LOOK_AGAIN));
        (0..2000).for_each(|_| _ = pool.insert(&[1; 2048]).unwrap());
        upkeep.seen = upkeep.seen.map(|(level, looks, _)| (level, looks, now() - LOOK_AGAIN));
        assert_eq!(upkeep.gather(&pool, &|| false), None);
        assert!(upkeep.seen.is_none() && pool.compaction_stats().calls == 0);
        assert!(pool.heap.waste.trigger() < u64::MAX, "the next waste rings again");
    }

    #[test]
    fn objects_that_are_held_are_tried_again_at_twice_the_time_each() {
        let (pool, handles) = pool(1000);
        waste(&pool, &handles);
        let held: Vec<_> = handles.iter().skip(1).step_by(2).map(|&handle| pool.get(handle).unwrap()).collect();
        let before = pool.heap.waste.frames();
        let mut upkeep = Upkeep::new(Some(DEFAULT_WASTE_PER_MILLE));
        upkeep.seen = Some((32, LOOKS - 1, now() - LOOK_AGAIN));
        let began = now();
        assert_eq!(upkeep.gather(&pool, &|| false), Some(RETRY));
        assert_eq!((upkeep.retries, upkeep.backoff, pool.heap.waste.frames()), (1, 1, before));
        // Before that time nothing is done, although there is as much waste as before: the trigger stands above it.
        assert!(upkeep.retry.is_some_and(|at| at >= began + RETRY && at <= now() + RETRY));
        upkeep.retry = Some(now() + RETRY * 1000);
        let left = upkeep.gather(&pool, &|| false).unwrap();
        assert!(left > RETRY * 100 && pool.compaction_stats().automatic_passes == 1 && upkeep.left_over == before);
        upkeep.retry = Some(now());
        assert_eq!(upkeep.gather(&pool, &|| false), Some(RETRY * 2));
        assert_eq!((upkeep.retries, upkeep.backoff, pool.compaction_stats().automatic_passes), (2, 2, 2));
        drop(held);
        upkeep.retry = Some(now());
        assert_eq!(upkeep.gather(&pool, &|| false), None);
        assert_eq!((upkeep.retries, upkeep.backoff), (0, 0));
        assert!(pool.heap.waste.frames() < before / 4);
        // Not for ever.
        upkeep.retries = RETRIES;
        (0..400).for_each(|_| _ = pool.insert(&[1; 2048]).unwrap());
        let handles: Vec<_> = (0..600).map(|_| pool.insert(&[1; 2048]).unwrap()).collect();
        waste(&pool, &handles);
        let _held: Vec<_> = handles.iter().skip(1).step_by(2).map(|&handle| pool.get(handle).unwrap()).collect();
        upkeep.retry = Some(now());
        assert_eq!(upkeep.gather(&pool, &|| false), None);
        assert_eq!(upkeep.retries, RETRIES + 1);
    }
}
