//! [`Model`]: what every place must read as, who has it, and whether a device was ever told to fail.

mod calls;

use super::super::instance;
use super::super::meddler::SEGMENT_BYTES;
use super::super::page::PageOf;
use super::super::reached::Reached;
use super::place::Place;
use super::{Op, Patch, Run, Serving};
use std::ops::Range;
use std::sync::Arc;
use zspool::guest::memory::{Method, Refusal};
use zspool::guest::{Engine, Error, FaultAround, FaultKind, Service, Vm, VmOptions, WorkingSet};
use zspool::memcg::{Cancel, Counter, Memcg};
use zspool::swap::{DeviceOptions, FaultyDevice, MemoryDevice, Plan};
use zspool::units::PAGE_SIZE;
use zspool::zswap::SwapoffError;

/// Places at most, and devices.
const PLACES: usize = 3;
const DEVICES: usize = 2;

/// As often as a page can be pinned.
const MOST_PINS: usize = 255;

/// Operations between looks at every word.
const LOOK_EVERY: u32 = 8;

struct OneVm {
    vm: Vm,
    /// By SIGBUS; else by nobody.
    served: bool,
    dirty: bool,
    recorded: Option<WorkingSet>,
}

struct Attached {
    number: u8,
    device: Arc<FaultyDevice<MemoryDevice>>,
}

/// See the file.
pub struct Model {
    // Dropped in this order.
    places: Vec<Option<Place>>,
    vms: Vec<OneVm>,
    /// p, p/a, p/b.
    memcgs: Vec<Memcg>,
    engine: Engine,
    devices: Vec<Attached>,
    /// A device was told to fail.
    tainted: bool,
    /// Counts up with every write: no two pages are alike.
    version: u64,
    steps: u32,
    reached: Reached,
}

impl Model {
    /// The engine that the run describes; an error where userfaultfd is not permitted.
    pub fn new(run: &Run) -> Result<Model, Error> {
        let zswap = instance::builder(run.pool_frames, 0, 0).build().expect("an instance");
        let builder = Engine::builder(zswap).evictor(false).staged_ahead(u32::from(run.staged_ahead % 65));
        let engine = builder.build()?;
        let p = engine.root().mkdir("p").expect("a new name");
        let memcgs = vec![p.clone(), p.mkdir("a").expect("a new name"), p.mkdir("b").expect("a new name")];
        let mut model = Model {
            places: (0..PLACES).map(|_| None).collect(),
            vms: Vec::new(),
            memcgs,
            engine,
            devices: Vec::new(),
            tainted: false,
            version: 0,
            steps: 0,
            reached: Reached::new(),
        };
        for (k, serving) in run.vms.into_iter().enumerate() {
            let vm = model.make_vm(k, serving)?;
            model.vms.push(vm);
        }
        if !run.device.is_multiple_of(8) {
            model.swapon(run.device);
        }
        for (k, patch) in run.places.into_iter().enumerate() {
            model.register(k as u8, patch);
        }
        Ok(model)
    }

    fn make_vm(&self, k: usize, serving: Serving) -> Result<OneVm, Error> {
        let Serving { service, around, kept, dirty } = serving;
        let around = match around % 4 {
            0 => FaultAround::Off,
            1 | 2 => FaultAround::Pages(u32::from(around)),
            _ => FaultAround::Adaptive,
        };
        let (served, dirty) = (!service.is_multiple_of(4), dirty % 4 == 3);
        let kept = if dirty || !served || kept.is_multiple_of(4) { 0 } else { u64::from(kept) * 512 };
        let service = if served { Service::InThread } else { Service::None };
        let options = VmOptions::new().service(service).fault_around(around).kept_bytes(kept).dirty_tracking(dirty);
        Ok(OneVm { vm: self.engine.vm(&self.memcgs[1 + k], options)?, served, dirty, recorded: None })
    }

    fn memcg(&self, n: u8) -> Memcg {
        self.memcgs[usize::from(n) % self.memcgs.len()].clone()
    }

    fn overshoot(&self) -> u64 {
        self.vms.iter().map(|one| one.vm.stats().overshoot_bytes).sum()
    }

    /// What each memcg has above its limit.
    fn above(&self) -> Vec<u64> {
        let above = |memcg: &Memcg| memcg.current(Counter::Memory).saturating_sub(memcg.max(Counter::Memory));
        self.memcgs.iter().map(above).collect()
    }

    // === pages ===

    /// Have a place in hand: there is one, and where in the list.
    fn at(&self, place: u8) -> Option<usize> {
        let at = usize::from(place) % PLACES;
        self.places[at].as_ref().map(|_| at)
    }

    fn place(&mut self, at: usize) -> &mut Place {
        self.places[at].as_mut().expect("it was looked at before")
    }

    /// Pages of a place from any two numbers.
    fn pages(&self, at: usize, first: u8, n: u8) -> Range<usize> {
        let pages = self.places[at].as_ref().expect("it was looked at before").pages;
        let first = usize::from(first) % pages;
        first..pages.min(first + 1 + usize::from(n) % 64)
    }

    /// A page that must be pinned to be touched: it is not served, or it may be lost.
    fn needs_pin(&self, at: usize) -> bool {
        let place = self.places[at].as_ref().expect("it was looked at before");
        place.region().is_some() && (self.tainted || !self.vms[place.vm].served)
    }

    /// Touch a page by whatever way is safe. One that is lost is thrown away.
    fn touch(&mut self, at: usize, page: usize, touch: impl FnOnce(&mut Place)) {
        if !self.needs_pin(at) {
            return touch(self.place(at));
        }
        let pinned = self.place(at).pin(page..page + 1);
        match pinned {
            Ok(()) => {
                touch(self.place(at));
                let place = self.place(at);
                place.unpin_to(place.pins() - 1);
            }
            Err(error) => self.lost(at, page..page + 1, error),
        }
    }

    /// A call said that a page of these cannot be read: that one is thrown away.
    fn lost(&mut self, at: usize, pages: Range<usize>, error: Error) {
        match error {
            Error::Unreadable { page, .. } => {
                let page = page as usize;
                assert!(self.tainted, "2: page {page} is lost, and no device failed: {error}");
                assert!(pages.contains(&page), "2: page {page} is named, asked were {pages:?}");
                self.reached.add("pages lost", 1);
                let place = self.place(at);
                if place.is_pinned(page) {
                    place.unpin_all();
                }
                place
                    .region()
                    .expect("registered")
                    .discard(Place::span(page..page + 1))
                    .expect("2: a lost page can be discarded");
                place.zero(page);
            }
            other => panic!("2: {other}"),
        }
    }

    fn read(&mut self, at: usize, pages: Range<usize>) {
        pages.for_each(|page| self.touch(at, page, |place| place.compare(page)));
    }

    fn write(&mut self, at: usize, page: usize, content: PageOf) {
        self.version += 1;
        let mut bytes = content.build();
        match content {
            PageOf::Zero => {}
            PageOf::Word(_) => {
                bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&self.version.to_ne_bytes()))
            }
            PageOf::Mixed { .. } => bytes[..8].copy_from_slice(&self.version.to_ne_bytes()),
        }
        self.touch(at, page, |place| place.write(page, 0, &bytes[..]));
    }

    /// Read all that is registered or was, or only what vanished.
    fn read_all(&mut self, only_vanished: bool) {
        for at in 0..PLACES {
            let Some(place) = &self.places[at] else { continue };
            let pages: Vec<usize> = (0..place.pages).filter(|&page| !only_vanished || place.vanished[page]).collect();
            if self.vms[place.vm].served || !only_vanished || place.region().is_none() {
                pages.into_iter().for_each(|page| self.read(at, page..page + 1));
            }
        }
    }

    // === places ===

    fn register(&mut self, place: u8, patch: Patch) {
        let at = usize::from(place) % PLACES;
        let vm = usize::from(patch.vm) % self.vms.len();
        if self.places[at].is_none() {
            let (method, of_file) = match patch.kind % 4 {
                0 => (Method::Move, false),
                1 => (Method::Protect, false),
                2 => (Method::Zap, true),
                _ => (Method::Protect, true),
            };
            let pages = 8 + usize::from(patch.pages) % 120;
            self.places[at] = Some(Place::new(pages, method, of_file, vm));
            for page in 0..usize::from(patch.used) % pages {
                self.write(at, page, PageOf::Mixed { random: 900, seed: page as u8 });
            }
        }
        let place = self.places[at].as_mut().expect("just made");
        if place.region().is_some() {
            return;
        }
        place.vm = vm;
        place.written.fill(false);
        match place.register(&self.vms[vm].vm) {
            Ok(()) => self.reached.add("registered", 1),
            Err(Error::Refused(Refusal::NoMethod { .. })) => {
                self.reached.add("ways out that the kernel or options exclude", 1);
            }
            Err(other) => panic!("memory as good as any is refused: {other}"),
        }
    }

    fn unregister(&mut self, at: usize) {
        loop {
            let Some(region) = self.place(at).take() else { return };
            match region.unregister() {
                Ok(()) => break self.reached.add("unregistered", 1),
                Err((region, error)) => {
                    self.place(at).give_back(region);
                    let all = 0..self.place(at).pages;
                    self.lost(at, all, error);
                }
            }
        }
        let all = 0..self.place(at).pages;
        self.read(at, all);
    }

    fn drop_region(&mut self, at: usize) {
        let Some(region) = self.place(at).take() else { return };
        drop(region);
        self.reached.add("dropped", 1);
        if !self.tainted {
            let all = 0..self.place(at).pages;
            self.read(at, all);
        }
        self.places[at] = None; // where pages are lost, who touches them gets a SIGBUS
    }

    // === devices ===

    fn swapon(&mut self, segments: u8) {
        if self.devices.len() == DEVICES {
            return;
        }
        let bytes = (2 + usize::from(segments % 16)) * SEGMENT_BYTES as usize;
        let device = Arc::new(FaultyDevice::new(MemoryDevice::new(bytes, 4096), Plan::none()));
        let number = self.engine.zswap().swapon(DeviceOptions::device(Arc::clone(&device))).expect("numbers enough");
        self.devices.push(Attached { number, device });
    }

    fn swapoff(&mut self, device: u8) {
        if self.devices.is_empty() {
            return;
        }
        let at = usize::from(device) % self.devices.len();
        match self.engine.zswap().swapoff(self.devices[at].number, &Cancel::new(), |_| ()) {
            Ok(report) => {
                assert!(report.lost == 0 || self.tainted, "2: swapoff lost pages, and no device failed: {report:?}");
                self.reached.add("devices taken off", 1);
                self.reached.add("objects moved by swapoff", report.to_pool + report.to_devices);
                self.devices.remove(at);
            }
            Err(SwapoffError::NoRoom { .. }) => self.reached.add("swapoffs without room", 1),
            Err(error @ (SwapoffError::Unreadable { .. } | SwapoffError::Device(_))) => {
                assert!(self.tainted, "2: swapoff without a fault: {error}");
                self.reached.add("swapoffs that a fault stopped", 1);
            }
            Err(error) => panic!("swapoff: {error}"),
        }
    }

    // === operations ===

    /// Do it, and look at the limits.
    pub fn step(&mut self, op: Op) {
        let (above, overshoot) = (self.above(), self.overshoot());
        let may_exceed = matches!(op, Op::Limit { .. } | Op::Register { .. });
        let text = format!("{op:?}");
        self.act(op);
        if self.overshoot() == overshoot && !may_exceed {
            let now = self.above();
            assert!(
                now.iter().zip(&above).all(|(now, before)| now <= before),
                "4: above limits: {above:?}, {now:?} after {text}"
            );
        }
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
    }

    /// Every word, and every sum.
    fn look(&mut self) {
        self.read_all(true);
        for place in self.places.iter().flatten() {
            let Some(region) = place.region() else { continue };
            region.assert_valid();
            for page in (0..place.pages).filter(|&page| place.is_pinned(page) && !place.vanished[page]) {
                assert!(place.map.is_mapped(page), "3: page {page} is pinned, and left ({:?})", place.method);
            }
        }
        self.engine.assert_valid();
        for counter in [Counter::Memory, Counter::Zswap, Counter::Swap] {
            let [p, a, b] = [0, 1, 2].map(|k| self.memcgs[k].current(counter));
            assert_eq!((p, self.engine.root().current(counter)), (a + b, p), "5: {counter:?}");
        }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Write { place, at, page } => {
                if let Some(k) = self.at(place) {
                    let at = self.pages(k, at, 0).start;
                    self.write(k, at, page);
                }
            }
            Op::WriteMany { place, first, n, random } => {
                let Some(k) = self.at(place) else { return };
                for page in self.pages(k, first, n) {
                    self.write(k, page, PageOf::Mixed { random, seed: page as u8 });
                }
            }
            Op::WriteWord { place, at, word } => {
                let Some(k) = self.at(place) else { return };
                let page = self.pages(k, at, 0).start;
                self.version += 1;
                let bytes = self.version.to_ne_bytes();
                self.touch(k, page, |place| place.write(page, usize::from(word) * 8 % PAGE_SIZE, &bytes));
            }
            Op::Read { place, at } => {
                if let Some(k) = self.at(place) {
                    let page = self.pages(k, at, 0).start;
                    self.read(k, page..page + 1);
                }
            }
            Op::ReadMany { place, first, n } => {
                if let Some(k) = self.at(place) {
                    self.read(k, self.pages(k, first, n));
                }
            }
            Op::Evict { place, first, n } => self.evict(place, first, n),
            Op::EvictAll { vm } => {
                let vm = &self.vms[usize::from(vm) % 2].vm;
                let before = vm.memcg().current(Counter::Memory);
                let evicted = vm.evict_all();
                let won = before.saturating_sub(vm.memcg().current(Counter::Memory));
                assert!(won >= evicted.won_bytes, "5: {won} were won, said were {evicted:?}");
                self.reached.add("pages evicted by calls", evicted.pages);
            }
            Op::EvictBytes { vm, pages } => {
                let vm = &self.vms[usize::from(vm) % 2].vm;
                let before = vm.memcg().current(Counter::Memory);
                let won = vm.evict(u64::from(pages) * PAGE_SIZE as u64);
                let left = before.saturating_sub(vm.memcg().current(Counter::Memory));
                assert!(left >= won, "5: Vm::evict says {won}, and {left} were won");
                self.reached.add("bytes won by a VM's eviction", won);
            }
            Op::EvictMemcg { memcg, pages } => {
                let memcg = self.memcg(memcg);
                let before = memcg.current(Counter::Memory);
                let won = self.engine.evict(&memcg, u64::from(pages) * PAGE_SIZE as u64);
                let left = before.saturating_sub(memcg.current(Counter::Memory));
                assert!(left >= won, "5: Engine::evict says {won}, and {left} were won");
                self.reached.add("bytes won by a memcg's eviction", won);
            }
            Op::Prefetch { place, first, n } => {
                let Some(k) = self.at(place) else { return };
                let pages = self.pages(k, first, n);
                let Some(region) = self.place(k).region() else { return };
                let fetched = region.prefetch(Place::span(pages.clone()));
                assert!(fetched.pages + fetched.left <= pages.len() as u64, "5: {fetched:?} of {pages:?}");
                self.reached.add("pages prefetched", fetched.pages);
                self.reached.add("pages left by a prefetch", fetched.left);
            }
            Op::MakeResident { place, first, n, by_address } => {
                let Some(k) = self.at(place) else { return };
                let pages = self.pages(k, first, n);
                let place = self.places[k].as_ref().expect("it was looked at");
                let Some(region) = place.region() else { return };
                let span = Place::span(pages.clone());
                let base = region.addresses().start;
                let result = match by_address {
                    true => self.vms[place.vm].vm.make_resident(base + span.start..base + span.end),
                    false => region.make_resident(span),
                };
                match result {
                    Ok(()) => self.reached.add("made resident", 1),
                    Err(error) => self.lost(k, pages, error),
                }
            }
            Op::Pin { place, first, n } => {
                let Some(k) = self.at(place) else { return };
                let pages = self.pages(k, first, n % 8);
                if self.place(k).region().is_none() || self.place(k).pins() >= 16 {
                    return;
                }
                match self.place(k).pin(pages.clone()) {
                    Ok(()) => self.reached.add("pinned", 1),
                    Err(error) => self.lost(k, pages, error),
                }
            }
            Op::Unpin { place, which } => {
                if let Some(k) = self.at(place) {
                    self.place(k).unpin(which);
                }
            }
            Op::PinOften { place, at } => self.pin_often(place, at),
            Op::Discard { place, first, n } => self.discard(place, first, n),
            Op::Vanish { place, first, n, of_file } => {
                let Some(k) = self.at(place) else { return };
                let pages = self.pages(k, first, n);
                let place = self.places[k].as_ref().expect("it was looked at");
                // Nobody would serve the fault of a page that vanished.
                if self.vms[place.vm].served || place.region().is_none() {
                    let gone = self.place(k).vanish(pages, of_file);
                    self.reached.add("pages thrown away behind its back", gone);
                }
            }
            Op::Limit { memcg, file, pages } => {
                let name = ["memory.max", "memory.high", "memory.low", "memory.zswap.max", "memory.swap.max"]
                    [usize::from(file % 5)];
                let text = pages.map_or("max".to_owned(), |pages| (u64::from(pages) * PAGE_SIZE as u64).to_string());
                // What is pinned cannot leave for a limit.
                let k = usize::from(memcg) % self.memcgs.len();
                let below = self.vms.iter().enumerate().filter(|(vm, _)| k == 0 || k == vm + 1);
                let pinned: u64 = below.map(|(_, one)| one.vm.stats().pinned).sum();
                let fits =
                    name != "memory.max" || pages.is_none_or(|pages| pinned <= u64::from(pages) * PAGE_SIZE as u64);
                let result = self.memcg(memcg).write_file(name, &text);
                assert_eq!(result.is_ok(), fits, "3: {name} = {text}, and {pinned} bytes are pinned: {result:?}");
                self.reached.add(if fits { "limits set" } else { "limits below pins refused" }, 1);
            }
            Op::Writeback { memcg, on } => self.memcg(memcg).set_writeback(on).expect("it is online"),
            Op::Reclaim { memcg, pages, source } => {
                let bytes = u64::from(pages) * PAGE_SIZE as u64;
                let source = ["", " source=anon", " source=zswap"][usize::from(source % 3)];
                let memcg = self.memcg(memcg);
                let before = memcg.current(Counter::Memory);
                let met = memcg.write_file("memory.reclaim", &format!("{bytes}{source}")).is_ok();
                let won = before.saturating_sub(memcg.current(Counter::Memory));
                assert!(!met || won >= bytes, "5: {won} bytes left of {bytes}{source}, and it is met");
                self.reached.add(if met { "requests met" } else { "requests not met" }, 1);
            }
            Op::Shrink { memcg, n } => {
                let memcg = self.memcg(memcg);
                _ = self.engine.zswap().shrink_memcg(&memcg, n.into());
            }
            Op::Register { place, patch } => self.register(place, patch),
            Op::Unregister { place } => {
                if let Some(k) = self.at(place) {
                    self.unregister(k);
                }
            }
            Op::Drop { place } => {
                if let Some(k) = self.at(place) {
                    self.drop_region(k);
                }
            }
            Op::TakeDirty { vm } => self.take_dirty(usize::from(vm) % 2),
            Op::Record { vm } => {
                let one = &mut self.vms[usize::from(vm) % 2];
                one.recorded = Some(one.vm.in_memory());
            }
            Op::Replay { vm } => {
                let one = &self.vms[usize::from(vm) % 2];
                if let Some(set) = &one.recorded {
                    self.reached.add("pages replayed", one.vm.replay(set).pages);
                }
            }
            Op::FailAt { device, k, how } => {
                if !self.devices.is_empty() {
                    let attached = &self.devices[usize::from(device) % self.devices.len()];
                    attached.device.replan(how.plan(attached.device.operations() + u64::from(k)));
                    self.tainted = true;
                }
            }
            Op::Heal { device } => {
                if !self.devices.is_empty() {
                    self.devices[usize::from(device) % self.devices.len()].device.replan(Plan::none());
                }
            }
            Op::Swapon { segments } => self.swapon(segments),
            Op::Swapoff { device } => self.swapoff(device),
            Op::Compact => _ = self.engine.zswap().compact(u64::MAX),
            Op::Tidy => self.engine.zswap().quiesce(),
            Op::Check => {
                self.read_all(false);
                self.look();
            }
        }
    }

    /// Everything is read; everything is given back; nothing is left.
    pub fn end(mut self) -> Reached {
        self.devices.iter().for_each(|attached| attached.device.replan(Plan::none()));
        for one in &self.vms {
            let stats = one.vm.stats();
            for kind in FaultKind::ALL {
                self.reached.add(fault_name(kind), stats.faults_of(kind).count());
            }
            self.reached.add("pages taken out", stats.taken_out);
            self.reached.add("pages put away without the codec", stats.put_away_clean);
            self.reached.add("pages that came along", stats.around);
            self.reached.add("pages refused by the store", stats.refused);
            self.reached.add("pages poisoned at the end", stats.poisoned / PAGE_SIZE as u64);
            self.reached.add("pages on devices at the end", stats.on_device / PAGE_SIZE as u64);
            self.reached.note("overshoots", stats.overshoot_bytes > 0);
        }
        self.look();
        self.read_all(false);
        self.look();
        for at in 0..PLACES {
            if self.places[at].is_some() {
                self.unregister(at);
            }
        }
        self.places.clear();
        for one in &self.vms {
            let stats = one.vm.stats();
            let left = stats.resident + stats.staged + stats.compressed + stats.on_device + stats.same_filled;
            assert_eq!(
                (left, stats.poisoned, stats.pinned, stats.kept),
                (0, 0, 0, 0),
                "7: a VM without memory has none"
            );
        }
        self.engine.assert_valid();
        self.vms.clear();
        for memcg in self.memcgs.iter().chain([&self.engine.root()]) {
            for counter in [Counter::Memory, Counter::Zswap, Counter::Swap] {
                assert_eq!(memcg.current(counter), 0, "7: {counter:?} of {} in the end", memcg.path());
            }
        }
        let zswap = self.engine.zswap();
        zswap.assert_valid();
        zswap.quiesce();
        zswap.arena().flush();
        let stats = zswap.stats();
        assert_eq!((stats.backed_bytes, stats.slot_table_bytes), (0, 0), "7: nothing is left in the end");
        for row in zswap.devices() {
            assert_eq!((row.area.objects, row.area.used_bytes), (0, 0), "7: {} is empty in the end", row.name);
        }
        self.reached
    }
}

fn fault_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Staged => "faults of staged pages",
        FaultKind::Compressed => "faults of compressed pages",
        FaultKind::Device => "faults of pages on devices",
        FaultKind::SameFilled => "faults of same-filled pages",
        FaultKind::Absent => "faults of absent pages",
        FaultKind::Protected => "faults of protected pages",
        FaultKind::Stale => "stale faults",
        FaultKind::Vanished => "faults of vanished pages",
        other => other.name(),
    }
}
