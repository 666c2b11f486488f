//! One execution: from a seed to its trace, or to what went wrong.
//!
//! Everything happens inside of it: the instance is made, used and dropped there. A panic that somebody catches (the worker, the
//! evictor) is a failure as any other.

use crate::schedule::{Seeded, Trace};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, Once};

/// Steps after which an execution is taken for one that does not end. Most have some 200,000; where a mark cannot be kept, and the evictor
/// tries on beside all others, 2,000,000 have been seen.
const MOST_STEPS: usize = 10_000_000;

/// Bytes of the first thread's stack, which makes the instance.
const STACK_BYTES: usize = 2 << 20;

thread_local! {
    /// What panics of the execution on this thread have said.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// They are not printed: a twin is to fail.
    static SILENT: Cell<bool> = const { Cell::new(false) };
    static TRACE: RefCell<Option<Arc<Mutex<Trace>>>> = const { RefCell::new(None) };
}

/// What an execution came to: its trace, or the first thing that went wrong.
pub type Outcome = Result<Trace, String>;

/// Run `f` by the schedule of `seed`. On a thread of the system's own: what a failed execution leaves in thread-locals goes with it.
pub fn execute(seed: u64, f: impl Fn() + Send + Sync + 'static) -> Outcome {
    let silent = SILENT.get();
    let run = move || {
        SILENT.set(silent);
        run(seed, f)
    };
    std::thread::spawn(run).join().expect("panics of the execution are caught")
}

fn run(seed: u64, f: impl Fn() + Send + Sync + 'static) -> Outcome {
    listen();
    let trace = Arc::new(Mutex::new(Trace::default()));
    PANICS.take();
    TRACE.replace(Some(Arc::clone(&trace)));
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::None; // the seed is enough
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let runner = Runner::new(Seeded::new(seed, Arc::clone(&trace)), config);
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| runner.run(f)));
    TRACE.take();
    let panics = PANICS.take();
    let trace = *trace.lock().expect("nobody panics under it");
    match panics.into_iter().next() {
        Some(first) => Err(first),
        None if ended.is_err() => Err("the execution failed, and nobody said why".to_owned()),
        None => Ok(trace),
    }
}

/// The same without a word about what goes wrong.
pub fn execute_silently(seed: u64, f: impl Fn() + Send + Sync + 'static) -> Outcome {
    SILENT.set(true);
    let outcome = execute(seed, f);
    SILENT.set(false);
    outcome
}

/// Something happened that is the same in each run of this seed.
pub fn note(what: u64) {
    TRACE.with_borrow(|trace| {
        if let Some(trace) = trace {
            trace.lock().expect("nobody panics under it").note(what);
        }
    });
}

/// Steps of the execution so far.
pub fn steps() -> u64 {
    TRACE.with_borrow(|trace| trace.as_ref().map_or(0, |trace| trace.lock().expect("nobody panics under it").steps))
}

/// Have panics remembered. Before shuttle's own hook, which calls the one it finds.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| {
                let place =
                    info.location().map_or(String::new(), |place| format!("{}:{}: ", place.file(), place.line()));
                panics.push(format!("{place}{}", info.payload_as_str().unwrap_or("a panic without words")));
            });
            if !SILENT.get() {
                before(info);
            }
        }));
    });
}
