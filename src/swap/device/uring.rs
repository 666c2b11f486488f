//! [`Rings`]: requests at depth, and ones that are not waited for longer than allowed, by io_uring.
//!
//! ```text
//!   Rings [ring 0][ring 1][ -- ][ -- ] ...          a ring is made when all that there are were taken
//!            |
//!          one thread at a time:  start all, wait for as many completions, or until the deadline
//!
//!   Ring   submission queue --> kernel --> completion queue
//!          slots [free][taken][done 4096][taken, late] ...   a request's ticket names ring and slot
//! ```
//!
//! 1. A slot is taken from the moment its request is queued until somebody has asked for its result. So a completion finds the
//!    slot of its own request, however late it is.
//! 2. A ring is never dropped while requests of it are in flight, but with the device: then the kernel keeps what it needs, and
//!    [`Request`] never gives the buffer to anybody else.
//! 3. Nothing here allocates: rings can be made in handlers of faults.
//! 4. A forked process has none of this: what it would queue, its parent would find.
//!
//! Where the kernel refuses (old, forbidden by `io_uring_disabled` or a filter of system calls) there are no rings, and
//! [`Rings::refusal`] says why. One thing at a time costs as much as `pread`; this is for several, and for time-outs.

use super::Request;
use crate::sync::Deadline;
use std::fs::File;

#[cfg(all(
    target_os = "linux",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
))]
mod imp {
    use super::*;
    use crate::swap::device::{Cause, Failure, Op};
    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::{TryGuard, TryLock, thread};
    use io_uring::types::{Fd, SubmitArgs, Timespec};
    use io_uring::{IoUring, opcode};
    use std::io::{self, ErrorKind};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    /// Rings at most: more than threads that read and write at once, by default. Each is two pages of memory and a descriptor.
    const MOST_RINGS: usize = 24;

    /// Requests of a ring at most: more than are ever run together.
    const SLOTS: usize = 16;

    /// How long to wait before looking again, where the kernel has stopped taking calls that would wait.
    const LOOK_AGAIN: Duration = Duration::from_millis(1);

    const _: () = assert!(SLOTS.is_power_of_two() && SLOTS <= 256);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Slot {
        Free,
        Taken,
        /// What the kernel returned.
        Done(i32),
    }

    struct Ring {
        uring: IoUring,
        slots: [Slot; SLOTS],
        /// The how manieth to be queued the request in each slot was.
        turns: [u64; SLOTS],
        queued: u64,
        /// The kernel refuses its calls: nothing is queued any more.
        broken: bool,
    }

    #[derive(Debug)]
    pub(in super::super) struct Rings {
        rings: Box<[TryLock<Option<Ring>>]>,
        /// The error number with which the kernel refused one; 0 if it did not. Relaxed: who has not seen it asks once more.
        refused: AtomicU32,
        /// All there will be are made at once.
        at_once: bool,
        /// Whose rings they are.
        process: u32,
    }

    impl std::fmt::Debug for Ring {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Ring").field("slots", &self.slots).field("broken", &self.broken).finish_non_exhaustive()
        }
    }

    // === impl Rings ===

    impl Rings {
        /// None yet. `at_once`: so many, made when they are [begun](Self::begin) with; else as many as are used at a time, each when there is
        /// none that nobody uses.
        pub(in super::super) fn new(at_once: Option<usize>) -> Self {
            let most = at_once.map_or(MOST_RINGS, |rings| rings.clamp(1, MOST_RINGS));
            Rings {
                rings: (0..most).map(|_| TryLock::new(None)).collect(),
                refused: AtomicU32::new(0),
                at_once: at_once.is_some(),
                process: std::process::id(),
            }
        }

        /// Make the first one, to see whether the kernel allows it, or all.
        pub(in super::super) fn begin(&self) {
            let at_once = if self.at_once { self.rings.len() } else { 1 };
            self.rings[..at_once].iter().enumerate().all(|(at, ring)| self.make(at, &mut ring.lock()));
        }

        /// Whether there is one now.
        fn make(&self, at: usize, ring: &mut Option<Ring>) -> bool {
            match Ring::new() {
                Ok(made) => *ring = Some(made),
                // For want of descriptors or memory it may work another time; but not the first.
                Err(error) if at == 0 => {
                    self.refused.store(error.raw_os_error().unwrap_or(libc::ENOSYS) as u32, Ordering::Relaxed);
                }
                Err(_) => {}
            }
            ring.is_some()
        }

        /// What the kernel said to it, if it refused.
        pub(in super::super) fn refusal(&self) -> Option<io::Error> {
            match self.refused.load(Ordering::Relaxed) {
                0 => None,
                errno => Some(io::Error::from_raw_os_error(errno as i32)),
            }
        }

        /// Do the requests that `start` starts, on the file from byte `base`, until the deadline. `false`: there is no ring to be
        /// had, and nothing was started. What the kernel does not do in one piece is left to `plain`, which waits.
        ///
        /// Requests in flight from before are waited for too.
        pub(in super::super) fn run(
            &self,
            (file, base): (&File, u64),
            requests: &mut [Request],
            deadline: Option<Deadline>,
            mut start: impl FnMut(&mut Request) -> bool,
            plain: impl Fn(&mut Request) -> Result<(), Failure>,
        ) -> bool {
            let Some((at, mut ring)) = self.check_out() else { return false };
            let ring = ring.as_mut().expect("what is checked out is there");
            let mut queued = 0;
            let over = || deadline.is_some_and(|deadline| deadline.passed());
            loop {
                // Not when the time is over: nobody would hand it over.
                while queued < requests.len() && !ring.broken && !over() && ring.slots.contains(&Slot::Free) {
                    let request = &mut requests[queued];
                    if start(request) {
                        ring.queue(at, file, base, request);
                    }
                    queued += 1;
                }
                ring.reap();
                let mine = |request: &&mut Request| request.is_in_flight() && ring_of(request) == at;
                for request in requests[..queued].iter_mut().filter(mine) {
                    if let Some(returned) = ring.result(request) {
                        finish(request, returned, &plain);
                    }
                }
                let waiting = requests[..queued].iter_mut().filter(mine).count();
                if waiting == 0 && (queued == requests.len() || ring.broken) {
                    break;
                }
                if over() {
                    ring.hand_over();
                    break;
                }
                // What the kernel has not taken over then is done plainly.
                ring.broken |= ring.enter(waiting, deadline).is_err();
            }
            // What there was no slot, or no ring any more, to start.
            for request in &mut requests[queued..] {
                if start(request) {
                    let late = Err(Failure { cause: Cause::Kind(ErrorKind::TimedOut), done: 0 });
                    let result = if over() { late } else { plain(request) };
                    request.finish(result);
                }
            }
            true
        }

        /// Finish the request if the kernel is through with it; not while somebody uses its ring.
        pub(in super::super) fn poll(&self, request: &mut Request) {
            if std::process::id() != self.process {
                return;
            }
            let Some(mut guard) = self.rings.get(ring_of(request)).and_then(TryLock::try_lock) else { return };
            let Some(ring) = guard.as_mut() else { return };
            ring.hand_over();
            ring.reap();
            if let Some(returned) = ring.result(request) {
                // Nobody waits for what it did, so a part is as good as nothing.
                let part = |_: &mut Request| Err(Failure { cause: Cause::Kind(ErrorKind::Interrupted), done: 0 });
                finish(request, returned, part);
            }
        }

        /// A ring that nobody uses, made if all are used.
        fn check_out(&self) -> Option<(usize, TryGuard<'_, Option<Ring>>)> {
            if self.refusal().is_some() || std::process::id() != self.process {
                return None;
            }
            for (at, ring) in self.rings.iter().enumerate() {
                let Some(mut ring) = ring.try_lock() else { continue };
                if ring.is_none() && !self.at_once && !self.make(at, &mut ring) {
                    return None;
                }
                if ring.as_ref().is_some_and(|ring| !ring.broken && ring.slots.contains(&Slot::Free)) {
                    return Some((at, ring));
                }
            }
            None
        }
    }

    impl Drop for Rings {
        fn drop(&mut self) {
            if std::process::id() != self.process {
                // In a fork their memory is not there, and unmapping it would hit what is there now.
                self.rings.iter().for_each(|ring| std::mem::forget(ring.lock().take()));
            }
        }
    }

    fn ring_of(request: &Request) -> usize {
        (request.ticket() / SLOTS as u64) as usize
    }

    fn finish(request: &mut Request, returned: i32, plain: impl Fn(&mut Request) -> Result<(), Failure>) {
        let result = match returned {
            done if done >= 0 && done as usize == request.len() => Ok(()),
            // A part of it, or what plain calls find a way around.
            0.. => plain(request),
            error if [libc::EAGAIN, libc::EINTR, libc::EINVAL, libc::EOPNOTSUPP, libc::ECANCELED].contains(&-error) => {
                plain(request)
            }
            error => Err(Failure { cause: Cause::Os(-error), done: 0 }),
        };
        request.finish(result);
    }

    // === impl Ring ===

    impl Ring {
        fn new() -> io::Result<Self> {
            let uring = IoUring::builder().dontfork().build(SLOTS as u32)?;
            // Waits that end, and completions that are never thrown away: Linux 5.11.
            if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
                return Err(io::Error::from_raw_os_error(libc::ENOSYS));
            }
            Ok(Ring { uring, slots: [Slot::Free; SLOTS], turns: [0; SLOTS], queued: 0, broken: false })
        }

        /// Queue a request that was started. There is a free slot.
        fn queue(&mut self, at: usize, file: &File, base: u64, request: &mut Request) {
            let slot = self.slots.iter().position(|slot| *slot == Slot::Free).expect("the caller looked");
            request.set_ticket((at * SLOTS + slot) as u64);
            let (fd, offset, op) = (Fd(file.as_raw_fd()), base + request.offset(), request.op());
            let bytes = request.bytes_mut();
            let (start, len) = (bytes.as_mut_ptr(), bytes.len() as u32);
            let entry = match op {
                Op::Read => opcode::Read::new(fd, start, len).offset(offset).build(),
                Op::Write => opcode::Write::new(fd, start, len).offset(offset).build(),
            };
            // SAFETY: the file is open for the life of the device, which has this ring. The memory is the request's, which is
            // in flight: nobody else reaches it, and if the request is dropped it is never freed. It does not move with
            // the request.
            let pushed = unsafe { self.uring.submission().push(&entry.user_data(slot as u64)) };
            pushed.expect("the queue has as many entries as there are slots, and what is in it has one");
            self.slots[slot] = Slot::Taken;
            self.turns[slot] = self.queued;
            self.queued += 1;
        }

        /// Hand over what is queued still, without waiting: where the time was over before the kernel would take it.
        fn hand_over(&mut self) {
            if !self.broken && !self.uring.submission().is_empty() {
                let _ = self.uring.submitter().submit(); // or another time
            }
        }

        /// Note what the kernel has done.
        fn reap(&mut self) {
            for completion in self.uring.completion() {
                self.slots[completion.user_data() as usize] = Slot::Done(completion.result());
            }
        }

        /// What the kernel returned for a request of this ring, if it is through with it or will never have it; then its slot is free.
        fn result(&mut self, request: &Request) -> Option<i32> {
            let slot = request.ticket() as usize % SLOTS;
            let returned = match self.slots[slot] {
                Slot::Done(returned) => returned,
                // It takes them in the order in which they were queued.
                Slot::Taken if self.broken => {
                    let taken = self.queued - self.uring.submission().len() as u64;
                    (self.turns[slot] >= taken).then_some(-libc::ECANCELED)?
                }
                _ => return None,
            };
            self.slots[slot] = Slot::Free;
            Some(returned)
        }

        /// Hand over what is queued, and wait for so many completions or the deadline.
        fn enter(&mut self, completions: usize, deadline: Option<Deadline>) -> io::Result<()> {
            if self.broken {
                thread::sleep(LOOK_AGAIN);
                return Ok(());
            }
            let submitter = self.uring.submitter();
            let entered = match deadline {
                None => submitter.submit_and_wait(completions),
                Some(deadline) => {
                    let left = deadline.left();
                    let left = Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos());
                    submitter.submit_with_args(completions, &SubmitArgs::new().timespec(&left))
                }
            };
            match entered {
                Ok(_) => Ok(()),
                // The caller looks at what there is, and at the time.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
                    thread::sleep(LOOK_AGAIN);
                    Ok(())
                }
                Err(e) => Err(e),
            }
        }
    }
}

#[cfg(not(all(
    target_os = "linux",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
)))]
mod imp {
    use super::*;
    use crate::swap::device::Failure;
    use std::io;

    #[derive(Debug)]
    pub(in super::super) struct Rings;

    impl Rings {
        pub(in super::super) fn new(_at_once: Option<usize>) -> Self {
            Rings
        }

        pub(in super::super) fn begin(&self) {}

        pub(in super::super) fn refusal(&self) -> Option<io::Error> {
            Some(io::ErrorKind::Unsupported.into())
        }

        pub(in super::super) fn run(
            &self,
            _file: (&File, u64),
            _requests: &mut [Request],
            _deadline: Option<Deadline>,
            _start: impl FnMut(&mut Request) -> bool,
            _plain: impl Fn(&mut Request) -> Result<(), Failure>,
        ) -> bool {
            false
        }

        pub(in super::super) fn poll(&self, _request: &mut Request) {}
    }
}

pub(super) use imp::Rings;
