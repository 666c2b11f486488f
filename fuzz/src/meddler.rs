//! [`Meddler`]: a device that fails on cue and, in the middle of a request, does other operations on the instance that
//! waits for it.
//!
//! ```text
//!   store(a) -> limit -> writeback of b, c -> Device::submit
//!                                                |  free(b), store(c), offline(memcg), ...     what other threads could do
//!                                                v
//!                                             the write, with or without a fault
//! ```
//!
//! No lock is held across device I/O, so whatever other threads could do there, the one thread of a fuzzer may do too, and
//! the same list always does it at the same moment. What came of it is logged, for the model to be told afterwards.

use super::page::PageOf;
use arbitrary::{Arbitrary, Unstructured};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use zspool::memcg::{Counter, Memcg};
use zspool::swap::{self, BLOCK_BYTES, Device, Fault, FaultyDevice, MemoryDevice, Plan, Request};
use zspool::sync::Deadline;
use zspool::units::{NodeId, SlotRange};
use zspool::zswap::{Error, Zswap};

/// Slots lie this far apart, so that they are in several clusters.
pub const STRIDE: u64 = 8;

/// Slots there are: few, so that operations meet.
pub const SLOTS: u8 = 96;

/// Bytes of a segment of the instances, which have batches of 16 pages.
pub const SEGMENT_BYTES: u64 = 16 * 4096;

/// A slot from a byte of input.
pub fn slot(u: &mut Unstructured<'_>) -> arbitrary::Result<u8> {
    Ok(u8::arbitrary(u)? % SLOTS)
}

/// How the device goes wrong.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum How {
    Eio,
    Enospc,
    Short(u16),
    Torn(u8),
    Flip(u16),
    Misdirect(u32),
    Lost,
    Down,
    Full,
}

impl How {
    /// Operation `k` goes wrong so, or all from it on.
    pub fn plan(self, k: u64) -> Plan {
        let plan = Plan::none();
        match self {
            How::Eio => plan.at(k, Fault::Errno(libc::EIO)),
            How::Enospc => plan.at(k, Fault::Errno(libc::ENOSPC)),
            How::Short(bytes) => plan.at(k, Fault::Short { bytes: bytes.into() }),
            How::Torn(sectors) => plan.at(k, Fault::Torn { sectors: sectors.into() }),
            How::Flip(bit) => plan.at(k, Fault::Flip { bit: bit.into() }),
            How::Misdirect(to) => plan.at(k, Fault::Misdirect { to: to.into() }),
            How::Lost => plan.at(k, Fault::Lost),
            How::Down => plan.down_from(k, libc::EIO),
            How::Full => plan.full_from(k),
        }
    }
}

/// An operation done meanwhile.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Meanwhile {
    Free {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Store {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
        page: PageOf,
    },
    Dup {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Put {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Load {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    Offline {
        memcg: u8,
    },
    Limit {
        memcg: u8,
        bytes: u16,
    },
    Writeback {
        memcg: u8,
        on: bool,
    },
    Shrink {
        memcg: u8,
        nr: u8,
    },
    Compact,
    Reap,
}

/// What was done meanwhile, and what came of it.
#[derive(Debug)]
pub enum Done {
    Freed(u8, bool),
    Stored(u8, PageOf, Result<(), Error>),
    Dupped(u8, Result<u32, Error>),
    Put(u8, Result<u32, Error>),
    Offline(Memcg),
}

/// Operations done so far, on whatever device: one request of the instance may go to several.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// See the file.
#[derive(Debug)]
pub struct Meddler {
    faulty: FaultyDevice<MemoryDevice>,
    queue: Mutex<Queue>,
    instance: OnceLock<(Weak<Zswap>, SlotRange)>,
}

#[derive(Debug, Default)]
struct Queue {
    todo: Vec<Meanwhile>,
    memcgs: Vec<Memcg>,
    /// Before the request is done, or after.
    late: bool,
    /// With the number of each among those of all devices.
    done: Vec<(u64, Done)>,
    /// Slots freed or replaced while a write of theirs was under way.
    cancelled: u64,
}

impl Meddler {
    /// A device of `len` bytes.
    pub fn new(len: usize) -> Self {
        Self::over(FaultyDevice::new(MemoryDevice::new(len, 4096), Plan::none()))
    }

    /// The same, where requests that hang are given up at once.
    pub fn impatient(len: usize) -> Self {
        Self::over(FaultyDevice::with_timeout(MemoryDevice::new(len, 4096), Plan::none(), Duration::ZERO))
    }

    fn over(faulty: FaultyDevice<MemoryDevice>) -> Self {
        Meddler { faulty, queue: Mutex::default(), instance: OnceLock::new() }
    }

    /// The faults.
    pub fn faulty(&self) -> &FaultyDevice<MemoryDevice> {
        &self.faulty
    }

    /// The instance that is to be meddled with, on these slots.
    pub fn attach(&self, zswap: &Arc<Zswap>, slots: SlotRange) {
        self.instance.set((Arc::downgrade(zswap), slots)).expect("a device is attached once");
    }

    /// Do this in the middle of the next request.
    pub fn meanwhile(&self, todo: Vec<Meanwhile>, memcgs: Vec<Memcg>, late: bool) {
        *self.queue.lock().unwrap() = Queue { todo, memcgs, late, ..Queue::default() };
    }

    /// What was done since the last time, each with its number among those of all devices; how many slots lost what was being written of
    /// them; and whether there is more to do.
    pub fn done(&self) -> (Vec<(u64, Done)>, u64, bool) {
        let mut queue = self.queue.lock().unwrap();
        (std::mem::take(&mut queue.done), std::mem::take(&mut queue.cancelled), !queue.todo.is_empty())
    }

    fn meddle(&self, late: bool, written: &[u64]) {
        let mut queue = self.queue.lock().unwrap();
        if queue.late != late || queue.todo.is_empty() {
            return;
        }
        let (todo, mut memcgs) = (std::mem::take(&mut queue.todo), std::mem::take(&mut queue.memcgs));
        drop(queue);
        let Some((zswap, slots)) = self.instance.get().and_then(|(weak, slots)| Some((weak.upgrade()?, slots))) else {
            return;
        };
        // A batch that finds all room in the hands of other batches waits for them, and who cleans waits for other cleaners; this
        // thread may be in the middle of either. What may write is left out where room is scarce or something could be cleaned.
        let roomy = || {
            let need = 2 * zswap.stats().pool.payload_bytes + 3 * SEGMENT_BYTES;
            let mut rows = zswap.devices().into_iter().map(|row| row.area);
            rows.all(|area| area.segments.free * SEGMENT_BYTES >= need && area.reclaimable_bytes == 0)
        };
        let at = |slot: u8| slots.get(u64::from(slot) * STRIDE).unwrap();
        for op in todo {
            let writes = matches!(
                op,
                Meanwhile::Store { .. } | Meanwhile::Limit { .. } | Meanwhile::Shrink { .. } | Meanwhile::Reap
            );
            if writes && !roomy() {
                continue;
            }
            // And a store at a limit joins the batch of stores that is under way, which this thread may be writing.
            let limited = |memcg: &Memcg| [Counter::Zswap, Counter::Memory].iter().any(|&of| memcg.max(of) != u64::MAX);
            if matches!(op, Meanwhile::Store { .. }) && (limited(&zswap.root()) || memcgs.iter().any(limited)) {
                continue;
            }
            let n = |memcg: u8| memcg as usize % memcgs.len();
            let done = match op {
                Meanwhile::Free { slot } => Some(Done::Freed(slot, zswap.free(at(slot)))),
                Meanwhile::Store { slot, memcg, page } => {
                    let result = zswap.store(at(slot), &memcgs[n(memcg)], NodeId(0), &page.build());
                    Some(Done::Stored(slot, page, result.map(drop)))
                }
                Meanwhile::Dup { slot } => Some(Done::Dupped(slot, zswap.dup(at(slot)))),
                Meanwhile::Put { slot } => Some(Done::Put(slot, zswap.put(at(slot)))),
                Meanwhile::Load { slot } => {
                    _ = zswap.load(at(slot), &mut zspool::units::Page::zeroed());
                    None
                }
                Meanwhile::Offline { memcg } => {
                    let k = n(memcg);
                    zswap.offline(&memcgs[k]).is_ok().then(|| Done::Offline(memcgs.remove(k)))
                }
                Meanwhile::Limit { memcg, bytes } => {
                    _ = memcgs[n(memcg)].set_zswap_max(u64::from(bytes) * 4);
                    None
                }
                Meanwhile::Writeback { memcg, on } => {
                    _ = memcgs[n(memcg)].set_writeback(on);
                    None
                }
                Meanwhile::Shrink { memcg, nr } => {
                    _ = zswap.shrink_memcg(&memcgs[n(memcg)], nr.into());
                    None
                }
                Meanwhile::Compact => {
                    _ = zswap.compact(u64::MAX);
                    None
                }
                Meanwhile::Reap => {
                    zswap.quiesce();
                    None
                }
            };
            let mut queue = self.queue.lock().unwrap();
            if let Some(Done::Freed(slot, true) | Done::Stored(slot, ..) | Done::Put(slot, Ok(0))) = done {
                queue.cancelled += u64::from(written.contains(&at(slot).0));
            }
            queue.done.extend(done.map(|done| (NUMBER.fetch_add(1, Ordering::Relaxed), done)));
        }
    }
}

/// The slots in the blocks of a write (see the format of a block).
fn slots_in(request: &mut Request) -> Vec<u64> {
    if request.op() == swap::Op::Read {
        return Vec::new();
    }
    request.bytes_mut().chunks_exact(BLOCK_BYTES).map(|c| u64::from_le_bytes(c[8..16].try_into().unwrap())).collect()
}

impl Device for Meddler {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.status() != swap::Status::Idle {
                continue;
            }
            let written = slots_in(request);
            self.meddle(false, &written);
            self.faulty.submit(std::slice::from_mut(request));
            self.meddle(true, &written);
        }
    }

    fn complete(&self, requests: &mut [Request]) {
        self.faulty.complete(requests); // all were started inside submit
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.faulty.complete_by(requests, deadline);
    }

    fn poll(&self, request: &mut Request) {
        self.faulty.poll(request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.faulty.timeout()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.faulty.punch(range)
    }

    fn len_bytes(&self) -> u64 {
        self.faulty.len_bytes()
    }

    fn block_bytes(&self) -> usize {
        self.faulty.block_bytes()
    }

    fn name(&self) -> &str {
        "meddler"
    }
}
