//! [`System`]: an instance with all that uses it; its phases, and what holds at the quiet points between them.
//!
//! ```text
//!   make -> phase -> quiet -> phase -> quiet -> ... -> end
//!           clients, guests and        devices are well, what hung has come, the worker rests: every page is read and compared,
//!           administrators at once     every invariant of every layer checked, every limit, every sum to the byte
//! ```

use crate::Random;
use crate::administrator::Administrator;
use crate::client::{Client, Place};
use crate::device::{Costs, Troubled};
use crate::execution::{note, steps};
use crate::guest::{Guest, Vcpu};
use crate::limits::Limited;
use crate::plan::Plan;
use crate::reached::Reached;
use crate::register::{Content, Time};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use zspool::arena::Topology;
use zspool::guest::Engine;
use zspool::memcg::{Counter, Memcg, ObjcgId, TreeConfig};
use zspool::swap;
use zspool::sync::{Planted, quietly, thread};
use zspool::units::{FRAME_SIZE, PAGE_SIZE, Slot, SlotRange};
use zspool::zswap::Zswap;

/// A group, and what it may be charged.
type Group = (Arc<Limited>, Memcg);

/// See the file.
pub struct System {
    /// The instance.
    pub engine: Engine,
    /// What the run consists of.
    pub plan: Plan,
    /// What its devices may cost.
    pub costs: Costs,
    /// When things happened.
    pub time: Time,
    /// All slots that clients use.
    pub slots: SlotRange,
    /// Of them, those that they use.
    pub places: Vec<Place>,
    /// Shuttle's lock: references to groups are counted by steps.
    groups: shuttle::sync::Mutex<Vec<Group>>,
    devices: Mutex<Vec<(u8, Troubled)>>,
    guests: Mutex<Vec<Arc<Guest>>>,
    reached: Arc<Mutex<Reached>>,
    tokens: AtomicU64,
}

/// Slots lie in runs of so many, so far apart: in several clusters.
const RUN: u64 = 4;
const APART: u64 = 100;

/// Run a plan from beginning to end.
pub fn run(plan: Plan, seed: u64, reached: &Arc<Mutex<Reached>>) {
    let mut random = Random::new(seed ^ 0x0dd_ba11);
    let (phases, operations) = (plan.phases, plan.operations);
    let system = Arc::new(System::new(plan, Arc::clone(reached)));
    for phase in 0..phases {
        let before = steps();
        system.phase(&mut random, operations);
        note(phase as u64);
        system.quiet();
        system.reach("steps", steps() - before);
    }
    system.end();
}

impl System {
    fn new(plan: Plan, reached: Arc<Mutex<Reached>>) -> Self {
        let mut builder = Zswap::builder()
            .pool_limit(plan.pool_frames * FRAME_SIZE as u64)
            .slots_in_use(1 << 14)
            .address_space(16 << 20)
            .warm_frames(2)
            .topology(Topology::simulated(plan.nodes))
            .compressing_threads(2)
            .scan(8, 2)
            .worker(plan.worker)
            .encryption(plan.encryption)
            .device_geometry(swap::Geometry {
                batch_pages: plan.batch_pages,
                write_buffers: 2,
                read_buffers: 2,
                ..swap::Geometry::default()
            });
        let planted = plan.bug.map_or(Planted::NONE, Planted::bug);
        builder = builder.planted(planted).tree(TreeConfig { planted, ..TreeConfig::default() });
        let zswap = builder.build().expect("an instance can be made");
        let count = plan.shared_slots + plan.clients * plan.own_slots;
        let slots = zswap.reserve((count as u64 / RUN + 1) * APART).expect("there are slots");
        let place = |k: u64| Place::new(Slot(slots.base().0 + k / RUN * APART + k % RUN));
        let engine = Engine::builder(zswap).evictor(plan.evictor && !plan.guests.is_empty()).staged_ahead(8);
        let system = System {
            engine: engine.build().expect("an engine can be made"),
            costs: plan.costs(),
            time: Time::default(),
            slots,
            places: (0..count as u64).map(place).collect(),
            groups: shuttle::sync::Mutex::default(),
            devices: Mutex::default(),
            guests: Mutex::default(),
            reached,
            tokens: AtomicU64::new(1),
            plan,
        };
        system.time.now();
        system.groups().push((Arc::default(), system.engine.root()));
        (1..=system.plan.parents.len()).for_each(|at| system.make_group(at));
        system.plan.devices.iter().for_each(|&device| system.add_device(Troubled::new(device)));
        for (number, &guest) in system.plan.guests.iter().enumerate() {
            let guest = Guest::new(&system, guest, number, planted);
            lock(&system.guests).push(Arc::new(guest));
        }
        system
    }

    /// The store.
    pub fn zswap(&self) -> &Zswap {
        self.engine.zswap()
    }

    /// The number of a token that was not there before.
    pub fn next_token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Count what the run came upon.
    pub fn reach(&self, what: &'static str, n: u64) {
        lock(&self.reached).add(what, n);
    }

    // --- groups

    /// Make the group at this place of the plan, anew if it is there.
    pub fn make_group(&self, at: usize) {
        // Its parent may be removed meanwhile: then it is one of the root's.
        let parent = self.memcg(self.plan.parents[at - 1]);
        let name = format!("group{at}-{}", self.next_token());
        let made = parent.mkdir(&name).or_else(|_| self.engine.root().mkdir(&name)).expect("the root is there");
        let mut groups = self.groups();
        match groups.get_mut(at) {
            Some(group) => *group = (Arc::default(), made),
            None => groups.push((Arc::default(), made)),
        }
    }

    fn groups(&self) -> shuttle::sync::MutexGuard<'_, Vec<Group>> {
        self.groups.lock().expect("a panic ends the execution")
    }

    fn group(&self, at: usize) -> Group {
        self.groups()[at].clone()
    }

    /// The group at this place.
    pub fn memcg(&self, at: usize) -> Memcg {
        self.group(at).1
    }

    /// One of them.
    pub fn any_memcg(&self, random: &mut Random) -> Memcg {
        self.memcg(random.index(self.plan.parents.len() + 1))
    }

    /// One of them that is not the root, and what it may be charged.
    pub fn any_group_below(&self, random: &mut Random) -> Option<Group> {
        let groups = self.plan.parents.len();
        (groups > 0).then(|| self.group(1 + random.index(groups)))
    }

    /// No usage is above a limit.
    ///
    /// # Panics
    /// When one is.
    pub fn check_limits(&self, quiet: bool) {
        for at in 1..=self.plan.parents.len() {
            let (limited, memcg) = self.group(at);
            self.reach("limits compared", limited.check(&memcg, quiet));
        }
        let (backed, limit) = (self.zswap().arena().backed_bytes(), self.plan.pool_frames * FRAME_SIZE as u64);
        assert!(backed <= limit, "the pool has {backed} bytes, and may have {limit}");
    }

    // --- devices

    /// Those that are on.
    pub fn devices(&self) -> Vec<(u8, Troubled)> {
        lock(&self.devices).clone()
    }

    /// Add one.
    pub fn add_device(&self, device: Troubled) {
        let number = self.zswap().swapon(device.options()).expect("a device can be added");
        lock(&self.devices).push((number, device));
    }

    /// It is off.
    pub fn forget_device(&self, number: u8) {
        lock(&self.devices).retain(|(other, _)| *other != number);
    }

    // --- guests

    /// All guests.
    fn guests(&self) -> Vec<Arc<Guest>> {
        lock(&self.guests).clone()
    }

    /// One of them.
    pub fn any_guest(&self, random: &mut Random) -> Option<Arc<Guest>> {
        let guests = self.guests();
        (!guests.is_empty()).then(|| Arc::clone(&guests[random.index(guests.len())]))
    }

    // --- what happens

    /// Everybody at once, until each has done so many operations.
    fn phase(self: &Arc<Self>, random: &mut Random, operations: u64) {
        self.devices().iter().for_each(|(_, device)| device.go_wrong(random));
        let mut threads = Vec::new();
        let mut start = |name: &str, run: Box<dyn FnOnce(&System) + Send>| {
            let system = Arc::clone(self);
            threads.push(thread::spawn(name, move || run(&system)).expect("shuttle refuses no thread"));
        };
        for number in 0..self.plan.clients {
            let random = random.fork(number as u64);
            start("client", Box::new(move |system| Client::new(system, number, random).run(operations)));
        }
        for guest in self.guests() {
            for number in 0..guest.plan.threads {
                let (guest, random) = (Arc::clone(&guest), random.fork(number as u64));
                start("guest", Box::new(move |system| Vcpu::new(system, &guest, random).run(operations)));
            }
        }
        for number in 0..self.plan.duties.len() {
            let random = random.fork(number as u64);
            let run = move |system: &System| {
                Administrator::new(system, &system.plan.duties[number], random).run(operations / 3 + 1);
            };
            start("administrator", Box::new(run));
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a panic ends the execution"));
    }

    /// Nobody does anything: compare everything.
    fn quiet(&self) {
        let mut hung = 0;
        for (number, device) in self.devices() {
            self.reach("faults of devices", device.go_well());
            hung += device.release();
            _ = self.zswap().reinstate(number);
        }
        self.reach("requests that hung", hung as u64);
        self.rest();
        for place in &self.places {
            let content = self.read_slot(place).expect("devices that are well answer");
            place.register.settle(&self.time, content);
        }
        for guest in self.guests() {
            for page in 0..guest.plan.pages {
                guest.model.set_busy(page, false);
                let content = guest.read(self, page);
                guest.pages[page as usize].settle(&self.time, content);
                if content == Content::Lost {
                    guest.discard(self, page..page + 1);
                }
            }
        }
        self.rest();
        quietly(|| {
            self.engine.assert_valid();
            self.engine.while_held(|| self.check_guests());
        });
        self.check_limits(true);
        self.count();
    }

    /// Wait until nobody has anything to do in the background. Where a mark cannot be kept, the evictor tries again and again, and the
    /// worker with it: it is held.
    fn rest(&self) {
        self.engine.quiesce();
        self.engine.while_held(|| self.zswap().quiesce());
    }

    /// Every page of a guest is where its word says, and charged to who pays.
    fn check_guests(&self) {
        let held: Vec<(ObjcgId, u64)> = self
            .guests()
            .iter()
            .map(|guest| {
                let (resident, staged, stored) = guest.model.check();
                self.reach("guest pages in their slots at a quiet point", stored);
                (guest.payer.id(), (resident + staged) * PAGE_SIZE as u64)
            })
            .collect();
        let groups = self.groups().clone();
        for (_, memcg) in groups {
            let Ok(stat) = memcg.stat() else { continue };
            let pays = held.iter().filter(|(payer, _)| memcg.is_charged_by(*payer)).map(|(_, bytes)| bytes);
            let below: u64 = pays.sum();
            assert_eq!(
                stat.resident,
                below,
                "bytes that {} is charged as resident, and what its guests have",
                memcg.path()
            );
        }
    }

    /// What the instance has done so far goes into the trace.
    fn count(&self) {
        let stats = self.zswap().stats();
        let root = self.engine.root();
        for number in [
            stats.pool.objects,
            stats.pool.payload_bytes,
            stats.pool.slot_bytes,
            stats.physical_pages,
            stats.same_filled_pages,
            stats.compressed_pages,
            root.current(Counter::Memory),
            root.current(Counter::Swap),
            self.zswap().arena().backed_bytes(),
        ] {
            note(number);
        }
        self.reach("pages on devices at a quiet point", stats.physical_pages);
        self.reach("pages in the pool at a quiet point", stats.pool.objects);
        let passed = self.groups().clone().iter().map(|(_, memcg)| memcg.overshoot()).sum();
        self.reach("bytes passed limits", passed);
    }

    /// Everything is freed: nothing is left, and nothing is charged.
    fn end(&self) {
        for place in &self.places {
            self.zswap().free(place.slot);
        }
        for guest in self.guests() {
            guest.model.unregister().expect("every page can be read");
            guest.model.settle();
        }
        lock(&self.guests).clear();
        self.rest();
        quietly(|| self.engine.assert_valid());
        let stats = self.zswap().stats();
        assert_eq!((stats.pool.objects, stats.pool.payload_bytes), (0, 0), "nothing is stored any more");
        assert_eq!((stats.physical_pages, stats.same_filled_pages), (0, 0), "nothing is stored any more");
        for counter in Counter::ALL {
            assert_eq!(self.engine.root().current(counter), 0, "nothing is charged as {counter:?} any more");
        }
    }
}

/// Never held across a scheduling point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics under it")
}
