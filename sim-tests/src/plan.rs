//! [`Plan`]: what a run consists of, made of its seed; [`Scenario`]: which part of it.

use crate::Random;
use crate::administrator::Duty;
use crate::device::{Costs, DevicePlan, TROUBLES, Trouble};
use crate::paint::Sizes;
use zspool::sync::Bug;

/// A guest: a VM with one region.
#[derive(Clone, Copy, Debug)]
pub struct GuestPlan {
    /// Pages of its region.
    pub pages: u32,
    /// Which memcg pays.
    pub memcg: usize,
    /// Staged pages lie in place.
    pub in_place: bool,
    /// Bytes of copies that are kept.
    pub kept_bytes: u64,
    /// Neighbours that come along.
    pub around: u32,
    /// Threads that touch it.
    pub threads: usize,
}

/// Who does what, on what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Frames of the pool.
    pub pool_frames: u64,
    /// Nodes of the machine.
    pub nodes: usize,
    /// The worker has a thread.
    pub worker: bool,
    /// The evictor has one, where there are guests.
    pub evictor: bool,
    /// What goes to devices is encrypted.
    pub encryption: bool,
    /// Pages of a batch.
    pub batch_pages: usize,
    /// The parent of each memcg but the root: 0 is the root, 1 the first of these.
    pub parents: Vec<usize>,
    /// Devices that are on from the start.
    pub devices: Vec<DevicePlan>,
    /// Threads that store and load.
    pub clients: usize,
    /// Slots that all of them use.
    pub shared_slots: usize,
    /// Slots of each alone.
    pub own_slots: usize,
    /// Guests.
    pub guests: Vec<GuestPlan>,
    /// What administrators do, one thread each.
    pub duties: Vec<Vec<Duty>>,
    /// Operations of a thread in a phase.
    pub operations: u64,
    /// Phases, with a quiet point after each.
    pub phases: usize,
    /// How pages compress.
    pub sizes: Sizes,
    /// The bug that is planted.
    pub bug: Option<Bug>,
}

impl Plan {
    /// What its devices may cost.
    pub fn costs(&self) -> Costs {
        Costs::of(&self.devices)
    }
}

/// Which part of the system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// All of it, as the seed has it.
    Everything,
    /// Several clients on few slots, and compaction.
    StoresAndCompaction,
    /// Clients above a pool that is too small, with a device, a worker and prefetch.
    Writeback,
    /// Groups with limits that change and go while clients store.
    Groups,
    /// Devices that come and go, are cleaned, and hand down what they hold.
    Devices,
    /// The same where they fail.
    Faults,
    /// Guests under limits, with an evictor.
    Guests,
    /// One guest, whose pages are thrown away, pinned, pushed out and asked for.
    Discards,
}

/// All of them.
pub const SCENARIOS: [Scenario; 8] = [
    Scenario::Everything,
    Scenario::StoresAndCompaction,
    Scenario::Writeback,
    Scenario::Groups,
    Scenario::Devices,
    Scenario::Faults,
    Scenario::Guests,
    Scenario::Discards,
];

impl Scenario {
    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| format!("{scenario:?}") == name)
    }

    /// The plan of a seed.
    pub fn plan(self, seed: u64) -> Plan {
        let random = &mut Random::new(seed ^ 0x9_1a4);
        let plan = Plan {
            pool_frames: random.from(24..64),
            nodes: 1,
            worker: !random.one_in(4),
            evictor: !random.one_in(4),
            encryption: random.one_in(2),
            batch_pages: random.pick(&[4, 8, 16]),
            parents: vec![0, 0],
            devices: Vec::new(),
            clients: 0,
            shared_slots: 0,
            own_slots: 0,
            guests: Vec::new(),
            duties: Vec::new(),
            operations: random.from(15..50),
            phases: 2,
            sizes: if random.one_in(3) { Sizes::Two } else { Sizes::All },
            bug: None,
        };
        match self {
            Scenario::Everything => everything(plan, random),
            Scenario::StoresAndCompaction => Plan {
                clients: 3,
                shared_slots: 6,
                own_slots: 20,
                duties: vec![vec![Duty::Compact], vec![Duty::Compact, Duty::Look, Duty::Nodes]],
                nodes: 1 + random.index(2),
                sizes: Sizes::Two,
                ..plan
            },
            Scenario::Writeback => Plan {
                pool_frames: random.from(6..16),
                devices: vec![device(random, 1)],
                clients: 3,
                shared_slots: 6,
                own_slots: 12,
                duties: vec![vec![Duty::Shrink, Duty::Prefetch, Duty::Reclaim], vec![Duty::Work, Duty::Compact]],
                ..plan
            },
            Scenario::Groups => Plan {
                parents: vec![0, 1, 1, 2],
                devices: vec![device(random, 1)],
                clients: 3,
                shared_slots: 4,
                own_slots: 10,
                duties: vec![vec![Duty::Limit], vec![Duty::Replace, Duty::Limit, Duty::Look], vec![Duty::Shrink]],
                ..plan
            },
            Scenario::Devices => Plan {
                pool_frames: random.from(6..20),
                devices: vec![device(random, 2), device(random, 1)],
                clients: 3,
                shared_slots: 4,
                own_slots: 12,
                duties: vec![
                    vec![Duty::Swapoff],
                    vec![Duty::Clean, Duty::Demote, Duty::Shrink],
                    vec![Duty::Prefetch, Duty::Work],
                ],
                ..plan
            },
            Scenario::Faults => Plan {
                pool_frames: random.from(6..20),
                devices: vec![troubled(random, 2), device(random, 1)],
                clients: 3,
                shared_slots: 4,
                own_slots: 12,
                duties: vec![
                    vec![Duty::Swapoff, Duty::Clean, Duty::Heal],
                    vec![Duty::Shrink, Duty::Work, Duty::Prefetch],
                ],
                ..plan
            },
            Scenario::Guests => Plan {
                parents: vec![0, 1, 1],
                devices: if random.one_in(3) { Vec::new() } else { vec![device(random, 1)] },
                guests: vec![guest(random, 2), guest(random, 3)],
                duties: vec![vec![Duty::Limit, Duty::Reclaim], vec![Duty::Compact, Duty::Work, Duty::Look]],
                ..plan
            },
            Scenario::Discards => Plan {
                guests: vec![GuestPlan { threads: 3, pages: 12, ..guest(random, 1) }],
                duties: vec![vec![Duty::Evict], vec![Duty::Evict, Duty::Limit]],
                ..plan
            },
        }
    }
}

fn device(random: &mut Random, tier: i16) -> DevicePlan {
    let water = (tier > 1 && random.one_in(3)).then_some((30, 60));
    DevicePlan { bytes: 4096 * random.from(96..256) as usize, tier, trouble: None, retire_after: 8, water }
}

fn troubled(random: &mut Random, tier: i16) -> DevicePlan {
    let trouble: Trouble = random.pick(&TROUBLES);
    let times = random.from(2..12);
    DevicePlan { trouble: Some((trouble, times)), retire_after: random.pick(&[0, 8]), ..device(random, tier) }
}

fn guest(random: &mut Random, memcg: usize) -> GuestPlan {
    GuestPlan {
        pages: random.from(16..80) as u32,
        memcg,
        in_place: random.one_in(2),
        kept_bytes: random.pick(&[0, 4096, 16384]),
        around: random.pick(&[0, 4, 16]),
        threads: 1 + random.index(2),
    }
}

/// All of it: a tree, devices in tiers of which some go wrong, clients, guests and administrators.
fn everything(plan: Plan, random: &mut Random) -> Plan {
    let memcgs = random.from(2..6) as usize;
    let devices = random.index(4);
    let duties: Vec<Vec<Duty>> = (0..random.from(1..4)).map(|_| Duty::some(random)).collect();
    let troubles = !random.one_in(3);
    Plan {
        nodes: 1 + random.index(2),
        pool_frames: random.from(6..64),
        parents: (0..memcgs).map(|at| random.index(at + 1)).collect(),
        devices: (0..devices)
            .map(|at| {
                let tier = 1 + at as i16 / 2;
                if troubles && random.one_in(2) { troubled(random, tier) } else { device(random, tier) }
            })
            .collect(),
        clients: 1 + random.index(3),
        shared_slots: random.index(6),
        own_slots: 4 + random.index(12),
        guests: (0..random.index(3))
            .map(|_| {
                let memcg = random.index(memcgs + 1);
                guest(random, memcg)
            })
            .collect(),
        duties,
        phases: 3,
        ..plan
    }
}
