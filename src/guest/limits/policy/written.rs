//! [`WrittenAges`]: pages that were not written of late go first, where the kernel tells which were.
//!
//! It needs [`VmOptions::dirty_tracking`](crate::guest::VmOptions::dirty_tracking) (WP_ASYNC and PAGEMAP_SCAN, so no kept copies of clean
//! pages); what it has looked at is still told to who takes dirty pages. It sees writes alone: a page
//! that is only read is as cold as one that is not used, and only staging tells the two apart. Where the kernel does not tell, this is
//! [`StagedFifo`](super::StagedFifo).

use super::fifo::take_cold;
use super::{Policy, View};

/// As [`StagedFifo`](super::StagedFifo), and what was written since the last scan has a second chance as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct WrittenAges;

impl Policy for WrittenAges {
    fn name(&self) -> &'static str {
        "written-ages"
    }

    fn victims(&self, view: &mut View<'_>) {
        take_cold(view);
    }

    fn on_scan(&self, view: &mut View<'_>) {
        let pages = view.pages();
        let _told = view.written(&mut |run| run.filter(|&page| page < pages).for_each(|page| view.give_chance(page)));
    }
}
