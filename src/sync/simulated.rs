//! What threads under shuttle have that shuttle has not: time that passes, waits that end with it, and words to sleep at.
//!
//! ```text
//!   now ---- a look at the time is a microsecond ---->| deadline of the first sleeper: when he was let run so often in vain that
//!            nothing else moves it                    | everybody else had his turn, time has passed, and he wakes
//!   sleepers   first: runs now and then, and yields   others: blocked until he leaves
//! ```
//!
//! - **T1** What happens depends on the schedule alone: nobody looks at the machine's clock. So a schedule that is replayed comes
//!   to the same times.
//! - **T2** Who sleeps until something happens and not until a time is blocked, so that shuttle reports a deadlock where nobody
//!   can wake him.
//! - **T3** Between the look at a word and the sleep at it there is no scheduling point: as a futex.
//!
//! Under shuttle all atomics are sequentially consistent, and one thread runs at a time: it samples orders of steps, of many
//! threads and many steps. Which orderings suffice is what loom is for.

use super::atomic::AtomicU32;
use shuttle::rand::RngCore;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a look at the time takes, so that who does nothing but look comes to an end.
const LOOK: u64 = 1000;

/// What the execution has: see [`World`].
struct Execution(Mutex<World>);

/// Time, and who waits for it. Never held across a scheduling point.
#[derive(Default)]
struct World {
    /// Nanoseconds since the execution began.
    now: u64,
    /// Who sleeps until a time, by it and by who came first.
    sleepers: BTreeMap<Alarm, Arc<Sleeper>>,
    /// Who sleeps at a word, by its address.
    at_words: Vec<(usize, Arc<Sleeper>)>,
    /// Sleepers there have been.
    numbered: u64,
}

/// When somebody is to wake: the time, and his number.
type Alarm = (u64, u64);

/// One thread that sleeps.
struct Sleeper {
    /// What he waited for has happened.
    told: AtomicBool,
    /// He has to look again; shuttle's, so that he is blocked.
    look: shuttle::sync::Mutex<bool>,
    changed: shuttle::sync::Condvar,
}

/// What a sleeper finds when he looks.
enum Turn {
    /// His time has come.
    Over,
    /// He is the next.
    First,
    /// Others come before him.
    Later,
}

shuttle::lazy_static! {
    static ref EXECUTION: Execution = Execution(Mutex::default());
}

fn with<R>(visit: impl FnOnce(&mut World) -> R) -> R {
    visit(&mut EXECUTION.0.lock().unwrap_or_else(PoisonError::into_inner))
}

std::thread_local! {
    /// Shuttle runs all its threads on one.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A point where another thread may go on.
#[inline]
pub(super) fn point() {
    if !QUIET.get() {
        shuttle::thread::sleep(Duration::ZERO); // which is that, and no more
    }
}

/// Run `f` without scheduling points at atomics: for checks of everything while nobody works, of which each look at a word would be a
/// step. (Locks are points still.)
pub fn quietly<R>(f: impl FnOnce() -> R) -> R {
    struct Loud(bool);
    impl Drop for Loud {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }
    let _loud = Loud(QUIET.replace(true));
    f()
}

/// Nanoseconds since the execution began.
pub(super) fn nanoseconds() -> u64 {
    with(|world| {
        world.now += LOOK;
        world.now
    })
}

/// The time, for waiting.
pub(super) fn now() -> Instant {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGAN + Duration::from_nanos(nanoseconds())
}

/// Sleep for a while.
pub fn sleep(time: Duration) {
    Sleeper::new().sleep(Some(time));
}

// === impl Sleeper ===

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Sleeper {
            told: AtomicBool::new(false),
            look: shuttle::sync::Mutex::new(false),
            changed: shuttle::sync::Condvar::new(),
        })
    }

    /// Until he is told, or the time is over.
    fn sleep(self: &Arc<Self>, time: Option<Duration>) {
        let Some(time) = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)) else {
            while !self.is_told() {
                self.block();
            }
            return;
        };
        let alarm = with(|world| world.enter(time, self));
        // The longer the time, the more of what others do fits in.
        let patience = 2 + 4 * (1 + time / 1_000_000).ilog2();
        let mut waited = 0;
        while !self.is_told() {
            match with(|world| world.turn(alarm)) {
                Turn::Over => break,
                Turn::First if waited == patience => with(|world| world.now = alarm.0),
                Turn::First => {
                    waited += 1;
                    shuttle::thread::yield_now();
                }
                Turn::Later => self.block(),
            }
        }
        if let Some(next) = with(|world| world.leave(alarm)) {
            next.have_look();
        }
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.have_look();
    }

    fn have_look(&self) {
        *self.look.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn block(&self) {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        while !*look {
            look = self.changed.wait(look).unwrap_or_else(PoisonError::into_inner);
        }
        *look = false;
    }
}

// === impl World ===

impl World {
    fn enter(&mut self, time: u64, sleeper: &Arc<Sleeper>) -> Alarm {
        self.numbered += 1;
        let alarm = (self.now.saturating_add(time), self.numbered);
        self.sleepers.insert(alarm, Arc::clone(sleeper));
        alarm
    }

    fn turn(&self, alarm: Alarm) -> Turn {
        match self.sleepers.first_key_value() {
            _ if self.now >= alarm.0 => Turn::Over,
            Some((first, _)) if *first == alarm => Turn::First,
            _ => Turn::Later,
        }
    }

    /// He sleeps no more; who is next has to look.
    fn leave(&mut self, alarm: Alarm) -> Option<Arc<Sleeper>> {
        self.sleepers.remove(&alarm);
        self.sleepers.first_key_value().map(|(_, next)| Arc::clone(next))
    }
}

// === waiting for others ===

/// A condition variable whose waits end with time.
#[derive(Default)]
pub(super) struct Condvar {
    waiting: Mutex<Vec<Arc<Sleeper>>>,
}

impl Condvar {
    fn waiting<R>(&self, visit: impl FnOnce(&mut Vec<Arc<Sleeper>>) -> R) -> R {
        visit(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Give the lock back until told, or until the time is over.
    pub(super) fn wait<'a, T>(
        &self,
        mutex: &'a shuttle::sync::Mutex<T>,
        guard: shuttle::sync::MutexGuard<'a, T>,
        time: Option<Duration>,
    ) -> shuttle::sync::MutexGuard<'a, T> {
        let sleeper = Sleeper::new();
        self.waiting(|waiting| waiting.push(Arc::clone(&sleeper)));
        drop(guard);
        sleeper.sleep(time);
        self.waiting(|waiting| waiting.retain(|one| !Arc::ptr_eq(one, &sleeper)));
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wake one of them, whichever.
    pub(super) fn notify_one(&self) {
        point();
        let random = shuttle::rand::thread_rng().next_u64() as usize;
        let one = self.waiting(|waiting| match waiting.len() {
            0 => None,
            len => Some(waiting.swap_remove(random % len)),
        });
        one.inspect(|one| one.tell());
    }

    pub(super) fn notify_all(&self) {
        point();
        self.waiting(std::mem::take).iter().for_each(|one| one.tell());
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// Sleep while `word` is `seen`.
pub fn wait_at(word: &AtomicU32, seen: u32) {
    point();
    let sleeper = Sleeper::new();
    let sleeps = with(|world| {
        let same = word.peek() == seen;
        same.then(|| world.at_words.push((std::ptr::from_ref(word).addr(), Arc::clone(&sleeper)))).is_some()
    });
    if sleeps {
        sleeper.sleep(None);
    }
}

/// Wake all who sleep at `word`.
pub fn wake_at(word: &AtomicU32) {
    point();
    let address = std::ptr::from_ref(word).addr();
    let woken: Vec<_> = with(|world| world.at_words.extract_if(.., |(at, _)| *at == address).collect());
    woken.iter().for_each(|(_, sleeper)| sleeper.tell());
}
