//! Pages that are staged in place, and what whoever has the memory does to them there.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;

use served::*;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, Region, Vm, VmOptions};
use zspool::zswap::Zswap;

/// Memory whose pages are staged in place: in each way there is.
fn staged_in_place(test: impl Fn(&Mapping, Memory, Option<&std::os::fd::OwnedFd>)) {
    use zspool::guest::memory::Method;
    for method in [Method::Protect, Method::Zap] {
        let (mapping, file) = memfd(400);
        test(&mapping, Memory::memfd(mapping.at(0).cast(), mapping.bytes, &file, 0).method(method), Some(&file));
    }
    let mapping = Mapping::new(400);
    test(&mapping, mapping.memory().method(Method::Protect), None);
}

/// With pages staged, which is seen to: how many are. Of `clean` ones there are equal copies in their slots.
fn with_staged(mapping: &Mapping, memory: Memory, clean: bool, then: impl FnOnce(&Vm, &Region, usize)) {
    mapping.write(0..400, 1);
    let zswap = Zswap::builder().pool_limit(64 << 20).build().unwrap();
    let engine = Engine::builder(zswap).evictor(false).build().unwrap();
    let memcg = engine.root().mkdir("vm").unwrap();
    memcg.set_max(zspool::memcg::Counter::Memory, mapping.bytes as u64).unwrap();
    let vm = engine.vm(&memcg, VmOptions::new().kept_bytes(if clean { 4 << 20 } else { 0 })).unwrap();
    // SAFETY: the mapping outlives the region; what happens to its pages is what is tested.
    let region = unsafe { vm.register(memory) }.unwrap();
    if clean {
        assert_eq!(vm.evict_all().pages, 400);
        memcg.set_max(zspool::memcg::Counter::Memory, 2 * mapping.bytes as u64).unwrap();
        region.make_resident(0..mapping.bytes).unwrap();
        assert_eq!(engine.zswap().stats().pool.objects, 400, "all copies are kept");
    }
    assert!(vm.evict(100 * PAGE as u64) >= 100 * PAGE as u64);
    let stats = vm.stats();
    assert!(stats.staged > 0 && stats.compressed > 0, "{stats:?}");
    then(&vm, &region, stats.staged as usize / PAGE);
    region.assert_valid();
    engine.assert_valid();
}

#[test]
fn what_is_thrown_away_where_it_is_staged_is_gone_and_does_not_come_back() {
    [false, true].into_iter().for_each(what_is_thrown_away);
}

fn what_is_thrown_away(clean: bool) {
    within_a_minute(move || {
        staged_in_place(|mapping, memory, file| {
            with_staged(mapping, memory, clean, |vm, region, staged| {
                let out = vm.stats().compressed as usize / PAGE;
                match file {
                    // SAFETY: our own file and mapping.
                    Some(file) => unsafe {
                        use std::os::fd::AsRawFd;
                        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                        assert_eq!(libc::fallocate(file.as_raw_fd(), mode, 0, mapping.bytes as i64), 0);
                    },
                    // SAFETY: as above.
                    None => unsafe {
                        assert_eq!(libc::madvise(mapping.at(0).cast(), mapping.bytes, libc::MADV_DONTNEED), 0);
                    },
                }
                let evicted = vm.evict_all();
                assert_eq!((evicted.stayed, evicted.refused, mapping.present()), (0, 0, 0), "{evicted:?}");
                let stats = vm.stats();
                assert_eq!((stats.resident, stats.staged, stats.put_back), (0, 0, 0), "{stats:?}");
                assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), stats.compressed_into, "{stats:?}");
                region.assert_valid();
                region.make_resident(0..mapping.bytes).unwrap();
                let kept = (0..400).filter(|&page| mapping.is(page..page + 1, 1)).collect::<Vec<_>>();
                (0..400).filter(|page| !kept.contains(page)).for_each(|page| mapping.check_zero(page..page + 1));
                assert_eq!(kept.len(), out, "and {staged} were staged");
            });
        });
    });
}

/// A file can be made shorter by whoever has it. Staged pages of it were read through a mapping, and the process ended by SIGBUS.
#[test]
fn a_file_that_ends_before_staged_pages_loses_them_and_nothing_else() {
    use std::os::fd::AsRawFd;
    within_a_minute(|| {
        staged_in_place(|mapping, memory, file| {
            let Some(file) = file else { return };
            with_staged(mapping, memory, false, |vm, region, _| {
                let out = vm.stats().compressed as usize / PAGE;
                // SAFETY: our own file.
                let resize = |bytes: usize| assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), bytes as i64) }, 0);
                resize(0);
                let evicted = vm.evict_all();
                assert_eq!((evicted.stayed, evicted.refused), (0, 0), "{evicted:?}");
                assert_eq!((vm.stats().resident, vm.stats().staged), (0, 0));
                let error = region.make_resident(0..mapping.bytes).unwrap_err();
                assert!(error.to_string().contains("page"), "{error}");
                resize(mapping.bytes);
                region.make_resident(0..mapping.bytes).unwrap();
                let kept = (0..400).filter(|&page| mapping.is(page..page + 1, 1)).count();
                assert_eq!(kept, out);
            });
        });
    });
}
