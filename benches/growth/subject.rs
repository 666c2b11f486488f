//! [`Subject`]: an instance whose pages are small, each another, and made without a generator's time.

use zspool::memcg::Memcg;
use zspool::swap::{DeviceOptions, MemoryDevice};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Builder, Zswap};

pub(crate) struct Subject {
    pub(crate) zswap: Zswap,
    pub(crate) slots: SlotRange,
    page: Page,
}

impl Subject {
    pub(crate) fn new(slots: usize, with: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = Zswap::builder().pool_limit(16 << 30).worker(false).automatic_compaction(None);
        let builder = builder.slots_in_use(slots as u64);
        let zswap = with(builder).build().expect("an instance");
        let slots = zswap.reserve(slots as u64).expect("slots without end");
        Subject { zswap, slots, page: Page::zeroed() }
    }

    pub(crate) fn store(&mut self, slot: usize, memcg: &Memcg) {
        stamp(&mut self.page, slot);
        self.zswap.store(self.slots.base() + slot as u64, memcg, NodeId(0), &self.page).expect("there is room");
    }

    pub(crate) fn load(&mut self, slot: usize) {
        self.zswap.load(self.slots.base() + slot as u64, &mut self.page).expect("it is stored");
        assert!(is_of(&self.page, slot), "slot {slot} came back different");
    }

    pub(crate) fn free(&self, slot: usize) {
        assert!(self.zswap.free(self.slots.base() + slot as u64), "slot {slot} is stored");
    }

    /// Add a device in memory.
    pub(crate) fn swapon(&self, bytes: usize) -> u8 {
        let options = DeviceOptions::device(MemoryDevice::new(bytes, 4096));
        self.zswap.swapon(options).expect("a number is free")
    }
}

fn word(slot: usize) -> u64 {
    (slot as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Make a page of zeroes, or of another slot, the page of a slot: a few words of noise, 150 bytes when it is compressed.
pub(crate) fn stamp(page: &mut Page, slot: usize) {
    for (k, bytes) in page.0.as_chunks_mut::<8>().0[..16].iter_mut().enumerate() {
        *bytes = word(slot).rotate_left(k as u32).to_le_bytes();
    }
}

pub(crate) fn is_of(page: &Page, slot: usize) -> bool {
    page[..8] == word(slot).to_le_bytes()
}

/// Have up to so many bytes of the root's objects written back; how many it was.
pub(crate) fn write_back(subject: &Subject, memcg: &Memcg, bytes: usize) -> u64 {
    let before = subject.zswap.stats().physical_pages;
    let _ = memcg.write_file("memory.reclaim", &format!("{bytes} source=zswap"));
    subject.zswap.stats().physical_pages - before
}
