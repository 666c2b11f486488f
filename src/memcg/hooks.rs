//! Where upper layers register what the tree calls: [`Reclaimer`]s, which make room, and [`Mover`]s, which take objects to
//! where they may lie.
//!
//! ```text
//!   Registration 1 ----.      hooks    1: Reclaimer (zswap)    calls 2      <- two threads are in it
//!   Registration 2 ----+--->           2: Mover (zswap)        calls 0
//!   Registration 3 ----'               3: Reclaimer (client)   calls 1, gone <- its registration waits for that one
//! ```
//!
//! Invariants:
//! - **K1** A hook is called with no lock held.
//! - **K2** When the drop of a [`Registration`] returns, no call of its hook is under way and none begins, and the hook is
//!   dropped.
//!
//! The tree owns hooks, and hooks may own handles on the tree: it is the drop of the registration that opens that circle, so
//! its owner must not be owned by the hook.

use super::error::Error;
use super::handle::Memcg;
use super::reclaim::Reclaimer;
use super::request::Source;
use super::tree::Tree;
use crate::sync::{Arc, Bug, Condvar, Mutex, Rank, assert_no_lock_held};
use std::fmt;

/// Moves objects that lie on nodes which their owners are allowed no longer.
pub trait Mover: Send + Sync {
    /// The nodes allowed to `memcg` and its descendants were set: move what lies elsewhere. `Err` says why not all of it could
    /// be moved, and how many bytes were left.
    fn move_home(&self, memcg: &Memcg) -> Result<(), Unmoved>;
}

/// What a [`Mover`] could not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmoved {
    /// Bytes of slots outside of the allowed nodes.
    pub bytes: u64,
    /// What kept them there.
    pub why: String,
}

/// Keeps a hook registered; dropped, it waits until no call of the hook is under way. Not to be dropped by the hook itself, nor
/// under a lock.
#[must_use = "dropped at once, it ends the registration"]
pub struct Registration {
    tree: Tree,
    number: u64,
}

/// What is registered.
pub(super) enum Hook {
    /// What it serves, asked once, so that nothing is called to find one.
    Reclaimer(Source, Box<dyn Reclaimer>),
    Mover(Box<dyn Mover>),
}

struct Entry {
    number: u64,
    hook: Arc<Hook>,
    /// Threads that are in it.
    calls: usize,
    /// Its registration waits for them.
    gone: bool,
}

#[derive(Default)]
struct State {
    /// In order of registration.
    entries: Vec<Entry>,
    next: u64,
}

/// All hooks of a tree.
pub(super) struct Hooks {
    state: Mutex<State>,
    /// A call of a hook that is gone has ended.
    ended: Condvar,
}

/// A call under way.
pub(super) struct Call<'a> {
    hooks: &'a Hooks,
    number: u64,
    /// `None` only in `drop`, for the hook must not be dropped by a caller.
    hook: Option<Arc<Hook>>,
}

// === impl Hooks ===

impl Hooks {
    pub(super) fn new() -> Self {
        Hooks { state: Mutex::new(Rank::Leaf, State::default()), ended: Condvar::new() }
    }

    fn add(&self, hook: Hook) -> u64 {
        let mut state = self.state.lock();
        state.next += 1;
        let number = state.next;
        state.entries.push(Entry { number, hook: Arc::new(hook), calls: 0, gone: false });
        number
    }

    fn remove(&self, number: u64, wait: bool) -> Arc<Hook> {
        let mut state = self.state.lock();
        loop {
            let at = state.entries.iter().position(|entry| entry.number == number).expect("it is registered once");
            state.entries[at].gone = true;
            if state.entries[at].calls == 0 || !wait {
                return state.entries.remove(at).hook;
            }
            self.ended.wait(&mut state);
        }
    }

    /// Begin a call of the first hook after `after` (0: of the first) that `wanted` wants, in order of registration.
    pub(super) fn next(&self, after: u64, wanted: impl Fn(&Hook) -> bool) -> Option<Call<'_>> {
        let mut state = self.state.lock();
        let mut later = state.entries.iter_mut().filter(|entry| entry.number > after && !entry.gone);
        let entry = later.find(|entry| wanted(&entry.hook))?;
        entry.calls += 1;
        Some(Call { hooks: self, number: entry.number, hook: Some(Arc::clone(&entry.hook)) })
    }

    /// What the registered reclaimers serve.
    pub(super) fn served(&self) -> Source {
        let state = self.state.lock();
        state.entries.iter().filter(|entry| !entry.gone).fold(Source::empty(), |sum, entry| match &*entry.hook {
            &Hook::Reclaimer(source, _) => sum | source,
            Hook::Mover(_) => sum,
        })
    }
}

// === impl Call ===

impl Call<'_> {
    /// The hook's number: where to go on.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn hook(&self) -> &Hook {
        self.hook.as_ref().expect("held until dropped")
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.hook = None; // before the count says so: the hook's last owner is its registration (K2)
        let mut state = self.hooks.state.lock();
        if let Some(entry) = state.entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.calls -= 1;
            if entry.gone && entry.calls == 0 {
                self.hooks.ended.notify_all();
            }
        }
    }
}

// === registering ===

impl Tree {
    /// Have `reclaimer` asked for bytes when a memcg of this tree is to be reclaimed from, after those of the same source that
    /// are registered already.
    ///
    /// # Locks
    /// A leaf, for a moment; `reclaimer` is called with none.
    pub fn register(&self, reclaimer: Box<dyn Reclaimer>) -> Registration {
        let hook = Hook::Reclaimer(reclaimer.source(), reclaimer);
        Registration { number: self.shared().hooks.add(hook), tree: self.clone() }
    }

    /// Have `mover` told when the nodes of a memcg were set through its file.
    ///
    /// # Locks
    /// As [`register`](Self::register).
    pub fn register_mover(&self, mover: Box<dyn Mover>) -> Registration {
        Registration { number: self.shared().hooks.add(Hook::Mover(mover)), tree: self.clone() }
    }
}

impl Memcg {
    /// Have every mover move what lies outside of the nodes allowed here and below.
    pub(super) fn move_home(&self) -> Result<(), Error> {
        let mut after = 0;
        while let Some(call) = self.shared().hooks.next(after, |hook| matches!(hook, Hook::Mover(_))) {
            after = call.number();
            let Hook::Mover(mover) = call.hook() else { unreachable!("only movers are wanted") };
            mover.move_home(self).map_err(|Unmoved { bytes, why }| Error::Unmoved {
                path: self.path(),
                nodes: self.nodes(),
                bytes,
                why,
            })?;
        }
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        assert_no_lock_held("a registration waits for calls under way");
        let shared = self.tree.shared();
        let wait = !shared.config.planted.is(Bug::RegistrationEndsEarly);
        drop(shared.hooks.remove(self.number, wait)); // without the lock: a hook's drop may take others
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("number", &self.number).finish_non_exhaustive()
    }
}
