//! The watch for pressure: the kernel's own triggers, events of an embedder's, and what is refused.

mod support;

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use support::*;
use zspool::swap::MemoryDevice;
use zspool::units::NodeId;
use zspool::zswap::{PressureError, PressureWatch, Trigger, Zswap};

const WINDOW: Duration = Duration::from_secs(2);

/// An instance with `pages` pages of noise.
fn filled(pages: u64) -> Zswap {
    let zswap = Zswap::builder()
        .pool_limit(32 << 20)
        .slots_in_use(1 << 14)
        .address_space(128 << 20)
        .device(MemoryDevice::new(32 << 20, 4096))
        .worker(false)
        .build()
        .unwrap();
    for slot in zswap.reserve(pages).unwrap().iter() {
        zswap.store(slot, &zswap.root(), NodeId(0), &page_of(Kind::Random, slot.0)).unwrap();
    }
    zswap
}

fn wait_until(what: &str, most: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + most;
    while !done() {
        assert!(Instant::now() < deadline, "waited {most:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A watch of one of the kernel's files; `None`, aloud, where it tells no pressure or lets nobody set triggers.
fn kernels(test: &str, zswap: &Zswap, trigger: Trigger) -> Option<PressureWatch> {
    match PressureWatch::start(zswap, trigger) {
        Ok(watch) => Some(watch),
        Err(error @ (PressureError::NoPsi { .. } | PressureError::Denied { .. })) => {
            skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_watch_of_the_systems_memory_starts_and_stops() {
    let zswap = filled(10);
    let test = "a_watch_of_the_systems_memory_starts_and_stops";
    let Some(watch) = kernels(test, &zswap, Trigger::default()) else { return };
    assert!(watch.is_watching());
    let start = Instant::now();
    drop(watch);
    assert!(start.elapsed() < WINDOW, "its thread does not sleep until the next event");
    // Another, of the same file: each has a trigger of its own.
    let watches: Vec<_> = (0..2).filter_map(|_| kernels(test, &zswap, Trigger::full(WINDOW / 2, WINDOW))).collect();
    assert!(watches.iter().all(PressureWatch::is_watching));
}

/// Nobody wants to be short of memory for a test; of processors it costs nothing.
#[test]
fn what_the_kernel_signals_is_answered() {
    let zswap = filled(1000);
    let trigger = Trigger::some(Duration::from_millis(20), WINDOW).at("/proc/pressure/cpu");
    let Some(watch) = kernels("what_the_kernel_signals_is_answered", &zswap, trigger) else { return };
    let deadline = Instant::now() + 10 * WINDOW;
    std::thread::scope(|s| {
        for _ in 0..3 * std::thread::available_parallelism().map_or(1, usize::from) {
            s.spawn(|| while watch.events() == 0 && Instant::now() < deadline {});
        }
    });
    assert!(watch.events() > 0, "three times as many threads as processors, and no event in ten windows");
    assert_eq!(watch.won_bytes().min(256 * 4096), 256 * 4096, "a MiB at the first event");
    assert!(zswap.stats().physical_pages >= 256);
}

#[test]
fn events_of_ones_own_are_answered_by_more_while_they_keep_coming() {
    let zswap = filled(2000);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let quiet = Duration::from_secs(60);
    let watch = PressureWatch::on_events(&zswap, OwnedFd::from(reader), quiet).unwrap();
    for (answered, pages) in [(1, 256), (2, 256 + 512), (3, 256 + 512 + 1024)] {
        writer.write_all(b"!").unwrap();
        wait_until("an answer", quiet, || watch.events() == answered);
        assert_eq!(watch.won_bytes(), pages * 4096);
        assert_eq!(zswap.stats().physical_pages, pages);
    }
    assert!(watch.is_watching());
    drop(writer);
    wait_until("the end of the pipe", quiet, || !watch.is_watching());
    assert_eq!(watch.events(), 3);
}

#[test]
fn after_a_quiet_time_little_is_asked_for_again() {
    let zswap = filled(2000);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let watch = PressureWatch::on_events(&zswap, OwnedFd::from(reader), Duration::from_millis(20)).unwrap();
    for (answered, pages) in [(1, 256), (2, 512), (3, 768)] {
        writer.write_all(b"!").unwrap();
        wait_until("an answer", Duration::from_secs(60), || watch.events() == answered);
        assert_eq!(watch.won_bytes(), pages * 4096);
        std::thread::sleep(Duration::from_millis(500)); // far more than the quiet time
    }
}

#[test]
fn a_watch_that_is_dropped_ends_at_once() {
    let zswap = filled(10);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let watch = PressureWatch::on_events(&zswap, OwnedFd::from(reader), Duration::from_secs(600)).unwrap();
    writer.write_all(b"!").unwrap();
    wait_until("an answer", Duration::from_secs(60), || watch.events() == 1);
    let start = Instant::now();
    drop(watch); // it waits for the quiet time
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(
        writer.write_all(b"!").unwrap_err().kind(),
        std::io::ErrorKind::BrokenPipe,
        "its end of the pipe is closed"
    );
}

#[test]
fn what_cannot_be_watched_is_refused_with_advice() {
    let zswap = filled(1);
    let refused = |trigger: Trigger| PressureWatch::start(&zswap, trigger).map(drop).unwrap_err();
    let error = refused(Trigger::default().at("/nowhere/memory.pressure"));
    assert!(matches!(error, PressureError::NoPsi { .. }) && error.to_string().contains("psi=1"), "{error}");

    let precious = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(precious.path(), "some other text").unwrap();
    let error = refused(Trigger::default().at(precious.path()));
    assert!(matches!(error, PressureError::NotPressure { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(precious.path()).unwrap(), "some other text");

    if !Path::new("/proc/pressure/memory").exists() {
        return skip("what_cannot_be_watched_is_refused_with_advice", "this kernel tells no pressure");
    }
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    // Too short for anybody; too long; a stall longer than its window; none.
    for (stall, window) in [(ms(1), ms(100)), (ms(150), s(20)), (s(4), s(2)), (ms(0), s(2))] {
        let error = refused(Trigger::some(stall, window));
        if let PressureError::Denied { .. } | PressureError::NoPsi { .. } = error {
            return skip("what_cannot_be_watched_is_refused_with_advice", &error.to_string());
        }
        let text = error.to_string();
        assert!(matches!(error, PressureError::Refused { .. }), "{stall:?} in {window:?}: {text}");
        assert!(text.contains(&format!("some {} {}", stall.as_micros(), window.as_micros())), "{text}");
        assert!(text.contains("CAP_SYS_RESOURCE"), "{text}");
    }
}
