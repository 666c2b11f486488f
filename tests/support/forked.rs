//! Children of fork: made, and waited for.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

/// A child that runs `f` and ends with its result, or is killed after half a minute.
pub fn fork(f: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child looks at memory and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a timer, whose signal ends the process.
        unsafe { libc::alarm(30) };
        let code = f();
        // SAFETY: ends it, with nothing of the parent's run.
        unsafe { libc::_exit(code) };
    }
    assert!(pid > 0);
    pid
}

/// How it ended: its code, or 256 and its signal.
pub fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) { 256 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
