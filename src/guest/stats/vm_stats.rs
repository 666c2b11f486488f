//! [`VmStats`]: one VM's numbers at one moment.

use super::histogram::Histogram;
use crate::guest::FaultKind;

/// Faults of one kind: nanoseconds from when we saw it to when the page was there. Not in it: what the kernel takes before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// How many, and how long.
    pub nanos: Histogram,
}

impl Faults {
    /// How many.
    pub fn count(&self) -> u64 {
        self.nanos.count()
    }
}

/// A VM's numbers. Bytes are of pages (4096 each) unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct VmStats {
    /// Bytes in the guest's range.
    pub resident: u64,
    /// Bytes taken out of it, in memory still.
    pub staged: u64,
    /// Bytes of pages that are compressed in the pool.
    pub compressed: u64,
    /// What those take there: slots, as `memory.zswap.current` has them.
    pub compressed_into: u64,
    /// Bytes of pages on devices.
    pub on_device: u64,
    /// What those take there: places, as `memory.swap.current` has them.
    pub on_device_into: u64,
    /// Bytes of pages that are one repeated word, and take nothing.
    pub same_filled: u64,
    /// Bytes that cannot be had: who touches them gets SIGBUS.
    pub poisoned: u64,
    /// Bytes in memory with an equal copy in their slots: they leave without the codec.
    pub kept: u64,
    /// Bytes that are pinned.
    pub pinned: u64,
    /// Bytes in memory that were found not to shrink, with no device that takes them: to take them out would win nothing. They are left
    /// alone for a while, longer each time in a row, and then tried again.
    pub incompressible: u64,
    /// Faults by kind, as [`FaultKind::ALL`] has them; see [`faults_of`](Self::faults_of).
    pub faults: [Faults; FaultKind::ALL.len()],
    /// Pages that came back, by how many others of the VM had left meanwhile (pages).
    pub refault_distance: Histogram,
    /// Pages taken out of the guest's range.
    pub taken_out: u64,
    /// Pages that were compressed, or stored as they are.
    pub put_away: u64,
    /// Of those that left memory: without the codec, because their slot had an equal copy.
    pub put_away_clean: u64,
    /// Compressions for nothing: the page was wanted meanwhile.
    pub wasted: u64,
    /// Pages that the store had no room for.
    pub refused: u64,
    /// Pages that were taken out and put back, because they did not shrink.
    pub put_back: u64,
    /// Times that a page could not be read back, of children of fork as well: who touches it gets SIGBUS.
    pub unreadable: u64,
    /// Pages that came along with one that was asked for.
    pub around: u64,
    /// Pages that the kernel would not move: pinned by a device, or shared after a fork.
    pub busy: u64,
    /// Times that the address space was changing, and something was tried again.
    pub again: u64,
    /// Pages that were gone although they had not been taken out.
    pub vanished: u64,
    /// Bytes charged past a limit because nothing could be evicted, added up.
    pub overshoot_bytes: u64,
}

impl VmStats {
    /// Faults of one kind.
    pub fn faults_of(&self, kind: FaultKind) -> &Faults {
        let at = FaultKind::ALL.iter().position(|&one| one == kind);
        &self.faults[at.expect("every kind is in the list")]
    }

    /// Faults that somebody waited for a page in: all but those where it was there already.
    pub fn all_faults(&self) -> u64 {
        FaultKind::ALL.iter().filter(|&&kind| kind != FaultKind::Stale).map(|&kind| self.faults_of(kind).count()).sum()
    }

    /// Times of all faults together.
    pub fn fault_nanos(&self) -> Histogram {
        let mut all = Histogram::default();
        self.faults.iter().for_each(|faults| all += &faults.nanos);
        all
    }

    /// Bytes in memory that its memcg is charged for: resident, staged, and compressed ones as they are.
    pub fn charged(&self) -> u64 {
        self.resident + self.staged + self.compressed_into
    }
}
