//! [`AreaStats`]: what an area holds and has done, as numbers and in words.

use super::Area;
use crate::swap::geometry::BLOCK_BYTES;
use crate::swap::segments::SegmentCounts;
use crate::sync::Tally;
use crate::sync::atomic::Ordering;

/// What an area holds and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AreaStats {
    /// Bytes of all segments.
    pub size_bytes: u64,
    /// Bytes of the pages that were written in segments in use: what lives there, and what has died since.
    pub used_bytes: u64,
    /// Bytes of the blocks of live objects, headers and padding included.
    pub live_bytes: u64,
    /// Of the bytes used, those that cleaning would win.
    pub reclaimable_bytes: u64,
    /// Live objects.
    pub objects: u64,
    /// Bytes of segments that are not used again.
    pub bad_bytes: u64,
    /// Bytes of free segments that `maintain` would punch.
    pub punchable_bytes: u64,
    /// Segments by what they are.
    pub segments: SegmentCounts,
    /// Bytes of memory for reverse words: 8 for each object in a segment in use, and 8 for each such segment.
    pub reverse_bytes: u64,
    /// Bytes of memory for descriptors: 48 for each segment that was ever used.
    pub descriptor_bytes: u64,
    /// Bytes written, ever.
    pub written_bytes: u64,
    /// Of those, bytes written by cleaning, ever.
    pub cleaned_bytes: u64,
    /// Bytes read, ever.
    pub read_bytes: u64,
    /// Requests and punches that failed, ever.
    pub io_errors: u64,
    /// Objects that were found not to be what was written, ever (see [`Area::blame`]).
    pub corrupt: u64,
    /// Bytes whose storage was given back, ever.
    pub punched_bytes: u64,
    /// Bytes whose storage was to be given back and was not, ever: the device cannot, or failed.
    pub unpunched_bytes: u64,
    /// Bytes of segments that a late write may yet reach.
    pub quarantined_bytes: u64,
    /// Requests that the device has not answered in time, ever.
    pub timeouts: u64,
}

impl Area {
    /// The counters. Those of segments are of one instant.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn stats(&self) -> AreaStats {
        let segments = self.segments.stats();
        let pages = |pages: u64| pages * self.geometry.page_bytes as u64;
        let all = |segments: u64| segments * self.geometry.segment_bytes() as u64;
        let count = Tally::get;
        AreaStats {
            size_bytes: all(segments.counts.all),
            used_bytes: pages(segments.used_pages),
            live_bytes: segments.live_blocks * BLOCK_BYTES as u64,
            reclaimable_bytes: pages(segments.reclaimable_pages),
            objects: segments.objects,
            bad_bytes: all(segments.counts.bad),
            punchable_bytes: pages(segments.punchable_pages),
            segments: segments.counts,
            reverse_bytes: segments.reverse_bytes,
            descriptor_bytes: segments.descriptor_bytes,
            written_bytes: count(&self.written_bytes),
            cleaned_bytes: count(&self.cleaned_bytes),
            read_bytes: count(&self.read_bytes),
            io_errors: count(&self.io_errors),
            corrupt: count(&self.corrupt),
            punched_bytes: count(&self.punched_bytes),
            unpunched_bytes: count(&self.unpunched_bytes),
            quarantined_bytes: all(segments.counts.late),
            timeouts: self.quarantine.timeouts(),
        }
    }

    /// How the device is used, for people.
    pub fn describe(&self) -> String {
        let holes = if self.unpunchable.load(Ordering::Relaxed) { ", which cannot give storage back" } else { "" };
        format!("{}, {}{holes}", self.device.describe(), self.protection)
    }
}

impl std::ops::AddAssign for AreaStats {
    /// Field by field, so that a new field is not forgotten.
    fn add_assign(&mut self, more: Self) {
        let AreaStats {
            size_bytes,
            used_bytes,
            live_bytes,
            reclaimable_bytes,
            objects,
            bad_bytes,
            punchable_bytes,
            segments,
            reverse_bytes,
            descriptor_bytes,
            written_bytes,
            cleaned_bytes,
            read_bytes,
            io_errors,
            corrupt,
            punched_bytes,
            unpunched_bytes,
            quarantined_bytes,
            timeouts,
        } = more;
        self.size_bytes += size_bytes;
        self.used_bytes += used_bytes;
        self.live_bytes += live_bytes;
        self.reclaimable_bytes += reclaimable_bytes;
        self.objects += objects;
        self.bad_bytes += bad_bytes;
        self.punchable_bytes += punchable_bytes;
        self.segments += segments;
        self.reverse_bytes += reverse_bytes;
        self.descriptor_bytes += descriptor_bytes;
        self.written_bytes += written_bytes;
        self.cleaned_bytes += cleaned_bytes;
        self.read_bytes += read_bytes;
        self.io_errors += io_errors;
        self.corrupt += corrupt;
        self.punched_bytes += punched_bytes;
        self.unpunched_bytes += unpunched_bytes;
        self.quarantined_bytes += quarantined_bytes;
        self.timeouts += timeouts;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Numbers that differ from each other, so many times.
    fn times(n: u64) -> AreaStats {
        AreaStats {
            size_bytes: 3 * n,
            used_bytes: 4 * n,
            live_bytes: 5 * n,
            reclaimable_bytes: 6 * n,
            objects: 7 * n,
            bad_bytes: 8 * n,
            punchable_bytes: 9 * n,
            segments: SegmentCounts {
                all: 10 * n,
                free: 11 * n,
                open: 12 * n,
                full: 13 * n,
                bad: 14 * n,
                late: 15 * n,
            },
            reverse_bytes: 16 * n,
            descriptor_bytes: 17 * n,
            written_bytes: 18 * n,
            cleaned_bytes: 19 * n,
            read_bytes: 20 * n,
            io_errors: 21 * n,
            corrupt: 22 * n,
            punched_bytes: 23 * n,
            unpunched_bytes: 24 * n,
            quarantined_bytes: 25 * n,
            timeouts: 26 * n,
        }
    }

    #[test]
    fn the_sum_over_areas_is_one_of_each_number() {
        let mut sum = times(1);
        sum += times(100);
        assert_eq!(sum, times(101));
    }
}
