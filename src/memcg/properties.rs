//! Properties of the whole layer, against a plain model and with real threads.
//!
//! 1. After any sequence of operations, usage as each counter, sums, peaks, events and paths are those of the model, and limits of
//!    each counter refuse what they must and nothing else (`sequences_match_a_plain_model`).
//! 2. After everything is freed and removed, nothing is left but the root (same test).
//! 3. Memcgs made and removed reuse indexes and ids (`ten_thousand_memcgs_leave_nothing_behind`).
//! 4. Limits hold at 0, 1, the exact fit and below usage, and a refusal says who and how much.
//! 5. Threads that charge, free, make and remove leave exact sums (`threads_leave_exact_sums`).
//! 6. A page that fits is not refused for a reservation that is rolled back (`transient_reservations_refuse_nobody`).

use super::*;
use crate::sync::Planted;
use crate::units::NodeId;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tree(nodes: usize) -> Tree {
    Tree::new(TreeConfig { nodes, ..TreeConfig::default() })
}

fn bytes(compressed: u64) -> Bytes4 {
    Bytes4 {
        compressed,
        original: 4096,
        payload: compressed - compressed / 8,
        incompressible: compressed / 2048 * 4096,
    }
}

// === 1 and 2 ===

const NODES: usize = 3;
/// What an object is charged as.
const OBJECT: &[Counter] = Counter::Zswap.charged();

#[derive(Clone, Debug)]
enum Op {
    Mkdir { parent: usize, name: u8 },
    Offline { memcg: usize },
    Limit { memcg: usize, counter: Counter, limit: u64 },
    Writeback { memcg: usize, on: bool },
    Store { memcg: usize, node: u8, len: u64 },
    Hold { memcg: usize, counter: Counter, len: u64 },
    Compress { charge: usize, node: u8, part: u64 },
    Move { object: usize, node: u8 },
    Free { object: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let nth = 0..64usize;
    let node = 0..NODES as u8;
    let counter = prop::sample::select(&Counter::ALL[..]);
    let held = prop::sample::select(&[Counter::Memory, Counter::Swap][..]);
    prop_oneof![
        3 => (nth.clone(), 0..4u8).prop_map(|(parent, name)| Op::Mkdir { parent, name }),
        2 => nth.clone().prop_map(|memcg| Op::Offline { memcg }),
        2 => (nth.clone(), counter, 0..16_000u64).prop_map(|(memcg, counter, limit)| Op::Limit { memcg, counter, limit }),
        1 => (nth.clone(), any::<bool>()).prop_map(|(memcg, on)| Op::Writeback { memcg, on }),
        8 => (nth.clone(), node.clone(), 1..4097u64).prop_map(|(memcg, node, len)| Op::Store { memcg, node, len }),
        5 => (nth.clone(), held, 1..4097u64).prop_map(|(memcg, counter, len)| Op::Hold { memcg, counter, len }),
        3 => (nth.clone(), node.clone(), 1..8u64).prop_map(|(charge, node, part)| Op::Compress { charge, node, part }),
        1 => (nth.clone(), node).prop_map(|(object, node)| Op::Move { object, node }),
        4 => nth.prop_map(|object| Op::Free { object }),
    ]
}

/// The plain model: memcgs by path, objects with the path they are charged to now.
#[derive(Default)]
struct Model {
    memcgs: BTreeMap<String, Limits>,
    objects: Vec<Object>,
    refused: BTreeMap<String, u64>,
}

/// What is set of a memcg, and what was there.
struct Limits {
    max: [u64; Counter::COUNT],
    peak: [u64; Counter::COUNT],
    hits: u64,
    writeback: bool,
}

impl Limits {
    fn none() -> Self {
        Limits { max: [NO_LIMIT; 3], peak: [0; 3], hits: 0, writeback: true }
    }
}

/// A charge that stands: of an object, or of what is no object.
struct Object {
    id: ObjcgId,
    at: String,
    counter: Counter,
    node: u8,
    len: u64,
}

fn within(path: &str, ancestor: &str) -> bool {
    ancestor == "/" || path == ancestor || path.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('/'))
}

fn parent_of(path: &str) -> String {
    match path.rfind('/') {
        Some(0) | None => "/".to_owned(),
        Some(at) => path[..at].to_owned(),
    }
}

impl Model {
    fn nth(&self, n: usize) -> String {
        self.memcgs.keys().nth(n % self.memcgs.len()).unwrap().clone()
    }

    fn usage(&self, path: &str, counter: Counter) -> u64 {
        let charged = self.objects.iter().filter(|object| within(&object.at, path));
        charged.filter(|object| object.counter.charged().contains(&counter)).map(|object| object.len).sum()
    }

    /// Who refuses so many bytes: the nearest to the memcg, and there the first of the counters.
    fn refuser(&self, path: &str, counters: &[Counter], len: u64) -> Option<(String, Counter)> {
        let mut at = path.to_owned();
        loop {
            let over = |&&counter: &&Counter| self.usage(&at, counter) + len > self.memcgs[&at].max[counter as usize];
            if let Some(&counter) = counters.iter().find(over) {
                return Some((at, counter));
            }
            if at == "/" {
                return None;
            }
            at = parent_of(&at);
        }
    }

    /// A charge stands: how much there is by now.
    fn raise_peaks(&mut self) {
        let now: Vec<_> =
            self.memcgs.keys().map(|path| Counter::ALL.map(|counter| self.usage(path, counter))).collect();
        for (limits, now) in self.memcgs.values_mut().zip(now) {
            limits.peak.iter_mut().zip(now).for_each(|(peak, now)| *peak = now.max(*peak));
        }
    }

    fn check_refusal(&mut self, path: &str, counters: &[Counter], len: u64, hit: &LimitHit) {
        let (at, counter) = self.refuser(path, counters, len).expect("nobody had a reason to refuse");
        assert_eq!((hit.memcg().path(), hit.counter()), (at.clone(), counter));
        assert_eq!((hit.usage(), hit.asked()), (self.usage(&at, counter), len));
        assert_eq!(hit.limit(), self.memcgs[&at].max[counter as usize]);
        if counters[0] == Counter::Zswap {
            *self.refused.entry(path.to_owned()).or_default() += 1;
        }
        if counter != Counter::Swap {
            for (_, limits) in self.memcgs.iter_mut().filter(|(above, _)| within(&at, above)) {
                limits.hits += 1;
            }
        }
    }

    fn objects_within(&self, path: &str) -> impl Iterator<Item = &Object> {
        let objects = self.objects.iter().filter(|object| object.counter == Counter::Zswap);
        objects.filter(move |object| within(&object.at, path))
    }

    fn check(&self, tree: &Tree) {
        tree.assert_quiet();
        for (path, limits) in &self.memcgs {
            let memcg = tree.by_path(path).expect("the model has it");
            assert_eq!(memcg.path(), *path);
            let usage = Counter::ALL.map(|counter| self.usage(path, counter));
            assert_eq!(Counter::ALL.map(|counter| memcg.current(counter)), usage, "{path}");
            assert_eq!(Counter::ALL.map(|counter| memcg.max(counter)), limits.max, "{path}");
            assert_eq!(Counter::ALL.map(|counter| memcg.peak(counter)), limits.peak, "{path}");
            assert_eq!(memcg.events(MemcgEvent::Max), limits.hits, "{path}");
            let mut sums = [Bytes4::default(); NODES];
            let mut total = Bytes4::default();
            for object in self.objects_within(path) {
                sums[usize::from(object.node)] += bytes(object.len);
                total += bytes(object.len);
            }
            assert_eq!(memcg.numa_stat().unwrap(), sums);
            let stat = memcg.stat().unwrap();
            assert_eq!(stat.bytes, total);
            assert_eq!((stat.resident, stat.places), (usage[1] - usage[0], usage[2]));
            let refused = self.refused.iter().filter(|(at, _)| within(at, path)).map(|(_, n)| n).sum::<u64>();
            assert_eq!(stat.events(Event::Refused), refused);
            let allowed = self.memcgs.iter().all(|(ancestor, above)| above.writeback || !within(path, ancestor));
            assert_eq!(memcg.writeback(), allowed);
            let subtree: Vec<_> = memcg.subtree().iter().map(Memcg::path).collect();
            assert_eq!(subtree.len(), self.memcgs.keys().filter(|other| within(other, path)).count());
            // Pre-order: everybody's parent has come before, and nobody from elsewhere between.
            for (i, at) in subtree.iter().enumerate().skip(1) {
                assert!(subtree[..i].contains(&parent_of(at)));
                let before = &subtree[i - 1];
                assert!(within(before, &parent_of(at)), "{at} after {before}");
            }
            let mut cursor = MemcgId(0);
            let mut walked = vec![path.clone()];
            while let Some(next) = memcg.next_descendant(cursor) {
                assert!(next.id() > cursor);
                cursor = next.id();
                walked.push(next.path());
            }
            let sorted = |mut paths: Vec<String>| {
                paths.sort();
                paths
            };
            assert_eq!(sorted(walked), sorted(subtree));
        }
        assert_eq!(tree.census().online, self.memcgs.len());
        for object in &self.objects {
            let group = tree.group_of(object.id);
            assert_eq!(tree.get(group).map(|memcg| memcg.path()).as_ref(), Some(&object.at));
        }
    }

    fn apply(&mut self, tree: &Tree, op: Op) {
        match op {
            Op::Mkdir { parent, name } => {
                let parent = self.nth(parent);
                let path = format!("{}/{name}", parent.trim_end_matches('/'));
                let made = tree.by_path(&parent).unwrap().mkdir(&name.to_string());
                match self.memcgs.get(&path) {
                    Some(_) => assert_eq!(made, Err(Error::Exists { path })),
                    None => {
                        assert_eq!(made.unwrap().path(), path);
                        self.memcgs.insert(path, Limits::none());
                    }
                }
            }
            Op::Offline { memcg } => {
                let path = self.nth(memcg);
                let memcg = tree.by_path(&path).unwrap();
                let children = self.memcgs.keys().filter(|other| *other != "/" && parent_of(other) == path).count();
                match memcg.offline() {
                    Err(Error::Root) => assert_eq!(path, "/"),
                    Err(error) => assert_eq!(error, Error::HasChildren { path, children }),
                    Ok(()) => {
                        assert_eq!((children, memcg.path()), (0, path.clone()));
                        self.memcgs.remove(&path);
                        let parent = parent_of(&path);
                        for object in self.objects.iter_mut().filter(|object| object.at == path) {
                            object.at.clone_from(&parent);
                        }
                        *self.refused.entry(parent).or_default() += self.refused.remove(&path).unwrap_or(0);
                    }
                }
            }
            Op::Limit { memcg, counter, limit } => {
                let path = self.nth(memcg);
                tree.by_path(&path).unwrap().set_max(counter, limit).unwrap();
                self.memcgs.get_mut(&path).unwrap().max[counter as usize] = limit;
            }
            Op::Writeback { memcg, on } => {
                let path = self.nth(memcg);
                tree.by_path(&path).unwrap().set_writeback(on).unwrap();
                self.memcgs.get_mut(&path).unwrap().writeback = on;
            }
            Op::Store { memcg, node, len } => {
                let path = self.nth(memcg);
                let objcg = tree.by_path(&path).unwrap().objcg().unwrap();
                match objcg.try_charge(len) {
                    Ok(()) => {
                        assert_eq!(self.refuser(&path, OBJECT, len), None);
                        tree.account(objcg.id(), NodeId(node), bytes(len));
                        let id = objcg.into_id();
                        self.objects.push(Object { id, at: path, counter: Counter::Zswap, node, len });
                        self.raise_peaks();
                    }
                    Err(hit) => self.check_refusal(&path, OBJECT, len, &hit),
                }
            }
            Op::Hold { memcg, counter, len } => {
                let path = self.nth(memcg);
                let objcg = tree.by_path(&path).unwrap().objcg().unwrap();
                match tree.charge(objcg.id(), counter, len) {
                    Ok(()) => {
                        assert_eq!(self.refuser(&path, counter.charged(), len), None);
                        self.objects.push(Object { id: objcg.into_id(), at: path, counter, node: 0, len });
                        self.raise_peaks();
                    }
                    Err(hit) => self.check_refusal(&path, counter.charged(), len, &hit),
                }
            }
            Op::Compress { charge, node, part } => {
                let held = |object: &&mut Object| object.counter == Counter::Memory;
                let count = self.objects.iter_mut().filter(held).count().max(1);
                let Some(page) = self.objects.iter_mut().filter(held).nth(charge % count) else { return };
                let (path, id, prepaid) = (page.at.clone(), page.id, page.len);
                let memcg = tree.by_path(&path).unwrap();
                if memcg.objcg().unwrap().id() != id {
                    return; // its own memcg is gone: who compresses for the parent charges it through the parent's objcg
                }
                let len = prepaid.div_ceil(part);
                match tree.enter_prepaid(&memcg, NodeId(node), bytes(len), None, prepaid) {
                    Ok(stored) => {
                        assert_eq!(stored, id);
                        assert_eq!(self.refuser(&path, &[Counter::Zswap], len), None, "memory.max is not asked");
                        let page = self.objects.iter_mut().filter(held).nth(charge % count).unwrap();
                        (page.counter, page.node, page.len) = (Counter::Zswap, node, len);
                        tree.put(id); // the page's
                        self.raise_peaks();
                    }
                    Err(ChargeError::Limit(hit)) => self.check_refusal(&path, &[Counter::Zswap], len, &hit),
                    Err(error) => panic!("{error}"),
                }
            }
            Op::Move { object, node } => {
                let count = self.objects.len().max(1);
                if let Some(object) = self.objects.get_mut(object % count)
                    && object.counter == Counter::Zswap
                {
                    tree.transfer(object.id, NodeId(object.node), NodeId(node), bytes(object.len));
                    object.node = node;
                }
            }
            Op::Free { object } => {
                if !self.objects.is_empty() {
                    free(tree, self.objects.swap_remove(object % self.objects.len()));
                }
            }
        }
    }

    fn drain(mut self, tree: &Tree) {
        for object in self.objects.drain(..) {
            free(tree, object);
        }
        for path in self.memcgs.keys().rev().filter(|path| *path != "/") {
            tree.by_path(path).unwrap().offline().unwrap();
        }
        tree.assert_quiet();
        let census = tree.census();
        assert_eq!((census.online, census.groups, census.objcgs), (1, 1, 1));
        assert_eq!(Counter::ALL.map(|counter| tree.root().current(counter)), [0; 3]);
        assert_eq!(tree.root().numa_stat().unwrap(), [Bytes4::default(); NODES]);
        assert_eq!(tree.root().stat().unwrap().events(Event::Refused), self.refused.values().sum::<u64>());
    }
}

fn free(tree: &Tree, object: Object) {
    if object.counter == Counter::Zswap {
        tree.unaccount(object.id, NodeId(object.node), bytes(object.len));
    }
    tree.uncharge(object.id, object.counter, object.len);
    tree.put(object.id);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sequences_match_a_plain_model(ops in prop::collection::vec(op(), 1..80)) {
        let tree = tree(NODES);
        let mut model = Model::default();
        model.memcgs.insert("/".to_owned(), Limits::none());
        for op in ops {
            model.apply(&tree, op);
            model.check(&tree);
        }
        model.drain(&tree);
    }
}

// === 3 ===

#[test]
fn ten_thousand_memcgs_leave_nothing_behind() {
    let tree = tree(2);
    let mut last = tree.root().id();
    for i in 0..10_000 {
        let parent = tree.root().mkdir("parent").unwrap();
        let child = parent.mkdir("child").unwrap();
        assert!(parent.id() > last && child.id() > parent.id());
        last = child.id();
        let objcg = child.objcg().unwrap();
        objcg.try_charge(10).unwrap();
        tree.count(objcg.id(), Event::ZswpOut, 1);
        child.offline().unwrap();
        // Every other memcg leaves while its object still lives.
        if i % 2 == 0 {
            objcg.uncharge(10);
            parent.offline().unwrap();
        } else {
            parent.offline().unwrap();
            objcg.uncharge(10);
        }
    }
    tree.assert_quiet();
    let census = tree.census();
    // Ids of an object's last owner are free only after the next sweep: one spare of each is in circulation.
    assert_eq!(census, Census { online: 1, groups: 1, objcgs: 1, group_indexes: 3, objcg_ids: census.objcg_ids });
    assert!(census.objcg_ids <= 4, "{census:?}");
    assert_eq!(tree.root().stat().unwrap().events(Event::ZswpOut), 10_000);
}

#[test]
fn an_index_is_not_recycled_while_a_handle_lives() {
    let tree = tree(1);
    let held = tree.root().mkdir("a").unwrap();
    held.offline().unwrap();
    let other = tree.root().mkdir("a").unwrap();
    assert_ne!(held.index(), other.index());
    assert_eq!((held.path(), held.is_online(), held.usage()), ("/a".to_owned(), false, 0));
    let (index, group) = (held.index(), held.group());
    assert_eq!(tree.get(group), Some(held.clone()));
    drop(held);
    assert_eq!(tree.get(group), None);
    let third = tree.root().mkdir("b").unwrap();
    assert_eq!((third.index(), third.group().generation()), (index, group.generation() + 1));
    assert_eq!(tree.get(group), None);
    tree.assert_quiet();
}

#[test]
fn objcg_ids_run_out_with_a_sentence_and_come_back() {
    let tree = Tree::new(TreeConfig { objcg_ids: 3, ..TreeConfig::default() });
    let a = tree.root().mkdir("a").unwrap();
    let b = tree.root().mkdir("b").unwrap();
    let object = b.objcg().unwrap().into_id();
    b.offline().unwrap();
    let refused = tree.root().mkdir("c").unwrap_err();
    assert_eq!(refused, Error::OutOfIds { limit: 3, online: 2 });
    assert!(refused.to_string().starts_with("all 3 objcg ids are in use, 2 of them by memcgs; remove memcgs, or free"));
    tree.assert_quiet();
    tree.put(object);
    let c = tree.root().mkdir("c").unwrap();
    assert_eq!(c.objcg().unwrap().id(), object);
    a.offline().unwrap();
    tree.assert_quiet();
}

// === 4 ===

#[test]
fn limits_hold_at_their_edges() {
    let tree = tree(1);
    let a = tree.root().mkdir("a").unwrap();
    let b = a.mkdir("b").unwrap();
    let objcg = b.objcg().unwrap();
    let fits = |bytes| objcg.try_charge(bytes).inspect(|()| objcg.uncharge(bytes)).is_ok();
    a.set_zswap_max(0).unwrap();
    assert!(fits(0) && !fits(1));
    a.set_zswap_max(1).unwrap();
    assert!(fits(1) && !fits(2) && !fits(u64::MAX));
    a.set_zswap_max(NO_LIMIT).unwrap();
    assert!(fits(MAX_USAGE) && !fits(MAX_USAGE + 1));
    objcg.try_charge(100).unwrap();
    a.set_zswap_max(99).unwrap();
    assert_eq!((a.usage(), b.usage()), (100, 100));
    assert!(!fits(1));
    objcg.uncharge(50);
    assert!(fits(49) && !fits(50));
    assert_eq!(tree.root().usage(), 50);
}

#[test]
fn a_refusal_says_who_refused_and_how_much() {
    let tree = tree(1);
    let a = tree.root().mkdir("a").unwrap();
    let b = a.mkdir("b").unwrap();
    a.set_zswap_max(150).unwrap();
    let objcg = b.objcg().unwrap();
    objcg.try_charge(100).unwrap();
    let hit = objcg.try_charge(51).unwrap_err();
    assert_eq!((hit.id(), hit.index(), hit.usage(), hit.limit(), hit.asked()), (a.id(), a.index(), 100, 150, 51));
    assert_eq!(
        hit.to_string(),
        "memcg /a (id 2) holds 100 of at most 150 bytes, so 51 more are refused; raise its memory.zswap.max or write \
         some of it back"
    );
    assert_eq!((tree.root().usage(), a.usage(), b.usage()), (100, 100, 100));
    let refused = |memcg: &Memcg| memcg.stat().unwrap().events(Event::Refused);
    assert_eq!((refused(&tree.root()), refused(&a), refused(&b)), (1, 1, 1));
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let root = tree(1).root();
    for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
        assert!(matches!(root.mkdir(name), Err(Error::BadName { .. })), "{name:?}");
    }
    for name in ["...", "a b", "\u{e9}", &"x".repeat(255)] {
        assert_eq!(root.mkdir(name).unwrap().path(), format!("/{name}"));
    }
    assert_eq!(root.tree().by_path("//..."), None);
    assert_eq!(root.tree().by_path(".../"), None);
    assert_eq!(root.tree().by_path(""), Some(root));
}

#[test]
fn a_removed_memcg_refuses_everything_and_keeps_its_names() {
    let tree = tree(1);
    let a = tree.root().mkdir("a").unwrap();
    let b = a.mkdir("b").unwrap();
    assert_eq!(a.offline(), Err(Error::HasChildren { path: "/a".to_owned(), children: 1 }));
    assert_eq!(tree.root().offline(), Err(Error::Root));
    b.offline().unwrap();
    let offline = Error::Offline { id: b.id() };
    assert_eq!(b.offline().as_ref(), Err(&offline));
    assert_eq!(b.mkdir("c").as_ref(), Err(&offline));
    assert_eq!(b.objcg().err().as_ref(), Some(&offline));
    assert_eq!(b.set_zswap_max(1).as_ref(), Err(&offline));
    assert_eq!((b.path(), b.parent(), b.children(), b.subtree()), ("/a/b".to_owned(), Some(a), vec![], vec![]));
    assert_eq!(tree.find(b.id()), None);
    assert_eq!(tree.by_path("a/b"), None);
}

#[test]
fn the_handover_switches_when_the_caller_says() {
    let tree = tree(1);
    let a = tree.root().mkdir("a").unwrap();
    let id = a.objcg().unwrap().into_id();
    a.offline_with(|handover| {
        assert_eq!((handover.child(), handover.parent()), (a.group(), tree.root().group()));
        assert!(tree.is_current(id, a.group()) && a.objcg().is_err());
        let switched = handover.switch();
        assert!(tree.is_current(id, tree.root().group()));
        switched
    })
    .unwrap();
    tree.put(id);
    tree.assert_quiet();
}

// === 5 and 6 ===

#[test]
fn threads_leave_exact_sums() {
    let tree = tree(2);
    let top = tree.root().mkdir("top").unwrap();
    const LIMIT: u64 = 50_000;
    top.set_zswap_max(LIMIT).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (tree, top) = (&tree, &top);
            scope.spawn(move || {
                let mut objects = Vec::new();
                for round in 0..300 {
                    let middle = top.mkdir(&format!("t{thread}")).unwrap();
                    let memcg = middle.mkdir("inner").unwrap();
                    for i in 0..10 {
                        let len = 1 + (thread * 7919 + round * 104_729 + i * 1299) % 4096;
                        let node = (i % 2) as u8;
                        let objcg = memcg.objcg().unwrap();
                        if objcg.try_charge(len).is_ok() {
                            tree.account(objcg.id(), NodeId(node), bytes(len));
                            let id = objcg.into_id();
                            objects.push(Object { id, at: String::new(), counter: Counter::Zswap, node, len });
                        } else if let Some(object) = objects.pop() {
                            free(tree, object);
                        }
                        assert!(top.usage() <= LIMIT);
                    }
                    memcg.offline().unwrap();
                    middle.offline().unwrap();
                }
                objects.into_iter().for_each(|object| free(tree, object));
            });
        }
    });
    tree.assert_quiet();
    assert_eq!((top.usage(), tree.root().usage()), (0, 0));
    let census = tree.census();
    assert_eq!((census.online, census.groups, census.objcgs), (2, 2, 2));
}

#[test]
fn transient_reservations_refuse_nobody() {
    // The root has room for 5 more, the middle for 8. Whoever asks for 8 passes the middle and fails at the root;
    // whoever asks for 2 fits both, but not beside the other one's reservation. Patience without end here, for a
    // preempted climber may sleep for long.
    let tree = Tree::new(TreeConfig { patience: u32::MAX, planted: Planted::NONE, ..TreeConfig::default() });
    tree.root().set_zswap_max(5).unwrap();
    let middle = tree.root().mkdir("middle").unwrap();
    middle.set_zswap_max(8).unwrap();
    let (a, b) = (middle.mkdir("a").unwrap(), middle.mkdir("b").unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let objcg = a.objcg().unwrap();
            for _ in 0..20_000 {
                assert!(objcg.try_charge(8).is_err());
            }
        });
        scope.spawn(|| {
            let objcg = b.objcg().unwrap();
            for _ in 0..20_000 {
                objcg.try_charge(2).unwrap();
                objcg.uncharge(2);
            }
        });
    });
    assert_eq!(tree.root().usage(), 0);
    tree.assert_quiet();
}
