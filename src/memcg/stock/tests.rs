//! Stocks from outside: sums, limits, other trees.

use super::*;
use crate::memcg::TreeConfig;

const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];

fn object(len: u64) -> Bytes4 {
    Bytes4 { compressed: len, original: 4096, payload: len - len / 8, incompressible: 0 }
}

fn tree(stocks: usize) -> Tree {
    Tree::new(TreeConfig { nodes: 2, stocks, ..TreeConfig::default() })
}

#[test]
fn what_is_in_stock_is_no_usage() {
    for stocks in [0, 1, 8] {
        let tree = tree(stocks);
        let vm = tree.root().mkdir("vm").unwrap();
        let ids: Vec<_> = (0..100)
            .map(|n| tree.enter(&vm, NODES[n % 2], object(100 + n as u64), Some(Event::ZswpOut)).unwrap())
            .collect();
        let sum = (100..200).sum::<u64>();
        assert_eq!((vm.usage(), tree.root().usage()), (sum, sum), "with {stocks} stocks");
        let stat = vm.stat().unwrap();
        assert_eq!((stat.bytes.compressed, stat.bytes.original, stat.events(Event::ZswpOut)), (sum, 409_600, 100));
        let on_one: u64 = (100..200).skip(1).step_by(2).sum();
        assert_eq!(vm.numa_stat().unwrap()[1].compressed, on_one);
        tree.uncount(ids[0], Event::ZswpOut);
        for (n, id) in ids.into_iter().enumerate() {
            tree.leave(id, NODES[n % 2], object(100 + n as u64), 100 + n as u64);
        }
        assert_eq!((vm.usage(), vm.stat().unwrap().bytes), (0, Bytes4::default()));
        assert_eq!(vm.stat().unwrap().events(Event::ZswpOut), 99);
        tree.assert_quiet();
    }
}

#[test]
fn a_small_limit_is_used_to_the_last_byte() {
    let tree = tree(8);
    let top = tree.root().mkdir("top").unwrap();
    top.set_zswap_max(1000).unwrap();
    let [a, b] = ["a", "b"].map(|name| top.mkdir(name).unwrap());
    // What `a` gives back lies in its stock, and is there for `b`.
    for _ in 0..3 {
        let ids: Vec<_> = (0..10).map(|_| tree.enter(&a, NODES[0], object(100), None).unwrap()).collect();
        let Err(ChargeError::Limit(hit)) = tree.enter(&b, NODES[0], object(1), None) else { panic!("1001 of 1000") };
        assert_eq!((hit.memcg(), hit.usage(), hit.limit(), hit.asked()), (&top, 1000, 1000, 1));
        ids.into_iter().for_each(|id| tree.leave(id, NODES[0], object(100), 100));
        let id = tree.enter(&b, NODES[1], object(1000), None).unwrap();
        assert_eq!((a.usage(), b.usage()), (0, 1000));
        tree.leave(id, NODES[1], object(1000), 1000);
    }
    tree.assert_quiet();
}

#[test]
fn what_leaves_a_memcg_above_its_limit_makes_no_room_in_it() {
    let tree = tree(8);
    let vm = tree.root().mkdir("vm").unwrap();
    let ids: Vec<_> = (0..20).map(|_| tree.enter(&vm, NODES[0], object(100), None).unwrap()).collect();
    vm.set_zswap_max(1000).unwrap();
    for (gone, id) in ids.into_iter().enumerate() {
        let left = 2000 - 100 * gone as u64;
        let entered = tree.enter(&vm, NODES[0], object(1), None);
        assert_eq!(entered.is_ok(), left < 1000, "with {left} of 1000 charged");
        entered.into_iter().for_each(|id| tree.leave(id, NODES[0], object(1), 1));
        tree.leave(id, NODES[0], object(100), 100);
    }
    tree.assert_quiet();
}

#[test]
fn a_limit_lowered_to_the_usage_stands_at_once() {
    let tree = tree(8);
    let vm = tree.root().mkdir("vm").unwrap();
    let id = tree.enter(&vm, NODES[0], object(500), None).unwrap(); // and a batch more lies in stock
    vm.set_zswap_max(500).unwrap();
    assert_eq!(vm.usage(), 500);
    assert!(matches!(tree.enter(&vm, NODES[0], object(1), None), Err(ChargeError::Limit(_))));
    tree.leave(id, NODES[0], object(500), 500);
    let id = tree.enter(&vm, NODES[0], object(500), None).unwrap();
    tree.leave(id, NODES[0], object(500), 500);
    tree.assert_quiet();
}

#[test]
fn removed_memcgs_and_those_of_other_trees_are_refused_by_name() {
    let (tree, other) = (tree(8), tree(8));
    let vm = tree.root().mkdir("vm").unwrap();
    let id = tree.enter(&vm, NODES[0], object(64), None).unwrap();
    let refused = other.enter(&vm, NODES[0], object(64), None).unwrap_err();
    assert!(matches!(&refused, ChargeError::Foreign { path } if path == "/vm"), "{refused}");
    vm.offline().unwrap();
    assert!(matches!(tree.enter(&vm, NODES[0], object(64), None), Err(ChargeError::Offline(_))));
    assert_eq!(tree.root().usage(), 64, "its object is the parent's");
    tree.leave(id, NODES[0], object(64), 64);
    assert_eq!(tree.census().objcgs, 1, "no reference is left in stock");
    tree.assert_quiet();
}

#[test]
fn a_thread_that_goes_round_many_memcgs_leaves_exact_sums() {
    let tree = tree(2);
    let vms: Vec<_> = (0..20).map(|n| tree.root().mkdir(&format!("vm{n}")).unwrap()).collect();
    let mut objects = Vec::new();
    for round in 0..30u64 {
        for (n, vm) in vms.iter().enumerate() {
            let (node, len) = (NODES[(n + round as usize) % 2], 64 + round * 16);
            objects.push((tree.enter(vm, node, object(len), Some(Event::ZswpOut)).unwrap(), node, len));
        }
        if round % 3 == 2 {
            objects.drain(..20).for_each(|(id, node, len)| tree.leave(id, node, object(len), len));
        }
    }
    // Twenty of thirty rounds are left, the youngest.
    let sum: u64 = (10..30).map(|round| 64 + round * 16).sum();
    for vm in &vms {
        let stat = vm.stat().unwrap();
        assert_eq!((vm.usage(), stat.bytes.compressed, stat.events(Event::ZswpOut)), (sum, sum, 30));
    }
    objects.into_iter().for_each(|(id, node, len)| tree.leave(id, node, object(len), len));
    assert_eq!(tree.root().usage(), 0);
    tree.assert_quiet();
}

#[test]
fn threads_that_fit_together_are_never_refused_and_leave_exact_sums() {
    const MOST: u64 = 1 << 20;
    let tree = tree(4);
    let top = tree.root().mkdir("top").unwrap();
    top.set_zswap_max(3 * MOST).unwrap(); // batches are taken while it is far from full, and not near it
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (tree, top) = (&tree, &top);
            scope.spawn(move || {
                let (mut objects, mut sum) = (Vec::new(), 0);
                for round in 0..40u64 {
                    let memcg = top.mkdir(&format!("t{thread}")).unwrap();
                    for i in 0..600 {
                        let len = 1 + (thread * 7919 + round * 104_729 + i * 1299) % 4096;
                        let node = NODES[(i % 2) as usize];
                        if sum + len <= MOST {
                            let id = tree.enter(&memcg, node, object(len), None).expect("three times this much fits");
                            objects.push((id, node, len));
                            sum += len;
                        }
                        while sum > MOST / 2 && i % 3 == 0 {
                            let (id, node, len) = objects.swap_remove(i as usize % objects.len());
                            tree.leave(id, node, object(len), len);
                            sum -= len;
                        }
                    }
                    assert!(top.usage() <= 3 * MOST);
                    memcg.offline().unwrap();
                }
                for (id, node, len) in objects {
                    tree.leave(id, node, object(len), len);
                }
            });
        }
    });
    assert_eq!((top.usage(), top.stat().unwrap().bytes), (0, Bytes4::default()));
    tree.assert_quiet();
    assert_eq!(tree.census().objcgs, 2);
}

#[test]
fn an_event_taken_back_before_it_is_settled_is_none_and_not_less() {
    let tree = tree(1);
    let vm = tree.root().mkdir("vm").unwrap();
    let id = tree.enter(&vm, NODES[0], object(100), Some(Event::ZswpOut)).unwrap();
    // Somebody else is at the stock that the event lies in: it is taken back from the shared word.
    let hierarchy = tree.shared().lock();
    let busy = tree.shared().stocks.of(id).unwrap();
    tree.uncount(id, Event::ZswpOut);
    let stat = [vm.index(), tree.root().index()].map(|at| tree.shared().stat(&hierarchy, at));
    drop(busy);
    drop(hierarchy);
    assert_eq!(stat.map(|stat| stat.events(Event::ZswpOut)), [0, 0]);
    tree.leave(id, NODES[0], object(100), 100);
    assert_eq!(vm.stat().unwrap().events(Event::ZswpOut), 0);
    tree.assert_quiet();
}

#[test]
fn what_lies_in_stock_is_there_for_whoever_would_be_refused() {
    const MOST: u64 = 4 << 20;
    let tree = tree(8);
    let top = tree.root().mkdir("top").unwrap();
    top.set_zswap_max(MOST).unwrap();
    let [a, b] = ["a", "b"].map(|name| top.mkdir(name).unwrap());
    let id = tree.enter(&a, NODES[0], object(100), None).unwrap();
    let charged = || top.words().of(Counter::Zswap).usage();
    assert!(charged() > 100 + BATCH_BYTES / 2, "far from the limit a batch is taken: {}", charged());
    // Not a byte is left but those.
    let owner = b.objcg().unwrap();
    owner.try_charge(MOST - 100).unwrap();
    assert_eq!((charged(), a.usage(), b.usage()), (MOST, 100, MOST - 100));
    assert!(owner.try_charge(1).is_err());
    owner.uncharge(MOST - 100);
    tree.leave(id, NODES[0], object(100), 100);
    drop(owner);
    tree.assert_quiet();
}

#[test]
fn no_batch_is_taken_where_few_would_fit() {
    let charged_of_100 = |limit: u64| {
        let tree = tree(8);
        let vm = tree.root().mkdir("top").unwrap().mkdir("vm").unwrap();
        vm.parent().unwrap().set_zswap_max(limit).unwrap();
        let id = tree.enter(&vm, NODES[0], object(100), None).unwrap();
        let charged = vm.words().of(Counter::Zswap).usage();
        tree.leave(id, NODES[0], object(100), 100);
        charged
    };
    assert_eq!(charged_of_100(COMFORT * BATCH_BYTES), 100, "the mark lies below the limit");
    assert_eq!(charged_of_100(2 * COMFORT * BATCH_BYTES), 100 + BATCH_BYTES);
}

#[test]
fn what_a_stock_keeps_is_bounded() {
    let tree = tree(1);
    let vm = tree.root().mkdir("vm").unwrap();
    let ids: Vec<_> = (0..1000).map(|_| tree.enter(&vm, NODES[0], object(1000), None).unwrap()).collect();
    let id = ids[0];
    ids.into_iter().for_each(|id| tree.leave(id, NODES[0], object(1000), 1000));
    let (kept, references) = (vm.words().of(Counter::Zswap).usage(), tree.shared().objcgs.references(id));
    assert!(kept <= 3 * BATCH_BYTES, "{kept} bytes lie in stock");
    assert!(references <= 3 * u64::from(BATCH_REFERENCES), "{references} references lie in stock");
    assert_eq!(vm.usage(), 0);
    tree.assert_quiet();
}

#[test]
fn events_are_counted_whether_there_is_a_stock_or_not() {
    for stocks in [0, 1] {
        let tree = tree(stocks);
        let [a, b] = ["a", "b"].map(|name| tree.root().mkdir(name).unwrap());
        let [of_a, of_b] = [&a, &b].map(|vm| tree.enter(vm, NODES[0], object(100), Some(Event::ZswpOut)).unwrap());
        for (id, n) in [(of_a, 5), (of_b, 7), (of_a, 11)] {
            tree.count(id, Event::ZswpIn, n);
        }
        tree.cancel(of_a, NODES[0], object(100), Some(Event::ZswpOut));
        let events = [&a, &b, &tree.root()].map(|vm| {
            let stat = vm.stat().unwrap();
            (stat.events(Event::ZswpIn), stat.events(Event::ZswpOut), stat.bytes.compressed, vm.usage())
        });
        assert_eq!(events, [(16, 0, 0, 0), (7, 1, 100, 100), (23, 1, 100, 100)]);
        tree.leave(of_b, NODES[0], object(100), 100);
        tree.assert_quiet();
    }
}
