//! A bounded cache of JSON documents that keeps them compressed in a [`Pool`] of 16 MiB.
//!
//! ```text
//!   get(key) --> index: key -> Entry -- handles --> pool: compressed chunks of up to 4096 bytes
//!                  |                                  refused? compact; does that win nothing, evict the coldest
//!                  +-- recency: tick -> key (the first is the coldest)
//! ```
//!
//! A document is compressed as a whole and cut into chunks of 4096 bytes, the most an object can have: documents may be of any
//! size. What the pool may take is bounded to the byte; the index (a map entry and a handle a chunk) comes on top.
//! Run it: `cargo run --release --example json_cache`

use std::collections::{BTreeMap, HashMap};
use zspool::arena;
use zspool::zsmalloc::{Error, Handle, HandleError, Pool};

/// What the pool's frames may take.
const LIMIT: u64 = 16 << 20;

/// Bytes that a compaction may move before an insert goes on.
const COMPACT_BYTES: u64 = 256 << 10;
/// Documents evicted together where compaction wins nothing.
const EVICT: usize = 32;

struct Cache {
    pool: Pool,
    /// A document's chunks, and when it was used last.
    entries: HashMap<u64, (Vec<Handle>, u64)>,
    /// Keys by when they were used last.
    recency: BTreeMap<u64, u64>,
    tick: u64,
    evicted: u64,
    frames_won: u64,
}

impl Cache {
    fn new(limit: u64) -> Result<Self, HandleError> {
        let pool = Pool::builder().limit(limit).build()?;
        Ok(Cache { pool, entries: HashMap::new(), recency: BTreeMap::new(), tick: 0, evicted: 0, frames_won: 0 })
    }

    fn get(&mut self, key: u64) -> Option<String> {
        let (chunks, used) = self.entries.get_mut(&key)?;
        let mut compressed = Vec::with_capacity(chunks.len() * 4096);
        for &chunk in chunks.iter() {
            compressed.extend_from_slice(&self.pool.get(chunk).expect("the cache removes what it forgets"));
        }
        self.recency.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.recency.insert(self.tick, key);
        let document = lz4_flex::decompress_size_prepended(&compressed).expect("nobody else writes to the pool");
        Some(String::from_utf8(document).expect("it was a string"))
    }

    /// Cache a document in place of the one before; others may go. When it is refused, nothing is cached for the key.
    fn put(&mut self, key: u64, document: &str) -> Result<(), HandleError> {
        self.remove(key);
        let compressed = lz4_flex::compress_prepend_size(document.as_bytes());
        let mut chunks = Vec::new();
        let inserted = compressed.chunks(4096).try_for_each(|chunk| {
            chunks.push(self.insert(chunk)?);
            Ok(())
        });
        self.tick += 1;
        self.recency.insert(self.tick, key);
        self.entries.insert(key, (chunks, self.tick));
        inserted.inspect_err(|_| self.remove(key))
    }

    fn insert(&mut self, chunk: &[u8]) -> Result<Handle, HandleError> {
        loop {
            match self.pool.insert(chunk) {
                Err(HandleError::Pool(Error::Arena(arena::Error::Limit { .. }))) if self.make_room() => {}
                done => return done,
            }
        }
    }

    /// Win frames by packing what is there, or let the coldest documents go. Whether there was anything to be done.
    fn make_room(&mut self) -> bool {
        let won = self.pool.compact(COMPACT_BYTES).frames_freed;
        self.frames_won += won;
        if won > 0 {
            return true;
        }
        let coldest: Vec<u64> = self.recency.values().copied().take(EVICT).collect();
        self.evicted += coldest.len() as u64;
        coldest.iter().for_each(|&key| self.remove(key));
        !coldest.is_empty()
    }

    fn remove(&mut self, key: u64) {
        if let Some((chunks, used)) = self.entries.remove(&key) {
            self.recency.remove(&used);
            chunks.into_iter().for_each(|chunk| self.pool.remove(chunk).expect("every chunk is removed once"));
        }
    }
}

/// What the origin says for a key: 300 bytes to 12 KiB of JSON.
fn document(key: u64) -> String {
    let item = |n: u64| {
        let mixed = (key * 1000 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (price, stock) = (mixed % 500, mixed % 90);
        format!(r#"{{"id":{n},"sku":"{mixed:011x}","price":{price}.99,"stock":{stock},"tags":["new"]}}"#)
    };
    let items: Vec<String> = (0..4 + key * key % 150).map(item).collect();
    format!(r#"{{"order":{key},"customer":"customer-{}","items":[{}]}}"#, key % 977, items.join(","))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut cache, mut hits) = (Cache::new(LIMIT)?, 0);
    let (mut random, keys, requests) = (88_172_645_463_325_252u64, 60_000.0, 200_000);
    for _ in 0..requests {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
        let key = (uniform.powi(5) * keys) as u64; // few keys are asked for often
        match cache.get(key) {
            Some(cached) => {
                assert!(cached == document(key), "a document comes back as it was");
                hits += 1;
            }
            None => cache.put(key, &document(key))?,
        }
        assert!(cache.pool.arena().backed_bytes() <= LIMIT, "the limit holds at any time");
    }

    cache.pool.assert_valid();
    let (usage, evicted, won) = (cache.pool.usage(), cache.evicted, cache.frames_won);
    let keys: Vec<u64> = cache.entries.keys().copied().collect();
    let kept =
        |key: &u64| cache.get(*key).filter(|cached| *cached == document(*key)).expect("it is as it was").len() as u64;
    let original: u64 = keys.iter().map(kept).sum();
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!("documents kept        {:>10}", keys.len());
    println!("  original            {:>10}", mib(original));
    println!("  compressed          {:>10}", mib(usage.payload_bytes));
    println!("memory really used    {:>10}  (limit {} of frames)", mib(usage.total_bytes()), mib(LIMIT));
    println!("hit rate              {:>9.1}%", hits as f64 / requests as f64 * 100.0);
    println!("evicted, frames won   {evicted:>10}, {won}");

    assert!(original > 2 * usage.total_bytes() && hits > requests / 3 && evicted > 0 && won > 0);
    keys.into_iter().for_each(|key| cache.remove(key));
    cache.pool.close()?;
    println!("every document was what its origin says, and nothing is left");
    Ok(())
}
