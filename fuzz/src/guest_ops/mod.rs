//! Operations on real memory over a userfaultfd, by one thread: every page against a plain copy of it.
//!
//! ```text
//!   places: bytes, pins, registered?      +-- write, read, evict, prefetch, pin, discard, vanish --+
//!   memcgs p, p/a, p/b: limits            |                                                        v
//!   devices: told to fail?                |                              mappings: MOVE, write protection, memfd
//!         model  <---- same bytes --------+-- limits, reclaim, swapoff, faults of devices --> engine, two VMs, zswap
//! ```
//!
//! Checked:
//! 1. A page reads as what was written last, or zeroes where it was thrown away; also behind our back, where the kernel had it.
//! 2. A page that cannot be read is an error that names it, and only where a device was told to fail; a discard helps.
//! 3. What is pinned stays; a discard stops at it, with its number.
//! 4. A limit is exceeded only by being lowered, by memory in use that is registered, and by what is counted as overshoot.
//! 5. What calls say was won, is; a memcg has what those below it have.
//! 6. A page that was written is told by the next question for dirty ones.
//! 7. Every word, slot and charge agree at `Check` and every few operations; in the end everything is zero.
//!
//! VMs are served by SIGBUS in this thread, or by nobody. Where a device may have failed, pages are pinned to be touched: a SIGBUS for one
//! that is lost would end the process. Nothing else runs, neither evictor nor worker, so lists run alike. Not covered: threads, forks,
//! events (see the torture test).

mod model;
mod place;

use super::list::List;
use super::meddler::How;
use super::page::PageOf;
use super::reached::Reached;
use arbitrary::Arbitrary;
use model::Model;

/// An engine with two VMs, and what is done to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// Pool limit in frames.
    pub pool_frames: u8,
    /// Segments of the device to begin with; none for 0 modulo 8.
    pub device: u8,
    /// Pages staged ahead, modulo 65.
    pub staged_ahead: u8,
    /// How the VMs are served.
    pub vms: [Serving; 2],
    /// What is registered to begin with.
    pub places: [Patch; 2],
    /// What is done.
    pub ops: List<Op>,
}

/// How a VM is served.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Serving {
    /// By nobody for 0 modulo 4, else by SIGBUS.
    pub service: u8,
    /// Off, a number of pages, adaptive.
    pub around: u8,
    /// Pages whose compressed copies are kept: none for 0 modulo 4.
    pub kept: u8,
    /// Writes are noted; for 3 modulo 4.
    pub dirty: u8,
}

/// Memory to register.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Patch {
    /// Moved, protected, memfd unmapped, memfd protected.
    pub kind: u8,
    /// For whom.
    pub vm: u8,
    /// Pages: 8 and so many, modulo 120.
    pub pages: u8,
    /// Pages in use already, modulo how many there are.
    pub used: u8,
}

/// What is done. Places, VMs, memcgs and devices are picked by any number; pages are, modulo what the place has.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    Write {
        place: u8,
        at: u8,
        page: PageOf,
    },
    WriteMany {
        place: u8,
        first: u8,
        n: u8,
        random: u16,
    },
    /// One word of a page.
    WriteWord {
        place: u8,
        at: u8,
        word: u16,
    },
    Read {
        place: u8,
        at: u8,
    },
    ReadMany {
        place: u8,
        first: u8,
        n: u8,
    },
    Evict {
        place: u8,
        first: u8,
        n: u8,
    },
    EvictAll {
        vm: u8,
    },
    EvictBytes {
        vm: u8,
        pages: u8,
    },
    EvictMemcg {
        memcg: u8,
        pages: u8,
    },
    Prefetch {
        place: u8,
        first: u8,
        n: u8,
    },
    MakeResident {
        place: u8,
        first: u8,
        n: u8,
        by_address: bool,
    },
    Pin {
        place: u8,
        first: u8,
        n: u8,
    },
    Unpin {
        place: u8,
        which: u8,
    },
    /// One page, until it refuses.
    PinOften {
        place: u8,
        at: u8,
    },
    Discard {
        place: u8,
        first: u8,
        n: u8,
    },
    /// Thrown away behind our back: unmapped, or out of the file.
    Vanish {
        place: u8,
        first: u8,
        n: u8,
        of_file: bool,
    },
    /// A limit in pages, through its file.
    Limit {
        memcg: u8,
        file: u8,
        pages: Option<u8>,
    },
    Writeback {
        memcg: u8,
        on: bool,
    },
    Reclaim {
        memcg: u8,
        pages: u8,
        source: u8,
    },
    /// Compressed pages go to the devices.
    Shrink {
        memcg: u8,
        n: u8,
    },
    Register {
        place: u8,
        patch: Patch,
    },
    Unregister {
        place: u8,
    },
    /// Dropped, without being told.
    Drop {
        place: u8,
    },
    TakeDirty {
        vm: u8,
    },
    /// Note what is in memory, to bring it in later.
    Record {
        vm: u8,
    },
    Replay {
        vm: u8,
    },
    FailAt {
        device: u8,
        k: u8,
        how: How,
    },
    Heal {
        device: u8,
    },
    Swapon {
        segments: u8,
    },
    Swapoff {
        device: u8,
    },
    Compact,
    Tidy,
    Check,
}

/// Run the list; panics where the memory differs from the model. Does nothing where userfaultfd is not permitted, and says so.
pub fn run(run: Run) -> Reached {
    let mut model = match Model::new(&run) {
        Ok(model) => model,
        Err(error) => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| eprintln!("guest_ops does nothing here: {error}"));
            let mut reached = Reached::new();
            reached.add("userfaultfd not permitted", 1);
            return reached;
        }
    };
    run.ops.0.into_iter().for_each(|op| model.step(op));
    model.end()
}
