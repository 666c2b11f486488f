//! What integration tests share: pages of many kinds, and a way to skip aloud.
#![allow(dead_code, unreachable_pub, unused_macros)] // each test binary uses a part of this one

use zspool::units::Page;

/// All of `Device` but `submit`, as the device in this field does it: for one that does something before each request.
macro_rules! rest_of_device {
    ($inner:ident) => {
        fn complete(&self, requests: &mut [zspool::swap::Request]) {
            self.$inner.complete(requests);
        }
        fn complete_by(&self, requests: &mut [zspool::swap::Request], deadline: zspool::sync::Deadline) {
            self.$inner.complete_by(requests, deadline);
        }
        fn poll(&self, request: &mut zspool::swap::Request) {
            self.$inner.poll(request);
        }
        fn timeout(&self) -> Option<std::time::Duration> {
            self.$inner.timeout()
        }
        fn punch(&self, range: std::ops::Range<u64>) -> std::io::Result<()> {
            self.$inner.punch(range)
        }
        fn len_bytes(&self) -> u64 {
            self.$inner.len_bytes()
        }
        fn block_bytes(&self) -> usize {
            self.$inner.block_bytes()
        }
        fn file_system(&self) -> Option<u64> {
            self.$inner.file_system()
        }
        fn free_bytes(&self) -> std::io::Result<u64> {
            self.$inner.free_bytes()
        }
        fn name(&self) -> &str {
            self.$inner.name()
        }
    };
}
#[allow(unused_imports)]
pub(crate) use rest_of_device;

/// A small generator, so that a failing test can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The kinds of pages that real memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Zero,
    /// One repeated word that fits in a slot word.
    SmallPattern,
    /// One repeated word that does not.
    LargePattern,
    /// This many random bytes, then text: compresses to about as many.
    Mixed(usize),
    /// Nothing to compress.
    Random,
}

/// The page of a kind that a number names; equal numbers make equal pages.
pub fn page_of(kind: Kind, number: u64) -> Page {
    let mut page = Page::zeroed();
    let mut random = Random::new(number ^ 0xabcd);
    match kind {
        Kind::Zero => {}
        Kind::SmallPattern => fill(&mut page, number & 0xffff),
        Kind::LargePattern => fill(&mut page, 0x7f00_0000_0000_0000 | number),
        Kind::Mixed(bytes) => {
            let (head, tail) = page.split_at_mut(bytes);
            head.iter_mut().for_each(|b| *b = random.next() as u8);
            let text = number.to_le_bytes();
            tail.iter_mut().enumerate().for_each(|(i, b)| *b = if i % 64 < 8 { text[i % 8] } else { b' ' });
        }
        Kind::Random => page.iter_mut().for_each(|b| *b = random.next() as u8),
    }
    page
}

fn fill(page: &mut Page, word: u64) {
    for chunk in page.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}

/// A page of a mixed population: some zero, some patterns, some random, most compressible.
pub fn any_page(number: u64) -> Page {
    let mut random = Random::new(number);
    let kind = match random.below(16) {
        0 => Kind::Zero,
        1 => Kind::SmallPattern,
        2 => Kind::LargePattern,
        3 => Kind::Random,
        _ => Kind::Mixed(64 + random.below(2500) as usize),
    };
    page_of(kind, number)
}

/// A page that has to go to the pool and compresses to a bit over `bytes`.
pub fn compressible(number: u64, bytes: usize) -> Page {
    page_of(Kind::Mixed(bytes), number)
}

/// Say that a test could not run here, and why. Skips are collected and held against a list in CI.
pub fn skip(test: &str, why: &str) {
    eprintln!("{test}: skipped: {why}");
    if let Some(log) = std::env::var_os("ZSPOOL_SKIP_LOG") {
        use std::io::Write as _;
        let mut log =
            std::fs::File::options().append(true).create(true).open(log).expect("the skip log can be written");
        writeln!(log, "{test}: {why}").expect("the skip log can be written");
    }
}

/// Run `body` on a thread of its own, and fail where it takes so long that somebody must wait for ever: a lost wake-up is a failure and
/// not a hang.
///
/// # Panics
/// As `body`; and after two minutes.
pub fn watched<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || done.send(body()));
    match result.recv_timeout(std::time::Duration::from_secs(120)) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("still not done after two minutes"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}
