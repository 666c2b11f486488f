//! [`swapoff`](Zswap::swapoff): a device is emptied, and removed, while pages are stored, loaded and freed.
//!
//! ```text
//!   drain    no new batches; those begun before are written and land
//!   passes   live segments in device order, each read at once:   object -> pool, else -> another device
//!            again, while somebody's flight to the device has not landed
//!   remove   nothing lives there, nobody writes: closed
//!
//!   called off, no room, a device that hangs: the gate is opened again, what was moved stays moved, the next call goes on
//! ```
//!
//! - **O1** It takes time by what lives on the device, not by what slots there are: each object is found by its reverse word, and
//!   looked at once, or once more for each time that it was on its way.
//! - **O2** A page is where its slot's word says at any moment; loads, frees, stores and `dup` go on.
//! - **O3** Pages that cannot be read back become lost, and do not keep the device.

use super::core::{Core, Zswap};
use super::relocate::{Moved, Mover, Route, To};
use crate::memcg::Cancel;
use crate::swap::{self, Allowed, SegmentId};
use crate::sync::atomic::Ordering;
use crate::sync::{self, Step, thread::Backoff};

/// How far a swapoff is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The device.
    pub device: u8,
    /// Objects that lived there when it began.
    pub objects_at_start: u64,
    /// Objects that live there now.
    pub objects_left: u64,
    /// Bytes of the blocks that live there now.
    pub bytes_left: u64,
}

/// What a swapoff came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct SwapoffReport {
    /// Objects that lived on the device when it began.
    pub objects_at_start: u64,
    /// Objects that were looked at: those, less what was freed in time, and what was on its way counted again.
    pub touched: u64,
    /// Of these, how many are in the pool now,
    pub to_pool: u64,
    /// on other devices,
    pub to_devices: u64,
    /// were freed or replaced meanwhile,
    pub gone: u64,
    /// could not be read back,
    pub lost: u64,
    /// or were on their way when they were looked at.
    pub raced: u64,
    /// Payload bytes that were moved.
    pub payload_bytes: u64,
    /// Times that the device was gone over.
    pub passes: u64,
}

/// Why a device is on still. Nothing is lost; what was moved stays moved, and another call goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapoffError {
    /// There is no such device, or it cannot be removed now.
    #[error(transparent)]
    Device(#[from] swap::Error),
    /// Somebody else removes it.
    #[error("device {device} is being removed by another swapoff: wait for that one, or cancel it")]
    UnderWay {
        /// The device.
        device: u8,
    },
    /// It was called off.
    #[error(
        "swapoff of device {device} was cancelled with {objects} pages ({bytes} bytes) left on it: call it again to go on"
    )]
    Cancelled {
        /// The device.
        device: u8,
        /// Pages that are on it.
        objects: u64,
        /// Bytes of their blocks.
        bytes: u64,
    },
    /// Neither the pool nor another device takes what is left.
    #[error(
        "{objects} pages ({bytes} bytes) have to stay on device {device}, for the pool does not take them ({pool}) and no other \
         device does ({devices}): raise the limit, free slots, or add a device, and call swapoff again"
    )]
    NoRoom {
        /// The device.
        device: u8,
        /// Pages that are on it.
        objects: u64,
        /// Bytes of their blocks.
        bytes: u64,
        /// Why the pool refused the last one.
        pool: String,
        /// Why devices did.
        devices: String,
    },
    /// The device does not answer, or there is no memory to ask it with.
    #[error(
        "{objects} pages ({bytes} bytes) of device {device} could not be read now ({why}): call swapoff again later"
    )]
    Unreadable {
        /// The device.
        device: u8,
        /// Pages that are on it.
        objects: u64,
        /// Bytes of their blocks.
        bytes: u64,
        /// What reading the last one said.
        why: String,
    },
    /// A fail point.
    #[doc(hidden)]
    #[error("a test made step {0:?} of swapoff fail")]
    Step(Step),
}

impl Zswap {
    /// Empty a device and remove it, while pages are stored, loaded and freed. What is on it goes into the pool, as far as limits
    /// admit, and to other devices else. `progress` is called after each segment, without locks.
    ///
    /// # Errors
    /// [`SwapoffError`]: the device is then used as before.
    ///
    /// # Locks
    /// None while reading and writing; else those of a store, a load and a writeback.
    ///
    /// # Examples
    /// Two devices, and the faster one is taken off. A handler of Ctrl-C would have a clone of `cancel`, and cancel it.
    /// ```
    /// use zspool::memcg::Cancel;
    /// use zspool::swap::{DeviceOptions, MemoryDevice};
    /// use zspool::units::{NodeId, Page};
    /// use zspool::zswap::{SwapoffError, Zswap};
    ///
    /// let zswap = Zswap::builder().build()?;
    /// let (fast, slow) = (MemoryDevice::new(1 << 20, 4096), MemoryDevice::new(8 << 20, 4096));
    /// let fast = zswap.swapon(DeviceOptions::device(fast).tier("fast", 10))?;
    /// zswap.swapon(DeviceOptions::device(slow).tier("slow", 0))?; // or DeviceOptions::path("/var/tmp/slow.swap", 1 << 30)
    ///
    /// let slots = zswap.reserve(16)?;
    /// let mut page = Page::zeroed();
    /// for (k, slot) in slots.iter().enumerate() {
    ///     page[k] = 1;
    ///     zswap.store(slot, &zswap.root(), NodeId(0), &page)?;
    /// }
    /// let _written = zswap.shrink_memcg(&zswap.root(), 16); // to the device of the highest priority
    /// assert_eq!(zswap.devices()[0].area.objects, 16);
    ///
    /// let cancel = Cancel::new();
    /// let report = match zswap.swapoff(fast, &cancel, |done| eprintln!("{} to go", done.objects_left)) {
    ///     Ok(report) => report,
    ///     Err(SwapoffError::Cancelled { .. }) => return Ok(()), // the device is on; the next call goes on with what is left
    ///     Err(other) => return Err(other.into()),
    /// };
    /// assert_eq!((report.touched, report.to_pool), (16, 16)); // those that lived there, and no other slot
    /// assert!(zswap.devices().iter().all(|device| device.tier == "slow"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn swapoff(
        &self,
        device: u8,
        cancel: &Cancel,
        progress: impl FnMut(&Progress),
    ) -> Result<SwapoffReport, SwapoffError> {
        self.core.swapoff(device, &|| cancel.is_cancelled(), progress)
    }
}

/// A device that is being removed; dropped, it is used again.
struct Leaving<'a> {
    core: &'a Core,
    device: u8,
}

impl<'a> Leaving<'a> {
    fn begin(core: &'a Core, device: u8) -> Result<Self, SwapoffError> {
        let bit = 1u32.checked_shl(device.into()).unwrap_or(0);
        if core.leaving.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Err(SwapoffError::UnderWay { device });
        }
        let leaving = Leaving { core, device };
        core.devices.drain(device)?;
        Ok(leaving)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // An error says that it is gone.
        let _ = self.core.devices.resume(self.device);
        self.core.leaving.fetch_and(!1u32.checked_shl(self.device.into()).unwrap_or(0), Ordering::AcqRel);
    }
}

impl Core {
    /// As [`Zswap::swapoff`].
    pub(super) fn swapoff(
        &self,
        number: u8,
        stop: &dyn Fn() -> bool,
        mut progress: impl FnMut(&Progress),
    ) -> Result<SwapoffReport, SwapoffError> {
        sync::assert_no_lock_held("removing a device");
        let leaving = Leaving::begin(self, number)?;
        let at_start = self.left_on(number).objects;
        let mut report = SwapoffReport { objects_at_start: at_start, ..SwapoffReport::default() };
        self.step(Step::SwapoffDrained)?;
        let mut backoff = Backoff::new();
        loop {
            report.passes += 1;
            let pass = self.empty(number, at_start, stop, &mut progress, &mut report)?;
            let left = self.left_on(number);
            if left.objects == 0 && left.writers == 0 {
                self.step(Step::SwapoffEmptied)?;
                match self.devices.remove(number) {
                    Ok(()) => break,
                    Err(swap::Error::NotEmpty { .. }) => {} // somebody's batch was written at the last moment
                    Err(other) => return Err(other.into()),
                }
            }
            let Left { objects, bytes, .. } = left;
            if stop() {
                return Err(SwapoffError::Cancelled { device: number, objects, bytes });
            }
            if let Some(why) = pass.failed {
                return Err(SwapoffError::Unreadable { device: number, objects, bytes, why });
            }
            if pass.stranded > 0 && pass.objects() == 0 {
                let said = |why: Option<String>| why.unwrap_or_else(|| "there is none".to_owned());
                let others = self.devices.rows().iter().any(|other| other.number != number);
                let (pool, devices) = (said(pass.refused), said(pass.device_refused.filter(|_| others)));
                return Err(SwapoffError::NoRoom { device: number, objects, bytes, pool, devices });
            }
            // What is left belongs to flights that land in a moment, or came while the device was gone over.
            if pass.objects() == 0 {
                backoff.wait_for_io();
            }
        }
        drop(leaving);
        self.tell_tiers();
        self.steps.pass(Step::SwapoffRemoved);
        Ok(report)
    }

    /// Go over the device once.
    fn empty(
        &self,
        number: u8,
        at_start: u64,
        stop: &dyn Fn() -> bool,
        progress: &mut impl FnMut(&Progress),
        report: &mut SwapoffReport,
    ) -> Result<Moved, SwapoffError> {
        let device = self.devices.get(number).ok_or(swap::Error::NotOn { device: number })?;
        let route = Route { pool: true, to: To::Others(Allowed::ALL), whose: &|_| true };
        let mut mover = Mover::new(self, route);
        let mut from = Some(SegmentId(0));
        while let Some(id) = from.and_then(|from| device.live_segments_from(from)) {
            if stop() || mover.moved.hung {
                break;
            }
            mover.segment(&device, id, &|_| stop());
            self.step(Step::SwapoffSegment)?;
            let stats = device.stats();
            progress(&Progress {
                device: number,
                objects_at_start: at_start,
                objects_left: stats.objects,
                bytes_left: stats.live_bytes,
            });
            from = id.0.checked_add(1).map(SegmentId);
        }
        let moved = mover.moved;
        report.touched += moved.touched;
        report.to_pool += moved.to_pool;
        report.to_devices += moved.to_places;
        report.gone += moved.gone;
        report.lost += moved.lost;
        report.raced += moved.busy;
        report.payload_bytes += moved.payload_bytes;
        Ok(moved)
    }

    fn left_on(&self, number: u8) -> Left {
        self.devices.get(number).map_or(Left::default(), |device| {
            let stats = device.stats();
            Left { objects: stats.objects, bytes: stats.live_bytes, writers: device.writers() }
        })
    }

    fn step(&self, step: Step) -> Result<(), SwapoffError> {
        self.steps.reach(step).map_err(|_| SwapoffError::Step(step))
    }
}

#[derive(Clone, Copy, Default)]
struct Left {
    objects: u64,
    bytes: u64,
    writers: u64,
}
