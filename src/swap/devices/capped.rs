//! [`Capped`]: the first bytes of a device, as a device: for one that is not to be used whole.

use super::super::device::{Device, Request};
use crate::sync::Deadline;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// A device of which only so many bytes are used. Every method of [`Device`] is here, so that it behaves as the device does.
#[derive(Debug)]
pub(super) struct Capped {
    device: Box<dyn Device>,
    bytes: u64,
}

impl Capped {
    /// `device`, or what `most` bytes of it are.
    pub(super) fn at_most(device: Box<dyn Device>, most: u64) -> Box<dyn Device> {
        match device.len_bytes() > most {
            true => Box::new(Capped { device, bytes: most }),
            false => device,
        }
    }
}

impl Device for Capped {
    fn submit(&self, requests: &mut [Request]) {
        self.device.submit(requests);
    }

    fn complete(&self, requests: &mut [Request]) {
        self.device.complete(requests);
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.device.complete_by(requests, deadline);
    }

    fn poll(&self, request: &mut Request) {
        self.device.poll(request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.device.timeout()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.device.punch(range)
    }

    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn block_bytes(&self) -> usize {
        self.device.block_bytes()
    }

    fn file_system(&self) -> Option<u64> {
        self.device.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.device.free_bytes()
    }

    fn name(&self) -> &str {
        self.device.name()
    }

    fn describe(&self) -> String {
        format!("{}, of which at most {} bytes are used", self.device.describe(), self.bytes)
    }
}
