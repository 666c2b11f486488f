//! The last word: what the engine says when the program ends in order, left for the launcher; and words for people.
//!
//! ```text
//!   exit() -> PLACE/4711.last.new -> PLACE/4711.last     (renamed: there is never half of it)
//!             PLACE/4711.sock removed
//! ```
//!
//! Programs that end by `_exit` or a signal leave nothing, and the launcher has what it asked for last. Children that live on get all their memory
//! before their parent ends by `exit` or `_exit`; where it is killed, a touch of what was out is a SIGBUS. Whether pages could not be read back is said
//! by `exit` and `_exit` too: of many in one region only the first was told when it was met.

use crate::inside::Inside;
use crate::state;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};
use zspool::guest::Engine;
use zspool::guest::control::{Controlled, EngineControl, Place, Settings, Verb};

struct Last {
    engine: Engine,
    control: EngineControl,
    program: String,
    place: Place,
    /// A forked child that ends is not the program.
    pid: u32,
}

static LAST: AtomicPtr<Last> = AtomicPtr::new(std::ptr::null_mut());

/// What the program is called.
pub(crate) fn program() -> String {
    let name = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let name: String = name.trim().chars().map(|c| if c == '/' { '_' } else { c }).collect();
    if name.is_empty() || name.starts_with('.') { "program".to_owned() } else { name }
}

/// Leave the last word when the program calls `exit`.
pub(crate) fn at_exit(settings: &Settings, program: &str, engine: &Engine) {
    let control = EngineControl::new(engine.clone(), program);
    let place = Place::at(&settings.place);
    let last = Last { engine: engine.clone(), control, program: program.to_owned(), place, pid: std::process::id() };
    LAST.store(Box::into_raw(Box::new(last)), Release);
    // SAFETY: the function is there for as long as the process.
    unsafe { libc::atexit(leave) };
}

/// What there is to say, in the process that has it.
fn last() -> Option<&'static Last> {
    // SAFETY: it is null or a box that nobody frees.
    let last = unsafe { LAST.load(Acquire).as_ref() }?;
    (state::is_running() && last.pid == std::process::id()).then_some(last)
}

/// The process ends in a moment.
pub(crate) fn before_end() {
    if let Some(last) = last() {
        let _inside = Inside::enter();
        last.settle();
    }
}

impl Last {
    /// Children that live on get what is theirs and out, for nobody serves it from here on; and what went wrong is said.
    fn settle(&self) {
        self.engine.settle_children();
        let unreadable: u64 = self.engine.vms().iter().map(|vm| vm.stats().unreadable).sum();
        if unreadable > 0 {
            say(&format!(
                "{unreadable} pages of {} could not be read back: their copies were damaged, or their device failed. Who touched one of them got a \
                 SIGBUS, or an error from a system call (EFAULT).",
                self.program
            ));
        }
    }
}

extern "C" fn leave() {
    let Some(last) = last() else { return };
    let _inside = Inside::enter();
    last.settle();
    let file = |end: &str| -> PathBuf { last.place.folder().join(format!("{}.{end}", last.pid)) };
    if let Ok(status) = last.control.answer(Verb::Status)
        && fs::write(file("last.new"), status).is_ok()
    {
        let _ = fs::rename(file("last.new"), file("last"));
    }
    let _ = fs::remove_file(last.place.socket(last.pid));
}

/// To standard error, in one piece.
pub(crate) fn say(sentence: &str) {
    let line = format!("zspool: {sentence}\n");
    // SAFETY: the text is good for the call. That nobody listens is no reason not to end.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}
