//! Real time-outs: a file system that is frozen under a swapfile, with io_uring, without it, and buffered.

#[path = "support/fault_bed.rs"]
mod fault_bed;
mod support;

use fault_bed::{MIB, Mounted};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use support::*;
use zspool::swap::{State, SwapFile};
use zspool::units::{NodeId, Page};
use zspool::zswap::{Shrunk, Zswap};

const TIMEOUT: Duration = Duration::from_millis(500);

/// A file system that is frozen as long as this lives.
struct Frozen(std::fs::File);

impl Frozen {
    fn new(mounted: &Mounted) -> Self {
        const FIFREEZE: libc::c_ulong = 0xc004_5877;
        let folder = std::fs::File::open(mounted.path()).unwrap();
        // SAFETY: it takes no memory.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), FIFREEZE as _, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        Frozen(folder)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        const FITHAW: libc::c_ulong = 0xc004_5878;
        // SAFETY: as above.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), FITHAW as _, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

/// From now on `io_uring_setup` is refused on this thread and those that it starts.
fn refuse_io_uring() {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let (equal, answer) = ((libc::BPF_JMP | libc::BPF_JEQ) as u16, (libc::BPF_RET | libc::BPF_K) as u16);
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = [
        step(load, 0, 0, 0),
        step(equal, 0, 1, libc::SYS_io_uring_setup as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: it takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and the filter that it names outlive the call, which copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) }, 0);
}

fn page(k: u64) -> Page {
    compressible(k, 300 + k as usize % 900)
}

fn freeze_under(name: &str, direct: bool) {
    let mounted = match Mounted::ext4(64 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip(name, &why),
    };
    let options = SwapFile::options().path(mounted.path().join("swap")).size(16 * MIB).direct(direct).timeout(TIMEOUT);
    let builder = Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 13).address_space(64 << 20).worker(false);
    let zswap = builder.device(options.open().unwrap()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots: Vec<_> = zswap.reserve(300).unwrap().iter().collect();
    (0..300).for_each(|k| _ = zswap.store(slots[k as usize], &vm, NodeId(0), &page(k)).unwrap());
    let check = || {
        let mut back = Page::zeroed();
        for (k, &slot) in slots.iter().enumerate() {
            zswap.load(slot, &mut back).unwrap();
            assert!(back[..] == page(k as u64)[..], "{k}");
        }
    };
    assert!(matches!(zswap.shrink_memcg(&vm, 100), Shrunk::Written(_)));
    let written = zswap.stats().physical_pages;

    let frozen = Frozen::new(&mounted);
    let began = Instant::now();
    assert!(!matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT * 20, "{took:?}");
    let row = &zswap.devices()[0];
    assert_eq!((row.state, row.area.timeouts), (State::Hung, 1));
    assert!(row.area.quarantined_bytes > 0);
    // It is not asked again, and everything is there still: what is on the disk can be read.
    let began = Instant::now();
    assert!(!matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
    assert!(began.elapsed() < TIMEOUT);
    check();
    assert_eq!(zswap.stats().physical_pages, written);
    zswap.assert_valid();
    assert_eq!(zswap.devices()[0].state, State::Hung);

    drop(frozen);
    let began = Instant::now();
    while zswap.devices()[0].state != State::On {
        assert!(began.elapsed() < Duration::from_secs(30), "the write comes to its end when the disk does");
        zswap.quiesce();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(zswap.devices()[0].area.quarantined_bytes, 0);
    let _ = zswap.shrink_memcg(&vm, 300);
    assert!(matches!(zswap.shrink_memcg(&vm, 300), Shrunk::Written(_)));
    check();
    zswap.assert_valid();
    drop(zswap);
}

#[test]
fn a_disk_that_stands_still_under_io_uring() {
    freeze_under("a_disk_that_stands_still_under_io_uring", true);
}

#[test]
fn a_disk_that_stands_still_under_plain_calls() {
    let test = || {
        refuse_io_uring();
        freeze_under("a_disk_that_stands_still_under_plain_calls", true);
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn a_disk_that_stands_still_under_buffered_calls() {
    freeze_under("a_disk_that_stands_still_under_buffered_calls", false);
}

#[test]
fn an_instance_may_end_while_its_disk_stands_still() {
    const NAME: &str = "an_instance_may_end_while_its_disk_stands_still";
    for direct in [true, false] {
        let mounted = match Mounted::ext4(64 * MIB) {
            Ok(mounted) => mounted,
            Err(why) => return skip(NAME, &why),
        };
        // A file without a name: removing one would wait for the disk.
        let options = SwapFile::options().unnamed(mounted.path()).size(16 * MIB).direct(direct).timeout(TIMEOUT);
        let zswap = Zswap::builder().worker(false).device(options.open().unwrap()).build().unwrap();
        let slots = zswap.reserve(64).unwrap();
        slots.iter().for_each(|slot| _ = zswap.store(slot, &zswap.root(), NodeId(0), &page(slot.0)).unwrap());
        let frozen = Frozen::new(&mounted);
        assert!(!matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)));
        assert_eq!(zswap.devices()[0].state, State::Hung);
        let began = Instant::now();
        drop(zswap);
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(frozen);
        // Whoever still has the file lets go of it when the write is over; then the file system can be unmounted.
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn what_the_kernel_refuses_is_shown_and_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SwapFile::options().path(folder.path().join("swap")).size(4 * MIB).open().unwrap();
    let describe = |file: &SwapFile| zspool::swap::Device::describe(file);
    let (file, without) = (open(), || describe(&open()));
    if !file.is_direct() {
        return skip("what_the_kernel_refuses_is_shown_and_done_without", "this file system has no direct I/O");
    }
    let with = describe(&file);
    drop(file);
    let refused = std::thread::scope(|scope| scope.spawn(|| (refuse_io_uring(), without()).1).join().unwrap());
    assert!(refused.contains("without io_uring (Operation not permitted"), "{refused}");
    assert!(with.contains("by io_uring") || with.contains("without io_uring"), "{with}");
}
