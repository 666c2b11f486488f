//! `zspool squeeze` on bad input: a sentence on standard error that says what to do, exit status 2, nothing on standard output.
#![cfg(feature = "cli")]

mod support;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::NamedTempFile;

const ZSPOOL: &str = env!("CARGO_BIN_EXE_zspool");

/// The user id that has no rights, by convention.
const NOBODY: u32 = 65534;

/// A user id that no process has.
const LONELY: u32 = 61_747;

fn squeeze(arguments: &[&str]) -> Output {
    Command::new(ZSPOOL).arg("squeeze").args(arguments).output().unwrap()
}

/// What is said to refuse these arguments.
#[track_caller]
fn refusal(arguments: &[&str]) -> String {
    refused(squeeze(arguments))
}

#[track_caller]
fn refused(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty(), "standard output is for reports");
    said
}

#[track_caller]
fn assert_said(arguments: &[&str], parts: &[&str]) {
    let said = refusal(arguments);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

fn image(bytes: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![7; bytes]).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn an_image_that_is_no_whole_number_of_pages() {
    for (bytes, rest) in [(1, "1"), (4095, "4095"), (4097, "1"), (10_000, "1808")] {
        let file = image(bytes);
        assert_said(&["--image", path(&file)], &[path(&file), "no multiple of 4096", &format!("({rest} too many)")]);
    }
}

#[test]
fn an_image_that_is_empty_missing_or_no_file() {
    let file = image(0);
    assert_said(&["--image", path(&file)], &["is empty"]);
    assert_said(&["--image", "/nonexistent/image"], &["Cannot read /nonexistent/image", "No such file"]);
    let folder = tempfile::tempdir().unwrap();
    assert_said(&["--image", folder.path().to_str().unwrap()], &["is not a regular file"]);
    assert_said(&["--image", "/dev/zero"], &["is not a regular file"]);
}

#[test]
fn a_file_that_is_no_core() {
    let file = image(8192);
    assert_said(&["--core", path(&file)], &[path(&file), "does not begin with the ELF magic"]);
    assert_said(&["--core", ZSPOOL], &["its type is", "is it a program?"]);

    // An ELF header of a core that promises a program header beyond its end.
    let mut header = vec![0; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[16] = 4;
    header[32] = 64;
    header[54] = 56;
    header[56] = 1;
    let mut short = NamedTempFile::new().unwrap();
    short.write_all(&header).unwrap();
    assert_said(&["--core", path(&short)], &["its headers reach beyond its 64 bytes"]);

    // The same with a segment that the file ends in.
    let mut segment = vec![0; 56];
    segment[0] = 1;
    segment[8..16].copy_from_slice(&4096u64.to_le_bytes());
    segment[32..40].copy_from_slice(&8192u64.to_le_bytes());
    short.write_all(&segment).unwrap();
    short.write_all(&[1; 4096]).unwrap();
    assert_said(&["--core", path(&short)], &["is an incomplete core file", "ends at byte 12288"]);
}

#[test]
fn a_process_that_is_not_there() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let pid = child.id().to_string();
    assert_said(&["--pid", &pid], &[&format!("There is no process {pid}.")]);
    assert_said(&["--pid", "no"], &["invalid value 'no'", "The number of a process is a whole number"]);
    assert_said(&["--pid", "0"], &["0 is no process, but the kernel's own work"]);
}

#[test]
fn a_process_that_has_ended_and_waits_for_its_parent() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    assert_said(&["--pid", &pid], &[&pid, "(true)", "have ended"]);
    child.wait().unwrap();
}

#[test]
fn a_thread_of_the_kernel_is_called_one() {
    // The first of them, wherever its number is not another's: in a container there are none.
    let is_one = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
    if !is_one {
        return support::skip("a_thread_of_the_kernel_is_called_one", "no thread of the kernel is seen here");
    }
    assert_said(&["--pid", "2"], &["Process 2 (kthreadd) is a thread of the kernel", "name a program"]);
}

/// The program, to be run as a user without rights: as root everything may be read, so then as nobody, with a copy that
/// nobody may execute. None where that is not possible.
fn unprivileged() -> Option<(Command, tempfile::TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("zspool");
    std::fs::copy(ZSPOOL, &program).unwrap();
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let command = || {
        let mut command = Command::new(&program);
        command.current_dir("/");
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    match command().arg("--version").output() {
        Ok(_) => Some((command(), folder)),
        Err(error) => {
            support::skip("unprivileged", &format!("a copy of the program cannot be run as another user: {error}"));
            None
        }
    }
}

#[test]
fn a_process_that_may_not_be_read_comes_with_advice() {
    let Some((mut command, _folder)) = unprivileged() else { return };
    let said = refused(command.args(["squeeze", "--pid", "1"]).output().unwrap());
    for part in ["may not read the memory of process 1 (", "sudo", "-- COMMAND"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn root_without_the_capability_is_not_told_to_become_root() {
    let test = "root_without_the_capability_is_not_told_to_become_root";
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return support::skip(test, "needs root, to be one that lacks a capability");
    }
    const CAP_SYS_PTRACE: libc::c_ulong = 19;
    let mut command = Command::new(ZSPOOL);
    let lack = || {
        // SAFETY: a system call without pointers, fit for a child between fork and exec.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes a system call only.
    unsafe { command.pre_exec(lack) };
    let output = match command.args(["squeeze", "--pid", "1"]).output() {
        Ok(output) if output.status.success() => return support::skip(test, "process 1 may be read without it"),
        Ok(output) => output,
        Err(error) => return support::skip(test, &format!("the capability cannot be dropped: {error}")),
    };
    let said = refused(output);
    assert!(said.contains("CAP_SYS_PTRACE") && said.contains("-- COMMAND") && !said.contains("as root"), "{said}");
}

#[test]
fn a_user_without_any_process_that_may_be_read_gets_advice() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        support::skip(
            "a_user_without_any_process_that_may_be_read_gets_advice",
            "needs root, to become a user who has no processes",
        );
        return;
    }
    let Some((mut command, _folder)) = unprivileged() else { return };
    let said = refused(command.uid(LONELY).gid(LONELY).arg("squeeze").output().unwrap());
    for part in ["may not read the memory of any of the", "sudo", "-- COMMAND"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_command_that_cannot_start_or_ends_too_early() {
    // The command is started once everything else is ready, which needs a store; the source itself has tests of its own.
    let output = squeeze(&["--after", "30", "--", "/nonexistent/program"]);
    let said = refused(output);
    assert!(said.ends_with(".\n"), "{said}");
}

#[test]
fn options_with_values_that_make_no_sense() {
    let file = image(4096);
    let image = ["--image", path(&file)];
    let with = |more: &[&'static str]| -> String { refusal(&[&image, more].concat()) };
    for (arguments, part) in [
        (&["--threads", "0"][..], "Zero threads would store nothing"),
        (&["--threads", "x"], "The number of threads is a whole number"),
        (&["--threads", "1000000"], "At most 1024 threads"),
        (&["--codec", "lz5"], "--codec names none that is built in: there is no codec \"lz5\"; use one of: lz4."),
        (&["--pool-limit", "ten"], "\"ten\" is no size"),
        (&["--pool-limit", "-1"], "\"-1\" is no size"),
        (&["--pool-limit", "99999999T"], "is too large a size"),
        (&["--memcg-limit", "=5"], "There is no source's name"),
        (&["--memcg-limit", "nobody=5M"], "--memcg-limit names \"nobody\", but the sources are:"),
        (
            &["--swapfile", "/nonexistent/x"],
            "/nonexistent/x has no size: write /nonexistent/x,size=SIZE, or give --swap-size SIZE",
        ),
        (&["--swap-size", "1M"], "--swap-size needs --swapfile PATH"),
        (&["--max-pages", "0"], "Zero pages would leave nothing to do"),
        (&["--after", "-1"], "The time is a number of seconds that is not negative"),
        (&["--after", "1e19"], "The longest time is 1000000000 seconds"),
        (&["--after", "nan"], "The time is a number of seconds"),
        (&["--seed", "x"], "The seed is a whole number"),
        (&["--json", "/nonexistent/report"], "Cannot write the report to /nonexistent/report"),
        (&["surplus"], "unexpected argument"),
    ] {
        let said = with(arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn a_report_that_is_there_survives_a_run_that_is_refused() {
    let report = NamedTempFile::new().unwrap();
    std::fs::write(report.path(), "old").unwrap();
    refusal(&["--image", "/nonexistent/image", "--json", path(&report)]);
    assert_eq!(std::fs::read_to_string(report.path()).unwrap(), "old");
}

#[test]
fn a_pipe_is_no_image_and_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    if !Command::new("mkfifo").arg(&pipe).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        support::skip("a_pipe_is_no_image_and_is_not_waited_for", "mkfifo is not there");
        return;
    }
    assert!(Path::exists(&pipe));
    assert_said(&["--image", pipe.to_str().unwrap()], &["is not a regular file"]);
}
