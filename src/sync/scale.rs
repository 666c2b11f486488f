//! What is smaller, or left out, where a model explores every order of things: numbers of this crate that depend on who runs it.
//!
//! Here, and not where they belong, because no other folder asks whether a model runs.

/// Slots in a cluster. Under loom, few: each is a tracked object.
pub const CLUSTER_SLOTS: usize = if cfg!(loom) { 4 } else { 512 };

/// Devices an instance can have at once. Under loom, few, for the same reason; under shuttle as well, for each look at one is a step.
pub const DEVICES: usize = if cfg!(loom) {
    2
} else if cfg!(shuttle) {
    4
} else {
    32
};

/// Slots that may be on their way to a device at once: as many as a segment of the smallest objects has. Under loom and
/// shuttle, few, for the same reasons.
pub const FLIGHTS: usize = if cfg!(loom) {
    8
} else if cfg!(shuttle) {
    64
} else {
    4096
};

/// Clusters whose compressibility is remembered at once: 2 bytes each. Under loom one, under shuttle few, for the same reasons.
pub const SAMPLED_CLUSTERS: usize = if cfg!(loom) {
    1
} else if cfg!(shuttle) {
    16
} else {
    4096
};

/// Stocks of charge and counters a memcg tree has unless told otherwise: several for each core. Under loom none: what is modelled is the
/// shared words, and stocks where a model asks for them.
pub fn default_stocks() -> usize {
    if cfg!(loom) { 0 } else { (4 * super::thread::available_parallelism()).clamp(8, 1024) }
}

/// Whether loads that read a device note the time. Not under loom: what they hold for it has a model of its own, and those of loads
/// would take hours with it.
pub const TIMES_LOADS: bool = !cfg!(loom);

/// Whether words are looked at only to have others fetched. Not under loom, to which each look is a step.
pub const FETCHES_AHEAD: bool = !cfg!(loom);

/// Whether what goes to devices is encrypted unless told otherwise. Not under loom or Miri: the cipher is machine code, which
/// neither sees into, and its key lies in memory of the kernel's.
pub const ENCRYPTS: bool = !cfg!(any(loom, miri));

/// Bytes of address space to leave to the global allocator and to stacks of threads. Under loom none: a region is memory of the
/// allocator there, zeroed in every run of a model.
pub const HEADROOM: usize = if cfg!(loom) { 0 } else { 16 << 20 };

/// The most frames a zspage has. Under loom, few, for the same reason.
pub const ZSPAGE_FRAMES: usize = if cfg!(loom) { 2 } else { 16 };
