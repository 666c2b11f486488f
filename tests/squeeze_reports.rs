//! Where reports go: files, pipes, standard output; none is lost in silence, and none takes the place of a source.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::compressible;
use tempfile::TempDir;

fn folder_with_image(pages: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..pages).map(|k| compressible(k, 1200)));
    (folder, image)
}

fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "{}", std::io::Error::last_os_error());
    path
}

/// A reader that has opened a pipe and does not read.
fn opened(pipe: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(pipe).unwrap()
}

/// Until it has its own way with SIGTERM: before, that would end it at once.
fn wait_for_handlers(running: &mut Running) {
    let status = format!("/proc/{}/status", running.pid());
    running.wait_until(|| {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
    });
}

#[test]
fn a_pipe_gets_the_whole_report_and_a_file_no_more_than_that() {
    let (folder, image) = folder_with_image(200);
    let pipe = pipe(folder.path());
    let image = image.to_str().unwrap();
    let running = Running::start(&["--image", image, "--json", pipe.to_str().unwrap()]);
    // Ends where the last writer closes it.
    let read = fs::read_to_string(&pipe).unwrap();
    running.finish().assert_code(0);
    let from_pipe: serde_json::Value = serde_json::from_str(&read).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    assert_eq!(sum(&from_pipe, "stored_pages"), 200);

    let file = folder.path().join("report");
    fs::write(&file, vec![b'{'; 1 << 20]).unwrap();
    squeeze(&["--image", image, "--json", file.to_str().unwrap()]).assert_code(0);
    let from_file: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(from_file["sources"], from_pipe["sources"]);
}

#[test]
fn standard_output_may_be_called_by_its_name() {
    let (_folder, image) = folder_with_image(200);
    for name in ["-", "/dev/stdout"] {
        let ended = squeeze(&["--image", image.to_str().unwrap(), "--json", name]);
        let report = ended.assert_code(0).report();
        assert_eq!(sum(&report, "stored_pages"), 200);
        ended.assert_said(&["All 200 stored pages came back identical"]);
    }
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let (folder, image) = folder_with_image(200);
    let pipe = pipe(folder.path());
    let arguments = ["--image", image.to_str().unwrap(), "--json", pipe.to_str().unwrap()];
    let mut running = Running::start(&arguments);
    wait_for_handlers(&mut running);
    running.signal(libc::SIGTERM);
    running.finish().assert_code(143).assert_said(&["Stopped by SIGTERM"]);

    // One that has opened it and does not read, and a report that is longer than what a pipe takes.
    let reader = opened(&pipe);
    // SAFETY: a system call without pointers, on a file that is open.
    assert!(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } >= 4096);
    let many: Vec<_> = ["--image", image.to_str().unwrap()].repeat(20).into_iter().chain(arguments).collect();
    let mut running = Running::start(&many);
    running.wait_until(|| {
        let mut waiting = 0i32;
        // SAFETY: the number is written.
        let told = unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &mut waiting) };
        told == 0 && waiting > 0
    });
    running.signal(libc::SIGTERM);
    running.finish().assert_code(143).assert_said(&["Stopped by SIGTERM"]);
}

#[test]
fn a_source_or_a_swapfile_is_not_written_over() {
    let (folder, image) = folder_with_image(10);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let before = fs::read(&image).unwrap();
    fs::hard_link(&image, path("hard")).unwrap();
    symlink(&image, path("soft")).unwrap();
    let image_path = image.to_str().unwrap();
    let says = &["Cannot write the report to ", "it is a source or a swapfile of this run"][..];
    for name in [image_path, &path("hard"), &path("soft")] {
        for source in ["--image", "--core"] {
            squeeze(&[source, image_path, "--json", name]).assert_refused(says);
        }
        swap(&["--image", image_path, "--json", name]).assert_refused(says);
        Running::verb("classes", &["--image", image_path, "--json", name], |_| {}).finish().assert_refused(says);
        assert_eq!(fs::read(&image).unwrap(), before);
    }
    // One that is there, and one that the run would make.
    let swapfile = path("swap");
    let spec = format!("{swapfile},size=16M");
    let arguments = ["--image", image_path, "--swapfile", &spec, "--json", &swapfile];
    squeeze(&arguments).assert_refused(says);
    assert!(!Path::new(&swapfile).exists());
    fs::write(&swapfile, "").unwrap();
    squeeze(&arguments).assert_refused(says);
    assert!(Path::new(&swapfile).exists());
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure_but_for_a_reader_that_has_seen_enough() {
    let (_folder, image) = folder_with_image(10);
    let image = image.to_str().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let to = |verb: &str, arguments: &[&str], out: Stdio| {
        Running::verb(verb, arguments, |command| _ = command.stdout(out)).finish()
    };
    let mut commands = vec![
        ("squeeze", vec!["--image", image]),
        ("squeeze", vec!["--image", image, "--json", "-"]),
        ("classes", vec!["--image", image]),
        ("swap", vec!["--image", image]),
        ("files", vec![]),
    ];
    if cfg!(feature = "guest") {
        commands.push(("top", vec!["--once", "--interval", "0"]));
    }
    for (verb, arguments) in commands {
        let ended = to(verb, &arguments, full().into());
        ended.assert_refused(&["Cannot write the report to standard output: No space left on device"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        to(verb, &arguments, writer.into()).assert_code(0);
    }
    squeeze(&["--image", image, "--json", "/dev/full"])
        .assert_code(2)
        .assert_said(&["the report to /dev/full: No space"]);
}
