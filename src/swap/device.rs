//! [`Device`]: what bytes can be written to and read from, in requests that are started and waited for.
//!
//! ```text
//!              submit              complete, complete_by
//!   Idle ----------------> InFlight ----------> Done | Failed(failure)
//!                            |  |                       ^   ^
//!                            |  +---- late: poll -------+   |
//!                            +------------------------------+   a backend without a queue is through inside submit
//! ```
//!
//! 1. A request owns its buffer from `new` until `take_buffer`; while it is in flight nobody but the device can reach the
//!    bytes.
//! 2. After `complete` every request of the slice is `Done` or `Failed`. `Done` means all bytes.
//! 3. After `complete_by` a request may be in flight still: it is late. It may be moved, and goes into
//!    [quarantine](super::area::quarantine) with what it holds, where it is polled until it is over.
//! 4. Requests are whole units ([`Device::block_bytes`]) at multiples of the unit, inside the device; others fail at
//!    once.
//!
//! Only [`Area`](super::Area) starts requests; it holds no lock meanwhile.

pub(super) mod blockdev;
pub(super) mod faulty;
pub(super) mod fileio;
pub(super) mod header;
pub(super) mod iothread;
pub(super) mod memory;
pub(super) mod opening;
pub(super) mod queue;
pub(super) mod swapfile;
pub(super) mod syscalls;
pub(super) mod uring;

use super::IoBuffer;
use crate::sync::{Arc, Deadline};
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Device to buffer.
    Read,
    /// Buffer to device.
    Write,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Read => "read",
            Op::Write => "write",
        })
    }
}

/// What made a request fail: small and copyable, so that it can cross threads without allocating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An error number of the system.
    Os(i32),
    /// A condition the system has no number for, such as the end of the file.
    Kind(io::ErrorKind),
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Cause::Kind(error.kind()), Cause::Os)
    }
}

impl From<Cause> for io::Error {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Os(number) => io::Error::from_raw_os_error(number),
            Cause::Kind(kind) => kind.into(),
        }
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// Bytes from the start of the request that were done all the same.
    pub done: usize,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not started.
    Idle,
    /// The device has it: its buffer is the device's.
    InFlight,
    /// All bytes are read or written.
    Done,
    /// Not all bytes are.
    Failed(Failure),
}

/// One read or write of a device, with the buffer it owns.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    op: Op,
    /// First byte on the device.
    offset: u64,
    /// Bytes, from the start of the buffer.
    len: usize,
    /// `None` once taken out.
    buffer: Option<IoBuffer>,
    /// How far it is.
    status: Status,
    /// What the device knows it by while it is in flight.
    ticket: u64,
}

impl Request {
    /// A request that was not started, for the first `len` bytes of `buffer`.
    ///
    /// # Panics
    /// When the buffer is shorter.
    pub fn new(op: Op, offset: u64, len: usize, buffer: IoBuffer) -> Self {
        assert!(len <= buffer.len(), "a request of {len} bytes with a buffer of {}", buffer.len());
        Request { op, offset, len, buffer: Some(buffer), status: Status::Idle, ticket: 0 }
    }

    /// One that is over, without a buffer: to fill an array with.
    pub(super) fn nothing() -> Self {
        let failed = Status::Failed(Failure { cause: Cause::Kind(io::ErrorKind::InvalidInput), done: 0 });
        Request { op: Op::Read, offset: 0, len: 0, buffer: None, status: failed, ticket: 0 }
    }

    /// What to do.
    pub fn op(&self) -> Op {
        self.op
    }

    /// First byte on the device.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty)] // never asked
    pub fn len(&self) -> usize {
        self.len
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The bytes, for the device that has the request.
    ///
    /// # Panics
    /// When the buffer was taken out.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut().expect("the buffer was taken out")[..self.len]
    }

    /// What the device knows the request by, which may be moved while it is in flight: whatever
    /// [`set_ticket`](Self::set_ticket) left.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// For the device that has the request.
    pub fn set_ticket(&mut self, ticket: u64) {
        self.ticket = ticket;
    }

    /// The buffer itself, for a device whose own thread works on it; it comes back by [`return_buffer`](Self::return_buffer)
    /// before the request is finished.
    ///
    /// # Panics
    /// When the request is not in flight, or the buffer is out.
    pub fn lend_buffer(&mut self) -> IoBuffer {
        assert!(self.status == Status::InFlight, "only a device that has the request takes its buffer");
        self.buffer.take().expect("the buffer was taken out")
    }

    /// The end of [`lend_buffer`](Self::lend_buffer).
    ///
    /// # Panics
    /// When the request has its buffer.
    pub fn return_buffer(&mut self, buffer: IoBuffer) {
        assert!(self.buffer.replace(buffer).is_none(), "the request has its buffer");
    }

    /// Whether the device has it.
    pub fn is_in_flight(&self) -> bool {
        self.status == Status::InFlight
    }

    /// Move a request in flight out: what stays behind has failed with [`TimedOut`](io::ErrorKind::TimedOut) and has no buffer.
    ///
    /// # Panics
    /// When it is not in flight.
    pub(super) fn give_up(&mut self) -> Request {
        assert!(self.status == Status::InFlight, "a request that is not in flight is given up on");
        let failed = Status::Failed(Failure { cause: Cause::Kind(io::ErrorKind::TimedOut), done: 0 });
        let status = std::mem::replace(&mut self.status, failed);
        Request {
            op: self.op,
            offset: self.offset,
            len: self.len,
            buffer: self.buffer.take(),
            status,
            ticket: self.ticket,
        }
    }

    /// The buffer, of a request that is over (or never started).
    ///
    /// # Panics
    /// When the device still has it, or it was taken before.
    pub fn take_buffer(&mut self) -> IoBuffer {
        assert!(self.status != Status::InFlight, "the device still has the buffer");
        self.buffer.take().expect("the buffer was taken out")
    }

    /// The device takes the request. `false`: it was started before, leave it alone.
    ///
    /// What no device does (parts of units, bytes outside) fails here.
    #[must_use]
    pub fn start(&mut self, device: &(impl Device + ?Sized)) -> bool {
        if self.status != Status::Idle {
            return false;
        }
        let unit = device.block_bytes();
        let whole = self.offset.is_multiple_of(unit as u64) && self.len.is_multiple_of(unit);
        let inside = self.offset.checked_add(self.len as u64).is_some_and(|end| end <= device.len_bytes());
        if whole && inside {
            self.status = Status::InFlight;
            return true;
        }
        self.status = Status::Failed(Failure { cause: Cause::Kind(io::ErrorKind::InvalidInput), done: 0 });
        false
    }

    /// The device is through with the request.
    ///
    /// # Panics
    /// When it was not in flight.
    pub fn finish(&mut self, result: Result<(), Failure>) {
        assert!(self.status == Status::InFlight, "a request that was not in flight is finished");
        self.status = result.map_or_else(Status::Failed, |()| Status::Done);
    }

    /// The result of a request that is over.
    ///
    /// # Panics
    /// When it is not.
    pub fn result(&self) -> Result<(), Failure> {
        match self.status {
            Status::Done => Ok(()),
            Status::Failed(failure) => Err(failure),
            Status::Idle | Status::InFlight => panic!("the request is not over"),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.status == Status::InFlight {
            // The device may yet write to it: its memory must never be anything else.
            std::mem::forget(self.buffer.take());
        }
    }
}

/// Bytes that can be written and read in whole units.
///
/// None of its functions may call the store that it is a device of: who is called may be the one for whom that call would wait.
pub trait Device: Send + Sync + fmt::Debug {
    /// Start the idle requests. A device whose queue is full may leave some idle; [`complete`](Self::complete) starts
    /// them.
    fn submit(&self, requests: &mut [Request]);

    /// Wait until every request of the slice is over, starting those still idle.
    fn complete(&self, requests: &mut [Request]);

    /// The same until the deadline: what the device has not done by then stays in flight, and what it had no room to start
    /// fails with [`TimedOut`](io::ErrorKind::TimedOut). A device without a queue cannot stop waiting, and completes.
    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        let _ = deadline;
        self.complete(requests);
    }

    /// Look, without waiting, whether a request in flight is over by now, and finish it if so. Called with a lock held.
    ///
    /// A device that keeps requests in flight beyond [`submit`](Self::submit) must implement it; one that does not has
    /// nothing in flight but what a panic of its own left there, and that is over.
    fn poll(&self, request: &mut Request) {
        if request.is_in_flight() {
            request.finish(Err(Failure { cause: Cause::Kind(io::ErrorKind::Interrupted), done: 0 }));
        }
    }

    /// How long a request may take before it is given up on ([`complete_by`](Self::complete_by)); `None`: for ever.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Give the storage behind the bytes back; they read as zeroes afterwards, or as anything at all.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) when the device cannot, and whatever else the device says.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;

    /// Bytes that can be used, from byte 0.
    fn len_bytes(&self) -> u64;

    /// Bytes of a unit: offsets and lengths are multiples. A power of two.
    fn block_bytes(&self) -> usize;

    /// A number for the file system that storage is taken from, if it is one: what lies on the same one shares its free bytes.
    fn file_system(&self) -> Option<u64> {
        None
    }

    /// Bytes that are free on that file system now.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A short name for messages.
    fn name(&self) -> &str;

    /// A line for people: the name, and how the device is used.
    fn describe(&self) -> String {
        self.name().to_owned()
    }
}

// A shared device is a device: tests look into the one an area owns.
impl<D: Device + ?Sized> Device for Arc<D> {
    fn submit(&self, requests: &mut [Request]) {
        (**self).submit(requests);
    }
    fn complete(&self, requests: &mut [Request]) {
        (**self).complete(requests);
    }
    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        (**self).complete_by(requests, deadline);
    }
    fn poll(&self, request: &mut Request) {
        (**self).poll(request);
    }
    fn timeout(&self) -> Option<Duration> {
        (**self).timeout()
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        (**self).punch(range)
    }
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }
    fn block_bytes(&self) -> usize {
        (**self).block_bytes()
    }
    fn file_system(&self) -> Option<u64> {
        (**self).file_system()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        (**self).free_bytes()
    }
    fn name(&self) -> &str {
        (**self).name()
    }
    fn describe(&self) -> String {
        (**self).describe()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::MemoryDevice;
    use super::*;

    #[test]
    fn parts_of_units_and_bytes_outside_fail_without_reaching_the_device() {
        let device = MemoryDevice::new(8192, 4096);
        let bad = [(1, 4096), (0, 100), (8192, 4096), (4096, 8192), (u64::MAX - 4095, 4096)];
        for (offset, len) in bad {
            let mut request = [Request::new(Op::Write, offset, len, IoBuffer::new(8192))];
            device.submit(&mut request);
            device.complete(&mut request);
            let expected = Failure { cause: Cause::Kind(io::ErrorKind::InvalidInput), done: 0 };
            assert_eq!(request[0].result(), Err(expected), "{offset}+{len}");
        }
        assert!(device.image().iter().all(|&b| b == 0));
    }

    #[test]
    #[should_panic(expected = "still has the buffer")]
    fn the_buffer_of_a_request_in_flight_cannot_be_taken() {
        let device = MemoryDevice::new(8192, 4096);
        let mut request = Request::new(Op::Read, 0, 4096, IoBuffer::new(4096));
        assert!(request.start(&device));
        request.take_buffer();
    }

    #[test]
    fn a_finished_request_is_not_started_again() {
        let device = MemoryDevice::new(8192, 4096);
        let mut request = [Request::new(Op::Read, 0, 4096, IoBuffer::new(4096))];
        device.submit(&mut request);
        assert!(!request[0].start(&device));
        assert_eq!(request[0].status(), Status::Done);
    }

    #[test]
    fn causes_keep_number_or_kind() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(io::Error::from(Cause::from(&full)).raw_os_error(), Some(libc::ENOSPC));
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(io::Error::from(Cause::from(&end)).kind(), io::ErrorKind::UnexpectedEof);
    }
}
