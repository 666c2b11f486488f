//! A device where address space is short. In a process of its own, for the limit is the process's.

mod support;

use support::*;
use zspool::units::Page;
use zspool::zram::{Error, Zram};

/// Let this process have `more` bytes of address space beyond what it has now.
fn limit_address_space(more: u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says how large a process is");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("it has the line");
    let now = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10;
    let limit = libc::rlimit { rlim_cur: now + more, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call reads one `rlimit`, which `limit` is.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
    assert_eq!(result, 0, "a process may lower its own limit");
}

#[test]
fn a_table_without_address_space_is_refused_and_a_small_device_is_not() {
    limit_address_space(256 << 20);
    let refused = Zram::builder().disksize(1 << 40).build().unwrap_err();
    assert!(matches!(refused, Error::Table { bytes: 4_294_967_296, .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("raise `ulimit -v` or make the device smaller"), "{text}");

    // Whatever is left: frames take powers of two of it, and metadata has to fit beside them.
    for more in (100..300).step_by(10) {
        limit_address_space(more << 20);
        let zram =
            Zram::builder().disksize(16 << 20).build().unwrap_or_else(|error| panic!("with {more} MiB: {error}"));
        zram.store(1, &any_page(1)).unwrap();
    }
    limit_address_space(256 << 20);
    let zram = Zram::builder().disksize(16 << 20).build().expect("the pool takes as much as there is");
    let mut page = Page::zeroed();
    (0..500).for_each(|block| assert!(zram.store(block, &any_page(block)).is_ok()));
    for block in 0..500 {
        zram.load(block, &mut page).unwrap();
        assert!(page[..] == any_page(block)[..]);
    }
}
