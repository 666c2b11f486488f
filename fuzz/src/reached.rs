//! [`Reached`]: how often lists of operations came upon what they are for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// Counts by what was reached.
#[derive(Clone, Debug, Default)]
pub struct Reached(BTreeMap<&'static str, u64>);

impl Reached {
    /// Nothing yet.
    pub const fn new() -> Self {
        Reached(BTreeMap::new())
    }

    /// Count `n` more of `what`; 0 is nothing.
    pub fn add(&mut self, what: &'static str, n: u64) {
        if n > 0 {
            *self.0.entry(what).or_default() += n;
        }
    }

    /// Count one if it is so.
    pub fn note(&mut self, what: &'static str, is_so: bool) {
        self.add(what, u64::from(is_so));
    }

    /// How often.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Add all of another.
    pub fn merge(&mut self, other: &Reached) {
        other.0.iter().for_each(|(what, n)| self.add(what, *n));
    }

    /// Add it to what this process prints when it ends.
    pub fn sum_up(&self) {
        static TOTAL: Mutex<Reached> = Mutex::new(Reached::new());
        extern "C" fn print() {
            eprint!("{}", TOTAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        }
        let mut total = TOTAL.lock().expect("nothing panics under this lock");
        if total.0.is_empty() {
            // SAFETY: `print` is a function of this program, which is there until its end.
            unsafe { libc::atexit(print) };
            total.add("lists", 0);
        }
        total.add("lists", 1);
        total.merge(self);
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, n)| writeln!(f, "reached: {n:>12} {what}"))
    }
}
