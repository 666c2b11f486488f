//! The kernel's interface in numbers: the layout of what goes through `ioctl` and `read`, and nothing else.
//!
//! ```text
//!   ioctl number   31 30 | 29 ......... 16 | 15 ...... 8 | 7 ...... 0
//!                  way   | bytes of struct | kind (0xAA) | number
//! ```
//!
//! Numbers are those of `include/uapi/linux/userfaultfd.h` and `fs.h`; structures end with what the kernel writes. A kernel that lacks
//! a request answers EINVAL to it.

use std::mem::size_of;

/// `UFFD_API`: the only version there is.
pub(super) const API: u64 = 0xAA;

/// What `userfaultfd(2)` and the device take beside `O_CLOEXEC` and `O_NONBLOCK`.
pub(super) const USER_MODE_ONLY: libc::c_int = 1;

const WRITE: u64 = 1;
const READ: u64 = 2;

const fn request(way: u64, kind: u64, number: u64, bytes: usize) -> u64 {
    way << 30 | (bytes as u64) << 16 | kind << 8 | number
}

const fn both<T>(number: u64) -> u64 {
    request(READ | WRITE, 0xAA, number, size_of::<T>())
}

// The device's request has no structure; UNREGISTER and WAKE are marked as reads, though the kernel reads them.
pub(super) const DEVICE_NEW: u64 = request(0, 0xAA, 0x00, 0);
pub(super) const HANDSHAKE: u64 = both::<Handshake>(0x3F);
pub(super) const REGISTER: u64 = both::<Register>(0x00);
pub(super) const UNREGISTER: u64 = request(READ, 0xAA, 0x01, size_of::<Span>());
pub(super) const WAKE: u64 = request(READ, 0xAA, 0x02, size_of::<Span>());
pub(super) const COPY: u64 = both::<Between>(0x03);
pub(super) const ZEROPAGE: u64 = both::<Over>(0x04);
pub(super) const MOVE: u64 = both::<Between>(0x05);
pub(super) const WRITEPROTECT: u64 = both::<Protect>(0x06);
pub(super) const CONTINUE: u64 = both::<Over>(0x07);
pub(super) const POISON: u64 = both::<Over>(0x08);
pub(super) const SCAN: u64 = request(READ | WRITE, b'f' as u64, 16, size_of::<Scan>());

// As in the header, on every machine with 64-bit addresses.
const _: () = assert!(HANDSHAKE == 0xC018_AA3F && REGISTER == 0xC020_AA00 && UNREGISTER == 0x8010_AA01);
const _: () = assert!(WAKE == 0x8010_AA02 && COPY == 0xC028_AA03 && ZEROPAGE == 0xC020_AA04 && MOVE == 0xC028_AA05);
const _: () = assert!(WRITEPROTECT == 0xC018_AA06 && CONTINUE == 0xC020_AA07 && POISON == 0xC020_AA08);
const _: () = assert!(SCAN == 0xC060_6610);

// Modes of the requests.
pub(super) const DONT_WAKE: u64 = 1; // COPY, ZEROPAGE, MOVE, CONTINUE, POISON
pub(super) const COPY_PROTECTED: u64 = 1 << 1;
pub(super) const MOVE_OVER_HOLES: u64 = 1 << 1;
pub(super) const CONTINUE_PROTECTED: u64 = 1 << 1;
pub(super) const PROTECT: u64 = 1;
pub(super) const PROTECT_DONT_WAKE: u64 = 1 << 1;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Handshake {
    pub(super) api: u64,
    /// In: wanted. Out: all the kernel has.
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Register {
    pub(super) span: Span,
    pub(super) mode: u64,
    /// Out: which requests the range takes, a bit for each number.
    pub(super) ioctls: u64,
}

/// `struct uffdio_copy` and `struct uffdio_move`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Between {
    pub(super) to: u64,
    pub(super) from: u64,
    pub(super) bytes: u64,
    pub(super) mode: u64,
    /// Out: bytes done, or an error number below zero. Older kernels leave it alone on some errors.
    pub(super) done: i64,
}

/// `struct uffdio_zeropage`, `uffdio_continue` and `uffdio_poison`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Over {
    pub(super) span: Span,
    pub(super) mode: u64,
    /// Out: as in [`Between`].
    pub(super) done: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Protect {
    pub(super) span: Span,
    pub(super) mode: u64,
}

/// `struct uffd_msg`: one event, packed, whose last three words depend on its kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) event: u8,
    pub(super) reserved: [u8; 7],
    pub(super) words: [u64; 3],
}

const _: () = assert!(size_of::<Message>() == 32);

pub(super) const EVENT_FAULT: u8 = 0x12;
pub(super) const EVENT_FORK: u8 = 0x13;
pub(super) const EVENT_REMAP: u8 = 0x14;
pub(super) const EVENT_REMOVE: u8 = 0x15;
pub(super) const EVENT_UNMAP: u8 = 0x16;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Scan {
    pub(super) size: u64,
    pub(super) flags: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Out: where the walk ended.
    pub(super) walk_end: u64,
    /// A pointer to an array of [`ScanRun`], and its length in runs.
    pub(super) runs: u64,
    pub(super) runs_len: u64,
    pub(super) most_pages: u64,
    /// Categories whose sense is turned over before the masks are applied.
    pub(super) inverted: u64,
    /// All of these.
    pub(super) all: u64,
    /// At least one of these, unless 0.
    pub(super) any: u64,
    /// What is told of each run; runs with equal ones are joined.
    pub(super) told: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ScanRun {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) categories: u64,
}

pub(super) const SCAN_PROTECT: u64 = 1;
pub(super) const SCAN_NEEDS_ASYNC: u64 = 1 << 1;
