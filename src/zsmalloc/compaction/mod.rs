//! Compaction: gathering objects into fewer frames.
//!
//! ```text
//! before   | a b . . | c d . . | . . . . | e . . . |      zspage 0, a frame untouched: 3 frames
//!          | f . . . | . . . . | g . . h | . . i . |      zspage 1, the emptier one:   3 frames
//! empty 1  | a b f g | c d h i | . . . . | e . . . |      into free slots of touched frames, while there are any,
//!                                                         then into frames backed for it, if that wins some
//! pack 0   | a b f g | c d h i | e . . . | . . . . |      the last zspage is filled from its start
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `pass` | one call: over classes and nodes, within a budget |
//! | `work` | what it has in hand: goal, place, frames that are left alone |
//! | `choose` | what to empty, and whether that wins a frame |
//! | `place` | where to put it |
//! | `moving` | moving one object |
//! | `totals` | what was done: by a call, by all of them |
//!
//! Three goals, each with a frame to win, in this order:
//! - **empty** a zspage, the emptiest first, into the others, the fullest first. It may cost frames: destinations are
//!   opened one frame at a time, and only as long as fewer are needed than the zspage has. Whole zspages go, so that the
//!   slots that straddle between frames are of use in those that stay; at the end a class has one partly filled zspage.
//! - **pack** a zspage that touches more frames than its objects would, put side by side at its start.
//! - **frame**: one that is touched by no more objects than there are reusable slots elsewhere. This is what is left to
//!   do where nothing can be backed: at the limit.
//!
//! One object is moved per hold of the class lock, and a frame is only begun when all its objects can be moved: an
//! object that somebody holds, or that is being written or freed, makes the frame busy, and it is left alone.
//!
//! A frame is backed outside the lock. Meanwhile the slot that needs it is *reserved*, so nobody else takes it; the
//! object that was to go there may be read, freed or moved. So after the system call everything is looked at again:
//! another object may be moved there, or none, and then the slot is given back.
//!
//! ```text
//!   lock: goal, no free slot in touched frames ... reserve one of an untouched frame --> [ensure] --.
//!   lock: the goal is still one? an object of it can be moved? move it there; else give the slot back <--'
//! ```

mod choose;
mod moving;
mod pass;
mod place;
#[cfg(all(test, not(loom)))]
mod tests;
mod totals;
mod work;

pub(super) use totals::Totals;
pub use totals::{Compacted, CompactionStats, End};
