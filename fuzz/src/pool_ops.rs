//! Operations on the allocator, against a plain model: objects with their bytes, a tree of charges.
//!
//! ```text
//!   model: objects, guards, drafts, memcgs        Pool with handles, or with a client's cells
//!            |  after each operation: answers, bytes read, sums of the pool, the root's charge, limits
//!            |  at `Check` and the end: every memcg, every invariant of every layer
//!            +- at the end: everything freed, everything zero
//! ```
//!
//! Checked:
//! 1. An object reads as it was written, until it is freed; guards on it also after.
//! 2. A charge is refused exactly when it does not fit, and the refusal's numbers are right.
//! 3. The arena refuses only when two frames do not fit even with all warm ones given back, or where that was planted.
//! 4. Compaction changes no object, wins the frames it says, stays in its budget, and a second one has nothing to do.
//! 5. Stale, foreign and made-up names are refused; so are impossible lengths and nodes.
//! 6. A refusal changes nothing.
//! 7. No object comes to lie on a node that its memcg may not use; after a mask was narrowed, exactly what was said to be left
//!    lies outside.
//!
//! With AddressSanitizer, pool memory is poisoned where no live object lies.

mod model;

use super::list::List;
use super::reached::Reached;
use super::subject::{Client, Words};
use super::tree::Groups;
use arbitrary::Arbitrary;
use model::Model;
use std::sync::Arc;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::units::{FRAME_SIZE, NodeId};
use zspool::zsmalloc::{Geometry, Original, Pool, PoolConfig, TagSpace};

/// A pool, and what is done to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// With handles of its own, or as a client's.
    pub handles: bool,
    /// Whether anybody is charged.
    pub accounting: bool,
    /// What counts as original.
    pub original_is_payload: bool,
    /// Size classes.
    pub classes: Classes,
    /// Nodes less one, modulo 3; from 128 on, full ones fall back as a kernel's do.
    pub nodes: u8,
    /// Frames of the nodes; 0 and from 128 on for no capacity.
    pub capacities: [u8; 3],
    /// Address space in units of 64 KiB; 0 for 16 MiB.
    pub space: u8,
    /// Frames that stay warm.
    pub warm: u8,
    /// What is done.
    pub ops: List<Op>,
}

/// Which size classes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Classes {
    Default,
    Kernel8,
    Kernel4,
    /// Few and far between.
    Coarse,
}

/// What is done to a pool. Objects, guards and drafts are picked by any number.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Op {
    Malloc { len: u16, memcg: u8, node: u8, seed: u8, in_place: bool },
    Burst { len: u16, n: u8, memcg: u8, node: u8 },
    Free { which: u8 },
    Thin { step: u8 },
    Read { which: u8 },
    Guard { which: u8 },
    DropGuard { which: u8 },
    Draft { len: u16, memcg: u8, node: u8 },
    WriteDraft { which: u8, seed: u8 },
    DropDraft { which: u8 },
    CancelDraft { which: u8 },
    WrongLength { len: u16, memcg: u8, by: i8 },
    Impossible { len: u16, node: u8 },
    Stale { which: u8 },
    MadeUp { raw: u64 },
    Foreign { which: u8 },
    Compact { budget: Budget },
    CompactNode { node: u8, budget: Budget },
    Mkdir { parent: u8 },
    Limit { memcg: u8, bytes: u16 },
    NoLimit { memcg: u8 },
    Offline { memcg: u8 },
    Nodes { memcg: u8, bits: u8 },
    AllNodes { memcg: u8 },
    ArenaLimit { frames: Option<u8> },
    FailCommits { after: Option<u8> },
    Maintain,
    Flush,
    Check,
}

/// How much compaction may move.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Budget {
    All,
    Bytes(u16),
}

/// Run the list; panics where the pool differs from the model.
pub fn run(run: Run) -> Reached {
    let nodes = 1 + usize::from(run.nodes % 3);
    let mut topology = Topology::simulated(nodes);
    for (node, &frames) in run.capacities[..nodes].iter().enumerate().filter(|(_, frames)| (1..128).contains(*frames)) {
        topology = topology.with_capacity(NodeId(node as u8), u64::from(frames) * FRAME_SIZE as u64);
    }
    if run.nodes >= 128 {
        topology = topology.with_fallback();
    }
    let address_space = if run.space == 0 { 16 << 20 } else { usize::from(run.space) << 16 };
    let config = ArenaConfig { address_space, warm_frames: usize::from(run.warm), topology, ..ArenaConfig::default() };
    let arena = Arc::new(Arena::new(config).unwrap());
    let tree = Tree::new(TreeConfig { nodes, ..TreeConfig::default() });
    let geometry = match run.classes {
        Classes::Default => Geometry::default(),
        Classes::Kernel8 => Geometry::kernel(8).unwrap(),
        Classes::Kernel4 => Geometry::kernel(4).unwrap(),
        Classes::Coarse => Geometry::new(64, 512, 5).unwrap(),
    };
    let config = PoolConfig {
        geometry,
        accounting: run.accounting.then(|| tree.clone()),
        original: if run.original_is_payload { Original::Payload } else { Original::Fixed(4096) },
        ..PoolConfig::default()
    };
    let tags = TagSpace::new();
    let small = ArenaConfig { address_space: 1 << 16, topology: Topology::simulated(1), ..ArenaConfig::default() };
    let other = Pool::open(Arc::new(Arena::new(small).unwrap()), PoolConfig::default(), &tags).unwrap();
    let groups = Groups::new(tree.root());
    if run.handles {
        let pool = Pool::open(arena, config, &tags).unwrap();
        let reached = Model::new(&pool, &other, run.accounting, groups).run(&run.ops.0);
        pool.close().expect("every object was freed");
        reached
    } else {
        let cells = Arc::new(Words::new());
        let client = Client::new(Pool::new(arena, Arc::clone(&cells), config).unwrap(), cells);
        Model::new(&client, &other, run.accounting, groups).run(&run.ops.0)
    }
}
