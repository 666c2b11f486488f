//! A zram device of the kernel, of our own making: the oracle of packing, and a subject of benches.
//!
//! No other device is touched: `hot_add` gives a number that nobody had, and the device with it is reset and removed when the
//! value is dropped, also by a panic. (A process that is killed leaves its device; `/sys/class/zram-control/hot_remove` takes
//! its number.)
#![allow(dead_code, unreachable_pub)] // each user takes a part of this one

use std::fs::{File, read_to_string, write};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use zspool::units::{PAGE_SIZE, Page};
use zspool::zram::MmStat;

const CONTROL: &str = "/sys/class/zram-control";

/// `_IO(0x12, 119)` of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// Bytes of the kernel's table for each block of a device (handle, flags and size), and of a handle's cell for each object.
/// Counted, not measured: slab caches do not tell them apart from others of their sizes.
const TABLE_BYTES: u64 = 16;
const HANDLE_BYTES: u64 = 8;

/// A device; dropped, it is gone.
pub struct KernelZram {
    number: String,
    device: Option<File>,
    blocks: u64,
}

impl KernelZram {
    /// A device of `blocks` pages compressed by LZ4, or why there can be none.
    pub fn new(blocks: u64) -> Result<Self, String> {
        // SAFETY: reads a number of this process.
        if unsafe { libc::geteuid() } != 0 {
            return Err("making a zram device takes root".to_owned());
        }
        let hot_add = Path::new(CONTROL).join("hot_add");
        if !hot_add.exists() {
            return Err(format!("this kernel has no zram: {} is missing", hot_add.display()));
        }
        let number = read_to_string(&hot_add).map_err(|error| format!("no zram device could be added: {error}"))?;
        let mut zram = KernelZram { number: number.trim().to_owned(), device: None, blocks };
        let setting = |name: &str, error: io::Error| format!("zram{}: {name}: {error}", zram.number);
        zram.set("comp_algorithm", "lz4").map_err(|error| setting("this kernel's zram has no lz4", error))?;
        zram.set("disksize", &(blocks * PAGE_SIZE as u64).to_string()).map_err(|error| setting("disksize", error))?;
        let path = zram.device_path();
        // The node is made by the kernel (devtmpfs) or by a daemon, a little later.
        let deadline = Instant::now() + Duration::from_secs(2);
        let device = loop {
            match File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path) {
                Ok(device) => break device,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("{path}: {error}")),
            }
        };
        zram.device = Some(device);
        Ok(zram)
    }

    /// Its number among zram devices, as text.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// The block device, for `swapon`.
    pub fn device_path(&self) -> String {
        format!("/dev/zram{}", self.number)
    }

    fn path(&self, name: &str) -> String {
        format!("/sys/block/zram{}/{name}", self.number)
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        write(self.path(name), value)
    }

    fn device(&self) -> &File {
        self.device.as_ref().expect("open until dropped")
    }

    /// Write a page, which lies at a multiple of its size.
    pub fn store(&self, block: u64, page: &[u8; PAGE_SIZE]) -> io::Result<()> {
        let written = self.device().write_at(&page[..], block * PAGE_SIZE as u64)?;
        assert_eq!(written, PAGE_SIZE, "a block is written whole or not at all");
        Ok(())
    }

    /// Read a page.
    pub fn load(&self, block: u64, page: &mut Page) -> io::Result<()> {
        self.device().read_exact_at(&mut page[..], block * PAGE_SIZE as u64)
    }

    /// Make a block empty.
    pub fn discard(&self, block: u64) {
        let range = [block * PAGE_SIZE as u64, PAGE_SIZE as u64];
        // SAFETY: the call reads two words, start and length in bytes, which `range` has.
        let result = unsafe { libc::ioctl(self.device().as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        assert_eq!(result, 0, "BLKDISCARD of block {block}: {}", io::Error::last_os_error());
    }

    /// Gather objects.
    pub fn compact(&self) {
        self.set("compact", "1").expect("zram can be compacted");
    }

    /// Set the limit in bytes; 0: none.
    pub fn set_mem_limit(&self, bytes: u64) {
        self.set("mem_limit", &bytes.to_string()).expect("the limit can be set");
    }

    /// The line of `mm_stat`, without its end.
    pub fn mm_stat_line(&self) -> String {
        read_to_string(self.path("mm_stat")).expect("the device is there").trim_end_matches('\n').to_owned()
    }

    /// The same as numbers.
    pub fn mm_stat(&self) -> MmStat {
        let line = self.mm_stat_line();
        let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        let [orig, compr, used, limit, max, same, compacted, huge, since, ..] = numbers[..] else {
            panic!("mm_stat has nine columns, and not {}: a kernel before 5.13?", numbers.len())
        };
        MmStat {
            orig_data_size: orig,
            compr_data_size: compr,
            mem_used_total: used,
            mem_limit: limit,
            mem_used_max: max,
            same_pages: same,
            pages_compacted: compacted,
            huge_pages: huge,
            huge_pages_since: since,
        }
    }

    /// Bytes of memory behind the device: pages of its pool, its table, handles.
    pub fn memory(&self) -> u64 {
        let stat = self.mm_stat();
        let objects = stat.orig_data_size / PAGE_SIZE as u64 - stat.same_pages;
        stat.mem_used_total + self.blocks * TABLE_BYTES + objects * HANDLE_BYTES
    }
}

impl Drop for KernelZram {
    fn drop(&mut self) {
        self.device = None; // a device that somebody has open cannot be reset
        // Others (udev, blkid) may have it open for a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let _ = self.set("reset", "1");
            match write(Path::new(CONTROL).join("hot_remove"), &self.number) {
                Ok(()) => return,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    eprintln!("zram{} could not be removed ({error}): write {0} to {CONTROL}/hot_remove", self.number);
                    return;
                }
            }
        }
    }
}

/// The longest chain of the running kernel's zspages: its configuration says, where it can be read; else the default.
pub fn chain_size() -> usize {
    const DEFAULT: usize = 8;
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let boot = read_to_string(format!("/boot/config-{}", release.trim())).ok();
    let config = boot.or_else(|| {
        let zcat = std::process::Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        zcat.status.success().then(|| String::from_utf8_lossy(&zcat.stdout).into_owned())
    });
    let line = config.and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("CONFIG_ZSMALLOC_CHAIN_SIZE=").map(str::to_owned))
    });
    line.map_or(DEFAULT, |value| value.trim().parse().expect("a number of pages"))
}
