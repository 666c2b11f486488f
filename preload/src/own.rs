//! What is mapped by this library, and where its threads and the program's have their stacks: never registered.
//!
//! ```text
//!   a mapping as the kernel shows it (neighbours of one kind are shown as one)
//!   [ the program's | ours: arena | the program's | a stack ]
//!                     ^^^^^^^^^^^                   ^^^^^^^  left out
//! ```

use crate::allocator;
use crate::lock::Lock;
use crate::ranges::Ranges;
use std::ops::Range;

static OWN: Lock<Ranges> = Lock::new(Ranges::new());

/// Map or unmap something of ours: `call` does it, and notes it. Under the lock: who has seen the mapping finds it noted.
pub(crate) fn change<R>(call: impl FnOnce(&mut Ranges) -> R) -> R {
    call(&mut OWN.lock())
}

/// Stacks of threads that have ended. The C library keeps some of them for the next threads, which may be ours: they stay
/// what they are until they are mapped differently.
static ENDED: Lock<Vec<Range<usize>>> = Lock::new(Vec::new());

/// A thread has ended that had its stack here.
pub(crate) fn ended(stack: Range<usize>) {
    ENDED.lock().push(stack);
}

/// A thread has its stack here.
pub(crate) fn begun(stack: Range<usize>) {
    ENDED.lock().retain(|ended| *ended != stack);
    OWN.lock().add(stack);
}

/// Forget the stacks of threads that have ended but for those that are mapped as they were.
pub(crate) fn forget_stacks(is_mapped: impl Fn(&Range<usize>) -> bool) {
    let mut ended = ENDED.lock();
    // Under the lock: one that has begun meanwhile is not forgotten.
    ended.retain(|stack| {
        let keep = is_mapped(stack);
        if !keep {
            OWN.lock().remove(stack.clone());
        }
        keep
    });
}

/// What is ours. One who looks at mappings takes it before and after: what is in neither is the program's.
pub(crate) fn snapshot() -> Ranges {
    let mut all = OWN.lock().clone();
    all.add(allocator::reserve());
    all
}
