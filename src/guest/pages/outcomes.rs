//! What calls about many pages came to, and what is asked for beside a page.

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
    /// Pages that stay: pinned, or the kernel would not move them.
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

impl std::ops::AddAssign for Evicted {
    fn add_assign(&mut self, other: Evicted) {
        self.pages += other.pages;
        self.won_bytes += other.won_bytes;
        self.stayed += other.stayed;
        self.refused += other.refused;
    }
}
