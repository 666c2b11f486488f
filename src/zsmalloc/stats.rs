//! What a pool holds and what it costs, as numbers and as the kernel's table.

use super::cells::Cells;
use super::fullness::Group;
use super::geometry::ClassIndex;
use super::pool::Pool;
use crate::units::{FRAME_SIZE, NodeId};
use std::fmt;

/// Sums over a pool. Each class is exact at the time it is looked at; together they are at a quiet point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Slots in use: objects, those being written, and those that guards keep.
    pub objects: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// Bytes of their slots.
    pub slot_bytes: u64,
    /// Bytes of the frames they touch.
    pub frame_bytes: u64,
    /// Bytes behind arrays of entries and descriptors of zspages in use.
    pub metadata_bytes: u64,
}

impl Stats {
    /// Bytes of memory per byte of payload.
    pub fn overhead(&self) -> f64 {
        (self.frame_bytes + self.metadata_bytes) as f64 / self.payload_bytes as f64
    }
}

/// One class over all nodes: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStats {
    /// Its number.
    pub class: ClassIndex,
    /// Bytes of a slot.
    pub size: usize,
    /// Slots of a zspage.
    pub objs_per_zspage: usize,
    /// Frames of a zspage.
    pub pages_per_zspage: usize,
    /// Zspages by the share of their slots in use: index 1 is below 10%, .., 10 below 100%, 11 full, 12 with room only
    /// where no frame is touched. Index 0 (empty) is always 0.
    pub zspages: [u64; Group::COUNT],
    /// Slots in use, and free slots in touched frames.
    pub obj_allocated: u64,
    /// Slots in use.
    pub obj_used: u64,
    /// Payload bytes of those.
    pub payload_bytes: u64,
    /// Frames touched.
    pub pages_used: u64,
    /// Frames that compaction could win at most: those touched beyond what the slots in use would fill.
    pub freeable: u64,
}

/// Sums over classes: the last line of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassTotal {
    /// As [`ClassStats::zspages`].
    pub zspages: [u64; Group::COUNT],
    /// Slots in use, and free slots in touched frames.
    pub obj_allocated: u64,
    /// Slots in use.
    pub obj_used: u64,
    /// Payload bytes of those.
    pub payload_bytes: u64,
    /// Frames touched.
    pub pages_used: u64,
    /// Frames that compaction could win at most.
    pub freeable: u64,
}

/// All classes; shown, the table of the kernel's `zsmalloc/<pool>/classes`, with a column more.
///
/// Where the kernel counts whole zspages this counts touched frames, for others cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes(pub Vec<ClassStats>);

impl<C: Cells> Pool<C> {
    /// Sums over the pool.
    ///
    /// # Locks
    /// Takes `Class` and `Entries`, one at a time.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        let mut zspages = 0;
        for (index, shape) in self.heap.geometry.classes() {
            for node in self.heap.arena.topology().nodes() {
                let class = self.heap.lock(index, node);
                sum.objects += class.inuse;
                sum.payload_bytes += class.payload;
                sum.slot_bytes += class.inuse * shape.size() as u64;
                sum.frame_bytes += class.frames * FRAME_SIZE as u64;
                zspages += class.zspages;
            }
        }
        let descriptor = size_of::<super::zspage::Zspage>() as u64;
        sum.metadata_bytes = self.heap.entries.bytes() + zspages * descriptor;
        sum
    }

    /// Every class, all nodes together.
    ///
    /// # Locks
    /// Takes `Class`, one at a time.
    pub fn classes(&self) -> Classes {
        self.rows(|| self.heap.arena.topology().nodes())
    }

    /// Every class, with the zspages whose home is `node` only.
    ///
    /// # Panics
    /// When there is no such node.
    ///
    /// # Locks
    /// Takes `Class`, one at a time.
    pub fn classes_on(&self, node: NodeId) -> Classes {
        let nodes = self.heap.arena.topology().len();
        assert!(node.index() < nodes, "there is no {node}; the pool was made for {nodes} nodes, numbered from 0");
        self.rows(|| std::iter::once(node))
    }

    fn rows<N: Iterator<Item = NodeId>>(&self, nodes: impl Fn() -> N) -> Classes {
        let rows = self.heap.geometry.classes().map(|(index, shape)| {
            let mut row = ClassStats {
                class: index,
                size: shape.size(),
                objs_per_zspage: shape.slots(),
                pages_per_zspage: shape.chain(),
                zspages: [0; Group::COUNT],
                obj_allocated: 0,
                obj_used: 0,
                payload_bytes: 0,
                pages_used: 0,
                freeable: 0,
            };
            for node in nodes() {
                let class = self.heap.lock(index, node);
                for group in Group::all() {
                    row.zspages[group.column()] += u64::from(class.lists.len(group));
                }
                row.obj_allocated += class.inuse + class.reusable;
                row.obj_used += class.inuse;
                row.payload_bytes += class.payload;
                row.pages_used += class.frames;
                row.freeable += class.waste(shape);
            }
            row
        });
        Classes(rows.collect())
    }
}

impl Classes {
    /// Heads of the columns of zspages: the share of their slots that is in use, up to; and zspages
    /// with room only where no frame is touched. `ClassStats::zspages[1 + k]` belongs to head `k`.
    pub const GROUPS: [&'static str; Group::COUNT - 1] =
        ["10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "99%", "100%", "open"];

    /// Sums over the classes.
    pub fn total(&self) -> ClassTotal {
        let mut total = ClassTotal::default();
        for row in &self.0 {
            total.zspages.iter_mut().zip(row.zspages).for_each(|(sum, n)| *sum += n);
            total.obj_allocated += row.obj_allocated;
            total.obj_used += row.obj_used;
            total.payload_bytes += row.payload_bytes;
            total.pages_used += row.pages_used;
            total.freeable += row.freeable;
        }
        total
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {:>5}", "class", "size")?;
        for head in Self::GROUPS {
            write!(f, " {head:>6}")?;
        }
        writeln!(f, " obj_allocated   obj_used pages_used pages_per_zspage freeable")?;
        let groups = |f: &mut fmt::Formatter<'_>, zspages: &[u64; Group::COUNT]| {
            zspages[1..].iter().try_for_each(|count| write!(f, " {count:>6}"))
        };
        for row in &self.0 {
            write!(f, "{:>6} {:>5}", row.class.0, row.size)?;
            groups(f, &row.zspages)?;
            let ClassStats { obj_allocated, obj_used, pages_used, pages_per_zspage, freeable, .. } = row;
            writeln!(f, " {obj_allocated:>13} {obj_used:>10} {pages_used:>10} {pages_per_zspage:>16} {freeable:>8}")?;
        }
        let ClassTotal { zspages, obj_allocated, obj_used, pages_used, freeable, .. } = self.total();
        write!(f, "\n {:<11}", "Total")?;
        groups(f, &zspages)?;
        writeln!(f, " {obj_allocated:>13} {obj_used:>10} {pages_used:>10} {:>16} {freeable:>8}", "")
    }
}
