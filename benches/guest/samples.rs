//! [`Samples`]: times of single operations, in nanoseconds.

#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    times: Vec<f64>,
    sorted: bool,
}

impl Samples {
    pub(crate) fn with_capacity(times: usize) -> Self {
        let mut times = vec![1.0; times]; // touched, so that no fault of ours is measured
        times.clear();
        Samples { times, sorted: false }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, ns: f64) {
        self.times.push(ns);
        self.sorted = false;
    }

    pub(crate) fn add(&mut self, other: Samples) {
        self.times.extend(other.times);
        self.sorted = false;
    }

    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    pub(crate) fn mean(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len().max(1) as f64
    }

    /// The time that a share of all does not exceed; not a number where there are none.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        if !self.sorted {
            self.times.sort_by(f64::total_cmp);
            self.sorted = true;
        }
        let at = ((self.times.len() as f64 * share) as usize).min(self.times.len().saturating_sub(1));
        self.times.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The so many longest.
    pub(crate) fn slowest(mut self, times: usize) -> Self {
        self.quantile(0.5);
        self.times.drain(..self.times.len().saturating_sub(times));
        self
    }

    pub(crate) fn median(&mut self) -> f64 {
        self.quantile(0.5)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(times: I) -> Self {
        Samples { times: times.into_iter().collect(), sorted: false }
    }
}
