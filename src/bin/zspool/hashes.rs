//! [`Hashes`]: what each page was, in 16 bytes, to compare it with what comes back.

use xxhash_rust::xxh3::xxh3_128;
use zspool::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zspool::units::PAGE_SIZE;

/// A 128-bit hash for every page, or that none is stored. Set by the worker that stored the page; other threads read in a later
/// phase, after a join, so relaxed accesses are enough.
pub(crate) struct Hashes {
    /// Low and high half; both zero when no page is stored.
    words: Box<[[AtomicU64; 2]]>,
}

/// The hash of a page. Never 0, which marks that there is no page: one value in 2^128 moves by one.
pub(crate) fn hash(page: &[u8; PAGE_SIZE]) -> u128 {
    xxh3_128(page).max(1)
}

impl Hashes {
    /// Room for `pages` hashes, resident from the start, so that it is not taken for growth of the pool. None when there is not
    /// so much memory.
    pub(crate) fn new(pages: u64) -> Option<Self> {
        let pages = usize::try_from(pages).ok()?;
        let mut words: Vec<[AtomicU64; 2]> = Vec::new();
        words.try_reserve_exact(pages).ok()?;
        words.resize_with(pages, Default::default);
        // The allocator may have known the zeroes; these stores touch every page.
        words.iter().for_each(|word| word[0].store(0, Relaxed));
        Some(Hashes { words: words.into_boxed_slice() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.words.len() as u64
    }

    pub(crate) fn set(&self, page: u64, hash: u128) {
        let [low, high] = &self.words[page as usize];
        low.store(hash as u64, Relaxed);
        high.store((hash >> 64) as u64, Relaxed);
    }

    pub(crate) fn get(&self, page: u64) -> Option<u128> {
        let [low, high] = &self.words[page as usize];
        let hash = u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed));
        (hash != 0).then_some(hash)
    }
}
