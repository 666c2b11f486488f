//! [`Swapper`]: whoever takes pages out of a mapping, and brings them back when they are touched or asked for.

use super::mapping::Mapping;
use zspool::units::Page;

/// Pages that leave together.
pub(crate) const RUN: usize = 64;

pub(crate) trait Swapper {
    fn name(&self) -> &'static str;

    fn mapping(&self) -> &Mapping;

    /// This one is measured from here on, or not any more.
    fn turn(&self, _begins: bool) {}

    /// All pages are in memory; some will leave.
    fn begin_out(&self) {}

    /// Take pages out, compressed.
    fn out(&self, first: usize, pages: usize);

    /// Bring pages in, by call.
    fn bring(&self, first: usize, pages: usize);
}

/// The kernel, with whatever swap there is.
pub(crate) struct Kernel(Mapping);

impl Kernel {
    pub(crate) fn new(input: &[Page]) -> Self {
        Kernel(Mapping::of(input))
    }
}

impl Swapper for Kernel {
    fn name(&self) -> &'static str {
        "kernel zram"
    }

    fn mapping(&self) -> &Mapping {
        &self.0
    }

    fn out(&self, first: usize, pages: usize) {
        self.0.advise(first, pages, libc::MADV_PAGEOUT).expect("the kernel has MADV_PAGEOUT from 5.4 on");
    }

    fn bring(&self, first: usize, pages: usize) {
        self.0.advise(first, pages, libc::MADV_POPULATE_READ).expect("the kernel has MADV_POPULATE_READ from 5.14 on");
    }
}
