//! `zspool run`: a program that is killed, and its children that live on.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::os::unix::process::ExitStatusExt;
use under::*;

/// A program that holds 32 MiB, half of it text, forks, and is killed; its child goes through all of it.
const ORPHANER: &str = "import os, signal, sys, time
x = [os.urandom(4096) if i % 2 else os.urandom(64) * 64 for i in range(8192)]
s = [hash(b) for b in x]
time.sleep(1)
told, tell = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    print('child', os.getpid(), flush=True)
    os.write(tell, b'!')
    while os.getppid() == parent: pass
    for i in range(8192):
        if bytes(x[i]) != x[i] or hash(bytes(bytearray(x[i]))) != s[i]: print('WRONG', i, flush=True)
    print('to the end', flush=True)
    os._exit(0)
os.read(told, 1)
os.kill(parent, signal.SIGKILL)";

#[test]
fn a_child_whose_parent_was_killed_dies_by_sigbus_rather_than_read_zeroes() {
    if let Some(why) = not_permitted().or_else(|| (!has("python3")).then(|| "there is no python3 here".to_owned())) {
        support::skip("a_child_whose_parent_was_killed_dies_by_sigbus_rather_than_read_zeroes", &why);
        return;
    }
    // Its child is to be ours when it is gone.
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let place = tempfile::tempdir().unwrap();
    let output = finish(&mut run(place.path(), &["--memory-max", "16M"], &["python3", "-c", ORPHANER]), 60);
    let text = String::from_utf8_lossy(&output.stdout);
    let child =
        text.lines().find_map(|line| line.strip_prefix("child ")).unwrap_or_else(|| panic!("{}", shown(&output)));
    assert_eq!(
        output.status.signal().or(output.status.code().map(|code| code - 128)),
        Some(libc::SIGKILL),
        "{}",
        shown(&output)
    );
    let mut status = 0;
    // SAFETY: the status is written.
    assert!(unsafe { libc::waitpid(child.parse().unwrap(), &mut status, 0) } > 0, "{}", shown(&output));
    assert!(!text.contains("WRONG") && !text.contains("to the end"), "{}", shown(&output));
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status:#x} {}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it gets a SIGBUS"), "{}", shown(&output));
}
