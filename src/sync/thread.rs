//! Threads: std's, loom's or shuttle's.

#[cfg(shuttle)]
pub use super::simulated::sleep;
#[cfg(loom)]
pub use loom::thread::{JoinHandle, yield_now};
#[cfg(shuttle)]
pub use shuttle::thread::{JoinHandle, scope, yield_now};
#[cfg(not(any(loom, shuttle)))]
pub use std::thread::{JoinHandle, scope, sleep, yield_now};

/// Start a named thread, on which no signal handler of the program's runs.
///
/// # Errors
/// When the system refuses one.
#[cfg(not(any(loom, shuttle)))]
pub fn spawn<F, T>(name: &str, f: F) -> std::io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    super::signals::blocked(|| std::thread::Builder::new().name(name.to_owned()).spawn(f))
}

/// Start a thread; loom's have no names.
#[cfg(loom)]
pub fn spawn<F, T>(_name: &str, f: F) -> std::io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    Ok(loom::thread::spawn(f))
}

/// Bytes of a stack under shuttle, which gives little unless told: drafts of pages lie on some.
#[cfg(shuttle)]
const STACK_BYTES: usize = 1 << 20;

/// Start a named thread.
///
/// # Errors
/// None.
#[cfg(shuttle)]
pub fn spawn<F, T>(name: &str, f: F) -> std::io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    shuttle::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(f)
}

/// Time does not pass: others may go first.
#[cfg(loom)]
pub fn sleep(_time: std::time::Duration) {
    yield_now();
}

/// A number that tends to be the same for one thread and to differ between threads, to spread them over shards: from the
/// address of the stack, for thread-locals are not allowed where this is used. Under loom always 0, for a model must take the
/// same way each time; under shuttle the number of the thread.
#[inline]
pub fn hint() -> usize {
    #[cfg(loom)]
    return 0;
    #[cfg(shuttle)]
    return usize::from(shuttle::current::me());
    #[cfg(not(any(loom, shuttle)))]
    {
        let on_stack = 0u8;
        // Stacks are at least 64 KiB apart and calls seldom deeper; Fibonacci hashing spreads what is left.
        let stack = (&raw const on_stack).addr() as u64 >> 16;
        (stack.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }
}

/// Wait a moment for another thread's short step. Spins, then yields: the other thread may share our core.
#[derive(Debug, Default)]
pub struct Backoff {
    rounds: u32,
}

impl Backoff {
    /// The first wait is the shortest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wait a little, a little longer each time.
    #[inline]
    pub fn wait(&mut self) {
        #[cfg(any(loom, shuttle))]
        yield_now();
        #[cfg(not(any(loom, shuttle)))]
        if self.rounds < 6 {
            for _ in 0..1 << self.rounds {
                std::hint::spin_loop();
            }
        } else {
            std::thread::yield_now();
        }
        self.rounds += 1;
    }
}

/// Short waits before [`Backoff::wait_for_io`] sleeps between looks.
#[cfg(not(loom))]
const SHORT_WAITS: u32 = 64;

impl Backoff {
    /// The same for a step of another thread that may be waiting for a device: after some short waits it sleeps.
    pub fn wait_for_io(&mut self) {
        #[cfg(not(loom))]
        if self.rounds > SHORT_WAITS {
            return sleep(std::time::Duration::from_millis(1));
        }
        self.wait();
    }
}

/// Cores this process may use; 1 where nobody tells. Under shuttle always as many: what happens must not depend on the machine.
pub fn available_parallelism() -> usize {
    #[cfg(shuttle)]
    return 2;
    #[cfg(not(shuttle))]
    std::thread::available_parallelism().map_or(1, usize::from)
}
