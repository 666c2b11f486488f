//! Guest memory: a virtual machine's or an emulator's memory under a limit, paged out while it runs and back on a fault.
//!
//! ```text
//!   Engine ---- Zswap (pool, codec, devices), the tree of memcgs, the evictor, the policy
//!     |
//!    Vm  ------ a memcg, a userfaultfd, a service of faults, statistics
//!     |
//!   Region ---- a caller's range: page k of it is slot base+k
//!                 guest range   [ p0 p1 p2 ... ]     the embedder's addresses
//!                 shadow range  [ .  .  .  ... ]     a page taken out lies at the same index, for a while
//!                 words         [ w0 w1 w2 ... ]     4 bytes a page, backed where touched
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `engine.rs` | what VMs share |
//! | `vm.rs`, `region.rs` | what an embedder holds: a VM, and each range of its memory |
//! | `pages/` | the states of pages and everything that changes them |
//! | `registry.rs` | from an address to the region it lies in, also inside a signal handler |
//! | `memory/` | what a caller registers, and what the kernel does for each kind of memory |
//! | `uffd/` | a thin layer over userfaultfd |
//! | `limits/`, `stats/` | who pays, who leaves, and what was seen |
//! | `service/` | who serves faults |
//! | `dirty.rs`, `working_set.rs` | which pages were written, and which were touched |
//! | `map.rs`, `vm_memory.rs` | the regions of a VM by guest addresses, and as the crate vm-memory has them |
//! | `control/` | a socket to ask and to drive a running engine |

mod error;
pub mod memory;
#[doc(hidden)]
pub mod model;
#[cfg_attr(loom, allow(dead_code, reason = "models have no kernel, and use a part of it"))]
pub(crate) mod pages;
#[cfg_attr(loom, allow(dead_code, reason = "models have no kernel"))]
pub mod uffd;

modelled! {
    #[allow(dead_code, reason = "models use a part of it")]
    #[path = "service/modelled.rs"]
    mod service;
}
unmodelled! {
    pub mod control;
    mod dirty;
    mod engine;
    pub mod limits;
    mod map;
    #[doc(hidden)]
    pub mod own_work;
    mod region;
    pub(crate) mod registry;
    pub mod service;
    pub mod stats;
    mod vm;
    #[cfg(feature = "vm-memory")]
    pub mod vm_memory;
    mod working_set;

    pub use engine::{Engine, EngineBuilder};
    pub use map::{Changed, GuestMap, GuestRange};
    pub use limits::{OnOvershoot, Overshoot, Verdict, policy};
    pub use region::{Pin, Region};
    pub use stats::{Ages, Faults, Histogram, VmStats};
    pub use service::{Follow, MappingChange, ThreadOptions};
    pub use vm::{RegionInfo, Service, Vm, VmOptions};
    pub use working_set::{BadWorkingSet, Recording, WorkingSet};
}

pub use error::Error;
pub use pages::outcomes::{Evicted, FaultAround, FaultKind, Prefetched};

use crate::sync::{modelled, unmodelled};

/// The code of the guide is compiled and run with the other examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct EmbeddingGuide;
