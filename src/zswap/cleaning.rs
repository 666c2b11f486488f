//! Cleaning: what lives in sparse segments goes together, so that whole segments become free.
//!
//! ```text
//!   before   [x.x...x] [..x.x..] [xxxxxx.] [x..x...]      . dead
//!   after    [       ] [       ] [xxxxxx.] [xxxxxxx]      sparsest first; one segment is kept for it
//! ```
//!
//! - **C1** A device is clean when it uses no more than 1.25 times the bytes that live there. The worker cleans when nothing else
//!   is to be done, and whoever finds no room for a batch cleans a segment before the device counts as full.
//! - **C2** A segment's objects are written in one batch, sealed anew, and land one by one (`relocate.rs`); those that are on their
//!   way at that moment are passed over.
//! - **C3** Who moves objects out of a device has its one buffer for that, so cleaners take turns. Work is bounded by segments: a
//!   call ends when one gave nothing back. One where somebody was just at an object is looked at again, a few times: a free that has
//!   the slot and not yet the place keeps a segment for as long as its thread waits for a core.

use super::core::{Core, Zswap};
use super::relocate::{Moved, Mover, Route, To};
use crate::swap::{Allowed, AreaStats, DeviceRef, Outgoing, SegmentId, State};
use crate::sync::thread::sleep;
use crate::sync::{self, Step};
use std::time::Duration;

/// Segments that are cleaned for one batch, at most. Where 19 bytes in 20 live, each gives a twentieth of one.
const PER_BATCH: usize = 32;

/// So often in a row a segment is looked at again where somebody was at an object, after so long.
const PATIENCE: usize = 8;
const BUSY: Duration = Duration::from_millis(1);

/// What a segment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum One {
    /// Bytes were won.
    Won,
    /// None, as somebody is at an object.
    Busy,
    /// None.
    Nothing,
}

/// What cleaning came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Cleaned {
    /// Segments whose objects were moved.
    pub segments: u64,
    /// Objects that were.
    pub objects: u64,
    /// Bytes of their blocks.
    pub moved_bytes: u64,
    /// Bytes that the devices use less for it.
    pub won_bytes: u64,
    /// Pages that could not be read back, and are lost.
    pub lost: u64,
}

impl Zswap {
    /// Clean all devices until each uses no more than 1.25 times what lives there, or so many bytes were moved. The worker does it
    /// by itself when nothing else is to be done.
    ///
    /// # Locks
    /// None while reading and writing; then as writeback.
    pub fn clean(&self, most_bytes: u64) -> Cleaned {
        self.core.clean_until(most_bytes, &|| false)
    }

    /// Move what lives in one segment to others of its device, whether that wins anything or not: for models. Objects moved.
    #[doc(hidden)]
    pub fn clean_segment(&self, device: u8, segment: u32) -> u64 {
        let device = self.core.devices.get(device).expect("the device is on");
        self.core.clean_segment(&device, SegmentId(segment)).objects()
    }
}

/// Whether a device uses more than it should (C1).
pub(super) fn is_sparse(stats: &AreaStats) -> bool {
    stats.reclaimable_bytes > 0 && stats.used_bytes > stats.live_bytes + stats.live_bytes / 4
}

impl Core {
    /// Clean until `stop` says so, which is asked before each segment.
    pub(super) fn clean_until(&self, most_bytes: u64, stop: &dyn Fn() -> bool) -> Cleaned {
        sync::assert_no_lock_held("cleaning");
        let mut cleaned = Cleaned::default();
        // One that takes no writes would be read, again and again, for objects that have nowhere to go.
        for device in self.devices.iter().filter(|device| device.state() == State::On) {
            let mut busy = 0;
            while cleaned.moved_bytes < most_bytes && !stop() && is_sparse(&device.stats()) {
                match self.clean_one(&device, &mut cleaned) {
                    One::Won => busy = 0,
                    One::Busy if busy < PATIENCE => {
                        busy += 1;
                        sleep(BUSY);
                    }
                    One::Busy | One::Nothing => break,
                }
            }
        }
        cleaned
    }

    /// Clean the sparsest segment of a device. What that won is reckoned by the segment: what others write and free meanwhile is theirs.
    fn clean_one(&self, device: &DeviceRef<'_>, cleaned: &mut Cleaned) -> One {
        let Some(id) = device.sparsest() else { return One::Nothing };
        if self.steps.reach(Step::CleaningChose).is_err() {
            return One::Nothing;
        }
        let took = device.used_bytes_of(id);
        let moved = self.clean_segment(device, id);
        let won = if moved.left_nothing() { took.saturating_sub(moved.written_bytes) } else { 0 };
        cleaned.segments += 1;
        cleaned.objects += moved.objects();
        cleaned.moved_bytes += moved.left_bytes;
        cleaned.won_bytes += won;
        cleaned.lost += moved.lost;
        match moved {
            _ if won > 0 => One::Won,
            Moved { busy: 1.., failed: None, .. } => One::Busy,
            _ => One::Nothing,
        }
    }

    fn clean_segment(&self, device: &DeviceRef<'_>, id: SegmentId) -> Moved {
        let mut mover = Mover::new(self, Route { pool: false, to: To::Same, whose: &|_| true });
        mover.segment(device, id, &|_| false);
        mover.moved
    }

    /// A batch on an allowed device; where none has room, devices are cleaned until one has.
    ///
    /// # Errors
    /// As [`Devices::begin`](crate::swap::Devices::begin), when cleaning does not help.
    pub(super) fn begin_batch(
        &self,
        allowed: &Allowed,
        least: usize,
        most: usize,
    ) -> Result<Outgoing<'_>, crate::swap::Error> {
        let mut cleaned = Cleaned::default();
        for _ in 0..PER_BATCH {
            let refused = match self.devices.begin(allowed, least, most) {
                Ok(batch) => return Ok(batch),
                Err(refused) => refused,
            };
            let mut to_clean = self.devices.iter().filter(|device| allowed.admits(device));
            let mut wins = |device: &DeviceRef<'_>| {
                device.stats().reclaimable_bytes > 0 && self.clean_one(device, &mut cleaned) == One::Won
            };
            if !to_clean.any(|device| wins(&device)) {
                return Err(refused);
            }
        }
        self.devices.begin(allowed, least, most)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_sparse_above_a_quarter_more_than_lives_there_if_anything_can_be_won() {
        let of = |reclaimable_bytes, used_bytes, live_bytes| AreaStats {
            reclaimable_bytes,
            used_bytes,
            live_bytes,
            ..AreaStats::default()
        };
        assert!(is_sparse(&of(1, 1251, 1000)));
        assert!(!is_sparse(&of(1, 1250, 1000)) && !is_sparse(&of(0, 2000, 1000)) && !is_sparse(&of(0, 0, 0)));
        assert!(is_sparse(&of(1, 1, 0)), "nothing lives there");
    }
}
