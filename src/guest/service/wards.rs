//! [`Ward`]: a child of fork whose memory is served from this process, and what is left of it if this process is killed.
//!
//! ```text
//!   this process                 a socket, read by nobody while this process lives           guardian: reads it then
//!     descriptor 9  --+          +-----------------------------+
//!     descriptor 11 --+--sent--> | 9 and 11 | 12 | 14          |
//!     descriptor 12 --+          +-----------------------------+
//!     descriptor 14 --+            both ends are open in the guardian and in each child as well
//! ```
//!
//! When the last reference to a child's descriptor goes, the kernel forgets that its memory was registered, and what is out of it reads as zeroes.
//! A descriptor on its way through a socket is a reference, for as long as anybody has the socket open.
//!
//! 1. It is sent before anything else is done with the event that brought it, and released when the child has ended, or misses nothing.
//! 2. What is on its way is packed anew by sending all that is still wanted, and only then throwing away what was sent before.
//! 3. Sending calls no allocator, and waits for nobody but another sender.

use super::canary;
use super::last_words::LastWords;
use crate::guest::uffd::{Descriptor, Errno};
use crate::sync::{Rank, process_mutex};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Wards at once, of all VMs.
pub(super) const MOST: usize = if cfg!(loom) { 4 } else { 1024 };

/// Descriptors in a packet at most: the kernel takes 253.
const IN_A_PACKET: usize = 250;

/// From here on packets are packed anew: far below what a socket takes.
const MANY_PACKETS: usize = 64;

/// A child's descriptor, kept for it until this is dropped, also when this process is killed.
#[derive(Debug)]
pub(crate) struct Ward(Descriptor);

/// The two ends of the socket: sent into the first, read from the second. Each is open for as long as the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket(pub(super) [i32; 2]);

/// What is on its way.
#[derive(Debug)]
pub(super) struct Wards {
    socket: Option<Socket>,
    wards: [i32; MOST],
    count: usize,
    packets: usize,
    /// It was said that one could not be sent.
    told: bool,
}

process_mutex! {
    /// This process's.
    WARDS: Wards = Rank::Leaf, Wards { socket: None, wards: [-1; MOST], count: 0, packets: 0, told: false }
}

/// Have a guardian, unless there is one: `start` makes it, with the socket.
///
/// # Errors
/// What `start` says.
pub(super) fn guarded(start: impl FnOnce() -> io::Result<Socket>) -> io::Result<()> {
    let mut wards = WARDS.lock();
    if wards.socket.is_none() {
        wards.socket = Some(start()?);
    }
    Ok(())
}

// === impl Ward ===

impl Ward {
    /// A child was born, and its descriptor read right now.
    pub(crate) fn new(descriptor: Descriptor) -> Ward {
        WARDS.lock().send(descriptor.as_raw_fd());
        canary::tell(&descriptor);
        Ward(descriptor)
    }

    /// It misses nothing any more: it reads zeroes only where it has them.
    pub(super) fn release(&self) {
        WARDS.lock().release(self.0.as_raw_fd());
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        if !super::fork_mark::in_child() {
            self.release();
        }
    }
}

impl Deref for Ward {
    type Target = Descriptor;

    fn deref(&self) -> &Descriptor {
        &self.0
    }
}

// === impl Wards ===

impl Wards {
    fn send(&mut self, fd: i32) {
        let Some(socket) = self.socket else { return }; // models, and descriptors that tell of no forks
        if self.packets >= MANY_PACKETS {
            self.pack(socket);
        }
        let sent = match self.wards.get_mut(self.count) {
            None => Err(Errno(libc::ENOSPC)),
            Some(place) => socket.send(&[fd], listener()).map(|()| *place = fd),
        };
        match sent {
            Ok(()) => {
                self.count += 1;
                self.packets += 1;
            }
            Err(errno) if !self.told => {
                self.told = true;
                LastWords::new(format_args!(
                    "a child of fork cannot be put under the guardian ({errno}; {} are): if this process is killed, what that child has out \
                     reads as zeroes there. End such children with their parent, or have fewer of them",
                    self.count
                ))
                .say();
            }
            Err(_) => {}
        }
    }

    fn release(&mut self, fd: i32) {
        let (Some(socket), Some(place)) = (self.socket, self.wards[..self.count].iter().position(|ward| *ward == fd))
        else {
            return;
        };
        self.count -= 1;
        self.wards[place] = self.wards[self.count];
        self.pack(socket);
    }

    /// Send what is wanted, then throw away what was sent before. Where it cannot be sent, that stays: nobody misses anything then.
    fn pack(&mut self, socket: Socket) {
        let mut packets = 0;
        for wards in self.wards[..self.count].chunks(IN_A_PACKET) {
            if socket.send(wards, listener()).is_err() {
                self.packets += packets;
                return;
            }
            packets += 1;
        }
        (0..self.packets).for_each(|_| socket.throw_away());
        self.packets = packets;
    }
}

/// Standard error, if there is one.
fn listener() -> Option<i32> {
    // SAFETY: only asks.
    (unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_GETFD) } >= 0).then_some(libc::STDERR_FILENO)
}

// === impl Socket ===

/// A packet's descriptors, as the kernel wants them: `struct cmsghdr`, and what follows it.
#[repr(C, align(8))]
struct Rights {
    bytes: usize,
    level: i32,
    kind: i32,
    fds: [i32; IN_A_PACKET + 2],
}

const _: () = assert!(size_of::<libc::cmsghdr>() == 16 && std::mem::offset_of!(Rights, fds) == 16);

impl Socket {
    /// A new one, that no program keeps over `exec`.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(super) fn new() -> io::Result<Socket> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: room for two.
        match unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } {
            0 => Ok(Socket(ends)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Send a packet of at most [`IN_A_PACKET`], and with it where the guardian is to say what it has to say, if anywhere.
    pub(super) fn send(self, wards: &[i32], spoken: Option<i32>) -> Result<(), Errno> {
        let mut fds = [-1; IN_A_PACKET + 2];
        let mut len = 0;
        for (place, fd) in fds.iter_mut().zip(wards.iter().chain(&spoken)) {
            *place = *fd;
            len += 1;
        }
        let bytes = std::mem::offset_of!(Rights, fds) + len * size_of::<i32>();
        let mut rights = Rights { bytes, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fds };
        let mut count = [wards.len() as u8];
        let mut text = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: 1 };
        let message = message(&mut text, &mut rights, bytes.next_multiple_of(8));
        // SAFETY: the message names what lies on this stack.
        match unsafe { libc::sendmsg(self.0[0], &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) } {
            1 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// The next packet is nobody's any more. Its descriptors do not come here.
    fn throw_away(self) {
        let mut count = 0u8;
        // SAFETY: room for a byte.
        unsafe { libc::recv(self.0[1], (&raw mut count).cast(), 1, libc::MSG_DONTWAIT) };
    }

    /// Take the next packet: each ward's descriptor goes to `ward`, and where the sender spoke to `spoken`. False: there is none.
    pub(super) fn take(self, ward: &mut dyn FnMut(OwnedFd), spoken: &mut dyn FnMut(OwnedFd)) -> bool {
        let mut rights = Rights { bytes: 0, level: 0, kind: 0, fds: [-1; IN_A_PACKET + 2] };
        let mut count = [0u8];
        let mut text = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: 1 };
        let mut message = message(&mut text, &mut rights, size_of::<Rights>());
        // SAFETY: the message names what lies on this stack.
        if unsafe { libc::recvmsg(self.0[1], &mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) } != 1 {
            return false;
        }
        let fds = rights.bytes.saturating_sub(std::mem::offset_of!(Rights, fds)) / size_of::<i32>();
        for (n, fd) in rights.fds.iter().take(fds).enumerate() {
            // SAFETY: the kernel put it into our table for this message, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(*fd) };
            if n < usize::from(count[0]) { ward(fd) } else { spoken(fd) }
        }
        true
    }
}

fn message(text: &mut libc::iovec, rights: &mut Rights, bytes: usize) -> libc::msghdr {
    // SAFETY: all zeroes are good values: nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = text;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *rights).cast();
    message.msg_controllen = bytes as _;
    message
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A pipe's ends: the reading one tells whether anybody has the other.
    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = io::pipe().unwrap();
        (read.into(), write.into())
    }

    fn is_open_somewhere(read: &OwnedFd) -> bool {
        let mut fd = libc::pollfd { fd: read.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor.
        assert!(unsafe { libc::poll(&mut fd, 1, 0) } >= 0);
        fd.revents & libc::POLLHUP == 0
    }

    fn wards() -> Box<Wards> {
        Box::new(Wards { socket: Some(Socket::new().unwrap()), wards: [-1; MOST], count: 0, packets: 0, told: false })
    }

    #[test]
    fn what_is_on_its_way_stays_open_until_it_is_released_and_no_longer() {
        let mut wards = wards();
        let pipes: Vec<_> = (0..400).map(|_| pipe()).collect();
        for (_, write) in &pipes {
            wards.send(write.as_raw_fd());
            assert!(wards.packets <= MANY_PACKETS, "{}", wards.packets);
        }
        let odd: Vec<i32> = pipes.iter().skip(1).step_by(2).map(|(_, write)| write.as_raw_fd()).collect();
        odd.iter().for_each(|fd| wards.release(*fd));
        wards.release(odd[0]); // not there any more
        let reads: Vec<_> = pipes.into_iter().map(|(read, _)| read).collect();
        let open: Vec<bool> = reads.iter().map(is_open_somewhere).collect();
        assert!(open.iter().enumerate().all(|(n, open)| *open == (n % 2 == 0)), "{open:?}");
        // As the guardian has them, once its peer is gone.
        let (mut taken, mut spoken) = (Vec::new(), 0);
        while wards.socket.unwrap().take(&mut |fd| taken.push(fd), &mut |_| spoken += 1) {}
        assert_eq!((taken.len(), spoken), (200, wards.packets));
        assert!(reads.iter().step_by(2).all(is_open_somewhere));
        drop(taken);
        assert!(!reads.iter().any(is_open_somewhere));
    }

    #[test]
    fn more_than_there_is_room_for_are_refused_and_those_before_stay() {
        let mut wards = wards();
        let (read, write) = pipe();
        wards.told = true; // not aloud
        (0..MOST + 3).for_each(|_| wards.send(write.as_raw_fd()));
        assert_eq!(wards.count, MOST);
        drop(write);
        assert!(is_open_somewhere(&read));
    }
}
