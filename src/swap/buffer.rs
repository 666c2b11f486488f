//! [`IoBuffer`]: page-aligned memory for device requests; [`BufferPool`]: a fixed number of them, made once.
//!
//! ```text
//!   take                               request                          lease dropped
//!   pool [b][b][b] --> Lease(b) --take_buffer--> Request(b) --put_buffer--> Lease(b) --> pool
//! ```
//!
//! 1. The pool's list was made with room for all its buffers, so taking one and giving it back never allocates.
//! 2. A buffer is in the list, in a lease, or in a request: `free + lent == count`. One that a panic took along with its
//!    request is made anew.
//! 3. The lock is held for a push or a pop, never across I/O.
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
    /// Those nobody has. Its capacity is `count`.
    free: Mutex<Vec<IoBuffer>>,
    /// A buffer came back.
    returned: Condvar,
    /// How many there are.
    count: usize,
}

impl BufferPool {
    /// `count` buffers of `bytes` bytes each.
    ///
    /// # Panics
    /// When the count is 0: nobody could ever take one.
    pub fn new(count: usize, bytes: usize) -> Self {
        assert!(count > 0, "a pool without buffers");
        let buffers = (0..count).map(|_| IoBuffer::new(bytes)).collect();
        BufferPool { free: Mutex::new(Rank::Buffers, buffers), returned: Condvar::new(), count }
    }

    /// A buffer, waiting for one when all are out. Its bytes are whatever its last user left. No allocation.
    ///
    /// # Locks
    /// [`Rank::Buffers`]. Nobody may wait with a buffer in hand for one who waits here; one buffer of a pool per thread
    /// keeps to that.
    pub fn take(&self) -> Lease<'_> {
        let mut free = self.free.lock();
        loop {
            if let Some(buffer) = free.pop() {
                return Lease { pool: self, len: buffer.len(), buffer: Some(buffer) };
            }
            self.returned.wait(&mut free);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many nobody has at the moment.
    pub fn free(&self) -> usize {
        self.free.lock().len()
    }

    fn give_back(&self, buffer: IoBuffer) {
        let mut free = self.free.lock();
        assert!(free.len() < self.count, "more buffers come back than went out");
        free.push(buffer);
        drop(free);
        self.returned.notify_one();
    }
}

/// A buffer out of a [`BufferPool`]; dropping it gives the buffer back.
#[derive(Debug)]
pub struct Lease<'a> {
    pool: &'a BufferPool,
    /// `None` while a request has it.
    buffer: Option<IoBuffer>,
    len: usize,
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
        // Where a device panicked, the buffer went with its request. Without another, the pool would be empty in the end, and
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
        let first = pool.take().as_ptr();
        assert_eq!(pool.free(), 1);
        let again = pool.take();
        assert_eq!((again.as_ptr(), pool.free()), (first, 0));
    }

    #[test]
    fn whoever_finds_no_buffer_waits_for_one() {
        let pool = BufferPool::new(1, 4096);
        let lease = pool.take();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take().len());
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
                        let mut lease = pool.take();
                        lease.fill(mark);
                        assert!(lease.iter().all(|&b| b == mark));
                    }
                });
            }
        });
        assert_eq!(pool.free(), pool.count());
    }
}
