//! A monitor with two small virtual machines whose memcgs are files: look at them and drive them from another shell.
//!
//! ```text
//!   DIR/                    the root: everything
//!   DIR/web   DIR/batch     a memcg per machine: cat memory.stat, echo 2M > memory.zswap.max, ...
//!   DIR/...                 mkdir here makes a memcg
//! ```
//!
//! With a directory it stays there until you unmount it (`umount DIR`, or `fusermount3 -u DIR`), and both machines keep
//! touching their pages; without one it shows what a shell would see, and ends.
//!
//! Run it: `cargo run --release --features fuse --example live_tree -- /mnt/zspool`

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use zspool::cgroupfs;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::Zswap;

/// Pages of a machine that are cold and stored: 16 MiB.
const PAGES: u64 = (16 << 20) / PAGE_SIZE as u64;

/// A page that compresses to a quarter: text, as most memory is.
fn page(number: u64) -> Page {
    let mut page = Page::zeroed();
    for (k, chunk) in page.chunks_exact_mut(16).enumerate() {
        // Multiplication by an odd constant: no two pages share a line.
        let line = format!("{:015x}\n", (number << 8 | (k as u64 / 4)).wrapping_mul(0x9e37_79b9));
        chunk.copy_from_slice(line.as_bytes());
    }
    page
}

/// One machine: its memcg, and where its pages are.
struct Vm {
    memcg: Memcg,
    slots: SlotRange,
}

impl Vm {
    fn new(zswap: &Zswap, name: &str) -> Result<Self, Box<dyn Error>> {
        let vm = Vm { memcg: zswap.root().mkdir(name)?, slots: zswap.reserve(PAGES)? };
        for k in 0..PAGES {
            zswap.store(vm.slots.base() + k, &vm.memcg, NodeId(0), &page(k))?;
        }
        Ok(vm)
    }

    /// Touch the first pages often and the others seldom, until told to end.
    fn run(&self, zswap: &Zswap, end: &AtomicBool) {
        let mut touched = Page::zeroed();
        for turn in 0u64.. {
            if end.load(Relaxed) {
                return;
            }
            let k = if turn.is_multiple_of(64) { turn / 64 % PAGES } else { turn % (PAGES / 16) };
            if let Err(error) = zswap.load(self.slots.base() + k, &mut touched) {
                return eprintln!("{}: page {k}: {error}", self.memcg.path());
            }
            assert_eq!(touched[..], page(k)[..], "page {k} is what it was");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let at = given.clone().unwrap_or_else(|| folder.path().join("tree"));
    if given.is_none() {
        fs::create_dir(&at)?;
    }
    let swapfile = folder.path().join("swap");
    let zswap = Zswap::builder().pool_limit(64 << 20).swapfile(&swapfile, 256 << 20).build()?;
    let machines = [Vm::new(&zswap, "web")?, Vm::new(&zswap, "batch")?];

    // After the machines, so that it goes first.
    let mounted = cgroupfs::mount(zswap.tree(), &at)?;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        for vm in &machines {
            scope.spawn(|| vm.run(&zswap, &end));
        }
        let done = if given.is_some() {
            println!("The memcgs are in {0}; `umount {0}` ends this.", at.display());
            mounted.join().map_err(Into::into)
        } else {
            tour(mounted.path())
        };
        end.store(true, Relaxed);
        done
    })
}

/// What a shell would do.
fn tour(at: &Path) -> Result<(), Box<dyn Error>> {
    let show = |file: &str| -> Result<(), Box<dyn Error>> {
        print!("$ cat {file}\n{}", fs::read_to_string(at.join(file))?);
        Ok(())
    };
    show("web/memory.stat")?;
    println!("$ echo 2M > web/memory.zswap.max");
    fs::write(at.join("web/memory.zswap.max"), "2M\n")?;
    show("web/memory.zswap.max")?;
    println!("$ mkdir web/guest");
    fs::create_dir(at.join("web/guest"))?;
    show("web/guest/memory.zswap.current")?;
    println!("$ rmdir web");
    println!("{}", fs::remove_dir(at.join("web")).expect_err("it has a child"));
    Ok(())
}
