//! What happens to a memcg as a whole, as `memory.events` counts it.
//!
//! ```text
//! root      1              events: here and below       what happens in `vm` is counted once in each list of the path,
//!  +- tenant  1                                         when it happens: who is removed later takes nothing away
//!      +- vm    1   1      local events: here alone
//! ```
//!
//! Unlike an objcg's events (`stat`), which are counted where the object is and summed when they are read.

use super::handle::Memcg;

/// What can happen to a memcg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemcgEvent {
    /// Reclaim was done because the memcg is above its `memory.high`.
    High,
    /// A charge was refused at its `memory.max` or `memory.zswap.max`. Charging counts these.
    Max,
    /// Reclaim could not make room for a charge.
    Oom,
    /// A place on a device was refused at its `memory.swap.max`.
    SwapMax,
    /// A place on a device was refused, at the limit or because no device has room.
    SwapFail,
    /// A memcg was reclaimed from although it is below its effective `memory.low`: nobody else had anything left.
    Low,
    /// A charge that could not be refused passed a limit of it. Charging counts these.
    Overshoot,
}

impl MemcgEvent {
    pub(super) const COUNT: usize = 7;
}

impl Memcg {
    /// Count an event here, and in every ancestor there is. Lock-free; neither allocates nor frees.
    pub fn note(&self, event: MemcgEvent) {
        self.words().local_events[event as usize].add(1);
        let mut at = Some(self.clone());
        while let Some(memcg) = at {
            memcg.words().events[event as usize].add(1);
            at = memcg.parent();
        }
    }

    /// How often it was counted here and below, in memcgs that were removed since too. Lock-free.
    pub fn events(&self, event: MemcgEvent) -> u64 {
        self.words().events[event as usize].get()
    }

    /// How often it was counted here. Lock-free.
    pub fn local_events(&self, event: MemcgEvent) -> u64 {
        self.words().local_events[event as usize].get()
    }
}
