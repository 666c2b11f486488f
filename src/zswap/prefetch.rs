//! Prefetch: pages come from devices into the pool before anybody loads them, compressed as they are.
//!
//! ```text
//!   range of slots --> touched clusters --> 64 slots: their places --> read together --> each promoted (promotion.rs)
//!                                                                                         refused by a limit: the end
//! ```
//!
//! It is for clients who know what comes next; nothing reads ahead by itself. Measured with pages of Python, written in order of
//! their slots, and each taken once: to prefetch the next 8 pages (16 KiB of the device) or 32 (64 KiB) at each page that had to
//! be read makes going through in order 2.4 and 3.1 times faster, and going at random 1.8 and 1.9 times slower.
//!
//! Nothing is decompressed, and nothing is written back to make room: a page that was on a device was colder than what is in the
//! pool. A page that cannot be read is left where it is, and whoever loads it is told.

use super::core::{Core, Zswap};
use super::load_run::TOGETHER;
use super::promotion::Promoted;
use crate::swap::{Content, ReadOne};
use crate::sync;
use crate::units::{Owner, Slot, SlotRange};

/// What [`prefetch`](Zswap::prefetch) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefetched {
    /// Pages that came into the pool.
    pub pages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Pages that were seen on devices and stayed there: they could not be read, or others were faster.
    pub left: u64,
    /// Which limit ended it before the end of the range, in words.
    pub refused: Option<String>,
}

impl Zswap {
    /// Bring the pages of a range that lie on devices into the pool, so that loads need not wait for the disk. Several reads are
    /// under way at once. It ends at the first page that a limit keeps out of the pool: nothing else is written back for it.
    ///
    /// Takes time by slots of touched clusters, not by the length of the range. A range that was not reserved holds nothing.
    ///
    /// # Locks
    /// As [`load`](Self::load), and those of an allocation.
    ///
    /// # Examples
    /// ```
    /// # use zspool::units::{NodeId, Page};
    /// # use zspool::zswap::Zswap;
    /// let zswap = Zswap::builder().device(zspool::swap::MemoryDevice::new(1 << 20, 4096)).build()?;
    /// let slots = zswap.reserve(8)?;
    /// let mut page = Page::zeroed();
    /// for slot in slots.iter() {
    ///     page[..8].copy_from_slice(&(slot.0 + 12345).to_le_bytes());
    ///     page[8] = 1;
    ///     zswap.store(slot, &zswap.root(), NodeId(0), &page)?;
    /// }
    /// zswap.shrink_memcg(&zswap.root(), 8);
    /// assert_eq!(zswap.prefetch(slots).pages, 8);
    /// assert_eq!(zswap.stats().physical_pages, 0);
    /// # Ok::<(), zspool::zswap::Error>(())
    /// ```
    pub fn prefetch(&self, range: SlotRange) -> Prefetched {
        let mut done = Prefetched::default();
        for part in self.core.slots.parts_of(range) {
            for k in (0..part.len()).step_by(TOGETHER) {
                let first = part.base() + k;
                self.core.prefetch_together(first, (part.len() - k).min(TOGETHER as u64), &mut done);
                if done.refused.is_some() {
                    return done;
                }
            }
        }
        done
    }
}

impl Core {
    /// As [`Zswap::prefetch`], for up to [`TOGETHER`] slots of a cluster.
    fn prefetch_together(&self, first: Slot, n: u64, done: &mut Prefetched) {
        sync::assert_no_lock_held("bringing pages into the pool");
        let mut wanted: Vec<ReadOne> = Vec::new();
        let mut owners = [Owner(0); TOGETHER];
        {
            let Some(mut guard) = self.slots.lock(first) else { return };
            for (key, owner) in owners[..n as usize].iter_mut().enumerate() {
                guard.go_to(first + key as u64);
                let word = guard.word();
                if let (Content::Physical(place), false) = (word.content(), word.writeback()) {
                    *owner = guard.owner();
                    wanted.push(ReadOne { place, slot: guard.slot().0, key });
                }
            }
        }
        let before = done.pages;
        for (device, objects) in self.devices.of_each(&mut wanted) {
            let mut places = [objects[0].place; TOGETHER];
            objects.iter().for_each(|one| places[one.key] = one.place);
            device.read_many(objects, |key, object| {
                if done.refused.is_some() {
                    return;
                }
                match self.promote(owners[key], places[key], &object) {
                    Promoted::Done => {
                        done.pages += 1;
                        done.bytes += object.bytes.len() as u64;
                    }
                    Promoted::Refused(why) => done.refused = Some(why.to_string()),
                    Promoted::Overtaken | Promoted::Failed(_) => {}
                }
            });
            if done.refused.is_some() {
                break;
            }
        }
        done.left += wanted.len() as u64 - (done.pages - before);
    }
}
