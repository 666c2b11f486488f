//! [`Store`]: a pool with cells of its own, whose objects are named by [`Handle`]s.

use super::cells::HandleCells;
use super::error::{Error, StoreError};
use super::guard::ReadGuard;
use super::handle::{Handle, Tag, TagSpace};
use super::pool::{Object, Pool, PoolConfig};
use super::uncommitted::Uncommitted;
use crate::arena::Arena;
use crate::memcg::Memcg;
use crate::sync::{Arc, Bug};
use crate::units::{NodeId, Owner};

/// Objects named by handles that know when they are used wrongly.
///
/// ```
/// use zspool::arena::{Arena, ArenaConfig};
/// use zspool::sync::Arc;
/// use zspool::zsmalloc::{PoolConfig, Store, StoreError, TagSpace};
///
/// let arena = Arena::new(ArenaConfig { address_space: 1 << 24, ..ArenaConfig::default() })?;
/// let store = Store::open(Arc::new(arena), PoolConfig::default(), &TagSpace::new())?;
/// let handle = store.malloc(5)?.write(b"hello")?;
/// assert_eq!(&*store.read(handle)?, b"hello");
/// let _ = store.compact(u64::MAX); // handles stay good
/// store.free(handle)?;
/// assert!(matches!(store.free(handle), Err(StoreError::Stale { .. })));
/// store.close().expect("no object is left");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    pool: Pool<HandleCells>,
    tag: Tag,
}

/// A slot and a cell for an object that is still to be written. Dropped, both are given back.
#[derive(Debug)]
#[must_use = "dropped, it gives everything back"]
pub struct Draft<'a> {
    store: &'a Store,
    /// Taken out when published.
    object: Option<Uncommitted<'a, HandleCells>>,
    index: u32,
}

/// A store was not closed, for objects are left in it.
#[derive(Debug, thiserror::Error)]
#[error("the store holds {live} objects; free them before closing it, or drop it with them")]
pub struct StillInUse {
    /// Objects left, those included that only guards or drafts keep.
    pub live: u64,
    /// The store, as it was.
    pub store: Box<Store>,
}

impl Store {
    /// An empty store in an arena of its own, whose handles differ from those of other stores with tags from `tags`.
    ///
    /// # Errors
    /// [`StoreError::NoTag`] for the 257th store of `tags` that is open; [`StoreError::Pool`] as [`Pool::new`].
    pub fn open(arena: Arc<Arena>, config: PoolConfig, tags: &TagSpace) -> Result<Self, StoreError> {
        let tag = tags.take().ok_or_else(|| StoreError::NoTag { live: tags.live() })?;
        let smallest = config.geometry.classes().next().map_or(1, |(_, class)| class.size());
        // `u32::MAX` is never an owner.
        let cells = (arena.address_space() / smallest).min(u32::MAX as usize) as u32;
        let cells = HandleCells::reserve(cells).map_err(Error::Metadata)?;
        Ok(Store { pool: Pool::new(arena, cells, config)?, tag })
    }

    /// Room for an object of `len` bytes, 1 to 4096, charged to nobody.
    ///
    /// # Errors
    /// [`StoreError::NoHandle`]; [`StoreError::Pool`] as [`Pool::malloc`].
    ///
    /// # Locks
    /// As [`Pool::malloc`].
    pub fn malloc(&self, len: usize) -> Result<Draft<'_>, StoreError> {
        self.malloc_for(None, len, NodeId(0))
    }

    /// Room for an object of `len` bytes near `node`, charged to `memcg` if the store has accounting.
    ///
    /// # Errors
    /// As [`malloc`](Self::malloc).
    ///
    /// # Locks
    /// As [`Pool::malloc`].
    pub fn malloc_for(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Draft<'_>, StoreError> {
        let object = self.pool.malloc(memcg, len, node)?;
        let cells = &self.pool.cells;
        let index = cells.take().ok_or_else(|| StoreError::NoHandle { indexes: cells.capacity() })?;
        Ok(Draft { store: self, object: Some(object), index })
    }

    /// Check everything about a handle but whether its object is there.
    fn check(&self, handle: Handle) -> Result<(), StoreError> {
        let (theirs, ours) = (handle.tag(), self.tag.number());
        if theirs != ours {
            return Err(StoreError::ForeignHandle { handle, theirs, ours });
        }
        let cells = &self.pool.cells;
        // The generation tells of indexes that were never used too, but not in these words.
        if handle.index() >= cells.capacity() || handle.generation() == 0 {
            return Err(StoreError::OutOfRange { handle, made: cells.made() });
        }
        match cells.generation(handle.index()) {
            now if now == handle.generation() => Ok(()),
            _ => Err(self.gone(handle)),
        }
    }

    fn gone(&self, handle: Handle) -> StoreError {
        let (cells, index) = (&self.pool.cells, handle.index());
        match (cells.generation(index), cells.made()) {
            (now, made) if index >= made || handle.generation() > now => StoreError::OutOfRange { handle, made },
            (now, _) => StoreError::Stale { handle, now },
        }
    }

    /// Look at the object. The guard keeps it readable, also when it is freed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Stale`], [`StoreError::ForeignHandle`], [`StoreError::OutOfRange`].
    pub fn read(&self, handle: Handle) -> Result<ReadGuard<'_, HandleCells>, StoreError> {
        use super::pool::Cells as _;
        self.check(handle)?;
        let owner = Owner(handle.index());
        loop {
            let Some(Object { location, len }) = self.pool.cells.object(owner) else { return Err(self.gone(handle)) };
            let guard = self.pool.read(owner, location, len);
            // A generation is never used twice: while it is the handle's, so was the object.
            self.check(handle)?;
            if let Some(guard) = guard {
                return Ok(guard);
            }
        }
    }

    /// Free the object. Guards on it stay good, and the last one gives the slot back.
    ///
    /// Never allocates.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it was freed before, [`StoreError::ForeignHandle`], [`StoreError::OutOfRange`].
    ///
    /// # Locks
    /// As [`Pool::free`].
    pub fn free(&self, handle: Handle) -> Result<(), StoreError> {
        self.check(handle)?;
        let index = handle.index();
        let object = self.pool.cells.end(index, handle.generation());
        let Object { location, len } = object.ok_or_else(|| self.gone(handle))?;
        self.pool.free(Owner(index), location, len);
        self.pool.cells.put(index);
        Ok(())
    }

    /// Move objects together; see [`Pool::compact`].
    ///
    /// # Locks
    /// As [`Pool::compact`].
    pub fn compact(&self, budget_bytes: u64) -> super::Compacted {
        self.pool.compact(budget_bytes)
    }

    /// The pool below, for its statistics.
    pub fn pool(&self) -> &Pool<HandleCells> {
        &self.pool
    }

    /// Close the store.
    ///
    /// # Errors
    /// [`StillInUse`] with the store in it while it holds objects.
    pub fn close(self) -> Result<(), StillInUse> {
        match self.pool.stats().objects {
            0 => Ok(()),
            live => Err(StillInUse { live, store: Box::new(self) }),
        }
    }

    /// Check the pool and the cells, at a quiet point.
    ///
    /// # Panics
    /// When an invariant does not hold.
    ///
    /// # Locks
    /// As [`Pool::assert_valid`].
    pub fn assert_valid(&self) {
        self.pool.assert_valid();
        let mut live = 0;
        self.pool.for_each_object(|_| live += 1);
        self.pool.cells.assert_valid(live);
    }
}

impl Draft<'_> {
    /// Write the object and name it.
    ///
    /// # Errors
    /// [`Error::WrongLength`] in [`StoreError::Pool`] unless there are exactly as many bytes as were asked for; slot
    /// and cell are then given back.
    pub fn write(mut self, bytes: &[u8]) -> Result<Handle, StoreError> {
        let (store, index) = (self.store, self.index);
        let object = self.object.as_mut().expect("only `write` takes it out");
        let late = store.pool.planted.is(Bug::PublishBeforeWrite);
        if !late {
            object.write(bytes)?;
        }
        let object = self.object.take().expect("only `write` takes it out");
        let published = object.publish(Owner(index));
        let handle = Handle::new(index, store.pool.cells.generation(index), store.tag.number());
        store.pool.cells.name(index, Object { location: published.location(), len: published.len() });
        if late {
            store.pool.heap.write(published.location(), bytes);
        }
        Ok(handle)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.object.take().is_some() {
            self.store.pool.cells.put(self.index);
        }
    }
}
