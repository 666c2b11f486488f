//! A kernel without the calls for NUMA: several nodes are claimed, and the calls fail as where they were left out.

use super::*;
use std::io;

/// Calls whose absence is tried.
const CALLS: [libc::c_long; 4] =
    [libc::SYS_mbind, libc::SYS_move_pages, libc::SYS_get_mempolicy, libc::SYS_set_mempolicy];

fn statement(code: u32, k: u32, jump: [u8; 2]) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump[0], jf: jump[1], k }
}

/// Let the calls fail with `errno` on this thread, for good.
fn deny(errno: i32) -> io::Result<()> {
    let number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, [0, 0]); // seccomp_data.nr
    let mut program = vec![number];
    for (k, &call) in CALLS.iter().enumerate() {
        let to_denial = (CALLS.len() - k) as u8;
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, [to_denial, 0]));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, [0, 0]));
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, [0, 0]));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: sets a flag of this thread, no pointer.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the filter and its program are live and as long as they say. It holds for this thread only.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn without(errno: i32) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = deny(errno) {
            return println!("this system lets no thread filter its calls ({error}); nothing was tested");
        }
        // SAFETY: fails at once.
        let refused = unsafe { libc::syscall(libc::SYS_move_pages, 0, 0, 0usize, 0usize, 0usize, 0) };
        assert_eq!((refused, io::Error::last_os_error().raw_os_error()), (-1, Some(errno)));
        let arena = arena(|c| (c.topology, c.commit_ahead) = (Topology::claiming(&[0, 1]), 4));
        let run = arena.alloc_run().unwrap();
        arena.ensure(frame(&arena, run, 0), 2, N0).unwrap();
        arena.ensure(frame(&arena, run, 2), 3, N1).unwrap();
        (0..5).for_each(|k| write_stamp(&arena, frame(&arena, run, k), k.into()));
        (0..5).for_each(|k| assert_eq!(stamp(&arena, frame(&arena, run, k)), u64::from(k)));
        // Nobody tells where frames lie: they count where they were asked for.
        assert_eq!((arena.backed_on(N0), arena.backed_on(N1)), (2 * FRAME, 3 * FRAME));
        assert_eq!([1, 2].map(|k| arena.node_of(frame(&arena, run, k))), [N0, N1]);
        arena.assert_valid();
        (0..5).for_each(|k| arena.release(frame(&arena, run, k)));
        arena.free_run(run);
        arena.flush();
        assert_eq!(arena.backed_bytes(), 0);
    });
    thread.join().unwrap();
}

#[test]
fn a_kernel_without_the_calls_serves_frames_all_the_same() {
    without(libc::ENOSYS);
}

#[test]
fn a_sandbox_that_forbids_the_calls_is_served_all_the_same() {
    without(libc::EPERM);
}
