//! [`Zswap`]: one instance, and what its protocols share.

use super::cells::SlotCells;
use super::inflight::Inflight;
use super::lru::Lru;
use super::reclaim::Helpers;
use super::sampling::Sampler;
use super::stats::Counters;
use super::submission::Member;
use super::swapins::Swapins;
use super::walk::Form;
use super::worker::Worker;
use super::{Builder, Error};
use crate::arena::Arena;
use crate::compress::{Codecs, Contexts};
use crate::memcg::{Cursor, Memcg, Registration, Tree};
use crate::swap::{Devices, Slots};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use crate::sync::{Arc, Convoy, Mailbox, Planted, Steps, Turnstile};
use crate::units::{Slot, SlotRange};
use crate::zsmalloc::Pool;

/// Compressed memory for pages named by slots. Safe to share among threads.
///
/// Dropping it stops the worker and frees everything.
///
/// # Examples
///
/// ```
/// use zspool::units::{NodeId, Page};
/// use zspool::zswap::Zswap;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let zswap = Zswap::builder().pool_limit(16 << 20).build()?;
/// let vm = zswap.root().mkdir("vm0")?;
/// vm.set_zswap_max(4 << 20)?;
/// let slots = zswap.reserve(1024)?; // guest page k is slot base + k
///
/// let mut page = Page::zeroed();
/// page[..5].copy_from_slice(b"hello");
/// zswap.store(slots.base(), &vm, NodeId(0), &page)?;
///
/// let mut back = Page::zeroed();
/// zswap.load(slots.base(), &mut back)?;
/// assert_eq!(&back[..5], b"hello");
/// zswap.free(slots.base());
/// assert_eq!(vm.usage(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Zswap {
    // Dropped first: the tree would keep the core, and call it.
    pub(super) _served: [Registration; 2],
    // Then the worker, which has a reference to the core too.
    pub(super) worker: Option<Worker>,
    pub(super) core: Arc<Core>,
}

/// What callers and the worker share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) tree: Tree,
    pub(super) slots: Arc<Slots>,
    pub(super) arena: Arc<Arena>,
    pub(super) pool: Pool<SlotCells>,
    pub(super) lru: Arc<Lru>,
    pub(super) codecs: Codecs,
    /// Id of the codec new pages are compressed with. Relaxed: every id in the registry decompresses.
    pub(super) codec: AtomicU8,
    pub(super) contexts: Contexts,
    pub(super) devices: Devices,
    pub(super) inflight: Inflight,
    /// Devices that somebody removes: a bit for each number.
    pub(super) leaving: AtomicU32,
    /// Where stores at their limits share batches.
    pub(super) submission: Convoy<Member>,
    /// Whose turn it is to make room in the pool.
    pub(super) cursor: Cursor,
    /// Whose turn it is to make room on some of the nodes.
    pub(super) nodes_cursor: Cursor,
    pub(super) policy: Policy,
    pub(super) sampler: Sampler,
    pub(super) swapins: Swapins,
    /// Whose turn it is to relieve the system.
    pub(super) relief_cursor: Cursor,
    pub(super) counters: Counters,
    pub(super) kick: Arc<Mailbox>,
    /// Where stores wait for room in the pool; open while there is a worker.
    pub(super) turnstile: Turnstile,
    /// Stores that make room while the worker does.
    pub(super) helpers: Helpers,
    /// The worker's last run ended without room being made, and nobody has made any since.
    pub(super) gave_up: AtomicBool,
    /// Why the last batch did not go, as a number; 0 if it went.
    pub(super) trouble: AtomicU8,
    pub(super) planted: Planted,
    pub(super) steps: Steps,
}

/// Numbers that steer reclaim.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// Entries a call of the worker looks at.
    pub(super) batch: usize,
    /// Entries the store path looks at when a memcg's limit is hit.
    pub(super) store_scan: usize,
    /// Failures in a row after which a reclaimer gives up.
    pub(super) max_failures: usize,
    /// The worker compacts when so many thousandths of the frames backed are wasted.
    pub(super) waste_per_mille: Option<u32>,
    /// The worker runs the pool down to this share of its limit, in percent.
    pub(super) accept_threshold_percent: u64,
    /// Whether a new entry gets a second chance, and so has to be seen twice before it is written back.
    pub(super) new_is_referenced: bool,
    /// How a walk divides its budget.
    pub(super) form: Form,
    /// Whether pages kept as they are have lists of their own, which go first.
    pub(super) raw_first: bool,
}

impl Zswap {
    /// Start to describe an instance.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The root of the memcg tree: it has no limit of its own; make children with [`Memcg::mkdir`].
    pub fn root(&self) -> Memcg {
        self.core.tree.root()
    }

    /// The tree of memcgs.
    pub fn tree(&self) -> &Tree {
        &self.core.tree
    }

    /// Reserve `n` slots: slot `k` of the range may name page `k` of a guest. Reserved slots cost nothing until they are
    /// stored to, and their numbers never come back.
    ///
    /// # Errors
    /// [`swap::Error::Reserve`](crate::swap::Error::Reserve) for 0, or more numbers than there are.
    pub fn reserve(&self, n: u64) -> Result<SlotRange, Error> {
        Ok(self.core.slots.reserve(n)?)
    }

    /// Take a memcg offline (`rmdir`): its entries stay loadable and are charged to its parent from now on. Takes time by
    /// objcgs and nodes, not by entries. The same as [`Memcg::offline`].
    ///
    /// # Errors
    /// When it is the root, has children or is offline already.
    ///
    /// # Locks
    /// Tree, then the LRU lists of the memcg and its parent.
    pub fn offline(&self, memcg: &Memcg) -> Result<(), Error> {
        Ok(memcg.offline()?)
    }

    /// Use another codec from now on. What is stored stays readable: every entry knows its codec.
    ///
    /// # Errors
    /// When there is no codec of that name; the error lists those there are.
    pub fn set_codec(&self, name: &str) -> Result<(), Error> {
        let id = self.core.codecs.by_name(name)?.id();
        self.core.codec.store(id.get(), crate::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Whether the slot holds a page. A hint where others store or free it.
    pub fn is_stored(&self, slot: Slot) -> bool {
        self.core.slots.lock(slot).is_some_and(|guard| !guard.word().is_empty())
    }

    /// The pool's frames, for looking at limits and nodes.
    pub fn arena(&self) -> &Arena {
        &self.core.arena
    }

    /// The allocator, for its class table.
    pub fn pool(&self) -> &Pool<SlotCells> {
        &self.core.pool
    }
}
