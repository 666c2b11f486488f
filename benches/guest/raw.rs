//! userfaultfd with nothing around it: what the floors are made of. The numbers are those of `linux/userfaultfd.h`.

use super::mapping::Mapping;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use zspool::units::PAGE_SIZE;

const USER_MODE_ONLY: i32 = 1;
const API: u64 = 0xaa;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_MOVE: u64 = 1 << 16;
const MISSING: u64 = 1;

const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_MOVE: libc::c_ulong = 0xc028_aa05;

/// A descriptor whose faults arrive as SIGBUS.
pub(crate) struct Raw(OwnedFd);

impl Raw {
    /// Or why not: no userfaultfd, or none with MOVE.
    pub(crate) fn new() -> Result<Self, String> {
        let flags = libc::O_CLOEXEC | USER_MODE_ONLY;
        // SAFETY: a system call that takes a number.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as i32;
        if fd < 0 {
            return Err(format!("no userfaultfd: {}", io::Error::last_os_error()));
        }
        // SAFETY: a descriptor that the kernel just gave us.
        let raw = Raw(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut api = [API, FEATURE_SIGBUS | FEATURE_MOVE, 0];
        raw.call(UFFDIO_API, &mut api).map_err(|error| format!("a userfaultfd without SIGBUS or MOVE: {error}"))?;
        Ok(raw)
    }

    #[inline(always)]
    fn call<const N: usize>(&self, request: libc::c_ulong, words: &mut [u64; N]) -> io::Result<()> {
        // SAFETY: each request below reads and writes as many words as it is given.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Missing pages of the mapping raise SIGBUS from here on.
    pub(crate) fn register(&self, mapping: &Mapping) {
        let len = (mapping.pages() * PAGE_SIZE) as u64;
        let mut words = [mapping.page(0) as u64, len, MISSING, 0];
        self.call(UFFDIO_REGISTER, &mut words).expect("anonymous memory can be registered");
    }

    /// # Safety
    /// `to` lies in a registered mapping of this descriptor; `from` can be read.
    #[inline(always)]
    pub(crate) unsafe fn copy(&self, to: *mut u8, from: *const u8, pages: usize) -> io::Result<()> {
        self.call(UFFDIO_COPY, &mut [to as u64, from as u64, (pages * PAGE_SIZE) as u64, 0, 0])
    }

    /// # Safety
    /// `to` lies in a registered mapping of this descriptor, and nobody needs what is at `from`.
    #[inline(always)]
    pub(crate) unsafe fn mov(&self, to: *mut u8, from: *mut u8, pages: usize) -> io::Result<()> {
        self.call(UFFDIO_MOVE, &mut [to as u64, from as u64, (pages * PAGE_SIZE) as u64, 0, 0])
    }
}

/// A handler of a signal in place of the one before; dropped, that one is back.
pub(crate) struct Handler(i32, libc::sigaction);

impl Handler {
    /// # Safety
    /// `handler` is safe to be called wherever the signal is raised.
    pub(crate) unsafe fn install(
        signal: i32,
        handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
    ) -> Self {
        // SAFETY: numbers, pointers and an array of bits, for which zero is good.
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        // SAFETY: reads one action and writes another.
        let result = unsafe { libc::sigaction(signal, &action, &mut before) };
        assert_eq!(result, 0, "a handler of signal {signal}: {}", io::Error::last_os_error());
        Handler(signal, before)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: the action that was there before.
        unsafe { libc::sigaction(self.0, &self.1, std::ptr::null_mut()) };
    }
}
