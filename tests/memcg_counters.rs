//! Three counters of a memcg: what is charged to which, who refuses, peaks, marks, events, prepaid objects.

use zspool::memcg::{
    Bytes4, ChargeError, Counter, Error, Event, Memcg, MemcgEvent, NO_LIMIT, Objcg, ObjcgId, Tree, TreeConfig,
};
use zspool::units::NodeId;

const NODE: NodeId = NodeId(0);
const PAGE: u64 = 4096;

fn tree() -> Tree {
    Tree::new(TreeConfig::default())
}

fn object(len: u64) -> Bytes4 {
    Bytes4 { compressed: len, original: PAGE, payload: len, incompressible: 0 }
}

/// Root, tenant, vm.
fn path(tree: &Tree) -> [Memcg; 3] {
    let tenant = tree.root().mkdir("tenant").unwrap();
    let vm = tenant.mkdir("vm").unwrap();
    [tree.root(), tenant, vm]
}

fn currents(memcg: &Memcg) -> [u64; 3] {
    Counter::ALL.map(|counter| memcg.current(counter))
}

fn peaks(memcg: &Memcg) -> [u64; 3] {
    Counter::ALL.map(|counter| memcg.peak(counter))
}

/// The memcgs that were noted, oldest first.
fn noted(tree: &Tree) -> Vec<String> {
    let mut noted = Vec::new();
    tree.take_excess(|memcg| noted.push(memcg));
    noted.sort_by_key(Memcg::id);
    noted.iter().map(Memcg::path).collect()
}

fn enter(tree: &Tree, memcg: &Memcg, len: u64) -> Result<ObjcgId, ChargeError> {
    tree.enter(memcg, NODE, object(len), Some(Event::ZswpOut))
}

fn hit(refused: Result<ObjcgId, ChargeError>) -> zspool::memcg::LimitHit {
    match refused {
        Err(ChargeError::Limit(hit)) => hit,
        other => panic!("{other:?} instead of a limit's refusal"),
    }
}

// === what is charged to which ===

#[test]
fn an_object_is_zswap_and_memory_a_page_memory_and_a_place_swap() {
    let tree = tree();
    let [root, tenant, vm] = path(&tree);
    let id = enter(&tree, &vm, 1000).unwrap();
    let objcg = tenant.objcg().unwrap();
    tree.charge(objcg.id(), Counter::Memory, PAGE).unwrap();
    tree.charge(objcg.id(), Counter::Swap, 64).unwrap();
    assert_eq!([&root, &tenant, &vm].map(currents), [[1000, 5096, 64], [1000, 5096, 64], [1000, 1000, 0]]);
    let stat = root.stat().unwrap();
    assert_eq!((stat.bytes.compressed, stat.resident, stat.places), (1000, PAGE, 64));
    tree.assert_quiet();

    // Who is removed leaves all three to its parent.
    vm.offline().unwrap();
    tenant.offline().unwrap();
    assert_eq!((currents(&root), currents(&tenant)), ([1000, 5096, 64], [0; 3]));
    tree.assert_quiet();
    tree.leave(id, NODE, object(1000), 1000);
    tree.uncharge(objcg.id(), Counter::Memory, PAGE);
    tree.uncharge(objcg.id(), Counter::Swap, 64);
    drop(objcg);
    assert_eq!(currents(&root), [0; 3]);
    tree.assert_quiet();
    assert_eq!(tree.census().objcgs, 1);
}

#[test]
fn the_limit_that_is_hit_names_its_file_and_nothing_is_left_charged() {
    let tree = tree();
    let [root, tenant, vm] = path(&tree);
    let objcg = vm.objcg().unwrap();
    let charge = |counter, bytes| tree.charge(objcg.id(), counter, bytes);
    charge(Counter::Memory, 5000).unwrap();
    tenant.set_max(Counter::Memory, 6000).unwrap();
    vm.set_max(Counter::Zswap, 2000).unwrap();
    root.set_max(Counter::Swap, 128).unwrap();

    // Memory further up; then Zswap below.
    let refused = hit(enter(&tree, &vm, 1001));
    assert_eq!((refused.memcg(), refused.counter(), refused.file()), (&tenant, Counter::Memory, "memory.max"));
    assert_eq!((refused.usage(), refused.limit(), refused.asked()), (5000, 6000, 1001));
    assert_eq!(
        refused.to_string(),
        "memcg /tenant (id 2) holds 5000 of at most 6000 bytes, so 1001 more are refused; raise its memory.max or \
         have some of it reclaimed"
    );
    let refused = hit(enter(&tree, &vm, 2001));
    assert_eq!((refused.memcg(), refused.counter(), refused.file()), (&vm, Counter::Zswap, "memory.zswap.max"));
    let refused = charge(Counter::Memory, 1001).unwrap_err();
    assert_eq!((refused.memcg(), refused.counter()), (&tenant, Counter::Memory));
    charge(Counter::Swap, 128).unwrap();
    let refused = charge(Counter::Swap, 64).unwrap_err();
    assert_eq!((refused.memcg(), refused.counter(), refused.file()), (&root, Counter::Swap, "memory.swap.max"));
    assert!(refused.to_string().ends_with("raise its memory.swap.max or free or load some of it"), "{refused}");

    assert_eq!([&root, &tenant, &vm].map(currents), [[0, 5000, 128]; 3]);
    tree.assert_quiet();
    let id = enter(&tree, &vm, 1000).unwrap();
    assert_eq!([&root, &tenant, &vm].map(currents), [[1000, 6000, 128]; 3], "to the last byte");
    tree.leave(id, NODE, object(1000), 1000);
    // Objects' refusals are zswap's; limits of Memory and Zswap count in `max`, those of Swap where they are noted.
    assert_eq!(root.stat().unwrap().events(Event::Refused), 2);
    assert_eq!([&root, &tenant, &vm].map(|memcg| memcg.events(MemcgEvent::Max)), [3, 3, 1]);
    assert_eq!([&root, &tenant, &vm].map(|memcg| memcg.local_events(MemcgEvent::Max)), [0, 2, 1]);
    assert_eq!(root.events(MemcgEvent::SwapMax), 0);
}

#[test]
fn a_small_limit_of_memory_is_used_to_the_last_byte_whatever_lies_in_stock() {
    let tree = Tree::new(TreeConfig { stocks: 8, ..TreeConfig::default() });
    let [_, tenant, vm] = path(&tree);
    let objcg = tenant.objcg().unwrap();
    let first = enter(&tree, &vm, 100).unwrap(); // and a batch more lies in stock
    tenant.set_max(Counter::Memory, 1000).unwrap();
    tree.charge(objcg.id(), Counter::Memory, 900).unwrap();
    assert_eq!(hit(enter(&tree, &vm, 1)).usage(), 1000);
    tree.leave(first, NODE, object(100), 100); // into the stock
    tree.charge(objcg.id(), Counter::Memory, 100).expect("what lies in stock is nobody's");
    tree.uncharge(objcg.id(), Counter::Memory, 1000);
    tree.assert_quiet();
}

// === peaks ===

#[test]
fn peaks_are_of_each_counter_and_of_charges_that_stood() {
    let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
    let [root, tenant, vm] = path(&tree);
    let objcg = vm.objcg().unwrap();
    tenant.set_max(Counter::Memory, 10_000).unwrap();
    let id = enter(&tree, &vm, 2000).unwrap();
    tree.charge(objcg.id(), Counter::Memory, 8000).unwrap();
    tree.charge(objcg.id(), Counter::Memory, 1).unwrap_err();
    tree.uncharge(objcg.id(), Counter::Memory, 8000);
    // The vm has no limit: what it was charged before the tenant refused is no peak.
    tree.charge(objcg.id(), Counter::Memory, 1 << 20).unwrap_err();
    assert_eq!([&root, &tenant, &vm].map(peaks), [[2000, 10_000, 0]; 3]);
    vm.reset_peak(Counter::Memory).unwrap();
    assert_eq!((peaks(&vm), peaks(&tenant)), ([2000, 2000, 0], [2000, 10_000, 0]));
    tree.charge(objcg.id(), Counter::Memory, 10).unwrap();
    tree.uncharge(objcg.id(), Counter::Memory, 10);
    assert_eq!(peaks(&vm), [2000, 2010, 0]);
    tree.leave(id, NODE, object(2000), 2000);
    // The next life of the index has its own.
    drop(objcg);
    let index = vm.index();
    vm.offline().unwrap();
    assert_eq!((peaks(&vm), vm.reset_peak(Counter::Memory)), ([0; 3], Err(Error::Offline { id: vm.id() })));
    drop(vm);
    let next = tenant.mkdir("next").unwrap();
    assert_eq!((next.index(), peaks(&next), next.events(MemcgEvent::Max)), (index, [0; 3], 0));
}

#[test]
fn no_thread_sees_more_than_the_peak_nor_the_peak_above_the_limit() {
    let tree = tree();
    let [_, tenant, vm] = path(&tree);
    const LIMIT: u64 = 3 << 20;
    tenant.set_max(Counter::Memory, LIMIT).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (tree, tenant, vm) = (&tree, &tenant, &vm);
            scope.spawn(move || {
                let mut ids = Vec::new();
                for i in 0..4000 {
                    let len = 1 + (thread * 7919 + i * 1299) % PAGE;
                    if let Ok(id) = enter(tree, vm, len) {
                        ids.push((id, len));
                    }
                    let before = tenant.current(Counter::Memory);
                    assert!(tenant.peak(Counter::Memory) >= before);
                    assert!(tenant.peak(Counter::Memory) <= LIMIT);
                    if i % 3 == 0 && !ids.is_empty() {
                        let (id, len) = ids.swap_remove(i as usize % ids.len());
                        tree.leave(id, NODE, object(len), len);
                    }
                }
                ids.into_iter().for_each(|(id, len)| tree.leave(id, NODE, object(len), len));
            });
        }
    });
    assert_eq!(currents(&tenant), [0; 3]);
    tree.assert_quiet();
}

// === marks ===

#[test]
fn a_memcg_above_its_mark_is_noted_once_until_it_is_looked_at() {
    let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
    let [_, tenant, vm] = path(&tree);
    assert!(tree.on_excess().attend());
    tree.on_excess().answer(Default::default(), || ());
    vm.set_max(Counter::Zswap, 6400).unwrap();
    let charge = |bytes| vm.objcg().unwrap().try_charge(bytes).unwrap();
    charge(6300);
    assert!(!tree.on_excess().is_rung());
    assert_eq!((noted(&tree), vm.excess()), (vec![], None), "at the mark, a 64th below the limit");
    charge(1);
    charge(1);
    assert!(tree.on_excess().is_rung());
    assert_eq!(vm.excess(), Some((Counter::Zswap, 2)));
    assert_eq!(noted(&tree), ["/tenant/vm"]);
    assert_eq!(noted(&tree), [""; 0]);
    charge(1);
    assert_eq!(noted(&tree), ["/tenant/vm"], "noted again");

    // Memory: high below max; and a limit below the usage.
    tenant.set_high(6303).unwrap();
    assert_eq!((noted(&tree), tenant.excess()), (vec![], None));
    tenant.set_high(6000).unwrap();
    assert_eq!(tenant.excess(), Some((Counter::Memory, 303)));
    tenant.set_max(Counter::Memory, 1000).unwrap();
    assert_eq!((tenant.high(), tenant.max(Counter::Memory)), (6000, 1000));
    assert_eq!(tenant.excess(), Some((Counter::Memory, 6303 - (1000 - 15))));
    tenant.set_max(Counter::Swap, 0).unwrap();
    assert_eq!(noted(&tree), ["/tenant"]);
    tenant.set_high(NO_LIMIT).unwrap();
    assert_eq!(noted(&tree), ["/tenant"], "still above its limit");
    for counter in Counter::ALL {
        tenant.set_max(counter, NO_LIMIT).unwrap();
    }
    assert_eq!((noted(&tree), tenant.excess()), (vec![], None));
    // Both counters: the one that is furthest.
    vm.set_max(Counter::Memory, 640).unwrap();
    assert_eq!(vm.excess(), Some((Counter::Memory, 6303 - 630)));
    vm.objcg().unwrap().uncharge(6303);
    assert_eq!((noted(&tree), vm.excess()), (vec!["/tenant/vm".to_owned()], None));
}

#[test]
fn what_lies_in_stock_is_no_excess() {
    let tree = Tree::new(TreeConfig { stocks: 8, ..TreeConfig::default() });
    let [_, _, vm] = path(&tree);
    let id = enter(&tree, &vm, 1000).unwrap();
    vm.set_max(Counter::Zswap, 2000).unwrap();
    assert_eq!((noted(&tree), vm.excess()), (vec![], None));
    tree.leave(id, NODE, object(1000), 1000);
    vm.set_high(10).unwrap();
    assert_eq!((noted(&tree), vm.excess()), (vec![], None));
}

#[test]
fn removed_memcgs_are_not_given_out_and_who_gives_up_loses_nothing() {
    let tree = tree();
    let vms: Vec<_> = (0..4).map(|n| tree.root().mkdir(&format!("vm{n}")).unwrap()).collect();
    let objcgs: Vec<Objcg> = vms.iter().map(|vm| vm.objcg().unwrap()).collect();
    for (vm, objcg) in vms.iter().zip(&objcgs) {
        vm.set_max(Counter::Zswap, 100).unwrap();
        objcg.try_charge(100).unwrap();
    }
    vms[2].offline().unwrap();
    assert_eq!((vms[2].excess(), vms[3].excess()), (None, Some((Counter::Zswap, 1))));
    let mut first = None;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tree.take_excess(|memcg| {
            first = Some(memcg.path());
            panic!("no more");
        });
    }));
    assert!(panic.is_err());
    let mut rest = noted(&tree);
    rest.extend(first);
    rest.sort();
    assert_eq!(rest, ["/vm0", "/vm1", "/vm3"]);
    objcgs.iter().for_each(|objcg| objcg.uncharge(100));
}

// === events ===

#[test]
fn events_are_counted_here_and_all_the_way_up() {
    let tree = tree();
    let [root, tenant, vm] = path(&tree);
    vm.note(MemcgEvent::High);
    tenant.note(MemcgEvent::High);
    vm.note(MemcgEvent::Oom);
    assert_eq!([&root, &tenant, &vm].map(|memcg| memcg.events(MemcgEvent::High)), [2, 2, 1]);
    assert_eq!([&root, &tenant, &vm].map(|memcg| memcg.local_events(MemcgEvent::High)), [0, 1, 1]);
    vm.offline().unwrap();
    vm.note(MemcgEvent::High);
    assert_eq!([&root, &tenant, &vm].map(|memcg| memcg.events(MemcgEvent::High)), [3, 3, 2]);
    tenant.offline().unwrap();
    drop(tenant);
    let other = root.mkdir("other").unwrap(); // with the tenant's index
    vm.note(MemcgEvent::High);
    assert_eq!([&root, &other, &vm].map(|memcg| memcg.events(MemcgEvent::High)), [3, 0, 3], "its parent is forgotten");
    assert_eq!(root.events(MemcgEvent::Oom), 1);
}

// === prepaid objects ===

#[test]
fn a_prepaid_object_passes_a_full_memory_limit_and_pays_back_the_rest() {
    let tree = tree();
    let [root, tenant, vm] = path(&tree);
    let objcg = vm.objcg().unwrap();
    tenant.set_max(Counter::Memory, PAGE).unwrap();
    tree.charge(objcg.id(), Counter::Memory, PAGE).unwrap();
    hit(enter(&tree, &vm, 1360));
    let id = tree.enter_prepaid(&vm, NODE, object(1360), None, PAGE).unwrap();
    assert_eq!(id, objcg.id());
    assert_eq!([&root, &tenant, &vm].map(currents), [[1360, 1360, 0]; 3]);
    tree.assert_quiet();
    tree.leave(id, NODE, object(1360), 1360);
    assert_eq!(currents(&root), [0; 3]);
    tree.assert_quiet();
}

#[test]
fn a_refused_prepaid_object_leaves_the_page_charged() {
    let tree = tree();
    let [root, tenant, vm] = path(&tree);
    let objcg = vm.objcg().unwrap();
    tree.charge(objcg.id(), Counter::Memory, PAGE).unwrap();
    tenant.set_max(Counter::Memory, 0).unwrap();
    tenant.set_max(Counter::Zswap, 1000).unwrap();
    let refused = hit(tree.enter_prepaid(&vm, NODE, object(1001), Some(Event::ZswpOut), PAGE));
    assert_eq!((refused.memcg(), refused.counter()), (&tenant, Counter::Zswap));
    assert_eq!([&root, &tenant, &vm].map(currents), [[0, PAGE, 0]; 3]);
    tree.assert_quiet();
    vm.offline().unwrap();
    let offline = tree.enter_prepaid(&vm, NODE, object(10), None, PAGE);
    assert!(matches!(offline, Err(ChargeError::Offline(_))));
    assert_eq!([&root, &tenant].map(currents), [[0, PAGE, 0]; 2]);
    tree.uncharge(objcg.id(), Counter::Memory, PAGE);
    tree.assert_quiet();
}

#[test]
#[should_panic(expected = "an object of 4097 bytes is not paid by 4096")]
fn an_object_larger_than_its_page_panics() {
    let tree = tree();
    let _ = tree.enter_prepaid(&tree.root(), NODE, object(PAGE + 1), None, PAGE);
}
