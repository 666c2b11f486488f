//! Every step of the protocols that move pages fails, or panics: once at its first time, once later, and each time.
//!
//! Whatever step it is: every page loads as it was stored, from exactly one place (`assert_valid`), nothing is charged that is not
//! there, and once the step works again everything goes on.

use super::{SwapoffError, Zswap};
use crate::memcg::{Cancel, Counter, Memcg};
use crate::swap::{DeviceOptions, Fault, FaultyDevice, Geometry, MemoryDevice, Plan};
use crate::sync::{Arc, How, Step, Times};
use crate::units::{NodeId, Page, Slot};
use crate::zswap::{Error, Shrunk};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

const N0: NodeId = NodeId(0);
const PAGES: u64 = 120;
const DEVICE_BYTES: usize = 24 * 4 * 4096;

type Fast = Arc<FaultyDevice<MemoryDevice>>;

/// An instance with two tiers, and what its slots hold.
struct Scene {
    zswap: Zswap,
    fast: Fast,
    /// Number of the fast device; `None` while it is off.
    number: Option<u8>,
    vm: Memcg,
    slots: Vec<Slot>,
    held: BTreeMap<Slot, u64>,
    lost: Vec<Slot>,
    title: String,
}

/// The pages, made once: thousands of loads are compared with them.
static MADE: LazyLock<Vec<Page>> = LazyLock::new(|| (0..2 * PAGES).map(make).collect());

fn page(number: u64) -> &'static Page {
    &MADE[number as usize]
}

fn make(number: u64) -> Page {
    let mut page = Page::zeroed();
    let mut x = number * 2 + 1;
    let len = match number % 7 {
        0 => 8,          // one word, wide
        1 => page.len(), // does not shrink
        k => 300 * k as usize,
    };
    for byte in &mut page[..len] {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = (x >> 56) as u8;
    }
    if number.is_multiple_of(7) {
        let word: [u8; 8] = page[..8].try_into().unwrap();
        page.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
    }
    page
}

impl Scene {
    fn new(title: String) -> Self {
        let fast = Arc::new(FaultyDevice::new(MemoryDevice::new(DEVICE_BYTES, 4096), Plan::none()));
        let geometry = Geometry { batch_pages: 4, ..Geometry::default() };
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).pool_limit(8 << 20).worker(false);
        let zswap = builder.device_geometry(geometry).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots: Vec<Slot> = zswap.reserve(PAGES).unwrap().iter().collect();
        zswap.swapon(DeviceOptions::device(MemoryDevice::new(DEVICE_BYTES, 4096)).tier("slow", 0)).unwrap();
        let mut scene = Scene { zswap, fast, number: None, vm, slots, held: BTreeMap::new(), lost: Vec::new(), title };
        scene.swapon();
        (0..PAGES).for_each(|k| scene.store(k, k));
        scene
    }

    fn swapon(&mut self) {
        let options = DeviceOptions::device(Arc::clone(&self.fast)).tier("fast", 10);
        self.number = Some(self.zswap.swapon(options).unwrap());
    }

    fn store(&mut self, k: u64, number: u64) {
        let slot = self.slots[k as usize];
        self.zswap.store(slot, &self.vm, N0, page(number)).unwrap();
        self.held.insert(slot, number);
        self.lost.retain(|&lost| lost != slot);
    }

    /// Do something that the armed step may end. What it says, if it did not panic.
    fn attempt<R>(&self, f: impl FnOnce(&Zswap) -> R) -> Option<R> {
        catch_unwind(AssertUnwindSafe(|| f(&self.zswap))).ok()
    }

    /// Everything is where it should be.
    fn check(&self, after: &str) {
        let title = &self.title;
        let mut back = Page::zeroed();
        for (&slot, &number) in &self.held {
            match self.zswap.load(slot, &mut back) {
                Ok(()) => assert!(back[..] == page(number)[..], "{title}, {after}: other bytes in {slot:?}"),
                Err(Error::Lost { .. }) if self.lost.contains(&slot) => {}
                Err(error) => panic!("{title}, {after}: {error}"),
            }
        }
        self.zswap.assert_valid();
    }

    /// All that moves pages, a check after each.
    fn run(&mut self) {
        self.attempt(|zswap| zswap.shrink_memcg(&self.vm, 40));
        self.check("writing back");
        self.attempt(|zswap| zswap.shrink_memcg(&self.vm, 60));
        // One page in three goes, so that there is something to clean.
        for k in (0..PAGES as usize).step_by(3) {
            let slot = self.slots[k];
            self.attempt(|zswap| zswap.free(slot));
            assert!(!self.zswap.is_stored(slot), "{}", self.title);
            self.held.remove(&slot);
            self.lost.retain(|&lost| lost != slot);
        }
        for _ in 0..2 {
            self.attempt(|zswap| zswap.clean(u64::MAX));
        }
        self.check("cleaning");
        self.attempt(|zswap| zswap.demote(&self.vm, "slow", 8_000, &Cancel::new()).unwrap());
        self.check("demoting");
        self.lose_one();
        if let Some(number) = self.number {
            match self.attempt(|zswap| zswap.swapoff(number, &Cancel::new(), |_| ())) {
                Some(Ok(_)) => self.number = None,
                Some(Err(SwapoffError::Step(_) | SwapoffError::Unreadable { .. })) => {}
                Some(Err(error)) => panic!("{}: {error}", self.title),
                // It panicked before the device went, or after it.
                None => self.number = self.number.filter(|&number| self.zswap.device(number).is_some()),
            }
            self.check("swapoff");
        }
    }

    /// A page of the fast device that cannot be read back.
    fn lose_one(&mut self) {
        let on_fast = |&slot: &Slot| {
            let owner = self.zswap.core.slots.owner(slot).unwrap();
            let word = self.zswap.core.slots.word(owner);
            matches!(word.content(), crate::swap::Content::Physical(place) if Some(place.device) == self.number)
        };
        let Some(slot) = self.held.keys().copied().find(on_fast) else { return };
        self.fast.replan(Plan::none().at(1, Fault::Errno(libc::EIO)));
        let loaded = self.attempt(|zswap| zswap.load(slot, &mut Page::zeroed()));
        assert!(matches!(loaded, None | Some(Err(Error::Lost { .. }))), "{}: {loaded:?}", self.title);
        self.fast.replan(Plan::none());
        self.lost.push(slot);
    }

    /// Nothing fails any more: all of it works, and is given back.
    fn recover(mut self) {
        self.zswap.core.steps.disarm();
        if self.number.is_none() {
            self.swapon();
        }
        (0..PAGES).for_each(|k| self.store(k, k + PAGES));
        while matches!(self.zswap.shrink_memcg(&self.vm, 64), Shrunk::Written(_)) {}
        let stats = self.zswap.stats();
        assert!(stats.physical_pages > PAGES / 2, "{}: {stats:?}", self.title);
        let _ = self.zswap.clean(u64::MAX);
        self.check("all that was broken works again");
        let number = self.number.take().unwrap();
        let report = self.zswap.swapoff(number, &Cancel::new(), |_| ()).unwrap();
        assert_eq!(report.touched, report.objects_at_start, "{}", self.title);
        assert!(self.zswap.device(number).is_none());
        self.check("a healthy swapoff");
        for &slot in &self.slots {
            assert!(self.zswap.free(slot), "{}", self.title);
        }
        self.zswap.quiesce();
        self.zswap.assert_valid();
        assert_eq!([self.vm.usage(), self.vm.current(Counter::Swap)], [0, 0], "{}", self.title);
        assert_eq!(self.zswap.stats().area.unwrap().used_bytes, 0, "{}", self.title);
    }
}

#[test]
fn whatever_step_fails_or_panics_each_page_is_in_one_place_and_all_goes_on() {
    let mut struck = 0;
    for step in Step::ALL {
        let mut here = 0;
        for how in [How::Fails, How::Panics] {
            for times in [Times::Once(1), Times::Once(7), Times::Always] {
                let mut scene = Scene::new(format!("{step:?} {how:?} {times:?}"));
                scene.zswap.core.steps.arm(step, how, times);
                scene.run();
                let strikes = scene.zswap.core.steps.struck();
                if times != Times::Once(7) {
                    assert!(strikes > 0, "{}: it was not reached", scene.title);
                }
                here += strikes;
                scene.recover();
            }
        }
        println!("{step:?}: {here} times");
        struck += here;
    }
    println!("{struck} in all");
}
