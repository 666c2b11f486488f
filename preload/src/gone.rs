//! What has been unmapped or moved away behind the regions' backs, from the handler that is told of it to the finder.
//!
//! ```text
//!   handler: munmap, mremap --note--> [ r r r . . . . ] --take--> finder
//!                                      ^ taken  ^ noted            more than there is room for: all that is registered is looked at
//! ```
//!
//! The handler takes no lock and no memory here: it must serve the thread that has one of those.

use crate::ranges::Ranges;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Ranges that can wait for the finder.
const ROOM: usize = 1024;

static STARTS: [AtomicUsize; ROOM] = [const { AtomicUsize::new(0) }; ROOM];
static ENDS: [AtomicUsize; ROOM] = [const { AtomicUsize::new(0) }; ROOM];
/// Ranges noted, by one handler, and taken, by one finder, since the start.
static NOTED: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicBool = AtomicBool::new(false);

/// For the handler, of which there is one.
pub(crate) fn note(range: &Range<usize>) {
    let noted = NOTED.load(Relaxed);
    // Acquire: the finder has read the place that is used again.
    if noted - TAKEN.load(Acquire) == ROOM {
        LOST.store(true, Release);
        return;
    }
    STARTS[noted % ROOM].store(range.start, Relaxed);
    ENDS[noted % ROOM].store(range.end, Relaxed);
    // Release: who sees the number sees the range.
    NOTED.store(noted + 1, Release);
}

/// For the finder: what was noted since, into `gone`; `false`: some was lost.
pub(crate) fn take(gone: &mut Ranges) -> bool {
    let (mut taken, noted) = (TAKEN.load(Relaxed), NOTED.load(Acquire));
    while taken < noted {
        gone.add(STARTS[taken % ROOM].load(Relaxed)..ENDS[taken % ROOM].load(Relaxed));
        taken += 1;
    }
    TAKEN.store(taken, Release);
    !LOST.swap(false, Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_and_what_is_too_much_is_told() {
        let mut gone = Ranges::new();
        for round in 0..3 {
            (0..ROOM).for_each(|k| note(&(k * 3..k * 3 + round)));
            assert!(take(&mut gone));
            assert_eq!(gone.iter().count(), if round == 0 { 0 } else { ROOM });
        }
        (0..=ROOM).for_each(|k| note(&(k..k + 1)));
        assert!(!take(&mut gone));
        assert!(take(&mut gone));
    }
}
