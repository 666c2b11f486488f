//! The cases of the kernel's `test_zswap`, by name, through the control files; and its case of proactive writeback, which was
//! posted and not merged.
//!
//! A process that touches memory is a [`Client`] here, and the device is memory. Sizes are the kernel's, in builds without
//! optimisation a quarter of them ([`M`]). Beside its asserts, after each case everything is freed and every counter is
//! exactly 0 ([`Case::end`]).
//!
//! One difference shows in the numbers: the kernel takes a page as reclaimed when it left, though its compressed copy stays
//! charged; ours counts the bytes by which `memory.current` falls. So "all of 4M" is asked for here as what that can be.

#[path = "support/cgroup.rs"]
#[allow(dead_code, unreachable_pub)]
mod cgroup;
#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

use cgroup::*;
use client::Client;
use zspool::memcg::Memcg;

/// The kernel's "half of each page has data", for pages that do not all look alike.
fn half() -> Pattern {
    Pattern::new(2048)
}

fn write_all(client: &Client, pattern: &Pattern) {
    (0..client.len()).for_each(|k| client.write(k, &pattern.page(k)).unwrap());
}

fn assert_all(client: &Client, pattern: &Pattern) {
    (0..client.len()).for_each(|k| assert!(client.read(k).unwrap()[..] == pattern.page(k)[..], "page {k} is intact"));
}

#[test]
fn test_zswap_usage() {
    let case = Case::new("test_zswap_usage");
    set(&case.memcg, "memory.max", M);
    let before = stat(&case.memcg, "zswpout");
    let client = Client::new(&case.zswap, &case.memcg, pages(4 * M)).unwrap();
    let pattern = Pattern::new(64);
    write_all(&client, &pattern);
    assert!(stat(&case.memcg, "zswpout") > before, "pages went to zswap");
    assert!(number(&case.memcg, "memory.current") <= M && number(&case.memcg, "memory.peak") <= M);
    assert_all(&client, &pattern);
    drop(client);
    case.end();
}

#[test]
fn test_swapin_nozswap() {
    let case = Case::new("test_swapin_nozswap");
    set(&case.memcg, "memory.max", 24 * M);
    set(&case.memcg, "memory.zswap.max", "0");
    let client = Client::new(&case.zswap, &case.memcg, pages(32 * M)).unwrap();
    let pattern = Pattern::new(4096); // what shrinks would lie on the device compressed
    write_all(&client, &pattern);
    assert_all(&client, &pattern);
    assert!(number(&case.memcg, "memory.swap.peak") >= 8 * M, "{}", number(&case.memcg, "memory.swap.peak"));
    assert_eq!(stat(&case.memcg, "zswpout"), 0, "no page entered zswap");
    assert_eq!(number(&case.memcg, "memory.zswap.peak"), 0);
    assert!(number(&case.memcg, "memory.peak") <= 24 * M);
    drop(client);
    case.end();
}

#[test]
fn test_zswapin() {
    let case = Case::new("test_zswapin");
    set(&case.memcg, "memory.max", 8 * M);
    set(&case.memcg, "memory.zswap.max", "max");
    let client = Client::new(&case.zswap, &case.memcg, pages(32 * M)).unwrap();
    let pattern = Pattern::new(64);
    write_all(&client, &pattern);
    assert_all(&client, &pattern);
    assert!(stat(&case.memcg, "zswpin") >= 24 * M / PAGE, "{} pages came back", stat(&case.memcg, "zswpin"));
    drop(client);
    case.end();
}

/// Fill zswap by request, read the pages back, and ask again with half the room.
fn attempt_writeback(case: &Case, memcg: &Memcg, is_enabled: bool) {
    let size = 4 * M;
    let client = Client::new(&case.zswap, memcg, pages(size)).unwrap();
    let pattern = half();
    write_all(&client, &pattern);
    assert_eq!(number(memcg, "memory.current"), size);
    let written = stat(&case.memcg, "zswpwb");

    let (bytes, refused) = reclaim(memcg, format!("{size} source=anon"));
    let used = number(memcg, "memory.zswap.current");
    assert_eq!((client.resident(), bytes, refused), (0, size - used, Err(libc::EAGAIN)), "all of it, and it says so");
    assert_eq!(number(memcg, "memory.current"), used);
    assert!(used > size / 2, "material use of zswap");
    assert_eq!(stat(&case.memcg, "zswpwb"), written, "there was room for all");
    assert_all(&client, &pattern);
    assert_eq!(number(memcg, "memory.current"), size, "and all of them are back");

    // Now half of the pages find no room in zswap: ordinary reclaim has to write some to the device, if it may.
    set(memcg, "memory.zswap.max", used / 2);
    let most = size - used;
    let again = write(memcg, "memory.reclaim", most);
    assert_eq!(again, if is_enabled { Ok(()) } else { Err(libc::EAGAIN) });
    assert!(number(memcg, "memory.zswap.current") <= used / 2);
    if is_enabled {
        assert!(number(memcg, "memory.current") <= size - most, "success only if it is true");
        assert!(stat(&case.memcg, "zswpwb") > written);
    } else {
        assert!(number(memcg, "memory.current") > size - most, "no pages were dropped instead");
        assert_eq!(stat(&case.memcg, "zswpwb"), written);
    }
    assert_all(&client, &pattern);
    if is_enabled {
        assert_eq!(write(memcg, "memory.reclaim", size), Ok(()), "everything, for the device has room");
        assert_eq!(number(memcg, "memory.current"), 0);
        assert_all(&client, &pattern);
    }
    assert_eq!(stat(&case.memcg, "zswpwb_proactive_b"), 0, "nobody asked for writeback by name");
    drop(client);
    set(memcg, "memory.zswap.max", "max");
}

fn writeback(name: &str, is_enabled: bool) {
    let case = Case::new(name);
    set(&case.memcg, "memory.zswap.writeback", u8::from(is_enabled));
    assert_eq!(stat(&case.memcg, "zswpwb"), 0);
    attempt_writeback(&case, &case.memcg, is_enabled);
    // The parent's setting wins.
    let child = case.memcg.mkdir("child").unwrap();
    set(&child, "memory.zswap.writeback", 1);
    attempt_writeback(&case, &child, is_enabled);
    assert_eq!(stat(&child, "zswpwb") > 0, is_enabled);
    case.end();
}

#[test]
fn test_zswap_writeback_enabled() {
    writeback("test_zswap_writeback_enabled", true);
}

#[test]
fn test_zswap_writeback_disabled() {
    writeback("test_zswap_writeback_disabled", false);
}

#[test]
fn test_no_kmem_bypass() {
    // The kernel makes memory scarce, so that its background thread pushes the child's pages out. Here a thread of the host
    // reclaims from the root, with no memcg of its own.
    let case = Case::new("test_no_kmem_bypass");
    let child = case.memcg.mkdir("child").unwrap();
    let total = 16 * M;
    let client = Client::new(&case.zswap, &child, pages(total)).unwrap();
    let pattern = half();
    write_all(&client, &pattern);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| set(&case.zswap.root(), "memory.reclaim", total / 4));
        background.join().unwrap();
    });
    let stored = case.zswap.stats().pool.objects * PAGE;
    assert!(stored > total / 5, "{stored} bytes of pages are stored");
    assert_eq!(stat(&child, "zswapped"), stored, "all of them are the child's (in the kernel, all but a quarter)");
    assert_eq!(number(&child, "memory.zswap.current"), case.zswap.stats().pool.slot_bytes);
    assert_all(&client, &pattern);
    drop(client);
    case.end();
}

#[test]
fn test_no_invasive_cgroup_shrink() {
    let case = Case::new("test_no_invasive_cgroup_shrink");
    let [test, control] = ["test", "control"].map(|name| case.memcg.mkdir(name).unwrap());
    set(&test, "memory.zswap.max", 64 * M / 1024);
    set(&test, "memory.max", 32 * M);
    set(&control, "memory.max", 32 * M);
    let pattern = half();
    // Some of the control group's pages are in zswap.
    let controlled = Client::new(&case.zswap, &control, pages(10 * M)).unwrap();
    write_all(&controlled, &pattern);
    set(&control, "memory.reclaim", format!("{M} source=anon"));
    let zswapped = stat(&control, "zswapped");
    assert!(zswapped > 0);

    let client = Client::new(&case.zswap, &test, pages(64 * M)).unwrap();
    write_all(&client, &pattern);
    assert!(stat(&test, "zswpwb") > 0, "it has written its own");
    assert_eq!(stat(&control, "zswpwb"), 0, "and nobody else's");
    assert_eq!(stat(&control, "zswapped"), zswapped);
    assert!(number(&test, "memory.zswap.peak") <= 64 * M / 1024 && number(&test, "memory.peak") <= 32 * M);
    assert_all(&client, &pattern);
    drop((client, controlled));
    case.end();
}

#[test]
fn test_zswap_incompressible() {
    let case = Case::new("test_zswap_incompressible");
    let client = Client::new(&case.zswap, &case.memcg, pages(4 * M)).unwrap();
    let pattern = Pattern::new(4096);
    write_all(&client, &pattern);
    for k in 0..client.len() {
        assert_eq!(client.page_out(k).unwrap(), 0, "as large as before");
    }
    let count = client.len() as u64;
    assert_eq!(stat(&case.memcg, "zswap_incomp"), count);
    assert_eq!(case.zswap.stats().incompressible_pages, count);
    assert_eq!(number(&case.memcg, "memory.zswap.current"), 4 * M, "a page each");
    (0..client.len() / 4).for_each(|k| assert!(client.read(k).unwrap()[..] == pattern.page(k)[..]));
    assert_eq!(stat(&case.memcg, "zswap_incomp"), count * 3 / 4, "the gauge falls with those that are gone");
    drop(client);
    assert_eq!(stat(&case.memcg, "zswap_incomp"), 0);
    case.end();
}

#[test]
fn test_zswap_proactive_writeback() {
    let case = Case::new("test_zswap_proactive_writeback");
    for text in [
        "source=zswap",
        "1M source=zswap swappiness=60",
        "1M swappiness=60 source=zswap",
        "1M source=zswap swappiness=max",
        "1M swappiness=max source=zswap",
    ] {
        assert_eq!(write(&case.memcg, "memory.reclaim", text), Err(libc::EINVAL), "{text}");
    }
    let client = Client::new(&case.zswap, &case.memcg, 1024).unwrap();
    let pattern = half();
    write_all(&client, &pattern);
    (0..client.len()).for_each(|k| assert!(client.page_out(k).unwrap() > 0));
    assert_eq!((stat(&case.memcg, "zswpwb"), stat(&case.memcg, "zswpwb_proactive_b")), (0, 0));

    // A part of it, to the entry: less than one page's payload more than was asked for.
    let payload = stat(&case.memcg, "zswap_payload");
    let (bytes, met) = reclaim(&case.memcg, format!("{} source=zswap", payload / 3));
    assert_eq!(met, Ok(()));
    assert!((payload / 3..payload / 3 + PAGE).contains(&bytes), "{bytes} of {payload}");
    assert_eq!(stat(&case.memcg, "zswpwb_proactive_b"), bytes);
    assert_eq!(stat(&case.memcg, "zswap_payload"), payload - bytes);
    // As many as zswap takes: slots are larger than what is in them, so there are not that many, and everything goes.
    let all = number(&case.memcg, "memory.zswap.current");
    let (rest, refused) = reclaim(&case.memcg, format!("{all} source=zswap"));
    assert_eq!((bytes + rest, refused), (payload, Err(libc::EAGAIN)));
    assert_eq!(stat(&case.memcg, "zswpwb_proactive_b"), payload);
    assert_eq!(stat(&case.memcg, "zswpwb"), 1024);
    assert_eq!((number(&case.memcg, "memory.current"), stat(&case.memcg, "zswpwb_bytes")), (0, payload));
    assert_all(&client, &pattern);
    // Writeback that is forbidden cannot be asked for.
    set(&case.memcg, "memory.zswap.writeback", 0);
    assert_eq!(write(&case.memcg, "memory.reclaim", "1M source=zswap"), Err(libc::EINVAL));
    drop(client);
    case.end();
}
