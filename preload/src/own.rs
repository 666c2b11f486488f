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

/// Mapped by us.
pub(crate) fn add(range: Range<usize>) {
    OWN.lock().add(range);
}

/// Not ours any more: unmapped, or a thread has ended.
pub(crate) fn remove(range: Range<usize>) {
    OWN.lock().remove(range);
}

/// The parts of `range` that are the program's.
pub(crate) fn left_of(range: Range<usize>) -> Vec<Range<usize>> {
    let heap = allocator::reserve();
    let mut others = Ranges::new();
    OWN.lock().missing(range).into_iter().for_each(|part| others.add(part));
    others.remove(heap);
    others.iter().cloned().collect()
}

/// Across a fork nobody may be in the middle of it.
pub(crate) fn before_fork() {
    OWN.keep();
}

/// After the fork, on both sides.
pub(crate) fn after_fork() {
    OWN.unlock();
}
