//! [`Meter`]: where one VM's numbers are counted, and [`Observer`] of its pages.
//!
//! Everything is a relaxed addition to a number of its own: a few nanoseconds, no lock, no allocation; also in a signal handler.

use super::histogram::Recorder;
use super::vm_stats::{Faults, VmStats};
use crate::guest::FaultKind;
use crate::guest::pages::ports::{Count, Gauge};
use crate::sync::Tally;
use crate::units::PAGE_SIZE;

const GAUGES: [Gauge; 7] =
    [Gauge::Resident, Gauge::Staged, Gauge::Stored, Gauge::Poisoned, Gauge::Kept, Gauge::Pinned, Gauge::Stiff];

const COUNTS: [Count; 11] = [
    Count::Busy,
    Count::Again,
    Count::Vanished,
    Count::TakenOut,
    Count::PutAway,
    Count::Refused,
    Count::PutAwayClean,
    Count::Wasted,
    Count::Around,
    Count::Stayed,
    Count::Unreadable,
];

/// One VM's.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// By [`Gauge`], in pages. Two's complement: what one thread takes away may be added by another only later.
    gauges: [Tally; GAUGES.len()],
    /// By [`Count`].
    counts: [Tally; COUNTS.len()],
    /// By [`FaultKind`].
    faults: [Recorder; FaultKind::ALL.len()],
    distance: Recorder,
}

impl Meter {
    /// A fault was served.
    #[inline]
    pub(crate) fn served(&self, kind: FaultKind, nanos: u64) {
        self.faults[kind as usize].record(nanos);
    }

    /// A number of pages changed.
    #[inline]
    pub(crate) fn change(&self, gauge: Gauge, pages: i64) {
        self.gauges[gauge as usize].add(pages.cast_unsigned());
    }

    /// Something happened.
    #[inline]
    pub(crate) fn count(&self, what: Count, pages: u32) {
        self.counts[what as usize].add(pages.into());
    }

    /// A page came back, after so many others left.
    pub(crate) fn came_back(&self, distance: u64) {
        self.distance.record(distance);
    }

    /// Pages now. A moment's: never below 0.
    #[inline]
    pub(crate) fn pages(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].get().cast_signed().max(0).cast_unsigned()
    }

    fn counted(&self, what: Count) -> u64 {
        self.counts[what as usize].get()
    }

    /// All that is counted here. What slots hold is not.
    pub(crate) fn snapshot(&self) -> VmStats {
        let bytes = |gauge| self.pages(gauge) * PAGE_SIZE as u64;
        VmStats {
            resident: bytes(Gauge::Resident),
            staged: bytes(Gauge::Staged),
            poisoned: bytes(Gauge::Poisoned),
            kept: bytes(Gauge::Kept),
            pinned: bytes(Gauge::Pinned),
            incompressible: bytes(Gauge::Stiff),
            faults: self.faults.each_ref().map(|recorder| Faults { nanos: recorder.snapshot() }),
            refault_distance: self.distance.snapshot(),
            taken_out: self.counted(Count::TakenOut),
            put_away: self.counted(Count::PutAway),
            put_away_clean: self.counted(Count::PutAwayClean),
            wasted: self.counted(Count::Wasted),
            refused: self.counted(Count::Refused),
            put_back: self.counted(Count::Stayed),
            unreadable: self.counted(Count::Unreadable),
            around: self.counted(Count::Around),
            busy: self.counted(Count::Busy),
            again: self.counted(Count::Again),
            vanished: self.counted(Count::Vanished),
            ..VmStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_place_of_its_own() {
        let meter = Meter::default();
        for (k, &gauge) in GAUGES.iter().enumerate() {
            assert_eq!(gauge as usize, k);
            meter.change(gauge, 10 + k as i64);
            meter.change(gauge, -1);
        }
        for (k, &count) in COUNTS.iter().enumerate() {
            assert_eq!(count as usize, k);
            meter.count(count, 100 + k as u32);
        }
        for (k, &kind) in FaultKind::ALL.iter().enumerate() {
            assert_eq!(kind as usize, k);
            (0..=k).for_each(|_| meter.served(kind, 1000 << k));
        }
        let stats = meter.snapshot();
        assert_eq!((stats.resident, stats.staged, stats.poisoned), (9 * 4096, 10 * 4096, 12 * 4096));
        assert_eq!((stats.kept, stats.pinned, meter.pages(Gauge::Stored)), (13 * 4096, 14 * 4096, 11));
        assert_eq!(
            (stats.busy, stats.again, stats.vanished, stats.taken_out, stats.put_away),
            (100, 101, 102, 103, 104)
        );
        assert_eq!((stats.refused, stats.put_away_clean, stats.wasted, stats.around), (105, 106, 107, 108));
        assert_eq!((stats.put_back, stats.incompressible, stats.unreadable), (109, 15 * 4096, 110));
        assert_eq!((stats.faults_of(FaultKind::Device).count(), stats.all_faults()), (3, 36 - 7));
        assert_eq!(stats.fault_nanos().count(), 36);
        meter.change(Gauge::Kept, -100);
        assert_eq!(meter.snapshot().kept, 0, "another thread's addition is still to come");
    }
}
