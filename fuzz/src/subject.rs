//! [`Subject`]: the allocator as the operations see it, by handles or by cells of a client's.

use std::sync::Arc as StdArc;
use zspool::memcg::Memcg;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Draft, Error, Handle, HandleCells, HandleError, Object, Pool, ReadGuard, Uncommitted};

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// All bytes at once.
    Whole,
    /// In place, where the allocator lets one.
    InPlace,
}

/// An allocator whose objects have names.
pub trait Subject {
    /// Where its objects' names are kept.
    type Cells: Cells;
    /// A name.
    type Name: Copy + PartialEq + std::fmt::Debug;
    /// An object that is still to be written.
    type Draft<'a>
    where
        Self: 'a;

    /// The pool below.
    fn pool(&self) -> &Pool<Self::Cells>;
    /// Room for an object.
    fn malloc(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Self::Draft<'_>, Error>;
    /// Its home node, where one can ask.
    fn home<'a>(&'a self, draft: &Self::Draft<'a>) -> Option<NodeId>;
    /// Write and name it.
    fn write<'a>(&'a self, draft: Self::Draft<'a>, bytes: &[u8], how: Writing) -> Result<Self::Name, Error>;
    /// Publish it and take it back at once.
    fn cancel<'a>(&'a self, draft: Self::Draft<'a>);
    /// Look at an object; `None` when it was freed.
    fn read(&self, name: Self::Name) -> Option<ReadGuard<'_, Self::Cells>>;
    /// Free an object; whether it was there.
    fn free(&self, name: Self::Name) -> bool;
    /// Use a name made of any number in every way: it must be refused, unless it is one of `live`.
    fn misuse(&self, raw: u64, live: &dyn Fn(Self::Name) -> bool);
    /// Check everything.
    fn assert_valid(&self);
}

// === handles ===

fn pool_error(error: HandleError) -> Error {
    match error {
        HandleError::Pool(error) => error,
        other => panic!("{other:?}"),
    }
}

impl Subject for Pool {
    type Cells = HandleCells;
    type Name = Handle;
    type Draft<'a> = Draft<'a>;

    fn pool(&self) -> &Pool<HandleCells> {
        self
    }

    fn malloc(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Draft<'_>, Error> {
        self.draft_for(memcg, len, node).map_err(pool_error)
    }

    fn home<'a>(&'a self, _: &Draft<'a>) -> Option<NodeId> {
        None
    }

    fn write<'a>(&'a self, draft: Draft<'a>, bytes: &[u8], _: Writing) -> Result<Handle, Error> {
        draft.write(bytes).map_err(pool_error)
    }

    fn cancel<'a>(&'a self, draft: Draft<'a>) {
        drop(draft);
    }

    fn read(&self, name: Handle) -> Option<ReadGuard<'_, HandleCells>> {
        match Pool::get(self, name) {
            Ok(guard) => Some(guard),
            Err(HandleError::Stale { .. }) => None,
            Err(other) => panic!("{name:?} is read: {other:?}"),
        }
    }

    fn free(&self, name: Handle) -> bool {
        match Pool::remove(self, name) {
            Ok(()) => true,
            Err(HandleError::Stale { .. }) => false,
            Err(other) => panic!("{name:?} is freed: {other:?}"),
        }
    }

    fn misuse(&self, raw: u64, live: &dyn Fn(Handle) -> bool) {
        let handle = Handle::from_raw(raw);
        if live(handle) {
            return;
        }
        let (read, free) = (self.get(handle).map(drop), self.remove(handle));
        for result in [read, free] {
            use HandleError::{ForeignHandle, OutOfRange, Stale};
            assert!(
                matches!(result, Err(ForeignHandle { .. } | OutOfRange { .. } | Stale { .. })),
                "{handle:?} is no object's, and using it says {result:?}"
            );
        }
    }

    fn assert_valid(&self) {
        Pool::assert_valid(self);
    }
}

// === cells of a client's ===

/// Cells that a client might have: a word each for location and length, and no generations.
#[derive(Debug)]
pub struct Words(Box<[AtomicU64]>);

/// A pool with such cells, used as a client with locks would.
#[derive(Debug)]
pub struct Client {
    pool: Pool<StdArc<Words>>,
    cells: StdArc<Words>,
}

/// Names there are.
pub const NAMES: u32 = 4096;

const LENGTH: u32 = 40;

fn word(object: Object) -> u64 {
    (object.len as u64) << LENGTH | object.location.raw()
}

fn object(word: u64) -> Option<Object> {
    let location = Location::from_raw(word & ((1 << Location::BITS) - 1));
    (word != 0).then_some(Object { location, len: (word >> LENGTH) as usize })
}

impl Words {
    /// Empty cells.
    pub fn new() -> Self {
        Words((0..NAMES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        object(self.0[owner.0 as usize].load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let cell = &self.0[owner.0 as usize];
        let Some(old) = object(cell.load(Ordering::Acquire)).filter(|old| old.location == from) else { return false };
        let new = word(Object { location: to, ..old });
        cell.compare_exchange(word(old), new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Client {
    /// A client of a pool with these cells.
    pub fn new(pool: Pool<StdArc<Words>>, cells: StdArc<Words>) -> Self {
        Client { pool, cells }
    }

    fn unused(&self) -> u32 {
        (0..NAMES).find(|&n| self.cells.0[n as usize].load(Ordering::Relaxed) == 0).expect("there are names enough")
    }
}

impl Subject for Client {
    type Cells = StdArc<Words>;
    type Name = u32;
    type Draft<'a> = Uncommitted<'a, StdArc<Words>>;

    fn pool(&self) -> &Pool<StdArc<Words>> {
        &self.pool
    }

    fn malloc(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Self::Draft<'_>, Error> {
        self.pool.malloc(memcg, len, node)
    }

    fn home<'a>(&'a self, draft: &Self::Draft<'a>) -> Option<NodeId> {
        Some(draft.home_node())
    }

    fn write<'a>(&'a self, mut draft: Self::Draft<'a>, bytes: &[u8], how: Writing) -> Result<u32, Error> {
        if how == Writing::InPlace && bytes.len() == draft.len() {
            draft.fill(|to| {
                assert!(to.iter().all(|&b| b == 0), "what was there before is seen by nobody");
                to.copy_from_slice(bytes);
            });
        } else {
            draft.write(bytes)?;
        }
        let name = self.unused();
        let published = draft.publish(Owner(name));
        let object = Object { location: published.location(), len: published.len() };
        if how == Writing::InPlace {
            // Compaction between publishing and naming must leave the object alone.
            _ = self.pool.compact(u64::MAX);
        }
        self.cells.0[name as usize].store(word(object), Ordering::Release);
        Ok(name)
    }

    fn cancel<'a>(&'a self, draft: Self::Draft<'a>) {
        // Nothing was written: it must be zeroes. Its name is never told to anybody.
        draft.publish(Owner(NAMES - 1)).cancel();
        self.pool.maintain();
    }

    fn read(&self, name: u32) -> Option<ReadGuard<'_, StdArc<Words>>> {
        let owner = Owner(name);
        let Object { location, len } = self.cells.object(owner)?;
        Some(self.pool.read(owner, location, len).expect("nobody moves it meanwhile"))
    }

    fn free(&self, name: u32) -> bool {
        let Some(Object { location, len }) = object(self.cells.0[name as usize].swap(0, Ordering::AcqRel)) else {
            return false;
        };
        if name.is_multiple_of(2) {
            self.pool.free(Owner(name), location, len);
        } else if self.pool.free_under_lock(Owner(name), location, len) {
            self.pool.maintain();
        }
        true
    }

    fn misuse(&self, raw: u64, live: &dyn Fn(u32) -> bool) {
        // Old locations in stale words: no object, or not this owner's.
        let (location, owner) = (Location::from_raw(raw & ((1 << Location::BITS) - 1)), Owner((raw >> LENGTH) as u32));
        let inside = location.offset() < self.pool.arena().address_space();
        if inside && !live(owner.0) {
            assert!(self.pool.read(owner, location, 16).is_none(), "{owner:?} has no object at {location:?}");
            assert_eq!(self.pool.objcg_at(owner, location), None);
        }
    }

    fn assert_valid(&self) {
        self.pool.assert_valid();
    }
}
