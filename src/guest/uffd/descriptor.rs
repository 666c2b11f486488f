//! [`Descriptor`]: a userfaultfd that was opened and agreed on features.
//!
//! ```text
//!   userfaultfd(2)  --+
//!                     +--> Fresh --- handshake(version, features) ---> Descriptor --- register ---> ranges that fault
//!   /dev/userfaultfd -+            once; a second one fails            (closed: all ranges unregistered)
//! ```
//!
//! A kernel refuses features that it does not know, and says what it knows only in a handshake: so one descriptor is opened to ask
//! and closed again, and a second one is asked for what both sides have.

use super::{Errno, Error, Features, Mode, abi, error::since};
use crate::units::PAGE_SIZE;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a descriptor is to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Only faults that happen in user mode: needs no permission, and a system call that meets a missing page gets EFAULT.
    pub user_mode_only: bool,
    /// Features without which there is no use in it.
    pub features: Features,
    /// Features to have where the kernel has them.
    pub wanted: Features,
    /// Reads of events do not wait.
    pub nonblocking: bool,
    /// How it is come by.
    pub way: Way,
}

/// How a descriptor is come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Way {
    /// By system call, and where that is not permitted by the device.
    #[default]
    Either,
    /// By system call alone.
    SystemCall,
    /// By `/dev/userfaultfd` alone.
    Device,
}

impl Default for Ask {
    fn default() -> Self {
        Ask {
            user_mode_only: true,
            features: Features::empty(),
            wanted: Features::empty(),
            nonblocking: false,
            way: Way::Either,
        }
    }
}

/// A descriptor before its handshake: good for nothing else.
#[derive(Debug)]
pub struct Fresh {
    fd: OwnedFd,
}

/// A descriptor. Its requests allocate nothing and may be made in signal handlers; they may change `errno`.
#[derive(Debug)]
pub struct Descriptor {
    fd: OwnedFd,
    features: Features,
    user_mode_only: bool,
}

// === impl Fresh ===

impl Fresh {
    /// Open one.
    ///
    /// # Errors
    /// When it is not permitted, or there is none in the kernel.
    pub fn open(ask: &Ask) -> Result<Fresh, Error> {
        let nonblocking = if ask.nonblocking { libc::O_NONBLOCK } else { 0 };
        let user_mode = if ask.user_mode_only { abi::USER_MODE_ONLY } else { 0 };
        let flags = libc::O_CLOEXEC | nonblocking | user_mode;
        if ask.way == Way::Device {
            return Fresh::by_device(flags).map_err(|source| Error::Device { source });
        }
        // SAFETY: the call takes flags and returns a descriptor; it touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd >= 0 {
            // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
            return Ok(Fresh { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } });
        }
        match Errno::last() {
            Errno::NO_SYSTEM_CALL => Err(Error::NoSystemCall),
            Errno::NOT_PERMITTED if ask.user_mode_only => Err(Error::Filtered),
            Errno::NOT_PERMITTED if ask.way == Way::Either => {
                Fresh::by_device(flags).map_err(|device| Error::NotPermitted { device })
            }
            Errno::NOT_PERMITTED => Err(Error::NotPermitted { device: io::Error::other("not tried") }),
            errno @ Errno(libc::EMFILE | libc::ENFILE) => Err(Error::TooManyFiles { source: errno.into() }),
            errno => Err(Error::Failed { what: "Opening a userfaultfd descriptor", errno }),
        }
    }

    fn by_device(flags: libc::c_int) -> io::Result<Fresh> {
        // SAFETY: the path is a C string, and the call reads nothing else.
        let device = unsafe { libc::open(c"/dev/userfaultfd".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if device < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        let device = unsafe { OwnedFd::from_raw_fd(device) };
        // SAFETY: this request takes flags and returns a descriptor; it touches no memory.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), abi::DEVICE_NEW as _, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        Ok(Fresh { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Agree on a version (0xAA is the only one) and features; returns all that the kernel has.
    ///
    /// # Errors
    /// EINVAL for another version, unknown features or a second handshake; EPERM for fork events without CAP_SYS_PTRACE.
    pub fn handshake(&self, version: u64, features: Features) -> Result<Features, Errno> {
        let mut handshake = abi::Handshake { api: version, features: features.bits(), ioctls: 0 };
        // SAFETY: the request reads and writes one structure of this layout.
        unsafe { request(self.fd.as_fd(), abi::HANDSHAKE, &mut handshake)? };
        Ok(Features::from_bits_retain(handshake.features))
    }
}

// === impl Descriptor ===

impl Descriptor {
    /// Open a descriptor and agree on features.
    ///
    /// # Errors
    /// [`NotPermitted`](Error::NotPermitted) names the ways out; [`Missing`](Error::Missing) what the kernel lacks.
    pub fn open(ask: Ask) -> Result<Descriptor, Error> {
        let found = Descriptor::found()?;
        let missing = ask.features - found;
        if !missing.is_empty() {
            return Err(Error::Missing { missing, since: since(missing) });
        }
        let features = ask.features | (ask.wanted & found);
        let fresh = Fresh::open(&ask)?;
        match fresh.handshake(abi::API, features) {
            Ok(_) => Ok(Descriptor { fd: fresh.fd, features, user_mode_only: ask.user_mode_only }),
            Err(Errno::NOT_PERMITTED) if features.contains(Features::EVENT_FORK) => Err(Error::ForkEvents),
            Err(errno) => Err(Error::Failed { what: "The handshake with userfaultfd", errno }),
        }
    }

    /// The features the kernel has, whatever this process may use.
    ///
    /// # Errors
    /// When not even a descriptor for user mode can be had.
    pub fn found() -> Result<Features, Error> {
        let ask = Ask { user_mode_only: true, ..Ask::default() };
        let fresh = match Fresh::open(&ask) {
            // Kernels before 5.11 do not know the flag.
            Err(Error::Failed { errno: Errno::INVALID, .. }) => Fresh::open(&Ask { user_mode_only: false, ..ask })?,
            // One without the system call's permission may still have the device.
            Err(Error::Filtered) => Fresh::open(&Ask { way: Way::Device, ..ask }).map_err(|_| Error::Filtered)?,
            other => other?,
        };
        fresh
            .handshake(abi::API, Features::empty())
            .map_err(|errno| Error::Failed { what: "The handshake with userfaultfd", errno })
    }

    /// The descriptor of a child, as a fork event gave it: it has the parent's features, and serves the child's memory.
    pub(super) fn of_child(fd: OwnedFd, parent: &Descriptor) -> Descriptor {
        Descriptor { fd, features: parent.features, user_mode_only: parent.user_mode_only }
    }

    /// One that another process has opened and sent: what it agreed on with the kernel is not known here.
    pub(crate) fn received(fd: OwnedFd) -> Descriptor {
        Descriptor { fd, features: Features::empty(), user_mode_only: false }
    }

    /// The same at another number, which `to` has found for it.
    pub(crate) fn moved(self, to: impl FnOnce(OwnedFd) -> OwnedFd) -> Descriptor {
        Descriptor { fd: to(self.fd), ..self }
    }

    /// Whether the process whose memory it is about is there. Nobody tells when that has ended, but requests about its memory fail then.
    pub(crate) fn lives(&self) -> bool {
        // The lowest page that may be mapped anywhere: nobody registers that, and whoever lives says so.
        let nowhere = 0x1_0000;
        self.zeropage(nowhere..nowhere + PAGE_SIZE, Mode::empty()).stopped != Some(Errno::NO_PROCESS)
    }

    /// The features that are on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether faults that happen in the kernel are left out.
    pub fn user_mode_only(&self) -> bool {
        self.user_mode_only
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> OwnedFd {
        descriptor.fd
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// One `ioctl` with one structure; EINTR is tried again.
///
/// # Safety
/// `number` must be a request whose structure is `T`, and what the structure says must be permitted to happen.
pub(super) unsafe fn request<T>(fd: BorrowedFd<'_>, number: u64, structure: &mut T) -> Result<(), Errno> {
    loop {
        // SAFETY: the caller says that `T` is the request's structure, and it is borrowed for the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), number as _, &raw mut *structure) } >= 0 {
            return Ok(());
        }
        let errno = Errno::last();
        if errno.0 != libc::EINTR {
            return Err(errno);
        }
    }
}
