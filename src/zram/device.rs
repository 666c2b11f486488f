//! [`Zram`]: blocks that pages are stored in and loaded from.
//!
//! ```text
//! store    same-filled? ---- yes ------------------------------> word
//!             | no                                                 |
//!          compress -> malloc -> write -> publish (pinned) ------> word, then unpin; what the word held is freed
//!             |           `- refused: nothing has changed
//!             `- not below huge_len: the page as it is
//!
//! load     word -> pin -> still the word's? -> decompress to the caller's page -> unpin
//! ```
//!
//! How the word changes hands: [`cells`](super::cells).

use super::cells::{Content, ZramCells};
use super::word::BlockWord;
use super::{Builder, Error, MmStat};
use crate::compress::{self, Codec, Compressed, Contexts};
use crate::sync::thread::Backoff;
use crate::sync::{self, Tally};
use crate::units::{FRAME_SIZE, NodeId, Owner, PAGE_SIZE};
use crate::zsmalloc::{Cells, Compacted, Object, Pool};

/// A store of pages by block number, compressed in memory. Shared by reference; every method but [`reset`](Self::reset) may
/// be called by any number of threads.
///
/// ```
/// use zspool::units::Page;
/// use zspool::zram::Zram;
///
/// let zram = Zram::builder().disksize(1 << 30).mem_limit(64 << 20).build()?;
/// let mut page = Page::zeroed();
/// page[..5].copy_from_slice(b"hello");
/// zram.store(7, &page)?;
///
/// let mut back = Page::zeroed();
/// zram.load(7, &mut back)?;
/// assert_eq!(page[..], back[..]);
/// zram.discard(7)?; // reads as zeroes from here on
/// println!("{}", zram.mm_stat());
/// # Ok::<(), zspool::zram::Error>(())
/// ```
pub struct Zram {
    pool: Pool<ZramCells>,
    codec: Box<dyn Codec>,
    contexts: Contexts,
    /// Where new objects go.
    node: NodeId,
    /// Compressed to this many bytes or more, a page is kept as it is.
    huge_len: usize,
    /// The limit it was built with, as it was given.
    built_limit: u64,
    counters: Counters,
}

/// What the pool does not count already.
#[derive(Debug, Default)]
struct Counters {
    same_pages: Tally,
    huge_pages: Tally,
    huge_pages_since: Tally,
    pages_compacted: Tally,
    /// Bytes.
    used_max: Tally,
}

/// How a page was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// One repeated word: no object.
    SameFilled,
    /// An object of this many bytes.
    Compressed {
        /// Length of the compressed bytes.
        payload_bytes: usize,
    },
    /// As it is, for compressing it would have won no memory.
    Huge,
}

/// The arena's limit for a `mem_limit`: 0 is none, and frames are whole.
pub(super) fn limit_bytes(mem_limit: u64) -> u64 {
    match mem_limit {
        0 => u64::MAX,
        bytes => bytes.checked_next_multiple_of(FRAME_SIZE as u64).unwrap_or(u64::MAX),
    }
}

impl Zram {
    /// Start to describe a device.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(super) fn new(
        pool: Pool<ZramCells>,
        codec: Box<dyn Codec>,
        contexts: Contexts,
        node: NodeId,
        built_limit: u64,
    ) -> Self {
        let huge_len = pool.geometry().huge_len();
        Zram { pool, codec, contexts, node, huge_len, built_limit, counters: Counters::default() }
    }

    /// Blocks there are, of 4096 bytes each.
    pub fn blocks(&self) -> u64 {
        self.pool.cells().blocks().into()
    }

    /// The allocator below, for its statistics.
    pub fn pool(&self) -> &Pool<ZramCells> {
        &self.pool
    }

    fn checked(&self, block: u64) -> Result<u32, Error> {
        let blocks = self.blocks();
        if block < blocks { Ok(block as u32) } else { Err(Error::OutOfRange { block, blocks }) }
    }

    /// Store a page in a block, in place of what it held. Loads meanwhile see the one or the other.
    ///
    /// Nobody else may write `page` meanwhile: the borrow says so.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Refused`] at the limit, and when the system has no memory. The block then holds what it
    /// held.
    ///
    /// # Locks
    /// Class, arena, one after the other; none while compressing. Makes system calls.
    pub fn store(&self, block: u64, page: &[u8; PAGE_SIZE]) -> Result<Stored, Error> {
        let index = self.checked(block)?;
        if let Some(word) = compress::same_filled(page) {
            self.counters.same_pages.add(1);
            self.give_back(index, self.pool.cells().replace(index, Content::Repeated(word)));
            return Ok(Stored::SameFilled);
        }
        sync::assert_no_lock_held("compressing a page");
        let mut context = self.contexts.checkout();
        let bytes = match self.codec.compress(&mut context, page) {
            Compressed::Bytes(bytes) if bytes.len() < self.huge_len => bytes,
            Compressed::Bytes(_) | Compressed::Incompressible => page,
        };
        let len = bytes.len();
        let refused = |source| Error::Refused { block, source };
        let mut object = self.pool.malloc(None, len, self.node).map_err(refused)?;
        object.write(bytes).map_err(refused)?;
        drop(context);
        let published = object.publish(Owner(index));
        if len == PAGE_SIZE {
            self.counters.huge_pages.add(1);
            self.counters.huge_pages_since.add(1);
        }
        let named = Content::Object(Object { location: published.location(), len });
        let old = self.pool.cells().replace(index, named);
        drop(published);
        self.counters.used_max.raise(self.pool.arena().backed_bytes());
        self.give_back(index, old);
        Ok(if len == PAGE_SIZE { Stored::Huge } else { Stored::Compressed { payload_bytes: len } })
    }

    /// Read a block. One that nothing was stored in reads as zeroes.
    ///
    /// Calls no allocator and takes no lock, unless it is the last to read an object that was replaced or discarded meanwhile.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Corrupt`]. `page` then holds anything.
    pub fn load(&self, block: u64, page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
        let index = self.checked(block)?;
        sync::assert_no_lock_held("loading a page");
        let mut backoff = Backoff::new();
        loop {
            match self.pool.cells().content(index) {
                Content::Empty => page.fill(0),
                Content::Repeated(word) => compress::fill(page, word),
                Content::Object(Object { location, len }) => {
                    let Some(object) = self.pool.read(Owner(index), location, len) else {
                        backoff.wait(); // it moved, or was replaced
                        continue;
                    };
                    return object.with(|bytes| self.decode(block, bytes, page));
                }
            }
            return Ok(());
        }
    }

    fn decode(&self, block: u64, bytes: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
        match <&[u8; PAGE_SIZE]>::try_from(bytes) {
            Ok(raw) => *page = *raw,
            Err(_) => self.codec.decompress(bytes, page).map_err(|_| Error::Corrupt { block })?,
        }
        Ok(())
    }

    /// Make a block empty. Says whether it held something.
    ///
    /// Calls no allocator. May make a system call.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    ///
    /// # Locks
    /// Class, arena, one after the other.
    pub fn discard(&self, block: u64) -> Result<bool, Error> {
        let index = self.checked(block)?;
        let old = self.pool.cells().replace(index, Content::Empty);
        self.give_back(index, old);
        Ok(old != BlockWord::EMPTY)
    }

    /// Free what a word named that was taken out.
    fn give_back(&self, index: u32, old: BlockWord) {
        if old.is_same_filled() {
            self.counters.same_pages.sub(1);
        }
        if let Some(Object { location, len }) = old.names() {
            if old.is_huge() {
                self.counters.huge_pages.sub(1);
            }
            self.pool.free(Owner(index), location, len);
        }
    }

    /// Set the limit in bytes, rounded up to whole frames; 0: none. Below what is used, warm frames go, what is stored stays,
    /// and stores that need a frame are refused.
    pub fn set_mem_limit(&self, bytes: u64) {
        self.pool.arena().set_limit(limit_bytes(bytes));
    }

    /// Let `mem_used_max` begin anew from what is used now (the kernel's `echo 0 > mem_used_max`).
    pub fn reset_mem_used_max(&self) {
        self.counters.used_max.set(self.pool.arena().backed_bytes());
    }

    /// Gather objects and give the memory back that this frees, and warm frames.
    ///
    /// # Locks
    /// Class, for one object at a time; arena.
    pub fn compact(&self) -> Compacted {
        let compacted = self.pool.compact(u64::MAX);
        self.counters.pages_compacted.add(compacted.frames_won());
        self.pool.flush();
        compacted
    }

    /// Empty the device as if it were new: every block empty, all numbers 0, the limit the one it was built with. That nobody
    /// uses it meanwhile is what `&mut` says; the kernel's answers `EBUSY` to who asks at another time.
    pub fn reset(&mut self) {
        let mut owners = vec![];
        self.pool.for_each_object(|object| owners.push(object.owner));
        for Owner(index) in owners {
            self.give_back(index, self.pool.cells().replace(index, Content::Empty));
        }
        self.pool.cells().clear();
        self.pool.flush();
        self.set_mem_limit(self.built_limit);
        self.counters = Counters::default();
    }

    /// The device's numbers. Each is exact at the time it is looked at; together they are at a quiet point.
    ///
    /// # Locks
    /// Class, one at a time.
    pub fn mm_stat(&self) -> MmStat {
        let (pool, arena, same_pages) = (self.pool.stats(), self.pool.arena(), self.counters.same_pages.get());
        MmStat {
            orig_data_size: (pool.objects + same_pages) * PAGE_SIZE as u64,
            compr_data_size: pool.payload_bytes,
            mem_used_total: arena.backed_bytes(),
            mem_limit: Some(arena.limit()).filter(|&limit| limit != u64::MAX).unwrap_or(0),
            mem_used_max: self.counters.used_max.get(),
            same_pages,
            pages_compacted: self.counters.pages_compacted.get(),
            huge_pages: self.counters.huge_pages.get(),
            huge_pages_since: self.counters.huge_pages_since.get(),
        }
    }

    /// Check every layer, at a quiet point. Looks at every block.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn assert_valid(&self) {
        self.pool.assert_valid();
        self.contexts.assert_valid();
        let (mut live, mut huge) = (0, 0);
        self.pool.for_each_object(|object| {
            live += 1;
            let named = self.pool.cells().object(object.owner);
            assert_eq!(
                named.map(|named| named.location),
                Some(object.location),
                "B2: {:?} names its object",
                object.owner
            );
            huge += u64::from(named.is_some_and(|named| named.len == PAGE_SIZE));
        });
        let same = self.pool.cells().assert_valid(live);
        assert_eq!(same, self.counters.same_pages.get(), "same-filled blocks are counted");
        assert_eq!(huge, self.counters.huge_pages.get(), "blocks kept as they are are counted");
    }
}

impl std::fmt::Debug for Zram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zram")
            .field("blocks", &self.blocks())
            .field("codec", &self.codec.name())
            .finish_non_exhaustive()
    }
}
