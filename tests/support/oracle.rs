//! [`Oracle`]: a client that keeps a checksum of every page it has stored, and so knows what a fault has cost.
//!
//! ```text
//!   fill -> churn -> verify(Nothing) -> STRIKE -> churn -> verify(cost) -> HEAL -> settle -> churn -> verify(Nothing) -> finish
//! ```
//!
//! Held at every moment: a load gives the page that was stored, or an error that names the slot; an error only for a page whose
//! one copy is on a device; a page reported lost stays lost until the slot is freed or stored to; a store that is refused leaves
//! nothing behind. `verify` reads everything, checks the instance's invariants and compares what was lost with what the fault may
//! cost.
//!
//! The slots are divided among threads, each of which knows what its own hold.
#![allow(dead_code, unreachable_pub)]

use super::support::{Random, any_page};
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Error, Installed, Taken, Zswap};

const N0: NodeId = NodeId(0);

/// Pages of many kinds, made once; a number in their first bytes makes each that is stored another one.
static STOCK: LazyLock<Vec<Page>> = LazyLock::new(|| (0..256).map(any_page).collect());

/// The page of a number. One in so many keeps its repeated word.
fn page_of(number: u64) -> Page {
    let stock = &STOCK[(number % STOCK.len() as u64) as usize];
    let mut page = Page::zeroed();
    page.copy_from_slice(&stock[..]);
    let same_filled = stock.chunks_exact(8).all(|word| word == &stock[..8]);
    if !same_filled {
        page[..8].copy_from_slice(&number.to_le_bytes());
    }
    page
}

/// What may have become of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Every page comes back.
    Nothing,
    /// Pages that lie on a device alone may be gone: so many at most.
    OnDevice(u64),
}

/// What a slot holds, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Page {
        sum: u64,
        count: u32,
    },
    /// Reading it failed for good.
    Lost {
        count: u32,
    },
}

/// One thread's slots.
#[derive(Debug)]
struct Client {
    slots: Vec<Slot>,
    holds: Vec<Holds>,
    memcg: Memcg,
    random: Random,
    next: u64,
    tally: Tally,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages stored.
    pub stored: u64,
    /// Stores refused for a limit.
    pub refused: u64,
    /// Loads that gave the page.
    pub loaded: u64,
    /// Loads that failed, whether or not another one succeeded later.
    pub failed_loads: u64,
    /// Pages that are lost.
    pub lost: u64,
}

/// See the file.
#[derive(Debug)]
pub struct Oracle {
    pub zswap: Zswap,
    pub title: String,
    clients: Vec<Client>,
}

/// Whether the error says that the page is gone for good.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Lost { .. })
}

// === impl Client ===

impl Client {
    fn store(&mut self, zswap: &Zswap, k: usize) {
        self.next += 1;
        let page = page_of(self.next);
        self.holds[k] = match zswap.store(self.slots[k], &self.memcg, N0, &page) {
            Ok(_) => {
                self.tally.stored += 1;
                Holds::Page { sum: xxh3_64(&page[..]), count: 1 }
            }
            Err(Error::Limit { .. } | Error::PoolFull { .. }) => {
                self.tally.refused += 1;
                assert!(!zswap.is_stored(self.slots[k]), "a refused store leaves nothing in the slot");
                Holds::Nothing
            }
            Err(other) => panic!("a store is refused by {other}"),
        };
    }

    /// The page must be the one that was stored; an error must be one of a page that only a device has.
    fn check(&mut self, zswap: &Zswap, k: usize, page: Result<&[u8], Error>) {
        let slot = self.slots[k];
        match (page, self.holds[k]) {
            (Ok(page), Holds::Page { sum, .. }) => {
                assert!(xxh3_64(page) == sum, "slot {} came back as another page", slot.0);
                self.tally.loaded += 1;
            }
            (Err(Error::NotStored { .. }), Holds::Nothing) => {}
            (Err(error), Holds::Page { count, .. } | Holds::Lost { count }) => {
                self.tally.failed_loads += 1;
                let words: Vec<_> = error.to_string().split(|c: char| !c.is_ascii_digit()).map(str::to_owned).collect();
                assert!(words.contains(&slot.0.to_string()), "the error does not name slot {}: {error}", slot.0);
                let lost = matches!(self.holds[k], Holds::Lost { .. });
                assert!(!lost || is_final(&error), "slot {} is lost, and a load of it says {error}", slot.0);
                // What has another copy is read from there.
                let mut page = Page::zeroed();
                let again = zswap.try_load(slot, &mut page);
                assert!(
                    matches!(again, Err(Error::NeedsIo { .. })) || again.as_ref().is_err_and(is_final),
                    "slot {} lies on no device, and a load of it says {error}; then {again:?}",
                    slot.0
                );
                if is_final(&error) && !lost {
                    self.tally.lost += 1;
                    self.holds[k] = Holds::Lost { count };
                }
            }
            (Ok(_), holds) => panic!("slot {} gives a page, and holds {holds:?}", slot.0),
            (Err(error), holds) => panic!("slot {}, which holds {holds:?}: {error}", slot.0),
        }
    }

    fn load(&mut self, zswap: &Zswap, k: usize) {
        let mut page = Page::zeroed();
        let loaded = zswap.load(self.slots[k], &mut page);
        self.check(zswap, k, loaded.map(|()| &page[..]));
    }

    /// Several at once.
    fn load_run(&mut self, zswap: &Zswap, k: usize, n: usize) {
        let n = n.min(self.slots.len() - k);
        let mut pages = vec![[0; 4096]; n];
        let (done, result) = zswap.load_run(self.slots[k], &mut pages);
        for (i, page) in pages.iter().enumerate().take(done) {
            self.check(zswap, k + i, Ok(&page[..]));
        }
        match result {
            Ok(()) => assert_eq!(done, n, "all or an error"),
            Err(error) => self.check(zswap, k + done, Err(error)),
        }
    }

    fn take(&mut self, zswap: &Zswap, k: usize) {
        let mut copy = Page::zeroed();
        let taken = zswap.take_with(self.slots[k], |page| {
            copy.copy_from_slice(page);
            Installed::Yes
        });
        match taken {
            Ok(taken) => {
                self.check(zswap, k, Ok(&copy[..]));
                // Writeback and cleaning may move it meanwhile; nobody else may.
                assert!(matches!(taken, Taken::Freed | Taken::Changed), "slot {} is {taken:?}", self.slots[k].0);
                if taken == Taken::Freed {
                    self.dropped(k);
                }
            }
            Err(error) => self.check(zswap, k, Err(error)),
        }
    }

    /// A reference went.
    fn dropped(&mut self, k: usize) {
        let left = |count: u32| count - 1;
        self.holds[k] = match self.holds[k] {
            Holds::Page { sum, count } if count > 1 => Holds::Page { sum, count: left(count) },
            Holds::Lost { count } if count > 1 => Holds::Lost { count: left(count) },
            Holds::Page { .. } => Holds::Nothing,
            Holds::Lost { .. } => {
                self.tally.lost -= 1;
                Holds::Nothing
            }
            Holds::Nothing => panic!("nothing was dropped of slot {}", self.slots[k].0),
        };
    }

    fn dup(&mut self, zswap: &Zswap, k: usize) {
        let result = zswap.dup(self.slots[k]);
        match &mut self.holds[k] {
            Holds::Nothing => assert!(matches!(result, Err(Error::NotStored { .. })), "{result:?}"),
            Holds::Page { count, .. } | Holds::Lost { count } => match result {
                Ok(now) => {
                    *count += 1;
                    assert_eq!(u64::from(now), u64::from(*count), "references of slot {}", self.slots[k].0);
                }
                Err(Error::TooManyReferences { .. }) => assert!(*count >= 15),
                Err(other) => panic!("{other}"),
            },
        }
    }

    fn put(&mut self, zswap: &Zswap, k: usize) {
        let result = zswap.put(self.slots[k]);
        if self.holds[k] == Holds::Nothing {
            assert!(matches!(result, Err(Error::NotStored { .. })), "{result:?}");
        } else {
            result.expect("a slot that holds something");
            self.dropped(k);
        }
    }

    fn free(&mut self, zswap: &Zswap, k: usize) {
        let held = std::mem::replace(&mut self.holds[k], Holds::Nothing);
        self.tally.lost -= u64::from(matches!(held, Holds::Lost { .. }));
        assert_eq!(zswap.free(self.slots[k]), held != Holds::Nothing, "slot {} held {held:?}", self.slots[k].0);
    }

    fn step(&mut self, zswap: &Zswap) {
        let k = self.random.below(self.slots.len() as u64) as usize;
        match self.random.below(100) {
            0..=39 => {
                self.tally.lost -= u64::from(matches!(self.holds[k], Holds::Lost { .. }));
                self.store(zswap, k);
            }
            40..=69 => self.load(zswap, k),
            70..=73 => self.load_run(zswap, k, 16),
            74..=83 => self.free(zswap, k),
            84..=88 => self.dup(zswap, k),
            89..=92 => self.put(zswap, k),
            93..=97 => self.take(zswap, k),
            98 => _ = zswap.shrink_memcg(&self.memcg, 64),
            _ => _ = self.memcg.write_file("memory.reclaim", "32K source=zswap"), // as far as it goes
        }
    }
}

// === impl Oracle ===

impl Oracle {
    /// A client of `slots` slots in each of `threads` threads, each with a memcg of its own.
    pub fn new(title: impl Into<String>, zswap: Zswap, threads: u64, slots: u64, seed: u64) -> Self {
        let clients = (0..threads).map(|thread| {
            let range: SlotRange = zswap.reserve(slots).expect("so many slots");
            Client {
                slots: range.iter().collect(),
                holds: vec![Holds::Nothing; slots as usize],
                memcg: zswap.root().mkdir(&format!("client{thread}")).expect("a new name"),
                random: Random::new(seed * 64 + thread),
                next: (seed * 64 + thread) << 24,
                tally: Tally::default(),
            }
        });
        let clients = clients.collect();
        Oracle { zswap, title: title.into(), clients }
    }

    /// What happened so far, in all threads.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for Client { tally, .. } in &self.clients {
            sum.stored += tally.stored;
            sum.refused += tally.refused;
            sum.loaded += tally.loaded;
            sum.failed_loads += tally.failed_loads;
            sum.lost += tally.lost;
        }
        sum
    }

    fn each(&mut self, act: impl Fn(&Zswap, &mut Client) + Sync) {
        let (zswap, act) = (&self.zswap, &act);
        if let [client] = &mut self.clients[..] {
            return act(zswap, client); // on this thread: a filter of system calls may hold for it alone
        }
        std::thread::scope(|scope| {
            for client in &mut self.clients {
                scope.spawn(move || act(zswap, client));
            }
        });
    }

    /// Store to every slot.
    pub fn fill(&mut self) {
        self.each(|zswap, client| (0..client.slots.len()).for_each(|k| client.store(zswap, k)));
    }

    /// Empty two slots of three, and have storage of devices given back.
    pub fn thin_out(&mut self) {
        self.each(|zswap, client| (0..client.slots.len()).filter(|k| k % 3 > 0).for_each(|k| client.free(zswap, k)));
        self.zswap.quiesce();
    }

    /// So many operations in each thread.
    pub fn churn(&mut self, steps: usize) {
        self.each(|zswap, client| (0..steps).for_each(|_| client.step(zswap)));
    }

    /// Everything is read, every invariant holds, and no more was lost than may be.
    pub fn verify(&mut self, cost: Cost) -> Tally {
        let before = self.tally();
        self.each(|zswap, client| (0..client.slots.len()).for_each(|k| client.load(zswap, k)));
        self.zswap.assert_valid();
        let tally = self.tally();
        match cost {
            Cost::Nothing => {
                let failed = tally.failed_loads - before.failed_loads;
                assert_eq!((tally.lost, failed), (0, 0), "{}: nothing may be lost: {tally:?}", self.title);
            }
            Cost::OnDevice(most) => {
                assert!(tally.lost <= most, "{}: {} pages are lost, more than {most}", self.title, tally.lost);
            }
        }
        tally
    }

    /// Free what is known to be lost.
    pub fn settle(&mut self) {
        self.each(|zswap, client| {
            let lost = |client: &Client, k: usize| matches!(client.holds[k], Holds::Lost { .. });
            (0..client.slots.len()).for_each(|k| {
                if lost(client, k) {
                    client.free(zswap, k)
                }
            });
        });
    }

    /// Free everything: nothing is left, and nothing is charged.
    pub fn finish(mut self) -> Tally {
        let tally = self.tally();
        self.each(|zswap, client| (0..client.slots.len()).for_each(|k| client.free(zswap, k)));
        self.zswap.quiesce();
        self.zswap.assert_valid();
        let stats = self.zswap.stats();
        assert_eq!((stats.pool.objects, stats.pool.payload_bytes), (0, 0), "{}", self.title);
        let gauges = [stats.same_filled_pages, stats.pattern_pages, stats.compressed_pages, stats.physical_pages];
        assert_eq!(gauges, [0; 4], "{}", self.title);
        if let Some(area) = stats.area {
            assert_eq!((area.objects, area.live_bytes), (0, 0), "{}", self.title);
        }
        assert_eq!(self.zswap.root().usage(), 0, "{}", self.title);
        tally
    }
}
