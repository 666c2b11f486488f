//! Operations on a tree of memcgs with everything that reclaims from it: control files, pages in memory, a device that fails.
//!
//! ```text
//!   raw texts --> control files --+                        +--> client: pages in memory --swap_out--+
//!   tree changes, limits ---------+--> Memcg::reclaim -----+                                        v
//!   touch, fault, store, load ----+    limits, memory.high +--> zswap: compressed --writeback--> device
//!            |
//!   model: which pages there are, who is charged for those in memory, a parser of its own
//! ```
//!
//! Checked:
//! 1. A page comes back identical, or as an error where a fault was planned; a page that is refused stays where it was.
//! 2. No limit of any counter is exceeded, but by being lowered; `memory.current` is compressed and resident bytes, always.
//! 3. A text is taken or refused as a second parser says, with the error that it says; what is refused changes nothing.
//! 4. `memory.reclaim` succeeds only if so many bytes left, of that memcg and those below it; from zswap alone, to the entry. Where
//!    everything could be written, it fails only if nothing is left. Every byte is counted as what it was.
//! 5. Limits set below the usage are met, where everything could be written; stores are refused only where it could not.
//! 6. Names are taken or refused as cgroup v2 does; so is `rmdir`; a removed memcg's files say so.
//! 7. In the end everything is zero.
//! 8. A run of the worker brings the pool down to its threshold, and compressed bytes below every limit that they count
//!    against, where everything could be written.
//!
//! In the middle of device requests other memcgs are removed, limits set and reclaim begun (see [`meddler`](super::meddler)).
//! Not covered: threads, real files, the mounted tree.

mod client;
pub mod expect;
mod model;
pub mod text;

use super::instance::{self, Instance};
use super::list::List;
use super::meddler::{How, Meanwhile, slot};
use super::page::PageOf;
use super::reached::Reached;
use arbitrary::Arbitrary;
use model::Model;
use std::sync::Arc;
use text::{Name, Sources, Text, seldom};
use zspool::sync::Clock;
use zspool::zswap::{Form, Sampling};

/// An instance with its tree, and what is done to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// Pool limit in frames.
    pub pool_frames: u8,
    /// None for 0 modulo 8, 128 to 384 KiB for 1 to 3, else one on which there is always room.
    pub device: u8,
    /// Nodes less one, modulo 3.
    pub nodes: u8,
    /// Frames of node 1 if there is one; 0 for no capacity.
    pub capacity: u8,
    /// Whether somebody swaps out pages in memory when asked.
    pub client: bool,
    /// A page just stored is passed over once.
    pub new_is_referenced: bool,
    /// Walks divide their budgets as the kernel's do.
    pub per_node: bool,
    /// Pages that look as if they would not shrink are not compressed.
    pub sampling: bool,
    /// Entries in a batch, modulo 64.
    pub batch: u8,
    /// What is done.
    pub ops: List<Op>,
}

/// What is done. Memcgs, files and what is open are picked by any number.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A new page in memory.
    Touch {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
        page: PageOf,
    },
    TouchMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        memcg: u8,
        random: u16,
    },
    SwapOut {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    /// A stored page comes back to memory.
    Fault {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
    },
    Store {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
        node: u8,
        page: PageOf,
    },
    StoreMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        memcg: u8,
        random: u16,
    },
    LoadMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    FreeMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    /// Resident bytes that nobody can reclaim.
    Ballast {
        memcg: u8,
        bytes: u16,
    },
    SplitBallast {
        which: u8,
    },
    DropBallast {
        which: u8,
    },
    /// A request without a mistake.
    Ask {
        memcg: u8,
        bytes: u16,
        sources: Sources,
        #[arbitrary(with = seldom)]
        age: Option<u16>,
    },
    Reclaim {
        memcg: u8,
        text: Text,
        cancel: Cancelled,
    },
    Write {
        memcg: u8,
        file: u8,
        text: Text,
    },
    Read {
        memcg: u8,
        file: u8,
    },
    /// A file of any name.
    NoFile {
        memcg: u8,
        name: Name,
        text: Text,
    },
    Open {
        memcg: u8,
        file: u8,
    },
    WriteOpen {
        which: u8,
        text: Text,
    },
    Close {
        which: u8,
    },
    /// Files of a removed memcg.
    Removed {
        which: u8,
        file: u8,
        text: Text,
    },
    Max {
        memcg: u8,
        counter: u8,
        bytes: Option<u16>,
    },
    /// The same and more, through the file.
    Limit {
        memcg: u8,
        file: u8,
        bytes: Option<u16>,
    },
    High {
        memcg: u8,
        bytes: Option<u16>,
    },
    Writeback {
        memcg: u8,
        on: bool,
    },
    PoolLimit {
        frames: u8,
    },
    Mkdir {
        parent: u8,
        name: Name,
    },
    Rmdir {
        memcg: u8,
    },
    Shrink {
        memcg: u8,
        nr: u8,
    },
    Relieve {
        pages: u8,
    },
    /// A run of the worker.
    Work,
    Compact {
        kib: u8,
    },
    /// Time passes.
    Wait {
        seconds: u16,
    },
    FailAt {
        k: u8,
        how: How,
    },
    Heal,
    Meanwhile {
        ops: [Option<Meanwhile>; 3],
        late: bool,
    },
    Tidy,
    Check,
}

/// Whether a request is cancelled.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    No,
    Before,
    /// After so many pages were swapped out for it.
    After(u8),
}

/// Run the list; panics where the instance differs from the model.
pub fn run(run: Run) -> Reached {
    let clock = Clock::settable();
    let builder = instance::builder(run.pool_frames, run.nodes, run.capacity)
        .new_is_referenced(run.new_is_referenced)
        .shrink_form(if run.per_node { Form::PerNode } else { Form::Shared })
        .sampling(run.sampling.then_some(Sampling { after: 2, every: 2 }))
        .scan(1 + usize::from(run.batch % 64), 1)
        .clock(clock.clone());
    let (device_bytes, roomy) = match run.device % 8 {
        units @ 0..=3 => (usize::from(units) << 17, false),
        _ => (1 << 20, true),
    };
    let instance = Arc::new(Instance::new(builder, device_bytes));
    let mut model = Model::new(instance, clock, roomy, run.per_node, run.client);
    run.ops.0.into_iter().for_each(|op| model.step(op));
    model.end()
}
