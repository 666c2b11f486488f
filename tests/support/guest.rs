//! Guest memory for tests: a mapping, accesses that bring their page in, a watchdog, and somebody who looks from outside.

#[path = "served.rs"]
mod served;

use served::words;
pub(crate) use served::{Mapping, PAGE};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zspool::guest::{Pin, Region, Vm};

/// A guest. Unless faults are served, it accesses by way of a call: the page is brought in and kept while it is used, as a device does it.
pub(crate) struct Guest {
    // Dropped first: what is registered is still there.
    region: Option<Region>,
    pub(crate) mapping: Mapping,
    /// Touched as it is: faults are served.
    direct: bool,
}

impl Guest {
    pub(crate) fn new(vm: &Vm, pages: usize) -> Guest {
        let mapping = Mapping::new(pages);
        Guest { region: Some(mapping.register(vm)), mapping, direct: false }
    }

    /// One whose faults are served in the thread that touches it.
    pub(crate) fn served(vm: &Vm, pages: usize) -> Guest {
        Guest { direct: true, ..Guest::new(vm, pages) }
    }

    fn hold(&self, page: usize) -> Option<Pin<'_>> {
        (!self.direct).then(|| self.region().pin(page * PAGE..(page + 1) * PAGE).unwrap())
    }

    pub(crate) fn region(&self) -> &Region {
        self.region.as_ref().expect("until it is dropped")
    }

    /// Write a page that compresses to an eighth, and says which it is and in which version.
    pub(crate) fn write(&self, page: usize, version: u64) {
        let _pin = self.hold(page);
        for (k, word) in words(page, version, 16).enumerate() {
            // SAFETY: pinned or served, inside the mapping; tests give each page to one thread at a time.
            unsafe { self.mapping.at(page).wrapping_add(k).write_volatile(word) };
        }
    }

    /// Read a page and check it.
    pub(crate) fn check(&self, page: usize, version: u64) {
        let _pin = self.hold(page);
        for (k, word) in words(page, version, 16).enumerate() {
            // SAFETY: as above.
            let found = unsafe { self.mapping.at(page).wrapping_add(k).read_volatile() };
            assert_eq!(found, word, "word {k} of page {page}");
        }
    }

    /// Bring everything back and check it.
    pub(crate) fn unregister(mut self) {
        self.region.take().unwrap().unregister().map_err(|(_, error)| error).unwrap();
    }
}

/// A hang is a failure. One test at a time: they look at the memory of the process.
pub(crate) fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
    served::within_a_minute(test);
}

/// Looks again and again at a number from a thread of its own, and keeps the largest.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    looks: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn over(look: impl Fn() -> u64 + Send + 'static) -> Watch {
        let (stop, most, looks) =
            (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let thread = {
            let (stop, most, looks) = (Arc::clone(&stop), Arc::clone(&most), Arc::clone(&looks));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(look(), Ordering::Relaxed);
                    looks.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(200)); // who is watched shares the cores
                }
            })
        };
        Watch { stop, most, looks, thread: Some(thread) }
    }

    /// The most it was, in so many looks.
    pub(crate) fn most(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        (self.most.load(Ordering::Relaxed), self.looks.load(Ordering::Relaxed))
    }
}

/// Anonymous memory of this process, in bytes.
pub(crate) fn rss_anon() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Pages, in a random order that is always the same.
pub(crate) fn shuffled(pages: Range<usize>, seed: u64) -> Vec<usize> {
    let (mut order, mut x): (Vec<_>, _) = (pages.collect(), seed * 2 + 1);
    for k in (1..order.len()).rev() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(k, ((x >> 33) as usize) % (k + 1));
    }
    order
}
