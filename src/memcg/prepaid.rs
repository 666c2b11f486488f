//! Prepaid objects: a page that is charged as resident becomes a compressed object, without asking `memory.max` again.
//!
//! ```text
//!                          resident page    enter_prepaid    object, and the rest of the page    the rest uncharged
//!   Memory                     4096              4096                     4096                        1360
//!     of that resident         4096              2736                     2736                           0
//!   Zswap                         0              1360                     1360                        1360
//! ```
//!
//! Only [`Counter::Zswap`] is climbed. The object's share of Memory changes hands, so no limit is asked and no usage
//! changes, also on the way back: what does not come to be leaves its share with the page, whatever the limits are by then.
//!
//! Callers: `zsmalloc`, for whoever stores pages that it holds resident.

use super::counter::Counter;
use super::error::ChargeError;
use super::handle::Memcg;
use super::id::ObjcgId;
use super::stat::{Bytes4, Event};
use super::tree::Tree;
use crate::sync::Bug;
use crate::units::NodeId;

/// What is climbed for a prepaid object.
const PREPAID: &[Counter] = &[Counter::Zswap];

impl Tree {
    /// [`enter`](Self::enter) for an object made of a page that the memcg is charged for already, `prepaid` bytes as
    /// [`Counter::Memory`] through its objcg: those that the object does not need are uncharged. From then on the object is
    /// like any other, and the caller has nothing left to uncharge.
    ///
    /// # Errors
    /// As `enter`; nothing is changed then. No `memory.max` refuses.
    ///
    /// # Panics
    /// When the object needs more than `prepaid`, or the memcg is charged less.
    pub fn enter_prepaid(
        &self,
        memcg: &Memcg,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
        prepaid: u64,
    ) -> Result<ObjcgId, ChargeError> {
        let needs = bytes.compressed;
        let rest = prepaid.checked_sub(needs);
        let rest = rest.unwrap_or_else(|| panic!("an object of {needs} bytes is not paid by {prepaid}"));
        if self.shared().config.planted.is(Bug::PrepaidChargesAnew) {
            let objcg = memcg.objcg()?;
            self.uncharge(objcg.id(), Counter::Memory, prepaid);
            return self.enter(memcg, node, bytes, event);
        }
        let id = self.enter_sharing(memcg, node, bytes, event)?;
        self.uncharge(id, Counter::Memory, rest);
        Ok(id)
    }

    /// The first half of [`enter_prepaid`](Self::enter_prepaid): the object takes over its share of Memory, the rest stays
    /// the caller's, to be uncharged as Memory once the object has come to be.
    pub(crate) fn enter_sharing(
        &self,
        memcg: &Memcg,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
    ) -> Result<ObjcgId, ChargeError> {
        if !self.is(memcg.tree()) {
            return Err(ChargeError::Foreign { path: memcg.path() });
        }
        let id = self.enter_as(PREPAID, memcg.objcg()?, node, bytes, event)?;
        self.shared().objcgs.release_bytes(id, Counter::Memory, bytes.compressed);
        Ok(id)
    }

    /// Take back what [`enter_sharing`](Self::enter_sharing) did: the object's share of Memory is the caller's again. Lock-free;
    /// neither allocates nor frees.
    pub(crate) fn cancel_sharing(&self, id: ObjcgId, node: NodeId, bytes: Bytes4, event: Option<Event>) {
        self.shared().objcgs.hold_bytes(id, Counter::Memory, bytes.compressed);
        self.cancel_as(PREPAID, id, node, bytes, event);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memcg::{Tree, TreeConfig};

    #[test]
    fn an_object_that_does_not_come_to_be_leaves_the_page_its_charge() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let (memcg, objcg, paid) = vm.charge_resident(4096).unwrap().into_prepaid().unwrap();
        let bytes = Bytes4 { compressed: 1360, original: 4096, payload: 1300, incompressible: 0 };
        vm.set_max(Counter::Memory, 0).unwrap(); // no limit of memory is asked
        let state = || (vm.current(Counter::Memory), vm.current(Counter::Zswap), vm.stat().unwrap().bytes.original);
        let id = tree.enter_sharing(&memcg, NodeId(0), bytes, Some(Event::ZswpOut)).unwrap();
        assert_eq!(state(), (4096, 1360, 4096));
        tree.assert_quiet();
        tree.cancel_sharing(id, NodeId(0), bytes, Some(Event::ZswpOut));
        assert_eq!((state(), vm.stat().unwrap().events(Event::ZswpOut)), ((4096, 0, 0), 0));
        tree.assert_quiet();
        drop(crate::memcg::Resident::from_prepaid(objcg, paid));
        assert_eq!(state(), (0, 0, 0));
        tree.assert_quiet();
    }
}
