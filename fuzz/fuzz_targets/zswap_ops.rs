//! Lists of operations on a whole instance, against a plain model, with a device that fails on cue.
//!
//! Checked: a page comes back identical or as an error, and an error only where a fault was planned or a limit is set; limits
//! hold; a failed store leaves no older copy; every counter is exact whenever `Check` comes, and zero after everything is freed.
//! With AddressSanitizer, pool memory is poisoned where no live object lies.
//!
//! Not covered: threads (loom, tests), the worker, real files, several nodes.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::sync::Arc;
use zspool::memcg::Memcg;
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Error, Installed, Stored, Taken, Zswap};

#[derive(Arbitrary, Debug)]
struct Run {
    /// Pool limit in frames.
    pool_frames: u8,
    /// Device size in units of 256 KiB; 0 for none.
    device: u8,
    new_is_referenced: bool,
    ops: Vec<Op>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Store { slot: u8, memcg: u8, page: PageOf },
    Load { slot: u8 },
    TryLoad { slot: u8 },
    Free { slot: u8 },
    Dup { slot: u8 },
    Put { slot: u8 },
    Take { slot: u8, install: bool },
    Shrink { memcg: u8, nr: u8 },
    Compact { kib: u8 },
    Limit { memcg: u8, bytes: u16 },
    NoLimit { memcg: u8 },
    Writeback { memcg: u8, on: bool },
    Mkdir { parent: u8 },
    Offline { memcg: u8 },
    FailAt { k: u8, how: How },
    Heal,
    Tidy,
    Check,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum How {
    Eio,
    Enospc,
    Short(u16),
    Torn(u8),
    Flip(u16),
    Misdirect(u32),
    Lost,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum PageOf {
    Zero,
    Word(u64),
    Mixed { random: u16, seed: u8 },
}

fn build(page: PageOf) -> Page {
    let mut built = Page::zeroed();
    match page {
        PageOf::Zero => {}
        PageOf::Word(word) => built.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&word.to_ne_bytes())),
        PageOf::Mixed { random, seed } => {
            let n = random as usize % 4097;
            let mut x = u64::from(seed) << 16 | 1;
            for byte in &mut built[..n] {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *byte = (x >> 24) as u8;
            }
            built[n..].fill(seed);
        }
    }
    built
}

struct Model {
    zswap: Zswap,
    device: Option<Arc<FaultyDevice<MemoryDevice>>>,
    slots: SlotRange,
    memcgs: Vec<Memcg>,
    /// What each slot holds, and its references.
    held: HashMap<u8, (PageOf, u8)>,
    /// A fault was planned: reads may fail from now on, and writes may have failed unseen.
    faulty: bool,
}

impl Model {
    fn memcg(&self, n: u8) -> &Memcg {
        &self.memcgs[n as usize % self.memcgs.len()]
    }

    fn read_result(&self, slot: u8, result: Result<(), Error>, page: &Page) {
        match (self.held.get(&slot), result) {
            (Some((held, _)), Ok(())) => assert!(page[..] == build(*held)[..], "slot {slot} came back with another page"),
            (Some(_), Err(Error::Read { .. })) => assert!(self.faulty, "slot {slot} could not be read without a fault"),
            (None, Err(Error::NotStored { .. })) => {}
            (held, result) => panic!("slot {slot} holds {held:?}, and a load says {result:?}"),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Store { slot, memcg, page } => {
                let memcg = self.memcg(memcg).clone();
                match self.zswap.store(self.slots.get(slot.into()).unwrap(), &memcg, NodeId(0), &build(page)) {
                    Ok(stored) => {
                        if stored == Stored::WrittenThrough {
                            assert!(self.device.is_some());
                        }
                        self.held.insert(slot, (page, 1));
                    }
                    Err(Error::Limit { .. } | Error::PoolFull { .. }) => _ = self.held.remove(&slot),
                    Err(other) => panic!("{other:?}"),
                }
            }
            Op::Load { slot } => {
                let mut page = Page::zeroed();
                let result = self.zswap.load(self.slots.get(slot.into()).unwrap(), &mut page);
                self.read_result(slot, result, &page);
            }
            Op::TryLoad { slot } => {
                let mut page = Page::zeroed();
                match self.zswap.try_load(self.slots.get(slot.into()).unwrap(), &mut page) {
                    Err(Error::NeedsIo { .. }) => assert!(self.held.contains_key(&slot) && self.device.is_some()),
                    result => self.read_result(slot, result, &page),
                }
            }
            Op::Free { slot } => {
                assert_eq!(self.zswap.free(self.slots.get(slot.into()).unwrap()), self.held.remove(&slot).is_some());
            }
            Op::Dup { slot } => match (self.zswap.dup(self.slots.get(slot.into()).unwrap()), self.held.get_mut(&slot)) {
                (Ok(n), Some((_, count))) => {
                    *count += 1;
                    assert_eq!(n, *count);
                }
                (Err(Error::TooManyReferences { .. }), Some((_, 15))) | (Err(Error::NotStored { .. }), None) => {}
                other => panic!("{other:?}"),
            },
            Op::Put { slot } => match (self.zswap.put(self.slots.get(slot.into()).unwrap()), self.held.get_mut(&slot)) {
                (Ok(n), Some((_, count))) => {
                    *count -= 1;
                    assert_eq!(n, *count);
                    if n == 0 {
                        self.held.remove(&slot);
                    }
                }
                (Err(Error::NotStored { .. }), None) => {}
                other => panic!("{other:?}"),
            },
            Op::Take { slot, install } => {
                let mut page = Page::zeroed();
                let answer = if install { Installed::Yes } else { Installed::No };
                let result = self.zswap.take_with(self.slots.get(slot.into()).unwrap(), |taken| {
                    page.copy_from_slice(taken);
                    answer
                });
                match result {
                    Ok(taken) => {
                        self.read_result(slot, Ok(()), &page);
                        assert_eq!(taken, if install { Taken::Freed } else { Taken::Kept });
                        if install {
                            self.held.remove(&slot);
                        }
                    }
                    Err(error) => self.read_result(slot, Err(error), &page),
                }
            }
            Op::Shrink { memcg, nr } => _ = self.zswap.shrink_memcg(self.memcg(memcg), nr.into()),
            Op::Compact { kib } => _ = self.zswap.compact(u64::from(kib) << 10),
            Op::Limit { memcg, bytes } => _ = self.memcg(memcg).set_zswap_max(u64::from(bytes) * 4),
            Op::NoLimit { memcg } => _ = self.memcg(memcg).set_zswap_max(u64::MAX),
            Op::Writeback { memcg, on } => _ = self.memcg(memcg).set_writeback(on),
            Op::Mkdir { parent } => {
                if self.memcgs.len() < 6 {
                    let child = self.memcg(parent).mkdir(&format!("m{}", self.memcgs.len()));
                    // A name may be taken where an earlier one went.
                    self.memcgs.extend(child);
                }
            }
            Op::Offline { memcg } => {
                let at = memcg as usize % self.memcgs.len();
                if self.zswap.offline(&self.memcgs[at]).is_ok() {
                    self.memcgs.remove(at);
                }
            }
            Op::FailAt { k, how } => {
                if let Some(device) = &self.device {
                    let fault = match how {
                        How::Eio => Fault::Errno(libc::EIO),
                        How::Enospc => Fault::Errno(libc::ENOSPC),
                        How::Short(bytes) => Fault::Short { bytes: bytes.into() },
                        How::Torn(sectors) => Fault::Torn { sectors: sectors.into() },
                        How::Flip(bit) => Fault::Flip { bit: bit.into() },
                        How::Misdirect(to) => Fault::Misdirect { to: to.into() },
                        How::Lost => Fault::Lost,
                    };
                    device.replan(Plan::none().at(u64::from(k) + 1, fault));
                    self.faulty = true;
                }
            }
            Op::Heal => {
                if let Some(device) = &self.device {
                    device.replan(Plan::none());
                }
            }
            Op::Tidy => self.zswap.quiesce(),
            Op::Check => self.check(),
        }
        assert!(self.zswap.arena().backed_bytes() <= self.zswap.arena().limit(), "the pool limit holds");
    }

    fn check(&self) {
        self.zswap.assert_valid();
    }
}

fuzz_target!(|run: Run| {
    let mut builder = Zswap::builder()
        .pool_limit(u64::from(run.pool_frames) * 4096)
        .slots_in_use(4096)
        .address_space(16 << 20)
        .warm_frames(4)
        .compressing_threads(1)
        .new_is_referenced(run.new_is_referenced)
        .worker(false);
    let device = (run.device > 0)
        .then(|| Arc::new(FaultyDevice::new(MemoryDevice::new((run.device as usize + 1) << 18, 4096), Plan::none())));
    if let Some(device) = &device {
        builder = builder.device(Arc::clone(device));
    }
    let zswap = builder.build().unwrap();
    let slots = zswap.reserve(256).unwrap();
    let memcgs = vec![zswap.root()];
    let mut model = Model { zswap, device, slots, memcgs, held: HashMap::new(), faulty: false };
    for op in run.ops {
        model.step(op);
    }
    model.check();
    for slot in 0..=255 {
        assert_eq!(model.zswap.free(slots.get(slot.into()).unwrap()), model.held.contains_key(&slot));
    }
    model.check();
    model.zswap.quiesce();
    model.zswap.arena().flush();
    assert_eq!(model.zswap.root().usage(), 0);
    assert_eq!(model.zswap.stats().backed_bytes, 0);
});
