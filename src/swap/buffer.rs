//! [`IoBuffer`]: page-aligned memory for device requests; [`BufferPool`]: a fixed number of them, made once.
//!
//! ```text
//!   take                               request                          lease dropped
//!   pool [b][b][b] --> Lease(b) --take_buffer--> Request(b) --put_buffer--> Lease(b) --> pool
//!        ^                                          |
//!        +------- put_late, when it is over --------+ set_aside: the request is late
//! ```
//!
//! 1. The pool's list was made with room for all its buffers, so taking one and giving it back never allocates.
//! 2. A buffer is in the list, in a lease, in a request, or aside: `free + lent + aside == count`. One that a panic took along
//!    with a request that nobody put aside is made anew.
//! 3. Nobody waits for a buffer of a pool of which half is aside: the device does not answer, and more would go that way.
//! 4. More than one buffer at a time, or one over client memory, is held only of the half that
//!    [`take_spare`](BufferPool::take_spare) leaves: so whoever needs one to serve a fault on client memory gets it.
//! 5. The lock is held for a push or a pop, never across I/O.
//!
//! Areas call this, on the load path too.

use crate::sync::{Condvar, Mutex, Rank};
use crate::units::{PAGE_SIZE, Page};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Memory for requests, aligned to 4096 bytes as direct I/O wants it. It is read and written as a slice.
pub struct IoBuffer {
    pages: Box<[Page]>,
}

const _: () = assert!(size_of::<Page>() == PAGE_SIZE && align_of::<Page>() == PAGE_SIZE);

impl IoBuffer {
    /// Zeroed memory of at least `len` bytes, rounded up to whole pages. This allocates.
    pub fn new(len: usize) -> Self {
        // Made in place: a page built on the stack first is more than a model checker's stacks hold.
        let pages = Box::new_zeroed_slice(len.div_ceil(PAGE_SIZE));
        // SAFETY: a `Page` is an array of bytes, for which zeroes are a value.
        IoBuffer { pages: unsafe { pages.assume_init() } }
    }
}

impl Deref for IoBuffer {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: a `Page` is 4096 bytes without padding (asserted above), so the boxed slice is `len` initialised
        // bytes, borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), len) }
    }
}

impl DerefMut for IoBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.pages.len() * PAGE_SIZE;
        // SAFETY: as in `deref`; every byte is a good byte of a `Page`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), len) }
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.len())
    }
}

/// A fixed number of buffers of one size.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    /// A buffer came back, or there is no use in waiting for one.
    changed: Condvar,
    /// How many there are.
    count: usize,
}

#[derive(Debug)]
struct State {
    /// Those nobody has. Its capacity is `count`.
    free: Vec<IoBuffer>,
    /// Buffers of late requests.
    aside: usize,
}

/// Half of a pool's buffers are with requests that the device does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starved;

impl BufferPool {
    /// `count` buffers of `bytes` bytes each.
    ///
    /// # Panics
    /// When the count is 0: nobody could ever take one.
    pub fn new(count: usize, bytes: usize) -> Self {
        assert!(count > 0, "a pool without buffers");
        let free = (0..count).map(|_| IoBuffer::new(bytes)).collect();
        BufferPool { state: Mutex::new(Rank::Buffers, State { free, aside: 0 }), changed: Condvar::new(), count }
    }

    /// A buffer, waiting for one when all are out. Its bytes are whatever its last user left. No allocation.
    ///
    /// # Errors
    /// [`Starved`], at once, and to those who wait.
    ///
    /// # Locks
    /// [`Rank::Buffers`]. Nobody may wait with a buffer in hand for one who waits here; one buffer of a pool per thread
    /// keeps to that.
    pub fn take(&self) -> Result<Lease<'_>, Starved> {
        let mut state = self.state.lock();
        loop {
            if state.aside * 2 >= self.count {
                return Err(Starved);
            }
            if let Some(buffer) = state.free.pop() {
                return Ok(Lease { pool: self, len: buffer.len(), buffer: Some(buffer), aside: false });
            }
            self.changed.wait(&mut state);
        }
    }

    /// A buffer if more than half of them are free: for who holds several, or one over client memory. No allocation.
    ///
    /// # Locks
    /// [`Rank::Buffers`].
    pub fn take_spare(&self) -> Option<Lease<'_>> {
        let mut state = self.state.lock();
        // The last one is for them even where it is the only one.
        if state.free.len() * 2 <= self.count || state.free.len() == 1 {
            return None;
        }
        let buffer = state.free.pop()?;
        Some(Lease { pool: self, len: buffer.len(), buffer: Some(buffer), aside: false })
    }

    /// A lease without a buffer: to fill an array with.
    pub(super) fn no_lease(&self) -> Lease<'_> {
        Lease { pool: self, len: 0, buffer: None, aside: true }
    }

    /// The buffer of a request that was late and is over: the end of [`Lease::set_aside`].
    pub fn put_late(&self, buffer: IoBuffer) {
        self.state.lock().aside -= 1;
        self.give_back(buffer);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many nobody has at the moment.
    pub fn free(&self) -> usize {
        self.state.lock().free.len()
    }

    /// How many are with late requests.
    pub fn aside(&self) -> usize {
        self.state.lock().aside
    }

    fn give_back(&self, buffer: IoBuffer) {
        let mut state = self.state.lock();
        assert!(state.free.len() + state.aside < self.count, "more buffers come back than went out");
        state.free.push(buffer);
        drop(state);
        self.changed.notify_one();
    }
}

/// A buffer out of a [`BufferPool`]; dropping it gives the buffer back.
#[derive(Debug)]
pub struct Lease<'a> {
    pool: &'a BufferPool,
    /// `None` while a request has it.
    buffer: Option<IoBuffer>,
    len: usize,
    /// The request keeps it: nothing to give back.
    aside: bool,
}

impl Lease<'_> {
    /// The buffer, to be moved into a request.
    ///
    /// # Panics
    /// When it was taken before.
    pub fn take_buffer(&mut self) -> IoBuffer {
        self.buffer.take().expect("a request has the buffer")
    }

    /// The buffer out of a request that is over.
    ///
    /// # Panics
    /// When the lease has one.
    pub fn put_buffer(&mut self, buffer: IoBuffer) {
        assert!(self.buffer.replace(buffer).is_none(), "the lease has a buffer already");
    }

    /// Whether the buffer is from this pool.
    pub(super) fn is_from(&self, pool: &BufferPool) -> bool {
        std::ptr::eq(self.pool, pool)
    }

    /// The request that has the buffer is late: the buffer comes back by [`BufferPool::put_late`], if ever.
    ///
    /// # Panics
    /// When no request has it.
    pub fn set_aside(&mut self) {
        assert!(self.buffer.is_none() && !self.aside, "no request has the buffer");
        self.aside = true;
        self.pool.state.lock().aside += 1;
        // All: there may be no use in waiting any more.
        self.pool.changed.notify_all();
    }
}

impl Deref for Lease<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().expect("a request has the buffer")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().expect("a request has the buffer")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.aside {
            return;
        }
        // Where a panic took the buffer along with its request: without another, the pool would be empty in the end, and
        // everybody would wait.
        let buffer = self.buffer.take().unwrap_or_else(|| IoBuffer::new(self.len));
        self.pool.give_back(buffer);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [1, 4095, 4096, 4097, 12 << 10, 256 << 10] {
            let mut buffer = IoBuffer::new(len);
            assert_eq!((buffer.as_ptr() as usize % 4096, buffer.len()), (0, len.next_multiple_of(4096)));
            buffer[len - 1] = 7;
            assert_eq!(buffer.iter().map(|&b| u64::from(b)).sum::<u64>(), 7);
        }
    }

    #[test]
    fn a_dropped_lease_returns_its_buffer_and_the_same_memory_comes_again() {
        let pool = BufferPool::new(1, 4096);
        let first = pool.take().unwrap().as_ptr();
        assert_eq!(pool.free(), 1);
        let again = pool.take().unwrap();
        assert_eq!((again.as_ptr(), pool.free()), (first, 0));
    }

    #[test]
    fn whoever_finds_no_buffer_waits_for_one() {
        let pool = BufferPool::new(1, 4096);
        let lease = pool.take().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take().unwrap().len());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished());
            drop(lease);
            assert_eq!(waiter.join().unwrap(), 4096);
        });
    }

    #[test]
    fn many_threads_share_few_buffers() {
        let pool = BufferPool::new(2, 4096);
        std::thread::scope(|scope| {
            for mark in 0..4u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut lease = pool.take().unwrap();
                        lease.fill(mark);
                        assert!(lease.iter().all(|&b| b == mark));
                    }
                });
            }
        });
        assert_eq!(pool.free(), pool.count());
    }

    #[test]
    fn nobody_waits_where_half_of_the_buffers_are_with_late_requests() {
        let pool = BufferPool::new(3, 4096);
        let mut late: Vec<_> = (0..2).map(|_| pool.take().unwrap()).collect();
        let third = pool.take().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take().map(drop));
            let mut buffers: Vec<_> = late.iter_mut().map(Lease::take_buffer).collect();
            late[0].set_aside();
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished(), "one of three is no half");
            late[1].set_aside();
            assert_eq!(waiter.join().unwrap(), Err(Starved), "who waits is told");
            drop(third);
            late.clear();
            assert_eq!((pool.take().err(), pool.free()), (Some(Starved), 1), "although one is free");
            buffers.drain(..).for_each(|buffer| pool.put_late(buffer));
        });
        assert_eq!((pool.take().map(drop), pool.free()), (Ok(()), 3));
    }

    #[test]
    fn half_of_the_buffers_are_no_spare_ones() {
        let pool = BufferPool::new(5, 4096);
        let spare: Vec<_> = std::iter::from_fn(|| pool.take_spare()).collect();
        assert_eq!((spare.len(), pool.free()), (3, 2));
        assert!(pool.take().is_ok(), "for who holds no other");
        drop(spare);
        assert!(pool.take_spare().is_some());
        assert!(BufferPool::new(1, 4096).take_spare().is_none(), "the only one is no spare one");
    }
}
