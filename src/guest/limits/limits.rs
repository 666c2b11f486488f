//! [`Limits`]: what all VMs of an engine share, and making room for a charge that was refused.
//!
//! ```text
//!   make_room(memcg):   a VM below it with staged pages? -- compress two, oldest first ------------------> room
//!                          | none                                                                          ^
//!                          v                                                                               |
//!                       a VM below it with pages in place? -- stage 64 where its hand is, compress two ----+
//!                          | none gave any, of a few that were asked        (what does not shrink is put back, and the next looked at)
//!                          v
//!                       no room here and now: the evictor, who may write to a device, is waited for once
//! ```

use super::account::Account;
use super::evictable::{Counts, Evictable};
use super::overshoot::{OnOvershoot, Overshoot, Verdict};
use super::policy::{Policy, View};
use super::roster::{FAULT_LOOKS, Roster, Wanted};
use crate::guest::pages::outcomes::{Compressed, Staged};
use crate::memcg::{Memcg, Tree};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Clock, Mailbox, Planted, Tally, Turnstile};
use std::time::Duration;

/// Pages that are compressed in a fault: what one leaves behind compressed is less than another needs.
const FAULT_PAGES: u32 = 2;

/// Pages that go together, where so many lie together.
pub(super) const RUN: u32 = 64;

/// What making room in a fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// There may be room.
    Room,
    /// None yet: pages were found that do not shrink, which are passed by from now on.
    Search,
    /// None, and nothing more to be done here.
    Nothing,
}

/// VMs that are asked to stage a run in one fault before it is taken for vain.
const FAULT_TRIES: u32 = 4;

/// Words that the hand passes at most for a run in a fault, and on a thread of its own.
const FAULT_WORDS: u32 = 8192;
pub(super) const ALL_WORDS: u32 = u32::MAX;

/// Why the evictor is woken: somebody is above a mark.
pub(super) const ABOVE_MARK: u32 = 1;
/// Why it is woken: somebody waits for room.
pub(super) const WAITING: u32 = 2;

/// What limits are made with.
pub(crate) struct LimitsConfig {
    /// Which pages go.
    pub(crate) policy: Box<dyn Policy>,
    /// Who is asked when a limit is to be passed.
    pub(crate) on_overshoot: Option<Box<OnOvershoot>>,
    /// Pages that each VM near a limit has staged.
    pub(crate) staged_ahead: u32,
    /// The time.
    pub(crate) clock: Clock,
    /// Have the store get ready what it needs to take this memcg's pages without the allocator.
    pub(crate) prepare: Box<dyn Fn(&Memcg) + Send + Sync>,
}

/// What all VMs of an engine share.
pub(crate) struct Limits {
    tree: Tree,
    roster: Roster,
    config: LimitsConfig,
    mailbox: Arc<Mailbox>,
    /// Where faults wait for the evictor; open while there is one.
    room: Turnstile,
    /// The evictor does nothing: somebody checks.
    held: AtomicBool,
    /// Bytes that were won here, and pages found not to shrink, added up: it changes when there is something new to hope for.
    won: Tally,
}

/// A VM's place among those that share limits. Dropped, the VM leaves.
pub(crate) struct Membership {
    limits: Arc<Limits>,
    place: u32,
}

impl Limits {
    pub(crate) fn new(tree: Tree, config: LimitsConfig) -> Self {
        Limits {
            tree,
            roster: Roster::new(),
            config,
            mailbox: Arc::new(Mailbox::new()),
            room: Turnstile::new(Planted::NONE),
            held: AtomicBool::new(false),
            won: Tally::new(),
        }
    }

    /// A VM joins.
    pub(crate) fn join(self: &Arc<Self>, vm: Arc<dyn Evictable>) -> Membership {
        self.prepare(vm.account());
        Membership { place: self.roster.join(vm), limits: Arc::clone(self) }
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) fn policy(&self) -> &dyn Policy {
        &*self.config.policy
    }

    pub(crate) fn policy_name(&self) -> &'static str {
        self.config.policy.name()
    }

    pub(super) fn staged_ahead(&self) -> u32 {
        self.config.staged_ahead
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    pub(super) fn room(&self) -> &Turnstile {
        &self.room
    }

    /// Have the store ready for a VM's pages.
    pub(super) fn prepare(&self, account: &Account) {
        if let Some(memcg) = account.charged() {
            (self.config.prepare)(&memcg);
        }
    }

    /// Milliseconds.
    pub(crate) fn now(&self) -> u64 {
        self.config.clock.millis()
    }

    /// What to do about a limit that is to be passed.
    pub(super) fn ask(&self, overshoot: &Overshoot) -> Verdict {
        self.config.on_overshoot.as_ref().map_or(Verdict::Serve, |ask| ask(overshoot))
    }

    /// Have the evictor look, if it does not anyway.
    #[inline]
    pub(super) fn wake(&self) {
        if !self.mailbox.is_kicked() {
            self.mailbox.kick(ABOVE_MARK);
        }
    }

    /// Have the evictor do nothing from its next round on, or again.
    pub(crate) fn hold(&self, yes: bool) {
        self.held.store(yes, Ordering::Release);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Bytes were won, or something else that brings winning some nearer.
    pub(super) fn note_won(&self, bytes: u64) {
        self.won.add(bytes);
    }

    /// A number that changes with every byte that is won.
    pub(super) fn progress(&self) -> u64 {
        self.won.get()
    }

    /// Wait until the evictor has done a round, if there is one.
    pub(super) fn wait_for_room(&self, at_most: Duration) {
        match self.room.ticket() {
            Some(ticket) => {
                self.mailbox.kick(WAITING);
                self.room.wait(ticket, at_most);
            }
            None => crate::sync::thread::yield_now(),
        }
    }
}

// === taking pages ===

impl Limits {
    /// Take out about `want` pages of a VM, where its hand is, as the policy chooses; look at up to `budget` words.
    ///
    /// Neither allocates nor takes a lock, but for what the VM's regions do.
    pub(super) fn stage(&self, vm: &dyn Evictable, want: u32, budget: u32) -> Staged {
        let account = vm.account();
        if budget != ALL_WORDS && account.is_barren() {
            return Staged::default();
        }
        // What rests may be due by now.
        account.epochs().go_on(vm.counts().resident, self.now());
        let (mut region, mut page) = account.hand();
        let (mut staged, mut left) = (Staged::default(), budget);
        // Bans are spent within four laps, and chances in one; a lap that changes nothing is the last.
        for _lap in 0..6 {
            let (from_start, mut changed) = ((region, page) == (0, 0), false);
            vm.regions(region, &mut |number, clocked| {
                let first = if number == region { page } else { 0 };
                let mut view = View::new(clocked, first, want - staged.pages.min(want), left);
                self.policy().victims(&mut view);
                staged += view.staged();
                left = left.saturating_sub(view.passed()); // what was busy counts for more
                changed |= view.changed();
                (region, page) = (number, view.at());
                staged.pages < want && left > 0
            });
            if staged.pages >= want || left == 0 {
                break;
            }
            // All regions from the hand on are through: from the beginning, unless that is where it was.
            (region, page) = (0, 0);
            if from_start && !changed {
                break;
            }
        }
        account.set_hand(region, page);
        if (staged.pages, staged.busy) == (0, 0) && left > 0 {
            account.note_barren();
        }
        staged
    }

    /// Compress a page or two below `scope`, here and now, for the VM at the place `own`.
    pub(super) fn make_room(&self, scope: &Memcg, own: u32) -> Made {
        let staged = Wanted { scope, looks: FAULT_LOOKS, own, gives: &|_, _, counts: &Counts| counts.staged > 0 };
        let made = |compressed: Compressed| {
            self.note_won(compressed.progress());
            match compressed {
                // What came back is charged by who touched it, and the next may go.
                Compressed { won: 1.., .. } | Compressed { back: 1.., .. } => Made::Room,
                Compressed { stayed: 1.., .. } => Made::Search,
                _ => Made::Nothing,
            }
        };
        let mut best = Made::Nothing;
        for _ in 0..FAULT_TRIES {
            let Some(pick) = self.roster.pick(&staged) else { break };
            let compressed = pick.vm().compress_staged(FAULT_PAGES, false);
            match made(compressed) {
                Made::Room => return Made::Room,
                Made::Search => best = Made::Search,
                // Somebody has to make room first, or to write.
                Made::Nothing if compressed.refused + compressed.later > 0 => return best,
                Made::Nothing => {}
            }
        }
        if best == Made::Search {
            return best;
        }
        let gives = |_: u32, _: &dyn Evictable, counts: &Counts| counts.resident > counts.staged + counts.pinned;
        let resident = Wanted { scope, looks: FAULT_LOOKS, own, gives: &gives };
        for _ in 0..FAULT_TRIES {
            let Some(pick) = self.roster.pick(&resident) else { break };
            let staged = self.stage(pick.vm(), RUN, FAULT_WORDS);
            pick.finish(staged.pages);
            if staged.pages > 0 {
                return made(pick.vm().compress_staged(FAULT_PAGES, false));
            }
        }
        Made::Nothing
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("policy", &self.policy().name()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        drop(self.limits.roster.leave(self.place));
    }
}
