//! One measurement of one [`Swapper`] each; who calls them in turns compares what the machine does in the same minute.
//!
//! Each begins with all pages in memory and ends so, and compares every page with what it is to be.

use super::clock::Clock;
use super::mapping::Pinned;
use super::samples::Samples;
use super::swapper::{RUN, Swapper};
use crate::inputs::Noise;
use zspool::units::Page;

/// What is the same for all measurements.
pub(crate) struct Bench<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) input: &'a [Page],
    /// Where the measured thread runs.
    pub(crate) core: usize,
    pub(crate) stamp: u64,
    pub(crate) noise: Noise,
}

/// A swapper's turn; dropped, it is over.
struct Turn<'a>(&'a dyn Swapper, #[allow(dead_code)] Pinned);

impl<'a> Turn<'a> {
    fn begin(swapper: &'a dyn Swapper, core: usize) -> Self {
        let pinned = Pinned::to(core);
        swapper.turn(true);
        Turn(swapper, pinned)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn(false);
    }
}

impl Bench<'_> {
    /// Take every page out, having written each or not; per page, in runs.
    fn out(&mut self, swapper: &dyn Swapper, dirty: bool) -> Samples {
        let mapping = swapper.mapping();
        if dirty {
            self.stamp += 1;
            mapping.stamp_all(self.stamp);
        }
        swapper.begin_out();
        let mut samples = Samples::with_capacity(mapping.pages() / RUN);
        for first in (0..mapping.pages() - RUN + 1).step_by(RUN) {
            samples.push(self.clock.time(|| swapper.out(first, RUN)) / RUN as f64);
        }
        samples
    }

    /// The pages that are out, of which nearly all have to be, or nothing was measured.
    fn gone(&self, swapper: &dyn Swapper) -> Vec<usize> {
        let present = swapper.mapping().present();
        let gone: Vec<usize> = (0..present.len()).filter(|&k| !present[k]).collect();
        let (name, all) = (swapper.name(), present.len());
        assert!(gone.len() * 10 >= all * 9, "{name}: {} of {all} pages are still in memory", all - gone.len());
        gone
    }

    fn verify(&self, swapper: &dyn Swapper) {
        swapper.mapping().verify(self.input, self.stamp, swapper.name());
    }

    /// Out in runs, and touched at random: per page.
    pub(crate) fn random(&mut self, swapper: &dyn Swapper) -> (Samples, Samples) {
        let _turn = Turn::begin(swapper, self.core);
        let out = self.out(swapper, true);
        let gone = self.gone(swapper);
        let mut back = Samples::with_capacity(gone.len());
        for at in self.noise.shuffled(gone.len()) {
            back.push(self.clock.time(|| swapper.mapping().read(gone[at])));
        }
        self.verify(swapper);
        (out, back)
    }

    /// Touched from end to end, a run leaving for each that comes, as at a limit: per page, means of runs.
    pub(crate) fn in_order(&mut self, swapper: &dyn Swapper) -> Samples {
        let _turn = Turn::begin(swapper, self.core);
        self.out(swapper, true);
        self.gone(swapper);
        let mapping = swapper.mapping();
        let mut back = Samples::with_capacity(mapping.pages() / RUN);
        for first in (0..mapping.pages() - RUN + 1).step_by(RUN) {
            back.push(self.clock.time(|| (first..first + RUN).for_each(|k| mapping.read(k))) / RUN as f64);
            (first..first + RUN).for_each(|k| mapping.stamp(k, self.stamp));
            swapper.out(first, RUN);
        }
        (0..mapping.pages()).for_each(|k| mapping.read(k));
        self.verify(swapper);
        back
    }

    /// Brought in by calls for `run` pages each, in random order: per page.
    pub(crate) fn by_call(&mut self, swapper: &dyn Swapper, run: usize) -> Samples {
        let _turn = Turn::begin(swapper, self.core);
        self.out(swapper, true);
        self.gone(swapper);
        let runs = swapper.mapping().pages() / run;
        let mut back = Samples::with_capacity(runs);
        for at in self.noise.shuffled(runs) {
            back.push(self.clock.time(|| swapper.bring(at * run, run)) / run as f64);
        }
        self.verify(swapper);
        back
    }

    /// Out in runs, another coming in for each, as at a limit: per page.
    pub(crate) fn exchange(&mut self, swapper: &dyn Swapper) -> Samples {
        let _turn = Turn::begin(swapper, self.core);
        let mapping = swapper.mapping();
        self.stamp += 1;
        mapping.stamp_all(self.stamp);
        swapper.begin_out();
        let runs = mapping.pages() / RUN;
        let mut out = Samples::with_capacity(runs / 2);
        (0..runs / 2).for_each(|run| swapper.out(run * RUN, RUN));
        let order = self.noise.shuffled(runs / 2);
        for (run, &back) in (runs / 2..runs).zip(&order) {
            swapper.bring(back * RUN, RUN);
            out.push(self.clock.time(|| swapper.out(run * RUN, RUN)) / RUN as f64);
        }
        (0..mapping.pages()).for_each(|k| mapping.read(k));
        self.verify(swapper);
        out
    }

    /// Out in runs, and in by calls for as many.
    pub(crate) fn out_and_in(&mut self, swapper: &dyn Swapper) -> Samples {
        let _turn = Turn::begin(swapper, self.core);
        let out = self.out(swapper, true);
        (0..swapper.mapping().pages()).step_by(RUN).for_each(|first| swapper.bring(first, RUN));
        self.verify(swapper);
        out
    }

    /// Out, in again by reading, and out without a write: the second time, per page.
    pub(crate) fn clean(&mut self, swapper: &dyn Swapper) -> Samples {
        let _turn = Turn::begin(swapper, self.core);
        self.out(swapper, true);
        (0..swapper.mapping().pages()).for_each(|k| swapper.mapping().read(k));
        let out = self.out(swapper, false);
        self.gone(swapper);
        self.verify(swapper);
        out
    }
}
