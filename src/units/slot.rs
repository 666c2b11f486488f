//! Virtual swap slots, and the dense numbers behind them.
//!
//! A client names pages by *slots*: 64-bit numbers without end, handed out in ranges. Only slots in
//! clusters that were touched cost memory; each touched cluster gets the next free *ordinal*, and
//! ordinal and offset together are the slot's dense number, its [`Owner`] towards the allocator:
//!
//! ```text
//! slot   | virtual cluster (55 bits)            | offset (9 bits) |
//! owner  |            cluster ordinal (19 bits) | offset (9 bits) |   28 bits in all
//! ```

/// Slots that can be in use at once: the LRU's links have 28 bits, so 1 TiB of originals.
pub const MAX_SLOTS_IN_USE: u64 = 1 << 28;

/// A virtual swap slot: one page-sized place that a client stores into and loads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl std::ops::Add<u64> for Slot {
    type Output = Slot;
    fn add(self, n: u64) -> Slot {
        Slot(self.0 + n)
    }
}

/// A run of slots reserved together; slot `k` of the run is `get(k)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    base: u64,
    len: u64,
}

impl SlotRange {
    /// The `len` slots from `base`, or as many as there are numbers for.
    pub const fn new(base: Slot, len: u64) -> Self {
        let most = u64::MAX - base.0;
        SlotRange { base: base.0, len: if len < most { len } else { most } }
    }

    /// The first slot.
    pub const fn base(&self) -> Slot {
        Slot(self.base)
    }

    /// Number of slots.
    #[allow(clippy::len_without_is_empty)] // a reserved range is never empty
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Slot `k` of the range, if it has so many.
    pub const fn get(&self, k: u64) -> Option<Slot> {
        if k < self.len { Some(Slot(self.base + k)) } else { None }
    }

    /// Whether `slot` lies in the range.
    pub const fn contains(&self, slot: Slot) -> bool {
        slot.0 >= self.base && slot.0 - self.base < self.len
    }

    /// All slots in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + use<> {
        (self.base..self.base + self.len).map(Slot)
    }
}

/// Dense number of a handle cell. An object's entry stores it to find its way back to the cell.
/// `u32::MAX` is never an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u32);
