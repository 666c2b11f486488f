//! The store that is squeezed into: this crate's [`Zswap`].

use crate::squeeze::interface::{ClassRow, GroupStats, Live, Moved, PoolStats, Settings, Target, Trouble};
use crate::tiers::report::{DeviceRow, Metadata, Swap};
use crate::tiers::spec::{Kind, Planned};
use std::path::Path;
use zspool::memcg::{Event, Memcg};
use zspool::swap::{DeviceOptions, DeviceStats};
use zspool::units::{NodeId, PAGE_SIZE, Slot, SlotRange};
use zspool::zswap::{Builder, Zswap};

/// Make the store.
pub(crate) fn open(settings: &Settings) -> Result<Zswap, Trouble> {
    Ok(builder(settings).build()?)
}

/// The same, for those who want to say more.
pub(crate) fn builder(settings: &Settings) -> Builder {
    let mut builder = Zswap::builder().codec(&settings.codec).compressing_threads(settings.threads);
    if let Some(bytes) = settings.pool_limit {
        builder = builder.pool_limit(bytes);
    }
    settings.swapfiles.iter().fold(builder, |builder, planned| builder.swap(device(planned)))
}

fn device(planned: &Planned) -> DeviceOptions {
    let Planned { path, size, tier, priority, kind } = planned;
    let options = match kind {
        Kind::File => DeviceOptions::path(path, size.unwrap_or(0)),
        Kind::Unnamed | Kind::Block => DeviceOptions::path(path.join("zspool.tmp"), size.unwrap_or(0)),
    };
    options.tier(tier, *priority)
}

/// Have all devices cleaned.
pub(crate) fn clean(zswap: &Zswap) {
    zswap.quiesce();
}

fn row(stats: DeviceStats) -> DeviceRow {
    let DeviceStats { number, name, tier, priority, state, describe, area, .. } = stats;
    DeviceRow {
        number,
        name,
        tier,
        priority,
        state: state.to_string(),
        how: describe,
        size_bytes: area.size_bytes,
        used_bytes: area.used_bytes,
        live_bytes: area.live_bytes,
        objects: area.objects,
        written_bytes: area.written_bytes,
        read_bytes: area.read_bytes,
        bad_bytes: area.bad_bytes,
        io_errors: area.io_errors,
    }
}

impl Target for Zswap {
    type Group = Memcg;

    fn mkdir(&self, name: &str) -> Result<Memcg, Trouble> {
        Ok(self.root().mkdir(name)?)
    }

    fn set_limit(&self, group: &Memcg, bytes: u64) -> Result<(), Trouble> {
        Ok(self.set_zswap_max(group, bytes)?)
    }

    fn reserve(&self, pages: u64) -> Result<SlotRange, Trouble> {
        Ok(self.reserve(pages)?)
    }

    fn store(&self, slot: Slot, group: &Memcg, page: &[u8; PAGE_SIZE]) -> Result<(), Trouble> {
        self.store(slot, group, NodeId(0), page)?;
        Ok(())
    }

    fn load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE]) -> Result<(), Trouble> {
        Ok(self.load(slot, page)?)
    }

    fn free(&self, slot: Slot) -> Result<(), Trouble> {
        if self.free(slot) { Ok(()) } else { Err(format!("slot {} held nothing", slot.0).into()) }
    }

    fn settle(&self) {
        self.quiesce();
    }

    fn group(&self, group: &Memcg) -> GroupStats {
        let stat = group.stat().unwrap_or_default();
        GroupStats {
            incompressible_pages: stat.bytes.incompressible / PAGE_SIZE as u64,
            original_bytes: stat.bytes.original,
            payload_bytes: stat.bytes.payload,
            slot_bytes: stat.bytes.compressed,
            written_back_pages: stat.events(Event::ZswpWb),
            written_back_bytes: stat.events(Event::ZswpWbBytes),
        }
    }

    fn is_online(&self, group: &Memcg) -> bool {
        group.is_online()
    }

    fn stat(&self, group: &Memcg) -> String {
        let mut text = String::new();
        // What is worth a look after a run.
        let worth = |file: &&str| file.ends_with("stat") && file.starts_with("memory.") || file.contains(".zswap.");
        for file in Memcg::files().filter(worth) {
            if let Ok(content) = group.read_file(file) {
                text += &format!("{}/{file}\n{content}", group.path());
            }
        }
        text
    }

    fn pool(&self) -> PoolStats {
        let stats = self.stats();
        PoolStats {
            frame_bytes: stats.backed_bytes,
            metadata_bytes: stats.pool.metadata_bytes + stats.slot_table_bytes,
            payload_bytes: stats.pool.payload_bytes,
            objects: stats.pool.objects,
            swapfile_bytes: stats.area.map_or(0, |area| area.used_bytes),
        }
    }

    fn classes(&self) -> Vec<ClassRow> {
        let used = |class: &&zspool::zsmalloc::ClassStats| class.obj_used > 0;
        let row = |class: &zspool::zsmalloc::ClassStats| {
            let mut zspages = [0; 11];
            zspages.copy_from_slice(&class.zspages[1..12]);
            // Zspages with room only in untouched frames, which cost nothing, are full for what they cost.
            zspages[10] += class.zspages[12..].iter().sum::<u64>();
            ClassRow {
                class: class.class.0.into(),
                size: class.size,
                zspages,
                obj_allocated: class.obj_allocated,
                obj_used: class.obj_used,
                pages_used: class.pages_used,
                pages_per_zspage: class.pages_per_zspage as u64,
                freeable: class.freeable,
            }
        };
        self.pool().classes().0.iter().filter(used).map(row).collect()
    }

    fn swap(&self) -> Swap {
        let stats = self.stats();
        let same_filled_slots = stats.same_filled_pages + stats.pattern_pages;
        let memory_slots = stats.compressed_pages + stats.incompressible_pages;
        let slots = same_filled_slots + memory_slots + stats.physical_pages;
        Swap {
            devices: self.devices().into_iter().map(row).collect(),
            slots,
            virtual_bytes: slots * PAGE_SIZE as u64,
            same_filled_slots,
            memory_slots,
            memory_bytes: stats.pool.payload_bytes,
            physical_slots: stats.physical_pages,
            metadata: Metadata { word_bytes: stats.slot_table_bytes, link_bytes: 0, reverse_bytes: 0 },
        }
    }

    fn swapoff(&self, number: u8, watch: &(dyn Fn(u64) -> bool + Sync)) -> Moved {
        let _ = (number, watch);
        Moved { objects: 0, to_memory: 0, off: Err(Some("not yet".into())) }
    }

    #[cfg(feature = "fuse")]
    fn mount(&self, at: &Path) -> Result<Box<dyn Live>, Trouble> {
        Ok(Box::new(zspool::cgroupfs::mount(self.tree(), at)?))
    }

    #[cfg(not(feature = "fuse"))]
    fn mount(&self, _at: &Path) -> Result<Box<dyn Live>, Trouble> {
        Err("this program was built without the feature `fuse`".into())
    }
}

#[cfg(feature = "fuse")]
impl Live for zspool::cgroupfs::Mounted {
    fn path(&self) -> &Path {
        self.path()
    }

    fn is_mounted(&self) -> bool {
        self.is_mounted()
    }

    fn unmount(self: Box<Self>) -> Result<(), Trouble> {
        Ok((*self).unmount()?)
    }
}
