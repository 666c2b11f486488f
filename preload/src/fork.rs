//! What a fork does: the child has a copy of our memory and none of our threads.
//!
//! ```text
//!   parent:  prepare: engine, then our locks --fork--> locks back, engine goes on
//!   child:                                   --fork--> locks back, asleep: its pages are served by the parent's engine
//! ```
//!
//! Order of locks: the engine's own before ours, for what it does before a fork allocates; the allocator's last of all.

use crate::inside::Inside;
use crate::{allocator, farewell, own, state};
use std::mem::MaybeUninit;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};
use zspool::guest::Engine;

/// The engine, never freed.
static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());

/// Signals that the forking thread had blocked; it is in between [`prepare`] and the other two, and has our locks.
static mut BETWEEN: MaybeUninit<Inside> = MaybeUninit::uninit();

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
        return;
    }
    let inside = Inside::enter();
    if let Some(engine) = engine() {
        // Where the kernel tells of forks, nothing is to be done; else all comes in, past the limit, and that is said.
        if let Err(error) = engine.fork_prepare() {
            farewell::say(&format!("{error}. A child of fork would read zeroes there."));
        }
    }
    own::before_fork();
    allocator::before_fork();
    // SAFETY: we hold both locks until `go_on` has read it: another thread that forks, which the C library lets go ahead, waits for them.
    unsafe { BETWEEN = MaybeUninit::new(inside) };
}

/// The signals of before, when it is dropped.
fn go_on() -> Inside {
    let between = &raw const BETWEEN;
    // SAFETY: as in `prepare`: the locks are held still.
    let inside = unsafe { between.read() };
    // SAFETY: `prepare` has written it, in this thread or in the one it is a copy of.
    let inside = unsafe { inside.assume_init() };
    allocator::after_fork();
    own::after_fork();
    inside
}

extern "C" fn parent() {
    if !state::is_running() {
        return;
    }
    let inside = go_on();
    if let Some(engine) = engine() {
        engine.fork_parent();
    }
    drop(inside);
}

extern "C" fn child() {
    if !state::is_running() {
        return;
    }
    let inside = go_on();
    drop(inside);
    state::sleep();
}
