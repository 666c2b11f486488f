//! The races of compaction that backs a frame outside the class lock, and of the alarm that starts it, on the real code with
//! tiny geometry: two slots of 2048 bytes a frame, two frames a zspage.
//!
//! ```text
//! zspage 0 | a b | . . |      zspage 1 | x . | z . |
//! goal: x and z go to zspage 0, for one frame more there two go here. Its second frame is backed outside the lock.
//! ```
//!
//! | model | race with the window | bugs planted |
//! |---|---|---|
//! | `free_vs_window` | the object that was to be moved is freed | CompactionTrustsPlan |
//! | `read_vs_window` | it is read, and held | none: a move under a reader is harmless (see `read_vs_compaction` in zsmalloc.rs) |
//! | `store_vs_window` | another object comes to the frame that is being backed | none: see there |
//! | `alarm_vs_answer` | waste passes the trigger while the thread goes to sleep | AlarmSilencedLate |
use loom_tests::{catches, outcomes, outcomes_of_costly};
use std::collections::BTreeSet;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Alarm, Arc, Bug, Mailbox, Planted, thread};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Geometry, Object, Pool, PoolConfig};

const LEN: usize = 2000;
const NODE: NodeId = NodeId(0);
const A: Owner = Owner(0);
const B: Owner = Owner(1);
const X: Owner = Owner(2);
const Z: Owner = Owner(3);
const NEW: Owner = Owner(4);

/// Cells as zswap has them: a word per owner, location and length in it. 0 names nothing.
struct Words([AtomicU64; 5]);

fn unpack(word: u64) -> Option<Object> {
    let location = || Location::from_raw(word & ((1 << 36) - 1));
    (word != 0).then(|| Object { location: location(), len: (word >> 40) as usize })
}

fn pack(object: Object) -> u64 {
    object.location.raw() | (object.len as u64) << 40
}

impl Words {
    fn take(&self, owner: Owner) -> Option<Object> {
        unpack(self.0[owner.0 as usize].swap(0, Ordering::AcqRel))
    }
}

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        unpack(self.0[owner.0 as usize].load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let word = &self.0[owner.0 as usize];
        let Some(object) = unpack(word.load(Ordering::Acquire)).filter(|object| object.location == from) else {
            return false;
        };
        let (old, new) = (pack(object), pack(Object { location: to, ..object }));
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

type TinyPool = Pool<Words>;

fn put(pool: &TinyPool, owner: Owner, byte: u8) -> Location {
    let memcg = pool.accounting().map(|tree| tree.root());
    let mut object = pool.malloc(memcg.as_ref(), LEN, NODE).unwrap();
    object.write(&[byte; LEN]).unwrap();
    let published = object.publish(owner);
    let word = pack(Object { location: published.location(), len: LEN });
    // A swap, for loom lets a read-modify-write miss a plain store that it races with.
    pool.cells().0[owner.0 as usize].swap(word, Ordering::AcqRel);
    published.location()
}

fn remove(pool: &TinyPool, owner: Owner) -> Option<Location> {
    let Object { location, len } = pool.cells().take(owner)?;
    pool.free(owner, location, len);
    Some(location)
}

/// The two zspages of the picture, and where x is. With a bug planted nobody is charged: a pool that drops while a panic
/// unwinds must not look at objects.
fn two_zspages(planted: Planted) -> (Arc<TinyPool>, Location) {
    let arena = ArenaConfig {
        address_space: 4 * 8192,
        run_frames: 2,
        commit_ahead: 1,
        topology: Topology::simulated(1),
        ..ArenaConfig::default()
    };
    let tree = Tree::new(TreeConfig { nodes: 1, stripes: 1, patience: 0, ..TreeConfig::default() });
    let geometry = Geometry::new(1024, 1024, 2).unwrap();
    let config = PoolConfig {
        geometry,
        accounting: Some(tree).filter(|_| !planted.is(Bug::CompactionTrustsPlan)),
        planted,
        ..PoolConfig::default()
    };
    let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
    let pool = Arc::new(Pool::new(Arc::new(Arena::new(arena).unwrap()), words, config).unwrap());
    put(&pool, A, 1);
    put(&pool, B, 2);
    // Slots that are taken for a moment, so that the next ones come to lie where they should.
    let fill: Vec<_> = (0..2).map(|_| pool.malloc(None, LEN, NODE).unwrap()).collect();
    let location = put(&pool, X, 3);
    let gap = pool.malloc(None, LEN, NODE).unwrap();
    put(&pool, Z, 4);
    drop((fill, gap));
    pool.flush();
    (pool, location)
}

/// A thread and what it returns. (The result is not part of the model: who takes it has joined the thread.)
struct Running<T>(thread::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Option<T>>>);

fn start<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    let result = std::sync::Arc::new(std::sync::Mutex::new(None));
    let mine = std::sync::Arc::clone(&result);
    let handle = thread::spawn("other", move || {
        let value = f();
        *mine.lock().unwrap() = Some(value);
    });
    Running(handle.unwrap(), result)
}

impl<T> Running<T> {
    fn join(self) -> T {
        self.0.join().unwrap();
        self.1.lock().unwrap().take().expect("it returned")
    }
}

/// At the end of a model: nothing is lost, nothing is left when all is freed, and what was charged is given back once.
fn finish(pool: &TinyPool) {
    pool.assert_valid();
    for (owner, byte) in [(A, 1), (B, 2), (X, 3), (Z, 4), (NEW, 5)] {
        if let Some(Object { location, len }) = pool.cells().object(owner) {
            let guard = pool.read(owner, location, len).expect("nobody frees or moves it any more");
            guard.with(|bytes| assert!(bytes.iter().all(|&b| b == byte), "{owner:?} has its bytes"));
            drop(guard);
            remove(pool, owner);
        }
    }
    pool.assert_valid();
    assert_eq!(pool.stats().objects, 0, "every slot came back once");
    let charged = pool.accounting().map_or(0, |tree| tree.root().usage());
    assert_eq!(charged, 0, "every charge came back once");
}

// === free_vs_window ===

/// Whether x was freed where it was at first; objects moved, frames backed and freed.
fn free_vs_window(planted: Planted) -> (bool, u64, u64, u64) {
    let (pool, old) = two_zspages(planted);
    let freer = {
        let pool = Arc::clone(&pool);
        start(move || remove(&pool, X) == Some(old))
    };
    let done = pool.compact(u64::MAX);
    let there = freer.join();
    finish(&pool);
    (there, done.moved_objects, done.frames_backed, done.frames_freed)
}

#[test]
fn a_free_while_a_frame_is_backed_leaves_nothing_behind() {
    let seen = outcomes(|| free_vs_window(Planted::NONE));
    assert!(seen.contains(&(false, 2, 1, 2)), "both were moved, then x was freed: {seen:?}");
    assert!(seen.contains(&(true, 0, 0, 0)), "x was freed first, and z alone in a frame wins none: {seen:?}");
    assert!(seen.iter().any(|&(there, ..)| there), "{seen:?}");
    println!("{seen:?}");
}

#[test]
fn a_move_of_what_was_freed_meanwhile_is_caught() {
    let message = catches(|| outcomes(|| free_vs_window(Planted::bug(Bug::CompactionTrustsPlan))));
    assert!(message.contains("a movable object is live, and stays so under the class lock"), "{message}");
}

// === read_vs_window ===

/// Whether the reader found x where it was at first; objects moved, frames busy.
fn read_vs_window(planted: Planted) -> (bool, u64, u64) {
    let (pool, old) = two_zspages(planted);
    let reader = {
        let pool = Arc::clone(&pool);
        start(move || {
            loop {
                let Object { location, len } = pool.cells().object(X).expect("nobody frees it");
                if let Some(guard) = pool.read(X, location, len) {
                    guard.with(|bytes| assert_eq!(bytes, [3; LEN], "what was stored is read"));
                    return location == old;
                }
            }
        })
    };
    let done = pool.compact(u64::MAX);
    let there = reader.join();
    finish(&pool);
    (there, done.moved_objects, done.busy)
}

#[test]
fn a_read_while_a_frame_is_backed_reads_what_was_stored() {
    let seen = outcomes_of_costly(|| read_vs_window(Planted::NONE));
    assert!(seen.contains(&(true, 2, 0)) && seen.contains(&(false, 2, 0)), "before and after the move: {seen:?}");
    assert!(seen.iter().any(|&(there, _, busy)| there && busy > 0), "held, and left alone: {seen:?}");
}

// === store_vs_window ===

/// Whether the new object came to zspage 0; objects moved, frames backed.
fn store_vs_window() -> (bool, u64, u64) {
    let (pool, old) = two_zspages(Planted::NONE);
    let writer = {
        let pool = Arc::clone(&pool);
        start(move || put(&pool, NEW, 5))
    };
    let done = pool.compact(u64::MAX);
    let location = writer.join();
    finish(&pool);
    (location.raw() < old.raw(), done.moved_objects, done.frames_backed)
}

/// Both have the same frame backed, or the frame of the other is used. Its twin is that of arena_frames.rs: who ensures a
/// frame waits for whoever backs it.
#[test]
fn a_store_to_the_frame_that_is_backed_shares_it() {
    let seen = outcomes(store_vs_window);
    println!("{seen:?}");
    assert!(seen.len() > 1, "{seen:?}");
}

// === alarm_vs_answer ===

/// How often the thread woke. Without `stop` it waits until it has seen both steps of the level: if one is missed, without
/// an end, which loom calls a deadlock. With it, it is stopped after the second, and what it has not seen must ring still.
fn alarm_vs_answer(planted: Planted, stop: bool) -> u64 {
    let (mailbox, alarm, level) = (Arc::new(Mailbox::new()), Arc::new(Alarm::new()), Arc::new(AtomicU64::new(0)));
    assert!(alarm.attend());
    let keeper = {
        let (mailbox, alarm, level) = (Arc::clone(&mailbox), Arc::clone(&alarm), Arc::clone(&level));
        start(move || {
            for wakes in 0.. {
                let seen = alarm.answer(planted, || level.load(Ordering::Relaxed));
                if seen == 2 || mailbox.wait(None).is_none() {
                    return (wakes, seen);
                }
            }
            unreachable!("the range has no end")
        })
    };
    for _ in 0..2 {
        level.fetch_add(1, Ordering::Relaxed);
        alarm.ring();
        if alarm.is_rung() {
            mailbox.kick(1);
        }
    }
    if stop {
        mailbox.stop();
    }
    let (wakes, seen) = keeper.join();
    assert!(seen == 2 || alarm.is_rung(), "a step of the level was missed");
    wakes
}

#[test]
fn an_alarm_is_never_missed() {
    let seen = outcomes(|| alarm_vs_answer(Planted::NONE, false));
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn what_a_stopped_thread_has_not_seen_rings_still() {
    let seen = outcomes(|| alarm_vs_answer(Planted::NONE, true));
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn an_alarm_silenced_late_is_caught() {
    let message = catches(|| outcomes(|| alarm_vs_answer(Planted::bug(Bug::AlarmSilencedLate), true)));
    assert!(message.contains("a step of the level was missed"), "{message}");
}
