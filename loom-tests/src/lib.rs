//! Helpers of the models in `tests/`.

#[cfg(loom)]
mod tiny;

#[cfg(loom)]
pub use tiny::{GEOMETRY, Page, builder, empty_and_check, look, page};

/// Explore every interleaving of `model` (within the bounds of the environment) and return the set of its outcomes.
///
/// A model that does not assert that set proves little: one schedule explored over and over passes as well.
///
/// # Panics
/// When an execution panics, and when there was only one.
#[cfg(loom)]
pub fn outcomes<T: Ord + Send + 'static>(
    model: impl Fn() -> T + Send + Sync + 'static,
) -> std::collections::BTreeSet<T> {
    explore(loom::model::Builder::new(), model)
}

/// The same with one preemption less than the environment says: for models of so many steps that they would take minutes.
///
/// # Panics
/// As [`outcomes`].
#[cfg(loom)]
pub fn outcomes_of_long<T: Ord + Send + 'static>(
    model: impl Fn() -> T + Send + Sync + 'static,
) -> std::collections::BTreeSet<T> {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.map(|bound| bound.saturating_sub(1).max(1));
    explore(builder, model)
}

/// With one preemption where the environment says two, as the short ladder does, and with all that it says above: for models that see the
/// same outcomes with one in a tenth of the time. The long ladder has the time for all.
///
/// # Panics
/// As [`outcomes`].
#[cfg(loom)]
pub fn outcomes_of_costly<T: Ord + Send + 'static>(
    model: impl Fn() -> T + Send + Sync + 'static,
) -> std::collections::BTreeSet<T> {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.map(|bound| if bound == 2 { 1 } else { bound });
    explore(builder, model)
}

/// Run `explore` ([`outcomes`] of a model with a bug planted, say) and return the message with which it stops, so that the twin
/// can see that it failed for the right reason.
///
/// # Panics
/// When nothing stops it.
#[cfg(loom)]
#[track_caller]
pub fn catches<T>(explore: impl FnOnce() -> T) -> String {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(explore));
    match caught.err().expect("the planted bug was not caught").downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().map(|message| message.to_string()).unwrap_or_default(),
    }
}

/// Run both at once, and wait for both. On threads of their own, for the main thread's first switch to another would count as a
/// preemption.
///
/// # Panics
/// When one of them does.
#[cfg(loom)]
pub fn race<T: 'static, A: 'static, B: 'static>(
    shared: &zspool::sync::Arc<T>,
    a: impl FnOnce(&T) -> A + 'static,
    b: impl FnOnce(&T) -> B + 'static,
) -> (A, B) {
    use zspool::sync::Arc;

    let (one, two) = (Arc::clone(shared), Arc::clone(shared));
    let a = loom::thread::spawn(move || a(&one));
    let b = loom::thread::spawn(move || b(&two));
    (a.join().unwrap(), b.join().unwrap())
}

/// Of the thread that runs a model. In words of 8 bytes, other than loom's documentation says.
#[cfg(loom)]
const STACK_WORDS: usize = 32 << 10;

#[cfg(loom)]
fn explore<T: Ord + Send + 'static>(
    builder: loom::model::Builder,
    model: impl Fn() -> T + Send + Sync + 'static,
) -> std::collections::BTreeSet<T> {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    let seen = Arc::new(Mutex::new((0u64, BTreeSet::new())));
    let record = Arc::clone(&seen);
    let model = Arc::new(model);
    builder.check(move || {
        // On a thread of its own: the first one's stack has 32 KiB, which an instance that is being built does not fit.
        let model = Arc::clone(&model);
        let thread = loom::thread::Builder::new().stack_size(STACK_WORDS);
        let outcome = thread.spawn(move || model()).expect("loom's threads are never refused").join();
        let outcome = outcome.expect("loom stops at the first panic");
        let mut seen = record.lock().expect("nobody panics under it");
        seen.0 += 1;
        seen.1.insert(outcome);
    });
    let mut seen = seen.lock().expect("nobody panics under it");
    println!("{} executions, {} outcomes", seen.0, seen.1.len());
    assert!(seen.0 > 1, "the model has only one execution");
    std::mem::take(&mut seen.1)
}
