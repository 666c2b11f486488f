//! The kernel's half: swap on a zram device of our own making, and a memory cgroup; and that nothing of it stays behind.
//!
//! ```text
//!   bench  ---- stdin of ----> janitor (this program again, in a process group of its own)
//!     |                           reads until the bench is gone: returned, panicked, interrupted or killed;
//!     | zramN, swapon             then: page-cluster as it was, swapoff, reset, hot_remove, rmdir
//! ```

use crate::kernel_zram::KernelZram;
use std::ffi::CString;
use std::fs::{read_to_string, write};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zspool::units::{PAGE_SIZE, Page};

/// First argument of a process that cleans up.
pub(crate) const JANITOR: &str = "--clean-up-after";

const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";

/// Before every other swap device: `SWAP_FLAG_PREFER` and the highest priority.
const PREFERRED: i32 = 0x8000 | 0x7fff;

/// Swap on zram with LZ4, page-cluster 0; dropped, it is gone.
pub(crate) struct KernelSwap {
    // Dropped first, so that the device is no swap any more when it goes.
    swap: SwapOn,
    zram: KernelZram,
    _janitor: Janitor,
}

struct SwapOn(CString);

impl KernelSwap {
    /// Room for `pages`, or why there can be none.
    pub(crate) fn new(pages: usize) -> Result<Self, String> {
        let zram = KernelZram::new(pages as u64 + 1)?;
        let cluster = read_to_string(PAGE_CLUSTER).unwrap_or_else(|_| "3".to_owned());
        let janitor = Janitor::hire(&[zram.number(), cluster.trim()])?;
        zram.store(0, &header(pages)).map_err(|error| format!("{}: {error}", zram.device_path()))?;
        let path = CString::new(zram.device_path()).expect("a path without a zero byte");
        // SAFETY: a path that ends with a zero byte.
        if unsafe { libc::swapon(path.as_ptr(), PREFERRED) } != 0 {
            return Err(format!("swapon {path:?}: {}", std::io::Error::last_os_error()));
        }
        let swap = SwapOn(path);
        write(PAGE_CLUSTER, "0").map_err(|error| format!("{PAGE_CLUSTER}: {error}"))?;
        Ok(KernelSwap { swap, zram, _janitor: janitor })
    }

    /// What is stored: bytes of pages, compressed bytes, bytes of memory.
    pub(crate) fn stored(&self) -> (u64, u64, u64) {
        let stat = self.zram.mm_stat();
        (stat.orig_data_size, stat.compr_data_size, self.zram.memory())
    }

    pub(crate) fn name(&self) -> String {
        self.swap.0.to_string_lossy().into_owned()
    }
}

impl Drop for SwapOn {
    fn drop(&mut self) {
        // SAFETY: a path that ends with a zero byte.
        if unsafe { libc::swapoff(self.0.as_ptr()) } != 0 {
            eprintln!("swapoff {:?}: {}", self.0, std::io::Error::last_os_error());
        }
    }
}

/// The first page of a swap device: format 1, its last page, no bad ones, the magic at the end.
fn header(pages: usize) -> Page {
    let mut page = Page::zeroed();
    page[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    page[1028..1032].copy_from_slice(&(pages as u32).to_ne_bytes());
    page[PAGE_SIZE - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

// === the memory cgroup ===

/// A memory cgroup of our own; dropped, it is gone, its processes having ended.
pub(crate) struct Cgroup {
    path: PathBuf,
    _janitor: Janitor,
}

impl Cgroup {
    /// A group whose processes may have `limit_bytes` in memory, or why there can be none.
    pub(crate) fn new(limit_bytes: u64) -> Result<Self, String> {
        let (root, limit_file) = root()?;
        let path = root.join(format!("zspool-bench-{}", std::process::id()));
        let janitor = Janitor::hire(&["cgroup", path.to_str().expect("a path of text")])?;
        std::fs::create_dir(&path).map_err(|error| format!("mkdir {}: {error}", path.display()))?;
        let group = Cgroup { path, _janitor: janitor };
        group.set(limit_file, limit_bytes)?;
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> Result<(), String> {
        let path = self.path.join(file);
        write(&path, value.to_string()).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path); // else the janitor does, a little later
    }
}

/// Move this process into the group.
pub(crate) fn enter(group: &Path) {
    let procs = group.join("cgroup.procs");
    write(&procs, std::process::id().to_string()).unwrap_or_else(|error| panic!("{}: {error}", procs.display()));
}

/// Where memory cgroups are made, and the file of their limit: of the version that has the memory controller.
fn root() -> Result<(PathBuf, &'static str), String> {
    let mounts = read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let fields = |line: &str| -> Option<[String; 3]> {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some([words.next()?, words.next()?, words.next()?])
    };
    for [path, kind, options] in mounts.lines().filter_map(fields) {
        let path = PathBuf::from(path);
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            return Ok((path, "memory.limit_in_bytes"));
        }
        let controllers = read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        if kind == "cgroup2" && controllers.split_whitespace().any(|name| name == "memory") {
            let _ = write(path.join("cgroup.subtree_control"), "+memory"); // refused where it is set already
            return Ok((path, "memory.max"));
        }
    }
    Err("no memory cgroups are mounted".to_owned())
}

// === who cleans up ===

/// A process that waits for our end and then undoes what is still there.
struct Janitor(Child);

impl Janitor {
    fn hire(what: &[&str]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
        let child = Command::new(program)
            .arg(JANITOR)
            .args(what)
            .stdin(Stdio::piped())
            .process_group(0) // an interrupt from the terminal is not for it
            .spawn()
            .map_err(|error| format!("the process that cleans up cannot be started: {error}"))?;
        Ok(Janitor(child))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        if let Some(mut line) = self.0.stdin.take() {
            let _ = line.write_all(b"done"); // the number of a device that is gone may be another's by now
        }
        let _ = self.0.wait();
    }
}

/// What the janitor's process does.
pub(crate) fn clean_up(what: &[String]) {
    let mut said = vec![];
    let _ = std::io::stdin().read_to_end(&mut said); // until nobody can write any more
    match what {
        [kind, path] if kind == "cgroup" => {
            let deadline = Instant::now() + Duration::from_secs(10);
            while Path::new(path).exists() && Instant::now() < deadline {
                // Whoever is in it was started by the process that is gone.
                for process in read_to_string(format!("{path}/cgroup.procs")).unwrap_or_default().lines() {
                    // SAFETY: sends a signal to a process of the group that we made.
                    process.parse().map(|id: i32| unsafe { libc::kill(id, libc::SIGKILL) }).ok();
                }
                let _ = std::fs::remove_dir(path);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        [number, cluster] => {
            let _ = write(PAGE_CLUSTER, cluster);
            if !said.is_empty() {
                return;
            }
            let path = CString::new(format!("/dev/zram{number}")).expect("digits");
            // SAFETY: a path that ends with a zero byte. Refused where it is no swap any more.
            unsafe { libc::swapoff(path.as_ptr()) };
            let _ = write(format!("/sys/block/zram{number}/reset"), "1");
            if let Err(error) = write("/sys/class/zram-control/hot_remove", number) {
                let _ = writeln!(std::io::stderr(), "zram{number} is still there: {error}");
            }
        }
        _ => panic!("{what:?} is nothing that can be cleaned up"),
    }
}
