//! A pool whose objects have [`Handle`]s: names that know when they are used wrongly.
//!
//! ```text
//! draft -----> Draft -- write --> Handle -- get --> ReadGuard        remove: the handle is good for nothing any more,
//!  slot, cell    |                   |                 |             the bytes stay until the last guard goes
//!                +-- drop: both      +-- remove        +-- drop
//!                    given back
//! ```
//!
//! Invariants: those of [`HandleCells`] (C1, C2), and
//! - **H1** A handle is told to nobody before its object is written and its cell names it.

use super::cells::{Cells as _, Object};
use super::error::{Error, HandleError};
use super::guard::ReadGuard;
use super::handle::{Handle, TagSpace};
use super::handle_cells::HandleCells;
use super::pool::{Pool, PoolConfig};
use super::uncommitted::Uncommitted;
use crate::arena::Arena;
use crate::memcg::Memcg;
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Bug, prefetch};
use crate::units::{NodeId, Owner};

/// A slot and a cell for an object that is still to be written. Dropped, both are given back.
#[derive(Debug)]
#[must_use = "dropped, it gives everything back"]
pub struct Draft<'a> {
    pool: &'a Pool,
    /// Taken out when published.
    object: Option<Uncommitted<'a, HandleCells>>,
    index: u32,
}

/// A pool was not closed, for objects are left in it.
#[derive(Debug, thiserror::Error)]
#[error("the pool holds {live} objects; remove them before closing it, or drop it with them")]
pub struct StillInUse {
    /// Objects left, those included that only guards or drafts keep.
    pub live: u64,
    /// The pool, as it was.
    pub pool: Box<Pool>,
}

/// Objects named by handles.
///
/// ```
/// use zspool::arena::{Arena, ArenaConfig};
/// use zspool::sync::Arc;
/// use zspool::zsmalloc::{HandleError, Pool, PoolConfig, TagSpace};
///
/// let arena = Arena::new(ArenaConfig { address_space: 1 << 24, ..ArenaConfig::default() })?;
/// let pool = Pool::open(Arc::new(arena), PoolConfig::default(), &TagSpace::new())?;
/// let handle = pool.insert(b"hello")?;
/// assert_eq!(&*pool.get(handle)?, b"hello");
/// let _ = pool.compact(u64::MAX); // handles stay good
/// pool.remove(handle)?;
/// assert!(matches!(pool.remove(handle), Err(HandleError::Stale { .. })));
/// pool.close().expect("no object is left");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Pool {
    /// An empty pool in an arena of its own, whose handles differ from those of other pools with tags from `tags`.
    ///
    /// # Errors
    /// [`HandleError::NoTag`] for the 257th pool of `tags` that is open; [`HandleError::Pool`] as [`Pool::new`].
    pub fn open(arena: Arc<Arena>, config: PoolConfig, tags: &TagSpace) -> Result<Self, HandleError> {
        let tag = tags.take().ok_or_else(|| HandleError::NoTag { live: tags.live() })?;
        let smallest = config.geometry.classes().next().map_or(1, |(_, class)| class.size());
        // `u32::MAX` is never an owner.
        let cells = (arena.address_space() / smallest).min(u32::MAX as usize) as u32;
        let cells = HandleCells::reserve(cells, tag).map_err(Error::Metadata)?;
        Ok(Pool::new(arena, cells, config)?)
    }

    /// Store an object, 1 to 4096 bytes, charged to nobody, and name it.
    ///
    /// # Errors
    /// As [`draft`](Self::draft); `bytes` are then nowhere but with the caller.
    ///
    /// # Locks
    /// As [`malloc`](Self::malloc).
    pub fn insert(&self, bytes: &[u8]) -> Result<Handle, HandleError> {
        self.insert_for(None, NodeId(0), bytes)
    }

    /// Store an object near `node`, charged to `memcg` if the pool has accounting, and name it.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    ///
    /// # Locks
    /// As [`malloc`](Self::malloc).
    pub fn insert_for(&self, memcg: Option<&Memcg>, node: NodeId, bytes: &[u8]) -> Result<Handle, HandleError> {
        // Fetched while room is made for it.
        prefetch(bytes);
        self.draft_for(memcg, bytes.len(), node)?.write(bytes)
    }

    /// Room for an object of `len` bytes, 1 to 4096, charged to nobody.
    ///
    /// # Errors
    /// [`HandleError::NoHandle`]; [`HandleError::Pool`] as [`malloc`](Self::malloc).
    ///
    /// # Locks
    /// As [`malloc`](Self::malloc).
    pub fn draft(&self, len: usize) -> Result<Draft<'_>, HandleError> {
        self.draft_for(None, len, NodeId(0))
    }

    /// Room for an object of `len` bytes near `node`, charged to `memcg` if the pool has accounting.
    ///
    /// # Errors
    /// As [`draft`](Self::draft).
    ///
    /// # Locks
    /// As [`malloc`](Self::malloc).
    pub fn draft_for(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Draft<'_>, HandleError> {
        let object = self.malloc(memcg, len, node)?;
        let index = self.cells.take().ok_or_else(|| HandleError::NoHandle { indexes: self.cells.capacity() })?;
        Ok(Draft { pool: self, object: Some(object), index })
    }

    /// Check everything about a handle but whether its object is there.
    fn check(&self, handle: Handle) -> Result<(), HandleError> {
        let (theirs, ours) = (handle.tag(), self.cells.tag());
        if theirs != ours {
            return Err(HandleError::ForeignHandle { handle, theirs, ours });
        }
        // The generation tells of indexes that were never used too, but not in these words.
        if handle.index() >= self.cells.capacity() || handle.generation() == 0 {
            return Err(HandleError::OutOfRange { handle, made: self.cells.made() });
        }
        match self.cells.generation(handle.index()) {
            now if now == handle.generation() => Ok(()),
            _ => Err(self.gone(handle)),
        }
    }

    fn gone(&self, handle: Handle) -> HandleError {
        let index = handle.index();
        match (self.cells.generation(index), self.cells.made()) {
            (now, made) if index >= made || handle.generation() > now => HandleError::OutOfRange { handle, made },
            (now, _) => HandleError::Stale { handle, now },
        }
    }

    /// Look at the object. The guard keeps it readable, also when it is removed meanwhile.
    ///
    /// Never allocates.
    ///
    /// # Errors
    /// [`HandleError::Stale`], [`HandleError::ForeignHandle`], [`HandleError::OutOfRange`].
    ///
    /// # Locks
    /// None, but for the last guard of a removed object; see [`Pool::read`].
    pub fn get(&self, handle: Handle) -> Result<ReadGuard<'_, HandleCells>, HandleError> {
        self.check(handle)?;
        let owner = Owner(handle.index());
        let mut backoff = Backoff::new();
        loop {
            let Some(Object { location, len }) = self.cells.object(owner) else { return Err(self.gone(handle)) };
            let guard = self.read(owner, location, len);
            // A generation is never used twice: while it is the handle's, so was the object.
            self.check(handle)?;
            if let Some(guard) = guard {
                return Ok(guard);
            }
            backoff.wait(); // moved meanwhile
        }
    }

    /// Free the object. Guards on it stay good, and the last one gives the slot back.
    ///
    /// Never allocates.
    ///
    /// # Errors
    /// [`HandleError::Stale`] when it was removed before, [`HandleError::ForeignHandle`], [`HandleError::OutOfRange`].
    ///
    /// # Locks
    /// As [`free`](Self::free).
    pub fn remove(&self, handle: Handle) -> Result<(), HandleError> {
        self.check(handle)?;
        let index = handle.index();
        let object = self.cells.end(index, handle.generation(), self.planted);
        let Object { location, len } = object.ok_or_else(|| self.gone(handle))?;
        self.free(Owner(index), location, len);
        self.cells.put(index);
        Ok(())
    }

    /// Close the pool. Guards and drafts borrow it: the compiler sees that none is left.
    ///
    /// ```compile_fail,E0505
    /// # use zspool::zsmalloc::Pool;
    /// let pool = Pool::builder().build().unwrap();
    /// let handle = pool.insert(b"hello").unwrap();
    /// let guard = pool.get(handle).unwrap();
    /// pool.close().unwrap(); // cannot move out of `pool` because it is borrowed
    /// assert_eq!(&*guard, b"hello");
    /// ```
    ///
    /// # Errors
    /// [`StillInUse`] with the pool in it while it holds objects.
    pub fn close(self) -> Result<(), StillInUse> {
        match self.stats().objects {
            0 => Ok(()),
            live => Err(StillInUse { live, pool: Box::new(self) }),
        }
    }
}

impl Draft<'_> {
    /// Write the object and name it.
    ///
    /// # Errors
    /// [`Error::WrongLength`] in [`HandleError::Pool`] unless there are exactly as many bytes as were asked for; slot
    /// and cell are then given back.
    pub fn write(mut self, bytes: &[u8]) -> Result<Handle, HandleError> {
        let (pool, index) = (self.pool, self.index);
        let object = self.object.as_mut().expect("only `write` takes it out");
        let late = pool.planted.is(Bug::PublishBeforeWrite);
        if !late {
            object.write(bytes)?;
        }
        let object = self.object.take().expect("only `write` takes it out");
        let (location, len) = (object.location(), object.len());
        // Before it is named: whoever guesses the handle may remove it at once.
        let handle = Handle::new(index, pool.cells.generation(index), pool.cells.tag());
        object.publish_unpinned(Owner(index));
        pool.cells.name(index, Object { location, len });
        if late {
            pool.heap.write(location, bytes);
        }
        Ok(handle)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.object.take().is_some() {
            self.pool.cells.put(self.index);
        }
    }
}
