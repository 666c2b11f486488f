//! How an area has its device do something: the buffer's way into a request and back, and what becomes of requests that the
//! device does not answer.
//!
//! ```text
//!   lease --buffer--> Request --submit, complete_by--> over: buffer back to the lease, Ok or why not
//!                        |
//!                        +--> in flight: into quarantine, with the pages of a write; the lease is aside; TimedOut
//! ```
//!
//! 1. After [`Area::run`], also by a panic of the device, each request's buffer is in its lease or in quarantine; pages that a
//!    request in flight may write to are in quarantine.
//! 2. While a request is late its device [hangs](Area::is_hung): it is given nothing new to write. Reads go on until half of
//!    the buffers for them are gone.
//!
//! All I/O of areas but punching goes through here.

use super::quarantine::{Late, Lender};
use crate::swap::Error;
use crate::swap::area::Area;
use crate::swap::buffer::{BufferPool, Lease};
use crate::swap::device::{Failure, Op, Request};
use crate::swap::segments::Extent;
use crate::sync::{Deadline, assert_no_lock_held};

/// Requests that are being run. However that ends, what they own goes where it belongs.
struct Running<'s, 'a> {
    area: &'a Area,
    requests: &'s mut [Request],
    /// One for each request.
    leases: &'s mut [Lease<'a>],
    /// The pages of a write.
    extent: &'s mut Option<Extent>,
}

// === impl Area ===

impl Area {
    /// A buffer for a read. Waits for one.
    ///
    /// # Errors
    /// [`Error::Hung`] when half of them are with late requests.
    pub(super) fn read_lease(&self) -> Result<Lease<'_>, Error> {
        self.lease(self.read_buffers())
    }

    /// A buffer for a batch. Waits for one.
    ///
    /// # Errors
    /// [`Error::Hung`] while the device does not answer.
    pub(super) fn write_lease(&self) -> Result<Lease<'_>, Error> {
        self.settle();
        match self.quarantine().len() {
            0 => self.lease(self.write_buffers()),
            late => Err(Error::Hung { device: self.number(), late }),
        }
    }

    pub(super) fn lease<'a>(&'a self, buffers: &'a BufferPool) -> Result<Lease<'a>, Error> {
        loop {
            if let Ok(lease) = buffers.take() {
                return Ok(lease);
            }
            // Half of them were aside. If none is any more, others saw to it.
            let late = if self.settle() { 0 } else { self.quarantine().len() };
            if late > 0 {
                return Err(Error::Hung { device: self.number(), late });
            }
        }
    }

    /// Whether requests are late: the device is given nothing new to write until it has answered them.
    pub fn is_hung(&self) -> bool {
        self.quarantine().len() > 0
    }

    /// See which late requests are over, and give back what they held. Whether any was. Nothing is waited for, and nothing
    /// allocated.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), [`Rank::Device`](crate::sync::Rank::Device).
    pub(super) fn settle(&self) -> bool {
        if !self.is_hung() {
            return false;
        }
        self.quarantine().settle(self.device(), |Late { mut request, lender, extent }| {
            let buffers = match lender {
                Lender::Reads => self.read_buffers(),
                Lender::Writes => self.write_buffers(),
                Lender::Moves => self.segment_buffers(),
            };
            buffers.put_late(request.take_buffer());
            if let Some(extent) = extent {
                // However it ended: nobody was told of a place there.
                let pages = extent.pages;
                self.segments().give_back_failed(extent, pages, false);
            }
        })
    }

    /// Read into the first `len` bytes of the lease.
    pub(super) fn run_read<'a>(&'a self, offset: u64, len: usize, lease: &mut Lease<'a>) -> Result<(), Failure> {
        let request = Request::new(Op::Read, offset, len, lease.take_buffer());
        self.run_one(request, lease, &mut None)
    }

    /// Write the first `len` bytes of the lease, which lie in `extent`. The extent is taken if the device may write to it yet;
    /// then the failure is a time-out.
    pub(super) fn run_write<'a>(
        &'a self,
        offset: u64,
        len: usize,
        lease: &mut Lease<'a>,
        extent: &mut Option<Extent>,
    ) -> Result<(), Failure> {
        let request = Request::new(Op::Write, offset, len, lease.take_buffer());
        self.run_one(request, lease, extent)
    }

    fn run_one<'a>(
        &'a self,
        request: Request,
        lease: &mut Lease<'a>,
        extent: &mut Option<Extent>,
    ) -> Result<(), Failure> {
        let mut requests = [request];
        self.run(&mut requests, std::slice::from_mut(lease), extent);
        requests[0].result()
    }

    /// Have the device do these requests, which have the buffers of the leases. Afterwards all are over, those that are late
    /// included, whose leases are aside.
    ///
    /// # Locks
    /// None may be held.
    pub(super) fn run<'a>(&'a self, requests: &mut [Request], leases: &mut [Lease<'a>], extent: &mut Option<Extent>) {
        assert_no_lock_held("waiting for a device");
        assert_eq!(requests.len(), leases.len(), "a buffer for each request");
        let running = Running { area: self, requests, leases, extent };
        let device = self.device();
        let deadline = device.timeout().map(Deadline::after);
        device.submit(running.requests);
        match deadline {
            None => device.complete(running.requests),
            Some(deadline) => device.complete_by(running.requests, deadline),
        }
    }
}

/// The device is closed: what it is through with by now needs no quarantine.
impl Drop for Area {
    fn drop(&mut self) {
        self.settle();
    }
}

// === impl Running ===

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        for (request, lease) in self.requests.iter_mut().zip(self.leases.iter_mut()) {
            if request.is_in_flight() {
                // In this order: whoever finds the buffer aside finds the device hanging, and whoever finds the request over
                // finds the buffer aside.
                self.area.quarantine().announce();
                lease.set_aside();
                let lender = match request.op() {
                    Op::Write => Lender::Writes,
                    Op::Read if lease.is_from(self.area.segment_buffers()) => Lender::Moves,
                    Op::Read => Lender::Reads,
                };
                let extent = self.extent.take();
                if let Some(extent) = &extent {
                    self.area.segments().mark_late(extent);
                }
                self.area.quarantine().put(Late { request: request.give_up(), lender, extent });
            } else {
                lease.put_buffer(request.take_buffer());
            }
        }
    }
}
