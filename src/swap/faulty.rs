//! [`FaultyDevice`]: another device with faults on cue.
//!
//! Every request and every punch is an operation, numbered from 1 in the order in which it reaches the device. A
//! [`Plan`] says which of them go wrong, and how. The same operations under the same plan give the same faults, so a
//! driver can run a scenario with "operation k fails" for k = 1, 2, 3, ... until [`tripped`](FaultyDevice::tripped)
//! stays false.
//!
//! It allocates where it has to look at what was there before; it is for tests.

use super::IoBuffer;
use super::device::{Cause, Device, Failure, Op, Request};
use crate::sync::{Mutex, Rank};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// Bytes a disk writes as a whole: where a torn write is cut.
pub const SECTOR_BYTES: usize = 512;

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number and does nothing.
    Errno(i32),
    /// It does this many bytes and says so in its failure.
    Short {
        /// Bytes done.
        bytes: usize,
    },
    /// Only the first sectors are done, and it claims success: the rest keeps what was there (read: is zeroes).
    Torn {
        /// Sectors of [`SECTOR_BYTES`] done.
        sectors: usize,
    },
    /// One bit is wrong in what is written or read, and it claims success.
    Flip {
        /// The bit, counted from the request's first byte; modulo its length.
        bit: usize,
    },
    /// It reads or writes at another offset, and claims success.
    Misdirect {
        /// That offset, cut down to the last where the request fits.
        to: u64,
    },
    /// It does nothing, and claims success.
    Lost,
}

/// Which operations go wrong.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    faults: BTreeMap<u64, Fault>,
    down: Option<(u64, i32)>,
    full: Option<u64>,
}

impl Plan {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Operation `k` goes wrong in this way.
    #[must_use]
    pub fn at(mut self, k: u64, fault: Fault) -> Self {
        self.faults.insert(k, fault);
        self
    }

    /// Every operation from `k` on fails with this error number: the device is gone.
    #[must_use]
    pub fn down_from(mut self, k: u64, errno: i32) -> Self {
        self.down = Some((k, errno));
        self
    }

    /// Every write from operation `k` on fails for lack of space; reads and punches work.
    #[must_use]
    pub fn full_from(mut self, k: u64) -> Self {
        self.full = Some(k);
        self
    }

    fn fault(&self, k: u64, writes: bool) -> Option<Fault> {
        if let Some((from, errno)) = self.down
            && k >= from
        {
            return Some(Fault::Errno(errno));
        }
        if writes && self.full.is_some_and(|from| k >= from) {
            return Some(Fault::Errno(libc::ENOSPC));
        }
        self.faults.get(&k).copied()
    }
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    operations: u64,
    tripped: u64,
}

/// A device that does what `inner` does, but for the faults of its plan.
#[derive(Debug)]
pub struct FaultyDevice<D> {
    inner: D,
    state: Mutex<State>,
}

impl<D: Device> FaultyDevice<D> {
    /// `inner` with the faults of `plan`.
    pub fn new(inner: D, plan: Plan) -> Self {
        FaultyDevice { inner, state: Mutex::new(Rank::Leaf, State { plan, ..State::default() }) }
    }

    /// Another plan; operations count from 1 again.
    pub fn replan(&self, plan: Plan) {
        *self.state.lock() = State { plan, ..State::default() };
    }

    /// Operations since the plan was set.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Whether any of them went wrong.
    pub fn tripped(&self) -> bool {
        self.state.lock().tripped > 0
    }

    /// How many operations went wrong since the plan was set.
    pub fn faults(&self) -> u64 {
        self.state.lock().tripped
    }

    /// The device below.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    fn next(&self, writes: bool) -> Option<Fault> {
        let mut state = self.state.lock();
        state.operations += 1;
        let fault = state.plan.fault(state.operations, writes);
        state.tripped += u64::from(fault.is_some());
        fault
    }

    /// Read from below, or write to it, without a fault. `bytes` are whole units.
    fn plain(&self, op: Op, offset: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut buffer = IoBuffer::new(bytes.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        let mut request = [Request::new(op, offset, bytes.len(), buffer)];
        self.inner.submit(&mut request);
        self.inner.complete(&mut request);
        if op == Op::Read {
            bytes.copy_from_slice(request[0].bytes_mut());
        }
        request[0].result()
    }

    /// Let only the first `done` bytes happen.
    fn partly(&self, op: Op, offset: u64, bytes: &mut [u8], done: usize) -> Result<(), Failure> {
        match op {
            Op::Read => {
                self.plain(op, offset, bytes)?;
                bytes[done..].fill(0);
                Ok(())
            }
            Op::Write => {
                let mut merged = bytes.to_vec();
                self.plain(Op::Read, offset, &mut merged)?;
                merged[..done].copy_from_slice(&bytes[..done]);
                self.plain(op, offset, &mut merged)
            }
        }
    }

    fn run(&self, op: Op, offset: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let Some(fault) = self.next(op == Op::Write) else {
            return self.plain(op, offset, bytes);
        };
        match fault {
            Fault::Errno(errno) => Err(Failure { cause: Cause::Os(errno), done: 0 }),
            Fault::Short { bytes: done } => {
                let done = done.min(bytes.len());
                self.partly(op, offset, bytes, done)?;
                let kind = if op == Op::Read { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
                Err(Failure { cause: Cause::Kind(kind), done })
            }
            Fault::Torn { sectors } => self.partly(op, offset, bytes, (sectors * SECTOR_BYTES).min(bytes.len())),
            Fault::Flip { bit } => {
                let bit = bit % (bytes.len() * 8);
                if op == Op::Read {
                    self.plain(op, offset, bytes)?;
                }
                bytes[bit / 8] ^= 1 << (bit % 8);
                if op == Op::Write {
                    self.plain(op, offset, bytes)?;
                    // The flip happened on the way: the owner's buffer is as it was.
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                Ok(())
            }
            Fault::Misdirect { to } => {
                let last = self.inner.len_bytes() - bytes.len() as u64;
                let unit = self.inner.block_bytes() as u64;
                self.plain(op, to.min(last) / unit * unit, bytes)
            }
            Fault::Lost => Ok(()),
        }
    }
}

impl<D: Device> Device for FaultyDevice<D> {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                let (op, offset) = (request.op(), request.offset());
                let result = self.run(op, offset, request.bytes_mut());
                request.finish(result);
            }
        }
    }

    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        match self.next(false) {
            None => self.inner.punch(range),
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short { .. }) => Err(io::ErrorKind::WriteZero.into()),
            // A hole that was not punched, in whatever way, is storage that was not given back.
            Some(_) => Ok(()),
        }
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        format!("{}, with faults on cue", self.inner.describe())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::MemoryDevice;
    use super::*;

    fn run(device: &impl Device, op: Op, offset: u64, fill: u8) -> (Result<(), Failure>, Vec<u8>) {
        let mut buffer = IoBuffer::new(4096);
        buffer.fill(fill);
        let mut request = [Request::new(op, offset, 4096, buffer)];
        device.submit(&mut request);
        device.complete(&mut request);
        (request[0].result(), request[0].take_buffer().to_vec())
    }

    /// A device of 4 pages of ones whose second operation goes wrong.
    fn second(fault: Fault) -> FaultyDevice<MemoryDevice> {
        let device = FaultyDevice::new(MemoryDevice::new(4 * 4096, 4096), Plan::none().at(2, fault));
        device.inner().tamper(|bytes| bytes.fill(1));
        assert_eq!(run(&device, Op::Read, 0, 0).0, Ok(()));
        assert!(!device.tripped());
        device
    }

    #[test]
    fn writes_go_wrong_as_planned() {
        let page = |device: &FaultyDevice<MemoryDevice>, k: usize| device.inner().image()[k * 4096..][..4096].to_vec();

        let device = second(Fault::Errno(libc::EIO));
        assert_eq!(run(&device, Op::Write, 0, 2).0, Err(Failure { cause: Cause::Os(libc::EIO), done: 0 }));
        assert_eq!(page(&device, 0), [1; 4096]);
        assert!(device.tripped());
        assert_eq!(run(&device, Op::Write, 0, 2).0, Ok(()));
        assert_eq!(page(&device, 0), [2; 4096]);

        let device = second(Fault::Short { bytes: 100 });
        let short = Failure { cause: Cause::Kind(io::ErrorKind::WriteZero), done: 100 };
        assert_eq!(run(&device, Op::Write, 0, 2).0, Err(short));
        assert_eq!((page(&device, 0)[99], page(&device, 0)[100]), (2, 1));

        let device = second(Fault::Torn { sectors: 3 });
        assert_eq!(run(&device, Op::Write, 0, 2).0, Ok(()));
        assert_eq!((page(&device, 0)[1535], page(&device, 0)[1536]), (2, 1));

        let device = second(Fault::Flip { bit: 83 });
        assert_eq!(run(&device, Op::Write, 0, 2), (Ok(()), vec![2; 4096]));
        assert_eq!(page(&device, 0)[10], 2 ^ 8);

        let device = second(Fault::Misdirect { to: 8192 });
        assert_eq!(run(&device, Op::Write, 0, 2).0, Ok(()));
        assert_eq!((page(&device, 0), page(&device, 2)), (vec![1; 4096], vec![2; 4096]));

        let device = second(Fault::Lost);
        assert_eq!(run(&device, Op::Write, 0, 2).0, Ok(()));
        assert_eq!(page(&device, 0), [1; 4096]);
    }

    #[test]
    fn reads_go_wrong_as_planned() {
        assert_eq!(run(&second(Fault::Flip { bit: 0 }), Op::Read, 0, 9).1[0], 0);
        assert_eq!(run(&second(Fault::Lost), Op::Read, 0, 9), (Ok(()), vec![9; 4096]));
        let torn = run(&second(Fault::Torn { sectors: 1 }), Op::Read, 0, 9).1;
        assert_eq!((torn[511], torn[512]), (1, 0));
        let device = second(Fault::Misdirect { to: u64::MAX });
        device.inner().tamper(|bytes| bytes[3 * 4096..].fill(3));
        assert_eq!(run(&device, Op::Read, 0, 9), (Ok(()), vec![3; 4096]));
        let eof = Failure { cause: Cause::Kind(io::ErrorKind::UnexpectedEof), done: 7 };
        assert_eq!(run(&second(Fault::Short { bytes: 7 }), Op::Read, 0, 9).0, Err(eof));
    }

    #[test]
    fn a_device_that_is_down_stays_down_and_a_full_one_still_reads() {
        let device = FaultyDevice::new(MemoryDevice::new(4096, 4096), Plan::none().full_from(1));
        let full = Err(Failure { cause: Cause::Os(libc::ENOSPC), done: 0 });
        for _ in 0..3 {
            assert_eq!(run(&device, Op::Write, 0, 2).0, full);
            assert_eq!(run(&device, Op::Read, 0, 2).0, Ok(()));
            device.punch(0..4096).unwrap();
        }
        device.replan(Plan::none().down_from(2, libc::EIO));
        assert_eq!(run(&device, Op::Read, 0, 2).0, Ok(()));
        for _ in 0..3 {
            assert!(run(&device, Op::Read, 0, 2).0.is_err());
            assert!(device.punch(0..4096).is_err());
        }
        assert_eq!(device.operations(), 7);
    }
}
