//! Operations on the virtual table and the devices behind it: shared slots, tiers that come and go, devices that fail on cue.
//!
//! ```text
//!   slots: page, references, lost?      +-- store, load, run, free, dup, put, take ------+
//!   devices: tier, size, broken?        |                                                v
//!         model  <----- same answers ---+-- swapon, swapoff, clean, demote, faults --> instance: words, pool, up to 3 devices
//! ```
//!
//! Checked:
//! 1. A page comes back identical, or as an error; an error only if a fault was planned, and only for a page that lies on a device.
//! 2. A page that is reported lost stays lost, until the slot is emptied or stored to.
//! 3. References are exact, beyond what a word holds; the last one empties the slot.
//! 4. A failed store leaves no older copy. Limits hold; nothing is written to a tier that the root forbids.
//! 5. A device that is taken off is empty and gone; one whose removal was cancelled or failed goes on.
//! 6. At `Check` and the end every word, reverse word, place and counter agree; in the end everything is zero.
//!
//! In the middle of device requests other operations are done (see [`meddler`](super::meddler)). Not covered: threads, the worker,
//! real files.

pub mod model;

use super::list::List;
use super::meddler::{How, Meanwhile, slot};
use super::page::PageOf;
use super::reached::Reached;
use super::reclaim_ops::text::seldom;
use arbitrary::Arbitrary;
use model::Model;

/// An instance with its devices, and what is done to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// Pool limit in frames.
    pub pool_frames: u8,
    /// Devices to begin with; none for 0 modulo 8.
    pub devices: [Disk; 2],
    /// A page just stored is passed over once.
    pub new_is_referenced: bool,
    /// What lies on devices is sealed.
    pub encryption: bool,
    /// What is done.
    pub ops: List<Op>,
}

/// A device.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Disk {
    /// Segments of 64 KiB: 2 and so many, modulo 16.
    pub segments: u8,
    /// Its tier, modulo 3: `t0` is the fastest.
    pub tier: u8,
    /// Failed writes in a row until it is retired, modulo 4; 0: never.
    pub retire_after: u8,
    /// Bytes in use at most: 2 segments and so many; 0: all.
    pub most: u8,
}

/// What is done. Memcgs and devices are picked by any number.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    Store {
        #[arbitrary(with = slot)]
        slot: u8,
        memcg: u8,
        page: PageOf,
    },
    StoreMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        memcg: u8,
        random: u16,
    },
    /// Consecutive slots at once: others than those of the single operations.
    StoreRun {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        memcg: u8,
        page: PageOf,
    },
    LoadRun {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    FreeRun {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    /// A slot of the instance's choice.
    StoreNew {
        memcg: u8,
        page: PageOf,
    },
    /// The last reference to such a slot goes.
    PutNew {
        which: u8,
    },
    Load {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    LoadMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
    },
    Free {
        #[arbitrary(with = slot)]
        slot: u8,
    },
    FreeMany {
        #[arbitrary(with = slot)]
        first: u8,
        n: u8,
        step: u8,
    },
    Dup {
        #[arbitrary(with = slot)]
        slot: u8,
        n: u8,
    },
    Put {
        #[arbitrary(with = slot)]
        slot: u8,
        n: u8,
    },
    Take {
        #[arbitrary(with = slot)]
        slot: u8,
        install: bool,
    },
    Shrink {
        memcg: u8,
        nr: u8,
    },
    /// Everything goes to the devices, as far as they have room.
    ShrinkAll {
        memcg: u8,
    },
    Limit {
        memcg: u8,
        bytes: Option<u16>,
    },
    /// `memory.swap.max`, in units of 64 bytes.
    SwapMax {
        memcg: u8,
        blocks: Option<u16>,
    },
    Writeback {
        memcg: u8,
        on: bool,
    },
    /// Whether its pages may go to a tier.
    Tier {
        memcg: u8,
        tier: u8,
        allowed: bool,
    },
    Rmdir {
        memcg: u8,
    },
    Swapon {
        disk: Disk,
    },
    /// Cancelled after so many segments.
    Swapoff {
        device: u8,
        #[arbitrary(with = seldom)]
        cancel: Option<u8>,
    },
    Clean {
        kib: u8,
    },
    Demote {
        memcg: u8,
        tier: u8,
        kib: u8,
    },
    /// The same through `memory.reclaim`.
    ReclaimTo {
        memcg: u8,
        tier: u8,
        kib: u8,
        zswap: bool,
    },
    Reinstate {
        device: u8,
    },
    FailAt {
        device: u8,
        k: u8,
        how: How,
    },
    /// A request hangs, or all from it on do.
    HangAt {
        device: u8,
        k: u8,
        all: bool,
    },
    /// What hangs is done late, or fails late.
    Release {
        device: u8,
        failed: bool,
    },
    Heal {
        device: u8,
    },
    Meanwhile {
        device: u8,
        ops: [Option<Meanwhile>; 3],
        late: bool,
    },
    Work,
    Tidy,
    Check,
}

/// Run the list; panics where the instance differs from the model.
pub fn run(run: Run) -> Reached {
    let mut model = Model::new(&run);
    run.ops.0.into_iter().for_each(|op| model.step(op));
    model.end()
}
