//! [`SegmentImage`]: all live objects of a segment, read in one request, so that they can be moved.
//!
//! ```text
//!   lease_segment -> read_segment(id): live words copied, one request      Moving: no batch and no other mover gets it
//!                        objects() : (place, tenant) in device order       whose word does not name the place: passed over
//!                        open(i, slot) : verified bytes
//!                    drop                                                   batches may have its tail again
//! ```
//!
//! 1. What is read may be old by then: an object that was freed, and even its segment used again. Who opens one looks at its
//!    slot word before it believes bytes or flaw.
//! 2. There is one buffer for it, so one thread at a time moves objects out of an area.
//!
//! Cleaning, demotion and swapoff use it; none of it is for fault handlers, for it allocates.

use super::Area;
use crate::swap::block::{Flaw, ObjectRef, open};
use crate::swap::buffer::Lease;
use crate::swap::device::Op;
use crate::swap::rmap::{Object, Tenant};
use crate::swap::segments::SegmentId;
use crate::swap::{Error, Place};
use crate::sync::assert_no_lock_held;

/// A segment whose objects are being moved.
#[derive(Debug)]
struct Moving<'a> {
    area: &'a Area,
    id: SegmentId,
    generation: u16,
}

/// The live objects of a segment, as they lay there when it was read.
#[derive(Debug)]
pub struct SegmentImage<'l, 'a> {
    moving: Moving<'a>,
    lease: &'l mut Lease<'a>,
    objects: Vec<(Place, Tenant)>,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.area.segments().moved(self.id, self.generation);
    }
}

impl SegmentImage<'_, '_> {
    /// The segment.
    pub fn id(&self) -> SegmentId {
        self.moving.id
    }

    /// The objects that were live when it was read, in device order.
    pub fn objects(&self) -> &[(Place, Tenant)] {
        &self.objects
    }

    /// Verify the object of this number, which `slot` names, and give its bytes. They are opened in place: once each.
    ///
    /// # Errors
    /// What is wrong with it, where it is not what was written there for that slot. A caller looks at the slot word again, and
    /// calls [`Area::blame`] if it is unchanged.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn open(&mut self, i: usize, slot: u64) -> Result<ObjectRef<'_>, Flaw> {
        let place = self.objects[i].0;
        let area = self.moving.area;
        let start = (place.offset_bytes() - area.segment_offset(self.moving.id)) as usize;
        open(&mut self.lease[start..start + place.len_bytes()], area.protection(), &place, slot)
    }
}

impl Area {
    /// The buffer for [`read_segment`](Self::read_segment). Waits for it: it is for one thread at a time.
    ///
    /// # Errors
    /// [`Error::Hung`] while a read of a segment is late.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers).
    pub fn lease_segment(&self) -> Result<Lease<'_>, Error> {
        assert_no_lock_held("waiting for the buffer to move objects with");
        self.lease(self.segment_buffers())
    }

    /// Read all that lives in a segment in one request. No batch gets its tail while the image lives. `None` when nothing lives
    /// there. Allocates.
    ///
    /// # Errors
    /// [`Error::TimedOut`]: the lease is of no use any more. [`Error::Io`] when the device fails (counted):
    /// [`objects_of`](Self::objects_of) says what there is to be read one by one.
    ///
    /// # Panics
    /// When the lease is not one of [`lease_segment`](Self::lease_segment).
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device), not across the read.
    pub fn read_segment<'l, 'a>(
        &'a self,
        id: SegmentId,
        lease: &'l mut Lease<'a>,
    ) -> Result<Option<SegmentImage<'l, 'a>>, Error> {
        assert_no_lock_held("reading a segment");
        let Some((pages, generation, objects)) = self.segments().move_out(id) else { return Ok(None) };
        let moving = Moving { area: self, id, generation };
        let objects = self.places(id, generation, &objects);
        let (offset, len) = (self.segment_offset(id), pages * self.geometry().page_bytes);
        if let Err(failure) = self.run_read(offset, len, lease) {
            return Err(self.request_error(Op::Read, offset, len, failure));
        }
        self.count_read(len as u64);
        Ok(Some(SegmentImage { moving, lease, objects }))
    }

    /// What a segment takes of the device; 0 when nothing lives there.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn used_bytes_of(&self, id: SegmentId) -> u64 {
        (self.segments().used_pages_of(id) * self.geometry().page_bytes) as u64
    }

    /// The live objects of a segment and who has them, in device order. Allocates.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn objects_of(&self, id: SegmentId) -> Vec<(Place, Tenant)> {
        let (generation, objects) = self.segments().live_objects(id);
        self.places(id, generation, &objects)
    }

    fn places(&self, id: SegmentId, generation: u16, objects: &[Object]) -> Vec<(Place, Tenant)> {
        let geometry = self.geometry();
        let base = u64::from(id.0) * (geometry.batch_pages * geometry.blocks_per_page()) as u64;
        let place = |object: &Object| Place {
            device: self.number(),
            block: base + object.first as u64,
            blocks: object.blocks as u8,
            generation,
        };
        objects.iter().map(|object| (place(object), object.tenant)).collect()
    }

    fn segment_offset(&self, id: SegmentId) -> u64 {
        u64::from(id.0) * self.geometry().segment_bytes() as u64
    }

    /// Where cleaning wins most for what it costs: nearly the fewest live blocks; a segment with much room left only if there is
    /// no other, and none that a batch has. `None` when no segment is worth it.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn sparsest(&self) -> Option<SegmentId> {
        self.segments().sparsest()
    }

    /// The first segment from `from` on, in device order, where something lives.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn live_segments_from(&self, from: SegmentId) -> Option<SegmentId> {
        self.segments().live_from(from)
    }

    /// In order of filling, the segment after `after` where something lives; the first of all for `None`, or when nothing lives in
    /// `after` any more.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn oldest(&self, after: Option<SegmentId>) -> Option<SegmentId> {
        self.segments().oldest(after)
    }
}
