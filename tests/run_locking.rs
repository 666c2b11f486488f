//! Programs under a limit that say what is to stay in memory, or who may touch it.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::process::Command;
use under::*;

const LIMIT: [&str; 2] = ["--memory-max", "64M"];

/// It locks everything there is and will be, and lets it go again; after each step it says how much is locked, and that it has its bytes.
const LOCKING: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (16L << 20)
#define MIB (1L << 20)
static long kib(const char *name) {
    char text[8192] = "", *at;
    int fd = open("/proc/self/status", O_RDONLY);
    long len = read(fd, text, sizeof text - 1);
    close(fd);
    return len > 0 && (at = strstr(text, name)) ? strtol(at + strlen(name), NULL, 10) : -1;
}
static int differs(char *at, int with) {
    for (long k = 0; k < LEN; k += 64) if (at[k] != (char)(k / 64 + with)) return 1;
    return 0;
}
static char *filled(int with) {
    char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long k = 0; k < LEN; k += 64) at[k] = (char)(k / 64 + with);
    return at;
}
static long present(char *at) {
    static unsigned char is[LEN / 4096];
    long pages = 0;
    if (mincore(at, LEN, is)) return -1;
    for (unsigned long k = 0; k < sizeof is; k++) pages += is[k] & 1;
    return pages;
}
/* A step begins and ends with a file. */
static void step(char **words, int n) {
    if (words[1][0] == '-') return;
    close(creat(words[2 * n - 1], 0600));
    while (access(words[2 * n], F_OK)) usleep(10000);
}
int main(int count, char **words) {
    int adj = open("/proc/self/oom_score_adj", O_WRONLY);
    if (write(adj, "1000", 4) < 0) return 9; /* were all our addresses locked, the kernel should end this */
    char *a = filled(1);
    char *none = mmap(NULL, MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    step(words, 1);
    if (mlockall(MCL_CURRENT)) { perror("mlockall"); return 1; }
    if (present(a) != LEN / 4096 || kib("VmLck:") * 1024 < LEN + MIB || kib("VmRSS:") > 1 << 20) {
        printf("now: %ld pages, %ld KiB locked, %ld in memory\n", present(a), kib("VmLck:"), kib("VmRSS:"));
        return 2;
    }
    char *b = filled(2);
    step(words, 2);
    if (mlockall(MCL_FUTURE)) return 3;
    long before = kib("VmLck:");
    char *c = filled(3);
    long more = (kib("VmLck:") - before) * 1024;
    if (more < LEN || more > 4 * LEN) { printf("future: %ld more locked\n", more); return 4; }
    if (mlockall(MCL_CURRENT | MCL_ONFAULT)) return 5;
    before = kib("VmLck:");
    char *d = filled(4); /* that was the end of the future */
    more = (kib("VmLck:") - before) * 1024;
    if (more > LEN / 2) { printf("no more: %ld more locked\n", more); return 6; }
    if (munlockall() || kib("VmLck:")) return 7;
    step(words, 3);
    if (munmap(none, MIB) || differs(a, 1) || differs(b, 2) || differs(c, 3) || differs(d, 4)) return 8;
    puts("kept");
    return 0;
}
"#;

#[test]
fn a_program_that_locks_all_its_memory_locks_its_own_and_can_let_it_go() {
    let test = "a_program_that_locks_all_its_memory_locks_its_own_and_can_let_it_go";
    if !can(test, &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let locking = program(place.path(), "locking", LOCKING);
    let alone = Command::new(&locking).arg("-").output().unwrap();
    if alone.status.code() == Some(1) {
        return support::skip(test, &shown(&alone)); // `ulimit -l`
    }
    assert_eq!(good(&alone), "kept\n");
    let files: Vec<_> = (0..6).map(|k| place.path().join(k.to_string())).collect();
    let mut program = vec![locking.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &LIMIT, &program), 120);
    let pid = running.program().to_string();
    let out = || good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
    for (step, least_out) in [(0, 15 * MIB), (1, 15 * MIB), (2, 60 * MIB)] {
        running.until(&files[2 * step]);
        until_vm(&mut running, place.path(), |vm| {
            out();
            vm["out"].as_u64() >= Some(least_out) && (step != 1 || vm["out"].as_u64() < Some(17 * MIB))
        });
        std::fs::write(&files[2 * step + 1], "").unwrap();
    }
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It has a gibibyte of which it uses little, takes the right to write away, and back.
const SPARSE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (1L << 30)
#define STEP (1L << 20)
static void step(char **words, int n) {
    close(creat(words[2 * n - 1], 0600));
    while (access(words[2 * n], F_OK)) usleep(10000);
}
int main(int count, char **words) {
    char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long k = 0; k < LEN; k += STEP) at[k] = 1 + k / STEP % 100;
    step(words, 1);
    if (mprotect(at, LEN, PROT_READ)) return 1;
    step(words, 2);
    for (long k = 0; k < LEN; k += STEP) if (at[k] != 1 + k / STEP % 100 || at[k + STEP / 2]) return 2;
    if (mprotect(at, LEN, PROT_READ | PROT_WRITE)) return 3;
    step(words, 3);
    for (long k = 0; k < LEN; k += STEP) if (at[k] != 1 + k / STEP % 100 || at[k + STEP / 4]) return 4;
    puts("kept");
    return 0;
}
"#;

#[test]
fn what_was_never_touched_is_not_made_when_its_protection_changes_or_all_comes_in() {
    if !can("what_was_never_touched_is_not_made_when_its_protection_changes_or_all_comes_in", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let sparse = program(place.path(), "sparse", SPARSE);
    let files: Vec<_> = (0..6).map(|k| place.path().join(k.to_string())).collect();
    let mut program = vec![sparse.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &LIMIT, &program), 120);
    let pid = running.program().to_string();
    let ctl = |verb: &str| good(&finish(zspool(place.path()).args(["ctl", &pid, verb]), 60));
    for step in 0..3 {
        running.until(&files[2 * step]);
        // 1024 pages were touched at first, and as many read at other places later, twice.
        let vm = match step {
            0 => until_vm(&mut running, place.path(), |vm| {
                ctl("out");
                vm["out"].as_u64() >= Some(4 * MIB)
            }),
            1 => until_vm(&mut running, place.path(), |vm| vm["pinned"].as_u64() == Some(4 * MIB)),
            _ => {
                ctl("in");
                until_vm(&mut running, place.path(), |vm| vm["pinned"].as_u64() == Some(0))
            }
        };
        assert!(vm["resident"].as_u64() < Some(40 * MIB), "step {step}: {vm:#}");
        std::fs::write(&files[2 * step + 1], "").unwrap();
    }
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It asks to lock more than there is, which fails half-way, and to protect it again and again.
const FAILING: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (24L << 20)
int main(int count, char **words) {
    char *at = mmap(NULL, LEN + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long k = 0; k < LEN; k += 64) at[k] = (char)(k / 64 + 1);
    while (access(words[1], F_OK)) usleep(10000);
    munmap(at + LEN, 4096);
    if (!mlock(at, LEN + 4096)) return 1;
    munlock(at + LEN / 2, LEN / 2); /* what was locked before it failed is the kernel's affair */
    munlock(at, LEN / 2);
    for (int n = 0; n < 2000; n++) if (mprotect(at, LEN, PROT_READ) || mprotect(at, LEN, PROT_NONE)) return 2;
    if (mprotect(at, LEN, PROT_READ | PROT_WRITE)) return 3;
    close(creat(words[2], 0600));
    while (access(words[3], F_OK)) usleep(10000);
    for (long k = 0; k < LEN; k += 64) if (at[k] != (char)(k / 64 + 1)) return 4;
    puts("kept");
    return 0;
}
"#;

#[test]
fn what_could_not_be_locked_can_leave_and_what_is_protected_often_is_held_once() {
    if !can("what_could_not_be_locked_can_leave_and_what_is_protected_often_is_held_once", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let failing = program(place.path(), "failing", FAILING);
    let files = ["begin", "failed", "seen"].map(|name| place.path().join(name));
    let mut program = vec![failing.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "64M"], &program), 120);
    let pid = running.program().to_string();
    let out = || good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
    until_vm(&mut running, place.path(), |vm| vm["registered"].as_u64() >= Some(24 * MIB));
    std::fs::write(&files[0], "").unwrap();
    running.until(&files[1]);
    until_vm(&mut running, place.path(), |vm| {
        out();
        vm["out"].as_u64() >= Some(23 * MIB) && vm["pinned"].as_u64() == Some(0)
    });
    std::fs::write(&files[2], "").unwrap();
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It may not lock all it has, asks for it, and says what that has changed: it had asked for what comes to be locked.
const REFUSED: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MIB (1L << 20)
static long locked(void) { /* KiB */
    char text[8192] = "", *at;
    int fd = open("/proc/self/status", O_RDONLY);
    long len = read(fd, text, sizeof text - 1);
    close(fd);
    return len > 0 && (at = strstr(text, "VmLck:")) ? strtol(at + 6, NULL, 10) : -1;
}
static int refused(long most, int why) { /* with so many bytes at most */
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit)) return 0;
    limit.rlim_cur = most;
    long before = locked();
    return !setrlimit(RLIMIT_MEMLOCK, &limit) && mlockall(MCL_CURRENT) == -1 && errno == why && locked() == before;
}
int main(void) {
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct may[2];
    if (syscall(SYS_capget, &header, may)) return 1;
    may[0].effective &= ~(1u << CAP_IPC_LOCK);
    if (syscall(SYS_capset, &header, may)) return 2;
    char *held = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long k = 0; k < 16 * MIB; k += 64) held[k] = (char)(k / 64 + 1);
    if (mlockall(MCL_FUTURE)) { perror("mlockall"); return 3; }
    if (!refused(6 * MIB, ENOMEM)) return 4;
    long before = locked();
    char *comes = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (comes == MAP_FAILED || locked() < before + 2 * MIB / 1024) { printf("%ld, then %ld\n", before, locked()); return 5; }
    if (munmap(comes, 2 * MIB) || !refused(0, EPERM)) return 6;
    for (long k = 0; k < 16 * MIB; k += 64) if (held[k] != (char)(k / 64 + 1)) return 7;
    puts("kept");
    return 0;
}
"#;

#[test]
fn a_lock_of_all_memory_that_is_refused_changes_nothing() {
    let test = "a_lock_of_all_memory_that_is_refused_changes_nothing";
    if !can(test, &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let refused = program(place.path(), "refused", REFUSED);
    let alone = Command::new(&refused).output().unwrap();
    if alone.status.code() == Some(3) {
        return support::skip(test, &shown(&alone)); // `ulimit -l`
    }
    assert_eq!(good(&alone), "kept\n");
    let output = finish(&mut run(place.path(), &LIMIT, &[refused.to_str().unwrap()]), 120);
    assert_eq!(good(&output), "kept\n");
}
