//! Charging: reserving bytes at every level up to the root, so that no limit is passed at any instant.
//!
//! ```text
//!                          Zswap              Memory
//!            root        usage += n   5.    usage += n   6.
//!             |
//!          a tenant      usage += n   3.    usage += n   4.     each step one compare-exchange that keeps the limit;
//!             |                                                 one that fails gives back what came before it
//!   objcg -> vm          usage += n   1.    usage += n   2.
//! ```
//!
//! An object is charged as [`Counter::Zswap`] and [`Counter::Memory`] at each level, what upper layers hold resident as
//! Memory alone, a place on a device as [`Counter::Swap`].
//!
//! **Exactness.** A charge climbs from the group that the objcg points to at that time, an uncharge from where it
//! points then; in between the memcg may have been removed. Every group that is online at both times is passed both
//! times, by O2: the pointer only moves to parents. What the removed group was charged does not matter any more. A
//! rollback takes from the groups deeper than the one that refused, and from that one the counters before the one that did:
//! of each depth there is one group on the path, as long as the path reaches so deep.
//!
//! **Recycled indexes.** A step that finds another generation than it came for stands at a group that was removed,
//! and everything it passed below was removed before. So an uncharge starts again from where the objcg points now
//! (above), and a charge does as well, without giving back.
//!
//! **Just refusals.** A climb that will be refused further up holds a reservation for a moment, and another climb
//! that is refused only for that moment must not report it: "no refusal while a page would fit". Every climb
//! announces itself ([`Climbs`]); a refused one first waits until each climb that may have stood in its way is over,
//! and tries again if one was rolled back at the group that refused, or if there is room by now. If not, the refusal stands: what it saw
//! was charged. Bytes that lie in stocks (see `stock`) are treated alike: they are recalled, and noted as rolled back. The wait is
//! bounded (`TreeConfig::patience`): a climb lasts a few hundred nanoseconds, so more than that means that a climber was
//! preempted, and then the refusal is given although it may have been transient.
//!
//! **Marks and peaks** are looked at again once a charge stands, where one of its steps had a reason (`excess`).

use super::counter::{Counter, Over, Refusal};
use super::event::MemcgEvent;
use super::handle::Memcg;
use super::id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
use super::objcg::Objcg;
use super::stat::Event;
use super::tree::{Shared, Tree};
use crate::sync::Bug;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::thread::Backoff;
use std::fmt;

/// A charge was refused: some memcg would have passed its `memory.zswap.max`, `memory.max` or `memory.swap.max`.
///
/// It holds the memcg that refused, so that the caller can write back from there.
#[derive(Clone)]
pub struct LimitHit {
    memcg: Memcg,
    counter: Counter,
    usage: u64,
    limit: u64,
    asked: u64,
}

/// Climbs under way, in stripes by objcg so that tenants do not share a cache line.
#[derive(Debug)]
pub(super) struct Climbs {
    stripes: Box<[Stripe]>,
}

/// Climbs under way of the objcgs of one stripe.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU32);

/// A climb under way.
pub(super) struct Climbing<'a>(&'a Stripe);

/// How a climb ended.
pub(super) enum Climb {
    Charged,
    /// A group on the path was removed and recycled meanwhile.
    Stale,
    /// `at` refused; what was reserved below is given back.
    Refused {
        /// Where it began.
        start: GroupRef,
        at: GroupRef,
        counter: Counter,
        over: Over,
    },
}

/// Why bytes are given back: what was charged for a moment, or ahead, has refused others wrongly.
#[derive(Clone, Copy)]
enum Return {
    /// An object is gone.
    Uncharge,
    /// A climb was refused at this depth: from the groups deeper than that, and there the first `here` counters.
    Rollback { depth: u16, here: usize },
    /// A stock has too much, or is recalled.
    Spare,
}

// === impl Climbs ===

impl Climbs {
    /// `stripes` is rounded up to a power of two.
    pub(super) fn new(stripes: usize) -> Self {
        Climbs { stripes: (0..stripes.next_power_of_two()).map(|_| Stripe::default()).collect() }
    }

    #[inline]
    pub(super) fn begin(&self, id: ObjcgId) -> Climbing<'_> {
        let stripe = &self.stripes[id.raw() as usize & (self.stripes.len() - 1)];
        // Relaxed: the release of the first reservation publishes it to whoever that reservation refuses.
        stripe.0.fetch_add(1, Ordering::Relaxed);
        Climbing(stripe)
    }

    /// Wait until every climb that was under way at the call is over, until `done`, or until `patience` is used up.
    /// Each stripe is seen empty once, or at least its climbs had ended at some time since the call.
    fn settle(&self, patience: &mut u32, done: impl Fn() -> bool) {
        let mut backoff = Backoff::new();
        for stripe in &self.stripes {
            // Acquire pairs with the release in `drop`: the rollback of an ended climb is seen.
            while stripe.0.load(Ordering::Acquire) > 0 {
                if *patience == 0 || done() {
                    return;
                }
                *patience -= 1;
                backoff.wait();
            }
        }
    }

    /// Climbs under way.
    pub(super) fn under_way(&self) -> u32 {
        self.stripes.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for Climbing<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

// === charge and uncharge ===

impl Shared {
    /// One climb from the objcg's group to the root, in the counters `what` at each level.
    #[inline]
    pub(super) fn climb(&self, id: ObjcgId, what: &'static [Counter], bytes: u64) -> Climb {
        let start = self.objcgs.group(id);
        let (mut at, mut notable) = (start, false);
        loop {
            let group = self.group(at.index());
            let parent = group.parent(); // before `reserve` proves the generation, by G2
            for (here, &counter) in what.iter().enumerate() {
                match group.of(counter).reserve(at.generation(), bytes, self.config.planted) {
                    Ok(more) => notable |= more,
                    Err(Refusal::Stale) => return Climb::Stale,
                    Err(Refusal::Over(over)) => {
                        self.give_back(id, what, bytes, Return::Rollback { depth: at.depth(), here });
                        return Climb::Refused { start, at, counter, over };
                    }
                }
            }
            if at.depth() == 0 {
                break;
            }
            at = parent;
        }
        if notable {
            self.notice(id, start, what);
        }
        Climb::Charged
    }

    /// Take `bytes` from the objcg's group and its ancestors, in the counters `what`, as far as `why` says.
    #[inline]
    fn give_back(&self, id: ObjcgId, what: &'static [Counter], bytes: u64, why: Return) {
        let stood = !matches!(why, Return::Rollback { .. });
        'pointer: loop {
            let mut at = self.objcgs.group(id);
            loop {
                let here = match why {
                    Return::Rollback { depth, .. } if at.depth() < depth => return,
                    Return::Rollback { depth, here } if at.depth() == depth => &what[..here],
                    Return::Rollback { .. } if self.config.planted.is(Bug::RollbackForgetsCounter) => &what[..1],
                    _ => what,
                };
                let group = self.group(at.index());
                let parent = group.parent(); // before `give_back` proves the generation, by G2
                for &counter in here {
                    let words = group.of(counter);
                    if !words.give_back(at.generation(), bytes, stood, self.config.planted) {
                        continue 'pointer;
                    }
                    if !matches!(why, Return::Uncharge) {
                        words.note_rollback();
                    }
                }
                if at.depth() == 0 {
                    return;
                }
                at = parent;
            }
        }
    }

    #[inline]
    pub(super) fn uncharge(&self, id: ObjcgId, what: &'static [Counter], bytes: u64) {
        self.give_back(id, what, bytes, Return::Uncharge);
    }

    /// Uncharge bytes that were nobody's usage: whoever was refused for them is to try again.
    pub(super) fn return_spare(&self, id: ObjcgId, what: &'static [Counter], bytes: u64) {
        self.give_back(id, what, bytes, Return::Spare);
    }
}

impl Objcg {
    /// Reserve `bytes` of an object in the memcg and all its ancestors: [`Tree::charge`] as [`Counter::Zswap`]. Uncharge the
    /// same number later, through [`Tree::uncharge`] or [`Objcg::uncharge`].
    ///
    /// No limit is passed at any instant by any number of threads, and nothing is charged when one refuses.
    /// Lock-free; it may wait a moment before it refuses (`TreeConfig::patience`).
    ///
    /// # Errors
    /// When some memcg on the way would pass its `memory.zswap.max` or `memory.max`.
    #[inline]
    pub fn try_charge(&self, bytes: u64) -> Result<(), LimitHit> {
        self.tree().charge(self.id(), Counter::Zswap, bytes)
    }

    /// Take `bytes` of an earlier [`try_charge`](Self::try_charge) back.
    ///
    /// # Panics
    /// When fewer are charged.
    #[inline]
    pub fn uncharge(&self, bytes: u64) {
        self.tree().uncharge(self.id(), Counter::Zswap, bytes);
    }
}

impl Tree {
    /// Reserve `bytes` of usage in the memcg that the objcg points to and all its ancestors: as [`Counter::Zswap`] and
    /// [`Counter::Memory`] for Zswap, else in the one counter. The caller holds a reference to the objcg as long as they
    /// are charged, and [uncharges](Self::uncharge) the same number as the same counter later.
    ///
    /// What is charged as Zswap must be [accounted](Self::account) too: [`enter`](Self::enter) does both for an object.
    ///
    /// No limit is passed at any instant by any number of threads, and nothing is charged when one refuses. Lock-free, but before it refuses: then
    /// it waits a moment for others (`TreeConfig::patience`), and for whoever is at a stock. So not in a handler of a signal that may have
    /// interrupted a call of this library; one of a fault is none, for no such call touches a client's memory meanwhile.
    ///
    /// # Errors
    /// When some memcg on the way would pass its limit. Unless that is of Swap, [`MemcgEvent::Max`] is counted.
    pub fn charge(&self, id: ObjcgId, counter: Counter, bytes: u64) -> Result<(), LimitHit> {
        self.charge_all(id, counter.charged(), bytes)?;
        self.shared().objcgs.hold_bytes(id, counter, bytes);
        Ok(())
    }

    /// Charge in the counters `what`, at each level together.
    pub(super) fn charge_all(&self, id: ObjcgId, what: &'static [Counter], bytes: u64) -> Result<(), LimitHit> {
        let shared = self.shared();
        let mut patience = shared.config.patience;
        loop {
            let climbing = shared.climbs.begin(id);
            let climb = shared.climb(id, what, bytes);
            drop(climbing);
            let (start, at, counter, over) = match climb {
                Climb::Charged => return Ok(()),
                // Somebody removed a memcg meanwhile: the loop is lock-free.
                Climb::Stale => continue,
                Climb::Refused { start, at, counter, over } => (start, at, counter, over),
            };
            // A group that goes offline takes its objcgs' pointers away, so while the pointer stood the whole path
            // was online.
            if shared.objcgs.group(id) != start {
                continue;
            }
            let group = shared.group(at.index());
            if bytes <= over.limit {
                let returned = || group.of(counter).rollbacks() != over.rollbacks;
                // What threads hold in stock is nobody's usage (S2).
                let recall = || {
                    if !shared.config.planted.is(Bug::RefusalSkipsRecall) {
                        shared.recall();
                    }
                };
                recall();
                if !returned() && patience > 0 {
                    patience -= 1;
                    shared.climbs.settle(&mut patience, returned);
                    recall(); // one of the climbs may have been for a stock
                }
                // Bytes in stock may have become an object's, whose charge then was not for them: whose went meanwhile shows in the usage alone.
                let fits = || group.of(counter).usage().saturating_add(bytes) <= group.of(counter).limit();
                if returned() || fits() {
                    continue;
                }
            }
            if !group.hold(at.generation()) {
                continue; // removed since
            }
            let memcg = Memcg::adopt(self.clone(), at);
            if what[0] == Counter::Zswap {
                shared.objcgs.count(id, Event::Refused, 1);
            }
            if counter != Counter::Swap {
                memcg.note(MemcgEvent::Max);
            }
            return Err(LimitHit { memcg, counter, usage: over.usage, limit: over.limit, asked: bytes });
        }
    }

    /// Take `bytes` of an earlier [`charge`](Self::charge) as this counter back, from the memcg the objcg points to now and
    /// its ancestors. The caller holds a reference. Lock-free; neither allocates nor frees.
    ///
    /// # Panics
    /// When fewer are charged.
    #[inline]
    pub fn uncharge(&self, id: ObjcgId, counter: Counter, bytes: u64) {
        self.shared().objcgs.release_bytes(id, counter, bytes);
        self.shared().uncharge(id, counter.charged(), bytes);
    }
}

// === impl LimitHit ===

impl LimitHit {
    /// The memcg whose limit refused: the one to write back from.
    pub fn memcg(&self) -> &Memcg {
        &self.memcg
    }

    /// Its id.
    pub fn id(&self) -> MemcgId {
        self.memcg.id()
    }

    /// Its index.
    pub fn index(&self) -> GroupIndex {
        self.memcg.index()
    }

    /// Which of its limits it was.
    pub fn counter(&self) -> Counter {
        self.counter
    }

    /// The file that holds that limit.
    pub fn file(&self) -> &'static str {
        self.counter.max_file()
    }

    /// Bytes that were charged to it.
    pub fn usage(&self) -> u64 {
        self.usage
    }

    /// Its limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes asked for.
    pub fn asked(&self) -> u64 {
        self.asked
    }
}

/// # Locks
/// The tree lock, to spell the path.
impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, id) = (self.memcg.path(), self.memcg.id());
        let LimitHit { usage, limit, asked, .. } = self;
        let (holds, instead) = match self.counter {
            Counter::Zswap => ("holds", "write some of it back"),
            Counter::Memory => ("holds", "have some of it reclaimed"),
            Counter::Swap => ("has on devices", "free or load some of it"),
        };
        write!(
            f,
            "memcg {path} (id {id}) {holds} {usage} of at most {limit} bytes, so {asked} more are refused; \
             raise its {} or {instead}",
            self.file()
        )
    }
}

impl fmt::Debug for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitHit")
            .field("memcg", &self.memcg)
            .field("counter", &self.counter)
            .field("usage", &self.usage)
            .field("limit", &self.limit)
            .field("asked", &self.asked)
            .finish()
    }
}

impl std::error::Error for LimitHit {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::TreeConfig;
    use super::*;

    #[test]
    fn a_wait_for_climbs_ends_with_its_patience_or_with_what_it_is_for() {
        let climbs = Climbs::new(3); // four stripes
        let wait = |patience, done: bool| {
            let mut left = patience;
            climbs.settle(&mut left, || done);
            left
        };
        assert_eq!(wait(5, false), 5, "nobody is under way");
        let [one, two] = [1, 5].map(|id| climbs.begin(ObjcgId::from_raw(id)));
        assert_eq!(climbs.under_way(), 2);
        assert_eq!((wait(5, true), wait(5, false), wait(0, false)), (5, 0, 0));
        drop(one);
        assert_eq!((wait(3, false), climbs.under_way()), (0, 1), "of the same stripe one is left");
        drop(two);
        assert_eq!((wait(3, false), climbs.under_way()), (3, 0));
    }

    /// Without patience nobody waits for climbs, but what lies in stock is recalled all the same.
    #[test]
    fn a_refusal_without_patience_is_given_at_once() {
        let tree = Tree::new(TreeConfig { patience: 0, stocks: 0, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Swap, 4096).unwrap();
        let objcg = vm.objcg().unwrap();
        let _other = tree.shared().climbs.begin(objcg.id());
        tree.charge(objcg.id(), Counter::Swap, 4096).unwrap();
        let hit = tree.charge(objcg.id(), Counter::Swap, 1).unwrap_err();
        assert_eq!((hit.memcg(), hit.id(), hit.index()), (&vm, vm.id(), vm.index()));
        assert_eq!((hit.counter(), hit.usage(), hit.limit(), hit.asked()), (Counter::Swap, 4096, 4096, 1));
        assert_eq!(vm.stat().unwrap().events(Event::Refused), 0, "only refused objects are counted");
        tree.uncharge(objcg.id(), Counter::Swap, 4096);
        assert_eq!(vm.current(Counter::Swap), 0);
    }

    #[test]
    fn a_charge_refused_above_leaves_no_trace_below_but_for_those_it_may_have_refused() {
        let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
        let top = tree.root().mkdir("top").unwrap();
        let vm = top.mkdir("vm").unwrap();
        top.set_zswap_max(1000).unwrap();
        let objcg = vm.objcg().unwrap();
        let rollbacks = || Counter::ALL.map(|counter| vm.words().of(counter).rollbacks());
        objcg.try_charge(400).unwrap();
        let before = rollbacks();
        let hit = objcg.try_charge(601).unwrap_err();
        assert_eq!((hit.memcg(), hit.counter(), hit.usage()), (&top, Counter::Zswap, 400));
        assert_eq!((vm.usage(), vm.current(Counter::Memory), top.current(Counter::Memory)), (400, 400, 400));
        assert_eq!(vm.words().of(Counter::Zswap).noted_peak(), 400, "what was never charged is no peak");
        let after = rollbacks();
        assert!(after[0] != before[0] && after[1] != before[1], "who was refused in between is to look again");
        objcg.uncharge(400);
        assert_eq!(rollbacks(), after, "what was charged refused nobody wrongly");
        assert_eq!(vm.words().of(Counter::Zswap).noted_peak(), 400);
        tree.assert_quiet();
    }

    /// A climb that stands in another one's way, and is rolled back at last: nobody is refused for it.
    #[test]
    fn who_is_refused_for_a_moment_waits_for_the_moment_to_pass() {
        let tree = Tree::new(TreeConfig { patience: u32::MAX, stocks: 0, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Swap, 4096).unwrap();
        let objcg = vm.objcg().unwrap();
        let (shared, id) = (tree.shared(), objcg.id());
        let climbing = shared.climbs.begin(id);
        assert!(matches!(shared.climb(id, Counter::Swap.charged(), 4096), Climb::Charged));
        std::thread::scope(|scope| {
            let charge = scope.spawn(|| tree.charge(id, Counter::Swap, 1).map_err(|hit| hit.to_string()));
            std::thread::sleep(std::time::Duration::from_millis(20)); // it is refused, and waits
            shared.give_back(id, Counter::Swap.charged(), 4096, Return::Spare);
            drop(climbing);
            assert_eq!(charge.join().unwrap(), Ok(()));
        });
        tree.uncharge(id, Counter::Swap, 1);
        tree.assert_quiet();
    }
}
