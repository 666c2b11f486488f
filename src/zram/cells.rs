//! [`ZramCells`]: the words of all blocks, which are the pool's cells.
//!
//! ```text
//! words     [ object ][ empty ][ wide ][ repeated ] ...     8 bytes a block, backed where touched
//! patterns  [   -    ][   -   ][ word ][    -     ] ...     8 bytes a block, backed where a wide word was stored
//! ```
//!
//! Few pages repeat a word of more than 61 bits, so that the second table costs addresses and hardly any memory.
//!
//! How the parties agree:
//!
//! - **store, discard** put the new word in place of an unlocked one by compare-exchange. Whoever takes a word out frees its
//!   object.
//! - **a store of a wide word** locks the block's word, writes the pattern and puts the word `wide` in place. While it has the
//!   lock no other store can write the pattern, nor take the word out.
//! - **load** reads the word; if it says `wide`, then the pattern; and then the word again. If that is still `wide`, the pattern
//!   was the block's at some instant in between: a pattern is only written under the lock, and what is written becomes the
//!   block's before another store can follow.
//! - **compaction** changes the location by compare-exchange, locked or not.
//!
//! Invariants, at a quiet point:
//! - **B1** No word is locked.
//! - **B2** The objects that words name are exactly the live objects of the pool, each named by the word of its owner.

use super::word::{BlockWord, Says};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Bug, Planted, Table};
use crate::units::{FRAME_SIZE, Location, Owner};
use crate::zsmalloc::{Cells, Object};
use std::io;

/// Words on a page of the tables.
const WORDS: usize = FRAME_SIZE / size_of::<AtomicU64>();

/// The words of a device's blocks. A block's number is the [`Owner`] of its object.
#[derive(Debug)]
pub struct ZramCells {
    words: Table<AtomicU64>,
    patterns: Table<AtomicU64>,
    blocks: u32,
    planted: Planted,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing: it reads as zeroes.
    Empty,
    /// An object of the pool. It may move or go: pin it, and look again.
    Object(Object),
    /// The page repeats this word.
    Repeated(u64),
}

impl ZramCells {
    /// Words for this many blocks, all empty.
    pub(super) fn reserve(blocks: u32, planted: Planted) -> io::Result<Self> {
        // Whole pages, so that all of it can be discarded.
        let capacity = (blocks as usize).next_multiple_of(WORDS);
        Ok(ZramCells { words: Table::reserve(capacity)?, patterns: Table::reserve(capacity)?, blocks, planted })
    }

    /// Blocks there are.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    fn word(&self, block: u32) -> &AtomicU64 {
        self.words.get(block as usize)
    }

    /// What the block holds now.
    #[inline]
    pub(super) fn content(&self, block: u32) -> Content {
        // Acquire pairs with whoever put the word in place: the object's bytes, or the pattern, come before.
        let load = || BlockWord::from_raw(self.word(block).load(Ordering::Acquire));
        loop {
            match load().says() {
                Says::Empty => return Content::Empty,
                Says::Object(object) => return Content::Object(object),
                Says::Repeated(word) => return Content::Repeated(word),
                Says::Wide => {
                    // Acquire pairs with the pattern's release: who sees the pattern of a later store sees that it has the lock.
                    let pattern = self.patterns.get(block as usize).load(Ordering::Acquire);
                    if load().says() == Says::Wide || self.planted.is(Bug::PatternSkipsSecondLook) {
                        return Content::Repeated(pattern);
                    }
                }
            }
        }
    }

    /// Put `content` in place of what the block holds, and return the word that was taken out.
    pub(super) fn replace(&self, block: u32, content: Content) -> BlockWord {
        match content {
            Content::Empty => self.exchange(block, BlockWord::EMPTY),
            Content::Object(object) => self.exchange(block, BlockWord::object(object)),
            Content::Repeated(word) => match BlockWord::repeated(word) {
                Some(new) => self.exchange(block, new),
                None => self.exchange_wide(block, word),
            },
        }
    }

    fn exchange(&self, block: u32, new: BlockWord) -> BlockWord {
        self.put(block, |_| new)
    }

    fn exchange_wide(&self, block: u32, pattern: u64) -> BlockWord {
        if !self.planted.is(Bug::PatternWithoutLock) {
            self.put(block, BlockWord::locked);
        }
        // Release pairs with `content`.
        self.patterns.get(block as usize).store(pattern, Ordering::Release);
        // With the lock only the location can have changed; the one taken out is the last. Release pairs with `content`.
        BlockWord::from_raw(self.word(block).swap(BlockWord::WIDE.raw(), Ordering::AcqRel))
    }

    /// Change an unlocked word to what `new` makes of it; returns what it was.
    fn put(&self, block: u32, new: impl Fn(BlockWord) -> BlockWord) -> BlockWord {
        let word = self.word(block);
        let mut backoff = Backoff::new();
        let mut old = BlockWord::from_raw(word.load(Ordering::Relaxed)); // the compare-exchange looks again
        loop {
            if old.is_locked() {
                backoff.wait();
                old = BlockWord::from_raw(word.load(Ordering::Relaxed));
                continue;
            }
            // Release: the object's bytes come before its name. Acquire: who takes a word out has seen what came before it.
            match word.compare_exchange(old.raw(), new(old).raw(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return old,
                Err(now) => old = BlockWord::from_raw(now),
            }
        }
    }

    /// Make every block empty, and give the tables' memory back, where the kernel takes it. Nobody uses them meanwhile, and no word names an object.
    pub(super) fn clear(&self) {
        if self.words.discard(0..self.words.capacity()).is_err() {
            // Locked, say. What is empty already is not touched: it may not be backed.
            let held = (0..self.blocks).map(|block| self.word(block)).filter(|word| word.load(Ordering::Relaxed) != 0);
            held.for_each(|word| word.store(BlockWord::EMPTY.raw(), Ordering::Relaxed));
        }
        let _ = self.patterns.discard(0..self.patterns.capacity()); // they mean nothing without a word
    }

    /// Check the words against the pool's objects, of which there are `live`, at a quiet point. Looks at every block; returns
    /// how many are same-filled.
    pub(super) fn assert_valid(&self, live: u64) -> u64 {
        let (mut named, mut same) = (0, 0);
        for block in 0..self.blocks {
            let word = BlockWord::from_raw(self.word(block).load(Ordering::Relaxed));
            assert!(!word.is_locked(), "B1: block {block} is locked at a quiet point");
            named += u64::from(word.names().is_some());
            same += u64::from(word.is_same_filled());
        }
        assert_eq!(named, live, "B2: as many objects are named as live");
        same
    }
}

impl Cells for ZramCells {
    #[inline]
    fn object(&self, owner: Owner) -> Option<Object> {
        // Acquire, as in `content`.
        let block = || BlockWord::from_raw(self.word(owner.0).load(Ordering::Acquire));
        (owner.0 < self.blocks).then(block)?.names()
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let moved = |raw| {
            let word = BlockWord::from_raw(raw);
            word.names().filter(|object| object.location == from)?;
            word.moved(to).map(BlockWord::raw)
        };
        self.word(owner.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, moved).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const WIDE: u64 = 0x1234_5678_9abc_def0;

    fn object(raw: u64) -> Object {
        Object { location: Location::from_raw(raw), len: 100 }
    }

    #[test]
    fn what_is_put_is_there_and_comes_out() {
        let cells = ZramCells::reserve(3, Planted::NONE).unwrap();
        let contents =
            [Content::Object(object(7)), Content::Repeated(WIDE), Content::Repeated(!WIDE), Content::Repeated(5)];
        assert_eq!(cells.content(2), Content::Empty);
        for content in contents {
            cells.replace(2, content);
            assert_eq!(cells.content(2), content);
        }
        assert_eq!(cells.replace(2, Content::Object(object(9))).says(), Says::Repeated(5));
        assert_eq!(cells.replace(2, Content::Repeated(WIDE)).names(), Some(object(9)));
        assert_eq!(cells.replace(2, Content::Empty).says(), Says::Wide);
        cells.assert_valid(0);
    }

    #[test]
    fn an_object_moves_only_from_where_it_is_and_under_the_lock_too() {
        let cells = ZramCells::reserve(1, Planted::NONE).unwrap();
        let (owner, to) = (Owner(0), Location::from_raw(8));
        cells.replace(0, Content::Object(object(7)));
        assert!(!cells.relocate(owner, to, Location::from_raw(9)));
        cells.put(0, BlockWord::locked);
        assert!(cells.relocate(owner, Location::from_raw(7), to));
        assert_eq!(cells.object(owner), Some(object(8)));
        assert!(BlockWord::from_raw(cells.word(0).load(Ordering::Relaxed)).is_locked(), "the lock is kept");
    }

    #[test]
    fn clearing_empties_every_block() {
        let cells = ZramCells::reserve(1000, Planted::NONE).unwrap();
        for block in [0, 511, 512, 999] {
            cells.replace(block, Content::Repeated(WIDE));
        }
        cells.clear();
        assert!((0..1000).all(|block| cells.content(block) == Content::Empty));
    }

    #[test]
    fn an_owner_that_is_no_block_names_nothing() {
        let cells = ZramCells::reserve(1, Planted::NONE).unwrap();
        assert_eq!(cells.object(Owner(1)), None);
    }
}
