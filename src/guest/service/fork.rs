//! Forks of the process that embeds this: what is done before, and in whom.
//!
//! ```text
//!   memory                    the kernel tells of forks                  it does not: no permission, or InThread
//!   default (DONTFORK)        is not in the child: an access there is a SIGSEGV
//!   kept for children         served from here (children.rs)             fork_prepare: nothing leaves, all comes in; fork_parent: may leave again
//!
//!   in the child: the engine is its parent's. What is dropped there does nothing.
//! ```
//!
//! 1. A child has copies of all that the engine is made of, and of the descriptors, whose requests are about its *parent's* memory. So nothing is ever
//!    asked of the kernel there ([`fork_mark`](super::fork_mark)).
//! 2. [`Engine::fork_prepare`] takes no lock that is held beyond it: any thread may go on to fault while a fork is under way.

use super::canary;
use super::fork_mark::in_child;
use super::last_words::LastWords;
use super::vm_desk::VmDesk;
use crate::guest::pages::Pages;
use crate::guest::uffd::Features;
use crate::guest::{Engine, Error};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;

/// Regions whose pages were brought in for forks, and stay until all that are under way are over: several threads may fork at once. One for each
/// time that it was closed.
#[derive(Default)]
pub(super) struct Held {
    forks: u32,
    pages: Vec<Arc<Pages>>,
}

impl Engine {
    /// Before a fork, as the first handler of `pthread_atfork` or by whoever forks: where the kernel does not tell of forks, memory that is
    /// [kept for children](crate::guest::memory::Memory::keep_on_fork) is brought in, which may pass limits: that counts as
    /// overshoot, and is said on standard error. [`fork_parent`](Self::fork_parent) must follow. Where nothing is kept, or the kernel tells,
    /// it does nothing.
    ///
    /// How many bytes were brought in.
    ///
    /// # Errors
    /// When a page cannot be read back: a child would have zeroes there. `fork_parent` must follow all the same.
    pub fn fork_prepare(&self) -> Result<u64, Error> {
        let (mut bytes, mut failed) = (0, None);
        for vm in self.vms() {
            let here = match vm.running().desk().hold_for_fork() {
                Ok(here) => here,
                // The others' memory is held all the same.
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            if here > 0 {
                LastWords::new(format_args!(
                    "{here} bytes of {} were brought in for a fork, whatever its limits: the kernel does not tell of forks here (it needs \
                     CAP_SYS_PTRACE, and Service::Threads or External)",
                    vm.memcg().path()
                ))
                .say();
            }
            bytes += here;
        }
        failed.map_or(Ok(bytes), Err)
    }

    /// After it, in the parent, whether or not there is a child: what was brought in may leave again, and the child's descriptor is not where the
    /// kernel has put it, at the lowest number that was free.
    pub fn fork_parent(&self) {
        for vm in self.vms() {
            let desk = vm.running().desk();
            desk.let_go_after_fork();
            desk.until_read();
        }
    }

    /// Before this process ends, where its children are to live on: what is theirs and out comes into their memory, whatever limits say, for
    /// nobody serves it once this process is gone, and it would read as zeroes. Takes as long as that takes; where there are no children, or none
    /// is served from here, it does nothing.
    pub fn settle_children(&self) {
        if !in_child() {
            self.vms().iter().for_each(|vm| {
                let desk = vm.running().desk();
                desk.children.settle(desk);
            });
        }
    }

    /// After it, in the child. Engines, VMs and regions are the parent's there: they must not be used, and may be dropped, of which nothing
    /// comes. Whether this is a child of the process that made this engine.
    ///
    /// Where the kernel tells of forks, a child that was born just as its parent was killed ends here, with a sentence: nobody holds what was out
    /// for it. Without this call such a child would read zeroes there; one whose parent is killed later would not.
    pub fn fork_child(&self) -> bool {
        // The parent's threads may have had any lock: so none is taken.
        let child = in_child();
        if child {
            canary::look();
        }
        child
    }
}

impl VmDesk {
    fn hold_for_fork(&self) -> Result<u64, Error> {
        if self.descriptor_features().contains(Features::EVENT_FORK) {
            return Ok(0);
        }
        // What is registered from here on is held at once.
        self.held.lock().forks += 1;
        let (mut brought, mut result) = (0, Ok(()));
        for pages in self.inherited_regions() {
            let (out, held) = pages.hold();
            self.held.lock().pages.push(pages);
            brought += out;
            // The others' memory is held all the same.
            result = result.and(held);
        }
        // It stays once it is in memory.
        result = result.and(self.children.family().bring_relics_in());
        result.map(|()| brought * PAGE_SIZE as u64)
    }

    fn let_go_after_fork(&self) {
        let over = {
            let mut held = self.held.lock();
            held.forks = held.forks.saturating_sub(1);
            if held.forks > 0 {
                return; // what is held is another fork's as well
            }
            std::mem::take(&mut held.pages)
        };
        over.iter().for_each(|pages| pages.reopen());
    }

    /// A region is about to be registered, and known already: while a fork is under way, none of its pages leaves.
    pub(super) fn hold_if_forking(&self, pages: &Arc<Pages>) {
        let mut held = self.held.lock();
        if held.forks > 0 {
            pages.close();
            held.pages.push(Arc::clone(pages));
        }
    }

    /// It is registered no more.
    pub(super) fn hold_no_more(&self, pages: &Arc<Pages>) {
        let gone = |held: &Arc<Pages>| Arc::ptr_eq(held, pages);
        let gone: Vec<_> = self.held.lock().pages.extract_if(.., |held| gone(held)).collect();
        drop(gone);
    }
}
