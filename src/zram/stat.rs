//! [`MmStat`]: what a device holds and what it costs, in the words of the kernel's `mm_stat`.

use std::fmt;

/// The nine numbers of `/sys/block/zram<N>/mm_stat`; shown, they are its line (without the line's end).
///
/// ```
/// let line = zspool::zram::MmStat { orig_data_size: 8192, same_pages: 2, ..Default::default() }.to_string();
/// assert_eq!(line, "    8192        0        0        0        0        2        0        0        0");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmStat {
    /// Bytes of the pages stored, 4096 each, same-filled ones too.
    pub orig_data_size: u64,
    /// Bytes they became: payload of objects, 4096 for a page kept as it is, 0 for a same-filled one.
    pub compr_data_size: u64,
    /// Bytes of frames that the pool has backed: those that objects touch, and warm ones. As in the kernel, neither the block
    /// table nor other metadata.
    pub mem_used_total: u64,
    /// The limit of the former in bytes; 0: none.
    pub mem_limit: u64,
    /// The most that `mem_used_total` was after a store.
    pub mem_used_max: u64,
    /// Blocks that hold a same-filled page.
    pub same_pages: u64,
    /// Frames that compaction has freed, less those that it has put objects into.
    pub pages_compacted: u64,
    /// Blocks that hold a page as it is.
    pub huge_pages: u64,
    /// Pages stored as they are since the device was made or reset.
    pub huge_pages_since: u64,
}

impl fmt::Display for MmStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = [
            self.compr_data_size,
            self.mem_used_total,
            self.mem_limit,
            self.mem_used_max,
            self.same_pages,
            self.pages_compacted,
            self.huge_pages,
            self.huge_pages_since,
        ];
        write!(f, "{:>8}", self.orig_data_size)?;
        rest.iter().try_for_each(|number| write!(f, " {number:>8}"))
    }
}
