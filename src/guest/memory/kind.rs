//! [`Memory`]: a range of memory as its owner describes it, before it is registered.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

/// A range that is to be registered: mapped, readable and writable, in whole pages of 4096 bytes.
///
/// The range may be empty or in use, also by running threads. It stays the caller's: it must stay mapped as it is until it was
/// unregistered. Registering gives it `MADV_NOHUGEPAGE`, and `MADV_DONTFORK` unless told otherwise: a child that inherited it would read
/// zeroes where pages are out, and pages that a child shares cannot leave.
#[derive(Debug)]
pub struct Memory {
    address: usize,
    bytes: usize,
    kind: Kind,
    keep_on_fork: bool,
    guest_address: Option<u64>,
    method: Method,
}

/// What memory it is.
#[derive(Debug)]
pub enum Kind {
    /// Private anonymous memory: `mmap` with `MAP_PRIVATE | MAP_ANONYMOUS`, the heap, an allocator's large blocks.
    Anonymous,
    /// Memory of a `memfd_create` file (or a file of a tmpfs), mapped shared, here and nowhere else.
    Memfd {
        /// A descriptor of ours of the same file; the error number where none was to be had.
        file: Result<OwnedFd, i32>,
        /// Where in the file the range begins.
        offset: u64,
    },
}

/// How pages are taken out: normally what the kernel does best.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// What the kernel and the kind of memory permit: the first that works of the others.
    #[default]
    Probed,
    /// Anonymous memory: pages are moved to a range of ours and back (Linux 6.8).
    Move,
    /// Anonymous memory: writes are held off, then the pages are dropped (5.7). Memfd: writes are held off, then holes are
    /// punched (5.19).
    Protect,
    /// Memfd: pages are unmapped and stay in the file, then holes are punched (5.14).
    Zap,
}

impl Memory {
    /// `bytes` bytes of private anonymous memory at `address`.
    pub fn anonymous(address: *mut u8, bytes: usize) -> Memory {
        Memory {
            address: address as usize,
            bytes,
            kind: Kind::Anonymous,
            keep_on_fork: false,
            guest_address: None,
            method: Method::Probed,
        }
    }

    /// `bytes` bytes at `address`, which are a shared mapping of `file` from `offset` on.
    ///
    /// The file's descriptor is duplicated, and may be closed.
    pub fn memfd(address: *mut u8, bytes: usize, file: impl AsFd, offset: u64) -> Memory {
        let file = file.as_fd().try_clone_to_owned().map_err(|e| e.raw_os_error().unwrap_or(libc::EBADF));
        Memory { kind: Kind::Memfd { file, offset }, ..Memory::anonymous(address, bytes) }
    }

    /// Let children inherit it: for those who serve them, or bring everything in before they fork.
    #[must_use]
    pub fn keep_on_fork(mut self) -> Memory {
        self.keep_on_fork = true;
        self
    }

    /// Where the guest sees it, for those who ask by guest addresses.
    #[must_use]
    pub fn guest_address(mut self, address: u64) -> Memory {
        self.guest_address = Some(address);
        self
    }

    /// Take pages out in this way and no other.
    #[must_use]
    pub fn method(mut self, method: Method) -> Memory {
        self.method = method;
        self
    }

    /// Its addresses. A range that would pass the end of the address space ends there.
    pub fn addresses(&self) -> Range<usize> {
        self.address..self.address.saturating_add(self.bytes)
    }

    /// Its whole pages.
    pub fn pages(&self) -> usize {
        self.bytes / crate::units::PAGE_SIZE
    }

    /// What memory it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Where the guest sees it, if that was said.
    pub fn seen_by_guest_at(&self) -> Option<u64> {
        self.guest_address
    }

    /// Whether children inherit it.
    pub fn kept_on_fork(&self) -> bool {
        self.keep_on_fork
    }

    /// How pages are to be taken out.
    pub fn chosen_method(&self) -> Method {
        self.method
    }
}
