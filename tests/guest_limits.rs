//! Limits over real guest memory: they hold at all times, seen from outside, and are passed only where nothing can be evicted.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/guest.rs"]
mod guest;
mod support;

use guest::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zspool::guest::memory::Method;
use zspool::guest::policy::{PlainFifo, Random, WrittenAges};
use zspool::guest::{Engine, EngineBuilder, Service, Vm, VmOptions};
use zspool::memcg::{Counter, Memcg, MemcgEvent};
use zspool::swap::MemoryDevice;
use zspool::zswap::Zswap;

const M: u64 = 1 << 20;

fn builder() -> EngineBuilder {
    let zswap = Zswap::builder().pool_limit(64 * M).device(MemoryDevice::new(64 << 20, 4096)).build().unwrap();
    Engine::builder(zswap)
}

fn vm_in(engine: &Engine, memcg: &Memcg) -> Vm {
    engine.vm(memcg, VmOptions::new().service(Service::None)).unwrap()
}

fn vm(engine: &Engine) -> (Memcg, Vm) {
    let memcg = engine.root().mkdir("vm").unwrap();
    let vm = vm_in(engine, &memcg);
    (memcg, vm)
}

fn current(memcg: &Memcg) -> u64 {
    memcg.current(Counter::Memory)
}

/// Write all pages, then read them in another order, with a limit of a third.
fn a_limit_of_a_third_holds(builder: EngineBuilder, service: Service, pages: usize) {
    let engine = builder.build().unwrap();
    let memcg = engine.root().mkdir("vm").unwrap();
    let served = matches!(service, Service::InThread);
    let vm = engine.vm(&memcg, VmOptions::new().service(service)).unwrap();
    let max = pages as u64 * 4096 / 3;
    memcg.write_file("memory.max", &max.to_string()).unwrap();
    let guest = Arc::new(if served { Guest::served(&vm, pages) } else { Guest::new(&vm, pages) });
    let before = rss_anon();
    let (theirs, charged) = (Arc::clone(&guest), memcg.clone());
    // The kernel is asked page by page: some leave behind the look, and others come before it. As many as came in meanwhile.
    let (moving, came) = (vm.clone(), |vm: &Vm| vm.stats().all_faults());
    let present = Watch::over(move || {
        let before = came(&moving);
        let present = theirs.mapping.present() as u64;
        present.saturating_sub(came(&moving) - before) * 4096
    });
    let usage = Watch::over(move || charged.current(Counter::Memory));
    let rss = Watch::over(rss_anon);
    shuffled(0..pages, 1).into_iter().for_each(|page| guest.write(page, 1));
    shuffled(0..pages, 2).into_iter().for_each(|page| guest.check(page, 1));
    engine.quiesce();
    let ((present, looks), (usage, _), (rss, _)) = (present.most(), usage.most(), rss.most());
    assert!(looks > 10, "looked {looks} times only");
    assert!(present <= max + 64 * 4096, "{present} bytes of the guest's range were in memory, of {max}");
    assert!(usage <= max, "{usage} bytes were charged, of {max}");
    // What is there beside what is charged: words of pages, tables of slots, frames of the pool that are not full, the watch's own.
    let more = rss.saturating_sub(before);
    assert!(more <= max + max / 4 + 2 * M, "{more} bytes more in memory than before, of {max}");
    assert_eq!((memcg.overshoot(), memcg.events(MemcgEvent::Oom)), (0, 0));
    let stats = vm.stats();
    assert_eq!(stats.resident + stats.staged + stats.compressed_into, current(&memcg));
    assert!(stats.put_away > 2 * pages as u64 / 3 && stats.overshoot_bytes == 0, "{stats:?}");
    engine.assert_valid();
    guest.region().assert_valid();
    memcg.write_file("memory.max", "max").unwrap();
    Arc::into_inner(guest).expect("the watch is over").unregister();
    assert_eq!(current(&memcg), 0);
}

#[test]
fn a_limit_holds_with_an_evictor() {
    within_a_minute(|| a_limit_of_a_third_holds(builder(), Service::None, 6000));
}

#[test]
fn a_limit_holds_for_a_guest_whose_faults_are_served() {
    within_a_minute(|| {
        a_limit_of_a_third_holds(builder(), Service::InThread, 6000);
        a_limit_of_a_third_holds(builder().evictor(false), Service::InThread, 6000);
    });
}

#[test]
fn a_limit_holds_without_one_and_nothing_staged_ahead() {
    within_a_minute(|| a_limit_of_a_third_holds(builder().evictor(false).staged_ahead(0), Service::None, 6000));
}

#[test]
fn a_limit_holds_whatever_the_policy() {
    within_a_minute(|| {
        a_limit_of_a_third_holds(builder().policy(PlainFifo), Service::None, 2000);
        a_limit_of_a_third_holds(builder().policy(Random::seeded(3)), Service::None, 2000);
        a_limit_of_a_third_holds(builder().policy(WrittenAges), Service::None, 2000);
    });
}

#[test]
fn threads_at_one_limit_lose_nothing_and_pass_it_never() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        let vm = engine.vm(&memcg, VmOptions::new()).unwrap();
        memcg.write_file("memory.max", "4M").unwrap();
        let guest = Guest::served(&vm, 4096);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (guest, memcg, most) = (&guest, &memcg, &most);
                scope.spawn(move || {
                    for version in 0..2 {
                        let mine = thread * 1024..(thread + 1) * 1024;
                        for page in shuffled(mine.clone(), version) {
                            guest.write(page, version);
                            most.fetch_max(current(memcg), Ordering::Relaxed);
                        }
                        shuffled(mine, version + 7).into_iter().for_each(|page| guest.check(page, version));
                    }
                });
            }
        });
        assert!(most.into_inner() <= 4 * M);
        assert_eq!(memcg.overshoot(), 0);
        engine.quiesce();
        engine.assert_valid();
    });
}

#[test]
fn a_limit_that_is_lowered_is_kept_when_the_write_returns() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let (memcg, vm) = vm(&engine);
        let guest = Guest::new(&vm, 4096);
        (0..4096).for_each(|page| guest.write(page, 1));
        assert!(current(&memcg) >= 16 * M);
        memcg.write_file("memory.max", "8M").unwrap();
        assert!(current(&memcg) <= 8 * M && guest.mapping.present() <= 2048);
        memcg.write_file("memory.high", "6M").unwrap();
        assert!(current(&memcg) <= 6 * M);
        memcg.write_file("memory.reclaim", "1M source=anon").unwrap();
        assert!(current(&memcg) <= 5 * M);
        let before = guest.mapping.present();
        memcg.write_file("memory.reclaim", "512K source=zswap").unwrap();
        assert!(vm.stats().on_device > 0 && vm.stats().on_device_into > 0);
        assert_eq!(guest.mapping.present(), before, "only compressed pages went");
        let before = current(&memcg);
        let done = memcg.write_file("memory.reclaim", "4M");
        assert!(done.is_ok(), "{done:?}: of {before} there are {}, {:?}", current(&memcg), vm.stats());
        assert!(current(&memcg) <= M, "first what is in place, then what is compressed");
        (0..4096).for_each(|page| guest.check(page, 1));
        engine.assert_valid();
    });
}

#[test]
fn above_memory_high_the_evictor_comes_and_nobody_is_refused() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let (memcg, vm) = vm(&engine);
        memcg.write_file("memory.high", "6M").unwrap();
        let guest = Guest::new(&vm, 4096);
        (0..4096).for_each(|page| guest.write(page, 1));
        engine.quiesce();
        assert!(current(&memcg) <= 6 * M, "{}", current(&memcg));
        assert!(memcg.events(MemcgEvent::High) > 0);
        assert_eq!((memcg.events(MemcgEvent::Max), memcg.overshoot()), (0, 0));
        (0..4096).for_each(|page| guest.check(page, 1));
    });
}

#[test]
fn swap_max_bounds_what_goes_to_devices() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let (memcg, vm) = vm(&engine);
        memcg.write_file("memory.swap.max", "256K").unwrap();
        memcg.write_file("memory.zswap.max", "1M").unwrap();
        memcg.write_file("memory.max", "4M").unwrap();
        let guest = Guest::new(&vm, 8192);
        // 32 MiB that come to 8: there is no room for them, and it shows as overshoot, not as an error or a lost page.
        (0..8192).for_each(|page| guest.write(page, 1));
        assert!(memcg.current(Counter::Swap) <= 256 << 10 && memcg.current(Counter::Zswap) <= M);
        assert!(memcg.overshoot() > 0 && memcg.events(MemcgEvent::Overshoot) > 0);
        let stats = vm.stats();
        assert!(stats.overshoot_bytes > 0 && stats.refused > 0, "{stats:?}");
        shuffled(0..8192, 4).into_iter().for_each(|page| guest.check(page, 1));
        memcg.write_file("memory.zswap.max", "max").unwrap();
        memcg.write_file("memory.swap.max", "max").unwrap();
        memcg.write_file("memory.max", "4M").unwrap();
        engine.quiesce();
        assert!(current(&memcg) <= 4 * M, "{}", current(&memcg));
        engine.assert_valid();
    });
}

#[test]
fn what_is_pinned_stays_and_passes_the_limit_counted() {
    within_a_minute(|| {
        let asked = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&asked);
        let engine = builder().on_overshoot(move |overshoot| {
            theirs.fetch_max(overshoot.usage, Ordering::Relaxed);
            zspool::guest::Verdict::Serve
        });
        let engine = engine.build().unwrap();
        let (memcg, vm) = vm(&engine);
        memcg.write_file("memory.max", "1M").unwrap();
        let guest = Guest::new(&vm, 1024);
        let pin = guest.region().pin(0..300 * PAGE).unwrap();
        assert!(guest.mapping.present() >= 300 && current(&memcg) >= 300 * 4096);
        assert!(memcg.overshoot() > 0 && asked.load(Ordering::Relaxed) > 200 * 4096);
        // A limit that could not hold is refused; one that just holds what is pinned is not.
        let refused = memcg.write_file("memory.max", "1M").unwrap_err();
        assert_eq!(refused.errno(), libc::EBUSY);
        assert!(refused.to_string().contains("1228800 bytes pinned"), "{refused}");
        assert!(engine.root().write_file("memory.max", "100").is_err(), "nor above it");
        let refused = memcg.set_max(Counter::Memory, M).unwrap_err();
        assert!(matches!(refused, zspool::memcg::Error::BelowPinned { .. }), "by a call as by the file: {refused}");
        assert_eq!((memcg.max(Counter::Memory), engine.root().max(Counter::Memory)), (M, zspool::memcg::NO_LIMIT));
        memcg.write_file("memory.max", "1228800").unwrap();
        drop(pin);
        memcg.write_file("memory.max", "1M").unwrap();
        (300..400).for_each(|page| guest.write(page, 1));
        engine.quiesce();
        assert!(current(&memcg) <= M, "{}", current(&memcg));
        engine.assert_valid();
    });
}

#[test]
fn what_is_prefetched_has_nothing_leave_for_it() {
    within_a_minute(|| {
        let engine = builder().evictor(false).build().unwrap();
        let (memcg, vm) = vm(&engine);
        let guest = Guest::new(&vm, 512);
        (0..512).for_each(|page| guest.write(page, 1));
        guest.region().evict(0..256 * PAGE);
        let before = guest.mapping.present();
        assert_eq!(before, 256);
        memcg.set_max(Counter::Memory, current(&memcg) + 32 * 4096).unwrap();
        let brought = guest.region().prefetch(0..512 * PAGE);
        // As far as the mark, a 64th below the limit: what nobody waits for leaves room for what somebody does.
        let mark = memcg.max(Counter::Memory) / 64 * 63 + 64;
        assert!(
            current(&memcg) <= mark && current(&memcg) + 2 * 4096 > mark,
            "{} of {mark}: {brought:?}",
            current(&memcg)
        );
        assert!((20..40).contains(&brought.pages), "{brought:?}");
        assert_eq!(guest.mapping.present(), before + brought.pages as usize);
        assert!((256..512).all(|page| guest.mapping.is_present(page)), "all that was there stays");
        assert_eq!((vm.stats().taken_out, memcg.overshoot(), memcg.events(MemcgEvent::Oom)), (256, 0, 0));
        memcg.set_max(Counter::Memory, u64::MAX).unwrap();
        assert_eq!(guest.region().prefetch(0..512 * PAGE).pages, 256 - brought.pages);
        (0..512).for_each(|page| guest.check(page, 1));
        engine.assert_valid();
    });
}

#[test]
fn protected_memory_stays_while_others_have_some() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let group = engine.root().mkdir("group").unwrap();
        let [kept, other] = ["kept", "other"].map(|name| group.mkdir(name).unwrap());
        let vms = [&kept, &other].map(|memcg| vm_in(&engine, memcg));
        let guests = vms.each_ref().map(|vm| Guest::new(vm, 1024));
        (0..1024).for_each(|page| guests.iter().for_each(|guest| guest.write(page, 1)));
        kept.write_file("memory.low", "4M").unwrap();
        group.write_file("memory.max", "6M").unwrap();
        assert!(current(&kept) >= 4 * M - 4096, "{}", current(&kept));
        assert_eq!(kept.events(MemcgEvent::Low), 0);
        group.write_file("memory.max", "4M").unwrap();
        assert!(current(&group) <= 4 * M && current(&kept) < 4 * M);
        assert!(kept.events(MemcgEvent::Low) > 0, "there was nothing else");
        guests.iter().for_each(|guest| (0..1024).for_each(|page| guest.check(page, 1)));
        engine.assert_valid();
    });
}

#[test]
fn what_the_policy_has_looked_at_is_told_to_who_asks_for_dirty_pages() {
    within_a_minute(|| {
        let engine = builder().policy(WrittenAges).build().unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        let vm = engine.vm(&memcg, VmOptions::new().dirty_tracking(true)).unwrap();
        let guest = Guest::served(&vm, 1024);
        (0..1024).for_each(|page| guest.write(page, 1));
        let start = guest.mapping.at(0).addr();
        let dirty = || {
            let mut told = Vec::new();
            vm.take_dirty(|run| told.extend(run.step_by(PAGE).map(|address| (address - start) / PAGE))).map(|_| told)
        };
        match dirty() {
            Ok(told) => assert_eq!(told.len(), 1024, "all of them the first time"),
            Err(error) => {
                let test = "what_the_policy_has_looked_at_is_told_to_who_asks_for_dirty_pages";
                return support::skip(test, &error.to_string());
            }
        }
        (10..20).for_each(|page| guest.write(page, 2));
        std::thread::sleep(std::time::Duration::from_millis(2500)); // the evictor's tick, once a second, has looked
        assert_eq!(dirty().unwrap(), (10..20).collect::<Vec<_>>());
        // What was written stays when others go.
        (10..20).for_each(|page| guest.write(page, 3));
        std::thread::sleep(std::time::Duration::from_millis(2500));
        memcg.write_file("memory.reclaim", "3M source=anon").unwrap();
        let puts = vm.stats().put_away;
        assert!((10..20).all(|page| guest.mapping.is_present(page)), "of {puts} that went");
        (0..1024).for_each(|page| guest.check(page, if (10..20).contains(&page) { 3 } else { 1 }));
    });
}

#[test]
fn ages_tell_what_has_not_moved_for_long() {
    within_a_minute(|| {
        let clock = zspool::sync::Clock::settable();
        let engine = builder().evictor(false).clock(clock.clone()).build().unwrap();
        let (memcg, vm) = vm(&engine);
        let guest = Guest::new(&vm, 400);
        (0..100).for_each(|page| guest.write(page, 1));
        clock.set(100_000);
        // Any move begins the epoch of its time.
        memcg.write_file("memory.reclaim", "160K source=anon").unwrap();
        let out = vm.stats().put_away;
        assert!((40..60).contains(&out), "{out} pages went");
        clock.set(400_000);
        guest.write(200, 1);
        let by_age = || {
            let ages = vm.ages();
            ages.classes().map(|(_, resident, stored)| (resident / 4096, stored / 4096)).collect::<Vec<_>>()
        };
        let ages = by_age();
        assert_eq!(ages.iter().map(|(resident, stored)| resident + stored).sum::<u64>(), 101);
        assert_eq!(ages.iter().map(|(_, stored)| stored).sum::<u64>(), out);
        let old: u64 = ages[3..].iter().map(|(resident, stored)| resident + stored).sum();
        assert!(old >= 100, "all but one have not moved for five minutes: {ages:?}");
    });
}

#[test]
fn the_vm_of_a_removed_group_leaves_while_another_group_is_protected() {
    within_a_minute(|| {
        let engine = Engine::new(Zswap::builder().pool_limit(64 * M).build().unwrap()).unwrap();
        let top = engine.root().mkdir("top").unwrap();
        let group = top.mkdir("vm").unwrap();
        let vm = engine.vm(&group, VmOptions::new()).unwrap();
        let guest = Guest::served(&vm, 2048);
        (0..2048).for_each(|page| guest.write(page, 0));
        engine.root().mkdir("other").unwrap().write_file("memory.low", "1M").unwrap();
        group.offline().unwrap();
        top.write_file("memory.reclaim", "1M").unwrap();
        assert!(vm.evict(M) > 0);
        top.write_file("memory.max", "4M").unwrap();
        (0..2048).for_each(|page| guest.write(page, 1));
        assert!(current(&top) <= 4 * M, "{}", current(&top));
        assert_eq!(vm.stats().overshoot_bytes, 0);
    });
}

#[test]
fn the_first_reclaim_of_many_vms_reclaims() {
    within_a_minute(|| {
        let engine = Engine::new(Zswap::builder().pool_limit(64 * M).build().unwrap()).unwrap();
        let group = engine.root().mkdir("group").unwrap();
        let vms: Vec<_> =
            (0..40).map(|k| engine.vm(&group.mkdir(&format!("vm{k}")).unwrap(), VmOptions::new()).unwrap()).collect();
        let guests: Vec<_> = vms.iter().map(|vm| Guest::served(vm, 512)).collect();
        guests.iter().for_each(|guest| (0..512).for_each(|page| guest.write(page, 0)));
        let before = current(&group);
        group.write_file("memory.reclaim", "4M").unwrap();
        assert!(before - current(&group) >= 4 * M, "{before} -> {}", current(&group));
    });
}

#[test]
fn below_a_limit_that_no_page_fits_in_pages_leave_for_others_all_the_same() {
    within_a_minute(|| {
        let engine = builder().evictor(false).build().unwrap();
        let (memcg, vm) = vm(&engine);
        memcg.write_file("memory.max", "0").unwrap();
        let guest = Guest::new(&vm, 2048);
        (0..2048).for_each(|page| guest.write(page, 0));
        let resident = vm.stats().resident;
        assert!(resident < 2 * M, "{resident}");
        memcg.write_file("memory.max", "max").unwrap();
    });
}

/// Memory that was locked after it was registered is stored and cannot be dropped, page after page.
#[test]
fn a_search_ends_where_no_page_can_be_dropped() {
    within_a_minute(|| {
        let engine = builder().build().unwrap();
        let (memcg, vm) = vm(&engine);
        let mapping = Mapping::new(2048);
        mapping.write(0..2048, 1);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().method(Method::Protect)) }.unwrap();
        // SAFETY: locks the mapping.
        if unsafe { libc::mlock(mapping.at(0).cast(), mapping.bytes) } != 0 {
            return support::skip("a_search_ends_where_no_page_can_be_dropped", "`ulimit -l`");
        }
        let asked = memcg.write_file("memory.reclaim", "1M");
        assert!(asked.is_err(), "nothing can leave");
        // SAFETY: as above.
        unsafe { libc::munlock(mapping.at(0).cast(), mapping.bytes) };
        assert!(vm.evict_all().pages > 0);
        region.unregister().unwrap();
        mapping.check(0..2048, 1);
    });
}
