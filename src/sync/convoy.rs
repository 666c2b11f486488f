//! [`Convoy`]: threads put what they want done into common batches, and one of them does a batch for all.
//!
//! ```text
//!   threads   a  b            c  d  e                f
//!             |  | waits      |  |  | wait           | leads the next
//!   batch     [a]             [b c d e]              [f]           <- filled while the one before is under way
//!             a leads          b leads
//!   work      +------ a ------+----- b c d e -----+------ f ------+
//! ```
//!
//! - **V1** Whoever finds no batch under way leads: takes all that have joined, and works. So what joins waits for one batch at
//!   most before its own begins.
//! - **V2** Each who joined is told what became of his own items, once; a batch's room is used again when all were told.
//! - **V3** Where there is no room to join, one works alone: nobody waits for room.

use super::{Bug, Condvar, Mutex, Planted, Rank};

/// Batches that are remembered. Who was worked for may have to wait for a core before he hears of it.
const BATCHES: usize = 8;

/// Where threads join batches of `T`s: what is to be done, and what came of it.
#[derive(Debug)]
pub struct Convoy<T> {
    state: Mutex<State<T>>,
    /// Items of a batch at most.
    most: usize,
    changed: Condvar,
    planted: Planted,
}

#[derive(Debug)]
struct State<T> {
    /// A batch is under way.
    under_way: bool,
    /// Number of the batch that is being filled.
    filling: u64,
    /// By number modulo [`BATCHES`]: the one that is being filled, the one under way, and those before it whose members have
    /// not all been told.
    batches: [Batch<T>; BATCHES],
}

/// A batch, from the first who joins to the last who is told.
#[derive(Debug)]
struct Batch<T> {
    /// What joined. Its memory is made once, by the first who joins.
    items: Vec<T>,
    done: bool,
    /// How many calls have joined and not been told.
    untold: usize,
}

/// Ends a batch, also when its work panicked.
struct Lead<'a, T> {
    convoy: &'a Convoy<T>,
    number: u64,
    items: Vec<T>,
    /// Who leads comes back to be told.
    worked: bool,
}

impl<T: Copy> Convoy<T> {
    /// Batches of up to so many items.
    pub fn new(most: usize, planted: Planted) -> Self {
        let batch = |_| Batch { items: Vec::new(), done: false, untold: 0 };
        let state = State { under_way: false, filling: 0, batches: std::array::from_fn(batch) };
        Convoy { state: Mutex::new(Rank::Leaf, state), most, changed: Condvar::new(), planted }
    }

    /// Have `items` done in a batch with others: this thread calls `work` on the whole batch, or waits for another that does,
    /// for whom it has to be the same work. Calls `tell` with one's own items as the work left them. `None`, and nothing is
    /// done, where there is no room to join. When the work panics, who joined finds items as they came.
    ///
    /// # Locks
    /// A leaf, not while working, but around `tell`.
    pub fn join<R>(&self, items: &[T], work: impl FnOnce(&mut [T]), tell: impl FnOnce(&[T]) -> R) -> Option<R> {
        let mut work = Some(work);
        let mut state = self.state.lock();
        let number = state.filling;
        let batch = state.batch(number);
        let mine = batch.items.len()..batch.items.len() + items.len();
        if batch.done || mine.end > self.most {
            return None; // V3
        }
        if batch.items.capacity() == 0 {
            batch.items.reserve_exact(self.most);
        }
        batch.items.extend_from_slice(items);
        batch.untold += 1;
        // V1
        while !state.batch(number).done {
            if state.under_way {
                self.changed.wait(&mut state);
                continue;
            }
            state.under_way = true;
            state.filling += 1;
            let items = std::mem::take(&mut state.batch(number).items);
            let mut lead = Lead { convoy: self, number, items, worked: false };
            if self.planted.is(Bug::ConvoyTellsBeforeWork) {
                state.batch(number).items = lead.items.clone();
                state.batch(number).done = true;
            }
            drop(state);
            if let Some(work) = work.take() {
                work(&mut lead.items);
            }
            lead.worked = true;
            drop(lead);
            state = self.state.lock();
        }
        let batch = state.batch(number);
        let told = tell(&batch.items[mine]);
        batch.tell_one();
        Some(told)
    }
}

impl<T> Batch<T> {
    /// One more who joined was told, or is not there any more (V2).
    fn tell_one(&mut self) {
        self.untold -= 1;
        if self.untold == 0 {
            self.items.clear();
            self.done = false;
        }
    }
}

impl<T> State<T> {
    fn batch(&mut self, number: u64) -> &mut Batch<T> {
        &mut self.batches[number as usize % BATCHES]
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        let mut state = self.convoy.state.lock();
        let batch = state.batch(self.number);
        batch.items = std::mem::take(&mut self.items);
        batch.done = true;
        if !self.worked {
            batch.tell_one();
        }
        state.under_way = false;
        drop(state);
        self.convoy.changed.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Arc, thread};
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn who_finds_no_room_is_told_so() {
        let convoy = Convoy::new(2, Planted::NONE);
        assert_eq!(convoy.join(&[1, 2, 3], |_| panic!("there is no room"), |_| ()), None);
        for _ in 0..3 * BATCHES {
            let doubled = convoy.join(&[1, 2], |items| items.iter_mut().for_each(|k| *k *= 2), <[_]>::to_vec);
            assert_eq!(doubled, Some(vec![2, 4]));
        }
    }

    #[test]
    fn each_is_told_of_its_own_however_many_join() {
        let (convoy, batches) = (Arc::new(Convoy::new(64, Planted::NONE)), Arc::new(AtomicUsize::new(0)));
        let run = |t: usize| {
            let (convoy, batches) = (Arc::clone(&convoy), Arc::clone(&batches));
            let join = move || {
                for k in 0..200 {
                    let work = |items: &mut [(usize, usize)]| {
                        batches.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(std::time::Duration::from_micros(50));
                        items.iter_mut().for_each(|(item, done)| *done += *item + 1);
                    };
                    let mine = t << 32 | k;
                    // Where a thread waits long for a core to be told, others may find no room (V3).
                    let told = convoy.join(&[(mine, 0)], work, |told| told.to_vec());
                    assert_eq!(told.unwrap_or(vec![(mine, mine + 1)]), [(mine, mine + 1)]);
                }
            };
            thread::spawn("joiner", join).unwrap()
        };
        let threads: Vec<_> = (0..8).map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let batches = batches.load(Ordering::Relaxed);
        assert!(batches < 1600, "nobody shared a batch");
    }

    #[test]
    fn a_leader_that_panics_leaves_nobody_waiting() {
        let convoy = Convoy::new(2, Planted::NONE);
        let lead = || convoy.join(&[1], |_| std::panic::resume_unwind(Box::new("as told")), |_| ());
        // Nor does it take the room of a batch with it.
        for k in 1..2 * BATCHES {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(lead)).is_err());
            assert_eq!(convoy.join(&[k], |_| (), |told| told.to_vec()), Some(vec![k]));
        }
    }
}
