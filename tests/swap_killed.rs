//! Processes killed in the middle of writing: the next start finds the lock free, reads nothing but the header, and uses the file.
//!
//! ```text
//!   child:   opens the file, says so, writes back for ever             <-- killed at some moment
//!   parent:  opens the file, and finds it free, empty and as good as new
//! ```

#![cfg(all(target_os = "linux", not(loom), not(miri)))]

#[path = "support/fault_bed.rs"]
mod fault_bed;
#[path = "support/oracle.rs"]
mod oracle;
mod support;

use fault_bed::{MIB, child, has, run_child};
use oracle::{Cost, Oracle};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Random, skip};
use zspool::swap::SWAPFILE_HEADER_BYTES;
use zspool::zswap::Zswap;

const SIZE: u64 = 16 * MIB;

/// Where the file of a child is.
const PATH: &str = "ZSPOOL_KILLED_PATH";

fn instance(path: &Path) -> Zswap {
    let builder = Zswap::builder().pool_limit(MIB).address_space(64 << 20).slots_in_use(1 << 16);
    builder.swapfile(path, SIZE).build().unwrap_or_else(|error| panic!("{error}"))
}

/// A client of it in two threads, which fills it.
fn client(path: &Path, seed: u64) -> Oracle {
    let mut oracle = Oracle::new("killed", instance(path), 2, 1000, seed);
    oracle.fill();
    oracle
}

#[test]
fn child_works_until_it_is_killed() {
    if child().is_none() {
        return;
    }
    let path = std::env::var_os(PATH).unwrap();
    let mut oracle = client(Path::new(&path), 1);
    eprintln!("at work");
    loop {
        oracle.churn(500);
    }
}

/// A child at work on the file, killed after so long.
fn kill_one(path: &Path, after: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_works_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env("ZSPOOL_FAULT_CHILD", "work")
        .env(PATH, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "at work\n");
    std::thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success());
}

fn kills() -> u64 {
    std::env::var("ZSPOOL_KILLS").map_or(12, |n| n.parse().expect("ZSPOOL_KILLS is a number"))
}

#[test]
fn the_file_of_a_killed_process_is_free_and_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let mut random = Random::new(11);
    let mut left = 0;
    for round in 0..kills() {
        kill_one(&path, Duration::from_micros(random.below(60_000)));
        let before = std::fs::metadata(&path).expect("the file of a killed process stays");
        assert!(before.blocks() * 512 > SWAPFILE_HEADER_BYTES, "it had written");
        left += before.blocks() * 512;
        // The next one may be another killed process, or one that goes on; what was left is gone in either case.
        let zswap = instance(&path);
        let (after, stats) = (std::fs::metadata(&path).unwrap(), zswap.stats().area.unwrap());
        assert_eq!(after.ino(), before.ino(), "it is the same file");
        // The header, and what the file system keeps for itself.
        let storage = after.blocks() * 512;
        assert!(storage <= 4 * SWAPFILE_HEADER_BYTES, "{storage} bytes are left");
        assert_eq!(after.len(), SIZE);
        assert_eq!((stats.read_bytes, stats.used_bytes), (0, 0));
        drop(zswap);
        if round % 4 == 0 {
            let mut oracle = client(&path, round);
            oracle.churn(500);
            oracle.verify(Cost::Nothing);
            oracle.finish();
        }
    }
    println!("{} processes killed, which left {} MiB", kills(), left / MIB);
}

/// What is read of a file that a killed process left: its header, and nothing else.
#[test]
fn nothing_but_the_header_of_what_was_left_is_read() {
    const NAME: &str = "nothing_but_the_header_of_what_was_left_is_read";
    if child().is_some() {
        drop(instance(Path::new(&std::env::var_os(PATH).unwrap())));
        return;
    }
    if !has("strace") {
        return skip(NAME, "there is no strace: install it");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (folder.path().join("swap"), folder.path().join("log"));
    kill_one(&path, Duration::from_millis(20));
    let held = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(held > MIB, "{held} bytes were left");
    let reads =
        "trace=read,readv,pread64,preadv,preadv2,mmap,io_uring_setup,io_uring_enter,sendfile,splice,copy_file_range";
    let path_text = path.to_str().unwrap();
    let arguments = ["strace", "-f", "-qq", "-y", "-P", path_text, "-o", log.to_str().unwrap(), "-e", reads];
    let with_path = ["env", &format!("{PATH}={path_text}")];
    print!("{}", run_child(NAME, "start", &[&with_path[..], &arguments[..]].concat()));
    let log = std::fs::read_to_string(&log).unwrap();
    let of_the_file: Vec<_> = log.lines().filter(|line| line.contains(path_text)).collect();
    assert_eq!(of_the_file.len(), 1, "one read of {path_text}: {log}");
    assert!(of_the_file[0].ends_with(", 4096, 0) = 4096"), "the header: {}", of_the_file[0]);
}
