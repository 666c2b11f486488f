//! Memory cgroups: who owns compressed bytes, how many, and how many there may be.
//!
//! ```text
//!              root                 memcg: a name in the tree, with limits that hold for everything below
//!             /    \
//!        tenant     other           objcg: what an object remembers of its owner; outlives the memcg, and then points
//!        /    \                            to its parent
//!      vm0    vm1
//!       |      |                    an object is charged (its slot's bytes, against every limit up to the root) and
//!    objcg   objcg  <--- entries    accounted (exact bytes by kind and node, in its objcg)
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `id` | names of groups and objcgs, and which are recycled |
//! | `counter` | one counter of a group: usage with generation, limit, mark, peak |
//! | `group` | one group's words: its three counters, flags, nodes, tiers |
//! | `objcg` | objcgs: pointer, count, counters |
//! | `charge` | the climb: reserving up to the root, giving back, just refusals |
//! | `excess`, `stack` | which memcgs are above their marks, for a worker; stacks of such notes |
//! | `prepaid` | objects that take over memory which their owner was charged for already |
//! | `force` | charging past limits, counted, for what cannot be refused |
//! | `protection` | `memory.low` and `memory.min`, and what they are worth in effect |
//! | `event` | what happens to a memcg as a whole |
//! | `stock` | what threads charge and count ahead of the shared words |
//! | `hierarchy` | under the tree lock: names, children, removal with reparenting, sweeping; `check` |
//! | `tree`, `handle` | [`Tree`] and [`Memcg`], what callers hold |
//! | `roster` | which memcgs may have entries, for walkers with cursors |
//! | `cursor` | whose turn it is in a walk over the roster |
//! | `request`, `reclaim`, `hooks` | `memory.reclaim`: its text, who is asked, where upper layers register |
//! | `cancel` | a flag that ends what runs long |
//! | `resident` | bytes that upper layers hold in memory, charged with reclaim where a limit is hit |
//! | `peak` | `memory.peak` as each of its readers has it |
//! | `stall` | time that threads lost waiting: `memory.pressure` |
//! | `tiers` | names of tiers of devices, and which of them a memcg may use |
//! | `stat`, `files`, `size` | sums, the text files of cgroup v2, sizes as text |
//! | `error` | what all of this refuses, with the numbers of system calls |
//!
//! Locks: one, [`Rank::Tree`](crate::sync::Rank::Tree). Charging, accounting and counting references take none. A
//! memcg's index is recycled when it is removed and its last handle is gone, an objcg's id when its last reference is
//! gone; both only leave a note for whoever takes the tree lock next, so that entries can be freed where the
//! allocator must not be called.
//!
//! This layer knows no pages, no zspages and no slots. Who calls it: `zsmalloc` charges and accounts, `zswap` walks and
//! removes, programs read and write the files.
//!
//! ```
//! use zspool::memcg::{Bytes4, Tree, TreeConfig};
//! use zspool::units::NodeId;
//!
//! let tree = Tree::new(TreeConfig::default());
//! let tenant = tree.root().mkdir("tenant")?;
//! let vm = tenant.mkdir("vm0")?;
//! tenant.write_file("memory.zswap.max", "6K")?;
//!
//! let objcg = vm.objcg()?;
//! objcg.try_charge(4096).expect("4096 of 6144 bytes");
//! tree.account(objcg.id(), NodeId(0), Bytes4 { compressed: 4096, original: 4096, payload: 4001, incompressible: 0 });
//! let refused = objcg.try_charge(4096).unwrap_err();
//! assert_eq!((refused.memcg(), refused.usage(), refused.limit()), (&tenant, 4096, 6144));
//!
//! vm.offline()?; // the bytes stay, and are the tenant's
//! assert_eq!(tenant.read_file("memory.zswap.current")?, "4096\n");
//! objcg.uncharge(4096);
//! assert_eq!(tree.root().usage(), 0);
//! # Ok::<(), zspool::memcg::Error>(())
//! ```

mod cancel;
mod charge;
mod counter;
mod cursor;
mod error;
mod event;
mod excess;
mod files;
mod force;
mod group;
mod handle;
mod hierarchy;
mod hooks;
mod id;
mod objcg;
mod peak;
mod prepaid;
mod protection;
mod reclaim;
mod request;
mod resident;
mod roster;
mod size;
mod stack;
mod stall;
mod stat;
mod stock;
mod tiers;
mod tree;

#[cfg(test)]
mod properties;

pub use cancel::Cancel;
pub use charge::LimitHit;
pub use counter::{Counter, MAX_USAGE, NO_LIMIT};
pub use cursor::{Claim, Cursor, MAX_QUANTUM, Rounds};
pub use error::{ChargeError, Error};
pub use event::MemcgEvent;
pub use files::{FileInfo, OpenFile};
pub use force::PastLimit;
pub use handle::Memcg;
pub use hierarchy::{Census, Handover, Switched};
pub use hooks::{Mover, Registration, Unmoved};
pub use id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
pub use objcg::Objcg;
pub use peak::PeakReader;
pub use protection::Protection;
pub use reclaim::{Ask, End, Reclaimed, Reclaimer, To};
pub use request::{ReclaimRequest, RequestError, Source, Swappiness};
pub use resident::{Resident, ResidentError};
pub use roster::Listing;
pub use size::{SizeError, parse_size};
pub use stall::{StallLine, StallTimes, Stalled};
pub use stat::{Bytes4, Event, Stat};
pub use tiers::TierName;
pub use tree::{Keeper, Tree, TreeConfig};
