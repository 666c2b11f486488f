//! What a compaction has in hand: the call's [`Pass`], and in it the [`Work`] on one class and node.
//!
//! ```text
//!   Pass   budget, scope, what was done                     the whole call
//!    '- Work   class, node                                  until nothing can be won there
//!        |- goal    what is emptied, and which frame now    chosen again after each object
//!        |- ready   a slot whose frames were backed         for the next object of the goal
//!        '- busy    frames that are left alone
//! ```

use super::totals::Compacted;
use crate::units::NodeId;
use crate::zsmalloc::geometry::ClassIndex;
use crate::zsmalloc::heap::Spot;
use crate::zsmalloc::zspage::ZspageIndex;
use std::collections::HashMap;

/// Zspages of a group that are looked at for the next victim, and for a place: the lock is held meanwhile.
pub(super) const LOOK_AT: usize = 16;

/// Zspages that may be emptied, by what they were when they were found.
pub(super) type Scope = HashMap<(ClassIndex, NodeId), Vec<ZspageIndex>>;

/// A compaction under way.
pub(super) struct Pass {
    /// What of the scope no class has looked at yet; `None`: all may be emptied.
    pub(super) scope: Option<Scope>,
    pub(super) budget: u64,
    /// No frame was refused yet.
    pub(super) may_back: bool,
    pub(super) sum: Compacted,
}

/// One class on one node being compacted.
pub(super) struct Work {
    pub(super) index: ClassIndex,
    pub(super) node: NodeId,
    pub(super) goal: Option<Goal>,
    pub(super) ready: Option<Ready>,
    /// Frames that are left alone.
    pub(super) busy: Vec<Victim>,
    /// Zspages that may be emptied, the last ones now; `None`: all.
    pub(super) only: Option<Vec<ZspageIndex>>,
}

impl Work {
    pub(super) fn new(index: ClassIndex, node: NodeId, only: Option<Vec<ZspageIndex>>) -> Self {
        Work { index, node, goal: None, ready: None, busy: Vec::new(), only }
    }

    /// Go on to other zspages; `false` when there are none.
    pub(super) fn look_on(&mut self) -> bool {
        let Some(only) = &mut self.only else { return false };
        only.truncate(only.len().saturating_sub(LOOK_AT));
        !only.is_empty()
    }

    /// Whether a frame of the zspage is left alone.
    pub(super) fn is_busy(&self, z: ZspageIndex) -> bool {
        self.busy.iter().any(|&(busy, _)| busy == z)
    }
}

/// A frame being emptied.
pub(super) type Victim = (ZspageIndex, usize);

/// What is being emptied, and which frame of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// All of a zspage.
    Empty(Victim),
    /// All but the first `keep` frames of a zspage, into those.
    Pack { victim: Victim, keep: usize },
    /// A frame.
    Frame(Victim),
}

impl Goal {
    pub(super) fn victim(self) -> Victim {
        let (Goal::Empty(victim) | Goal::Pack { victim, .. } | Goal::Frame(victim)) = self;
        victim
    }
}

/// A reserved slot whose frames were backed for a move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// What was to be moved there, when the slot was reserved. What has become of it is asked again.
    pub(super) from: Spot,
    pub(super) to: Spot,
}
