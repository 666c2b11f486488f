//! Limits over VMs in small (`fake`): what holds at each moment, who gives, and what happens when nobody can.

mod fake;

use super::account::Charged;
use super::evict::Anon;
use super::evictable::Evictable;
use super::evictor::Evictor;
use super::policy::{PlainFifo, StagedFifo};
use super::*;
use crate::guest::pages::outcomes::Staged;
use crate::guest::pages::ports::Why;
use crate::memcg::{Cancel, Counter, Memcg, MemcgEvent, ReclaimRequest, Source, Tree, TreeConfig};
use crate::sync::{Arc, Clock};
use fake::{At, FakeVm, SLOT, limits};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

fn tree() -> Tree {
    Tree::new(TreeConfig::default())
}

fn current(memcg: &Memcg) -> u64 {
    memcg.current(Counter::Memory)
}

fn stored(vm: &FakeVm, pages: std::ops::Range<usize>) -> usize {
    pages.filter(|&page| matches!(vm.page(page).at, At::Stored(_))).count()
}

#[test]
fn a_fault_at_the_limit_compresses_a_page_or_two_and_no_more() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 64);
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 100 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[300]);
    for page in 0..300 {
        let before = stored(&vm, 0..300);
        assert_eq!(vm.touch(page), Some(true));
        assert!(current(&memcg) <= 100 * 4096);
        assert!(stored(&vm, 0..300) - before <= 2, "at page {page}");
    }
    let counts = vm.counts();
    assert_eq!(current(&memcg), counts.resident * 4096 + stored(&vm, 0..300) as u64 * SLOT);
    assert_eq!((memcg.overshoot(), memcg.events(MemcgEvent::Oom)), (0, 0));
    assert_eq!(stored(&vm, 0..100), 100, "first come, first gone");
    tree.assert_valid();
}

#[test]
fn what_was_staged_and_is_touched_stays() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 64);
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 200 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[600]);
    for page in 8..600 {
        vm.touch(page);
        for hot in 0..8 {
            vm.touch(hot); // from staging at worst: it is never long enough there to be compressed
            assert_eq!(vm.page(hot).at, At::Place);
        }
        assert_eq!(stored(&vm, 0..8), 0, "at page {page}");
    }
}

#[test]
fn where_nothing_can_go_a_fault_is_served_past_the_limit_and_counted() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 64);
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 10 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[100]);
    for page in 0..10 {
        vm.touch(page);
        vm.pin(page, true);
    }
    assert_eq!((vm.touch(10), current(&memcg)), (Some(true), 11 * 4096));
    assert_eq!(vm.account.overshoot(), 4096);
    assert_eq!((memcg.overshoot(), memcg.events(MemcgEvent::Overshoot)), (4096, 1));
    assert!(!vm.account.try_charge(1), "nobody waits for what is read ahead");
    vm.touch(11); // page 10 can go, but what is left of it compressed is still too much
    assert_eq!(memcg.events(MemcgEvent::Overshoot), 2);
    (0..10).for_each(|page| vm.pin(page, false));
    for page in 12..100 {
        vm.touch(page);
    }
    assert!(current(&memcg) <= 10 * 4096 || vm.counts().resident < 3, "{}", current(&memcg));
}

#[test]
fn a_full_store_is_overshoot_and_not_an_endless_search() {
    let tree = tree();
    let limits = limits(&tree, PlainFifo, 64);
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 100 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[200]);
    vm.full.store(true, Ordering::Relaxed);
    (0..110).for_each(|page| _ = vm.touch(page));
    assert_eq!(current(&memcg), 110 * 4096);
    assert_eq!(memcg.overshoot(), 10 * 4096);
    vm.full.store(false, Ordering::Relaxed);
    (110..200).for_each(|page| _ = vm.touch(page));
    assert!(current(&memcg) <= 110 * 4096);
}

/// A VM at its limit whose pages the store refuses, in an engine whose evictor takes its time; and how long so many faults of it take.
fn faults_where_nothing_helps(faults: usize, others: impl Fn(&Limits) + Sync) -> (std::time::Duration, u64) {
    let tree = tree();
    let config = LimitsConfig {
        policy: Box::new(StagedFifo),
        on_overshoot: None,
        staged_ahead: 64,
        clock: Clock::coarse(),
        prepare: Box::new(|_| ()),
    };
    let limits = Arc::new(Limits::new(tree.clone(), config));
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 10 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[10 + faults as u32]);
    vm.full.store(true, Ordering::Relaxed);
    (0..10).for_each(|page| _ = vm.touch(page));
    limits.room().open(); // somebody may come
    let (began, done) = (std::time::Instant::now(), std::sync::atomic::AtomicBool::new(false));
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                others(&limits);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        (10..10 + faults).for_each(|page| assert_eq!(vm.touch(page), Some(true)));
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        took
    });
    limits.room().close();
    (took, memcg.overshoot())
}

#[test]
fn where_waiting_is_in_vain_one_fault_waits_and_not_each() {
    let (took, overshoot) = faults_where_nothing_helps(20, |_| ());
    assert_eq!(overshoot, 20 * 4096);
    assert!(took < std::time::Duration::from_millis(2000), "20 faults took {took:?}");
}

#[test]
fn what_others_win_keeps_a_fault_waiting_for_a_second_at_most() {
    let (took, overshoot) = faults_where_nothing_helps(2, |limits| {
        limits.note_won(1);
        limits.room().turn();
    });
    assert_eq!(overshoot, 2 * 4096);
    assert!(took < std::time::Duration::from_millis(2200), "2 faults took {took:?}");
}

/// A region of 64 GiB with one page in memory; counts the words that are looked at.
#[derive(Default)]
struct Huge(std::sync::atomic::AtomicU32, std::sync::atomic::AtomicU32);

impl Huge {
    const PAGES: u32 = 16 << 20;
    const PAGE: u32 = 9_000_000;
}

impl super::evictable::Clocked for Huge {
    fn pages(&self) -> u32 {
        Self::PAGES
    }
    fn next_used(&self, page: u32) -> u32 {
        let part = Self::PAGE / 4096 * 4096;
        if page >= part + 4096 { Self::PAGES } else { page.max(part) }
    }
    fn look(&self, page: u32) -> super::policy::Look {
        self.0.fetch_add(1, Ordering::Relaxed);
        super::policy::Look { takeable: page == Self::PAGE, ..Default::default() }
    }
    fn spend_chance(&self, _: u32) {}
    fn give_chance(&self, _: u32) {}
    fn spend_ban(&self, _: u32) {}
    fn restamp(&self, _: u32, _: u8, _: u8) {}
    fn stage(&self, first: u32, pages: u32) -> Staged {
        assert_eq!((first, pages), (Self::PAGE, 1));
        Staged { pages: self.1.fetch_add(pages, Ordering::Relaxed) + 1, ..Staged::default() }
    }
}

#[test]
fn words_of_memory_that_was_never_used_are_not_looked_at() {
    use super::policy::{Policy, View};
    let huge = Huge::default();
    let mut view = View::new(&huge, 0, 64, u32::MAX);
    StagedFifo.victims(&mut view);
    assert_eq!((view.at(), view.staged().pages), (Huge::PAGES, 1));
    assert!(huge.0.load(Ordering::Relaxed) <= 4096, "{:?} words", huge.0);
}

#[test]
fn the_callback_raises_pauses_or_poisons() {
    let tree = tree();
    let memcg = tree.root().mkdir("vm").unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(Mutex::new(vec![Verdict::Again, Verdict::Pause, Verdict::Poison, Verdict::Serve]));
    let on_overshoot = {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        move |overshoot: &Overshoot| {
            asked.lock().unwrap().push((overshoot.usage, overshoot.limit, overshoot.bytes, overshoot.asked));
            let verdict = answers.lock().unwrap().remove(0);
            if verdict == Verdict::Again {
                overshoot.memcg.set_max(Counter::Memory, overshoot.limit + 4096).unwrap();
            }
            verdict
        }
    };
    let config = LimitsConfig {
        policy: Box::new(StagedFifo),
        on_overshoot: Some(Box::new(on_overshoot)),
        staged_ahead: 64,
        clock: Clock::settable(),
        prepare: Box::new(|_| ()),
    };
    let limits = Arc::new(Limits::new(tree.clone(), config));
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[10]);
    vm.full.store(true, Ordering::Relaxed);
    vm.touch(0);
    memcg.set_max(Counter::Memory, 4096).unwrap();
    assert_eq!(vm.touch(1), Some(true), "the limit was raised");
    assert_eq!((current(&memcg), memcg.overshoot()), (8192, 0));
    assert_eq!(vm.touch(2), None, "paused, and then poisoned");
    assert_eq!(vm.account.charge(1, Why::Call), Charged::Over(4096), "served");
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, [(4096, 4096, 4096, 0), (8192, 8192, 4096, 0), (8192, 8192, 4096, 1), (8192, 8192, 4096, 0)]);
}

#[test]
fn of_a_group_the_idle_vm_gives_and_the_busy_ones_keep() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 16);
    let group = tree.root().mkdir("group").unwrap();
    let vms: Vec<_> = (0..4).map(|k| FakeVm::join(&limits, &group.mkdir(&format!("vm{k}")).unwrap(), &[512])).collect();
    for (vm, _) in &vms {
        (0..512).for_each(|page| _ = vm.touch(page));
    }
    let _anon = tree.register(Box::new(Anon(Arc::clone(&limits))));
    group.write_file("memory.max", "6500K").unwrap(); // of 8192
    // A round over all that is hot, which is everything but VM 0's, again and again; a page of new memory now and then.
    let mut faults = [0; 4];
    let mut random = 1u64;
    for step in 0..40_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (vm, page) = (1 + (random >> 33) as usize % 3, (random >> 40) as usize % 512);
        faults[vm] += usize::from(vms[vm].0.touch(page).unwrap() && step > 20_000);
        assert!(current(&group) <= group.max(Counter::Memory), "{}", current(&group));
    }
    let resident: Vec<_> = vms.iter().map(|(vm, _)| vm.counts().resident).collect();
    assert!(resident[0] < 100, "the idle one has shrunk: {resident:?}");
    assert!(resident[1..].iter().all(|&pages| pages > 400), "the busy ones have not: {resident:?}");
    assert!(faults.iter().sum::<usize>() < 2000, "and fault seldom: {faults:?}");
    assert_eq!(group.overshoot(), 0);
    let sum: u64 = vms.iter().map(|(vm, _)| vm.counts().resident * 4096 + stored(vm, 0..512) as u64 * SLOT).sum();
    assert_eq!(current(&group), sum);
}

#[test]
fn memory_reclaim_takes_from_below_and_only_there() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 16);
    let _anon = tree.register(Box::new(Anon(Arc::clone(&limits))));
    let [a, b] = ["a", "b"].map(|name| tree.root().mkdir(name).unwrap());
    let (one, _one) = FakeVm::join(&limits, &a, &[100, 28]);
    let (two, _two) = FakeVm::join(&limits, &b, &[128]);
    (0..128).for_each(|page| _ = (one.touch(page), two.touch(page)));
    let ask = |memcg: &Memcg, bytes| {
        memcg.reclaim(&ReclaimRequest::new(bytes).from_sources(Source::ANON), &Cancel::new()).map(|met| met.bytes)
    };
    let before = current(&a);
    let won = ask(&a, 30 * (4096 - SLOT)).unwrap();
    assert_eq!((won, before - current(&a)), (30 * (4096 - SLOT), won));
    assert_eq!((stored(&one, 0..128), two.counts().resident), (30, 128));
    assert!(ask(&a, 1 << 30).is_err(), "there is not as much");
    assert_eq!((stored(&one, 0..128), one.counts().resident), (128, 0), "but all there is, went");
    let aged = ReclaimRequest::new(4096).aged(std::time::Duration::from_secs(1));
    assert!(b.reclaim(&aged, &Cancel::new()).is_err() && two.counts().resident == 128, "nobody knows what is that old");
}

#[test]
fn what_is_protected_goes_last_or_never() {
    let tree = tree();
    let limits = limits(&tree, PlainFifo, 0);
    let group = tree.root().mkdir("group").unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| group.mkdir(name).unwrap());
    let vms = [&a, &b, &c].map(|memcg| FakeVm::join(&limits, memcg, &[100]));
    vms.iter().for_each(|(vm, _)| (0..100).for_each(|page| _ = vm.touch(page)));
    b.set_low(60 * 4096).unwrap();
    c.set_min(50 * 4096).unwrap();
    let evict = |pages: u64| limits.evict(&group, pages * (4096 - SLOT), &|| false).bytes / (4096 - SLOT);
    // All that is above: 100 pages of a, and of b and c what brings them to 60 and 50, at three quarters of a page each.
    let all = 100 + (40 * 4096u64).div_ceil(4096 - SLOT) + (50 * 4096u64).div_ceil(4096 - SLOT);
    let won = evict(all - 8);
    assert!(won >= all - 8, "{won}");
    assert_eq!(b.events(MemcgEvent::Low), 0);
    assert!(current(&b) >= 59 * 4096 && current(&c) >= 49 * 4096, "{} {}", current(&b), current(&c));
    assert!(evict(1000) > 20, "then what is low goes");
    assert!(b.events(MemcgEvent::Low) > 0);
    assert_eq!((vms[0].0.counts().resident, vms[1].0.counts().resident), (0, 0));
    assert!(current(&c) >= 49 * 4096 && c.events(MemcgEvent::Low) == 0, "min is kept");
    assert!(limits.evict(&c, 10 * (4096 - SLOT), &|| false).bytes > 0, "it is not protected from itself");
}

#[test]
fn the_evictor_keeps_below_the_mark_and_has_pages_staged() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 64);
    let evictor = Evictor::start(Arc::clone(&limits)).unwrap();
    let memcg = tree.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, 1000 * 4096).unwrap();
    let (vm, _here) = FakeVm::join(&limits, &memcg, &[3000]);
    for page in 0..3000 {
        vm.touch(page);
        assert!(current(&memcg) <= 1000 * 4096);
        if page % 8 == 7 {
            evictor.quiesce();
            assert!(memcg.above_mark(Counter::Memory).0 == 0, "at page {page}");
        }
    }
    assert!(vm.counts().staged >= 32, "{:?}", vm.counts());
    assert_eq!(memcg.events(MemcgEvent::Max), 0, "no fault had to");
    memcg.set_high(200 * 4096).unwrap();
    limits.wake(); // it would look within a second
    evictor.quiesce();
    assert!(memcg.above_mark(Counter::Memory).0 == 0 || vm.counts().resident == 0);
    assert!(memcg.events(MemcgEvent::High) > 0);
}

#[test]
fn a_vm_that_leaves_is_waited_for_and_forgotten() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 64);
    let memcg = tree.root().mkdir("vm").unwrap();
    for _ in 0..3 {
        let (vm, here) = FakeVm::join(&limits, &memcg, &[10]);
        vm.touch(0);
        vm.account.uncharge(1);
        drop(here);
        assert_eq!(Arc::strong_count(&vm), 1);
    }
    assert_eq!(limits.evict(&tree.root(), 1, &|| false).end, crate::memcg::End::NothingToScan);
    assert_eq!(current(&memcg), 0);
}

#[test]
fn of_a_thousand_vms_each_makes_room_below_its_own_limit() {
    let tree = tree();
    let limits = limits(&tree, StagedFifo, 8);
    let vms: Vec<_> = (0..1000)
        .map(|k| {
            let memcg = tree.root().mkdir(&format!("vm{k}")).unwrap();
            memcg.set_max(Counter::Memory, 8 * 4096).unwrap();
            let vm = FakeVm::join(&limits, &memcg, &[16]);
            (memcg, vm)
        })
        .collect();
    for page in 0..16 {
        vms.iter().for_each(|(_, (vm, _))| assert_eq!(vm.touch(page), Some(true)));
    }
    for (memcg, (vm, _)) in &vms {
        assert_eq!((memcg.overshoot(), current(memcg) <= 8 * 4096), (0, true));
        assert!(stored(vm, 0..16) >= 8);
    }
}
