//! [`Builder`]: how an instance is described.

use super::Error;
use super::core::{Core, Policy, Zswap};
use super::inflight::Inflight;
use super::proactive;
use super::reclaim::Helpers;
use super::reserve::{Asked, Reserved};
use super::sampling::{Sampler, Sampling};
use super::stats::Counters;
use super::swapins::Swapins;
use super::walk::Form;
use super::worker::Worker;
use crate::arena::{ArenaConfig, Topology};
use crate::compress::{Codecs, Contexts};
use crate::memcg::{Cursor, TreeConfig};
use crate::swap::{self, Device, DeviceOptions, Devices, Protection, SwapFile};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use crate::sync::{Arc, Clock, Convoy, FLIGHTS, Planted, SAMPLED_CLUSTERS, Steps, Turnstile};
use crate::units::MAX_SLOTS_IN_USE;
use crate::zsmalloc::{self, DEFAULT_WASTE_PER_MILLE, Geometry};
use std::path::PathBuf;

/// Entries a batch of writeback holds at most (the kernel's `NR_ZSWAP_WB_BATCH`).
pub const WRITEBACK_BATCH: usize = 64;

/// Entries a store looks at that finds its memcg's limit reached: it needs room for one. What several stores pick shares
/// a batch.
const STORE_SCAN: usize = 1;

/// Batches that can be on their way to the device at once.
const BATCHES: usize = 8;

/// Failures after which reclaim gives up (the kernel's `MAX_RECLAIM_RETRIES`).
const MAX_RECLAIM_RETRIES: usize = 16;

/// Describes a [`Zswap`]; start from [`Zswap::builder`].
#[derive(Debug)]
pub struct Builder {
    pool_limit: Option<u64>,
    codec: String,
    codecs: Codecs,
    swap: Vec<Swap>,
    swap_limit: u64,
    direct: bool,
    encryption: bool,
    arena: ArenaConfig,
    geometry: Geometry,
    slots_in_use: u64,
    contexts: Option<usize>,
    worker: bool,
    policy: Policy,
    sampling: Option<Sampling>,
    device_geometry: swap::Geometry,
    tree: TreeConfig,
    clock: Clock,
    planted: Planted,
}

#[derive(Debug)]
enum Swap {
    /// A swapfile of so many bytes, opened as the builder says in the end.
    File {
        path: PathBuf,
        size: u64,
    },
    Options(DeviceOptions),
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            pool_limit: None,
            codec: "lz4".to_owned(),
            codecs: Codecs::builtin(),
            swap: Vec::new(),
            swap_limit: u64::MAX,
            direct: true,
            encryption: true,
            arena: ArenaConfig::default(),
            geometry: Geometry::default(),
            slots_in_use: MAX_SLOTS_IN_USE,
            contexts: None,
            worker: true,
            policy: Policy {
                batch: WRITEBACK_BATCH,
                store_scan: STORE_SCAN,
                max_failures: MAX_RECLAIM_RETRIES,
                waste_per_mille: Some(DEFAULT_WASTE_PER_MILLE),
                accept_threshold_percent: 90,
                new_is_referenced: false,
                form: Form::Shared,
                raw_first: true,
            },
            sampling: Some(Sampling::default()),
            device_geometry: swap::Geometry::default(),
            tree: TreeConfig::default(),
            clock: Clock::coarse(),
            planted: Planted::NONE,
        }
    }

    /// Bytes of memory that the pool's frames may take, warm ones too. Default: a fifth of the machine's memory.
    pub fn pool_limit(mut self, bytes: u64) -> Self {
        self.pool_limit = Some(bytes);
        self
    }

    /// Name of the codec for new pages. Default `lz4`.
    pub fn codec(mut self, name: &str) -> Self {
        self.codec = name.to_owned();
        self
    }

    /// The codecs there are: for a codec of one's own.
    pub fn codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Write cold pages to a swapfile of at most `size` bytes. It is made if missing, reused if it is an earlier one of ours,
    /// and refused if it is anything else. As every device without options of its own it is of the tier `swap`, priority 0.
    pub fn swapfile(mut self, path: impl Into<PathBuf>, size: u64) -> Self {
        self.swap.push(Swap::File { path: path.into(), size });
        self
    }

    /// Whether such a swapfile bypasses the page cache (default), which would else hold what we saved.
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Whether what goes to devices is encrypted (default), with a key that never leaves memory. Without, pages lie there for
    /// whoever can read the devices, and a checksum finds accidents only.
    pub fn encryption(mut self, encryption: bool) -> Self {
        self.encryption = encryption;
        self
    }

    /// Write cold pages to this device.
    pub fn device(self, device: impl Device + 'static) -> Self {
        self.swap(DeviceOptions::device(device))
    }

    /// Write cold pages to this device too, as its options say.
    pub fn swap(mut self, options: DeviceOptions) -> Self {
        self.swap.push(Swap::Options(options));
        self
    }

    /// Bytes in use on all devices together at most. Default: as many as they have.
    pub fn swap_limit(mut self, bytes: u64) -> Self {
        self.swap_limit = bytes;
        self
    }

    /// The nodes. Default: this machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.arena.topology = topology;
        self
    }

    /// Bytes of address space for the pool. Default: 16 times the machine's memory. Where the kernel refuses so much, this and
    /// the slots in use are halved together.
    pub fn address_space(mut self, bytes: usize) -> Self {
        self.arena.address_space = bytes;
        self
    }

    /// Frames kept backed without an object at most, to be used again soon. Default 128, and no more than a 256th of the
    /// frames backed (but 16).
    pub fn warm_frames(mut self, frames: usize) -> Self {
        self.arena.warm_frames = frames;
        self
    }

    /// Size classes. The default suits pages compressed to a quarter or so.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = geometry;
        self
    }

    /// Slots that may lie in touched clusters at once. Default and most: 2^28 (a tebibyte of pages).
    pub fn slots_in_use(mut self, slots: u64) -> Self {
        self.slots_in_use = slots;
        self
    }

    /// Threads that can compress at once. Default: the machine's cores.
    pub fn compressing_threads(mut self, threads: usize) -> Self {
        self.contexts = Some(threads);
        self
    }

    /// Whether a background thread keeps the pool below its limit. Default yes. Without it stores make room themselves.
    pub fn worker(mut self, worker: bool) -> Self {
        self.worker = worker;
        self
    }

    /// How much may be wasted before the worker compacts, in thousandths of the frames backed; `None`: it never does.
    /// Wasted are frames beyond those that the slots in use would fill. Default 25.
    pub fn automatic_compaction(mut self, waste_per_mille: Option<u32>) -> Self {
        self.policy.waste_per_mille = waste_per_mille;
        self
    }

    /// Percent of the pool limit down to which the worker runs. Default 90. (Unlike the kernel's, no store that fits is refused
    /// because of it.)
    ///
    /// # Panics
    /// Above 100.
    pub fn accept_threshold_percent(mut self, percent: u64) -> Self {
        assert!(percent <= 100, "the accept threshold is a share of the pool limit: at most 100 percent");
        self.policy.accept_threshold_percent = percent;
        self
    }

    /// Entries looked at in a batch of writeback (default 64), and by a store that hits its memcg's limit (default 1).
    ///
    /// # Panics
    /// When either is 0.
    pub fn scan(mut self, batch: usize, store: usize) -> Self {
        assert!(batch > 0 && store > 0, "reclaim has to look at one entry at least");
        self.policy.batch = batch.min(WRITEBACK_BATCH);
        self.policy.store_scan = store;
        self
    }

    /// Whether a page just stored counts as referenced, so that it is passed over once before it is written back (the kernel's
    /// way). Default no.
    pub fn new_is_referenced(mut self, yes: bool) -> Self {
        self.policy.new_is_referenced = yes;
        self
    }

    /// Where pages do not shrink, give only some to the codec ([`Sampling`]); `None`: all of them. Default: of 2 MiB of a
    /// guest in which [`after`](Sampling::after) pages in a row did not shrink, one page in [`every`](Sampling::every). A page
    /// that would have shrunk and was not tried takes a whole page until it is stored again; no limit refuses it for that.
    ///
    /// # Panics
    /// When `after` is 0, `every` below 2, or both together above 255.
    pub fn sampling(mut self, sampling: Option<Sampling>) -> Self {
        if let Some(sampling) = sampling {
            sampling.check();
        }
        self.sampling = sampling;
        self
    }

    /// Whether cold pages that did not shrink are written back before those that did: they give back the most. Default yes.
    pub fn incompressible_first(mut self, yes: bool) -> Self {
        self.policy.raw_first = yes;
        self
    }

    /// How a walk over a memcg's lists divides its budget. Default [`Form::Shared`].
    pub fn shrink_form(mut self, form: Form) -> Self {
        self.policy.form = form;
        self
    }

    /// What tells how long entries have lain. Default the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sizes of the device's pages and batches.
    pub fn device_geometry(mut self, geometry: swap::Geometry) -> Self {
        self.device_geometry = geometry;
        self
    }

    /// How the memcg tree is made; its number of nodes is that of the topology.
    pub fn tree(mut self, tree: TreeConfig) -> Self {
        self.tree = tree;
        self
    }

    /// A bug for a model to find.
    #[doc(hidden)]
    pub fn planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Make the instance.
    ///
    /// # Errors
    /// [`Error::Codec`] for an unknown codec, [`Error::Swap`] for a swapfile that cannot be used, [`Error::AddressSpace`],
    /// [`Error::Arena`] and [`Error::Swap`] when there is no address space, [`Error::Worker`] when no thread can be started.
    pub fn build(mut self) -> Result<Zswap, Error> {
        let codec = self.codecs.by_name(&self.codec)?.id();
        self.arena.limit_bytes = self.pool_limit.unwrap_or_else(zsmalloc::default_limit);
        self.arena.run_frames = self.geometry.max_chain().next_power_of_two();
        let protection = if self.encryption { Protection::new()? } else { Protection::checksum() };
        let devices = Devices::new(self.device_geometry, protection, self.planted);
        devices.set_limit(self.swap_limit);
        for swap in self.swap {
            devices.add(match swap {
                Swap::File { path, size } => {
                    DeviceOptions::swapfile(SwapFile::options().path(path).size(size).direct(self.direct))
                }
                Swap::Options(options) => options,
            })?;
        }
        let Reserved { arena, slots, lru, tree, pool } = Reserved::new(&Asked {
            arena: self.arena,
            slots_in_use: self.slots_in_use,
            geometry: self.geometry,
            tree: self.tree,
            clock: self.clock,
            planted: self.planted,
        })?;
        let kick = Arc::clone(pool.mailbox());
        let swapins = Swapins::new(tree.nodes(), self.planted);
        let flights = FLIGHTS.max(BATCHES * self.policy.batch);
        let no_room = |bytes: usize| move |source| Error::AddressSpace { bytes: bytes as u64, source };
        let inflight = Inflight::new(flights, self.planted).map_err(no_room(flights * 8))?;
        let sampler = Sampler::new(self.sampling).map_err(no_room(SAMPLED_CLUSTERS * 2))?;
        let core = Arc::new(Core {
            tree,
            slots,
            arena,
            pool,
            lru,
            codecs: self.codecs,
            codec: AtomicU8::new(codec.get()),
            contexts: Contexts::new(self.contexts.unwrap_or_else(cores)),
            devices,
            inflight,
            leaving: AtomicU32::new(0),
            submission: Convoy::new(self.policy.batch, self.planted),
            cursor: Cursor::new(),
            nodes_cursor: Cursor::new(),
            policy: self.policy,
            sampler,
            swapins,
            relief_cursor: Cursor::new(),
            counters: Counters::default(),
            kick,
            turnstile: Turnstile::new(self.planted),
            helpers: Helpers::default(),
            gave_up: AtomicBool::new(false),
            trouble: AtomicU8::new(0),
            planted: self.planted,
            steps: Steps::default(),
        });
        core.tell_tiers();
        let worker = if self.worker { Some(Worker::start(&core)?) } else { None };
        Ok(Zswap { _served: proactive::register(&core), worker, core })
    }
}

fn cores() -> usize {
    crate::sync::thread::available_parallelism()
}
