//! [`drain`]: a swapoff with a bar. Ctrl-C cancels it, and nothing else of the run.

use crate::progress::Progress;
use crate::signals;
use crate::target::{Moved, Target};
use crate::tiers::report::{Swap, Swapoff, SwapoffEnd};
use std::time::Instant;
use zspool::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Take these devices off, one after the other, until one is cancelled. `swap` is what there was before.
pub(crate) fn drain<T: Target>(target: &T, swap: &Swap, numbers: &[u8]) -> Vec<Swapoff> {
    let mut swapoffs = vec![];
    for &number in numbers {
        let swapoff = drain_one(target, swap, number);
        let cancelled = swapoff.end == SwapoffEnd::Cancelled;
        swapoffs.push(swapoff);
        if cancelled {
            break;
        }
    }
    swapoffs
}

fn drain_one<T: Target>(target: &T, swap: &Swap, number: u8) -> Swapoff {
    let find = |swap: &Swap| swap.devices.iter().find(|row| row.number == number).cloned();
    // What an earlier swapoff moved here counts as well.
    let before = find(&target.swap()).or_else(|| find(swap)).unwrap_or_default();
    let progress = Progress::objects(format!("swapoff {}", before.tier), before.objects);
    let (start, interrupted) = (Instant::now(), AtomicBool::new(false));
    let watch = |moved| {
        progress.at(moved);
        if signals::take_interrupt() {
            interrupted.store(true, Relaxed);
        }
        !interrupted.load(Relaxed) && signals::stopped().is_none()
    };
    let Moved { objects, to_memory, lost, off } = target.swapoff(number, &watch);
    let seconds = start.elapsed().as_secs_f64();
    drop(progress);
    let left = find(&target.swap()).unwrap_or_default();
    let end = match off {
        Ok(()) => SwapoffEnd::Off,
        Err(None) => SwapoffEnd::Cancelled,
        Err(Some(why)) => SwapoffEnd::Failed(why.to_string()),
    };
    Swapoff {
        name: before.name,
        tier: before.tier,
        end,
        moved_objects: objects,
        moved_bytes: before.live_bytes.saturating_sub(left.live_bytes),
        to_memory,
        lost_objects: lost,
        left_objects: left.objects,
        left_bytes: left.live_bytes,
        seconds,
    }
}
