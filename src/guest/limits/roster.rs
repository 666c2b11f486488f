//! [`Roster`]: the VMs of an engine, found without a lock, and whose turn it is to give memory.
//!
//! ```text
//!   place   0        1        2        3
//!         +--------+--------+--------+--------+--
//!         | VM a   | empty  | VM c   | VM d   |      a seat each: used by threads that are counted, left when they are gone
//!         +--------+--------+--------+--------+--
//!                                                 next within a memcg: the smallest finish of those that have something to give
//! ```
//!
//! - **R1** A VM that is used here is not dropped: who leaves waits for who uses it. So nothing is freed in a fault.

use super::evictable::{Counts, Evictable};
use crate::memcg::{Memcg, MemcgEvent};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, GrowTable, Mutex, Planted, Rank, Seat, Seated, Tally};
use crate::units::PAGE_SIZE;

/// VMs that are looked at for one pick in a fault; a thread of its own looks at all.
pub(super) const FAULT_LOOKS: u32 = 64;

/// The place of nobody.
pub(super) const NO_PLACE: u32 = u32::MAX;

/// Who is there.
#[derive(Debug)]
pub(crate) struct Roster {
    places: GrowTable<Place>,
    /// Places that were ever used.
    used: AtomicU32,
    /// Places to use again.
    free: Mutex<Vec<u32>>,
    /// The largest finish of a VM that was picked: where those who join begin.
    finish: Tally,
    /// Where bounded looks begin.
    looked: AtomicU32,
}

struct Place(Seat<Arc<dyn Evictable>>);

impl Default for Place {
    fn default() -> Self {
        Place(Seat::new(Planted::NONE))
    }
}

/// A VM whose turn it is. As long as this is there, so is the VM.
pub(super) struct Pick<'a> {
    vm: Seated<'a, Arc<dyn Evictable>>,
    pub(super) place: u32,
    pub(super) counts: Counts,
    /// Resident pages of all that were looked at.
    pub(super) all: u64,
    /// Pages that may go before it is down to what is protected of it.
    pub(super) spare: u64,
}

/// Which VMs may be picked.
pub(super) struct Wanted<'a> {
    /// Charged to this memcg.
    pub(super) scope: &'a Memcg,
    /// Of all places, or of so many from where the last such look ended.
    pub(super) looks: u32,
    /// And this one, if it is any's: that of who asks.
    pub(super) own: u32,
    /// What else they must be.
    pub(super) gives: &'a dyn Fn(u32, &dyn Evictable, &Counts) -> bool,
}

impl Roster {
    pub(super) fn new() -> Self {
        Roster {
            places: GrowTable::new(),
            used: AtomicU32::new(0),
            free: Mutex::new(Rank::Guest, Vec::new()),
            finish: Tally::new(),
            looked: AtomicU32::new(0),
        }
    }

    /// A VM joins; its place.
    pub(super) fn join(&self, vm: Arc<dyn Evictable>) -> u32 {
        vm.account().pace().catch_up(self.finish.get());
        let mut free = self.free.lock();
        let place = free.pop().unwrap_or_else(|| {
            let place = self.used.load(Ordering::Relaxed);
            self.places.get_or_make(place as usize);
            // Release: who sees the number finds the place.
            self.used.store(place + 1, Ordering::Release);
            place
        });
        vm.account().set_place(place);
        let put = self.at(place).0.put(vm);
        assert!(put.is_ok(), "place {place} of the roster was given out twice");
        place
    }

    /// It leaves. Waits for those who use it; what is returned is to be dropped where the allocator may be called.
    pub(super) fn leave(&self, place: u32) -> Option<Arc<dyn Evictable>> {
        let vm = self.at(place).0.take();
        if vm.is_some() {
            self.free.lock().push(place);
        }
        vm
    }

    fn at(&self, place: u32) -> &Place {
        self.places.get(place as usize).expect("places are made before they are counted")
    }

    /// Show all of them, each of which stays meanwhile.
    pub(super) fn each(&self, mut see: impl FnMut(u32, &dyn Evictable)) {
        for place in 0..self.used.load(Ordering::Acquire) {
            if let Some(vm) = self.at(place).0.get() {
                see(place, &**vm);
            }
        }
    }

    /// Who is next. Takes no lock and allocates nothing, but for the tree lock where some memcg is protected.
    pub(super) fn pick(&self, wanted: &Wanted<'_>) -> Option<Pick<'_>> {
        let protects = wanted.scope.tree().protects();
        let mut best = self.look(wanted, &|vm| if protects { vm.account().spare(wanted.scope).0 } else { u64::MAX });
        if best.is_none() && protects {
            // Below their `memory.low` all of them: then that is breached, as in the kernel. `memory.min` never is.
            best = self.look(wanted, &|vm| vm.account().spare(wanted.scope).1);
            if let Some(best) = &best {
                best.vm().account().note(MemcgEvent::Low);
            }
        }
        self.finish.raise(best.as_ref()?.vm().account().pace().finish());
        best
    }

    fn look(&self, wanted: &Wanted<'_>, spare: &dyn Fn(&dyn Evictable) -> u64) -> Option<Pick<'_>> {
        let used = self.used.load(Ordering::Acquire);
        let looks = wanted.looks.min(used);
        let first = if looks < used { self.looked.fetch_add(looks, Ordering::Relaxed) } else { 0 };
        let (mut best, mut all) = (None::<Pick<'_>>, 0);
        // Its own limit is what a fault meets most, and of many VMs those that are looked at may all be others.
        let own = Some(wanted.own).filter(|&own| looks < used && own < used);
        for place in own.into_iter().chain((0..looks).map(|look| first.wrapping_add(look) % used)) {
            let Some(vm) = self.at(place).0.get() else { continue };
            if !wanted.scope.is_charged_by(vm.account().objcg()) {
                continue;
            }
            let counts = vm.counts();
            all += counts.resident;
            if !(wanted.gives)(place, &**vm, &counts) {
                continue;
            }
            let spare = spare(&**vm);
            if spare == 0 {
                continue;
            }
            let finish = vm.account().pace().finish();
            if best.as_ref().is_none_or(|best| finish < best.vm().account().pace().finish()) {
                best = Some(Pick { vm, place, counts, all: 0, spare: spare.div_ceil(PAGE_SIZE as u64) });
            }
        }
        best.map(|best| Pick { all, ..best })
    }
}

impl Pick<'_> {
    pub(super) fn vm(&self) -> &dyn Evictable {
        &**self.vm
    }

    /// Its turn has brought `pages`, or nothing.
    pub(super) fn finish(&self, pages: u32) {
        let pace = self.vm().account().pace();
        match pages {
            0 => pace.pass(64, self.counts.resident, self.all),
            _ => pace.took(pages.into(), self.counts.resident, self.all),
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("taken", &self.0.is_taken()).finish()
    }
}
