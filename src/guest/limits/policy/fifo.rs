//! [`StagedFifo`] and [`PlainFifo`]: the next pages under the hand, with and without regard to what came back.

use super::{Back, Policy, Treatment, View};

/// The default. What goes is staged first, in its turn; what is wanted comes back from there at the price of a fault without a codec, and
/// is passed by once (a second chance). What comes back from its slot soon after it left is left alone for some passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StagedFifo;

/// The hand alone: what came back goes again when its turn comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainFifo;

/// Take runs of what neither came back from staging since the last pass nor is to be left alone.
pub(super) fn take_cold(view: &mut View<'_>) {
    view.take_runs(|view, page, look| {
        if look.ban > 0 {
            view.spend_ban(page);
        } else if look.referenced {
            view.spend_chance(page);
        } else {
            return true;
        }
        false
    });
}

impl Policy for StagedFifo {
    fn name(&self) -> &'static str {
        "staged-fifo"
    }

    fn victims(&self, view: &mut View<'_>) {
        take_cold(view);
    }
}

impl Policy for PlainFifo {
    fn name(&self) -> &'static str {
        "plain-fifo"
    }

    fn victims(&self, view: &mut View<'_>) {
        view.take_runs(|_, _, _| true);
    }

    fn on_back(&self, _: &Back) -> Treatment {
        Treatment::default()
    }
}
