//! The races of cursors over memcgs, and of registrations, on the real code with small trees.
//!
//! The kernel's cursor is a pointer with a reference (its mem_cgroup_iter), and its races are named after the discussion of
//! that: A, a walk that finds the cursor taken restarts at the root, and a lost exchange leaks a reference; B, a reference
//! dropped twice; C, the cursor's only reference dropped by who takes a memcg offline. Ours is an id.
//!
//! | model | race |
//! |---|---|
//! | `two_advancers_vs_offliner` | two claimers of one cursor and a removal (A, B, C, T3.7): references, visits |
//! | `two_advancers_miss_nobody` | the same two without removal: no turn is lost |
//! | `scoped_cursor_vs_siblings` | a subtree's cursor, against memcgs coming and going beside it (A, T3.8) |
//! | `claim_vs_offline_of_its_scope` | a claim, against the removal of the memcg it walks from, and the index's next life |
//! | `finish_vs_claims` | giving back what a claim did not use, against claims that move the cursor on |
//! | `registration_vs_reclaim` | the end of a registration, against a call of its reclaimer |
use loom_tests::{catches, outcomes};
use std::collections::BTreeSet;
use zspool::memcg::{Ask, Cancel, End, Memcg, MemcgId, ReclaimRequest, Reclaimed, Reclaimer, Source, Tree, TreeConfig};
use zspool::sync::atomic::{AtomicBool, Ordering};
use zspool::sync::{Arc, Bug, Mutex, Planted, Rank, thread};

fn tree(planted: Planted) -> Tree {
    Tree::new(TreeConfig { nodes: 1, stripes: 1, patience: 0, planted, ..TreeConfig::default() })
}

fn listed(parent: &Memcg, name: &str) -> Memcg {
    let memcg = parent.mkdir(name).unwrap();
    let id = memcg.objcg().unwrap().into_id();
    memcg.tree().enlist(id);
    memcg.tree().put(id);
    memcg
}

/// All handles are gone but those on `kept`: nothing is counted twice or leaked.
fn assert_balanced(tree: &Tree, online: usize) {
    tree.assert_quiet();
    let census = tree.census();
    assert_eq!((census.online, census.groups, census.objcgs), (online, online, online), "references");
}

type Visits = Arc<Mutex<Vec<MemcgId>>>;

/// A thread that claims `times` turns and notes whose they were; `gone` is checked against each.
fn advancer(scope: &Memcg, times: usize, visits: &Visits, gone: &Arc<(AtomicBool, MemcgId)>) -> thread::JoinHandle<()> {
    let (scope, visits, gone) = (scope.clone(), Arc::clone(visits), Arc::clone(gone));
    thread::spawn("advancer", move || {
        for _ in 0..times {
            let was_gone = gone.0.load(Ordering::Acquire);
            let claim = scope.claim(1, 1).expect("some stay listed");
            assert!(!was_gone || claim.memcg().id() != gone.1, "a memcg was visited after it was gone");
            visits.lock().push(claim.memcg().id());
            claim.finish(1);
        }
    })
    .unwrap()
}

// === two_advancers_vs_offliner ===

/// Whether the one that goes was visited, and whether what it left was visited at its parent.
fn two_advancers_vs_offliner() -> (bool, bool) {
    let tree = tree(Planted::NONE);
    let root = tree.root();
    let [a, b] = ["a", "b"].map(|name| listed(&root, name));
    let (a, b, visits) = (a.id(), b, Visits::new(Mutex::new(Rank::Leaf, Vec::new())));
    let gone = Arc::new((AtomicBool::new(false), b.id()));
    let advancers = [1, 1].map(|times| advancer(&root, times, &visits, &gone));
    b.offline().unwrap();
    gone.0.store(true, Ordering::Release);
    let b_id = b.id();
    drop(b);
    advancers.into_iter().for_each(|thread| thread.join().unwrap());
    let visits = visits.lock();
    assert_eq!(visits.len(), 2);
    assert!(visits.iter().all(|&id| [root.id(), a, b_id].contains(&id)), "a stranger was visited");
    // Two are listed all the time, a and b or the root: in two claims everyone who stays has a turn.
    assert!(visits.contains(&a), "a memcg with entries was not visited");
    let seen = (visits.contains(&b_id), visits.contains(&root.id()));
    drop((visits, root));
    assert_balanced(&tree, 2);
    seen
}

#[test]
fn two_advancers_vs_offliner_visits_who_stays_and_leaks_nothing() {
    let seen = outcomes(two_advancers_vs_offliner);
    assert_eq!(seen, BTreeSet::from([(false, true), (true, false)]));
}

// === two_advancers_miss_nobody ===

/// Whose the turns were, in order of id.
fn two_advancers_miss_nobody(planted: Planted) -> Vec<u64> {
    let tree = tree(planted);
    let root = tree.root();
    let ids = ["a", "b", "c"].map(|name| listed(&root, name).id());
    let visits = Visits::new(Mutex::new(Rank::Leaf, Vec::new()));
    let gone = Arc::new((AtomicBool::new(false), MemcgId(0)));
    let other = advancer(&root, 2, &visits, &gone);
    for _ in 0..2 {
        let claim = root.claim(1, 1).unwrap();
        visits.lock().push(claim.memcg().id());
        claim.finish(1);
    }
    other.join().unwrap();
    let mut visits = std::mem::take(&mut *visits.lock());
    visits.sort();
    assert!(ids.iter().all(|id| visits.contains(id)), "a memcg had no turn in as many claims as there are memcgs");
    drop(root);
    assert_balanced(&tree, 4);
    visits.into_iter().map(|id| id.0 - ids[0].0).collect()
}

#[test]
fn two_advancers_miss_nobody_however_they_meet() {
    // Whoever comes when: four claims are a, b, c and a again.
    let seen = outcomes(|| two_advancers_miss_nobody(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([vec![0, 0, 1, 2]]));
}

#[test]
fn two_advancers_catches_a_cursor_stored_without_exchange() {
    let message = catches(|| outcomes(|| two_advancers_miss_nobody(Planted::bug(Bug::CursorStoresBlindly))));
    assert!(message.contains("a memcg had no turn"), "{message}");
}

// === scoped_cursor_vs_siblings ===

/// How often the tenant itself had a turn, for what its child left.
fn scoped_cursor_vs_siblings(planted: Planted) -> usize {
    let tree = tree(planted);
    let root = tree.root();
    let old = listed(&root, "old");
    let tenant = root.mkdir("tenant").unwrap();
    let child = listed(&tenant, "child");
    let (tenant_id, child_id) = (tenant.id(), child.id());
    let churn = {
        let root = root.clone();
        thread::spawn("churn", move || {
            let new = listed(&root, "new");
            old.offline().unwrap(); // the root takes its place in the roster
            child.offline().unwrap(); // and the tenant its child's
            drop((new, old, child));
        })
        .unwrap()
    };
    let visit = |_| {
        let claim = tenant.claim(1, 1).expect("its own or its child's entries are there");
        let id = claim.memcg().id();
        claim.finish(1);
        id
    };
    let visits = [0, 1, 2].map(visit);
    churn.join().unwrap();
    assert!(visits.iter().all(|id| [tenant_id, child_id].contains(id)), "the walk left its subtree");
    drop((tenant, root));
    assert_balanced(&tree, 3);
    visits.into_iter().filter(|&id| id == tenant_id).count()
}

#[test]
fn scoped_cursor_vs_siblings_stays_in_its_subtree() {
    let seen = outcomes(|| scoped_cursor_vs_siblings(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn scoped_cursor_vs_siblings_catches_a_walk_from_the_root() {
    let message = catches(|| outcomes(|| scoped_cursor_vs_siblings(Planted::bug(Bug::CursorLeavesScope))));
    assert!(message.contains("the walk left its subtree"), "{message}");
}

// === claim_vs_offline_of_its_scope ===

/// Whether the claim came before the removal, and whether the index had its next life before the end.
fn claim_vs_offline_of_its_scope() -> (bool, bool) {
    let tree = tree(Planted::NONE);
    let root = tree.root();
    let old = listed(&root, "old");
    let index = old.index();
    let claimed = Arc::new(AtomicBool::new(false));
    let claimer = {
        let (old, claimed) = (old.clone(), Arc::clone(&claimed));
        thread::spawn("claimer", move || match old.claim(4, 3) {
            Some(claim) => {
                assert_eq!(claim.memcg(), &old);
                claim.skip();
                claimed.store(true, Ordering::Release);
            }
            None => assert!(!old.is_online(), "it has entries"),
        })
        .unwrap()
    };
    old.offline().unwrap();
    drop(old);
    let new = listed(&root, "new");
    let claim = new.claim(4, 3).expect("it was listed just now");
    assert_eq!(
        (claim.memcg(), claim.entries(), claim.began()),
        (&new, 3, true),
        "the new life's cursor is not its own"
    );
    claim.finish(3);
    let recycled = new.index() == index;
    claimer.join().unwrap();
    assert_eq!(new.claim(4, 4).unwrap().entries(), 1, "the old life's claimer ended the new one's turn");
    drop((new, root));
    assert_balanced(&tree, 2);
    (claimed.load(Ordering::Acquire), recycled)
}

#[test]
fn claim_vs_offline_of_its_scope_leaves_the_next_life_alone() {
    let seen = outcomes(claim_vs_offline_of_its_scope);
    assert_eq!(seen, BTreeSet::from([(false, false), (false, true), (true, false), (true, true)]));
}

// === finish_vs_claims ===

/// Entries that a and b gave, of two a turn, when one claimer uses nothing of its claim and the other all of two.
fn finish_vs_claims(planted: Planted) -> [usize; 2] {
    let tree = tree(planted);
    let root = tree.root();
    let [a, b] = ["a", "b"].map(|name| listed(&root, name).id());
    let unused = root.claim(2, 1).unwrap();
    assert_eq!(unused.memcg().id(), a);
    let taker = {
        let root = root.clone();
        thread::spawn("taker", move || {
            let mut turns: Vec<(MemcgId, usize)> = Vec::new();
            for _ in 0..4 {
                let claim = root.claim(2, 1).unwrap();
                let id = claim.memcg().id();
                match turns.last_mut() {
                    Some((last, used)) if *last == id && !claim.began() => *used += 1,
                    _ => turns.push((id, 1)),
                }
                claim.finish(1);
            }
            turns
        })
        .unwrap()
    };
    unused.finish(0);
    let turns = taker.join().unwrap();
    assert!(turns.iter().all(|&(_, used)| used <= 2), "a turn gave more than its quantum");
    let given = [a, b].map(|of| turns.iter().filter(|(id, _)| *id == of).map(|(_, used)| used).sum());
    drop(root);
    assert_balanced(&tree, 3);
    given
}

#[test]
fn finish_vs_claims_gives_back_to_the_turn_it_came_from() {
    let seen = outcomes(|| finish_vs_claims(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([[2, 2]]));
}

#[test]
fn finish_vs_claims_catches_one_that_gives_to_anyone() {
    let message = catches(|| outcomes(|| finish_vs_claims(Planted::bug(Bug::CursorGivesBackToAnyone))));
    assert!(message.contains("a turn gave more than its quantum"), "{message}");
}

// === registration_vs_reclaim ===

struct Client {
    /// The client is being torn down.
    down: Arc<AtomicBool>,
}

impl Reclaimer for Client {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        assert!(!self.down.load(Ordering::Acquire), "a reclaimer was called after its registration");
        thread::yield_now();
        assert!(!self.down.load(Ordering::Acquire), "a registration ended during a call");
        Reclaimed { bytes: ask.bytes, end: End::Met }
    }
}

/// Whether the reclaimer was asked.
fn registration_vs_reclaim(planted: Planted) -> bool {
    let tree = tree(planted);
    let down = Arc::new(AtomicBool::new(false));
    let registration = tree.register(Box::new(Client { down: Arc::clone(&down) }));
    let caller = {
        let root = tree.root();
        thread::spawn("caller", move || root.reclaim(&ReclaimRequest::new(1), &Cancel::new()).is_ok()).unwrap()
    };
    drop(registration);
    down.store(true, Ordering::Release);
    let asked = caller.join().unwrap();
    assert_balanced(&tree, 1);
    asked
}

#[test]
fn registration_vs_reclaim_ends_after_the_last_call() {
    let seen = outcomes(|| registration_vs_reclaim(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn registration_vs_reclaim_catches_an_end_that_does_not_wait() {
    let message = catches(|| outcomes(|| registration_vs_reclaim(Planted::bug(Bug::RegistrationEndsEarly))));
    assert!(message.contains("a registration ended during a call"), "{message}");
}
