//! [`Swap`]: what the slots name and where it lies, as JSON has it. Field names are stable.
//!
//! ```text
//!   virtual      slots that hold a page: names, which cost what the metadata says and are no room
//!     +-- memory     compressed objects in the pool, and repeated words, which are in the slot
//!     +-- physical   places on devices:   live <= used <= size;  written is what went there, ever
//! ```

use serde::Serialize;

/// What the slots name, and where it lies.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Swap {
    /// Highest priority first.
    pub(crate) devices: Vec<DeviceRow>,
    /// Slots that hold a page.
    pub(crate) slots: u64,
    /// Their pages as they were.
    pub(crate) virtual_bytes: u64,
    /// Of those slots: pages that repeat a word, kept in the slot itself or as that word.
    pub(crate) same_filled_slots: u64,
    /// Of those slots: objects in the pool, and their compressed bytes.
    pub(crate) memory_slots: u64,
    pub(crate) memory_bytes: u64,
    /// Of those slots: places on devices.
    pub(crate) physical_slots: u64,
    pub(crate) metadata: Metadata,
}

/// Memory of the slots themselves; the allocator's is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Metadata {
    /// A word for each slot of a touched cluster.
    pub(crate) word_bytes: u64,
    /// A word for each slot of a cluster that has an object in the pool.
    pub(crate) link_bytes: u64,
    /// Counts of references that do not fit in the words.
    pub(crate) count_bytes: u64,
    /// Which clusters there are, and what is known of each.
    pub(crate) directory_bytes: u64,
    /// A word for each object on a device, naming its slot.
    pub(crate) reverse_bytes: u64,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct DeviceRow {
    pub(crate) number: u8,
    pub(crate) name: String,
    pub(crate) tier: String,
    pub(crate) priority: i16,
    pub(crate) state: String,
    /// How it is used, in words.
    pub(crate) how: String,
    pub(crate) size_bytes: u64,
    /// What it has given out: segments that hold something.
    pub(crate) used_bytes: u64,
    /// What live objects take of that.
    pub(crate) live_bytes: u64,
    pub(crate) objects: u64,
    /// Ever.
    pub(crate) written_bytes: u64,
    /// Ever.
    pub(crate) read_bytes: u64,
    /// Not used any more.
    pub(crate) bad_bytes: u64,
    /// Requests that failed, ever.
    pub(crate) io_errors: u64,
}

/// What a swapoff came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Swapoff {
    pub(crate) name: String,
    pub(crate) tier: String,
    pub(crate) end: SwapoffEnd,
    /// Objects that were moved, and their bytes on the device.
    pub(crate) moved_objects: u64,
    pub(crate) moved_bytes: u64,
    /// Those of them that went into the pool, the others went to other devices; not known of a swapoff that did not end.
    pub(crate) to_memory: Option<u64>,
    /// Pages that could not be read back.
    pub(crate) lost_objects: u64,
    /// What was still there at the end.
    pub(crate) left_objects: u64,
    pub(crate) left_bytes: u64,
    pub(crate) seconds: f64,
}

/// How a swapoff ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SwapoffEnd {
    /// The device is off.
    Off,
    /// Somebody pressed Ctrl-C: it is still there, and goes on.
    Cancelled,
    /// It is still there: the reason.
    Failed(String),
}

impl Swap {
    fn sum(&self, field: fn(&DeviceRow) -> u64) -> u64 {
        self.devices.iter().map(field).sum()
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.sum(|row| row.used_bytes)
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.sum(|row| row.written_bytes)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.sum(|row| row.live_bytes)
    }

    pub(crate) fn bad_bytes(&self) -> u64 {
        self.sum(|row| row.bad_bytes)
    }
}

impl Metadata {
    pub(crate) fn total(&self) -> u64 {
        self.word_bytes + self.link_bytes + self.count_bytes + self.directory_bytes + self.reverse_bytes
    }
}
