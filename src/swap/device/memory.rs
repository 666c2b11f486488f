//! [`MemoryDevice`]: a device in memory, for tests, models and fuzzing.
//!
//! Requests are through inside `submit`, one at a time under a lock, so a model checker sees every order of them.

use super::{Device, Op, Request};
use crate::sync::{Mutex, Rank};
use std::io;
use std::ops::Range;

/// A device whose bytes are a vector.
#[derive(Debug)]
pub struct MemoryDevice {
    bytes: Mutex<Vec<u8>>,
    len: u64,
    block_bytes: usize,
}

impl MemoryDevice {
    /// `len` bytes of zeroes, used in units of `block_bytes` (a power of two).
    ///
    /// # Panics
    /// When the unit is no power of two.
    pub fn new(len: usize, block_bytes: usize) -> Self {
        assert!(block_bytes.is_power_of_two(), "a unit of {block_bytes} bytes");
        MemoryDevice { bytes: Mutex::new(Rank::Leaf, vec![0; len]), len: len as u64, block_bytes }
    }

    /// A copy of all bytes.
    pub fn image(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// Change the bytes behind everybody's back.
    pub fn tamper(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.bytes.lock());
    }
}

impl Device for MemoryDevice {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if !request.start(self) {
                continue;
            }
            let range = request.offset() as usize..request.offset() as usize + request.len();
            let mut bytes = self.bytes.lock();
            match request.op() {
                Op::Read => request.bytes_mut().copy_from_slice(&bytes[range]),
                Op::Write => bytes[range].copy_from_slice(request.bytes_mut()),
            }
            request.finish(Ok(()));
        }
    }

    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        if range.end > self.len || range.start > range.end {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.bytes.lock()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn name(&self) -> &str {
        "memory"
    }
}
