//! [`Resident`]: bytes that an upper layer holds in memory for a memcg, charged as `memory.current`.
//!
//! ```text
//!   charge_resident(bytes)
//!     charge Memory ----- fits ----------------------------------------------> above memory.high somewhere?
//!        ^   |                                                                   yes: note it, reclaim a batch there
//!        |   v refused at some memory.max                                        |
//!        +-- ask the reclaimers of that memcg    16 times in vain: note Oom,     v
//!                                                say who and why               Resident (gives back when dropped)
//! ```
//!
//! A resident page that is compressed leaves memory with its charge in hand: [`Resident::into_prepaid`], and
//! [`enter_prepaid`](super::Tree::enter_prepaid).
//!
//! Who charges must hold no lock that its own [`Reclaimer`](super::Reclaimer) takes: it may be called by this thread.

use super::cancel::Cancel;
use super::charge::LimitHit;
use super::counter::{Counter, NO_LIMIT};
use super::error::Error;
use super::event::MemcgEvent;
use super::handle::Memcg;
use super::objcg::Objcg;
use super::reclaim::End;
use super::request::ReclaimRequest;
use std::fmt;

/// Reclaim attempts that may bring nothing, as in the kernel.
const MAX_FAILURES: usize = 16;

/// Attempts in all: each made room, and others took it.
const MAX_TRIES: usize = 4096;

/// Reclaim for a charge asks for at least so many bytes, so that not every charge pays for it: the kernel's 32 pages.
const BATCH: u64 = 32 * 4096;

/// Bytes charged to a memcg as resident. Dropped, they are given back, without a lock and without the allocator.
#[must_use = "dropped, the bytes are not charged any more"]
pub struct Resident {
    objcg: Objcg,
    bytes: u64,
}

/// Why bytes cannot be resident.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResidentError {
    /// The memcg was removed.
    #[error(transparent)]
    Offline(#[from] Error),
    /// A limit is reached, and reclaim made no room below it.
    #[error("{hit}; reclaim brought nothing: {}", match end {
        End::NothingToScan => "there is nothing to reclaim, or nobody registered who can",
        End::Busy => "what there is, is in use this moment",
        _ => "what there is was used lately or cannot be written",
    })]
    NoRoom {
        /// Whose limit, and which.
        hit: LimitHit,
        /// How the last attempt to reclaim ended.
        end: End,
    },
}

impl ResidentError {
    /// The number with which a system call would fail.
    pub fn errno(&self) -> i32 {
        match self {
            ResidentError::Offline(error) => error.errno(),
            ResidentError::NoRoom { .. } => libc::ENOMEM,
        }
    }
}

impl Memcg {
    /// Charge `bytes` as resident, here and in every ancestor. Where a `memory.max` is hit, what lies below that memcg is
    /// reclaimed; above a `memory.high`, a batch of it once the charge stands.
    ///
    /// # Errors
    /// [`ResidentError::NoRoom`] when a limit is hit and reclaim brings nothing, sixteen times: then [`MemcgEvent::Oom`] is
    /// counted there. [`ResidentError::Offline`].
    ///
    /// # Locks
    /// Those of the reclaimers that are called, with none held.
    pub fn charge_resident(&self, bytes: u64) -> Result<Resident, ResidentError> {
        let objcg = self.objcg()?;
        let mut failures = 0;
        for tries in 1.. {
            let Err(hit) = self.tree().charge(objcg.id(), Counter::Memory, bytes) else { break };
            let end = if bytes > hit.limit() {
                End::NothingToScan // it can never fit
            } else {
                let missing = (hit.usage() + bytes).saturating_sub(hit.limit());
                let _stalled = self.stall();
                let reclaimed = hit.memcg().reclaim_up_to(&ReclaimRequest::new(missing.max(BATCH)), &Cancel::new());
                failures = if reclaimed.bytes > 0 { 0 } else { failures + 1 };
                reclaimed.end
            };
            if bytes > hit.limit() || failures == MAX_FAILURES || tries == MAX_TRIES {
                hit.memcg().note(MemcgEvent::Oom);
                return Err(ResidentError::NoRoom { hit, end });
            }
        }
        let resident = Resident { objcg, bytes };
        self.reclaim_high(bytes);
        Ok(resident)
    }

    /// Reclaim a batch wherever on the way up `memory.high` is passed.
    fn reclaim_high(&self, bytes: u64) {
        let mut at = Some(self.clone());
        while let Some(memcg) = at {
            let high = memcg.high();
            // The word alone first: what threads hold in stock is in it, and is recalled to know better.
            if high != NO_LIMIT && memcg.words().of(Counter::Memory).usage() > high {
                let above = memcg.current(Counter::Memory).saturating_sub(high);
                if above > 0 {
                    memcg.note(MemcgEvent::High);
                    let _stalled = self.stall();
                    let batch = ReclaimRequest::new(above.min(bytes.max(BATCH)));
                    let _ = memcg.reclaim_up_to(&batch, &Cancel::new());
                }
            }
            at = memcg.parent();
        }
    }
}

// === impl Resident ===

impl Resident {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The objcg they are charged through.
    pub fn objcg(&self) -> &Objcg {
        &self.objcg
    }

    /// The memcg that is charged: another one once its own was removed, and that one may be on its way out.
    pub fn memcg(&self) -> Memcg {
        loop {
            // A group that cannot be held was removed, and the objcg points elsewhere.
            if let Some(memcg) = self.objcg.tree().get(self.objcg.tree().group_of(self.objcg.id())) {
                return memcg;
            }
        }
    }

    /// Take `bytes` out as a charge of their own.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split(&mut self, bytes: u64) -> Resident {
        assert!(bytes <= self.bytes, "{bytes} bytes were to be split from {}", self.bytes);
        self.bytes -= bytes;
        Resident { objcg: self.objcg.clone(), bytes }
    }

    /// The memcg that is charged, and the bytes, charged through that memcg's own objcg: what
    /// [`enter_prepaid`](super::Tree::enter_prepaid) takes over. The caller uncharges what it does not hand on, as
    /// [`Counter::Memory`], or makes a [`Resident`] of it again.
    ///
    /// # Errors
    /// The value itself, when its memcg is on its way out this moment: try again.
    pub fn into_prepaid(self) -> Result<(Memcg, Objcg, u64), Resident> {
        let memcg = self.memcg();
        let Ok(own) = memcg.objcg() else { return Err(self) };
        let shared = memcg.shared();
        if own.id() != self.objcg.id() {
            // Both point to the same group, and will: usage does not change, only what the objcgs are known to hold.
            if !memcg.tree().is_current(self.objcg.id(), memcg.group()) {
                return Err(self);
            }
            shared.objcgs.release_bytes(self.objcg.id(), Counter::Memory, self.bytes);
            shared.objcgs.hold_bytes(own.id(), Counter::Memory, self.bytes);
        }
        let bytes = self.bytes;
        self.forget();
        Ok((memcg, own, bytes))
    }

    /// Bytes that are charged as [`Counter::Memory`] through this objcg already, as a value again.
    pub fn from_prepaid(objcg: Objcg, bytes: u64) -> Resident {
        Resident { objcg, bytes }
    }

    /// Leave the bytes charged, as those of `other`: the same charge as it was before [`into_prepaid`](Self::into_prepaid), which may have
    /// been through the objcg of a memcg that was removed. What points to one group goes on doing so, wherever that leads.
    #[cfg_attr(
        not(feature = "guest"),
        allow(dead_code, reason = "guests alone keep their charges apart from their pages")
    )]
    pub(crate) fn forget_as(self, other: Resident) {
        if self.objcg.id() != other.objcg.id() {
            let objcgs = &self.objcg.tree().shared().objcgs;
            objcgs.release_bytes(self.objcg.id(), Counter::Memory, self.bytes);
            objcgs.hold_bytes(other.objcg.id(), Counter::Memory, self.bytes);
        }
        other.forget();
        self.forget();
    }

    /// Drop the reference, and leave the bytes charged: something else holds them now.
    pub(crate) fn forget(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.objcg.tree().uncharge(self.objcg.id(), Counter::Memory, self.bytes);
        }
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("objcg", &self.objcg.id().raw()).field("bytes", &self.bytes).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Ask, Reclaimed, Reclaimer, Source, Tree, TreeConfig};
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Pages of one memcg each, coldest first: a client in small.
    #[derive(Default)]
    struct Pages(Mutex<Vec<(Memcg, Resident)>>);

    struct Evict(Arc<Pages>);

    impl Reclaimer for Evict {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
            let below = memcg.subtree();
            let mut pages = self.0.0.lock().unwrap();
            let mut bytes = 0;
            while bytes < ask.bytes {
                let Some(at) = pages.iter().position(|(owner, _)| below.contains(owner)) else {
                    return Reclaimed { bytes, end: if bytes > 0 { End::Exhausted } else { End::NothingToScan } };
                };
                bytes += pages.remove(at).1.bytes();
            }
            Reclaimed { bytes, end: End::Met }
        }
    }

    fn touch(pages: &Pages, memcg: &Memcg) {
        let resident = memcg.charge_resident(4096).unwrap();
        pages.0.lock().unwrap().push((memcg.clone(), resident));
    }

    #[test]
    fn a_charge_at_the_limit_reclaims_from_who_hit_it_and_no_one_else() {
        let tree = Tree::new(TreeConfig::default());
        let pages = Arc::new(Pages::default());
        let _registration = tree.register(Box::new(Evict(Arc::clone(&pages))));
        let tenant = tree.root().mkdir("tenant").unwrap();
        let [a, b] = ["a", "b"].map(|name| tenant.mkdir(name).unwrap());
        tenant.set_max(Counter::Memory, 1 << 20).unwrap();
        a.set_max(Counter::Memory, 512 << 10).unwrap();
        (0..64).for_each(|_| touch(&pages, &b));
        (0..200).for_each(|_| touch(&pages, &a));
        assert!(a.current(Counter::Memory) <= 512 << 10 && a.current(Counter::Memory) > (512 << 10) - BATCH - 1);
        assert_eq!(b.current(Counter::Memory), 64 * 4096, "a's limit is a's own business");
        assert!(a.events(MemcgEvent::Max) > 0 && a.events(MemcgEvent::Oom) == 0);
        assert!(a.stall_times().some.total > std::time::Duration::ZERO);
        pages.0.lock().unwrap().clear();
        assert_eq!(tree.root().current(Counter::Memory), 0);
        tree.assert_quiet();
    }

    #[test]
    fn a_charge_goes_on_as_long_as_reclaim_brings_anything() {
        struct PageByPage(Evict);
        impl Reclaimer for PageByPage {
            fn source(&self) -> Source {
                Source::ANON
            }
            fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
                // Another one takes what this one gave, but for a page: the rounds in vain must be in a row.
                let Reclaimed { bytes, .. } = self.0.reclaim(memcg, &Ask { bytes: 1, ..ask.clone() });
                Reclaimed { bytes: ask.bytes.min(bytes * 1024), end: End::Met }
            }
        }
        let tree = Tree::new(TreeConfig::default());
        let pages = Arc::new(Pages::default());
        let _registration = tree.register(Box::new(PageByPage(Evict(Arc::clone(&pages)))));
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Memory, 64 * 4096).unwrap();
        (0..64).for_each(|_| touch(&pages, &vm));
        let large = vm.charge_resident(40 * 4096).unwrap();
        assert_eq!((large.memcg().current(Counter::Memory), vm.events(MemcgEvent::Oom)), (64 * 4096, 0));
        assert_eq!(vm.events(MemcgEvent::Max), 40, "each attempt made room for a page");
        drop((large, pages.0.lock().unwrap().drain(..)));
    }

    /// Has nothing until it was asked so often, and counts.
    struct Late {
        asked: Mutex<usize>,
        patience: usize,
    }

    impl Reclaimer for Arc<Late> {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            if *asked < self.patience {
                return Reclaimed { bytes: 0, end: End::Exhausted };
            }
            memcg.set_max(Counter::Memory, memcg.max(Counter::Memory) + 4096).unwrap();
            Reclaimed { bytes: ask.bytes, end: End::Met }
        }
    }

    #[test]
    fn a_charge_is_refused_after_sixteen_attempts_in_vain() {
        for (patience, is_charged) in [(16, true), (usize::MAX, false)] {
            let tree = Tree::new(TreeConfig::default());
            let vm = tree.root().mkdir("vm").unwrap();
            let late = Arc::new(Late { asked: Mutex::new(0), patience });
            let _registration = tree.register(Box::new(Arc::clone(&late)));
            vm.set_max(Counter::Memory, 8192).unwrap();
            let _kept = vm.charge_resident(8192).unwrap();
            assert_eq!(vm.charge_resident(1).is_ok(), is_charged);
            assert_eq!((*late.asked.lock().unwrap(), vm.events(MemcgEvent::Oom)), (16, u64::from(!is_charged)));
        }
    }

    #[test]
    fn what_cannot_be_reclaimed_is_refused_and_counted() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Memory, 8192).unwrap();
        let _kept = vm.charge_resident(8192).unwrap();
        let error = vm.charge_resident(1).unwrap_err();
        assert_eq!(error.errno(), libc::ENOMEM);
        let says = "so 1 more are refused; raise its memory.max or have some of it reclaimed; reclaim brought nothing: \
                    there is nothing to reclaim, or nobody registered who can";
        assert!(error.to_string().ends_with(says), "{error}");
        assert!(vm.charge_resident(8193).is_err());
        assert_eq!((vm.events(MemcgEvent::Oom), tree.root().events(MemcgEvent::Oom)), (2, 2));
        vm.offline().unwrap();
        assert!(matches!(vm.charge_resident(1), Err(ResidentError::Offline(_))));
    }

    #[test]
    fn above_memory_high_a_charge_reclaims_a_batch_and_succeeds() {
        let tree = Tree::new(TreeConfig::default());
        let pages = Arc::new(Pages::default());
        let registration = tree.register(Box::new(Evict(Arc::clone(&pages))));
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_high(256 << 10).unwrap();
        (0..500).for_each(|_| touch(&pages, &vm));
        assert!(vm.current(Counter::Memory) <= 256 << 10);
        assert!(vm.events(MemcgEvent::High) >= 400 && vm.events(MemcgEvent::Max) == 0);
        drop(registration);
        (0..100).for_each(|_| touch(&pages, &vm));
        assert!(vm.current(Counter::Memory) > 256 << 10, "high refuses nothing");
        pages.0.lock().unwrap().clear();
        tree.assert_quiet();
    }

    #[test]
    fn a_charge_can_be_split_and_handed_on_also_after_its_memcg_went() {
        let tree = Tree::new(TreeConfig::default());
        let tenant = tree.root().mkdir("tenant").unwrap();
        let vm = tenant.mkdir("vm").unwrap();
        let mut resident = vm.charge_resident(10_000).unwrap();
        let page = resident.split(4096);
        assert_eq!((page.bytes(), resident.bytes(), page.memcg()), (4096, 5904, vm.clone()));
        vm.offline().unwrap();
        assert_eq!(page.memcg(), tenant);
        let (memcg, objcg, bytes) = page.into_prepaid().unwrap();
        assert_eq!((&memcg, objcg.id(), bytes), (&tenant, tenant.objcg().unwrap().id(), 4096));
        tree.assert_quiet();
        drop(resident);
        assert_eq!(tree.root().current(Counter::Memory), 4096);
        drop(Resident::from_prepaid(objcg, bytes));
        assert_eq!(tree.root().current(Counter::Memory), 0);
        tree.assert_quiet();
    }

    #[test]
    fn as_much_as_the_limit_admits_is_charged_at_once_if_all_else_can_go() {
        let tree = Tree::new(TreeConfig::default());
        let pages = Arc::new(Pages::default());
        let _registration = tree.register(Box::new(Evict(Arc::clone(&pages))));
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Memory, 8 * 4096).unwrap();
        (0..8).for_each(|_| touch(&pages, &vm));
        let all = vm.charge_resident(8 * 4096).unwrap();
        assert_eq!((vm.current(Counter::Memory), vm.events(MemcgEvent::Oom)), (8 * 4096, 0));
        drop(all);
        tree.assert_quiet();
    }

    #[test]
    fn what_can_never_fit_evicts_nothing_and_is_asked_for_once() {
        let tree = Tree::new(TreeConfig::default());
        let pages = Arc::new(Pages::default());
        let _registration = tree.register(Box::new(Evict(Arc::clone(&pages))));
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Memory, 8 * 4096).unwrap();
        (0..8).for_each(|_| touch(&pages, &vm));
        assert!(vm.charge_resident(8 * 4096 + 1).is_err());
        assert_eq!((pages.0.lock().unwrap().len(), vm.events(MemcgEvent::Max), vm.events(MemcgEvent::Oom)), (8, 1, 1));
        vm.set_high(8 * 4096).unwrap();
        drop(vm.charge_resident(0).unwrap());
        assert_eq!(vm.events(MemcgEvent::High), 0, "it is at memory.high, not above it");
        pages.0.lock().unwrap().clear();
    }
}
