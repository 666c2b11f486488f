//! The guardian: a process that sees to children of fork when their parent, who serves them, was killed.
//!
//! ```text
//!   parent  --lock on a file in memory-- held until it ends, or becomes another program
//!     |
//!     +-- guardian: waits for that lock, asleep ... has it: the parent is gone
//!           takes the wards' descriptors out of the socket  (none: the parent has seen to all of them)
//!           a fault of a ward --> the page is poisoned: SIGBUS, never zeroes            until no ward lives
//! ```
//!
//! | the parent | its children |
//! |---|---|
//! | ends by `exit` or `_exit` with the engine told, drops the VM | have everything in memory: no ward is left |
//! | is killed, crashes, executes another program | what is in their memory stays; the first touch of any other page of a range that was kept is a SIGBUS |
//! | the same, and the guardian was killed as well | such a touch waits for ever |
//! | the same, and the child had closed all its descriptors | zeroes: nobody is left who holds its memory |
//!
//! What is nowhere and what is out look alike from here: a page that a child has never touched is poisoned as well.
//!
//! 1. It is made before any memory is kept for children, with a system call: no handler of `pthread_atfork` runs, nobody is told of its end, no
//!    `wait` of the program's sees it, and no signal of the program's group reaches it.
//! 2. It takes no lock, calls no allocator and touches nothing but its stack: it is a copy of one thread of many. Large mappings it gives back at
//!    once, and all descriptors but three. Functions of the C library that the preloaded library of `zspool run` has its own of are none of its, but for
//!    those that close and place descriptors: they do there what the C library's do.
//! 3. It ends when its parent is gone and no ward lives.

use super::last_words::LastWords;
use super::wards::{MOST, Socket, guarded};
use crate::guest::Error;
use crate::guest::uffd::{Descriptor, Errno, Event, Fault, MOST_EVENTS, Mode};
use crate::units::PAGE_SIZE;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// How often it is looked whether wards live: nobody tells.
const LOOKS_MILLISECONDS: i32 = 500;

/// Mappings smaller than this it keeps: they cost little.
const SMALL: usize = 128 << 10;

/// No process maps anything below.
const LOWEST: usize = 0x1_0000;

/// Where it has its descriptors, besides those of wards.
const SENDING: i32 = 0;
const TAKING: i32 = 1;
const LOCK: i32 = 2;

/// Have one in this process. Before any memory is kept for children.
///
/// # Errors
/// When the system refuses what it needs.
pub(super) fn start() -> Result<(), Error> {
    guarded(|| {
        let socket = Socket::new()?;
        let lock = lock_file()?;
        take_lock(&lock, libc::F_SETLK)?;
        let parent = std::process::id();
        // SAFETY: all zeroes are good values.
        let mut all: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: all zeroes are good values.
        let mut before: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: the set is ours.
        unsafe { libc::sigfillset(&mut all) };
        // SAFETY: both sets are ours.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
        // SAFETY: a copy of this process that does as invariant 2 says. It sends no signal when it ends.
        let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) };
        let failed = io::Error::last_os_error();
        if pid == 0 {
            guard(socket, &lock, parent);
        }
        // SAFETY: the set is the one that was found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
        if pid < 0 {
            return Err(failed);
        }
        mem::forget(lock); // held until this process ends
        Ok(socket)
    })
    .map_err(|source| Error::Service {
        doing: "start the process that guards children of fork when this one is killed",
        source,
    })
}

fn lock_file() -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero.
    let fd = unsafe { libc::memfd_create(c"zspool-guardian".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The lock is a process's, not inherited by children, and goes when the process ends or executes another program.
fn take_lock(file: &OwnedFd, how: i32) -> io::Result<()> {
    // SAFETY: all zeroes are good values.
    let mut whole: libc::flock = unsafe { mem::zeroed() };
    whole.l_type = libc::F_WRLCK as _;
    whole.l_whence = libc::SEEK_SET as _;
    whole.l_len = 1;
    // SAFETY: the structure that the request wants.
    match unsafe { libc::fcntl(file.as_raw_fd(), how, &whole) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The guardian's life.
fn guard(socket: Socket, lock: &OwnedFd, parent: u32) -> ! {
    // SAFETY: takes nothing: out of the group of the parent's, which may be killed as a whole.
    unsafe { libc::setsid() };
    // SAFETY: the name ends with a zero, and has at most 15 letters.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"zspool-guardian".as_ptr()) };
    let (socket, lock) = settle_in(socket, lock);
    shed();
    while take_lock(&lock, libc::F_SETLKW).is_err_and(|error| error.raw_os_error() == Some(libc::EINTR)) {}
    let mut guarded = Guarded::new();
    guarded.take_all(socket, parent);
    while guarded.count > 0 {
        guarded.serve(socket);
    }
    loop {
        // SAFETY: it ends the process, with nothing of the parent's run.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    }
}

/// Keep three descriptors, at the lowest numbers, and no other: a pipe that the program closes is to be closed.
fn settle_in(socket: Socket, lock: &OwnedFd) -> (Socket, OwnedFd) {
    let wanted = [socket.0[0], socket.0[1], lock.as_raw_fd()];
    // They may lie where they are wanted, in another order.
    let above = wanted.map(|fd| {
        // SAFETY: takes numbers.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }
    });
    for (place, fd) in [SENDING, TAKING, LOCK].into_iter().zip(above) {
        // SAFETY: what is closed by it belongs to the parent's copy of this code, which never runs here.
        unsafe { libc::dup3(fd, place, libc::O_CLOEXEC) };
    }
    close_from(3);
    // SAFETY: it was put there right now.
    (Socket([SENDING, TAKING]), unsafe { OwnedFd::from_raw_fd(LOCK) })
}

fn close_from(first: i32) {
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9.
    for fd in first..1 << 16 {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Give back what is large: it would stay in memory here when the parent writes to it, or gives it back.
fn shed() {
    let mut here = 0u8;
    // SAFETY: takes nothing.
    let errno = unsafe { libc::__errno_location() };
    let keep = [(&raw mut here).addr(), errno.addr()];
    // SAFETY: the path ends with a zero.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return;
    }
    // SAFETY: new, and nobody else's.
    let maps = unsafe { OwnedFd::from_raw_fd(maps) };
    let (mut text, mut line, mut len) = ([0u8; 1024], [0u8; 128], 0);
    loop {
        // SAFETY: as many bytes as there is room for.
        let read = unsafe { libc::read(maps.as_raw_fd(), text.as_mut_ptr().cast(), text.len()) };
        let Ok(read @ 1..) = usize::try_from(read) else { return };
        for byte in text.iter().take(read) {
            if *byte == b'\n' {
                if let Some((start, bytes)) = line.get(..len).and_then(|line| large(line, keep)) {
                    // SAFETY: a mapping of this process in which lies nothing that is used from here on.
                    unsafe { libc::syscall(libc::SYS_munmap, start, bytes) };
                }
                len = 0;
            } else if let Some(place) = line.get_mut(len) {
                *place = *byte;
                len += 1;
            }
        }
    }
}

/// Start and length of the mapping that a line of `/proc/self/maps` is about (or its first bytes are), if it is large, private anonymous memory
/// or anything shared, and none of `keep` lies in it.
fn large(line: &[u8], keep: [usize; 2]) -> Option<(usize, usize)> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let shared = fields.next()?.ends_with('s');
    let anonymous =
        fields.nth(2)? == "0" && fields.next().is_none_or(|name| name == "[heap]" || !name.starts_with('['));
    let used = keep.iter().any(|address| (start..end).contains(address));
    (end.checked_sub(start)? >= SMALL && (shared || anonymous) && !used).then_some((start, end - start))
}

/// Wards whose parent is gone.
struct Guarded {
    wards: [Option<Descriptor>; MOST],
    /// How many places are used, from the first.
    count: usize,
}

impl Guarded {
    fn new() -> Self {
        Guarded { wards: [const { None }; MOST], count: 0 }
    }

    fn push(&mut self, fd: OwnedFd) {
        if let Some(place) = self.wards.get_mut(self.count) {
            *place = Some(Descriptor::received(fd));
            self.count += 1;
        }
    }

    /// Take what is on its way, and say so where somebody listens.
    fn take_all(&mut self, socket: Socket, parent: u32) {
        let mut listener = None;
        while socket.take(&mut |fd| self.push(fd), &mut |fd| listener = Some(fd)) {}
        self.forget_the_dead();
        if self.count == 0 {
            return;
        }
        for ward in self.wards.iter().flatten() {
            wake_all(ward);
            // On its way again: it is not to read zeroes when this process is killed, too.
            let _ = socket.send(&[ward.as_raw_fd()], None); // refused: as it would be without
        }
        if let Some(listener) = listener {
            // SAFETY: takes numbers. The lock is of no use any more.
            unsafe { libc::dup2(listener.as_raw_fd(), libc::STDERR_FILENO) };
            LastWords::new(format_args!(
                "process {parent} is gone, and {} children of its live on that it served pages to: where one touches a page that is not in its \
                 memory it gets a SIGBUS, for what was there is lost",
                self.count
            ))
            .say();
            // Whoever waits for the end of what we say.
            // SAFETY: takes numbers.
            unsafe { libc::dup2(SENDING, libc::STDERR_FILENO) };
        }
    }

    /// Wait for a fault, and a while at most.
    fn serve(&mut self, socket: Socket) {
        let mut fds = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MOST];
        for (fd, ward) in fds.iter_mut().zip(self.wards.iter().flatten()) {
            fd.fd = ward.as_raw_fd();
        }
        // SAFETY: as many as are said.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), self.count as libc::nfds_t, LOOKS_MILLISECONDS) };
        if ready <= 0 {
            return self.forget_the_dead();
        }
        for place in 0..self.count {
            if fds.get(place).is_some_and(|fd| fd.revents != 0) {
                self.read(place, socket);
            }
        }
    }

    /// Read what there is, and see to it.
    fn read(&mut self, place: usize, socket: Socket) {
        let mut events = [const { Event::None }; MOST_EVENTS];
        let Some(Some(ward)) = self.wards.get(place) else { return };
        let read = ward.read_events(&mut events).unwrap_or(0);
        for event in events.iter_mut().take(read) {
            match mem::take(event) {
                Event::Fault(fault) => {
                    if let Some(Some(ward)) = self.wards.get(place) {
                        poison(ward, fault);
                    }
                }
                Event::Fork(child) => {
                    let _ = socket.send(&[child.as_raw_fd()], None); // as above
                    self.push(child.into());
                }
                // It was read, and so its thread goes on.
                _ => {}
            }
        }
    }

    fn forget_the_dead(&mut self) {
        let mut place = 0;
        while place < self.count {
            if self.wards.get(place).and_then(Option::as_ref).is_some_and(Descriptor::lives) {
                place += 1;
            } else {
                self.count -= 1;
                self.wards.swap(place, self.count);
                if let Some(last) = self.wards.get_mut(self.count) {
                    *last = None;
                }
            }
        }
    }
}

/// Wake who waits for pages of which the parent has read, and did not come to serve: their accesses are made again, and told to us.
fn wake_all(ward: &Descriptor) {
    // The kernel takes no range that ends beyond what a process may map, which depends on the machine.
    for end in [1 << 56, 1 << 52, 1 << 48, 1 << 47, 1 << 42, 1 << 39] {
        if ward.wake(LOWEST..end - PAGE_SIZE).is_ok() {
            return;
        }
    }
}

/// The page is never to be had. Where the kernel cannot mark it (before Linux 6.6), its thread waits for ever.
fn poison(ward: &Descriptor, fault: Fault) {
    let page = fault.address & !(PAGE_SIZE - 1);
    let range = page..page + PAGE_SIZE;
    if fault.protected {
        // It is there: its protection had a meaning for who is gone.
        let _ = ward.unprotect(range, Mode::empty()); // refused only where it is not registered any more
        return;
    }
    match ward.poison(range.clone(), Mode::empty()).stopped {
        None | Some(Errno::INVALID) => {}
        // There by now; or its mapping is changing: the access is made again, and with it the fault.
        Some(_) => _ = ward.wake(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_and_used_by_nobody_is_given_back() {
        let line = |text: &str| large(text.as_bytes(), [0x5000_0000, 0x6000_0000]);
        let anonymous = "40000000-40100000 rw-p 00000000 00:00 0 ";
        assert_eq!(line(anonymous), Some((0x4000_0000, 0x10_0000)));
        assert_eq!(line("40000000-40100000 rw-p 00000000 00:00 0     [heap]"), Some((0x4000_0000, 0x10_0000)));
        assert_eq!(
            line("40000000-40100000 rw-s 00000000 00:01 77    /memfd:guest (deleted)"),
            Some((0x4000_0000, 0x10_0000))
        );
        for kept in [
            "40000000-40010000 rw-p 00000000 00:00 0 ",
            "40000000-50100000 rw-p 00000000 00:00 0 ",
            "40000000-60000001 rw-p 00000000 00:00 0 ",
            "40000000-40100000 r-xp 00000000 08:01 77    /usr/lib/libc.so.6",
            "40000000-40100000 rw-p 00000000 00:00 0     [vvar]",
            "40000000",
            "",
        ] {
            assert_eq!(line(kept), None, "{kept}");
        }
    }
}
