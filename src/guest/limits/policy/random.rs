//! [`Random`]: what others have to beat.

use super::{Back, Policy, Treatment, View};
use crate::sync::Tally;

/// Runs that are tried in a region before it is the next one's turn.
const TRIES: u32 = 256;

/// Runs of up to 16 pages from anywhere in the region. (A region at a time: of several, each has its turn.)
#[derive(Debug, Default)]
pub struct Random {
    state: Tally,
}

impl Random {
    /// The same seed chooses the same pages.
    pub fn seeded(seed: u64) -> Self {
        let random = Random::default();
        random.state.set(seed);
        random
    }

    /// Splitmix64 (Steele, Lea and Flood, 2014).
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.add(STEP).wrapping_add(STEP);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn victims(&self, view: &mut View<'_>) {
        let pages = view.pages();
        for _ in 0..TRIES {
            if view.want() == 0 || pages == 0 {
                break;
            }
            let first = (self.next() % u64::from(pages)) as u32;
            let most = 16.min(view.want()).min(pages - first);
            let len = (0..most).take_while(|&k| view.look(first + k).takeable).count() as u32;
            if len > 0 {
                view.take(first, len);
            }
        }
        view.end();
    }

    fn on_back(&self, _: &Back) -> Treatment {
        Treatment::default()
    }
}
