//! [`Model`]: what every slot holds, which devices there are, and whether one of them was ever told to fail.

use super::super::instance;
use super::super::meddler::{Done, Meanwhile, Meddler, SEGMENT_BYTES, SLOTS, STRIDE};
use super::super::page::PageOf;
use super::super::reached::Reached;
use super::{Disk, Op, Run};
use std::collections::HashMap;
use std::sync::Arc;
use zspool::memcg::{Cancel, Counter, Event, Memcg};
use zspool::swap::{BLOCK_BYTES, DeviceOptions, Fault, Plan, State};
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Error, Installed, Stored, SwapoffError, Taken, Zswap};

const N0: NodeId = NodeId(0);

/// Devices at most.
const DEVICES: usize = 3;

/// Slots for runs, and where they begin in their range.
const RUN_SLOTS: usize = 128;
const RUN_AT: usize = 448;

/// What a slot holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    page: PageOf,
    count: u64,
    /// A load said that the page is gone for good.
    lost: bool,
}

/// A device that is on.
#[derive(Debug)]
struct Attached {
    number: u8,
    device: Arc<Meddler>,
}

/// See the file.
pub struct Model {
    zswap: Arc<Zswap>,
    slots: SlotRange,
    memcgs: Vec<Memcg>,
    held: HashMap<u8, Held>,
    /// Slots for runs, of which those from [`RUN_AT`] on are used: across the end of a cluster.
    runs: SlotRange,
    run_held: Vec<Option<Held>>,
    /// Slots that the instance chose.
    new_held: Vec<(Slot, Held)>,
    devices: Vec<Attached>,
    /// A fault was planned: pages on devices may be gone from now on, and writes may have failed unseen.
    faulty: bool,
    /// Operations wait for a request to meddle with, or have meddled with this one.
    meddling: bool,
    reached: Reached,
}

impl Model {
    /// The instance that the run describes.
    pub fn new(run: &Run) -> Self {
        let builder = instance::builder(run.pool_frames, 0, 0)
            .new_is_referenced(run.new_is_referenced)
            .encryption(run.encryption);
        let zswap = Arc::new(builder.build().unwrap());
        let slots = zswap.reserve(u64::from(SLOTS) * STRIDE).unwrap();
        let runs = zswap.reserve((RUN_AT + RUN_SLOTS) as u64).unwrap();
        let memcgs = vec![zswap.root(), zswap.root().mkdir("a").unwrap(), zswap.root().mkdir("b").unwrap()];
        let mut model = Model {
            zswap,
            slots,
            memcgs,
            held: HashMap::new(),
            runs,
            run_held: vec![None; RUN_SLOTS],
            new_held: Vec::new(),
            devices: Vec::new(),
            faulty: false,
            meddling: false,
            reached: Reached::new(),
        };
        run.devices.iter().filter(|disk| !disk.segments.is_multiple_of(8)).for_each(|&disk| model.swapon(disk));
        model
    }

    fn slot(&self, slot: u8) -> Slot {
        self.slots.get(u64::from(slot) * STRIDE).unwrap()
    }

    fn run_slot(&self, k: usize) -> Slot {
        self.runs.get((RUN_AT + k) as u64).unwrap()
    }

    fn memcg(&self, n: u8) -> &Memcg {
        &self.memcgs[n as usize % self.memcgs.len()]
    }

    fn attached(&self, n: u8) -> Option<&Attached> {
        self.devices.get(n as usize % self.devices.len().max(1))
    }

    // === what was done in the middle of requests ===

    /// Every page that the slot has held, oldest first, while the logs of what was done meanwhile are gone through.
    fn catch_up(&mut self, slot: Option<u8>) -> Vec<Option<Held>> {
        let mut versions = Vec::new();
        let mut note = |held: &HashMap<u8, Held>| versions.extend(slot.map(|slot| held.get(&slot).copied()));
        note(&self.held);
        self.meddling = false;
        let mut all = Vec::new();
        for at in 0..self.devices.len() {
            let (done, cancelled, pending) = self.devices[at].device.done();
            self.reached.add("slots freed or replaced during their write", cancelled);
            self.reached.add("operations done during a request", done.len() as u64);
            self.meddling |= pending;
            all.extend(done);
        }
        all.sort_by_key(|&(number, _)| number);
        for (_, done) in all {
            match done {
                Done::Freed(slot, was) => assert_eq!(was, self.held.remove(&slot).is_some(), "slot {slot}"),
                Done::Stored(slot, page, Ok(())) => {
                    self.held.insert(slot, Held { page, count: 1, lost: false });
                }
                Done::Stored(slot, _, Err(error)) => {
                    self.check_refusal(&error, true);
                    self.held.remove(&slot);
                }
                Done::Dupped(slot, result) => self.dupped(slot, result.map(u64::from)),
                Done::Put(slot, result) => self.put(slot, result.map(u64::from)),
                Done::Offline(memcg) => self.memcgs.retain(|other| *other != memcg),
            }
            note(&self.held);
        }
        versions
    }

    fn dupped(&mut self, slot: u8, result: Result<u64, Error>) {
        match (result, self.held.get_mut(&slot)) {
            (Ok(n), Some(held)) => {
                held.count += 1;
                assert_eq!(n, held.count, "3: references of slot {slot}");
                self.reached.note("slots with more references than a word holds", held.count > 15);
            }
            (Err(Error::TooManyReferences { .. }), Some(held)) => assert_eq!(held.count, 15, "slot {slot}"),
            (Err(Error::NotStored { .. }), None) => {}
            other => panic!("dup of slot {slot}: {other:?}"),
        }
    }

    fn put(&mut self, slot: u8, result: Result<u64, Error>) {
        match (result, self.held.get_mut(&slot)) {
            (Ok(n), Some(held)) => {
                held.count -= 1;
                assert_eq!(n, held.count, "3: references of slot {slot}");
                if n == 0 {
                    self.held.remove(&slot);
                }
            }
            (Err(Error::NotStored { .. }), None) => {}
            other => panic!("put of slot {slot}: {other:?}"),
        }
    }

    // === pages ===

    /// One of the versions must be what came.
    fn check_read(&mut self, slot: u8, versions: &[Option<Held>], result: Result<(), Error>, page: &Page) {
        if self.judge(self.slot(slot), versions, result, page) {
            self.held.get_mut(&slot).expect("what is lost is held").lost = true;
        }
    }

    /// The same for any slot: whether it is lost.
    fn judge(&mut self, slot: Slot, versions: &[Option<Held>], result: Result<(), Error>, page: &Page) -> bool {
        let newest = versions.last().copied().flatten();
        match result {
            Ok(()) => {
                let is_it = |held: &Option<Held>| held.is_some_and(|held| held.page.build()[..] == page[..]);
                assert!(versions.iter().any(is_it), "1: slot {slot:?} came back with another page than {versions:?}");
                let is_lost = newest.is_some_and(|held| held.lost) && versions.len() == 1;
                assert!(!is_lost, "2: slot {slot:?} was lost, and came back");
            }
            Err(error @ (Error::Read { .. } | Error::Lost { .. })) => {
                assert!(newest.is_some(), "slot {slot:?} holds nothing any more, and reading it says {error}");
                assert!(self.faulty, "1: slot {slot:?} could not be read without a fault: {error}");
                let again = self.zswap.try_load(slot, &mut Page::zeroed());
                let elsewhere = !matches!(again, Err(Error::NeedsIo { .. } | Error::Lost { .. }));
                assert!(!elsewhere, "1: slot {slot:?} lies on no device, and reading it says {error}; then {again:?}");
                if matches!(error, Error::Lost { .. }) {
                    self.reached.note("pages lost", newest.is_some_and(|held| !held.lost));
                    return true;
                }
                self.reached.add("reads that may be tried again", 1);
            }
            Err(Error::NotStored { .. }) => {
                assert!(versions.iter().any(Option::is_none), "slot {slot:?} has lost {versions:?}");
            }
            Err(other) => panic!("slot {slot:?} holds {versions:?}, and a load says {other:?}"),
        }
        false
    }

    fn check_refusal(&mut self, error: &Error, meddled: bool) {
        match error {
            Error::Limit { .. } => self.reached.add("stores refused for a memcg's limit", 1),
            Error::PoolFull { .. } => self.reached.add("stores refused for the pool limit", 1),
            Error::Memcg(_) if meddled => {}
            other => panic!("a store is refused: {other:?}"),
        }
    }

    fn store(&mut self, slot: u8, memcg: u8, page: PageOf) {
        let memcg = self.memcg(memcg).clone();
        let result = self.zswap.store(self.slot(slot), &memcg, N0, &page.build());
        let meddled = self.meddling;
        self.catch_up(None);
        match result {
            Ok(stored) => {
                self.reached.note("pages written through", stored == Stored::WrittenThrough);
                self.held.insert(slot, Held { page, count: 1, lost: false });
            }
            Err(error) => {
                self.check_refusal(&error, meddled);
                self.held.remove(&slot);
            }
        }
    }

    fn store_run(&mut self, first: usize, n: usize, memcg: u8, page: PageOf) {
        let first = first % (RUN_SLOTS - n + 1);
        // Alike for patterns, which are stored together; others differ by their seed.
        let page_of = |k: usize| match page {
            PageOf::Mixed { random, seed } => PageOf::Mixed { random, seed: seed.wrapping_add(k as u8) },
            same => same,
        };
        let pages: Vec<_> = (0..n).map(|k| *page_of(k).build()).collect();
        let memcg = self.memcg(memcg).clone();
        let (done, result) = self.zswap.store_run(self.run_slot(first), &memcg, N0, &pages);
        let meddled = self.meddling;
        self.catch_up(None);
        match result {
            Ok(()) => assert_eq!(done, n),
            Err(error) => self.check_refusal(&error, meddled),
        }
        for k in 0..n {
            self.run_held[first + k] = (k < done).then(|| Held { page: page_of(k), count: 1, lost: false });
        }
    }

    fn load_run(&mut self, first: usize, n: usize) {
        let first = first % (RUN_SLOTS - n + 1);
        let mut pages = vec![[0; 4096]; n];
        let (done, result) = self.zswap.load_run(self.run_slot(first), &mut pages);
        self.catch_up(None);
        let mut page = Page::zeroed();
        for (k, read) in pages.iter().enumerate().take(done) {
            page.copy_from_slice(read);
            self.judge(self.run_slot(first + k), &[self.run_held[first + k]], Ok(()), &page);
        }
        if let Err(error) = result {
            let at = first + done;
            if self.judge(self.run_slot(at), &[self.run_held[at]], Err(error), &page) {
                self.run_held[at].as_mut().expect("what is lost is held").lost = true;
            }
        }
    }

    fn free_run(&mut self, first: usize, n: usize) {
        let first = first % (RUN_SLOTS - n + 1);
        let range = SlotRange::new(self.run_slot(first), n as u64);
        let held = self.run_held[first..first + n].iter_mut().filter_map(Option::take).count();
        assert_eq!(self.zswap.free_run(range), held as u64, "slots freed in a run");
    }

    fn store_new(&mut self, memcg: u8, page: PageOf) {
        let memcg = self.memcg(memcg).clone();
        let result = self.zswap.store_new(&memcg, N0, &page.build());
        let meddled = self.meddling;
        self.catch_up(None);
        match result {
            Ok(slot) => {
                assert!(self.new_held.iter().all(|&(other, _)| other != slot), "{slot:?} was given out twice");
                self.new_held.push((slot, Held { page, count: 1, lost: false }));
                self.reached.add("slots of the instance's choice", 1);
            }
            Err(error) => self.check_refusal(&error, meddled),
        }
    }

    fn put_new(&mut self, which: u8) {
        if self.new_held.is_empty() {
            return;
        }
        let (slot, held) = self.new_held.swap_remove(which as usize % self.new_held.len());
        let mut page = Page::zeroed();
        let result = self.zswap.load(slot, &mut page);
        self.catch_up(None);
        self.judge(slot, &[Some(held)], result, &page);
        assert_eq!(self.zswap.put(slot).expect("it holds a page"), 0);
    }

    fn load(&mut self, slot: u8) {
        let mut page = Page::zeroed();
        let result = self.zswap.load(self.slot(slot), &mut page);
        let versions = self.catch_up(Some(slot));
        self.check_read(slot, &versions, result, &page);
    }

    fn free(&mut self, slot: u8) {
        let held = self.held.remove(&slot);
        assert_eq!(self.zswap.free(self.slot(slot)), held.is_some(), "4: slot {slot} held {held:?}");
    }

    fn take(&mut self, slot: u8, install: bool) {
        let mut page = Page::zeroed();
        let answer = if install { Installed::Yes } else { Installed::No };
        let result = self.zswap.take_with(self.slot(slot), |taken| {
            page.copy_from_slice(taken);
            answer
        });
        let versions = self.catch_up(Some(slot));
        match result {
            Ok(taken) => {
                self.check_read(slot, &versions, Ok(()), &page);
                assert_eq!(taken == Taken::Kept, !install, "slot {slot} is {taken:?}");
                if taken == Taken::Freed {
                    let newest = versions[versions.len() - 1].expect("what was taken was held");
                    assert!(newest.page.build()[..] == page[..], "slot {slot} was freed, and held a newer page");
                    self.put(slot, Ok(newest.count - 1));
                }
                assert!(taken != Taken::Changed || versions.len() > 1, "slot {slot} changed, and nobody changed it");
            }
            Err(error) => self.check_read(slot, &versions, Err(error), &page),
        }
    }

    // === devices ===

    fn swapon(&mut self, disk: Disk) {
        if self.devices.len() == DEVICES {
            return;
        }
        let device = Arc::new(Meddler::impatient((2 + usize::from(disk.segments % 16)) * SEGMENT_BYTES as usize));
        device.attach(&self.zswap, self.slots);
        let tier = disk.tier % 3;
        let mut options = DeviceOptions::device(Arc::clone(&device))
            .tier(&format!("t{tier}"), 10 - i16::from(tier))
            .retire_after(u32::from(disk.retire_after % 4));
        if disk.most > 0 {
            options = options.max_bytes((2 + u64::from(disk.most)) * SEGMENT_BYTES);
        }
        let number = self.zswap.swapon(options).expect("a tier has one priority, and there are numbers enough");
        assert!(self.devices.iter().all(|other| other.number != number), "device {number} is on twice");
        self.devices.push(Attached { number, device });
        self.reached.note("devices beside others", self.devices.len() > 1);
    }

    fn swapoff(&mut self, device: u8, after: Option<u8>) {
        let Some(number) = self.attached(device).map(|attached| attached.number) else { return };
        let (cancel, mut calls) = (Cancel::new(), 0);
        let before = self.zswap.devices().iter().find(|row| row.number == number).expect("it is on").area.objects;
        let undisturbed = !self.faulty && !self.meddling;
        let result = self.zswap.swapoff(number, &cancel, |progress| {
            assert_eq!(progress.device, number);
            if after == Some(calls) {
                cancel.cancel();
            }
            calls = calls.saturating_add(1);
        });
        self.catch_up(None);
        let left = self.zswap.devices().iter().find(|row| row.number == number).map(|row| row.area.objects);
        match result {
            Ok(report) => {
                assert_eq!(left, None, "5: device {number} is gone");
                assert!(report.lost == 0 || self.faulty, "1: swapoff lost pages without a fault: {report:?}");
                if undisturbed {
                    let moved = report.to_pool + report.to_devices;
                    assert_eq!((moved, report.touched), (before, before), "5: {report:?}");
                }
                self.devices.retain(|attached| attached.number != number);
                self.reached.add("devices taken off", 1);
                self.reached.add("objects moved by swapoff", report.to_pool + report.to_devices);
                self.reached.add("objects moved by swapoff to other devices", report.to_devices);
                return;
            }
            Err(SwapoffError::Cancelled { .. }) => {
                assert!(after.is_some(), "5: nobody cancelled it");
                self.reached.add("swapoffs cancelled", 1);
            }
            Err(SwapoffError::NoRoom { .. }) => self.reached.add("swapoffs without room", 1),
            Err(error @ (SwapoffError::Unreadable { .. } | SwapoffError::Device(_))) => {
                assert!(self.faulty, "5: swapoff without a fault: {error}");
                self.reached.add("swapoffs that a fault stopped", 1);
            }
            Err(error) => panic!("5: swapoff: {error}"),
        }
        assert!(left.is_some_and(|left| left > 0 || self.faulty), "5: device {number} is on, and has {left:?} objects");
        assert_ne!(self.state(number), State::Draining, "5: device {number} is used again");
    }

    // === operations ===

    /// Do it, and look at the limits.
    pub fn step(&mut self, op: Op) {
        let swap: Vec<(Memcg, u64)> =
            self.memcgs.iter().map(|memcg| (memcg.clone(), memcg.current(Counter::Swap))).collect();
        let meddling = self.meddling;
        let forbidden = self.objects_on_forbidden_tiers();
        self.act(op);
        self.catch_up(None);
        for (number, now) in self.objects_on_forbidden_tiers() {
            let before = forbidden.iter().find(|(before, _)| *before == number);
            let kept = before.is_none_or(|&(_, before)| now <= before);
            assert!(kept, "4: device {number} has {now} objects, more than {before:?}, and its tier is forbidden");
        }
        for (memcg, before) in swap {
            let (now, max) = (memcg.current(Counter::Swap), memcg.max(Counter::Swap));
            assert!(now <= max.max(before) || meddling, "4: {} has {now} of {max} on devices", memcg.path());
        }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Store { slot, memcg, page } => self.store(slot, memcg, page),
            Op::StoreMany { first, n, memcg, random } => {
                for k in 0..n % 64 {
                    self.store((first + k) % SLOTS, memcg, PageOf::Mixed { random, seed: first + k });
                }
            }
            Op::StoreRun { first, n, memcg, page } => self.store_run(first.into(), usize::from(n % 64), memcg, page),
            Op::LoadRun { first, n } => self.load_run(first.into(), usize::from(n % 64)),
            Op::FreeRun { first, n } => self.free_run(first.into(), usize::from(n % 64)),
            Op::StoreNew { memcg, page } => self.store_new(memcg, page),
            Op::PutNew { which } => self.put_new(which),
            Op::Load { slot } => self.load(slot),
            Op::LoadMany { first, n } => (0..n % 32).for_each(|k| self.load((first + k) % SLOTS)),
            Op::Free { slot } => self.free(slot),
            Op::FreeMany { first, n, step } => {
                (0..n % 64).for_each(|k| self.free(first.wrapping_add(k.wrapping_mul(step)) % SLOTS));
            }
            Op::Dup { slot, n } => {
                for _ in 0..n % 32 {
                    let result = self.zswap.dup(self.slot(slot)).map(u64::from);
                    self.dupped(slot, result);
                }
            }
            Op::Put { slot, n } => {
                for _ in 0..n % 32 {
                    let result = self.zswap.put(self.slot(slot)).map(u64::from);
                    self.put(slot, result);
                }
            }
            Op::Take { slot, install } => self.take(slot, install),
            Op::Shrink { memcg, nr } => _ = self.zswap.shrink_memcg(self.memcg(memcg), nr.into()),
            Op::ShrinkAll { memcg } => _ = self.zswap.shrink_memcg(self.memcg(memcg), usize::from(SLOTS)),
            Op::Limit { memcg, bytes } => {
                let bytes = bytes.map_or(u64::MAX, |bytes| u64::from(bytes) * 4);
                self.zswap.set_zswap_max(self.memcg(memcg), bytes).unwrap();
            }
            Op::SwapMax { memcg, blocks } => {
                let bytes = blocks.map_or(u64::MAX, |blocks| u64::from(blocks) * BLOCK_BYTES as u64);
                self.memcg(memcg).set_max(Counter::Swap, bytes).unwrap();
            }
            Op::Writeback { memcg, on } => self.memcg(memcg).set_writeback(on).unwrap(),
            Op::Tier { memcg, tier, allowed } => {
                let name = format!("t{}", tier % 3);
                let known = self.zswap.tree().tiers().iter().any(|tier| tier.name == name);
                assert_eq!(self.memcg(memcg).set_tier(&name, allowed).is_ok(), known, "{name}");
            }
            Op::Rmdir { memcg } => {
                let at = memcg as usize % self.memcgs.len();
                if at > 0 && self.memcgs[at].offline().is_ok() {
                    self.memcgs.remove(at);
                }
            }
            Op::Swapon { disk } => self.swapon(disk),
            Op::Swapoff { device, cancel } => self.swapoff(device, cancel),
            Op::Clean { kib } => {
                let cleaned = self.zswap.clean(u64::from(kib) << 10);
                assert!(cleaned.lost == 0 || self.faulty, "1: cleaning lost pages without a fault: {cleaned:?}");
                self.reached.add("segments cleaned", cleaned.segments);
                self.reached.add("objects moved by cleaning", cleaned.objects);
            }
            Op::Demote { memcg, tier, kib } => {
                let name = format!("t{}", tier % 3);
                let known = self.zswap.tree().tiers().iter().any(|tier| tier.name == name);
                let memcg = self.memcg(memcg).clone();
                match self.zswap.demote(&memcg, &name, u64::from(kib) << 10, &Cancel::new()) {
                    Ok(demoted) => {
                        assert!(known);
                        self.reached.add("objects moved to another tier", demoted.objects);
                    }
                    Err(error) => assert!(!known || self.meddling, "{error}"),
                }
            }
            Op::ReclaimTo { memcg, tier, kib, zswap } => {
                let source = if zswap { " source=zswap" } else { "" };
                let text = format!("{kib}K{source} to=t{}", tier % 3);
                let met = self.memcg(memcg).clone().write_file("memory.reclaim", &text).is_ok();
                self.reached.note("requests to a tier that were met", met && kib > 0);
            }
            Op::Reinstate { device } => {
                if let Some(number) = self.attached(device).map(|attached| attached.number) {
                    let was = self.state(number);
                    self.zswap.reinstate(number).expect("the device is on");
                    self.reached.note("devices reinstated", was == State::Retired);
                    assert_ne!(self.state(number), State::Retired);
                }
            }
            Op::FailAt { device, k, how } => {
                if let Some(attached) = self.attached(device) {
                    attached.device.faulty().replan(how.plan(u64::from(k % 8) + 1));
                    self.faulty = true;
                }
            }
            Op::HangAt { device, k, all } => {
                if let Some(attached) = self.attached(device) {
                    let k = u64::from(k % 8) + 1;
                    let plan = if all { Plan::none().hang_from(k) } else { Plan::none().at(k, Fault::Hang) };
                    attached.device.faulty().replan(plan);
                    self.faulty = true;
                }
            }
            Op::Release { device, failed } => {
                if let Some(attached) = self.attached(device) {
                    let faulty = attached.device.faulty();
                    let released = if failed { faulty.release_failed(libc::EIO) } else { faulty.release() };
                    self.reached.add("requests that were answered late", released as u64);
                }
            }
            Op::Heal { device } => {
                if let Some(attached) = self.attached(device) {
                    attached.device.faulty().replan(Plan::none());
                }
            }
            Op::Meanwhile { device, ops, late } => {
                if let Some(attached) = self.attached(device) {
                    let ops: Vec<Meanwhile> = ops.into_iter().flatten().collect();
                    attached.device.meanwhile(ops, self.memcgs.clone(), late);
                }
            }
            Op::Work => _ = self.zswap.work_once(),
            Op::Tidy => self.zswap.quiesce(),
            Op::Check => self.zswap.assert_valid(),
        }
    }

    /// Objects on devices of tiers that the root forbids. (Cleaning writes there, and brings none.)
    fn objects_on_forbidden_tiers(&self) -> Vec<(u8, u64)> {
        let (tree, allowed) = (self.zswap.tree(), self.memcgs[0].tiers());
        let forbidden = |tier: &str| !allowed.contains(tree.tier(tier).expect("a device's tier is known"));
        let rows = self.zswap.devices();
        rows.iter().filter(|row| forbidden(&row.tier)).map(|row| (row.number, row.area.objects)).collect()
    }

    fn state(&self, number: u8) -> State {
        let rows = self.zswap.devices();
        rows.iter().find(|row| row.number == number).expect("the device is on").state
    }

    /// Everything adds up; everything is freed; nothing is left.
    pub fn end(mut self) -> Reached {
        let stats = self.zswap.stats();
        let events = self.zswap.root().stat().unwrap();
        self.reached.add("pages written back or through", events.events(Event::ZswpWb));
        self.reached.add("batches a device failed", stats.failed_writes);
        self.reached.add("pages on devices at the end", stats.physical_pages);
        let rows = self.zswap.devices();
        assert_eq!(rows.len(), self.devices.len());
        self.reached.note("devices that hang", rows.iter().any(|row| row.state == State::Hung));
        self.reached.note("tiers in use beside others", rows.iter().filter(|row| row.area.objects > 0).count() > 1);
        self.reached.note("retired devices", rows.iter().any(|row| row.state == State::Retired));
        for attached in &self.devices {
            attached.device.faulty().replan(Plan::none());
            attached.device.faulty().release();
            attached.device.meanwhile(Vec::new(), Vec::new(), false);
        }
        self.zswap.quiesce();
        self.zswap.assert_valid();
        (0..SLOTS).for_each(|slot| self.load(slot));
        self.load_run(0, RUN_SLOTS);
        (0..SLOTS).for_each(|slot| self.free(slot));
        self.free_run(0, RUN_SLOTS);
        while !self.new_held.is_empty() {
            self.put_new(0);
        }
        self.zswap.assert_valid();
        self.zswap.quiesce();
        self.zswap.arena().flush();
        let stats = self.zswap.stats();
        assert_eq!(self.zswap.root().usage(), 0, "6: nothing is charged in the end");
        assert_eq!(self.zswap.root().current(Counter::Swap), 0, "6: no place is charged in the end");
        assert_eq!((stats.backed_bytes, stats.slot_table_bytes), (0, 0), "6: nothing is left in the end");
        for row in self.zswap.devices() {
            assert_eq!((row.area.objects, row.area.used_bytes), (0, 0), "6: {} is empty in the end", row.name);
        }
        self.reached
    }
}
