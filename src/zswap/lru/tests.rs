//! Lists against a model with exact times.

use super::ages::{MOST, tick};
use super::*;
use crate::memcg::{Memcg, TreeConfig};
use crate::sync::Arc;
use proptest::prelude::*;
use std::collections::HashSet;

const N0: NodeId = NodeId(0);
const RAW: Which = Which { node: N0, raw: true };
const COMPRESSED: Which = Which { node: N0, raw: false };
const SECOND: u64 = 1024; // a tick

/// Lists over a tree, with a clock that is set.
struct Rig {
    lru: Arc<Lru>,
    tree: Tree,
    clock: Clock,
}

impl Rig {
    fn new(owners: usize) -> Self {
        let clock = Clock::settable();
        let lru = Arc::new(Lru::new(owners, 2, clock.clone(), Planted::NONE).unwrap());
        let keeper = Arc::clone(&lru);
        let tree = Tree::kept(
            TreeConfig { nodes: 2, ..TreeConfig::default() },
            Box::new(move |handover| {
                let (child, parent) = (handover.child(), handover.parent());
                keeper.reparent(child, parent, || handover.switch())
            }),
        );
        Rig { lru, tree, clock }
    }

    fn add(&self, memcg: &Memcg, owner: u32, which: Which) {
        let objcg = memcg.objcg().unwrap();
        self.lru.set_codec(Owner(owner), 1, false);
        self.lru.add(Owner(owner), &self.tree, objcg.id(), which);
    }

    fn order(&self, memcg: &Memcg, which: Which) -> Vec<u32> {
        let mut order = Vec::new();
        self.lru.for_each(memcg.group(), which, |owner| order.push(owner.0));
        order
    }

    /// Look at everything that has lain for `age` milliseconds, and pick it.
    fn aged(&self, memcg: &Memcg, which: Which, age: u64) -> Vec<u32> {
        let limits = Limits { age: Some(Duration::from_millis(age)), ..ALL };
        self.scan(memcg, &mut Lap::of(which), &limits).1
    }

    fn scan(&self, memcg: &Memcg, lap: &mut Lap, limits: &Limits) -> (usize, Vec<u32>) {
        let mut picked = Vec::new();
        let seen = self.lru.scan(memcg.group(), lap, limits, |_| Look::Pick(100), &mut picked);
        (seen, picked.into_iter().map(|owner| owner.0).collect())
    }
}

const ALL: Limits = Limits { entries: usize::MAX, bytes: u64::MAX, age: None, cold_only: false };

#[test]
fn a_scan_stops_at_the_entry_that_meets_its_bytes() {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    (0..10).for_each(|owner| rig.add(&root, owner, COMPRESSED));
    let mut lap = Lap::of(COMPRESSED);
    let of_bytes = |bytes| Limits { bytes, ..ALL };
    assert_eq!(rig.scan(&root, &mut lap, &of_bytes(1)), (1, vec![0]));
    assert_eq!(rig.scan(&root, &mut lap, &of_bytes(200)), (2, vec![1, 2]));
    assert_eq!(rig.scan(&root, &mut lap, &of_bytes(201)), (3, vec![3, 4, 5]));
    assert_eq!(rig.scan(&root, &mut lap, &of_bytes(0)), (0, vec![]));
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (4, vec![6, 7, 8, 9]));
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (0, vec![]), "the lap is over");
    assert_eq!(rig.order(&root, COMPRESSED), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_lap_sees_nothing_twice_whatever_others_take_and_rotate() {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    let objcg = root.objcg().unwrap();
    let two = Limits { entries: 2, ..ALL };
    // Referenced ones, so that a second look would pick them.
    let fill = || {
        for owner in 0..6 {
            rig.lru.del(Owner(owner), &rig.tree, objcg.id(), RAW);
            rig.add(&root, owner, RAW);
            rig.lru.mark_referenced(Owner(owner));
        }
    };
    fill();
    let mut lap = Lap::of(RAW);
    assert_eq!(rig.scan(&root, &mut lap, &two), (2, vec![]));
    // Another walker looks at two, and two others are freed.
    assert_eq!(rig.scan(&root, &mut Lap::of(RAW), &two), (2, vec![]));
    for owner in [4, 5] {
        rig.lru.del(Owner(owner), &rig.tree, objcg.id(), RAW);
    }
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (0, vec![]), "0 and 1 are at the head again");
    assert_eq!(rig.order(&root, RAW), [0, 1, 2, 3]);
    // What the lap's owner took off itself does not shorten it.
    fill();
    let mut lap = Lap::of(RAW);
    assert_eq!(rig.scan(&root, &mut lap, &two), (2, vec![]));
    (0..2).for_each(|owner| rig.lru.del(Owner(owner), &rig.tree, objcg.id(), RAW));
    lap.took(2);
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (4, vec![]));
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (0, vec![]));
}

#[test]
fn a_warm_entry_ends_a_lap_and_a_referenced_one_ends_its_cold_part() {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    (0..5).for_each(|owner| rig.add(&root, owner, COMPRESSED));
    rig.lru.mark_referenced(Owner(2));
    let (mut lap, mut picked) = (Lap::of(COMPRESSED), Vec::new());
    let cold = Limits { cold_only: true, ..ALL };
    assert_eq!(rig.scan(&root, &mut lap, &cold), (2, vec![0, 1]));
    assert_eq!(rig.scan(&root, &mut lap, &cold), (0, vec![]), "it still is referenced");
    let look = |owner| if owner == Owner(3) { Look::Warm } else { Look::Pick(1) };
    assert_eq!(rig.lru.scan(root.group(), &mut lap, &ALL, look, &mut picked), 2, "the referenced and the warm one");
    assert!(picked.is_empty());
    assert_eq!(rig.scan(&root, &mut lap, &ALL), (0, vec![]));
    assert_eq!(rig.scan(&root, &mut Lap::of(COMPRESSED), &ALL), (5, vec![4, 0, 1, 2, 3]));
}

#[test]
fn a_new_entry_is_spared_once_unless_it_has_lain_long() {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    let objcg = root.objcg().unwrap();
    for owner in 0..2 {
        rig.lru.set_codec(Owner(owner), 1, true);
        rig.lru.add(Owner(owner), &rig.tree, objcg.id(), COMPRESSED);
    }
    let one = Limits { entries: 1, ..ALL };
    assert_eq!(rig.scan(&root, &mut Lap::of(COMPRESSED), &one), (1, vec![]));
    rig.clock.set(10 * SECOND);
    assert_eq!(rig.aged(&root, COMPRESSED, 8 * SECOND), [1, 0]);
    rig.lru.mark_referenced(Owner(0));
    rig.clock.set(20 * SECOND);
    assert_eq!(rig.aged(&root, COMPRESSED, 8 * SECOND), [1], "a referenced one is rotated");
}

#[test]
fn who_waits_for_a_list_is_placed_when_his_turn_comes() {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    rig.add(&root, 0, COMPRESSED);
    rig.add(&root, 1, COMPRESSED);
    std::thread::scope(|scope| {
        let lists = rig.lru.lock(root.group());
        let waiter = scope.spawn(|| rig.add(&root, 2, COMPRESSED));
        std::thread::sleep(Duration::from_millis(20)); // shorter, it shows nothing
        rig.clock.set(10 * SECOND);
        drop(lists);
        waiter.join().unwrap();
    });
    rig.clock.set(12 * SECOND);
    assert_eq!(rig.aged(&root, COMPRESSED, 5 * SECOND), [0, 1]);
}

#[test]
fn ages_are_told_to_a_tick_and_to_a_factor_where_there_are_many() {
    let rig = Rig::new(1 << 17);
    let root = rig.tree.root();
    // An entry a second; a mark each until there are too many.
    let worst = |seconds: u32, from: u64| {
        let mut worst = 1.0f64;
        let mut age = from;
        while age < u64::from(seconds) {
            let limits = Limits { age: Some(Duration::from_millis(age * SECOND)), ..ALL };
            let reach = rig.lru.clock.millis().checked_sub(age * SECOND).map(tick);
            let lists = rig.lru.lock(root.group());
            let known = match reach.map(|tick| lists[COMPRESSED.index()].ages().reach(tick)) {
                Some(Reach::Before(link)) => owner(link).0,
                _ => 0,
            };
            drop(lists);
            assert!(limits.age.is_some());
            // Owner k was placed at second k; that before which all is given is so much older than it has to be.
            worst = worst.max(f64::from(seconds - known) / age as f64);
            age += 1 + age / 8;
        }
        worst
    };
    let mut placed = 0;
    let mut go_on = |until: u32| {
        while placed < until {
            rig.clock.set(u64::from(placed) * SECOND);
            rig.add(&root, placed, COMPRESSED);
            placed += 1;
        }
    };
    go_on(MOST as u32);
    rig.clock.set(u64::from(MOST as u32) * SECOND);
    assert_eq!(rig.aged(&root, COMPRESSED, 5 * SECOND).len(), MOST - 5, "to a tick");
    let worst_of = |seconds| (worst(seconds, 4) * 10.0) as u32;
    go_on(3600);
    let hour = worst_of(3600);
    go_on(86_400);
    let day = worst_of(86_400);
    rig.order(&root, COMPRESSED);
    assert!(hour <= 26 && day <= 33, "an hour: {hour}/10, a day: {day}/10");
}

/// What happens to the lists.
#[derive(Clone, Debug)]
enum Op {
    Add {
        owner: u32,
        raw: bool,
        child: bool,
    },
    Del {
        owner: u32,
    },
    Load {
        owner: u32,
    },
    Rehome {
        owner: u32,
    },
    Wait {
        millis: u64,
    },
    /// A lap in steps, with or without an age.
    Walk {
        child: bool,
        which: (u8, bool),
        entries: usize,
        age: Option<u64>,
    },
    /// The child goes, and another comes.
    Offline,
}

fn op(longest_wait: u64) -> impl Strategy<Value = Op> {
    let owner = 0u32..40;
    prop_oneof![
        8 => (owner.clone(), any::<bool>(), any::<bool>()).prop_map(|(owner, raw, child)| Op::Add { owner, raw, child }),
        3 => owner.clone().prop_map(|owner| Op::Del { owner }),
        2 => owner.clone().prop_map(|owner| Op::Load { owner }),
        1 => owner.prop_map(|owner| Op::Rehome { owner }),
        4 => (0..longest_wait).prop_map(|millis| Op::Wait { millis }),
        4 => (any::<bool>(), (0u8..2, any::<bool>()), 1usize..30, proptest::option::of(0..40 * SECOND))
            .prop_map(|(child, which, entries, age)| Op::Walk { child, which, entries, age }),
        1 => Just(Op::Offline),
    ]
}

/// An entry as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    owner: u32,
    which: Which,
    child: bool,
    placed: u64,
    referenced: bool,
}

/// Run the operations on both. With `exact`, there are few enough ticks that ages are told to a tick.
fn run(ops: Vec<Op>, exact: bool) {
    let rig = Rig::new(64);
    let root = rig.tree.root();
    let mut child = root.mkdir("child").unwrap();
    let mut known: Vec<Known> = Vec::new(); // in order of placement
    let (mut now, mut ticks) = (5 * SECOND, HashSet::new());
    rig.clock.set(now);
    for op in ops {
        let of = |is_child: bool, child: &Memcg| if is_child { child.clone() } else { root.clone() };
        match op {
            Op::Add { owner, raw, child: to } if known.iter().all(|entry| entry.owner != owner) => {
                let which = Which { node: N0, raw };
                rig.add(&of(to, &child), owner, which);
                known.push(Known { owner, which, child: to, placed: now, referenced: false });
            }
            Op::Del { owner } | Op::Rehome { owner } | Op::Load { owner } => {
                let Some(at) = known.iter().position(|entry| entry.owner == owner) else { continue };
                let mut entry = known[at];
                let objcg = of(entry.child, &child).objcg().unwrap();
                match op {
                    Op::Del { .. } => {
                        rig.lru.del(Owner(owner), &rig.tree, objcg.id(), entry.which);
                        known.remove(at);
                    }
                    Op::Load { .. } => {
                        rig.lru.mark_referenced(Owner(owner));
                        known[at].referenced = true;
                    }
                    _ => {
                        let to = NodeId(1 - entry.which.node.0);
                        rig.lru.rehome(Owner(owner), &rig.tree, objcg.id(), entry.which, to);
                        known.remove(at);
                        entry.which.node = to;
                        known.push(Known { placed: now, ..entry });
                    }
                }
            }
            Op::Add { .. } => {}
            Op::Wait { millis } => {
                let later = now + millis;
                ticks.insert(tick(now));
                // One tick is the newest segment, and one mark each for the others.
                if !exact || ticks.len() < MOST || tick(later) == tick(now) {
                    now = later;
                }
                rig.clock.set(now);
            }
            Op::Walk { child: of_child, which: (node, raw), entries, age } => {
                let which = Which { node: NodeId(node), raw };
                let memcg = of(of_child, &child);
                let mine = |entry: &Known| entry.which == which && entry.child == of_child;
                let before = rig.order(&memcg, which);
                let limits = Limits { entries, age: age.map(Duration::from_millis), ..ALL };
                let (seen, picked) = rig.scan(&memcg, &mut Lap::of(which), &limits);
                let given = &before[..seen];
                let lain = |owner: u32| now - known.iter().find(|entry| entry.owner == owner).unwrap().placed;
                let cold: Vec<u32> = given
                    .iter()
                    .copied()
                    .filter(|&owner| !known.iter().any(|entry| entry.owner == owner && entry.referenced))
                    .collect();
                assert_eq!(picked, cold, "what was not referenced is picked");
                match age {
                    None => assert_eq!(seen, before.len().min(entries)),
                    Some(age) => {
                        for &owner in given {
                            assert!(lain(owner) >= age, "{owner} has lain {} of {age}", lain(owner));
                        }
                        if exact && seen < entries {
                            for &owner in &before[seen..] {
                                assert!(lain(owner) < age + SECOND, "{owner} has lain {}: it was due", lain(owner));
                            }
                        }
                    }
                }
                for &owner in given {
                    let at = known.iter().position(|entry| entry.owner == owner).unwrap();
                    let entry = known.remove(at);
                    assert!(mine(&entry));
                    known.push(Known { placed: now, referenced: false, ..entry });
                }
            }
            Op::Offline => {
                child.offline().unwrap();
                child = root.mkdir("child").unwrap();
                known.iter_mut().for_each(|entry| entry.child = false);
            }
        }
        for is_child in [false, true] {
            let memcg = of(is_child, &child);
            for which in [0, 1].map(NodeId).into_iter().flat_map(Which::of) {
                let mut there = rig.order(&memcg, which);
                let mut model: Vec<_> =
                    known.iter().filter(|entry| entry.which == which && entry.child == is_child).collect();
                if exact {
                    // To a tick, a list is in order of placement, merged ones too.
                    let ticks: Vec<_> = there
                        .iter()
                        .map(|&owner| tick(known.iter().find(|entry| entry.owner == owner).unwrap().placed))
                        .collect();
                    assert!(ticks.is_sorted(), "{ticks:?}");
                }
                there.sort_unstable();
                model.sort_unstable_by_key(|entry| entry.owner);
                assert_eq!(there, model.iter().map(|entry| entry.owner).collect::<Vec<_>>());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_a_walk_gives_has_lain_that_long_and_what_is_older_is_given(ops in prop::collection::vec(op(2 * SECOND), 1..150)) {
        run(ops, true);
    }

    #[test]
    fn ages_are_never_older_than_true_where_marks_are_thinned_out(ops in prop::collection::vec(op(8 * SECOND), 1..250)) {
        run(ops, false);
    }
}
