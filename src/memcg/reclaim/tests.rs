//! Reclaim by scripts: who is asked for what, what counts, and when it is given up.

use super::super::{Registration, Tree, TreeConfig};
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc as StdArc, Mutex};

type Log = StdArc<Mutex<Vec<String>>>;

/// Gives what is in its list, a call each, and notes what it was asked.
struct Scripted {
    name: &'static str,
    source: Source,
    gives: Mutex<Vec<Reclaimed>>,
    log: Log,
}

impl Reclaimer for Scripted {
    fn source(&self) -> Source {
        self.source
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        crate::sync::assert_no_lock_held("a reclaimer runs");
        let proactive = if ask.proactive { " by name" } else { "" };
        let age = ask.age.map_or(String::new(), |age| format!(" age {}", age.as_secs()));
        self.log.lock().unwrap().push(format!("{} {} {}{proactive}{age}", self.name, memcg.path(), ask.bytes));
        let mut gives = self.gives.lock().unwrap();
        if gives.len() > 1 { gives.remove(0) } else { gives[0] }
    }
}

fn register(tree: &Tree, log: &Log, name: &'static str, source: Source, gives: &[(u64, End)]) -> Registration {
    let gives = Mutex::new(gives.iter().map(|&(bytes, end)| Reclaimed { bytes, end }).collect());
    tree.register(Box::new(Scripted { name, source, gives, log: StdArc::clone(log) }))
}

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

fn ask(memcg: &Memcg, text: &str) -> Result<u64, Error> {
    Ok(memcg.reclaim(&text.parse()?, &Cancel::new())?.bytes)
}

#[test]
fn ordinary_reclaim_asks_anon_and_then_zswap_for_what_is_missing() {
    let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let nothing = (0, End::NothingToScan);
    let _zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(30, End::Exhausted), (100, End::Met)]);
    let _first = register(&tree, &log, "first", Source::ANON, &[(50, End::Exhausted), nothing]);
    let _second = register(&tree, &log, "second", Source::ANON, &[nothing]);
    assert_eq!(ask(&vm, "100 age=9"), Ok(180), "the last one may bring more");
    let asked = ["first /vm 100", "second /vm 50", "zswap /vm 50", "first /vm 20", "second /vm 20", "zswap /vm 20"];
    assert_eq!(take(&log), asked.map(|line| format!("{line} age 9")));
    assert_eq!(ask(&vm, "1 swappiness=0"), Ok(100));
    assert_eq!(take(&log), ["zswap /vm 1"], "pages in memory are left alone");
    assert_eq!(ask(&vm, "1 swappiness=1"), Ok(100));
    assert_eq!(take(&log), ["first /vm 1", "second /vm 1", "zswap /vm 1"]);
    assert_eq!(ask(&vm, "0"), Ok(0));
    assert!(take(&log).is_empty());
}

#[test]
fn a_named_source_is_asked_and_no_other() {
    let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let unserved = |text: &str| ask(&vm, text).unwrap_err().to_string();
    assert_eq!(unserved("1 source=zswap"), "nobody serves source=zswap here; no reclaimer is registered");
    let zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(10, End::Met)]);
    let says = "nobody serves source=file here; name one or more of zswap";
    assert_eq!(unserved("1 source=file,zswap"), says);
    assert_eq!(unserved("1 source=anon"), says.replace("file", "anon"));
    let _anon = register(&tree, &log, "anon", Source::ANON, &[(10, End::Met)]);
    assert_eq!(ask(&vm, "10 source=zswap"), Ok(10));
    assert_eq!(ask(&vm, "20 source=zswap,anon"), Ok(20), "the order of the list means nothing");
    let asked = ["zswap /vm 10 by name", "anon /vm 20 by name", "zswap /vm 10 by name"];
    assert_eq!(take(&log), asked);
    tree.root().set_writeback(false).unwrap();
    let off = "/vm has no writeback to ask for: memory.zswap.writeback is 0 there or above it; set it to 1";
    assert_eq!(unserved("1 source=zswap,anon"), off);
    assert_eq!(ask(&vm, "1"), Ok(10), "ordinary reclaim takes what there is");
    tree.root().set_writeback(true).unwrap();
    drop(zswap);
    assert_eq!(unserved("1 source=zswap"), "nobody serves source=zswap here; name one or more of anon");
    vm.offline().unwrap();
    assert_eq!(ask(&vm, "1 source=anon"), Err(Error::Offline { id: vm.id() }));
}

#[test]
fn too_little_says_how_much_and_why() {
    let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let again = |text: &str| ask(&vm, text).unwrap_err();
    let path = || "/vm".to_owned();
    let nothing = Error::Again { path: path(), asked: 5, reclaimed: 0, end: End::NothingToScan };
    assert_eq!(again("5"), nothing, "nobody is registered");
    let busy = register(&tree, &log, "busy", Source::ZSWAP, &[(3, End::Busy), (0, End::Busy)]);
    assert_eq!(again("5 source=zswap"), Error::Again { path: path(), asked: 5, reclaimed: 3, end: End::Busy });
    assert_eq!(take(&log).len(), 1 + MAX_FAILURES);
    drop(busy);
    let gives = [(4, End::Exhausted), (0, End::Exhausted)];
    let _exhausted = register(&tree, &log, "exhausted", Source::ZSWAP, &gives);
    let error = again("5");
    assert_eq!(error, Error::Again { path: path(), asked: 5, reclaimed: 4, end: End::Exhausted });
    assert_eq!(error.errno(), libc::EAGAIN);
    let says = "4 of 5 bytes of /vm were reclaimed, and no more: what is left was used lately or cannot be written; ";
    assert_eq!(error.to_string(), format!("{says}try again later, or ask for less"));
    assert_eq!(take(&log).len(), 2, "a reclaimer that gave up has tried often enough");
}

#[test]
fn a_cancelled_request_says_how_far_it_came() {
    let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
    struct Cancels(Cancel);
    impl Reclaimer for Cancels {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
            assert!(!ask.cancel.is_cancelled());
            self.0.cancel();
            Reclaimed { bytes: 7, end: End::Cancelled }
        }
    }
    let cancel = Cancel::new();
    let _anon = tree.register(Box::new(Cancels(cancel.clone())));
    let _zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(10, End::Met)]);
    let error = tree.root().reclaim(&ReclaimRequest::new(8), &cancel).unwrap_err();
    assert_eq!(error, Error::Interrupted { path: "/".to_owned(), asked: 8, reclaimed: 7 });
    assert_eq!(error.errno(), libc::EINTR);
    assert!(take(&log).is_empty(), "nobody is asked once it is cancelled");
    let enough = tree.root().reclaim(&ReclaimRequest::new(0), &cancel);
    assert_eq!(enough, Ok(Reclaimed { bytes: 0, end: End::Met }));
}

#[test]
fn the_end_of_a_registration_waits_for_calls_under_way_and_drops_the_hook() {
    use std::sync::mpsc::{Receiver, Sender, channel};
    struct Slow(Mutex<(Sender<()>, Receiver<()>)>, #[expect(dead_code, reason = "dropped with the hook")] StdArc<()>);
    impl Reclaimer for Slow {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, _: &Memcg, _: &Ask<'_>) -> Reclaimed {
            let (begun, go_on) = &*self.0.lock().unwrap();
            begun.send(()).unwrap();
            go_on.recv().unwrap();
            Reclaimed { bytes: 1, end: End::Met }
        }
    }
    let tree = Tree::new(TreeConfig::default());
    let ((begun, has_begun), (go, go_on)) = (channel(), channel());
    let lives = StdArc::new(());
    let registration = tree.register(Box::new(Slow(Mutex::new((begun, go_on)), StdArc::clone(&lives))));
    let root = tree.root();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| root.reclaim(&ReclaimRequest::new(1), &Cancel::new()));
        has_begun.recv().unwrap();
        let ended = StdArc::new(AtomicBool::new(false));
        let end = scope.spawn({
            let ended = StdArc::clone(&ended);
            move || {
                drop(registration);
                ended.store(true, Ordering::SeqCst);
            }
        });
        while !tree.shared().hooks.served().is_empty() {
            std::thread::yield_now(); // until the drop has begun
        }
        assert!(ask(&root, "1").is_err(), "no call begins any more");
        assert!(!ended.load(Ordering::SeqCst), "a call is under way");
        go.send(()).unwrap();
        assert_eq!(call.join().unwrap(), Ok(Reclaimed { bytes: 1, end: End::Met }));
        end.join().unwrap();
    });
    assert_eq!(StdArc::strong_count(&lives), 1);
}

#[test]
fn what_memory_falls_by_counts_where_that_is_more_than_a_reclaimer_says() {
    /// Lets go of all it has, says that it was a byte, and how it ended.
    struct Modest(Mutex<Option<crate::memcg::Resident>>, End);
    impl Reclaimer for Modest {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, _: &Memcg, _: &Ask<'_>) -> Reclaimed {
            let bytes = self.0.lock().unwrap().take().map_or(0, |_| 1);
            Reclaimed { bytes, end: self.1 }
        }
    }
    for end in [End::Met, End::Exhausted, End::NothingToScan] {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let resident = vm.charge_resident(8192).unwrap();
        let _kept = vm.charge_resident(100).unwrap();
        let _anon = tree.register(Box::new(Modest(Mutex::new(Some(resident)), end)));
        assert_eq!(ask(&vm, "8192"), Ok(8192), "{end:?}");
        assert_eq!(ask(&vm, "1").unwrap_err().errno(), libc::EAGAIN, "{end:?}");
    }
}

/// Does what its list says, a step each call, and then nothing.
struct Steps(Mutex<Vec<Step>>, u64);

type Step = Box<dyn FnOnce(&Memcg) -> Reclaimed + Send>;

impl Reclaimer for Steps {
    fn source(&self) -> Source {
        Source::ANON
    }
    fn reclaim(&self, memcg: &Memcg, _: &Ask<'_>) -> Reclaimed {
        let step = self.0.lock().unwrap().pop();
        step.map_or(Reclaimed { bytes: 0, end: End::NothingToScan }, |step| step(memcg))
    }
    fn pinned(&self, _: &Memcg) -> u64 {
        self.1
    }
}

#[test]
fn a_round_that_brings_little_is_no_end_though_more_was_counted_before() {
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let [one, two] = [0; 2].map(|_| vm.charge_resident(8192).unwrap());
    let gives = |resident: crate::memcg::Resident| {
        move |_: &Memcg| {
            drop(resident);
            Reclaimed { bytes: 1, end: End::Exhausted } // it brought more than it knows
        }
    };
    let little = |_: &Memcg| Reclaimed { bytes: 10, end: End::Exhausted };
    let steps = Steps(Mutex::new(vec![Box::new(gives(one)), Box::new(little), Box::new(gives(two))]), 0);
    let _anon = tree.register(Box::new(steps));
    assert_eq!(ask(&vm, "16384"), Ok(16384));
}

#[test]
fn a_limit_below_what_all_have_pinned_is_refused() {
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let log = Log::default();
    let _none = register(&tree, &log, "has nothing pinned", Source::FILE, &[(0, End::NothingToScan)]);
    vm.set_max(Counter::Memory, 0).unwrap();
    let _both = [3000, 5000].map(|pinned| tree.register(Box::new(Steps(Mutex::new(Vec::new()), pinned))));
    let below = Error::BelowPinned { path: "/vm".to_owned(), limit: 7999, pinned: 8000 };
    assert_eq!(vm.set_max(Counter::Memory, 7999), Err(below));
    vm.set_max(Counter::Memory, 8000).unwrap();
    vm.set_max(Counter::Zswap, 0).unwrap();
    assert_eq!(ask(&vm, "0 source=anon"), Ok(0), "two serve it");
}

#[test]
fn a_limit_that_others_charge_past_as_fast_as_it_is_reclaimed_ends_in_some_rounds() {
    /// Gives what it is asked for, and somebody has charged as much by then, past the limit.
    struct Chased(crate::memcg::Objcg, StdArc<Mutex<Vec<u64>>>);
    impl Reclaimer for Chased {
        fn source(&self) -> Source {
            Source::ANON
        }
        fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
            let (tree, id) = (memcg.tree(), self.0.id());
            tree.uncharge(id, Counter::Memory, ask.bytes);
            // The first times it falls a little.
            let mut asked = self.1.lock().unwrap();
            let less = if asked.len() < 3 { 4096 } else { 0 };
            let _ = tree.charge_anyway(id, Counter::Memory, ask.bytes - less);
            asked.push(ask.bytes);
            Reclaimed { bytes: ask.bytes, end: End::Met }
        }
    }
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let asked = StdArc::default();
    let objcg = vm.objcg().unwrap();
    tree.charge(objcg.id(), Counter::Memory, 1 << 20).unwrap();
    let _registered = tree.register(Box::new(Chased(objcg, StdArc::clone(&asked))));
    vm.write_file("memory.high", "512K").unwrap();
    let rounds = std::mem::take(&mut *asked.lock().unwrap());
    let (most, least) = (512 << 10, (512 << 10) - 3 * 4096);
    assert_eq!((rounds[0], rounds.len(), *rounds.last().unwrap()), (most, 3 + MAX_FAILURES, least));
    assert_eq!(vm.events(MemcgEvent::Oom), 0, "nothing is refused above memory.high");
    vm.write_file("memory.max", "512K").unwrap();
    assert_eq!((vm.events(MemcgEvent::Oom), vm.current(Counter::Memory)), (1, (1 << 20) - 6 * 4096));
}

#[test]
fn what_is_not_above_the_limit_any_more_when_reclaim_gives_up_is_no_oom() {
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let _kept = vm.charge_resident(8192).unwrap();
    let set_to = |bytes| {
        move |memcg: &Memcg| {
            // Somebody raises it meanwhile.
            memcg.set_max(Counter::Memory, bytes).unwrap();
            Reclaimed { bytes: 0, end: End::NothingToScan }
        }
    };
    for (to, ooms) in [(8191, 1), (8192, 1)] {
        let raise = tree.register(Box::new(Steps(Mutex::new(vec![Box::new(set_to(to))]), 0)));
        vm.write_file("memory.max", "4096").unwrap();
        assert_eq!((vm.max(Counter::Memory), vm.events(MemcgEvent::Oom)), (to, ooms));
        drop(raise);
    }
}

#[test]
fn what_fell_in_a_call_counts_unless_the_reclaimer_had_nothing() {
    for (end, counted) in [(End::Exhausted, 8192), (End::NothingToScan, 0)] {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let [one, two] = [0; 2].map(|_| vm.charge_resident(4096).unwrap());
        let lets_go = |resident: crate::memcg::Resident| {
            move |_: &Memcg| {
                drop(resident);
                Reclaimed { bytes: 0, end }
            }
        };
        let steps = Steps(Mutex::new(vec![Box::new(lets_go(one)), Box::new(lets_go(two))]), 0);
        let _anon = tree.register(Box::new(steps));
        match ask(&vm, "8193") {
            Err(Error::Again { reclaimed, .. }) => assert_eq!(reclaimed, counted, "{end:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_that_is_met_when_it_is_cancelled_is_met() {
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let cancel = Cancel::new();
    let cancels = cancel.clone();
    let step = move |_: &Memcg| {
        cancels.cancel();
        Reclaimed { bytes: 8, end: End::Cancelled }
    };
    let _anon = tree.register(Box::new(Steps(Mutex::new(vec![Box::new(step)]), 0)));
    assert_eq!(vm.reclaim(&ReclaimRequest::new(8), &cancel), Ok(Reclaimed { bytes: 8, end: End::Met }));
}

#[test]
fn a_shared_reclaimer_says_what_its_own_says() {
    let shared = Arc::new(Steps(Mutex::new(Vec::new()), 77));
    let root = Tree::new(TreeConfig::default()).root();
    assert_eq!((Reclaimer::pinned(&shared, &root), Reclaimer::source(&shared)), (77, Source::ANON));
}

#[test]
fn a_request_for_a_tier_is_one_of_what_is_compressed_and_of_those_who_may_use_it() {
    use crate::memcg::TierName;
    let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
    let vm = tree.root().mkdir("vm").unwrap();
    let _zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(100, End::Met)]);
    let _anon = register(&tree, &log, "anon", Source::ANON, &[(100, End::Met)]);
    let tier = |name: &str| TierName { name: name.to_owned(), priority: Some(1) };
    tree.set_tiers(1, vec![tier("fast"), tier("slow")]);
    assert_eq!(ask(&vm, "1 to=slow"), Ok(100));
    assert_eq!(take(&log), ["zswap /vm 1 by name"]);
    vm.set_tier("slow", false).unwrap();
    let forbidden = Error::TierForbidden { path: "/vm".to_owned(), tier: "slow".to_owned() };
    assert_eq!(ask(&vm, "1 to=slow"), Err(forbidden));
    assert_eq!(ask(&vm, "1 to=fast"), Ok(100));
    assert!(matches!(ask(&vm, "1 to=other"), Err(Error::NoSuchTier { .. })));
    assert_eq!(take(&log), ["zswap /vm 1 by name"]);
}

#[test]
fn who_moves_pages_is_told_of_nodes_that_are_set_through_the_file() {
    use crate::memcg::{Mover, Unmoved};
    struct Told(StdArc<Mutex<Vec<String>>>);
    impl Mover for Told {
        fn move_home(&self, memcg: &Memcg) -> Result<(), Unmoved> {
            let mut told = self.0.lock().unwrap();
            told.push(memcg.path());
            if told.len() < 3 { Ok(()) } else { Err(Unmoved { bytes: 77, why: "it is held".to_owned() }) }
        }
    }
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    let log = Log::default();
    let _both = [0; 2].map(|_| tree.register_mover(Box::new(Told(StdArc::clone(&log)))));
    vm.write_file("memory.zswap.nodes", "1").unwrap();
    assert_eq!(take(&log), ["/vm", "/vm"], "both of them");
    log.lock().unwrap().extend([String::new(), String::new()]);
    let unmoved = vm.write_file("memory.zswap.nodes", "0").unwrap_err();
    assert!(matches!(unmoved, Error::Unmoved { bytes: 77, .. }), "{unmoved}");
}
