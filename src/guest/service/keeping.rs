//! [`Keeping`]: a store whose slots children may share: what is theirs is moved apart before something else is stored in its place.
//!
//! ```text
//!   parent    page 5 is stored again --> slot 105 <-- claim of the child
//!                                        first: slot 999 <-- claim of the child, with what was in 105
//! ```
//!
//! 1. A store goes through the lists of children, of their copies, and of relics once, in their order, while its page's word is Compressing. Meanwhile
//!    nobody claims its slot from that word: who inherits it gets bytes. From other claims: a grandchild, whose list lies behind its
//!    parent's; a moved part, whose copy lies behind the one it is of. The claim that is taken over is Busy until the new one is made, and the list
//!    with the new one is there before. So who passes the first before that finds the second.
//! 2. A list that becomes shorter shifts what lies behind: whoever went through it looks again.

use super::child::Child;
use super::claim::{BUSY, OUT, POISONED, STATE, Taken, Taking, slot, take, word};
use super::family::Family;
use crate::guest::pages::ports::{Count, Effort, Purse, Store};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::units::{NodeId, PAGE_SIZE, Slot};
use crate::zswap::{self, LoadedFrom, Stored, Zswap};

/// A store whose slots children may share: what is theirs is moved apart before something else is stored in its place.
pub(crate) struct Keeping {
    zswap: Arc<Zswap>,
    family: Arc<Family>,
}

impl Keeping {
    /// For the VM whose children these are.
    pub(crate) fn new(zswap: Arc<Zswap>, family: &Arc<Family>) -> Self {
        Keeping { zswap, family: Arc::clone(family) }
    }
}

impl Store for Keeping {
    fn put_away(
        &self,
        slot: Slot,
        purse: &dyn Purse,
        page: &[u8; PAGE_SIZE],
        effort: Effort,
    ) -> Result<Stored, zswap::Error> {
        self.family.move_apart(slot, effort != Effort::Unaided)?;
        self.zswap.put_away(slot, purse, page, effort)
    }

    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, zswap::Error> {
        self.zswap.read(slot, page, wait)
    }

    fn give_back(&self, slot: Slot) {
        self.zswap.give_back(slot);
    }

    fn holds(&self, slot: Slot) -> bool {
        self.zswap.holds(slot)
    }
}

// === impl Family ===

impl Family {
    /// A slot is about to be stored into anew: children that have what is there get slots of their own for it. In a fault (not `helped`),
    /// where that would allocate, the store is refused instead, and the evictor does it. Nothing is allocated to find out.
    ///
    /// # Errors
    /// When the store has no room for them, or [`Unprepared`](zswap::Error::Unprepared) in a fault; the slot is as it was.
    pub(crate) fn move_apart(&self, contested: Slot, helped: bool) -> Result<(), zswap::Error> {
        if (self.living() == 0 && !self.has_relics()) || !self.zswap.is_stored(contested) {
            return Ok(());
        }
        loop {
            // What comes to a list, or leaves it, meanwhile shifts the others, and changes this: then once more.
            let lists = self.lists.load(Ordering::SeqCst);
            let mut number = 0;
            while let Some(child) = self.living.nth(number) {
                self.move_theirs_apart(&child, contested, helped)?;
                number += 1;
            }
            if let Some(relics) = self.relics() {
                self.move_theirs_apart(&relics, contested, helped)?;
            }
            // One that was born, or moved, meanwhile may have taken a reference before its parent's word was moved apart.
            if !self.zswap.is_stored(contested) || self.lists.load(Ordering::SeqCst) == lists {
                return Ok(());
            }
        }
    }

    /// In order: a word that is in another list by now is in a later one, and was Busy until it was there.
    fn move_theirs_apart(&self, child: &Child, contested: Slot, helped: bool) -> Result<(), zswap::Error> {
        let mut number = 0;
        while let Some(copy) = child.copies.nth(number) {
            if copy.origin.contains(contested) {
                let page = (contested.0 - copy.origin.base().0) as usize;
                self.move_one_apart(child, copy.words.get(page), contested, helped)?;
            }
            number += 1;
        }
        Ok(())
    }

    fn move_one_apart(
        &self,
        child: &Child,
        theirs: &AtomicU64,
        contested: Slot,
        helped: bool,
    ) -> Result<(), zswap::Error> {
        let mut backoff = Backoff::new();
        loop {
            let seen = theirs.load(Ordering::Acquire);
            if !helped && matches!(seen & STATE, OUT | BUSY) && slot(seen) == contested {
                return Err(zswap::Error::Unprepared { slot: contested });
            }
            match take(theirs, contested) {
                Taking::Elsewhere => return Ok(()),
                // The thread that serves children reads it, and waits for nobody meanwhile.
                Taking::Busy => backoff.wait_for_io(),
                Taking::Mine => break,
            }
        }
        let busy = Taken { word: theirs, back: word(OUT, contested) };
        let mut bytes = [0; PAGE_SIZE];
        let now = match self.zswap.load(contested, &mut bytes) {
            Ok(()) => word(OUT, self.zswap.store_new(&self.memcg, NodeId(0), &bytes)?),
            Err(_) => {
                child.payer.observer.count(Count::Unreadable, 1);
                POISONED
            }
        };
        let _ = self.zswap.put(contested); // ours, so it is there
        busy.end(now);
        Ok(())
    }
}
