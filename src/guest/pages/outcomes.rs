//! What faults were about, what calls about many pages came to, and what is asked for beside a page.

/// What a fault, or a call for a page, was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// It was staged, or just being compressed.
    Staged,
    /// It was compressed in the pool.
    Compressed,
    /// It was on a device.
    Device,
    /// It was one repeated word.
    SameFilled,
    /// It was nowhere: the first touch, or after a discard.
    Absent,
    /// It was there, and written for the first time since it came in with a copy kept.
    Protected,
    /// It was there already: another thread was faster.
    Stale,
    /// It had vanished behind our back, and is zeroes now.
    Vanished,
}

impl FaultKind {
    /// All there are.
    pub const ALL: [FaultKind; 8] = [
        FaultKind::Staged,
        FaultKind::Compressed,
        FaultKind::Device,
        FaultKind::SameFilled,
        FaultKind::Absent,
        FaultKind::Protected,
        FaultKind::Stale,
        FaultKind::Vanished,
    ];

    /// Its name in texts.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::Staged => "staged",
            FaultKind::Compressed => "compressed",
            FaultKind::Device => "device",
            FaultKind::SameFilled => "same_filled",
            FaultKind::Absent => "absent",
            FaultKind::Protected => "protected",
            FaultKind::Stale => "stale",
            FaultKind::Vanished => "vanished",
        }
    }
}

/// How many neighbours come with a page that is touched: those that went out with it; and with one that nobody touched before, beside one that
/// is in use, others that nobody touched (zeroes, where they take no memory before they are written).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAround {
    /// None.
    Off,
    /// So many at most, by copy.
    Pages(u32),
    /// 16, and 64 where pages are touched in order.
    Adaptive,
}

/// Pages that were asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Pages that are in their slots now.
    pub pages: u64,
    /// Bytes by which less is charged.
    pub won_bytes: u64,
    /// Pages that stay: pinned, or the kernel would not move them, or they would not shrink by an eighth and no device took them.
    pub stayed: u64,
    /// Pages that the store had no room for.
    pub refused: u64,
}

/// Pages that were brought in ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Pages that are in memory now and were not.
    pub pages: u64,
    /// Pages that were left where they are: a limit is reached, or they cannot be read.
    pub left: u64,
}

/// What staging came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Staged {
    /// Pages taken out of the guest's range, that will be compressed.
    pub(crate) pages: u32,
    /// Pages that were not there although their words said so: uncharged.
    pub(crate) vanished: u32,
    /// Pages that the kernel kept where they are: pinned by a device, or shared after a fork.
    pub(crate) busy: u32,
    /// Stopped because the address space was changing, or is gone, or the queue of staged runs is full.
    pub(crate) stopped: bool,
}

/// What compressing staged pages came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compressed {
    /// Pages that are not in memory any more, but in their slots.
    pub(crate) pages: u32,
    /// Bytes by which the charge fell: their 4096 each, less what their slots take.
    pub(crate) won: u64,
    /// Staged pages that were wanted again before, or while, they were compressed.
    pub(crate) back: u32,
    /// Pages that the store refused: staged still.
    pub(crate) refused: u32,
    /// Pages that did not shrink, and that no device takes: in the guest range again, where they are left alone for a while.
    pub(crate) stayed: u32,
    /// Pages that did not shrink, and that a device may take, which was not asked: staged still.
    pub(crate) later: u32,
}

impl Compressed {
    /// What brings the next win nearer, of whoever's: bytes, and pages that will not be looked at again for a while.
    pub(crate) fn progress(&self) -> u64 {
        self.won + u64::from(self.stayed)
    }
}

impl std::ops::AddAssign for Compressed {
    fn add_assign(&mut self, other: Compressed) {
        self.pages += other.pages;
        self.won += other.won;
        self.back += other.back;
        self.refused += other.refused;
        self.stayed += other.stayed;
        self.later += other.later;
    }
}

impl std::ops::AddAssign for Staged {
    fn add_assign(&mut self, other: Staged) {
        self.pages += other.pages;
        self.vanished += other.vanished;
        self.busy += other.busy;
        self.stopped |= other.stopped;
    }
}

impl std::ops::AddAssign for Evicted {
    fn add_assign(&mut self, other: Evicted) {
        self.pages += other.pages;
        self.won_bytes += other.won_bytes;
        self.stayed += other.stayed;
        self.refused += other.refused;
    }
}
