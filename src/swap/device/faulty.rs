//! [`FaultyDevice`]: another device with faults on cue.
//!
//! Every request and every punch is an operation, numbered from 1 in the order in which it reaches the device. A
//! [`Plan`] says which of them go wrong, and how. The same operations under the same plan give the same faults, so a
//! driver can run a scenario with "operation k fails" for k = 1, 2, 3, ... until [`tripped`](FaultyDevice::tripped)
//! stays false.
//!
//! A request may also hang: the device has it, and does not answer, until [`release`](FaultyDevice::release) does it late.
//!
//! It allocates where it has to look at what was there before; it is for tests.

use crate::swap::IoBuffer;
use crate::swap::device::{Cause, Device, Failure, Op, Request};
use crate::sync::{Condvar, Deadline, Mutex, Rank};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::Duration;

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
    /// It is not done, and nothing is said of it, before it is [released](FaultyDevice::release). (A punch is not done, and
    /// claims success.)
    Hang,
}

/// Which operations go wrong.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    faults: BTreeMap<u64, Fault>,
    down: Option<(u64, i32)>,
    full: Option<u64>,
    hangs: Option<u64>,
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

    /// Every read and write from operation `k` on hangs, until the next release.
    #[must_use]
    pub fn hang_from(mut self, k: u64) -> Self {
        self.hangs = Some(k);
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
        self.faults.get(&k).copied().or_else(|| self.hangs.filter(|&from| k >= from).map(|_| Fault::Hang))
    }
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    operations: u64,
    tripped: u64,
    hung: Vec<Hung>,
    next_ticket: u64,
}

/// A request that the device has and does not answer; or has answered, and nobody has asked yet.
#[derive(Debug)]
struct Hung {
    ticket: u64,
    op: Op,
    offset: u64,
    len: usize,
    /// `None` while it is being done.
    buffer: Option<IoBuffer>,
    result: Option<Result<(), Failure>>,
}

/// A device that does what `inner` does, but for the faults of its plan.
#[derive(Debug)]
pub struct FaultyDevice<D> {
    inner: D,
    state: Mutex<State>,
    /// Hung requests were released.
    released: Condvar,
    timeout: Option<Duration>,
}

impl<D: Device> FaultyDevice<D> {
    /// `inner` with the faults of `plan`. Requests that hang do so for ever: see [`with_timeout`](Self::with_timeout).
    pub fn new(inner: D, plan: Plan) -> Self {
        let state = Mutex::new(Rank::Leaf, State { plan, ..State::default() });
        FaultyDevice { inner, state, released: Condvar::new(), timeout: None }
    }

    /// The same where requests are given up on after `timeout`; a time-out of zero needs no time to pass.
    pub fn with_timeout(inner: D, plan: Plan, timeout: Duration) -> Self {
        FaultyDevice { timeout: Some(timeout), ..Self::new(inner, plan) }
    }

    /// Another plan; operations count from 1 again. What hangs does so still.
    pub fn replan(&self, plan: Plan) {
        let mut state = self.state.lock();
        (state.plan, state.operations, state.tripped) = (plan, 0, 0);
    }

    /// Do what hangs, now, in the order in which it came; later requests hang only where the plan names them singly. How many
    /// there were.
    pub fn release(&self) -> usize {
        self.release_as(Ok(()))
    }

    /// The same, but they fail with this error number and nothing is done.
    pub fn release_failed(&self, errno: i32) -> usize {
        self.release_as(Err(Failure { cause: Cause::Os(errno), done: 0 }))
    }

    fn release_as(&self, verdict: Result<(), Failure>) -> usize {
        let mut released = 0;
        loop {
            let mut state = self.state.lock();
            state.plan.hangs = None;
            let next = state.hung.iter_mut().find(|hung| hung.result.is_none() && hung.buffer.is_some());
            let Some(&mut Hung { ticket, op, offset, len, ref mut buffer, .. }) = next else { break };
            let mut buffer = buffer.take().expect("just found to be there");
            drop(state);
            let result = verdict.and_then(|()| self.plain(op, offset, &mut buffer[..len]));
            let mut state = self.state.lock();
            let hung = state.hung.iter_mut().find(|hung| hung.ticket == ticket).expect("it stays until it is over");
            (hung.buffer, hung.result) = (Some(buffer), Some(result));
            released += 1;
        }
        self.released.notify_all();
        released
    }

    /// Requests that hang.
    pub fn hanging(&self) -> usize {
        self.state.lock().hung.iter().filter(|hung| hung.result.is_none()).count()
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

    fn run(&self, fault: Option<Fault>, op: Op, offset: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let Some(fault) = fault else { return self.plain(op, offset, bytes) };
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
            Fault::Hang => unreachable!("a request that hangs is not run"),
        }
    }

    fn hang(&self, request: &mut Request) {
        let mut state = self.state.lock();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        request.set_ticket(ticket);
        let (op, offset, len, buffer) = (request.op(), request.offset(), request.len(), Some(request.lend_buffer()));
        state.hung.push(Hung { ticket, op, offset, len, buffer, result: None });
    }

    /// Finish the request if it hung and was released. Whether it is over.
    fn look(state: &mut State, request: &mut Request) -> bool {
        if !request.is_in_flight() {
            return true;
        }
        let Some(at) = state.hung.iter().position(|hung| hung.ticket == request.ticket()) else {
            // The device below panicked.
            request.finish(Err(Failure { cause: Cause::Kind(io::ErrorKind::Interrupted), done: 0 }));
            return true;
        };
        if let Some(result) = state.hung[at].result {
            request.return_buffer(state.hung.swap_remove(at).buffer.expect("it is back when there is a result"));
            request.finish(result);
        }
        !request.is_in_flight()
    }

    fn wait(&self, requests: &mut [Request], deadline: Option<Deadline>) {
        self.submit(requests);
        let mut state = self.state.lock();
        while requests.iter_mut().fold(false, |any, request| any | !Self::look(&mut state, request)) {
            match deadline.map(|deadline| deadline.left()) {
                None => self.released.wait(&mut state),
                Some(Duration::ZERO) => return,
                Some(left) => self.released.wait_timeout(&mut state, left),
            }
        }
    }
}

impl<D: Device> Device for FaultyDevice<D> {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if !request.start(self) {
                continue;
            }
            let (op, offset) = (request.op(), request.offset());
            match self.next(op == Op::Write) {
                Some(Fault::Hang) => self.hang(request),
                fault => {
                    let result = self.run(fault, op, offset, request.bytes_mut());
                    request.finish(result);
                }
            }
        }
    }

    fn complete(&self, requests: &mut [Request]) {
        self.wait(requests, None);
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.wait(requests, Some(deadline));
    }

    fn poll(&self, request: &mut Request) {
        Self::look(&mut self.state.lock(), request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
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

    fn file_system(&self) -> Option<u64> {
        self.inner.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
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
    use super::*;
    use crate::swap::MemoryDevice;

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
