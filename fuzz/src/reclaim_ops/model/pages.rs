//! Pages: charged in memory, swapped out, faulted in, stored and loaded; and when that may be refused.

use super::super::client::{Held, Place};
use super::{Model, PageOf};
use zspool::memcg::{Counter, MemcgEvent, Resident, ResidentError};
use zspool::swap;
use zspool::units::{NodeId, PAGE_SIZE, Page};
use zspool::zswap::{Error, Installed, Taken, Unwritable};

impl Model {
    /// Charge resident bytes; none if that is rightly refused.
    pub(super) fn charge(&mut self, g: usize, bytes: u64) -> Option<Resident> {
        let (memcg, root) = (self.memcg(g), self.memcg(0));
        let [highs, maxes, ooms] =
            [memcg.events(MemcgEvent::High), root.events(MemcgEvent::Max), root.events(MemcgEvent::Oom)];
        match memcg.charge_resident(bytes) {
            Ok(resident) => {
                assert_eq!(resident.bytes(), bytes);
                let high = memcg.current(Counter::Memory) > memcg.high();
                assert!(!high || memcg.events(MemcgEvent::High) > highs, "a charge above memory.high is counted");
                self.reached.note("charges that stay above memory.high", high);
                Some(resident)
            }
            Err(ResidentError::NoRoom { hit, .. }) => {
                assert_eq!((hit.counter(), hit.asked()), (Counter::Memory, bytes), "{hit}");
                assert!(hit.usage() + bytes > hit.limit(), "2: {hit}");
                assert!(root.events(MemcgEvent::Oom) > ooms, "a charge without room is counted");
                assert!(root.events(MemcgEvent::Max) > maxes, "a limit that was hit is counted");
                if self.works() {
                    let (pages, ballast) = self.resident(self.number(hit.memcg()));
                    let left = if self.served.is_some() { ballast } else { pages + ballast };
                    assert!(left + bytes > hit.limit(), "5: {hit}, and only {left} of it have to stay");
                }
                self.reached.add("charges without room", 1);
                None
            }
            Err(error) => {
                assert!(self.meddling, "{} is charged {bytes}: {error}", memcg.path());
                None
            }
        }
    }

    /// A new page in memory, in the place of what the slot held. Whether there was room.
    pub(super) fn touch(&mut self, slot: u8, g: usize, page: PageOf) -> bool {
        let bytes = PAGE_SIZE as u64 + 64 * u64::from(slot % 4);
        let resident = self.charge(g, bytes);
        let charged = resident.is_some();
        if let Some(resident) = resident {
            self.free(slot);
            let held = Held { page, place: Place::Memory(resident, g) };
            self.client.with(|state| state.held.insert(slot, held));
        }
        self.catch_up();
        charged
    }

    /// What a stored slot holds.
    fn stored(&self, slot: u8) -> Option<PageOf> {
        let stored = |held: &&Held| matches!(held.place, Place::Stored);
        self.client.with(|state| state.held.get(&slot).filter(stored).map(|held| held.page))
    }

    pub(super) fn fault(&mut self, slot: u8, g: usize) {
        if self.stored(slot).is_none() {
            return;
        }
        let Some(resident) = self.charge(g, PAGE_SIZE as u64) else { return };
        // To make room for it, the tree may have swapped out others.
        let held = self.stored(slot).expect("what is stored stays so");
        let mut page = Page::zeroed();
        let result = self.instance.zswap.take_with(self.instance.slot(slot), |taken| {
            page.copy_from_slice(taken);
            Installed::Yes
        });
        match result {
            Ok(taken) => {
                assert_eq!(taken, Taken::Freed, "slot {slot}");
                self.check_read(slot, held, Ok(()), &page);
                let place = Place::Memory(resident, g);
                self.client.with(|state| state.held.insert(slot, Held { page: held, place }));
                self.reached.add("pages faulted in", 1);
            }
            Err(error) => self.check_read(slot, held, Err(error), &page),
        }
    }

    fn check_read(&mut self, slot: u8, held: PageOf, result: Result<(), Error>, page: &Page) {
        match result {
            Ok(()) => assert!(held.build()[..] == page[..], "1: slot {slot} came back with another page than {held:?}"),
            Err(Error::Lost { loss, .. }) => {
                assert!(self.faulty, "1: slot {slot} is lost without a fault: {loss}");
                self.reached.note("corrupt blocks found", loss.why == swap::Why::Corrupt);
            }
            Err(other) => panic!("1: slot {slot} holds {held:?}, and a load says {other:?}"),
        }
    }

    /// Store a page. Whether it was taken.
    pub(super) fn store(&mut self, slot: u8, g: usize, node: u8, page: PageOf) -> bool {
        let memcg = self.memcg(g);
        let node = NodeId(node % self.instance.zswap.tree().nodes() as u8);
        let result = self.instance.zswap.store(self.instance.slot(slot), &memcg, node, &page.build());
        if let Err(error) = &result {
            self.check_refusal(error);
        }
        // What was in memory is not charged any more.
        self.client.with(|state| match result {
            Ok(_) => state.held.insert(slot, Held { page, place: Place::Stored }),
            Err(_) => state.held.remove(&slot),
        });
        self.catch_up();
        result.is_ok()
    }

    /// Whether a page may be refused so.
    pub(super) fn check_refusal(&mut self, error: &Error) {
        let no_device = self.instance.device.is_none();
        let works = self.works();
        match error {
            Error::Limit { source, reason } => {
                self.reached.add("stores refused for a memcg's limit", 1);
                self.reached.note("stores refused for want of swap", *reason == Unwritable::SwapMax);
                assert_eq!(*reason == Unwritable::NoDevice, no_device, "{error}");
                assert!(self.meddling || source.usage() + source.asked() > source.limit(), "{error}");
                if works {
                    assert_eq!(source.counter(), Counter::Memory, "5: {error}");
                    let (pages, ballast) = self.resident(self.number(source.memcg()));
                    assert!(pages + ballast + source.asked() > source.limit(), "5: {error}");
                }
            }
            Error::PoolFull { reason, .. } | Error::NodesFull { reason, .. } => {
                let what = match error {
                    Error::PoolFull { .. } => "stores refused for the pool limit",
                    _ => "stores refused for full nodes",
                };
                self.reached.add(what, 1);
                assert_eq!(*reason == Unwritable::NoDevice, no_device, "{error}");
                assert!(!works, "5: {error}");
            }
            Error::Memcg(_) if self.meddling => {}
            other => panic!("a store is refused: {other:?}"),
        }
    }

    pub(super) fn load(&mut self, slot: u8) {
        let mut page = Page::zeroed();
        let result = self.instance.zswap.load(self.instance.slot(slot), &mut page);
        match self.stored(slot) {
            Some(held) => self.check_read(slot, held, result, &page),
            None => assert!(matches!(result, Err(Error::NotStored { .. })), "slot {slot} is empty: {result:?}"),
        }
    }

    /// Forget what the slot holds, wherever it is.
    pub(super) fn free(&mut self, slot: u8) {
        let was = self.client.with(|state| state.held.remove(&slot));
        let stored = matches!(was, Some(Held { place: Place::Stored, .. }));
        assert_eq!(self.instance.zswap.free(self.instance.slot(slot)), stored, "slot {slot}");
    }
}
