//! [`Queue`]: who does the requests of a file: a ring, a thread, or the caller.
//!
//! | requests | with a time-out | without |
//! |---|---|---|
//! | direct, the kernel allows io_uring | a ring | one: the caller; several: a ring, at depth |
//! | others that write | a thread, waited for so long | the caller |
//! | others that read | the caller, who waits | the caller |
//!
//! One request by a ring takes 3 to 5% longer than a plain call (a read of 4 KiB 45.6 us to 44.1, a write of 256 KiB 89.8 to
//! 86.0); reads of 8 KiB, eight at a time, take 23 us each where one at a time takes 54.

use super::fileio::FileIo;
use super::iothread::IoThread;
use super::uring::Rings;
use super::{Device, Op, Request, Status};
use crate::sync::{Arc, Deadline};
use std::ops::Deref;
use std::time::Duration;

/// How long a request may take unless told otherwise: the kernel's own patience with a disk.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Tickets of the thread; rings have lower ones.
pub(super) const OF_THREAD: u64 = 1 << 63;

/// An open file, and who does its requests.
#[derive(Debug)]
pub(super) struct Queue {
    io: Arc<FileIo>,
    rings: Rings,
    thread: IoThread,
    timeout: Option<Duration>,
}

impl Deref for Queue {
    type Target = FileIo;
    fn deref(&self) -> &FileIo {
        &self.io
    }
}

// === impl Queue ===

impl Queue {
    /// Buffered, until [`try_direct`](Self::try_direct) is called.
    pub(super) fn new(io: FileIo, timeout: Option<Duration>, rings: Option<usize>) -> Self {
        let io = Arc::new(io);
        let theirs = Arc::clone(&io);
        let thread = IoThread::new(move |offset, bytes| theirs.write_device(offset, bytes));
        Queue { io, rings: Rings::new(rings), thread, timeout }
    }

    /// Go past the page cache from now on, if that is wished for and allowed; and see whether the kernel allows rings.
    pub(super) fn try_direct(&self) {
        self.io.try_direct();
        if self.is_direct() {
            self.rings.begin();
        }
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Do the requests of `device`, whose bytes these are, until the deadline.
    pub(super) fn run(&self, device: &impl Device, requests: &mut [Request], deadline: Option<Deadline>) {
        let several = requests.iter().filter(|request| request.status() == Status::Idle).count() > 1;
        if self.is_direct() && (several || deadline.is_some()) {
            let plain = |request: &mut Request| self.do_request(request);
            if self.rings.run(self.place(), requests, deadline, |request| request.start(device), plain) {
                return;
            }
        }
        for request in requests {
            if !request.start(device) {
                continue;
            }
            let done = match (request.op(), deadline) {
                (Op::Write, Some(deadline)) => self.thread.run(request, deadline),
                _ => false,
            };
            if !done {
                let result = self.do_request(request);
                request.finish(result);
            }
        }
    }

    /// Finish the request if it is over.
    pub(super) fn poll(&self, request: &mut Request) {
        match request.ticket() & OF_THREAD {
            0 => self.rings.poll(request),
            _ => self.thread.poll(request),
        }
    }

    /// How it is read and written, for people.
    pub(super) fn describe(&self) -> String {
        let how = self.io.describe();
        match (self.is_direct(), self.rings.refusal(), self.timeout) {
            (false, ..) => how.to_owned(),
            (true, None, _) => format!("{how} by io_uring"),
            (true, Some(why), Some(_)) => format!("{how} without io_uring ({why}): reads have no time-out"),
            (true, Some(why), None) => format!("{how} without io_uring ({why})"),
        }
    }
}
