//! [`Engine`]: the store, the limits and the VMs that share them.
//!
//! ```text
//!   Engine --+-- Zswap        pool, codec, devices, the tree of memcgs
//!            +-- Limits       roster of VMs, policy, who is asked about overshoot
//!            +-- Evictor      the thread that keeps memcgs below their marks
//!            +-- Registration memory.reclaim and memory.high ask us for pages in memory (source=anon)
//! ```
//!
//! A process has as many as it wants; usually one. An engine lives as long as any of its VMs.

use super::error::Error;
use super::limits::policy::{Policy, StagedFifo};
use super::limits::{
    Account, Anon, Evictee, Evictor, Limits, LimitsConfig, Membership, OnOvershoot, Overshoot, Tenant, Verdict,
};
use super::pages::Shared;
use super::pages::outcomes::FaultAround;
use super::vm::{Parts, Vm, VmOptions, WeakVm};
use crate::memcg::{Memcg, Registration};
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Clock, Deadline, Mutex, Planted, Rank};
use crate::zswap::Zswap;
use std::fmt;
use std::time::Duration;

/// How long a check waits for who is still counting what he has served.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pages that are staged ahead unless told otherwise: a run.
const STAGED_AHEAD: u32 = 64;

/// What VMs share: a store, limits, and who evicts. Clones are the same engine.
///
/// ```no_run
/// use zspool::guest::{Engine, VmOptions};
/// use zspool::zswap::Zswap;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(Zswap::builder().pool_limit(256 << 20).build()?)?;
/// let memcg = engine.root().mkdir("vm0")?;
/// memcg.write_file("memory.max", "512M")?;
/// let vm = engine.vm(&memcg, VmOptions::new())?;
/// # drop(vm);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped in this order: nobody asks any more, the thread ends, then what they used.
    _anon: Registration,
    evictor: Option<Evictor>,
    limits: Arc<Limits>,
    vms: Mutex<Vec<WeakVm>>,
    zswap: Arc<Zswap>,
}

/// What a VM keeps of its engine. Dropped, it is taken from no more.
pub(crate) struct Enrolled {
    // Dropped first: it waits for who takes from the VM.
    _membership: Membership,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) engine: Engine,
}

/// Describes an [`Engine`].
#[must_use = "a builder builds nothing until told so"]
pub struct EngineBuilder {
    zswap: Arc<Zswap>,
    policy: Box<dyn Policy>,
    on_overshoot: Option<Box<OnOvershoot>>,
    staged_ahead: u32,
    evictor: bool,
    clock: Clock,
}

impl Engine {
    /// With the default policy, an evictor, and nobody who is asked about overshoot.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn new(zswap: impl Into<Arc<Zswap>>) -> Result<Engine, Error> {
        Engine::builder(zswap).build()
    }

    /// Begin to describe one. A store has one engine at most; who shares it may store pages of its own there.
    pub fn builder(zswap: impl Into<Arc<Zswap>>) -> EngineBuilder {
        EngineBuilder {
            zswap: zswap.into(),
            policy: Box::new(StagedFifo),
            on_overshoot: None,
            staged_ahead: STAGED_AHEAD,
            evictor: true,
            clock: Clock::coarse(),
        }
    }

    /// The store.
    pub fn zswap(&self) -> &Zswap {
        &self.inner.zswap
    }

    /// The root of the tree of memcgs: make one for each VM with [`Memcg::mkdir`], and set its limits there.
    pub fn root(&self) -> Memcg {
        self.inner.zswap.root()
    }

    /// A VM without memory yet, charged to `memcg`. Several VMs may share a memcg.
    ///
    /// # Errors
    /// [`Error::Memcg`] when the memcg was removed, or is of another engine's tree; what the service and the kernel refuse.
    pub fn vm(&self, memcg: &Memcg, options: VmOptions) -> Result<Vm, Error> {
        let Inner { limits, zswap, .. } = &*self.inner;
        if !memcg.tree().is(limits.tree()) {
            return Err(Error::ForeignMemcg { path: memcg.path() });
        }
        let tenant = Arc::new(Tenant::new(Account::new(memcg, Arc::clone(limits))?));
        let (engine, theirs) = (self.clone(), Arc::clone(&tenant));
        let enroll = move |shared: &Arc<Shared>| {
            let evictee = Evictee::new(Arc::clone(&theirs), Arc::clone(shared));
            let membership = engine.inner.limits.join(Arc::new(evictee));
            Enrolled { _membership: membership, tenant: theirs, engine }
        };
        let vm = Vm::assemble(Parts {
            zswap: Arc::clone(zswap),
            memcg: memcg.clone(),
            purse: Box::new(Arc::clone(&tenant)),
            observer: Box::new(tenant),
            options,
            enroll: Some(Box::new(enroll)),
        })?;
        let mut vms = self.inner.vms.lock();
        vms.retain(|vm| !vm.is_gone());
        vms.push(vm.downgrade());
        drop(vms);
        Ok(vm)
    }

    /// What the pages of a VM share, for one that the kernel knows nothing of and that nobody takes from: see
    /// [`own_work`](super::own_work).
    pub(super) fn without_kernel(&self, memcg: &Memcg) -> Result<Arc<Shared>, Error> {
        Ok(self.tenant(memcg, 0, FaultAround::Off, Planted::NONE)?.1)
    }

    /// The same for one that is taken from as any other: see [`model`](super::model).
    pub(super) fn simulated(
        &self,
        memcg: &Memcg,
        kept_bytes: u64,
        around: FaultAround,
        planted: Planted,
    ) -> Result<(Arc<Shared>, Enrolled), Error> {
        let (tenant, shared) = self.tenant(memcg, kept_bytes, around, planted)?;
        let evictee = Evictee::new(Arc::clone(&tenant), Arc::clone(&shared));
        let membership = self.inner.limits.join(Arc::new(evictee));
        Ok((shared, Enrolled { _membership: membership, tenant, engine: self.clone() }))
    }

    fn tenant(
        &self,
        memcg: &Memcg,
        kept_bytes: u64,
        around: FaultAround,
        planted: Planted,
    ) -> Result<(Arc<Tenant>, Arc<Shared>), Error> {
        let tenant = Arc::new(Tenant::new(Account::new(memcg, Arc::clone(&self.inner.limits))?));
        let (purse, store) = (Box::new(Arc::clone(&tenant)), Box::new(Arc::clone(&self.inner.zswap)));
        let shared = Shared::new(store, purse, Box::new(Arc::clone(&tenant)), kept_bytes, around, planted)?;
        Ok((tenant, Arc::new(shared)))
    }

    /// The VMs there are, oldest first.
    pub fn vms(&self) -> Vec<Vm> {
        let vms = self.inner.vms.lock().clone();
        vms.iter().filter_map(WeakVm::upgrade).collect()
    }

    /// Check at a quiet point that each memcg's VMs have in memory what it is charged for, and the store's invariants. Who serves faults may be
    /// about to count the last of them: that is waited for.
    ///
    /// # Panics
    /// When something is not as it must be, with a sentence that says what.
    pub fn assert_valid(&self) {
        self.while_held(|| self.check());
    }

    /// Run `f` while the evictor does nothing.
    #[doc(hidden)]
    pub fn while_held<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Held<'a>(&'a Limits);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.hold(false);
            }
        }
        self.inner.limits.hold(true);
        let _held = Held(&self.inner.limits);
        self.quiesce();
        f()
    }

    fn check(&self) {
        // Who serves a fault wakes the guest before he has counted the page: nobody can wait for that but here.
        let (patience, mut backoff) = (Deadline::after(PATIENCE), Backoff::new());
        while let Some(sentence) = self.differs() {
            assert!(!patience.passed(), "{sentence}");
            backoff.wait_for_io();
        }
        self.inner.zswap.assert_valid();
    }

    /// What a memcg is charged that its VMs do not have.
    fn differs(&self) -> Option<String> {
        let vms = self.vms();
        let mut sums: Vec<(Memcg, u64, u64)> = Vec::new();
        for vm in &vms {
            let stats = vm.stats();
            match sums.iter_mut().find(|(memcg, ..)| memcg == vm.memcg()) {
                Some((_, memory, _)) => *memory += stats.resident + stats.staged,
                None => sums.push((vm.memcg().clone(), stats.resident + stats.staged, stats.compressed_into)),
            }
        }
        sums.iter().find_map(|(memcg, memory, compressed)| {
            let stat = memcg.stat().ok()?; // removed: its parent has it all
            if !memcg.children().is_empty() {
                return None; // the sums have other VMs' bytes in them
            }
            let (charged, stored) = (stat.resident, stat.bytes.compressed);
            let path = memcg.path();
            (charged != *memory)
                .then(|| format!("memcg {path}: {charged} bytes are charged as resident, and its VMs have {memory}"))
                .or_else(|| {
                    (stored != *compressed)
                        .then(|| format!("memcg {path}: {stored} bytes are compressed, and its VMs have {compressed}"))
                })
        })
    }

    /// Take pages out of VMs charged to `memcg` or below it until `bytes` fewer are charged. How many fewer there are.
    pub fn evict(&self, memcg: &Memcg, bytes: u64) -> u64 {
        self.inner.limits.evict(memcg, bytes, &|| false).bytes
    }

    /// Wait until the evictor has nothing to do.
    pub fn quiesce(&self) {
        if let Some(evictor) = &self.inner.evictor {
            evictor.quiesce();
        }
    }

    /// The policy's name.
    pub fn policy(&self) -> &'static str {
        self.inner.limits.policy_name()
    }
}

impl EngineBuilder {
    /// Which pages go. The default is [`StagedFifo`].
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// How many pages of each VM near a limit are taken out of its range before they are needed, so that a fault at the limit finds some to
    /// compress, and what is hot has time to come back. 64 unless set; 0 stages nothing ahead.
    pub fn staged_ahead(mut self, pages: u32) -> Self {
        self.staged_ahead = pages;
        self
    }

    /// Whether there is a thread that evicts before faults have to. There is, unless set; without, faults do it themselves, and `memory.high`
    /// is kept by who writes it alone.
    pub fn evictor(mut self, yes: bool) -> Self {
        self.evictor = yes;
        self
    }

    /// Who is asked when a limit is to be passed because nothing can be evicted. Without, what must be served is, and is counted.
    ///
    /// It is called in the thread that faults, possibly in a signal handler: see [`OnOvershoot`].
    pub fn on_overshoot(mut self, ask: impl Fn(&Overshoot) -> Verdict + Send + Sync + 'static) -> Self {
        self.on_overshoot = Some(Box::new(ask));
        self
    }

    /// The time that ages are counted in; for tests.
    #[doc(hidden)]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Make it.
    ///
    /// # Errors
    /// [`Error::NoThread`] when the system refuses the evictor its thread.
    pub fn build(self) -> Result<Engine, Error> {
        let EngineBuilder { zswap, policy, on_overshoot, staged_ahead, evictor, clock } = self;
        let tree = zswap.tree().clone();
        let prepare = {
            let zswap = Arc::clone(&zswap);
            // A memcg that was removed meanwhile needs nothing: its parent is prepared when a page of that is refused.
            Box::new(move |memcg: &Memcg| _ = zswap.prepare_stores(memcg))
        };
        let config = LimitsConfig { policy, on_overshoot, staged_ahead, clock, prepare };
        let limits = Arc::new(Limits::new(tree.clone(), config));
        let evictor = evictor.then(|| Evictor::start(Arc::clone(&limits)));
        let evictor = evictor.transpose().map_err(|source| Error::NoThread { what: "the evictor", source })?;
        let anon = tree.register(Box::new(Anon(Arc::clone(&limits))));
        let vms = Mutex::new(Rank::Guest, Vec::new());
        Ok(Engine { inner: Arc::new(Inner { _anon: anon, evictor, limits, vms, zswap }) })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder").field("policy", &self.policy.name()).finish_non_exhaustive()
    }
}
