//! A region on its own, for tests of what backs it: who asks owns all pages.
#![allow(dead_code, unreachable_pub)] // each test uses some of it

use crate::uffd::*;
use std::sync::Arc;
use zspool::guest::memory::backer::{Backer, WANTED};
use zspool::guest::memory::backing::{Backing, Installed, Obstacle, TakenOut};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::uffd::{Ask, Descriptor, Event, Fault, Features};

pub const ALL: [(bool, Method); 4] =
    [(true, Method::Move), (true, Method::Protect), (false, Method::Zap), (false, Method::Protect)];

/// A region on its own: who asks owns all pages.
pub struct Bed {
    pub map: Mapped,
    pub backing: Arc<dyn Backing>,
    pub descriptor: Arc<Descriptor>,
    pub name: String,
}

impl Bed {
    /// `None` where there is no userfaultfd. `prepare` sees the memory before it is registered.
    pub fn with(
        (anonymous, method): (bool, Method),
        pages: usize,
        features: Features,
        prepare: impl FnOnce(&Mapped),
    ) -> Option<Bed> {
        let descriptor = ask(Ask { features, wanted: WANTED, nonblocking: true, ..Ask::default() })?;
        let map = if anonymous { Mapped::anonymous(pages) } else { Mapped::memfd(pages) };
        prepare(&map);
        let memory = match &map.file {
            None => Memory::anonymous(map.pointer(), map.bytes),
            Some(file) => Memory::memfd(map.pointer(), map.bytes, file, 0),
        };
        let memory = memory.method(method);
        let backer = Backer::new(descriptor.clone()).expect("a backer");
        assert_eq!(backer.method(&memory).expect("it works here"), method);
        let backing: Arc<dyn Backing> = Arc::from(backer.back(&memory).expect("a backing"));
        backing.register().expect("it is registered");
        let name = format!("{method:?} of {}", if anonymous { "anonymous memory" } else { "a memfd" });
        Some(Bed { map, backing, descriptor, name })
    }

    pub fn new(kind: (bool, Method), pages: usize) -> Option<Bed> {
        Bed::with(kind, pages, Features::empty(), |_| ())
    }

    /// With pages that hold their pattern.
    pub fn filled(kind: (bool, Method), pages: usize) -> Option<Bed> {
        Bed::with(kind, pages, Features::empty(), |map| fill(map, 0..pages))
    }

    pub fn staged(&self, page: u32) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        self.backing.copy_staged(page, &mut bytes).expect("the page is staged");
        bytes
    }

    pub fn holds(&self, page: u32, version: u64) {
        let held = read(self.map.page(page as usize));
        assert!(held == pattern(page as usize, version), "{}: page {page} is not of version {version}", self.name);
    }

    pub fn install(&self, first: u32, pages: u32, version: u64) -> Installed {
        let bytes: Vec<[u8; PAGE]> = (first..first + pages).map(|page| pattern(page as usize, version)).collect();
        self.backing.install(first, bytes.as_ptr(), pages, false)
    }

    pub fn present(&self) -> Vec<std::ops::Range<u32>> {
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        self.backing
            .present(0, (self.map.bytes / PAGE) as u32, &mut |run| match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            })
            .expect("the kernel says");
        runs
    }

    /// The fault that an access raises, which goes on when `resolve` has been called. The access runs on its own thread.
    pub fn fault<R: Send + 'static>(
        &self,
        access: impl FnOnce() -> R + Send + 'static,
        resolve: impl FnOnce(Fault),
    ) -> R {
        let thread = std::thread::spawn(access);
        let Event::Fault(fault) = next_event(&self.descriptor) else { panic!("{}: not a fault", self.name) };
        assert!(!thread.is_finished());
        resolve(fault);
        thread.join().expect("it is well")
    }
}

pub fn fill(map: &Mapped, pages: std::ops::Range<usize>) {
    for page in pages {
        write(map.page(page), &pattern(page, 0));
    }
}

pub fn all_out(pages: u32) -> TakenOut {
    TakenOut { moved: pages, obstacle: None }
}

pub fn all_in(pages: u32) -> Installed {
    Installed { pages, obstacle: None }
}

pub fn out_until(moved: u32, obstacle: Obstacle) -> TakenOut {
    TakenOut { moved, obstacle: Some(obstacle) }
}

pub fn in_until(pages: u32, obstacle: Obstacle) -> Installed {
    Installed { pages, obstacle: Some(obstacle) }
}
