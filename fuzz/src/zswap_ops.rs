//! Operations on a whole instance, against a plain model, with a device that fails on cue and meddles.
//!
//! ```text
//!   model: slot -> page, references          instance: pool, LRU, memcgs, device
//!            |  after each operation: same answer, same page, limits hold
//!            |  at `Check` and the end: every counter of every layer adds up
//!            +- at the end: everything freed, everything zero
//! ```
//!
//! Checked:
//! 1. A page comes back identical or as an error; an error only where a fault was planned.
//! 2. A store is refused only for a limit, and with a device that works only if it is full or writeback is off.
//! 3. No limit is exceeded, but by being lowered.
//! 4. A failed store leaves no older copy; a failed read keeps the slot.
//! 5. What other operations do in the middle of a device request (see [`meddler`](super::meddler)) is neither lost nor undone.
//!
//! With AddressSanitizer, pool memory is poisoned where no live object lies. Not covered: threads (the loom models and tests
//! have them), the worker, real files.

use super::instance::{self, Instance};
use super::list::List;
use super::meddler::{Done, How, Meanwhile, SLOTS, slot};
use super::page::PageOf;
use super::reached::Reached;
use arbitrary::Arbitrary;
use std::collections::HashMap;
use zspool::arena;
use zspool::memcg::{Event, Memcg};
use zspool::swap::{self, Plan};
use zspool::units::{FRAME_SIZE, NodeId, Page};
use zspool::zsmalloc;
use zspool::zswap::{Error, Installed, Shrunk, Stored, Taken, Unwritable};

/// An instance, and what is done to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// Pool limit in frames.
    pub pool_frames: u8,
    /// Device size in units of 128 KiB, modulo 9; 0 for none.
    pub device: u8,
    /// Nodes less one, modulo 3.
    pub nodes: u8,
    /// Frames of node 1 if there is one; 0 for no capacity.
    pub capacity: u8,
    /// A page just stored is passed over once.
    pub new_is_referenced: bool,
    /// What is done.
    pub ops: List<Op>,
}

/// What is done to an instance.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    Store {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
        node: u8,
        page: PageOf,
    },
    Many {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        memcg: u8,
        random: u16,
    },
    Load {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    LoadMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    TryLoad {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Free {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    FreeMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        step: u8,
    },
    Dup {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Put {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Take {
        #[arbitrary(with = slot)]
        slot: u8,
        install: bool,
    },
    Shrink {
        memcg: u8,
        nr: u8,
    },
    Compact {
        kib: u8,
    },
    Limit {
        memcg: u8,
        bytes: u16,
    },
    NoLimit {
        memcg: u8,
    },
    PoolLimit {
        frames: u8,
    },
    Writeback {
        memcg: u8,
        on: bool,
    },
    Mkdir {
        parent: u8,
    },
    Offline {
        memcg: u8,
    },
    Codec {
        tagged: bool,
    },
    FailAt {
        k: u8,
        how: How,
    },
    FailCommits {
        after: Option<u8>,
    },
    Meanwhile {
        ops: [Option<Meanwhile>; 3],
        late: bool,
    },
    Heal,
    Tidy,
    Check,
}

/// Memcgs at most.
const MEMCGS: usize = 6;

struct Model {
    instance: Instance,
    memcgs: Vec<Memcg>,
    born: usize,
    /// What each slot holds, and its references.
    held: HashMap<u8, (PageOf, u32)>,
    /// A fault was planned: reads may fail from now on, and writes may have failed unseen.
    faulty: bool,
    /// Some commit may have been refused.
    short_of_memory: bool,
    /// Writeback was switched off somewhere.
    switched_off: bool,
    /// Operations are waiting for a request to meddle with, or have meddled with this one.
    meddling: bool,
    reached: Reached,
}

/// Run the list; panics where the instance differs from the model.
pub fn run(run: Run) -> Reached {
    let builder = instance::builder(run.pool_frames, run.nodes, run.capacity).new_is_referenced(run.new_is_referenced);
    let instance = Instance::new(builder, usize::from(run.device % 9) << 17);
    let memcgs = vec![instance.zswap.root()];
    let mut model = Model {
        instance,
        memcgs,
        born: 0,
        held: HashMap::new(),
        faulty: false,
        short_of_memory: false,
        switched_off: false,
        meddling: false,
        reached: Reached::new(),
    };
    for op in run.ops.0 {
        model.step(op);
    }
    model.end()
}

impl Model {
    fn memcg(&self, n: u8) -> &Memcg {
        &self.memcgs[n as usize % self.memcgs.len()]
    }

    /// Every page that the slot has held, oldest first, while the log of what was done meanwhile is gone through.
    fn catch_up(&mut self, slot: Option<u8>) -> Vec<Option<PageOf>> {
        let mut versions = Vec::new();
        let mut note = |held: &HashMap<u8, (PageOf, u32)>| {
            versions.extend(slot.map(|slot| held.get(&slot).map(|(page, _)| *page)));
        };
        note(&self.held);
        let (done, cancelled, pending) =
            self.instance.device.as_ref().map_or_else(Default::default, |device| device.done());
        self.reached.add("slots freed or replaced during their write", cancelled);
        self.reached.add("operations done during a request", done.len() as u64);
        self.meddling = pending;
        for (_, done) in done {
            match done {
                Done::Freed(slot, was) => assert_eq!(was, self.held.remove(&slot).is_some(), "slot {slot}"),
                Done::Stored(slot, page, Ok(())) => _ = self.held.insert(slot, (page, 1)),
                Done::Stored(slot, _, Err(error)) => {
                    self.check_refusal(&error, true);
                    self.held.remove(&slot);
                }
                Done::Dupped(slot, result) => self.dupped(slot, result),
                Done::Put(slot, result) => self.put(slot, result),
                Done::Offline(memcg) => self.memcgs.retain(|other| *other != memcg),
            }
            note(&self.held);
        }
        versions
    }

    fn dupped(&mut self, slot: u8, result: Result<u32, Error>) {
        match (result, self.held.get_mut(&slot)) {
            (Ok(n), Some((_, count))) => {
                *count += 1;
                assert_eq!(n, *count);
            }
            (Err(Error::NotStored { .. }), None) => {}
            other => panic!("dup of slot {slot}: {other:?}"),
        }
    }

    fn put(&mut self, slot: u8, result: Result<u32, Error>) {
        match (result, self.held.get_mut(&slot)) {
            (Ok(n), Some((_, count))) => {
                *count -= 1;
                assert_eq!(n, *count);
                if n == 0 {
                    self.held.remove(&slot);
                }
            }
            (Err(Error::NotStored { .. }), None) => {}
            other => panic!("put of slot {slot}: {other:?}"),
        }
    }

    /// One of the versions must be what came.
    fn check_read(&mut self, slot: u8, versions: &[Option<PageOf>], result: Result<(), Error>, page: &Page) {
        match result {
            Ok(()) => {
                let is_it = |version: &Option<PageOf>| version.is_some_and(|held| held.build()[..] == page[..]);
                assert!(versions.iter().any(is_it), "slot {slot} came back with another page than {versions:?}");
            }
            Err(Error::Lost { loss, .. }) => {
                // A failure counts only if the slot still holds the page.
                let held = versions.last().is_some_and(Option::is_some);
                assert!(held, "slot {slot} holds nothing any more, and reading it says {loss}");
                assert!(self.faulty, "slot {slot} is lost without a fault: {loss}");
                self.reached.note("corrupt blocks found", loss.why == swap::Why::Corrupt);
                self.reached.note("reads the device failed", matches!(loss.why, swap::Why::Io { .. }));
            }
            Err(Error::NotStored { .. }) => assert!(versions.contains(&None), "slot {slot} has lost {versions:?}"),
            Err(other) => panic!("slot {slot} holds {versions:?}, and a load says {other:?}"),
        }
    }

    /// Whether the store may be refused so.
    fn check_refusal(&mut self, error: &Error, meddled: bool) {
        let works = !self.faulty && !self.switched_off && !meddled;
        match error {
            Error::Limit { source, reason } => {
                self.reached.add("stores refused for a memcg's limit", 1);
                assert_eq!(*reason == Unwritable::NoDevice, self.instance.device.is_none(), "{error}");
                assert!(meddled || source.usage() + source.asked() > source.limit(), "{error}");
                assert!(!works || matches!(reason, Unwritable::NoDevice | Unwritable::DeviceFull), "{error}");
            }
            Error::PoolFull { reason, .. } => {
                self.reached.add("stores refused for the pool limit", 1);
                assert_eq!(*reason == Unwritable::NoDevice, self.instance.device.is_none(), "{error}");
                assert!(!works || matches!(reason, Unwritable::NoDevice | Unwritable::DeviceFull), "{error}");
            }
            Error::Pool(zsmalloc::Error::Arena(arena::Error::NoMemory { .. })) => {
                assert!(self.short_of_memory, "{error}");
                self.reached.add("stores refused for want of memory", 1);
            }
            Error::Memcg(_) if meddled => {}
            other => panic!("a store is refused: {other:?}"),
        }
    }

    fn store(&mut self, slot: u8, memcg: u8, node: u8, page: PageOf) {
        let memcg = self.memcg(memcg).clone();
        let node = NodeId(node % self.instance.zswap.tree().nodes() as u8);
        let result = self.instance.zswap.store(self.instance.slot(slot), &memcg, node, &page.build());
        let meddled = self.meddling;
        self.catch_up(None);
        match result {
            Ok(stored) => {
                assert!(stored != Stored::WrittenThrough || self.instance.device.is_some());
                self.reached.note("pages written through", stored == Stored::WrittenThrough);
                self.held.insert(slot, (page, 1));
            }
            Err(error) => {
                self.check_refusal(&error, meddled);
                self.held.remove(&slot);
            }
        }
    }

    fn load(&mut self, slot: u8) {
        let mut page = Page::zeroed();
        let result = self.instance.zswap.load(self.instance.slot(slot), &mut page);
        let versions = self.catch_up(Some(slot));
        self.check_read(slot, &versions, result, &page);
    }

    fn free(&mut self, slot: u8) {
        assert_eq!(
            self.instance.zswap.free(self.instance.slot(slot)),
            self.held.remove(&slot).is_some(),
            "slot {slot}"
        );
    }

    fn step(&mut self, op: Op) {
        let backed = self.instance.zswap.arena().backed_bytes();
        let usage: Vec<(Memcg, u64)> = self.memcgs.iter().map(|memcg| (memcg.clone(), memcg.usage())).collect();
        let meddling = self.meddling;
        self.act(op);
        self.catch_up(None);
        let arena = self.instance.zswap.arena();
        assert!(arena.backed_bytes() <= arena.limit().max(backed), "3: the pool limit holds");
        for (memcg, before) in usage {
            // Meddling may have raised it and lowered the limit then.
            let held = memcg.usage() <= memcg.zswap_max().max(before);
            assert!(held || meddling, "3: {} has {} of {}", memcg.path(), memcg.usage(), memcg.zswap_max());
        }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Store { slot, memcg, node, page } => self.store(slot, memcg, node, page),
            Op::Many { first, n, memcg, random } => {
                for k in 0..n % 64 {
                    let page = PageOf::Mixed { random, seed: first + k };
                    self.store((first + k) % SLOTS, memcg, k, page);
                }
            }
            Op::Load { slot } => self.load(slot),
            Op::LoadMany { first, n } => (0..n % 16).for_each(|k| self.load((first + k) % SLOTS)),
            Op::TryLoad { slot } => {
                let mut page = Page::zeroed();
                match self.instance.zswap.try_load(self.instance.slot(slot), &mut page) {
                    Err(Error::NeedsIo { .. }) => {
                        assert!(self.held.contains_key(&slot) && self.instance.device.is_some())
                    }
                    result => {
                        let versions = self.catch_up(Some(slot));
                        self.check_read(slot, &versions, result, &page);
                    }
                }
            }
            Op::Free { slot } => self.free(slot),
            Op::FreeMany { first, n, step } => {
                for k in 0..n % 64 {
                    self.free(first.wrapping_add(k.wrapping_mul(step)) % SLOTS);
                }
            }
            Op::Dup { slot } => self.dupped(slot, self.instance.zswap.clone().dup(self.instance.slot(slot))),
            Op::Put { slot } => self.put(slot, self.instance.zswap.clone().put(self.instance.slot(slot))),
            Op::Take { slot, install } => self.take(slot, install),
            Op::Shrink { memcg, nr } => {
                let shrunk = self.instance.zswap.shrink_memcg(self.memcg(memcg), nr.into());
                assert!(
                    matches!(shrunk, Shrunk::NothingToScan) || (self.instance.device.is_some() && nr > 0),
                    "{shrunk:?}"
                );
                self.reached.note("shrinks that wrote", matches!(shrunk, Shrunk::Written(_)));
                self.reached.note("shrinks in vain", shrunk == Shrunk::NoneWritten);
            }
            Op::Compact { kib } => {
                let done = self.instance.zswap.compact(u64::from(kib) << 10);
                assert_eq!(done.busy, 0, "nobody holds an object");
                self.reached.add("objects moved by compaction", done.moved_objects);
                self.reached.add("frames won by compaction", done.frames_freed);
            }
            Op::Limit { memcg, bytes } => self.memcg(memcg).set_zswap_max(u64::from(bytes) * 4).unwrap(),
            Op::NoLimit { memcg } => self.memcg(memcg).set_zswap_max(u64::MAX).unwrap(),
            Op::PoolLimit { frames } => self.instance.zswap.arena().set_limit(u64::from(frames) * FRAME_SIZE as u64),
            Op::Writeback { memcg, on } => {
                self.switched_off |= !on;
                self.memcg(memcg).set_writeback(on).unwrap();
            }
            Op::Mkdir { parent } if self.memcgs.len() < MEMCGS => {
                self.born += 1;
                let child = self.memcg(parent).mkdir(&format!("m{}", self.born)).unwrap();
                self.memcgs.push(child);
            }
            Op::Mkdir { .. } => {}
            Op::Offline { memcg } => {
                let at = memcg as usize % self.memcgs.len();
                let (usage, is_root) = (self.memcgs[at].usage(), at == 0);
                let result = self.instance.zswap.offline(&self.memcgs[at]);
                assert!(!(is_root && result.is_ok()), "the root cannot go");
                if result.is_ok() {
                    self.memcgs.remove(at);
                    self.reached.note("memcgs taken offline with entries", usage > 0);
                }
            }
            Op::Codec { tagged } => self.instance.zswap.set_codec(if tagged { "tagged" } else { "lz4" }).unwrap(),
            Op::FailAt { k, how } => self.fail_at(u64::from(k % 8) + 1, how),
            Op::FailCommits { after } => {
                self.short_of_memory = true;
                self.instance.zswap.arena().fail_commits_after(after.map(u64::from));
            }
            Op::Meanwhile { ops, late } => {
                if let Some(device) = &self.instance.device {
                    let ops: Vec<Meanwhile> = ops.into_iter().flatten().collect();
                    self.meddling = !ops.is_empty();
                    self.switched_off |= ops.iter().any(|op| matches!(op, Meanwhile::Writeback { on: false, .. }));
                    device.meanwhile(ops, self.memcgs.clone(), late);
                }
            }
            Op::Heal => {
                if let Some(device) = &self.instance.device {
                    device.faulty().replan(Plan::none());
                }
            }
            Op::Tidy => self.instance.zswap.quiesce(),
            Op::Check => self.instance.zswap.assert_valid(),
        }
    }

    fn take(&mut self, slot: u8, install: bool) {
        let mut page = Page::zeroed();
        let answer = if install { Installed::Yes } else { Installed::No };
        let result = self.instance.zswap.take_with(self.instance.slot(slot), |taken| {
            page.copy_from_slice(taken);
            answer
        });
        let versions = self.catch_up(Some(slot));
        match result {
            Ok(taken) => {
                self.check_read(slot, &versions, Ok(()), &page);
                assert_eq!(taken == Taken::Kept, !install, "slot {slot} is {taken:?}");
                match taken {
                    Taken::Freed => {
                        let newest = &versions[versions.len() - 1..];
                        self.check_read(slot, newest, Ok(()), &page);
                        // A reference is dropped, and the slot with its last.
                        let (_, count) = self.held.get_mut(&slot).expect("what was taken was held");
                        *count -= 1;
                        if *count == 0 {
                            self.held.remove(&slot);
                        }
                    }
                    Taken::Changed => {
                        assert!(versions.len() > 1, "slot {slot} changed, and nobody changed it");
                        self.reached.add("slots that changed while they were taken", 1);
                    }
                    Taken::Kept => {}
                }
            }
            Err(error) => self.check_read(slot, &versions, Err(error), &page),
        }
    }

    fn fail_at(&mut self, k: u64, how: How) {
        if let Some(device) = &self.instance.device {
            self.faulty = true;
            device.faulty().replan(how.plan(k));
        }
    }

    fn end(mut self) -> Reached {
        self.instance.zswap.assert_valid();
        let stats = self.instance.zswap.stats();
        self.reached
            .add("pages written back or through", self.instance.zswap.root().stat().unwrap().events(Event::ZswpWb));
        self.reached.add("batches the device failed", stats.failed_writes);
        self.reached.add("pages on the device at the end", stats.physical_pages);
        self.reached.add("pages of a repeated word in an object", stats.pattern_pages);
        for slot in 0..SLOTS {
            self.free(slot);
        }
        self.instance.zswap.assert_valid();
        self.instance.zswap.quiesce();
        self.instance.zswap.arena().flush();
        let stats = self.instance.zswap.stats();
        assert_eq!(self.instance.zswap.root().usage(), 0, "nothing is charged in the end");
        assert_eq!((stats.backed_bytes, stats.slot_table_bytes), (0, 0), "nothing is left in the end");
        assert_eq!(stats.area.map_or(0, |area| area.objects + area.used_bytes), 0, "the device is empty in the end");
        self.reached
    }
}
