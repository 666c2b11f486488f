//! [`Source`]: where a reader's events come from: a descriptor of the kernel's, or what a model has in its place.

use super::aside;
use crate::guest::uffd::{Descriptor, Errno, Event};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Events to be read.
pub(crate) trait Source {
    /// Read some. None: there are none now.
    ///
    /// # Errors
    /// What the kernel said.
    fn read_events(&self, events: &mut [Event]) -> Result<usize, Errno>;
    /// Wait until there are some, at most so long.
    ///
    /// # Errors
    /// What the kernel said.
    fn wait(&self, at_most: Option<Duration>) -> Result<(), Errno>;
    /// Have who waits for a page make the access again.
    fn wake(&self, page: Range<usize>);
    /// Have reads wait, or not.
    fn set_nonblocking(&self, yes: bool);
}

impl Source for Descriptor {
    fn read_events(&self, events: &mut [Event]) -> Result<usize, Errno> {
        let read = Descriptor::read_events(self, events)?;
        for event in &mut events[..read] {
            // The kernel has put it at the lowest number.
            if matches!(event, Event::Fork(_))
                && let Event::Fork(child) = std::mem::take(event)
            {
                *event = Event::Fork(child.moved(aside::put));
            }
        }
        Ok(read)
    }

    fn wait(&self, at_most: Option<Duration>) -> Result<(), Errno> {
        let mut fd = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let time = at_most.map(|time| libc::timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: one descriptor, ours, and a time that is ours or none.
        match unsafe { libc::ppoll(&mut fd, 1, time, std::ptr::null()) } {
            // POLLERR is said of a descriptor whose reads wait: the last one with something parked has just let them.
            0.. if fd.revents & libc::POLLNVAL == 0 => Ok(()),
            0.. => Err(Errno(libc::EBADF)),
            _ => match Errno::last() {
                Errno(libc::EINTR) => Ok(()),
                errno => Err(errno),
            },
        }
    }

    fn wake(&self, page: Range<usize>) {
        let _ = Descriptor::wake(self, page); // refused only for what is not a page
    }

    fn set_nonblocking(&self, yes: bool) {
        let fd = self.as_raw_fd();
        // SAFETY: asks for flags.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        let wanted = if yes { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        if flags >= 0 && wanted != flags {
            // SAFETY: sets flags.
            unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) };
        }
    }
}
