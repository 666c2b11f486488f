//! Address space that is refused (`ulimit -v`): while an instance is made, and while one is in use.
//!
//! Each case is this test binary once more, as a child with a limit on its address space: a fixed number of bytes beyond
//! what it has when the test begins.
#![cfg(target_os = "linux")]

use std::process::Command;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zsmalloc::{Error, Handle, HandleError, Pool};
use zspool::zswap::{self, Zswap};

/// Set in children: the bytes of address space beyond what there is.
const ROOM: &str = "ZSPOOL_TEST_ROOM";

/// The limit of this child, if it is one.
fn room() -> Option<u64> {
    Some(std::env::var(ROOM).ok()?.parse().expect("the parent sets a number"))
}

/// Allow `room` bytes of address space beyond what there is.
fn limit_address_space(room: u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let bytes = pages * PAGE_SIZE as u64 + room;
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: reads the struct, which lives on.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Run `test` in a child with that room. Returns what it printed behind "outcome: ".
#[track_caller]
fn child(test: &str, room: u64) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROOM, room.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let heard = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "with {room} bytes: {said}\n{heard}");
    let outcome = said.lines().find_map(|line| line.split_once("outcome: ")).map(|(_, outcome)| outcome.to_owned());
    outcome.unwrap_or_else(|| panic!("with {room} bytes it says no outcome: {said}"))
}

/// Whatever room there is, an instance is made that works, or an error says what to do. Both are seen.
#[track_caller]
fn sweep(test: &str) {
    let outcomes: Vec<(u64, String)> = (0..24)
        // 1 MiB to about 3 GiB.
        .map(|step| (1u64 << 20) * 2u64.pow(step / 2) * (2 + u64::from(step % 2)) / 2)
        .map(|room| (room, child(test, room)))
        .collect();
    let works = |outcome: &str| outcome == "works";
    for (room, outcome) in &outcomes {
        assert!(works(outcome) || outcome.contains("raise `ulimit -v`"), "with {room} bytes: {outcome}");
    }
    assert!(outcomes.iter().any(|(_, outcome)| !works(outcome)), "{outcomes:?}");
    let least = outcomes.iter().find(|(_, outcome)| works(outcome)).unwrap_or_else(|| panic!("{outcomes:#?}"));
    assert!(outcomes.iter().filter(|(room, _)| *room > least.0).all(|(_, outcome)| works(outcome)), "{outcomes:?}");
    println!("the first that works has {} MiB", least.0 >> 20);
}

// === a pool ===

#[test]
fn a_pool_is_built_or_says_what_to_do() {
    let Some(room) = room() else { return sweep("a_pool_is_built_or_says_what_to_do") };
    limit_address_space(room);
    match Pool::builder().build() {
        Ok(pool) => {
            let handles: Vec<Handle> = (1..=4096).map(|len| pool.insert(&vec![len as u8; len]).unwrap()).collect();
            pool.assert_valid();
            for (len, handle) in (1..).zip(handles) {
                assert_eq!(&*pool.get(handle).unwrap(), vec![len as u8; len]);
                pool.remove(handle).unwrap();
            }
            pool.close().unwrap();
            println!("outcome: works");
        }
        Err(refused) => {
            let ours = matches!(refused, HandleError::Pool(Error::Arena(_) | Error::Metadata(_)));
            println!("outcome: {refused}{}", if ours { "" } else { " (of an unexpected kind)" });
        }
    }
}

#[test]
fn a_pool_needs_no_address_space_once_it_is_made() {
    let Some(_) = room() else {
        assert_eq!(child("a_pool_needs_no_address_space_once_it_is_made", 0), "works");
        return;
    };
    let pool = Pool::builder().limit(16 << 20).address_space(256 << 20).build().unwrap();
    let bytes = vec![7; 4096];
    let mut handles: Vec<Handle> = Vec::with_capacity(10_000);
    limit_address_space(0);
    let refused = loop {
        match pool.insert(&bytes[..1 + handles.len() * 97 % 4096]) {
            Ok(handle) => handles.push(handle),
            Err(refused) => break refused,
        }
    };
    // It is the pool's limit that ends this, as it would be without the other one.
    assert!(matches!(refused, HandleError::Pool(Error::Arena(zspool::arena::Error::Limit { .. }))), "{refused}");
    for (n, &handle) in handles.iter().enumerate() {
        assert_eq!(&*pool.get(handle).unwrap(), &bytes[..1 + n * 97 % 4096]);
    }
    assert!(pool.usage().payload_bytes > 13 << 20, "{:?}", pool.usage());
    for handle in handles {
        pool.remove(handle).unwrap();
    }
    println!("outcome: works");
}

// === zswap ===

fn page(number: u64) -> Page {
    let mut page = Page::zeroed();
    for (word, k) in page[..1500].chunks_exact_mut(4).zip(0..) {
        word.copy_from_slice(&((number * 2_654_435_761 + k * 40_503) as u32).rotate_left(k as u32).to_ne_bytes());
    }
    page
}

fn assert_stored(zswap: &Zswap, slots: SlotRange, pages: impl Iterator<Item = u64>) {
    let mut back = Page::zeroed();
    for number in pages {
        zswap.load(slots.base() + number, &mut back).unwrap();
        assert!(back[..] == page(number)[..], "page {number} comes back as it was");
    }
}

#[test]
fn a_zswap_is_built_or_says_what_to_do() {
    let Some(room) = room() else { return sweep("a_zswap_is_built_or_says_what_to_do") };
    limit_address_space(room);
    match Zswap::builder().pool_limit(8 << 20).compressing_threads(2).build() {
        Ok(zswap) => {
            let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(1000).unwrap());
            for number in 0..1000 {
                zswap.store(slots.base() + number, &vm, NodeId(0), &page(number)).unwrap();
            }
            assert_stored(&zswap, slots, 0..1000);
            zswap.assert_valid();
            println!("outcome: works");
        }
        Err(refused) => println!("outcome: {refused}"),
    }
}

#[test]
fn a_zswap_that_is_made_loses_nothing_when_address_space_ends() {
    let Some(room) = room() else {
        assert_eq!(child("a_zswap_that_is_made_loses_nothing_when_address_space_ends", 0), "works");
        return;
    };
    let zswap = Zswap::builder().pool_limit(4 << 20).address_space(64 << 20).worker(false).build().unwrap();
    let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(10_000).unwrap());
    zswap.store(slots.base(), &vm, NodeId(0), &page(0)).unwrap();
    limit_address_space(room);
    let mut stored = 1;
    let refused = loop {
        match zswap.store(slots.base() + stored, &vm, NodeId(0), &page(stored)) {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, zswap::Error::PoolFull { .. }), "{refused}");
    assert_stored(&zswap, slots, 0..stored);
    zswap.assert_valid();
    println!("outcome: works");
}
