//! Fail points: a test makes a protocol fail, or panic, at one of its steps, and sees what is left.
//!
//! ```text
//!   steps.arm(Step::BatchWritten, How::Panics, Times::Once(3))
//!   code:   ... write ... steps.reach(Step::BatchWritten)? ... switch ...      the third time here is the last
//! ```
//!
//! [`Steps`] travels in the core of an instance like [`Planted`](super::Planted). Outside of unit tests it has no size and
//! [`reach`](Steps::reach) is a constant `Ok`, so the questions vanish. What must hold after each step stands in
//! `docs/fault-model.md`.

/// The steps there are, each named by what has just been done, in the order of their protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    // --- writeback: pool -> place
    /// A batch was begun.
    WritebackBegun,
    /// An entry has its record, and its word the writeback bit.
    EntryMarked,
    /// Its place was charged.
    EntryCharged,
    /// Its bytes were copied into the batch.
    EntryCopied,
    /// The batch is on the device, and its reverse words are installed.
    WritebackWritten,
    /// An entry is about to land.
    EntryLanding,
    /// Its word names the place.
    EntrySwitched,
    /// Its object was freed.
    EntryFreed,

    // --- relocation: place -> place (cleaning, demotion, swapoff)
    /// A segment was read.
    SegmentRead,
    /// A batch for what is in it was begun.
    MoveBegun,
    /// A place's slot has its record, and its word the writeback bit.
    PlaceMarked,
    /// Its block was verified and copied into the batch.
    PlaceCopied,
    /// The batch is on the device, and its reverse words are installed.
    MoveWritten,
    /// A place is about to land.
    PlaceLanding,
    /// The word names the new place.
    PlaceSwitched,
    /// The old place was freed.
    PlaceFreed,

    // --- promotion: place -> pool (swapoff, prefetch)
    /// An object was allocated and charged.
    PromotionAllocated,
    /// The block's bytes are in it.
    PromotionWritten,
    /// The word names the object.
    PromotionSwitched,
    /// The place was freed.
    PromotionFreed,

    // --- policies
    /// A segment was chosen to be cleaned.
    CleaningChose,
    /// A segment was chosen whose objects go to another tier.
    DemotionChose,
    /// A device takes no more batches.
    SwapoffDrained,
    /// A segment of it is done.
    SwapoffSegment,
    /// Nothing is on it.
    SwapoffEmptied,
    /// It is no device of the instance any more.
    SwapoffRemoved,

    // --- a page that cannot be read back
    /// Its word says that it is lost.
    LostSwitched,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 27] = [
        Step::WritebackBegun,
        Step::EntryMarked,
        Step::EntryCharged,
        Step::EntryCopied,
        Step::WritebackWritten,
        Step::EntryLanding,
        Step::EntrySwitched,
        Step::EntryFreed,
        Step::SegmentRead,
        Step::MoveBegun,
        Step::PlaceMarked,
        Step::PlaceCopied,
        Step::MoveWritten,
        Step::PlaceLanding,
        Step::PlaceSwitched,
        Step::PlaceFreed,
        Step::PromotionAllocated,
        Step::PromotionWritten,
        Step::PromotionSwitched,
        Step::PromotionFreed,
        Step::CleaningChose,
        Step::DemotionChose,
        Step::SwapoffDrained,
        Step::SwapoffSegment,
        Step::SwapoffEmptied,
        Step::SwapoffRemoved,
        Step::LostSwitched,
    ];
}

/// The step fails as it would if what it does had failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepFailed(pub Step);

impl std::fmt::Display for StepFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a test has step {:?} fail", self.0)
    }
}

/// The fail points of one instance.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    #[cfg(test)]
    armed: super::Arc<armed::Armed>,
}

impl Steps {
    /// The step was reached.
    ///
    /// # Errors
    /// Where a test says so.
    ///
    /// # Panics
    /// Where a test says so, unless the thread is panicking already.
    #[inline(always)]
    pub fn reach(&self, step: Step) -> Result<(), StepFailed> {
        #[cfg(test)]
        return self.armed.reach(step);
        #[cfg(not(test))]
        {
            let _ = step;
            Ok(())
        }
    }

    /// The same for a step behind which there is no way back.
    #[inline(always)]
    pub fn pass(&self, step: Step) {
        let _ = self.reach(step);
    }
}

#[cfg(test)]
pub use armed::{How, Times};

#[cfg(test)]
mod armed {
    use super::{Step, StepFailed, Steps};
    use std::collections::HashMap;
    use std::sync::Mutex;

    /// What an armed step does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum How {
        /// It returns an error.
        Fails,
        /// It panics.
        Panics,
    }

    /// When it does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Times {
        /// At the n-th time it is reached, counted from 1.
        Once(u64),
        /// Each time.
        Always,
    }

    #[derive(Debug, Default)]
    pub(super) struct Armed(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        armed: Option<(Step, How, Times)>,
        /// How often each was reached since the last arming.
        reached: HashMap<Step, u64>,
        struck: u64,
    }

    impl Armed {
        pub(super) fn reach(&self, step: Step) -> Result<(), StepFailed> {
            let mut state = self.0.lock().unwrap();
            let times = state.reached.entry(step).or_default();
            *times += 1;
            let now = *times;
            let Some((_, how, _)) = state
                .armed
                .filter(|&(armed, _, times)| armed == step && (times == Times::Always || times == Times::Once(now)))
            else {
                return Ok(());
            };
            // A second panic would end the process.
            if how == How::Panics && std::thread::panicking() {
                return Ok(());
            }
            state.struck += 1;
            drop(state);
            match how {
                How::Fails => Err(StepFailed(step)),
                // resume_unwind: without the hook that prints.
                How::Panics => std::panic::resume_unwind(Box::new(step)),
            }
        }
    }

    impl Steps {
        /// Have one step fail from now on, and no other.
        pub fn arm(&self, step: Step, how: How, times: Times) {
            *self.armed.0.lock().unwrap() = State { armed: Some((step, how, times)), ..State::default() };
        }

        /// Have none fail.
        pub fn disarm(&self) {
            self.armed.0.lock().unwrap().armed = None;
        }

        /// How often the armed step has failed.
        pub fn struck(&self) -> u64 {
            self.armed.0.lock().unwrap().struck
        }

        /// How often a step was reached since the last arming.
        pub fn reached(&self, step: Step) -> u64 {
            self.armed.0.lock().unwrap().reached.get(&step).copied().unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_step_fails_when_it_is_told_to_and_no_other() {
        let steps = Steps::default();
        steps.arm(Step::EntryMarked, How::Fails, Times::Once(2));
        assert_eq!([1, 2, 3].map(|_| steps.reach(Step::EntryMarked).is_ok()), [true, false, true]);
        assert_eq!((steps.reach(Step::EntryCopied), steps.struck(), steps.reached(Step::EntryMarked)), (Ok(()), 1, 3));
        steps.arm(Step::EntryCopied, How::Panics, Times::Always);
        for _ in 0..2 {
            let caught = std::panic::catch_unwind(|| steps.clone().reach(Step::EntryCopied));
            assert_eq!(*caught.unwrap_err().downcast::<Step>().unwrap(), Step::EntryCopied);
        }
        steps.disarm();
        assert_eq!((steps.reach(Step::EntryCopied), steps.struck()), (Ok(()), 2));
    }

    #[test]
    fn all_steps_are_listed_once() {
        assert!(Step::ALL.into_iter().enumerate().all(|(number, step)| number == step as usize));
        assert_eq!(Step::ALL.len(), Step::LostSwitched as usize + 1);
    }
}
