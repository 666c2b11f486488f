//! [`Event`]: what the kernel tells a descriptor's reader.
//!
//! ```text
//!   message   | kind (1) | reserved (7) | word 0   | word 1    | word 2 |
//!   fault                               | flags    | address   | thread |
//!   fork                                | child's descriptor   |        |
//!   remap                               | from     | to        | length |
//!   remove, unmap                       | start    | end       |        |
//! ```
//!
//! While a remap, remove or fork event is unread, requests that fill pages answer EAGAIN, and the thread that caused the event waits.

use super::{Descriptor, Errno, Features, abi};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One event.
#[derive(Debug, Default)]
pub enum Event {
    /// Nothing: a place of an array that no event was read into.
    #[default]
    None,
    /// A thread waits for a page.
    Fault(Fault),
    /// The process forked, and this serves the child's memory. Closed when dropped: what is missing there reads as zero then.
    Fork(Descriptor),
    /// `mremap` moved a range, with its registration.
    Remap {
        /// Where it was.
        from: usize,
        /// Where it is now.
        to: usize,
        /// Bytes.
        bytes: usize,
    },
    /// `madvise` is about to drop the pages of a range, once this event is read.
    Remove(Range<usize>),
    /// A range was unmapped.
    Unmap(Range<usize>),
    /// A kind of event that is not known here.
    Unknown(u8),
}

/// An access that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address: of the byte with [`EXACT_ADDRESS`](Features::EXACT_ADDRESS), else of its page.
    pub address: usize,
    /// It is a write. A read may be followed by a write that does not fault again.
    pub write: bool,
    /// A write to a page that is there and write-protected.
    pub protected: bool,
    /// The page is in the file, and only not mapped.
    pub minor: bool,
    /// The thread, with [`THREAD_ID`](Features::THREAD_ID).
    pub thread: Option<u32>,
}

/// Events taken by one read at most; a larger array is filled in part.
pub const MOST_EVENTS: usize = 32;

impl Descriptor {
    /// Read events into the first places of `events`, [`MOST_EVENTS`] at most, and say how many. Waits for one unless the descriptor is
    /// nonblocking, which says 0. An event that was there before is dropped.
    ///
    /// # Errors
    /// What `read` said. EINTR is told, so that a reader can be ended by a signal.
    pub fn read_events(&self, events: &mut [Event]) -> Result<usize, Errno> {
        let mut messages = [const { MaybeUninit::<abi::Message>::uninit() }; MOST_EVENTS];
        let most = events.len().min(MOST_EVENTS);
        if most == 0 {
            return Ok(0);
        }
        let bytes = most * size_of::<abi::Message>();
        // SAFETY: the array has room for `bytes`, and the kernel writes whole messages.
        let read = unsafe { libc::read(self.as_raw_fd(), messages.as_mut_ptr().cast(), bytes) };
        if read < 0 {
            return match Errno::last() {
                Errno::AGAIN => Ok(0),
                errno => Err(errno),
            };
        }
        let count = read as usize / size_of::<abi::Message>();
        for (event, message) in events.iter_mut().zip(&messages[..count]) {
            // SAFETY: the kernel wrote the first `count` messages, and every bit pattern is one.
            *event = self.event(unsafe { message.assume_init_ref() });
        }
        Ok(count)
    }

    fn event(&self, message: &abi::Message) -> Event {
        let [first, second, third] = message.words;
        match message.event {
            abi::EVENT_FAULT => Event::Fault(Fault {
                address: second as usize,
                write: first & 1 != 0,
                protected: first & 1 << 1 != 0,
                minor: first & 1 << 2 != 0,
                thread: self.features().contains(Features::THREAD_ID).then_some(third.to_ne_bytes()).map(low_half),
            }),
            abi::EVENT_FORK => {
                let fd = low_half(first.to_ne_bytes()) as i32;
                // SAFETY: the kernel put a new descriptor into our table for this very event, and nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Event::Fork(Descriptor::of_child(fd, self))
            }
            abi::EVENT_REMAP => Event::Remap { from: first as usize, to: second as usize, bytes: third as usize },
            abi::EVENT_REMOVE => Event::Remove(first as usize..second as usize),
            abi::EVENT_UNMAP => Event::Unmap(first as usize..second as usize),
            other => Event::Unknown(other),
        }
    }
}

/// The first four bytes of a word in memory: a field of four bytes that lies at its start.
fn low_half(word: [u8; 8]) -> u32 {
    u32::from_ne_bytes([word[0], word[1], word[2], word[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::uffd::Ask;

    fn message(event: u8, words: [u64; 3]) -> abi::Message {
        abi::Message { event, reserved: [0; 7], words }
    }

    #[test]
    fn messages_are_told_apart() {
        let Ok(descriptor) = Descriptor::open(Ask { wanted: Features::THREAD_ID, ..Ask::default() }) else {
            return; // said aloud by tests/guest_uffd_kernel.rs
        };
        let Event::Fault(fault) = descriptor.event(&message(abi::EVENT_FAULT, [0b011, 0x7000, 77])) else { panic!() };
        assert_eq!(fault, Fault { address: 0x7000, write: true, protected: true, minor: false, thread: Some(77) });
        let Event::Fault(fault) = descriptor.event(&message(abi::EVENT_FAULT, [0b100, 0x8000, 0])) else { panic!() };
        assert!(fault.minor && !fault.write && !fault.protected);
        let Event::Remap { from: 1, to: 2, bytes: 3 } = descriptor.event(&message(abi::EVENT_REMAP, [1, 2, 3])) else {
            panic!()
        };
        let Event::Remove(Range { start: 5, end: 9 }) = descriptor.event(&message(abi::EVENT_REMOVE, [5, 9, 0])) else {
            panic!()
        };
        let Event::Unmap(Range { start: 5, end: 9 }) = descriptor.event(&message(abi::EVENT_UNMAP, [5, 9, 0])) else {
            panic!()
        };
        let Event::Unknown(0x77) = descriptor.event(&message(0x77, [0; 3])) else { panic!() };
    }
}
