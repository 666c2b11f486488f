//! The model, and what each operation has to come to. Pages are in `pages`, control files in `files`, reclaim in `reclaim`.

mod files;
mod pages;
mod reclaim;

use super::super::instance::Instance;
use super::super::meddler::{Done, Meanwhile, SLOTS};
use super::super::page::PageOf;
use super::super::reached::Reached;
use super::client::{Client, Held, Place, Server, State};
use super::text::Name;
use super::{Cancelled, Op, expect};
use std::sync::Arc;
use zspool::memcg::{Counter, Memcg, OpenFile, Registration, Resident};
use zspool::swap::Plan;
use zspool::sync::Clock;
use zspool::units::FRAME_SIZE;

/// Memcgs at a time.
const MEMCGS: usize = 8;
/// Files open at a time, and charges of ballast.
const OPEN: usize = 8;

/// A memcg, by its place in the list, which removed ones keep.
struct Group {
    memcg: Memcg,
    parent: usize,
    name: String,
    online: bool,
}

pub(super) struct Model {
    instance: Arc<Instance>,
    clock: Clock,
    now: u64,
    client: Arc<Client>,
    served: Option<Registration>,
    groups: Vec<Group>,
    /// And for which groups it was charged.
    ballast: Vec<(Resident, usize)>,
    open: Vec<(OpenFile, usize)>,
    /// There is always room on the device.
    roomy: bool,
    per_node: bool,
    /// A fault was planned: reads may fail from now on.
    faulty: bool,
    /// The device may fail now.
    failing: bool,
    /// The worker may have forgotten memcgs that it could do nothing for.
    forgot: bool,
    /// Operations are waiting for a request to meddle with, or have meddled with this one.
    meddling: bool,
    reached: Reached,
}

impl Model {
    pub(super) fn new(instance: Arc<Instance>, clock: Clock, roomy: bool, per_node: bool, client: bool) -> Self {
        assert!(Memcg::files().eq(expect::FILES.iter().map(|(name, _)| *name)), "the model knows other files");
        let tree = instance.zswap.tree().clone();
        let root = Group { memcg: tree.root(), parent: 0, name: String::new(), online: true };
        let (client, serves) = (Arc::new(Client::default()), client);
        let server = || Server { client: Arc::clone(&client), instance: Arc::clone(&instance) };
        Model {
            served: serves.then(|| tree.register(Box::new(server()))),
            instance,
            clock,
            now: 0,
            client,
            groups: vec![root],
            ballast: Vec::new(),
            open: Vec::new(),
            roomy,
            per_node,
            faulty: false,
            failing: false,
            forgot: false,
            meddling: false,
            reached: Reached::new(),
        }
    }

    // --- groups ---

    fn online(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.groups.len()).filter(|&g| self.groups[g].online)
    }

    /// An online group by any number.
    fn pick(&self, n: u8) -> usize {
        self.online().nth(usize::from(n) % self.online().count()).expect("the root is online")
    }

    fn memcg(&self, g: usize) -> Memcg {
        self.groups[g].memcg.clone()
    }

    /// Who has what the group was charged.
    fn current(&self, mut g: usize) -> usize {
        while !self.groups[g].online {
            g = self.groups[g].parent;
        }
        g
    }

    fn is_below(&self, mut g: usize, top: usize) -> bool {
        g = self.current(g);
        while g != top && g != 0 {
            g = self.groups[g].parent;
        }
        g == top
    }

    fn number(&self, memcg: &Memcg) -> usize {
        self.groups.iter().position(|group| group.memcg == *memcg).expect("the model made all memcgs")
    }

    /// Bytes that are charged as resident to the group and those below it: of pages, and of ballast.
    fn resident(&self, top: usize) -> (u64, u64) {
        let ballast = self.ballast.iter().filter(|(_, g)| self.is_below(*g, top)).map(|(kept, _)| kept.bytes()).sum();
        let pages = self.client.with(|state| {
            let charged = |held: &Held| match &held.place {
                Place::Memory(resident, g) if self.is_below(*g, top) => resident.bytes(),
                _ => 0,
            };
            state.held.values().map(charged).sum()
        });
        (pages, ballast)
    }

    /// Whether whatever is compressed can be written back.
    fn works(&self) -> bool {
        let free = |g: usize| {
            let memcg = &self.groups[g].memcg;
            memcg.own_writeback() && memcg.max(Counter::Swap) == u64::MAX
        };
        // Pages of the device where a write failed are never used again.
        let none_bad = || self.instance.zswap.stats().area.is_none_or(|area| area.bad_bytes == 0);
        self.roomy && !self.failing && !self.meddling && self.online().all(free) && none_bad()
    }

    // --- steps ---

    /// Learn what was done in the middle of requests, and why pages were refused.
    fn catch_up(&mut self) {
        let (done, _, pending) = self.instance.device.as_ref().map_or_else(Default::default, |device| device.done());
        self.reached.add("operations done during a request", done.len() as u64);
        for (_, done) in done {
            if let Done::Offline(memcg) = done {
                let g = self.number(&memcg);
                self.groups[g].online = false;
                self.reached.add("memcgs removed during a request", 1);
            }
        }
        for error in self.client.with(|state| std::mem::take(&mut state.refused)) {
            self.check_refusal(&error);
        }
        self.meddling = pending;
    }

    fn usages(&self) -> Vec<(usize, [u64; 3])> {
        self.online().map(|g| (g, Counter::ALL.map(|counter| self.groups[g].memcg.current(counter)))).collect()
    }

    pub(super) fn step(&mut self, op: Op) {
        let (before, backed, meddling) = (self.usages(), self.instance.zswap.arena().backed_bytes(), self.meddling);
        self.act(op);
        self.catch_up();
        let arena = self.instance.zswap.arena();
        assert!(arena.backed_bytes() <= arena.limit().max(backed), "2: the pool limit holds");
        let after = self.usages();
        for &(g, now) in &after {
            let memcg = &self.groups[g].memcg;
            let was = before.iter().find(|(other, _)| *other == g).map_or([0; 3], |&(_, was)| was);
            for (counter, (now, was)) in Counter::ALL.into_iter().zip(now.into_iter().zip(was)) {
                // Meddling may have raised it and lowered the limit then.
                let max = memcg.max(counter);
                assert!(now <= max.max(was) || meddling, "2: {} has {now} of {max} {counter:?}", memcg.path());
            }
            let [zswap, memory, _] = now;
            let (pages, ballast) = self.resident(g);
            assert_eq!(memory, zswap + pages + ballast, "2: {} is charged for what is there", memcg.path());
        }
    }

    fn act(&mut self, op: Op) {
        let instance = Arc::clone(&self.instance);
        let zswap = &instance.zswap;
        match op {
            Op::Touch { slot, memcg, page } => _ = self.touch(slot, self.pick(memcg), page),
            Op::TouchMany { first, n, memcg, random } => {
                let g = self.pick(memcg);
                // Refusals take long, and the next is like the last.
                let _ = (0..n % 64).all(|k| {
                    self.touch((first + k) % SLOTS, self.current(g), PageOf::Mixed { random, seed: first + k })
                });
            }
            Op::SwapOut { slot } => {
                let swapped = self.client.swap_out(&instance, slot);
                self.reached.note("pages swapped out by hand", matches!(swapped, Some(Ok(_))));
            }
            Op::Fault { slot, memcg } => self.fault(slot, self.pick(memcg)),
            Op::Store { slot, memcg, node, page } => _ = self.store(slot, self.pick(memcg), node, page),
            Op::StoreMany { first, n, memcg, random } => {
                let g = self.pick(memcg);
                let _ = (0..n % 64).all(|k| {
                    let page = PageOf::Mixed { random, seed: first + k };
                    self.store((first + k) % SLOTS, self.current(g), k, page)
                });
            }
            Op::LoadMany { first, n } => (0..n % 16).for_each(|k| self.load((first + k) % SLOTS)),
            Op::FreeMany { first, n } => (0..n % 64).for_each(|k| self.free((first + k) % SLOTS)),
            Op::Ballast { memcg, bytes } => {
                let g = self.pick(memcg);
                if self.ballast.len() < OPEN
                    && let Some(resident) = self.charge(g, u64::from(bytes))
                {
                    self.ballast.push((resident, g));
                }
            }
            Op::SplitBallast { which } => {
                if let Some(at) = pick(which, self.ballast.len()).filter(|_| self.ballast.len() < OPEN) {
                    let (kept, g) = &mut self.ballast[at];
                    let (half, g) = (kept.bytes() / 2, *g);
                    let split = kept.split(half);
                    self.ballast.push((split, g));
                }
            }
            Op::DropBallast { which } => {
                if let Some(at) = pick(which, self.ballast.len()) {
                    drop(self.ballast.swap_remove(at));
                }
            }
            Op::Ask { memcg, bytes, sources, age } => {
                let age = age.map_or(String::new(), |seconds| format!(" age={seconds}"));
                let text = format!("{bytes} source={}{age}", sources.text());
                self.reclaim(self.pick(memcg), &text, Cancelled::No);
            }
            Op::Reclaim { memcg, text, cancel } => self.reclaim(self.pick(memcg), &text.build(), cancel),
            Op::Write { memcg, file, text } => self.write(self.pick(memcg), expect::which_file(file), &text.build()),
            Op::Read { memcg, file } => self.read(self.pick(memcg), expect::which_file(file)),
            Op::NoFile { memcg, name, text } => self.no_file(self.pick(memcg), &name.build(), &text.build()),
            Op::Open { memcg, file } => self.open(self.pick(memcg), expect::which_file(file)),
            Op::WriteOpen { which, text } => self.write_open(which, &text.build()),
            Op::Close { which } => {
                if let Some(at) = pick(which, self.open.len()) {
                    self.open.swap_remove(at);
                }
            }
            Op::Removed { which, file, text } => self.removed(which, expect::which_file(file), &text.build()),
            Op::Max { memcg, counter, bytes } => {
                let limit = bytes.map_or(u64::MAX, |bytes| u64::from(bytes) * 4);
                self.memcg(self.pick(memcg)).set_max(Counter::ALL[usize::from(counter % 3)], limit).unwrap();
            }
            Op::Limit { memcg, file, bytes } => {
                let mut files = (0..expect::FILES.len()).filter(|&file| expect::FILES[file].1 == expect::Kind::Limit);
                let file = files.nth(usize::from(file % 4)).expect("there are four");
                let text = bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
                self.write(self.pick(memcg), file, &text);
            }
            Op::High { memcg, bytes } => {
                let limit = bytes.map_or(u64::MAX, |bytes| u64::from(bytes) * 4);
                self.memcg(self.pick(memcg)).set_high(limit).unwrap();
            }
            Op::Writeback { memcg, on } => self.memcg(self.pick(memcg)).set_writeback(on).unwrap(),
            Op::PoolLimit { frames } => zswap.arena().set_limit(u64::from(frames) * FRAME_SIZE as u64),
            Op::Mkdir { parent, name } => self.mkdir(self.pick(parent), name),
            Op::Rmdir { memcg } => self.rmdir(self.pick(memcg)),
            Op::Shrink { memcg, nr } => self.shrink(self.pick(memcg), nr.into()),
            Op::Relieve { pages } => self.relieve(pages.into()),
            Op::Work => self.work(),
            Op::Compact { kib } => {
                let done = zswap.compact(u64::from(kib) << 10);
                assert_eq!(done.busy, 0, "nobody holds an object");
            }
            Op::Wait { seconds } => {
                self.now += u64::from(seconds) * 1000;
                self.clock.set(self.now);
            }
            Op::FailAt { k, how } => {
                if let Some(device) = &instance.device {
                    (self.faulty, self.failing) = (true, true);
                    device.faulty().replan(how.plan(u64::from(k % 8) + 1));
                }
            }
            Op::Heal => {
                if let Some(device) = &instance.device {
                    self.failing = false;
                    device.faulty().replan(Plan::none());
                }
            }
            Op::Meanwhile { ops, late } => {
                if let Some(device) = &instance.device {
                    // Slots are the client's alone.
                    let leaves_slots = |op: &Meanwhile| {
                        use Meanwhile::{Dup, Free, Put, Store};
                        !matches!(op, Free { .. } | Store { .. } | Dup { .. } | Put { .. })
                    };
                    let ops: Vec<Meanwhile> = ops.into_iter().flatten().filter(leaves_slots).collect();
                    self.meddling = !ops.is_empty();
                    device.meanwhile(ops, self.online().map(|g| self.memcg(g)).collect(), late);
                }
            }
            Op::Tidy => zswap.quiesce(),
            Op::Check => self.check(),
        }
    }

    // --- the tree ---

    fn mkdir(&mut self, parent: usize, name: Name) {
        if self.online().count() == MEMCGS {
            return;
        }
        let name = name.build();
        let sibling = |g: usize| g != 0 && self.groups[g].parent == parent && self.groups[g].name == name;
        let expected = match expect::name(&name) {
            Ok(()) if self.online().any(sibling) => Err(libc::EEXIST),
            expected => expected,
        };
        let made = self.memcg(parent).mkdir(&name);
        assert_eq!(made.as_ref().map(drop).map_err(|error| error.errno()), expected, "6: {name:?}: {made:?}");
        self.reached.note("names refused", made.is_err());
        if let Ok(memcg) = made {
            self.groups.push(Group { memcg, parent, name, online: true });
        }
    }

    fn rmdir(&mut self, g: usize) {
        let has_children = self.online().any(|other| other != 0 && self.groups[other].parent == g);
        let memcg = self.memcg(g);
        let had = memcg.current(Counter::Zswap);
        let result = memcg.offline();
        let expected = if g == 0 || has_children { Err(libc::EBUSY) } else { Ok(()) };
        assert_eq!(result.as_ref().map_err(|error| error.errno()).copied(), expected, "6: {}", memcg.path());
        if result.is_ok() {
            self.groups[g].online = false;
            self.reached.note("memcgs removed with entries", had > 0);
        } else {
            self.reached.add("rmdirs refused", 1);
        }
    }

    // --- everything ---

    fn check(&mut self) {
        self.instance.zswap.assert_valid();
        self.instance.zswap.tree().assert_quiet();
        let count = |stored: bool| {
            let is_it = |held: &&Held| matches!(held.place, Place::Stored) == stored;
            self.client.with(|state: &mut State| state.held.values().filter(is_it).count() as u64)
        };
        let stats = self.instance.zswap.stats();
        let slots = [
            stats.same_filled_pages,
            stats.pattern_pages,
            stats.compressed_pages,
            stats.incompressible_pages,
            stats.physical_pages,
            stats.lost_pages,
        ];
        assert_eq!(slots.iter().sum::<u64>(), count(true), "1: every stored page is in one of {slots:?}");
        let online: Vec<usize> = self.online().collect();
        for g in online {
            (0..expect::FILES.len()).for_each(|file| self.read(g, file));
        }
    }

    pub(super) fn end(mut self) -> Reached {
        if let Some(device) = &self.instance.device {
            device.meanwhile(Vec::new(), Vec::new(), false);
        }
        self.meddling = false;
        self.check();
        (0..SLOTS).for_each(|slot| self.load(slot));
        self.reached.add("pages swapped out on request", self.client.with(|state| state.swapped_out));
        self.reached.add("pages on the device at the end", self.instance.zswap.stats().physical_pages);
        (0..SLOTS).for_each(|slot| self.free(slot));
        self.ballast.clear();
        self.open.clear();
        self.served = None;
        self.check();
        for g in self.online().collect::<Vec<_>>().into_iter().rev().filter(|&g| g != 0) {
            let memcg = self.memcg(g);
            assert_eq!(Counter::ALL.map(|counter| memcg.current(counter)), [0; 3], "7: {}", memcg.path());
            memcg.offline().expect("whoever is below was made later");
        }
        let root = self.memcg(0);
        assert_eq!(Counter::ALL.map(|counter| root.current(counter)), [0; 3], "7: nothing is charged in the end");
        self.groups.clear();
        let zswap = &self.instance.zswap;
        zswap.quiesce();
        zswap.arena().flush();
        let (stats, census) = (zswap.stats(), zswap.tree().census());
        assert_eq!((census.online, census.groups, census.objcgs), (1, 1, 1), "7: only the root is left");
        assert_eq!((stats.backed_bytes, stats.slot_table_bytes), (0, 0), "7: nothing is left in the end");
        assert_eq!(stats.area.map_or(0, |area| area.objects + area.used_bytes), 0, "7: the device is empty");
        assert_eq!(Arc::strong_count(&self.instance), 1, "7: the tree has forgotten who served it");
        self.reached
    }
}

/// One of so many, if there are any.
fn pick(which: u8, len: usize) -> Option<usize> {
    (len > 0).then(|| usize::from(which) % len)
}
