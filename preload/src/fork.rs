//! What a fork does: the child has a copy of our memory and none of our threads.
//!
//! ```text
//!   parent:  prepare: engine --fork--> engine goes on
//!   child:                   --fork--> asleep: its pages are served by the parent's engine
//! ```
//!
//! 1. No lock of ours is held over a fork: the thread waits in it until the event of it was read, and who reads, or whom he waits for, may want
//!    that lock.
//! 2. So any of them may be held in the child, by a thread that is not there. The child takes none, and allocates nothing of ours.

use crate::inside::Inside;
use crate::{farewell, state};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};
use zspool::guest::Engine;

/// The engine, never freed.
static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// Signals that the forking thread had blocked, between [`prepare`] and the other two. Of the thread: several may fork at once.
    static BETWEEN: Cell<MaybeUninit<Inside>> = const { Cell::new(MaybeUninit::uninit()) };
}

/// Have forks be seen.
pub(crate) fn start(engine: Engine) {
    ENGINE.store(Box::into_raw(Box::new(engine)), Release);
    // SAFETY: the three are there for as long as the process.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

fn engine() -> Option<&'static Engine> {
    // SAFETY: it is null or a box that nobody frees.
    unsafe { ENGINE.load(Acquire).as_ref() }
}

extern "C" fn prepare() {
    if !state::is_running() {
        // Of a child that was made without these handlers: its children are as far from us as it is.
        state::sleep();
        return;
    }
    let inside = Inside::enter();
    if let Some(engine) = engine() {
        // Where the kernel tells of forks, nothing is to be done; else all comes in, past the limit, and that is said.
        if let Err(error) = engine.fork_prepare() {
            farewell::say(&format!("{error}. A child of fork would read zeroes there."));
        }
    }
    BETWEEN.set(MaybeUninit::new(inside));
}

/// What `prepare` has left.
fn inside() -> Inside {
    let inside = BETWEEN.replace(MaybeUninit::uninit());
    // SAFETY: `prepare` has written it, in this thread or in the one it is a copy of.
    unsafe { inside.assume_init() }
}

extern "C" fn parent() {
    if !state::is_running() {
        return;
    }
    let inside = inside();
    if let Some(engine) = engine() {
        engine.fork_parent();
    }
    drop(inside);
}

extern "C" fn child() {
    if !state::has_run() {
        return;
    }
    // First: from here on none of our locks is asked for.
    state::sleep();
    if let Some(engine) = engine() {
        engine.fork_child(); // ends it where nobody holds its memory
    }
    drop(inside());
}
