//! What a case has: an instance with a device, a memcg of its own, and the text files of memcgs by name.

use std::fmt::Display;
use std::sync::Arc;
use zspool::memcg::{Error, Memcg};
use zspool::swap::MemoryDevice;
use zspool::units::{PAGE_SIZE, Page};
use zspool::zswap::{Builder, Zswap};

/// What is a megabyte in the kernel's cases.
pub const M: u64 = if cfg!(debug_assertions) { 1 << 18 } else { 1 << 20 };
pub const PAGE: u64 = PAGE_SIZE as u64;

/// Pages in so many bytes.
pub const fn pages(bytes: u64) -> usize {
    (bytes / PAGE) as usize
}

/// A case under way, in a memcg below the root.
pub struct Case {
    pub zswap: Arc<Zswap>,
    pub memcg: Memcg,
}

impl Case {
    pub fn new(name: &str) -> Case {
        Self::with(name, |builder| builder)
    }

    pub fn with(name: &str, more: impl FnOnce(Builder) -> Builder) -> Case {
        let builder = Zswap::builder().pool_limit(128 << 20).address_space(512 << 20).slots_in_use(1 << 17);
        let zswap = Arc::new(more(builder.device(MemoryDevice::new(128 << 20, PAGE_SIZE))).build().unwrap());
        let memcg = zswap.root().mkdir(name).unwrap();
        Case { zswap, memcg }
    }

    /// What the kernel's cases do not check: when all clients are gone, nothing is left of them. All counters of all memcgs are
    /// exactly 0, every layer's invariants hold, and no removed memcg stays behind.
    pub fn end(self) {
        let Case { zswap, memcg } = self;
        drop(memcg);
        zswap.quiesce();
        zswap.assert_valid();
        zswap.tree().assert_quiet();
        for memcg in zswap.root().subtree().into_iter().rev() {
            for file in ["memory.current", "memory.swap.current", "memory.zswap.current"] {
                assert_eq!(number(&memcg, file), 0, "{file} of {}", memcg.path());
            }
            for gauge in ["anon", "zswap", "zswapped", "zswap_incomp", "zswap_payload"] {
                assert_eq!(stat(&memcg, gauge), 0, "{gauge} in memory.stat of {}", memcg.path());
            }
            if memcg.parent().is_some() {
                memcg.offline().unwrap();
            }
        }
        let stats = zswap.stats();
        assert_eq!((stats.pool.objects, stats.same_filled_pages, stats.physical_pages), (0, 0, 0), "what slots hold");
        for count in ["nr_descendants", "nr_dying_descendants"] {
            assert_eq!(key(&zswap.root(), "cgroup.stat", count), 0, "{count}");
        }
    }
}

/// The whole text of a file as a number.
pub fn number(memcg: &Memcg, file: &str) -> u64 {
    memcg.read_file(file).unwrap().trim_end().parse().unwrap()
}

/// The number behind a key in a file of keys.
pub fn key(memcg: &Memcg, file: &str, key: &str) -> u64 {
    let text = memcg.read_file(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{key} in {file}: {text}")).parse().unwrap()
}

pub fn stat(memcg: &Memcg, name: &str) -> u64 {
    key(memcg, "memory.stat", name)
}

/// Write to a file; what is refused comes back as a system call's number.
pub fn write(memcg: &Memcg, file: &str, text: impl Display) -> Result<(), i32> {
    memcg.write_file(file, &format!("{text}\n")).map_err(|error| error.errno())
}

/// Write to a file that takes it.
pub fn set(memcg: &Memcg, file: &str, text: impl Display) {
    let text = format!("{text}\n");
    memcg.write_file(file, &text).unwrap_or_else(|error| panic!("{text:?} to {file}: {error}"));
}

/// How many bytes there were, by a request that was met or not.
pub fn reclaim(memcg: &Memcg, text: impl Display) -> (u64, Result<(), i32>) {
    let text = text.to_string();
    match memcg.reclaim(&text.parse().unwrap(), &zspool::memcg::Cancel::new()) {
        Ok(reclaimed) => (reclaimed.bytes, Ok(())),
        Err(error @ (Error::Again { reclaimed, .. } | Error::Interrupted { reclaimed, .. })) => {
            (reclaimed, Err(error.errno()))
        }
        Err(other) => panic!("{text}: {other}"),
    }
}

/// Pages by number that compress to about as many bytes as they have random ones.
pub struct Pattern(Page);

impl Pattern {
    pub fn new(random_bytes: usize) -> Pattern {
        let mut page = Page::zeroed();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in &mut page[..random_bytes] {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = (random >> 32) as u8;
        }
        Pattern(page)
    }

    pub fn page(&self, number: usize) -> Page {
        let mut page = self.0.clone();
        page[..8].copy_from_slice(&(number as u64 | 1 << 63).to_le_bytes());
        page
    }
}
