//! The races of handles: who removes, who reads, who gets the index and the slot next, and whose tag is whose.
//!
//! | model | race | bugs planted |
//! |---|---|---|
//! | `remove_vs_remove` | two who remove the same handle | RemoveSkipsClaim |
//! | `get_vs_next_use` | a reader, against removal and the next use of index and slot | RemoveKeepsGeneration |
//! | `open_vs_open` | two pools that take a tag of the process | |
//!
//! `publish_vs_read` is in `zsmalloc.rs`.
use loom_tests::{catches, outcomes, outcomes_of_costly};
use std::collections::BTreeSet;
use std::sync::{Arc as StdArc, Mutex as StdMutex}; // loom need not see these
use zspool::arena::Topology;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Arc, Bug, Planted, thread};
use zspool::zsmalloc::{Geometry, HandleError, Pool, TagSpace};

/// Two slots of the class of 2048 bytes make a frame.
const LEN: usize = 2000;

fn pool(tags: &TagSpace, planted: Planted) -> Arc<Pool> {
    let geometry = Geometry::new(1024, 1024, 2).unwrap();
    let builder = Pool::builder().limit(1 << 20).address_space(4 * 8192).topology(Topology::simulated(1));
    Arc::new(builder.geometry(geometry).tags(tags).planted(planted).build().unwrap())
}

// === remove_vs_remove ===

/// Whether the other thread was the one who removed it.
fn remove_vs_remove(planted: Planted) -> bool {
    let pool = pool(&TagSpace::new(), planted);
    let handle = pool.insert(&[1; LEN]).unwrap();
    let others = Arc::new(AtomicU64::new(0));
    let other = {
        let (pool, others) = (Arc::clone(&pool), Arc::clone(&others));
        thread::spawn("other", move || match pool.remove(handle) {
            Ok(()) => others.store(1, Ordering::Relaxed),
            Err(refusal) => assert!(matches!(refusal, HandleError::Stale { .. }), "{refusal}"),
        })
        .unwrap()
    };
    let ours = pool.remove(handle);
    other.join().unwrap();
    let others = others.load(Ordering::Relaxed) == 1;
    assert_ne!(ours.is_ok(), others, "exactly one removes it");
    pool.assert_valid();
    assert_eq!(pool.stats().objects, 0);
    others
}

#[test]
fn one_of_two_removes_an_object() {
    assert_eq!(outcomes(|| remove_vs_remove(Planted::NONE)), BTreeSet::from([false, true]));
}

#[test]
fn a_removal_that_claims_nothing_is_caught() {
    let message = catches(|| outcomes(|| remove_vs_remove(Planted::bug(Bug::RemoveSkipsClaim))));
    // The second to come frees a slot that is free, or that nothing leads to any more.
    assert!(message.contains("frees") || message.contains("an object is freed where it is"), "{message}");
}

// === get_vs_next_use ===

/// Whether the reader came before the removal.
fn get_vs_next_use(planted: Planted) -> bool {
    let pool = pool(&TagSpace::new(), planted);
    let old = pool.insert(&[1; LEN]).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, seen) = (Arc::clone(&pool), Arc::clone(&seen));
        thread::spawn("reader", move || match pool.get(old) {
            Ok(guard) => {
                guard.with(|bytes| assert_eq!(bytes, [1; LEN], "a handle reads its own object or none"));
                seen.store(1, Ordering::Relaxed);
            }
            Err(refusal) => assert!(matches!(refusal, HandleError::Stale { .. }), "{refusal}"),
        })
        .unwrap()
    };
    pool.remove(old).unwrap();
    let new = pool.insert(&[2; LEN]).unwrap();
    reader.join().unwrap();
    assert_eq!(&*pool.get(new).unwrap(), [2; LEN]);
    pool.remove(new).unwrap();
    pool.assert_valid();
    assert_eq!(pool.stats().objects, 0);
    seen.load(Ordering::Relaxed) == 1
}

#[test]
fn a_handle_never_reads_the_next_object_of_its_index() {
    assert_eq!(outcomes_of_costly(|| get_vs_next_use(Planted::NONE)), BTreeSet::from([false, true]));
}

#[test]
fn an_index_given_back_with_its_generation_is_caught() {
    let message = catches(|| outcomes(|| get_vs_next_use(Planted::bug(Bug::RemoveKeepsGeneration))));
    assert!(message.contains("a handle reads its own object or none"), "{message}");
}

// === open_vs_open ===

/// Whether the other thread's pool got the first tag.
fn open_vs_open() -> bool {
    // Both stay open to the end: a tag that is given back may be the next one's.
    let theirs = StdArc::new(StdMutex::new(None));
    let told = StdArc::clone(&theirs);
    let other = thread::spawn("other", move || {
        let pool = pool(&TagSpace::process(), Planted::NONE);
        *told.lock().unwrap() = Some(pool);
    });
    let ours = pool(&TagSpace::process(), Planted::NONE);
    other.unwrap().join().unwrap();
    let theirs = theirs.lock().unwrap().take().unwrap();
    let [ours, theirs] = [ours, theirs].map(|pool| {
        let handle = pool.insert(&[1; LEN]).unwrap();
        (pool, handle)
    });
    assert_ne!(ours.1, theirs.1, "both are of index 0 and generation 1, and of different pools");
    assert!(matches!(ours.0.get(theirs.1), Err(HandleError::ForeignHandle { .. })));
    theirs.1.raw() < ours.1.raw()
}

#[test]
fn pools_of_a_process_have_tags_of_their_own() {
    assert_eq!(outcomes(open_vs_open), BTreeSet::from([false, true]));
}
