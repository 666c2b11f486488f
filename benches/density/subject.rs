//! What is compared: stores of pages or of objects, by number.

use crate::kernel_zram::KernelZram;
use std::collections::HashMap;
use std::ops::Range;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::memcg::{Memcg, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zsmalloc::{Compactor, DEFAULT_WASTE_PER_MILLE, Handle, Original, Pool, PoolConfig, TagSpace};
use zspool::zswap::Zswap;

/// Limit of the pools and of the memcg: far above what is stored, so that it is looked at and never refuses.
pub(crate) const LIMIT: u64 = 64 << 30;

/// Something that keeps bytes under the numbers from 0.
pub(crate) trait Subject {
    fn name(&self) -> &'static str;
    /// Keep `bytes` under `k`, in place of what was there.
    fn put(&mut self, k: usize, bytes: &[u8]);
    /// Copy what is under `k` to the front of `out`.
    fn get(&mut self, k: usize, out: &mut Page);
    fn free(&mut self, k: usize);
    /// Gather and give back what can be.
    fn compact(&mut self) {}
    /// Bytes that the subject was given to keep, compressed if it compresses.
    fn payload(&self) -> u64;
    /// Bytes of frames that objects lie in, or did a moment ago. `None` where frames and metadata are not told apart.
    fn frames(&self) -> Option<u64> {
        None
    }
    /// Bytes of the client's own table of names.
    fn index(&self) -> u64 {
        0
    }
    /// Bytes of memory that are not this process's, for subjects that live elsewhere.
    fn elsewhere(&self) -> Option<u64> {
        None
    }
}

/// Three levels below the root, the highest with a limit.
pub(crate) fn three_levels(root: &Memcg) -> Memcg {
    let tenant = root.mkdir("tenant").expect("a fresh name");
    tenant.set_zswap_max(LIMIT).expect("it is online");
    tenant.mkdir("user").and_then(|user| user.mkdir("vm")).expect("fresh names")
}

pub(crate) fn compress<'a>(context: &'a mut Context, page: &'a [u8]) -> &'a [u8] {
    match Lz4.compress(context, page.try_into().expect("a page")) {
        Compressed::Bytes(bytes) => bytes,
        Compressed::Incompressible => page,
    }
}

pub(crate) fn decompress(bytes: &[u8], out: &mut Page) {
    match <&[u8; PAGE_SIZE]>::try_from(bytes) {
        Ok(raw) => out.copy_from_slice(raw),
        Err(_) => Lz4.decompress(bytes, out).expect("the subject keeps what it was given"),
    }
}

// === copies into a log: the floor ===

/// Bytes in one array, each number at its place: a copy and nothing else; with a codec, the codec and that copy.
pub(crate) struct Log {
    codec: Option<Context>,
    bytes: Vec<u8>,
    objects: Vec<Range<usize>>,
    /// Bytes between two places.
    stride: usize,
    /// Without a stride, where the next object goes: one behind the other, round and round.
    end: usize,
}

impl Log {
    pub(crate) fn new(codec: bool, numbers: usize) -> Self {
        let mut bytes = vec![0; numbers * PAGE_SIZE];
        bytes.fill(1); // there, so that no page is touched for the first time while the clock runs
        let stride = if codec { 0 } else { PAGE_SIZE };
        Log { codec: codec.then(Context::new), bytes, objects: vec![0..0; numbers], stride, end: 0 }
    }
}

impl Subject for Log {
    fn name(&self) -> &'static str {
        if self.codec.is_some() { "codec alone" } else { "memcpy" }
    }

    fn put(&mut self, k: usize, bytes: &[u8]) {
        let bytes = match &mut self.codec {
            Some(context) => compress(context, bytes),
            None => bytes,
        };
        // With a codec the log is written from end to end: replaced objects stay where they are until it comes round.
        let start = match self.stride {
            0 if self.end + bytes.len() > self.bytes.len() => 0,
            0 => self.end,
            stride => k * stride,
        };
        self.end = start + bytes.len();
        self.bytes[start..self.end].copy_from_slice(bytes);
        self.objects[k] = start..self.end;
    }

    fn get(&mut self, k: usize, out: &mut Page) {
        let bytes = &self.bytes[self.objects[k].clone()];
        match self.codec {
            Some(_) => decompress(bytes, out),
            None => out[..bytes.len()].copy_from_slice(bytes),
        }
    }

    fn free(&mut self, k: usize) {
        self.objects[k] = 0..0;
    }

    fn payload(&self) -> u64 {
        self.objects.iter().map(|object| object.len() as u64).sum()
    }
}

// === zswap ===

pub(crate) struct ZswapSubject {
    zswap: Zswap,
    vm: Memcg,
    slots: SlotRange,
}

impl ZswapSubject {
    pub(crate) fn new(numbers: usize) -> Self {
        let zswap = Zswap::builder().pool_limit(LIMIT).build().expect("an instance without a swapfile");
        let vm = three_levels(&zswap.root());
        let slots = zswap.reserve(numbers as u64).expect("slots without end");
        ZswapSubject { zswap, vm, slots }
    }
}

impl Subject for ZswapSubject {
    fn name(&self) -> &'static str {
        "zswap"
    }

    fn put(&mut self, k: usize, bytes: &[u8]) {
        let page = bytes.try_into().expect("a page");
        self.zswap.store(self.slots.base() + k as u64, &self.vm, NodeId(0), page).expect("the pool has room");
    }

    fn get(&mut self, k: usize, out: &mut Page) {
        self.zswap.load(self.slots.base() + k as u64, out).expect("it was stored");
    }

    fn free(&mut self, k: usize) {
        self.zswap.free(self.slots.base() + k as u64);
    }

    fn compact(&mut self) {
        let _ = self.zswap.compact(u64::MAX);
        self.zswap.quiesce();
        self.zswap.pool().flush();
    }

    fn payload(&self) -> u64 {
        self.zswap.stats().pool.payload_bytes
    }

    fn frames(&self) -> Option<u64> {
        Some(self.zswap.pool().arena().backed_bytes())
    }
}

// === the allocator with handles ===

pub(crate) struct PoolSubject {
    codec: Option<Context>,
    pool: Arc<Pool>,
    /// The client's index: 8 bytes a number, 0 for none.
    handles: Vec<u64>,
    /// With accounting: who pays.
    vm: Option<Memcg>,
    /// Compaction that starts by itself.
    _compactor: Option<Compactor>,
}

impl PoolSubject {
    pub(crate) fn new(codec: bool, accounting: bool, numbers: usize) -> Self {
        Self::on(Topology::simulated(1), codec, accounting, numbers)
    }

    /// The objects go to the nodes in turns.
    pub(crate) fn on(topology: Topology, codec: bool, accounting: bool, numbers: usize) -> Self {
        let config = ArenaConfig { limit_bytes: LIMIT, topology, ..ArenaConfig::default() };
        let arena = Arena::new(config).expect("address space");
        let tree = accounting.then(|| Tree::new(TreeConfig { nodes: arena.topology().len(), ..TreeConfig::default() }));
        let vm = tree.as_ref().map(|tree| three_levels(&tree.root()));
        let config = PoolConfig { accounting: tree, original: Original::Payload, ..PoolConfig::default() };
        let pool = Arc::new(Pool::open(Arc::new(arena), config, &TagSpace::new()).expect("a pool"));
        PoolSubject { codec: codec.then(Context::new), pool, handles: vec![0; numbers], vm, _compactor: None }
    }

    /// With a thread that compacts when enough is wasted.
    pub(crate) fn compacting(self) -> Self {
        let compactor = Compactor::start(&self.pool, Some(DEFAULT_WASTE_PER_MILLE)).expect("a thread");
        PoolSubject { _compactor: Some(compactor), ..self }
    }
}

impl Subject for PoolSubject {
    fn name(&self) -> &'static str {
        match (&self.codec, &self.vm) {
            (_, Some(_)) => "zsmalloc::Pool, accounting",
            (Some(_), None) => "zsmalloc::Pool with the codec",
            (None, None) => "zsmalloc::Pool",
        }
    }

    fn put(&mut self, k: usize, bytes: &[u8]) {
        let bytes = match &mut self.codec {
            Some(context) => compress(context, bytes),
            None => bytes,
        };
        let node = NodeId((k % self.pool.arena().topology().len()) as u8);
        let handle = self.pool.insert_for(self.vm.as_ref(), node, bytes).expect("the pool has room");
        match std::mem::replace(&mut self.handles[k], handle.raw()) {
            0 => {}
            old => self.pool.remove(Handle::from_raw(old)).expect("it was there"),
        }
    }

    fn get(&mut self, k: usize, out: &mut Page) {
        let object = self.pool.get(Handle::from_raw(self.handles[k])).expect("it is there");
        match self.codec {
            Some(_) => decompress(&object, out),
            None => out[..object.len()].copy_from_slice(&object),
        }
    }

    fn free(&mut self, k: usize) {
        let handle = std::mem::take(&mut self.handles[k]);
        self.pool.remove(Handle::from_raw(handle)).expect("it was there");
    }

    fn compact(&mut self) {
        let _ = self.pool.compact(u64::MAX);
        self.pool.flush();
    }

    fn payload(&self) -> u64 {
        self.pool.stats().payload_bytes
    }

    fn frames(&self) -> Option<u64> {
        Some(self.pool.arena().backed_bytes())
    }

    fn index(&self) -> u64 {
        size_of_val(&self.handles[..]) as u64
    }
}

// === boxed slices in a hash map, on the system's malloc ===

pub(crate) struct MapSubject {
    codec: Option<Context>,
    map: HashMap<u64, Box<[u8]>>,
}

impl MapSubject {
    pub(crate) fn new(codec: bool) -> Self {
        MapSubject { codec: codec.then(Context::new), map: HashMap::new() }
    }
}

impl Subject for MapSubject {
    fn name(&self) -> &'static str {
        if self.codec.is_some() { "HashMap<u64, Box<[u8]>> with the codec" } else { "HashMap<u64, Box<[u8]>>" }
    }

    fn put(&mut self, k: usize, bytes: &[u8]) {
        let bytes = match &mut self.codec {
            Some(context) => compress(context, bytes),
            None => bytes,
        };
        self.map.insert(k as u64, bytes.into());
    }

    fn get(&mut self, k: usize, out: &mut Page) {
        let bytes = &self.map[&(k as u64)];
        match self.codec {
            Some(_) => decompress(bytes, out),
            None => out[..bytes.len()].copy_from_slice(bytes),
        }
    }

    fn free(&mut self, k: usize) {
        self.map.remove(&(k as u64));
    }

    fn compact(&mut self) {
        self.map.shrink_to_fit();
        // SAFETY: gives free memory of the allocator back to the kernel; nothing that is in use changes.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::malloc_trim(0)
        };
    }

    fn payload(&self) -> u64 {
        self.map.values().map(|bytes| bytes.len() as u64).sum()
    }
}

// === the kernel's zram ===

/// A device of its own making; see [`KernelZram`].
pub(crate) struct KernelSubject(KernelZram);

impl KernelSubject {
    /// A device, or why there can be none.
    pub(crate) fn new(numbers: usize) -> Result<Self, String> {
        KernelZram::new(numbers as u64).map(KernelSubject)
    }
}

impl Subject for KernelSubject {
    fn name(&self) -> &'static str {
        "kernel zram"
    }

    fn put(&mut self, k: usize, bytes: &[u8]) {
        self.0.store(k as u64, bytes.try_into().expect("a page")).expect("no limit is set");
    }

    fn get(&mut self, k: usize, out: &mut Page) {
        self.0.load(k as u64, out).expect("it was put");
    }

    fn free(&mut self, k: usize) {
        self.0.discard(k as u64);
    }

    fn compact(&mut self) {
        self.0.compact();
    }

    fn payload(&self) -> u64 {
        self.0.mm_stat().compr_data_size
    }

    fn elsewhere(&self) -> Option<u64> {
        Some(self.0.memory())
    }
}
