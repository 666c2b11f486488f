//! Several objects in one go: [`Area::read_many`].
//!
//! ```text
//!   by place      A  B        C              D   E       sorted; neighbours that fit in a buffer together are one request
//!                [------]    [--]           [-------]
//!   group         up to 16 requests at once, each with a buffer
//!   verified      each object by its own slot and place
//! ```
//!
//! 1. Buffers are taken of the half that is to spare only (see [`BufferPool`](super::BufferPool)), and nobody waits for one: so
//!    the objects may be decoded into client memory while they are held, for its faults are served with the others.
//! 2. What could not be read here is left undone, without a word: a read of its own finds out whether it counts. Nothing is
//!    counted but what was read.

use crate::swap::Place;
use crate::swap::area::Area;
use crate::swap::block::{ObjectRef, open};
use crate::swap::buffer::Lease;
use crate::swap::device::{Op, Request};
use crate::sync::assert_no_lock_held;
use std::ops::Range;

/// Requests of a group at most: from there on the disk is no faster.
const GROUP: usize = 16;

/// An object to be read by [`Area::read_many`].
#[derive(Clone, Copy, Debug)]
pub struct ReadOne {
    /// Where it is.
    pub place: Place,
    /// Whose.
    pub slot: u64,
    /// What the caller knows it by.
    pub key: usize,
}

/// One request of a group: which of the objects, and which pages.
#[derive(Clone, Debug, Default)]
struct Span {
    objects: Range<usize>,
    pages: Range<usize>,
}

// === impl Area ===

impl Area {
    /// Read objects of this device and hand those that are what was written there to `f`, with their keys. They are sorted
    /// by place. What the device failed to read, or is not what was written, is left out: [`read`](Self::read) says why.
    /// Where no buffers are to spare, all are. No allocation.
    ///
    /// `f` may touch memory whose faults read from this area by [`read`](Self::read).
    ///
    /// # Panics
    /// When a place is not on this device.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), not across the reads, nor while `f` runs.
    pub fn read_many(&self, objects: &mut [ReadOne], mut f: impl FnMut(usize, ObjectRef<'_>)) {
        assert_no_lock_held("reading from a device");
        self.settle();
        objects.sort_unstable_by_key(|object| object.place.block);
        let mut next = 0;
        // Behind the end of the device, places of a larger one that had its number before.
        while objects.get(next).is_some_and(|object| self.reaches(&object.place)) {
            let mut spans: [Span; GROUP] = std::array::from_fn(|_| Span::default());
            let mut leases: [Lease<'_>; GROUP] = std::array::from_fn(|_| self.read_buffers().no_lease());
            let mut requests: [Request; GROUP] = std::array::from_fn(|_| Request::nothing());
            let mut n = 0;
            while n < GROUP && objects.get(next).is_some_and(|object| self.reaches(&object.place)) {
                let Some(lease) = self.read_buffers().take_spare() else { break };
                let span = self.gather(objects, next, lease.len() / self.geometry().page_bytes);
                next = span.objects.end;
                (leases[n], spans[n]) = (lease, span);
                let (offset, len) = self.bytes_of(&spans[n].pages);
                requests[n] = Request::new(Op::Read, offset, len, leases[n].take_buffer());
                n += 1;
            }
            if n == 0 {
                return;
            }
            self.run(&mut requests[..n], &mut leases[..n], &mut None);
            for ((request, lease), span) in requests.iter().zip(&mut leases).zip(&spans[..n]) {
                if request.result().is_err() {
                    continue;
                }
                let (offset, len) = self.bytes_of(&span.pages);
                self.count_read(len as u64);
                for object in &objects[span.objects.clone()] {
                    let start = (object.place.offset_bytes() - offset) as usize;
                    let block = &mut lease[start..start + object.place.len_bytes()];
                    if let Ok(opened) = open(block, self.protection(), &object.place, object.slot) {
                        f(object.key, opened);
                    }
                }
            }
        }
    }

    /// The objects from `first` on that lie within so many pages; one at least.
    fn gather(&self, objects: &[ReadOne], first: usize, pages: usize) -> Span {
        let mut span = self.span(&objects[first].place);
        let mut end = first + 1;
        while let Some(object) = objects.get(end) {
            let more = self.span(&object.place);
            // The same place twice opens once: sealed blocks are decrypted where they lie.
            if more.end > span.start + pages
                || !self.reaches(&object.place)
                || object.place.block == objects[end - 1].place.block
            {
                break;
            }
            span.end = span.end.max(more.end);
            end += 1;
        }
        Span { objects: first..end, pages: span }
    }

    fn bytes_of(&self, pages: &Range<usize>) -> (u64, usize) {
        let page_bytes = self.geometry().page_bytes;
        ((pages.start * page_bytes) as u64, pages.len() * page_bytes)
    }
}
