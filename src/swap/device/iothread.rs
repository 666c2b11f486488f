//! [`IoThread`]: a thread that writes, so that who waits for it can stop waiting.
//!
//! ```text
//!   who writes   push: buffer --> [todo] --> thread: one at a time --> [done] --> take: buffer back
//!                wait until it is done, or the deadline                  ^
//!                late, in quarantine: poll ------------------------------+
//! ```
//!
//! 1. A write is in `todo`, with the thread, or in `done`, together with its buffer, from `push` until somebody takes it.
//! 2. The thread is started by the first write. It ends when the value is dropped; one that hangs in a system call then is left
//!    behind with what it holds.
//! 3. A forked process has no such thread, and nothing here is touched there.
//!
//! For devices without io_uring: a plain write in the caller cannot be given up on.

use super::queue::OF_THREAD;
use crate::swap::IoBuffer;
use crate::swap::device::{Cause, Failure, Request};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Arc, Condvar, Deadline, Mutex, Rank};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};

/// What the thread does for each write: bytes of the device at an offset.
type Write = dyn Fn(u64, &[u8]) -> Result<(), Failure> + Send + Sync;

/// A thread that writes.
pub(super) struct IoThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whose thread it is.
    process: u32,
}

struct Shared {
    write: Box<Write>,
    state: Mutex<State>,
    /// Something is to be done, or the thread is to end.
    todo: Condvar,
    /// Something was done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    todo: VecDeque<Job>,
    done: Vec<(Job, Result<(), Failure>)>,
    next_ticket: u64,
    /// The thread is in a system call.
    busy: bool,
    stop: bool,
}

struct Job {
    ticket: u64,
    offset: u64,
    len: usize,
    buffer: IoBuffer,
}

impl std::fmt::Debug for IoThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("IoThread").field("todo", &state.todo.len()).field("done", &state.done.len()).finish()
    }
}

// === impl IoThread ===

impl IoThread {
    /// One that will write with `write`.
    pub(super) fn new(write: impl Fn(u64, &[u8]) -> Result<(), Failure> + Send + Sync + 'static) -> Self {
        let state = Mutex::new(Rank::Leaf, State::default());
        let shared = Shared { write: Box::new(write), state, todo: Condvar::new(), done: Condvar::new() };
        let thread = Mutex::new(Rank::Buffers, None);
        IoThread { shared: Arc::new(shared), thread, process: std::process::id() }
    }

    /// Do a write that was started, until the deadline; if it is not done then it stays in flight. `false`: there can be no
    /// thread, and nothing was done.
    pub(super) fn run(&self, request: &mut Request, deadline: Deadline) -> bool {
        if std::process::id() != self.process || self.start().is_err() {
            return false;
        }
        let mut state = self.shared.state.lock();
        state.next_ticket += 1;
        let ticket = state.next_ticket | OF_THREAD;
        request.set_ticket(ticket);
        let (offset, len) = (request.offset(), request.len());
        state.todo.push_back(Job { ticket, offset, len, buffer: request.lend_buffer() });
        self.shared.todo.notify_one();
        while !state.take(request) {
            let left = deadline.left();
            if left.is_zero() {
                break;
            }
            self.shared.done.wait_timeout(&mut state, left);
        }
        true
    }

    /// Finish the request if it is done.
    pub(super) fn poll(&self, request: &mut Request) {
        self.shared.state.lock().take(request);
    }

    /// Start the thread, once.
    fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            *thread = Some(thread::spawn("zspool-write", move || shared.serve())?);
        }
        Ok(())
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            return;
        }
        let hangs = {
            let mut state = self.shared.state.lock();
            state.stop = true;
            // Nobody will ask for these.
            state.todo.clear();
            state.busy
        };
        self.shared.todo.notify_one();
        let thread = self.thread.lock().take();
        if let (Some(thread), false) = (thread, hangs) {
            // A panic was printed.
            let _ = thread.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(job) = state.todo.pop_front() else {
                if state.stop {
                    return;
                }
                self.todo.wait(&mut state);
                continue;
            };
            state.busy = true;
            drop(state);
            let interrupted = Err(Failure { cause: Cause::Kind(ErrorKind::Interrupted), done: 0 });
            let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (self.write)(job.offset, &job.buffer[..job.len])
            }));
            state = self.state.lock();
            state.busy = false;
            state.done.push((job, written.unwrap_or(interrupted)));
            self.done.notify_all();
        }
    }
}

// === impl State ===

impl State {
    /// Finish the request if it is done. Whether it is over.
    fn take(&mut self, request: &mut Request) -> bool {
        if request.is_in_flight()
            && let Some(at) = self.done.iter().position(|(job, _)| job.ticket == request.ticket())
        {
            let (job, result) = self.done.swap_remove(at);
            request.return_buffer(job.buffer);
            request.finish(result);
        }
        !request.is_in_flight()
    }
}
