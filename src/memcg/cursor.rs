//! [`Cursor`]: whose turn it is, so that every memcg with entries gives its share however small the requests are.
//!
//! ```text
//! word   63 ................................ 12 | 11 ..... 0
//!        id of the memcg whose turn it is       | entries that its turn has used
//!
//! quantum 64, requests of 24 entries, memcgs 3, 5 and 9 listed
//!
//!   3:0 --24--> 3:24 --24--> 3:48 --16--> 3:64 --24--> 5:24 --...--> 9:64 --24--> 3:24
//!                                          |                                 wraps
//!                                          `- the share is used up: the next claim begins 5's turn
//! ```
//!
//! It is deficit round robin over the [roster](super::roster): a memcg keeps its turn until a quantum of entries was claimed
//! from it, over as many requests as that takes, so no memcg comes more than a quantum ahead of another. What a claim does not
//! use it gives back, while the turn lasts.
//!
//! Invariants:
//! - **U1** A cursor holds no reference: a memcg that goes is just not there at the next claim, which finds the first listed
//!   id above. (The kernel's cursor is a pointer with a reference, and its races are those of who drops it.)
//! - **U2** A claim is one compare-exchange from the word that it was computed from, so no two claimers get the same entries
//!   of a turn, and none sets the cursor back.
//! - **U3** A claimed memcg is the walker's own or below it, and was online and listed during the claim.
//! - **U4** A memcg that stays listed is claimed at least once between two moments at which [`Rounds`] says that a round is
//!   over.
//!
//! Every memcg has a cursor for walks of its subtree, which survives calls; a walker of its own kind (the worker) makes one
//! with [`Cursor::new`]. Claims by several threads of one cursor share the turns out among them.

use super::handle::Memcg;
use super::id::MemcgId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, Planted};

/// Bits of a word that count entries.
const USED_BITS: u32 = 12;
const USED: u64 = (1 << USED_BITS) - 1;
/// The turn is over whatever the quantum is: there was nothing to scan.
const OVER: u64 = USED;

/// The largest share of a turn, in entries.
pub const MAX_QUANTUM: usize = OVER as usize - 1;

/// Whose turn it is in a walk over the listed memcgs of a subtree, and how much of the turn is used.
#[derive(Debug, Default)]
pub struct Cursor {
    word: AtomicU64,
}

/// The right to look at some entries of a memcg, in its turn. Dropped, it counts as used.
#[derive(Debug)]
#[must_use = "a claim is a memcg's turn: scan it, then finish or skip"]
pub struct Claim<'a> {
    cursor: &'a Cursor,
    memcg: Memcg,
    entries: usize,
    began: bool,
}

/// One walker's count of rounds, from the claims it got: see [`over`](Self::over).
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    /// Where the round under way began, and where its last claim was; 0 before the first.
    first: u64,
    last: u64,
    /// The cursor passed the end of the roster since it began.
    wrapped: bool,
}

fn word(id: MemcgId, used: u64) -> u64 {
    debug_assert!(id.0 < 1 << (64 - USED_BITS), "ids of memcgs ran out of bits");
    id.0 << USED_BITS | used
}

fn parts(word: u64) -> (MemcgId, u64) {
    (MemcgId(word >> USED_BITS), word & USED)
}

// === impl Cursor ===

impl Cursor {
    /// At the beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begin again: another memcg's life.
    pub(super) fn reset(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// The right to look at up to `want` entries of the memcg whose turn it is among `scope` and its descendants, of `quantum`
    /// entries a turn (both at least 1; a quantum at most [`MAX_QUANTUM`]). `None` when none of them is listed, or `scope` was
    /// removed.
    ///
    /// Use a cursor with one `scope` only: with another, turns begin anywhere.
    ///
    /// # Locks
    /// The tree lock, for a look-up in an ordered set; none during the exchange.
    pub fn claim(&self, scope: &Memcg, quantum: usize, want: usize) -> Option<Claim<'_>> {
        let (quantum, want) = (quantum.clamp(1, MAX_QUANTUM) as u64, want.max(1) as u64);
        let planted = scope.shared().config.planted;
        let root = planted.is(Bug::CursorLeavesScope).then(|| scope.tree().root());
        // Relaxed: the word is a number, and the memcg that it names is looked up under the tree lock.
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            let (stands, used) = parts(now);
            let memcg = root.as_ref().unwrap_or(scope).whose_turn(stands, used >= quantum)?;
            let goes_on = memcg.id() == stands && used < quantum;
            let used = if goes_on { used } else { 0 };
            let entries = want.min(quantum - used);
            let next = word(memcg.id(), used + entries);
            let exchanged = if planted.is(Bug::CursorStoresBlindly) {
                self.word.store(next, Ordering::Relaxed);
                Ok(now)
            } else {
                self.word.compare_exchange(now, next, Ordering::Relaxed, Ordering::Relaxed)
            };
            match exchanged {
                Ok(_) => return Some(Claim { cursor: self, memcg, entries: entries as usize, began: !goes_on }),
                Err(other) => now = other,
            }
        }
    }

    /// Change how much the turn of `id` has used, if the cursor stands there. What the next turn of the same memcg has used
    /// may be changed instead, when the cursor went all the way round meanwhile: it then gets now what it did not get before.
    fn settle(&self, id: MemcgId, planted: Planted, change: impl Fn(u64) -> u64) {
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            let (stands, used) = parts(now);
            let mine = stands == id || planted.is(Bug::CursorGivesBackToAnyone);
            (mine && used != OVER).then(|| word(stands, change(used)))
        });
    }
}

// === impl Claim ===

impl Claim<'_> {
    /// The memcg. It can be removed at any time; a walk then finds nothing.
    pub fn memcg(&self) -> &Memcg {
        &self.memcg
    }

    /// How many of its entries may be looked at.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Whether the memcg's turn began with this claim.
    pub fn began(&self) -> bool {
        self.began
    }

    /// So many entries were looked at; the rest of the claim goes back to the turn, if it still lasts.
    pub fn finish(self, used: usize) {
        let back = self.entries.saturating_sub(used) as u64;
        if back > 0 {
            self.cursor.settle(self.memcg.id(), self.planted(), |used| used.saturating_sub(back));
        }
    }

    /// There was nothing to look at: the turn is over.
    pub fn skip(self) {
        self.cursor.settle(self.memcg.id(), self.planted(), |_| OVER);
    }

    fn planted(&self) -> Planted {
        self.memcg.shared().config.planted
    }
}

// === impl Rounds ===

impl Rounds {
    /// Before the first claim.
    pub fn new() -> Self {
        Self::default()
    }

    /// Note a claim, the next one of the same cursor. True when a round is over, and the claim the first of the next: every
    /// memcg that was listed all that time had a turn, by this walker or another one of the cursor.
    pub fn over(&mut self, claim: &Claim<'_>) -> bool {
        self.note(claim.memcg.id(), claim.began)
    }

    fn note(&mut self, MemcgId(id): MemcgId, began: bool) -> bool {
        if self.first == 0 {
            (self.first, self.last) = (id, id);
            return false;
        }
        let wraps = id < self.last || id == self.last && began;
        let back = (self.wrapped || wraps) && (id > self.first || id == self.first && began);
        // Who was first may have gone, and everyone left be below: then the second wrap ends the round.
        let over = back || self.wrapped && wraps;
        self.wrapped |= wraps;
        self.last = id;
        if over {
            (self.first, self.wrapped) = (id, false);
        }
        over
    }
}

impl Memcg {
    /// [`Cursor::claim`] with the memcg's own cursor: over itself and its descendants.
    ///
    /// # Locks
    /// The tree lock.
    pub fn claim(&self, quantum: usize, want: usize) -> Option<Claim<'_>> {
        self.shared().cursor(self.index()).claim(self, quantum, want)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Tree, TreeConfig};
    use super::*;
    use proptest::prelude::*;

    fn listed_child(parent: &Memcg, name: &str) -> Memcg {
        let child = parent.mkdir(name).unwrap();
        parent.tree().enlist(child.objcg().unwrap().id());
        child
    }

    fn delist(memcg: &Memcg) {
        memcg.delist_with(|listing| listing.clear());
    }

    /// Claims as (name's last letter, entries, began).
    fn claims(scope: &Memcg, quantum: usize, wants: &[usize]) -> Vec<(String, usize, bool)> {
        let claim = |&want: &usize| {
            let claim = scope.claim(quantum, want).unwrap();
            (claim.memcg().path(), claim.entries(), claim.began())
        };
        wants.iter().map(claim).collect()
    }

    fn expect(claims: &[(&str, usize, bool)]) -> Vec<(String, usize, bool)> {
        claims.iter().map(|&(path, entries, began)| (path.to_owned(), entries, began)).collect()
    }

    #[test]
    fn a_memcg_keeps_its_turn_until_its_quantum_is_used_up() {
        let tree = Tree::new(TreeConfig::default());
        let tenant = tree.root().mkdir("t").unwrap();
        let [_a, b] = ["a", "b"].map(|name| listed_child(&tenant, name));
        listed_child(&tree.root(), "sibling");
        assert_eq!(
            claims(&tenant, 64, &[24, 24, 24, 100, 1]),
            expect(&[
                ("/t/a", 24, true),
                ("/t/a", 24, false),
                ("/t/a", 16, false),
                ("/t/b", 64, true),
                ("/t/a", 1, true)
            ])
        );
        let claim = tenant.claim(64, 40).unwrap();
        claim.finish(10);
        assert_eq!(tenant.claim(64, 100).unwrap().entries(), 53, "30 of 40 came back");
        tenant.claim(64, 5).unwrap().skip();
        delist(&b);
        assert_eq!(claims(&tenant, 64, &[64, 64]), expect(&[("/t/a", 64, true), ("/t/a", 64, true)]));
        // The root's cursor stands elsewhere, and walks everything.
        assert_eq!(claims(&tree.root(), 9, &[9, 9, 9])[1], ("/sibling".to_owned(), 9, true));
    }

    #[test]
    fn the_edges_of_quantum_and_want() {
        let tree = Tree::new(TreeConfig::default());
        let root = tree.root();
        assert!(root.claim(1, 1).is_none(), "nobody is listed");
        let a = listed_child(&root, "a");
        assert_eq!(root.claim(0, 0).unwrap().entries(), 1);
        assert_eq!(root.claim(usize::MAX, usize::MAX).unwrap().entries(), MAX_QUANTUM - 1);
        assert!(root.claim(usize::MAX, 1).unwrap().began());
        root.claim(64, 1).unwrap().skip();
        let claim = root.claim(64, 1).unwrap();
        assert!(claim.began(), "a turn that was skipped is over, although only one is listed");
        claim.finish(usize::MAX);
        a.offline().unwrap();
        assert_eq!(root.claim(64, 1).unwrap().memcg(), &root, "what it left is its parent's");
        assert!(a.claim(64, 1).is_none());
    }

    #[test]
    fn a_memcg_made_at_a_removed_ones_place_begins_its_own_walk() {
        let tree = Tree::new(TreeConfig::default());
        let old = tree.root().mkdir("old").unwrap();
        let [_, b] = ["a", "b"].map(|name| listed_child(&old, name));
        claims(&old, 1, &[1, 1]);
        let index = old.index();
        old.children().iter().for_each(|child| child.offline().unwrap());
        old.offline().unwrap();
        drop((old, b));
        let new = tree.root().mkdir("new").unwrap();
        assert_eq!(
            (new.index(), parts(new.shared().cursor(index).word.load(Ordering::Relaxed)).0),
            (index, MemcgId(0))
        );
    }

    #[test]
    fn rounds_end_when_everyone_had_a_turn() {
        let overs = |claims: &[(u64, bool)]| {
            let mut rounds = Rounds::new();
            claims.iter().map(|&(id, began)| rounds.note(MemcgId(id), began)).collect::<Vec<_>>()
        };
        let (no, yes) = (false, true);
        assert_eq!(overs(&[(3, true), (5, true), (9, true), (3, true), (5, true)]), [no, no, no, yes, no]);
        // One alone: each turn is a round, a claim that goes on is none.
        assert_eq!(overs(&[(3, true), (3, false), (3, true), (3, true)]), [no, no, yes, yes]);
        // It begins in the middle of 5's turn; others took the claims in between.
        assert_eq!(
            overs(&[(5, false), (9, true), (3, true), (5, true), (3, true), (9, true)]),
            [no, no, no, yes, no, yes]
        );
        // The first one went, and everyone left is below it.
        assert_eq!(overs(&[(9, true), (3, true), (5, true), (3, true)]), [no, no, no, yes]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Requests of random budgets, most below a batch, over children of random sizes: no child that has entries left comes
        /// more than a batch ahead of another, in entries and, pages being alike, in bytes.
        #[test]
        fn no_child_comes_more_than_a_batch_ahead(
            sizes in prop::collection::vec(1usize..400, 1..8),
            budgets in prop::collection::vec(prop_oneof![9 => 1usize..64, 1 => 64usize..300], 1..120),
            batch in prop_oneof![Just(1usize), Just(64), 2usize..100],
            payload in 1u64..4096,
        ) {
            let tree = Tree::new(TreeConfig::default());
            let tenant = tree.root().mkdir("tenant").unwrap();
            let children: Vec<_> = (0..sizes.len()).map(|k| listed_child(&tenant, &k.to_string())).collect();
            let mut left = sizes.clone();
            for budget in budgets {
                let mut todo = budget;
                while todo > 0 && let Some(claim) = tenant.claim(batch, todo) {
                    let k = children.iter().position(|child| child == claim.memcg()).unwrap();
                    let scanned = claim.entries().min(left[k]);
                    prop_assert!(claim.entries() <= todo.min(batch));
                    if scanned == 0 {
                        delist(claim.memcg());
                        claim.skip();
                        continue;
                    }
                    left[k] -= scanned;
                    todo -= scanned;
                    claim.finish(scanned);
                }
                prop_assert!(todo == 0 || left.iter().all(|&left| left == 0), "a request ended early");
                let written: Vec<_> = (0..sizes.len()).filter(|&k| left[k] > 0).map(|k| sizes[k] - left[k]).collect();
                if let (Some(most), Some(least)) = (written.iter().max(), written.iter().min()) {
                    prop_assert!(most - least <= batch, "{most} and {least} with a batch of {batch}");
                    prop_assert!((most - least) as u64 * payload <= batch as u64 * payload);
                }
            }
        }
    }

    #[test]
    fn what_comes_back_of_a_turn_that_is_over_is_nobody_elses() {
        let tree = Tree::new(TreeConfig::default());
        let root = tree.root();
        let _both = ["a", "b"].map(|name| listed_child(&root, name));
        let of_a = root.claim(4, 4).unwrap();
        let of_b = root.claim(4, 3).unwrap();
        assert_eq!((of_a.memcg().path(), of_b.memcg().path()), ("/a".to_owned(), "/b".to_owned()));
        of_a.finish(1);
        assert_eq!(claims(&root, 4, &[4]), expect(&[("/b", 1, false)]), "b's turn had one left");
    }

    #[test]
    fn a_round_is_told_by_turns_that_begin() {
        let rounds = |notes: &[(u64, bool)]| {
            let mut rounds = Rounds::new();
            notes.iter().map(|&(id, began)| rounds.note(MemcgId(id), began)).collect::<Vec<_>>()
        };
        // More of the same turn is no second one.
        assert_eq!(
            rounds(&[(1, true), (2, true), (2, false), (3, true), (1, true)]),
            [false, false, false, false, true]
        );
        assert_eq!(
            rounds(&[(5, true), (7, true), (2, true), (5, false), (7, true)]),
            [false, false, false, false, true]
        );
    }

    #[test]
    fn a_round_is_over_with_the_claim_that_begins_the_next() {
        let (tree, mut rounds) = (Tree::new(TreeConfig::default()), Rounds::new());
        let _both = ["a", "b"].map(|name| listed_child(&tree.root(), name));
        let over: Vec<_> = (0..5).map(|_| rounds.over(&tree.root().claim(1, 1).unwrap())).collect();
        assert_eq!(over, [false, false, true, false, true]);
    }
}
