//! Sleeping at a word until it changes: futexes, loom's yields, or sleepers under shuttle.
//!
//! No allocation, no thread-local: they run in handlers of signals.

#[cfg(not(shuttle))]
use super::atomic::AtomicU32;

/// Sleep while `word` is `seen`. May wake without reason: look again. Who changes the word and knows that somebody may sleep
/// calls [`wake_all`] afterwards.
#[cfg(all(not(any(loom, shuttle)), target_os = "linux", not(miri)))]
pub fn wait(word: &AtomicU32, seen: u32) {
    futex(word, libc::FUTEX_WAIT, seen);
}

/// Wake all threads that sleep at `word`.
#[cfg(all(not(any(loom, shuttle)), target_os = "linux", not(miri)))]
pub fn wake_all(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, i32::MAX as u32);
}

#[cfg(all(not(any(loom, shuttle)), target_os = "linux", not(miri)))]
fn futex(word: &AtomicU32, what: i32, value: u32) {
    // The error is of no use: a wait that fails is one that wakes without reason.
    // SAFETY: the address is that of a word that lives for the call; there is no time-out, which the null pointer says.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            what | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

#[cfg(shuttle)]
pub use super::simulated::{wait_at as wait, wake_at as wake_all};

/// Let others go first.
#[cfg(all(not(shuttle), any(loom, not(target_os = "linux"), miri)))]
pub fn wait(_word: &AtomicU32, _seen: u32) {
    super::thread::yield_now();
}

/// Nobody sleeps here: who waits looks again and again.
#[cfg(all(not(shuttle), any(loom, not(target_os = "linux"), miri)))]
pub fn wake_all(_word: &AtomicU32) {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::atomic::Ordering;
    use super::super::{Arc, thread};
    use super::*;

    #[test]
    fn who_sleeps_at_a_word_is_woken_when_it_has_changed() {
        let word = Arc::new(AtomicU32::new(1));
        let sleeper = {
            let word = Arc::clone(&word);
            thread::spawn("sleeper", move || {
                while word.load(Ordering::Acquire) == 1 {
                    wait(&word, 1);
                }
            })
            .unwrap()
        };
        thread::sleep(std::time::Duration::from_millis(20));
        word.store(2, Ordering::Release);
        wake_all(&word);
        sleeper.join().unwrap();
        wait(&word, 1); // not what it is: returns at once
    }
}
