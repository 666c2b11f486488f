//! [`DeviceOptions`]: a device, and how it is to be used.
//!
//! ```text
//!   tier "nvme"  priority 10    device, device, ...    share the load; asked first
//!   tier "disk"  priority -2    device                 asked when those above are full, retired, hung or forbidden
//! ```
//!
//! A tier is a name for one priority: devices of one tier have the same, those of two tiers never.

use crate::swap::Error;
use crate::swap::device::Device;
use crate::swap::device::swapfile::{FileOptions, SWAPFILE_HEADER_BYTES, SwapFile};
use crate::swap::device::syscalls;
use crate::swap::devices::BOOKKEEPING_BYTES;
use std::fs::File;
use std::path::PathBuf;

/// Failed writes in a row after which a device is retired, unless told otherwise: enough to tell a bad spot from a bad disk.
pub const RETIRE_AFTER: u32 = 8;

/// The tier of devices that name none.
pub const DEFAULT_TIER: &str = "swap";

/// A device, and how it is to be used.
///
/// ```
/// use zspool::swap::{DeviceOptions, MemoryDevice, SwapFile};
/// let fast = DeviceOptions::device(MemoryDevice::new(8 << 20, 4096)).tier("ram", 10);
/// let slow = DeviceOptions::swapfile(SwapFile::options().path("/var/tmp/cold").size(1 << 30)).tier("disk", 0);
/// # let _ = (fast, slow);
/// ```
#[derive(Debug)]
#[must_use]
pub struct DeviceOptions {
    backing: Backing,
    name: Option<String>,
    pub(super) tier: String,
    pub(super) priority: i16,
    pub(super) how: Use,
}

/// What the device is.
#[derive(Debug)]
enum Backing {
    /// A file that is opened when the device is added.
    File(FileOptions),
    /// A device that is there.
    Device(Box<dyn Device>),
}

/// How a device is used, as far as it does not concern its place among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// Bytes in use at most.
    pub(super) max_bytes: u64,
    /// Bytes that its file system must have left at all times.
    pub(super) min_free_bytes: u64,
    /// Failed writes in a row after which it is retired; 0: never.
    pub(super) retire_after: u32,
    /// Pages are written as they are.
    pub(super) whole_pages: bool,
    /// Percent in use above which bytes are moved to the next tier, and down to which.
    pub(super) water: Option<(u8, u8)>,
}

// === impl DeviceOptions ===

impl DeviceOptions {
    fn new(backing: Backing) -> Self {
        DeviceOptions {
            backing,
            name: None,
            tier: DEFAULT_TIER.to_owned(),
            priority: 0,
            how: Use {
                max_bytes: u64::MAX,
                min_free_bytes: 0,
                retire_after: RETIRE_AFTER,
                whole_pages: false,
                water: None,
            },
        }
    }

    /// A swapfile, opened when the device is added.
    pub fn swapfile(options: FileOptions) -> Self {
        Self::new(Backing::File(options))
    }

    /// A swapfile of so many bytes at this path.
    pub fn path(path: impl Into<PathBuf>, size: u64) -> Self {
        Self::swapfile(SwapFile::options().path(path).size(size))
    }

    /// Any device.
    pub fn device(device: impl Device + 'static) -> Self {
        Self::new(Backing::Device(Box::new(device)))
    }

    /// Any device, boxed.
    pub fn boxed(device: Box<dyn Device>) -> Self {
        Self::new(Backing::Device(device))
    }

    /// What it is called in tables and errors. Default: the device's own name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Its tier, and the priority of that: higher ones are written to first, devices of one tier in turn. Default
    /// [`DEFAULT_TIER`] with priority 0. A name is 1 to 63 letters, digits, `_`, `-` and `.`.
    pub fn tier(mut self, name: &str, priority: i16) -> Self {
        (self.tier, self.priority) = (name.to_owned(), priority);
        self
    }

    /// Bytes in use at most, where the device has more. Default: all of it.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.how.max_bytes = bytes;
        self
    }

    /// Bytes that are always left free on the file system of a swapfile: nothing is written that would leave less, nor is the file
    /// made. It holds for all devices there. Default 0.
    pub fn min_free_bytes(mut self, bytes: u64) -> Self {
        self.how.min_free_bytes = bytes;
        self
    }

    /// Failed writes in a row after which nothing is written to it any more. Default [`RETIRE_AFTER`]; 0: never.
    pub fn retire_after(mut self, failures: u32) -> Self {
        self.how.retire_after = failures;
        self
    }

    /// Whether pages are written as they are instead of as compressed. Default no.
    pub fn whole_pages(mut self, yes: bool) -> Self {
        self.how.whole_pages = yes;
        self
    }

    /// When more than `high` percent of it are in use, what was written first moves to the next tier until no more than `low`
    /// are. Default: never.
    ///
    /// # Panics
    /// When `low > high` or `high > 100`.
    pub fn water_marks(mut self, low: u8, high: u8) -> Self {
        assert!(low <= high && high <= 100, "water marks are percent of the device: {low} <= {high} <= 100");
        self.how.water = Some((low, high));
        self
    }

    /// Open the device; its name and what it is.
    pub(super) fn open(self) -> Result<(String, Box<dyn Device>), Error> {
        let device = match self.backing {
            Backing::File(options) => {
                check_floor(&options, self.how.min_free_bytes)?;
                Box::new(options.open()?)
            }
            Backing::Device(device) => device,
        };
        Ok((self.name.unwrap_or_else(|| device.name().to_owned()), device))
    }
}

/// The header of a swapfile is written before anything is known of its file system, so it is asked for first.
fn check_floor(options: &FileOptions, floor: u64) -> Result<(), Error> {
    let Some(folder) = options.folder_of_it().filter(|_| floor > 0) else { return Ok(()) };
    // What is wrong with the folder, opening the file says better.
    let Ok(free) = File::open(&folder).and_then(|folder| syscalls::free_bytes(&folder)) else { return Ok(()) };
    match free >= floor.saturating_add(SWAPFILE_HEADER_BYTES + BOOKKEEPING_BYTES) {
        true => Ok(()),
        false => Err(Error::Floor { device: format!("in {}", folder.display()), free, floor }),
    }
}
