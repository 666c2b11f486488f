//! The store of the crate, [`Zswap`], as a [`Target`].

use super::{ClassRow, GroupStats, Live, Moved, PoolStats, Settings, Target, Trouble};
use crate::tiers::report::{DeviceRow, Metadata, Swap};
use crate::tiers::spec::{Kind, Planned};
use std::path::Path;
use zspool::memcg::{Cancel, Event, Memcg};
use zspool::swap::{BlockDevice, DeviceOptions, DeviceStats, SwapFile};
use zspool::units::{NodeId, PAGE_SIZE, Slot, SlotRange};
use zspool::zswap::{Builder, SwapoffError, Zswap};

/// Make the store.
pub(crate) fn open(settings: &Settings) -> Result<Zswap, Trouble> {
    Ok(builder(settings)?.build()?)
}

/// The same, for those who want to say more. Block devices are opened here, files when it is built.
pub(crate) fn builder(settings: &Settings) -> Result<Builder, Trouble> {
    let mut builder = Zswap::builder().codec(&settings.codec).compressing_threads(settings.threads);
    if let Some(bytes) = settings.pool_limit {
        builder = builder.pool_limit(bytes);
    }
    builder = builder.encryption(settings.encryption);
    for planned in &settings.swapfiles {
        builder = builder.swap(device(planned)?);
    }
    Ok(builder)
}

fn device(planned: &Planned) -> Result<DeviceOptions, Trouble> {
    let Planned { path, size, tier, priority, kind, overwrite } = planned;
    let file = || SwapFile::options().size(size.unwrap_or(0));
    let options = match kind {
        Kind::File => DeviceOptions::swapfile(file().path(path)),
        Kind::Unnamed => DeviceOptions::swapfile(file().unnamed(path)),
        Kind::Block => {
            let mut block = BlockDevice::options().path(path).overwrite(*overwrite);
            if let Some(size) = *size {
                block = block.size(size);
            }
            DeviceOptions::device(block.open()?)
        }
    };
    Ok(options.tier(tier, *priority))
}

/// Have all devices cleaned, and the holes punched.
pub(crate) fn clean(zswap: &Zswap) {
    let _ = zswap.clean(u64::MAX);
    zswap.quiesce();
}

fn metadata(zswap: &Zswap) -> Metadata {
    let slots = zswap.metadata();
    Metadata {
        word_bytes: slots.slot_words,
        link_bytes: slots.links,
        count_bytes: slots.counts,
        directory_bytes: slots.directory,
        reverse_bytes: slots.reverse_words,
    }
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

    fn group(&self, group: &Memcg) -> Option<GroupStats> {
        let stat = group.stat().ok()?;
        Some(GroupStats {
            incompressible_pages: stat.bytes.incompressible / PAGE_SIZE as u64,
            original_bytes: stat.bytes.original,
            payload_bytes: stat.bytes.payload,
            slot_bytes: stat.bytes.compressed,
            written_back_pages: stat.events(Event::ZswpWb),
            written_back_bytes: stat.events(Event::ZswpWbBytes),
        })
    }

    fn all_groups(&self) -> GroupStats {
        self.group(&self.root()).unwrap_or_default()
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
            metadata: metadata(self),
        }
    }

    fn swapoff(&self, number: u8, watch: &(dyn Fn(u64) -> bool + Sync)) -> Moved {
        let (cancel, mut moved) = (Cancel::new(), 0);
        let result = Zswap::swapoff(self, number, &cancel, |progress| {
            moved = progress.objects_at_start.saturating_sub(progress.objects_left);
            if !watch(moved) {
                cancel.cancel();
            }
        });
        match result {
            Ok(report) => Moved {
                objects: report.to_pool + report.to_devices,
                to_memory: Some(report.to_pool),
                lost: report.lost,
                off: Ok(()),
            },
            Err(error) => {
                let cancelled = matches!(error, SwapoffError::Cancelled { .. });
                let off = Err(if cancelled { None } else { Some(error.into()) });
                Moved { objects: moved, to_memory: None, lost: 0, off }
            }
        }
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
