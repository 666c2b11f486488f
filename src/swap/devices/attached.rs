//! [`Attached`]: a device that is on, with who writes to it.
//!
//! ```text
//!   gate   63 draining | 62 leaving | 61 retired | 60 ..................... 0 writers
//!
//!   on --- drain ---> draining --- leave (no writers) ---> leaving --- no objects ---> off
//!    ^ <-- resume ---    ^ <------- objects are left ---------|
//!    |                   |
//!   retired <--> reinstate, in any of them
//! ```
//!
//! - **D4** Who writes is counted in the gate, and found it open *by the step that counted him*. So once the gate is closed and
//!   nobody is counted, no object comes any more.

use super::super::Error;
use super::super::area::Area;
use super::super::device::Op;
use super::super::devices::options::Use;
use super::super::segments::Purpose;
use super::room::{FileSystem, Limit, Promise};
use super::{Devices, State};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Bug, Planted, Tally};

const DRAINING: u64 = 1 << 63;
const LEAVING: u64 = 1 << 62;
const RETIRED: u64 = 1 << 61;
const WRITERS: u64 = RETIRED - 1;

/// A device that is on.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) area: Area,
    /// For messages and tables.
    pub(super) name: String,
    /// Index of its tier, and that one's name and priority.
    pub(super) tier: u8,
    pub(super) tier_name: String,
    pub(super) priority: i16,
    pub(super) how: Use,
    /// What it takes storage from, if that is known.
    pub(super) file_system: Option<Arc<FileSystem>>,
    /// Bytes promised to writes that are late.
    late: AtomicU64,
    gate: AtomicU64,
    /// Writes that failed since the last that did not.
    failures: AtomicU32,
    /// Batches begun, ever.
    pub(super) batches: Tally,
    planted: Planted,
}

/// One counted writer.
#[derive(Debug)]
pub(super) struct Writer<'a>(&'a Attached);

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Release: what was written comes before what who sees no writers does.
        self.0.gate.fetch_sub(1, Ordering::Release);
    }
}

/// What was promised for one batch.
#[derive(Debug)]
pub(super) struct Promises<'a> {
    total: Promise<'a>,
    disk: Option<Promise<'a>>,
}

/// Bytes that a batch asks for.
pub(super) struct Ask<'a> {
    /// What it is for.
    pub(super) purpose: Purpose,
    pub(super) least: u64,
    pub(super) most: u64,
    /// Who knows the bytes in use.
    pub(super) devices: &'a Devices,
    /// Bytes of the limit that are not for this batch, and bytes that are, whatever is in use (D8).
    pub(super) kept_beyond: (u64, u64),
}

/// What a new device is called, and where it belongs.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) tier: u8,
    pub(super) tier_name: String,
    pub(super) priority: i16,
}

// === impl Attached ===

impl Attached {
    pub(super) fn new(
        area: Area,
        identity: Identity,
        how: Use,
        file_system: Option<Arc<FileSystem>>,
        planted: Planted,
    ) -> Self {
        let Identity { name, tier, tier_name, priority } = identity;
        Attached {
            area,
            name,
            tier,
            tier_name,
            priority,
            how,
            file_system,
            late: AtomicU64::new(0),
            gate: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            batches: Tally::new(),
            planted,
        }
    }

    /// Be counted as one who writes, where the device takes writes.
    pub(super) fn enter(&self) -> Option<Writer<'_>> {
        const SHUT: u64 = DRAINING | LEAVING | RETIRED;
        let late = self.planted.is(Bug::WriterCountsLate);
        if late && self.gate.load(Ordering::Acquire) & SHUT != 0 {
            return None;
        }
        // Acquire pairs with the release of who opened the gate.
        let gate = self.gate.fetch_add(1, Ordering::Acquire);
        let writer = Writer(self);
        (late || gate & SHUT == 0).then_some(writer)
    }

    /// Shut the gate: what is written from here on was begun before.
    pub(super) fn drain(&self) {
        self.gate.fetch_or(DRAINING, Ordering::AcqRel);
    }

    /// Open it again. False when the device leaves.
    pub(super) fn resume(&self) -> bool {
        let open = |gate: u64| (gate & LEAVING == 0).then_some(gate & !DRAINING);
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, open).is_ok()
    }

    /// Begin to leave: from `Ok` on nobody writes or will.
    ///
    /// # Errors
    /// [`Error::NotDraining`], [`Error::NotEmpty`] while there is a batch or an object; somebody else's leaving counts as both.
    pub(super) fn leave(&self) -> Result<(), Error> {
        let not_empty = |gate: u64| Error::NotEmpty {
            device: self.name.clone(),
            objects: self.area.stats().objects,
            batches: gate & WRITERS,
        };
        let leave = |gate: u64| (gate & !RETIRED == DRAINING).then_some(gate | LEAVING);
        if let Err(gate) = self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave) {
            return Err(match gate & DRAINING {
                0 => Error::NotDraining { device: self.name.clone() },
                _ => not_empty(gate),
            });
        }
        if self.area.stats().objects > 0 {
            self.gate.fetch_and(!LEAVING, Ordering::AcqRel);
            return Err(not_empty(0));
        }
        Ok(())
    }

    /// Batches that are being filled or written.
    pub(super) fn writers(&self) -> u64 {
        self.gate.load(Ordering::Acquire) & WRITERS
    }

    /// A batch was written, or was not; after too many in a row that were not, nothing is written any more.
    pub(super) fn note_written(&self, result: Result<(), &Error>) {
        // Relaxed: a count that decides when, not whether.
        match result {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            Err(error) if is_failure(error) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                if self.how.retire_after > 0 && failures >= self.how.retire_after {
                    self.gate.fetch_or(RETIRED, Ordering::AcqRel);
                }
            }
            Err(_) => {}
        }
    }

    /// Promise the bytes of a batch, `most` or fewer, down to `least`; how many (`room`).
    pub(super) fn promise<'a>(&'a self, limit: &'a Limit, ask: &Ask<'_>) -> Result<(Promises<'a>, u64), Error> {
        self.take_back_late(limit, false);
        let (mut total, bytes) = limit.promise(&|| ask.devices.used_bytes(), ask.kept_beyond, ask.least..ask.most)?;
        let Some(file_system) = &self.file_system else { return Ok((Promises { total, disk: None }, bytes)) };
        let (disk, bytes) = file_system.promise(self.area.device(), &self.name, ask.least..bytes)?;
        total.cut(bytes);
        Ok((Promises { total, disk: Some(disk) }, bytes))
    }

    /// A write is late: its bytes may yet come.
    pub(super) fn keep_late(&self, promises: Promises<'_>) {
        let bytes = promises.total.keep();
        if let Some(mut disk) = promises.disk {
            disk.cut(bytes);
            disk.keep();
        }
        self.late.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Take back what was promised to late writes, when none is any more, or the device goes.
    pub(super) fn take_back_late(&self, limit: &Limit, goes: bool) {
        // Relaxed: who sees an old 0 leaves it to the next.
        if self.late.load(Ordering::Relaxed) > 0 && (goes || !self.area.is_hung()) {
            let bytes = self.late.swap(0, Ordering::AcqRel);
            limit.take_back(bytes);
            if let Some(file_system) = &self.file_system {
                file_system.take_back(bytes);
            }
        }
    }

    /// It may be written to again.
    pub(super) fn reinstate(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.gate.fetch_and(!RETIRED, Ordering::AcqRel);
    }

    /// How it is.
    pub(super) fn state(&self) -> State {
        match self.gate.load(Ordering::Acquire) {
            gate if gate & (DRAINING | LEAVING) != 0 => State::Draining,
            gate if gate & RETIRED != 0 => State::Retired,
            _ if self.area.is_hung() => State::Hung,
            _ => State::On,
        }
    }
}

/// Whether an error of a write says that the device is bad, and not that there is no room.
fn is_failure(error: &Error) -> bool {
    match error {
        Error::Io { op: Op::Write, .. } => !lacks_room(error),
        _ => false,
    }
}

/// Whether a write failed for want of room: the disk is full, a quota or a limit of the process is reached.
pub(super) fn lacks_room(error: &Error) -> bool {
    let Error::Io { op: Op::Write, source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}
