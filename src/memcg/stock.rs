//! Stocks: what a thread charges, counts and refers to for an objcg, kept beside the shared words and settled in batches.
//!
//! ```text
//!   thread, objcg --hash--> Stock  objcg | bytes reserved from every limit | references | changes of counters
//!
//!   enter     a reference and bytes out of the stock, counters' change    nothing in it: climb once for the object and a batch more
//!   leave     a reference and bytes into the stock, counters' change      too much in it: give some back
//!   recall    every stock is settled: bytes given back to the groups, changes added to the counters, references dropped
//! ```
//!
//! A store and a free would otherwise change some ten shared words each. With a stock they take one lock that nearly always
//! belongs to their thread alone (a [`TryLock`]); who finds it taken, or another objcg in it, changes the shared words.
//!
//! Invariants:
//! - **S1** A stock holds nothing that a limit could miss: its bytes are charged in every group up to the root. They are no
//!   usage: who asks for the usage, or sets a limit, recalls first.
//! - **S2** No refusal while bytes that would do lie in a stock: before a charge is refused, every stock is recalled, and
//!   whoever changes one does all of it under its lock, so that a recall waits for bytes on their way in.
//! - **S3** A stock that is not empty holds at least one reference to its objcg, so that the id is nobody else's (O1), and no
//!   change of a counter outlives it: changes are settled before references.
//! - **S4** A batch is taken only where every mark on the way leaves room for many, so that near a limit and near `memory.high`
//!   each charge is for itself.
//!
//! Counters of an objcg can be below zero as long as another stock has what belongs to them; their sum is exact once all are
//! settled.
//!
//! Callers: `tree` for objects, without a lock or under any; `hierarchy` and `handle` to recall.

use super::charge::Climb;
use super::counter::Counter;
use super::error::ChargeError;
use super::handle::Memcg;
use super::id::ObjcgId;
use super::objcg::{Changes, Objcg};
use super::stat::{Bytes4, Event};
use super::tree::{Shared, Tree};
use crate::sync::{Bug, TryGuard, TryLock, thread};
use crate::units::NodeId;

/// Bytes charged ahead: some fifty pages.
const BATCH_BYTES: u64 = 64 << 10;

/// References taken ahead.
const BATCH_REFERENCES: u32 = 64;

/// Others that come by before a stock is given to one of them.
const STRANGERS: u8 = 8;

/// A batch is only taken where this many would fit.
const COMFORT: u64 = 16;

/// What an object is charged as.
const OBJECT: &[Counter] = Counter::Zswap.charged();

/// One thread's reserve for one objcg.
#[derive(Debug, Default)]
#[repr(align(128))] // two lines: neighbours are fetched in pairs
struct Stock(TryLock<Content>);

/// What is in a stock; `id` none: nothing.
#[derive(Debug)]
struct Content {
    id: ObjcgId,
    /// The node whose counters `changes` are of.
    node: NodeId,
    references: u32,
    bytes: u64,
    changes: Changes,
    /// Others who have come by.
    strangers: u8,
}

/// The stocks of a tree. None: everything goes to the shared words.
#[derive(Debug)]
pub(super) struct Stocks(Box<[Stock]>);

impl Default for Content {
    fn default() -> Self {
        Content {
            id: ObjcgId::NONE,
            node: NodeId(0),
            references: 0,
            bytes: 0,
            changes: Changes::default(),
            strangers: 0,
        }
    }
}

impl Stocks {
    /// `count` is rounded up to a power of two, but for 0.
    pub(super) fn new(count: usize) -> Self {
        let count = if count == 0 { 0 } else { count.next_power_of_two() };
        Stocks((0..count).map(|_| Stock::default()).collect())
    }

    /// This thread's stock for the objcg, if nobody is at it.
    #[inline]
    fn of(&self, id: ObjcgId) -> Option<TryGuard<'_, Content>> {
        // Threads and objcgs differ in many low bits or few: spread them before they are mixed.
        let mixed = thread::hint().wrapping_add((id.raw() as usize).wrapping_mul(0x9e37_79b1));
        self.0.get((mixed ^ mixed >> 15) & self.0.len().wrapping_sub(1))?.0.try_lock()
    }
}

impl Shared {
    /// Settle what is in a stock, and leave it empty. Under its lock (S2). No lock is taken, no allocator is called.
    fn settle(&self, stock: &mut Content) {
        if stock.id.is_none() {
            return;
        }
        let Content { id, node, references, bytes, changes, strangers: _ } = std::mem::take(stock);
        let early = self.config.planted.is(Bug::StockDropsReferencesFirst);
        if early {
            self.objcgs.put_many(id, references);
        }
        self.objcgs.change(id, node, &changes); // S3: before the references
        if bytes > 0 {
            self.return_spare(id, OBJECT, bytes);
        }
        if !early {
            self.objcgs.put_many(id, references);
        }
    }

    /// Keep changes in the stock, if they are on its node: those of another go to the counters.
    #[inline]
    fn note(&self, stock: &mut Content, node: NodeId, changes: &Changes) {
        if stock.node != node && stock.changes.has_no_bytes() {
            stock.node = node;
        }
        if stock.node == node {
            stock.changes += *changes;
        } else {
            self.objcgs.change(stock.id, node, changes);
        }
    }

    /// Give an object its reference and its bytes out of the stock, which has both, and count it.
    #[inline]
    fn spend(&self, stock: &mut Content, node: NodeId, bytes: Bytes4, event: Option<Event>) {
        stock.references -= 1;
        stock.bytes -= bytes.compressed;
        self.note(stock, node, &Changes::came(bytes, event));
    }

    /// Settle every stock.
    ///
    /// Waits for threads at a stock, who wait for nobody: not to be called where a signal may have interrupted one.
    pub(super) fn recall(&self) {
        for stock in &self.stocks.0 {
            let mut stock = if self.config.planted.is(Bug::RecallSkipsTaken) {
                let Some(stock) = stock.0.try_lock() else { continue };
                stock
            } else {
                stock.0.lock()
            };
            self.settle(&mut stock);
        }
    }

    /// Whether every group on the way to the root has room for many batches below its marks. A hint: nothing is reserved.
    fn is_comfortable(&self, id: ObjcgId) -> bool {
        let mut at = self.objcgs.group(id);
        loop {
            let group = self.group(at.index());
            if OBJECT
                .iter()
                .any(|&counter| group.of(counter).usage() + COMFORT * BATCH_BYTES > group.of(counter).mark())
            {
                return false;
            }
            if at.depth() == 0 {
                return true;
            }
            at = group.parent();
        }
    }

    /// Have the stock hold `bytes` and two references for the objcg, one of which the caller takes, and a batch more. The
    /// caller holds a reference.
    fn fill(&self, stock: &mut Content, id: ObjcgId, bytes: u64) -> bool {
        if stock.id != id {
            self.settle(stock);
        }
        if stock.bytes < bytes {
            if !self.is_comfortable(id) {
                return false;
            }
            let climbing = self.climbs.begin(id);
            let climb = self.climb(id, OBJECT, bytes + BATCH_BYTES);
            drop(climbing);
            let Climb::Charged = climb else { return false };
            stock.bytes += bytes + BATCH_BYTES;
        }
        if stock.references < 2 {
            self.objcgs.get_many(id, BATCH_REFERENCES);
            stock.references += BATCH_REFERENCES;
        }
        stock.id = id;
        true
    }
}

/// What objects do with their owner: all of it is exact once nobody is at it, in whatever order.
impl Tree {
    /// Here, and not where what lies in a stock is settled: by whoever comes by, and with it lost.
    #[inline]
    fn check_node(&self, node: NodeId) {
        let nodes = self.shared().config.nodes;
        assert!(node.index() < nodes, "{node} of a tree that counts on {nodes} nodes");
    }

    /// An object comes: charge its slot (`bytes.compressed`) to the memcg and its ancestors, as [`Counter::Zswap`], take a
    /// reference to the objcg, count its bytes on `node`, and `event`, if any. [`leave`](Self::leave) undoes all but the event.
    ///
    /// No limit is passed at any instant by any number of threads. Lock-free but for a moment at the end, before it refuses.
    ///
    /// # Errors
    /// [`ChargeError::Offline`], [`ChargeError::Limit`]; [`ChargeError::Foreign`] when the memcg is of another tree.
    #[inline]
    pub fn enter(
        &self,
        memcg: &Memcg,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
    ) -> Result<ObjcgId, ChargeError> {
        if !self.is(memcg.tree()) {
            return Err(ChargeError::Foreign { path: memcg.path() });
        }
        self.check_node(node);
        let group = memcg.words();
        let id = group.objcg();
        if id != 0 {
            let id = ObjcgId::from_raw(id);
            if let Some(mut stock) = self.shared().stocks.of(id)
                && stock.id == id
                && stock.references >= 2 // S3
                && stock.bytes >= bytes.compressed
                // The id is nobody else's while it is in the stock: if it is this memcg's now, so is the reference.
                && group.objcg() == id.raw()
            {
                self.shared().spend(&mut stock, node, bytes, event);
                return Ok(id);
            }
        }
        self.enter_anew(memcg, node, bytes, event)
    }

    /// Enter through the shared words, and leave a batch in the stock.
    #[cold]
    fn enter_anew(
        &self,
        memcg: &Memcg,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
    ) -> Result<ObjcgId, ChargeError> {
        let objcg = memcg.objcg()?;
        let (shared, id) = (self.shared(), objcg.id());
        if let Some(mut stock) = shared.stocks.of(id)
            && stock.is_for(id)
            && shared.fill(&mut stock, id, bytes.compressed)
        {
            shared.spend(&mut stock, node, bytes, event);
            return Ok(id);
        }
        self.enter_as(OBJECT, objcg, node, bytes, event)
    }

    /// An object goes: take its bytes on `node` away, and give back what it was charged and its reference. Lock-free; neither
    /// allocates nor frees.
    #[inline]
    pub fn leave(&self, id: ObjcgId, node: NodeId, bytes: Bytes4, charged: u64) {
        self.check_node(node);
        let shared = self.shared();
        let changes = Changes::went(bytes);
        let stock = shared.stocks.of(id).and_then(|mut stock| stock.is_for(id).then_some(stock));
        let Some(mut stock) = stock else {
            shared.objcgs.change(id, node, &changes);
            shared.uncharge(id, OBJECT, charged);
            shared.objcgs.put_many(id, 1);
            return;
        };
        if stock.id != id {
            shared.settle(&mut stock);
        }
        let stock = &mut *stock;
        stock.id = id;
        shared.note(stock, node, &changes);
        stock.references += 1;
        if stock.bytes == 0 && !shared.is_comfortable(id) {
            shared.uncharge(id, OBJECT, charged); // S4
        } else {
            stock.bytes += charged;
        }
        if stock.bytes > 2 * BATCH_BYTES {
            shared.return_spare(id, OBJECT, stock.bytes - BATCH_BYTES); // under its lock: S2
            stock.bytes = BATCH_BYTES;
        }
        if stock.references > 2 * BATCH_REFERENCES {
            shared.objcgs.put_many(id, stock.references - BATCH_REFERENCES);
            stock.references = BATCH_REFERENCES;
        }
    }

    /// Count `n` occurrences of an event.
    #[inline]
    pub fn count(&self, id: ObjcgId, event: Event, n: u64) {
        let shared = self.shared();
        match shared.stocks.of(id) {
            Some(mut stock) if stock.id == id => stock.changes.count(event, n),
            _ => shared.objcgs.count(id, event, n),
        }
    }
}

impl Tree {
    /// Take back what [`enter`](Self::enter) did for an object that did not come to be: its bytes were charged for a moment,
    /// and whoever was refused for them is to try again. Lock-free; neither allocates nor frees.
    pub fn cancel(&self, id: ObjcgId, node: NodeId, bytes: Bytes4, event: Option<Event>) {
        self.check_node(node);
        self.cancel_as(OBJECT, id, node, bytes, event);
    }

    /// An event that was counted did not come to be.
    pub fn uncount(&self, id: ObjcgId, event: Event) {
        self.count(id, event, 1u64.wrapping_neg());
    }

    /// An object comes, without a stock: charged in the counters `what` and counted, with the reference at hand.
    pub(super) fn enter_as(
        &self,
        what: &'static [Counter],
        objcg: Objcg,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
    ) -> Result<ObjcgId, ChargeError> {
        self.charge_all(objcg.id(), what, bytes.compressed)?;
        self.shared().objcgs.change(objcg.id(), node, &Changes::came(bytes, event));
        Ok(objcg.into_id())
    }

    /// It did not come to be: all that is taken back.
    pub(super) fn cancel_as(
        &self,
        what: &'static [Counter],
        id: ObjcgId,
        node: NodeId,
        bytes: Bytes4,
        event: Option<Event>,
    ) {
        event.inspect(|&event| self.uncount(id, event));
        let shared = self.shared();
        shared.objcgs.change(id, node, &Changes::went(bytes));
        shared.return_spare(id, what, bytes.compressed);
        shared.objcgs.put(id);
    }
}

impl Content {
    /// Whether the stock is this objcg's, or has waited long enough for its own to be given away: a thread that goes round many
    /// objcgs would else settle one each time.
    #[inline]
    fn is_for(&mut self, id: ObjcgId) -> bool {
        if self.id == id || self.id.is_none() {
            return true;
        }
        self.strangers += 1;
        self.strangers >= STRANGERS
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
