//! [`Outgoing`]: a batch, and the device it is for, which stays while the batch does.

use super::super::area::batch::{Batch, Written};
use super::super::{Error, Label, Place, Tenant};
use super::DeviceRef;
use super::attached::{Ask, Attached, Promises, Writer, lacks_room};
use super::room::Limit;
use crate::sync::Seated;

/// A [`Batch`] on one of the [`Devices`](super::Devices).
#[derive(Debug)]
pub struct Outgoing<'a> {
    // In this order they are dropped: the batch uses the device, promises and the writer count in it, the seat keeps it.
    batch: Batch<'a>,
    promises: Promises<'a>,
    _writer: Writer<'a>,
    device: DeviceRef<'a>,
}

impl<'a> Outgoing<'a> {
    /// A batch of `least` to `most` pages, if the device takes writes.
    pub(super) fn begin(
        device: Seated<'a, Box<Attached>>,
        limit: &'a Limit,
        ask: &Ask<'_>,
    ) -> Result<Option<Self>, Error> {
        // SAFETY: what borrows from it is dropped before `device` is: on the way out of here, and as fields of `Outgoing`, whose
        // batch nobody gets out of it.
        let attached = unsafe { device.unbound() };
        let Some(writer) = attached.enter() else { return Ok(None) };
        let (promises, bytes) = attached.promise(limit, ask)?;
        let pages = |bytes: u64| bytes as usize / attached.area.geometry().page_bytes;
        let batch = attached.area.begin_for(ask.purpose, pages(ask.least), pages(bytes))?;
        attached.batches.add(1);
        Ok(Some(Outgoing { batch, promises, _writer: writer, device: DeviceRef(device) }))
    }

    /// The device it is for.
    pub fn device(&self) -> &DeviceRef<'a> {
        &self.device
    }

    /// The number of that device: to be left out when another one is asked for the same entries.
    pub fn number(&self) -> u8 {
        self.device.number()
    }

    /// As [`Batch::objects`].
    pub fn objects(&self) -> u64 {
        self.batch.objects()
    }

    /// As [`Batch::fits`].
    pub fn fits(&self, len: usize) -> bool {
        self.batch.fits(len)
    }

    /// As [`Batch::push`].
    ///
    /// # Panics
    /// As that.
    pub fn push(
        &mut self,
        slot: u64,
        label: Label,
        tenant: Tenant,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<Place> {
        self.batch.push(slot, label, tenant, len, fill)
    }

    /// As [`Batch::write`]. Failures in a row that are the device's retire it.
    ///
    /// # Errors
    /// As [`Batch::write`]. [`Error::lacks_room`] tells whether another try later may succeed.
    pub fn write(self) -> Result<Written, Error> {
        // In this order, so that they end in the other.
        let device = self.device;
        let _writer = self._writer;
        let promises = self.promises;
        let written = self.batch.write();
        if matches!(written, Err(Error::TimedOut { .. })) {
            device.0.keep_late(promises);
        }
        device.0.note_written(written.as_ref().map(|_| ()));
        written
    }
}

impl Error {
    /// Whether a write failed for want of room on the file system, and not because the device is bad.
    pub fn lacks_room(&self) -> bool {
        lacks_room(self)
    }
}
