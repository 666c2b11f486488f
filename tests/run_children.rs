//! Children of programs under a limit: by `fork`, by the bare system call, with no descriptor left, and what is wiped in them.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use under::*;

/// Children by the bare system call, of which no function of the C library knows, do with their memory what brings pages in, and change it; threads of
/// the parent do the same meanwhile. Both must have what is theirs.
const CLONING: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define PAGES 3072
#define LEN (PAGES * 4096L)
static volatile int over;
static char *map(void) { return mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static void fill(char *at, int with) {
    for (int n = 0; n < PAGES; n++) for (int k = 0; k < 4096; k += 64) at[n * 4096L + k] = (char)(n * 7 + k / 64 + with);
}
static int differs(char *at, int with) {
    for (int n = 0; n < PAGES; n++)
        for (int k = 0; k < 4096; k += 64) if (at[n * 4096L + k] != (char)(n * 7 + k / 64 + with)) return 1;
    return 0;
}
static int changes(char *at) {
    if (mprotect(at, LEN, PROT_READ) || mprotect(at, LEN, PROT_READ | PROT_WRITE)) return 1;
    if (mlock(at, 64 * 4096) || munlock(at, 64 * 4096)) return 1;
    return 0;
}
static void *thrash(void *number) {
    char *at = map();
    for (long with = (long)number; !over; with++) {
        fill(at, with);
        if (changes(at) || differs(at, with)) { puts("a thread's bytes"); exit(5); }
    }
    return NULL;
}
int main(void) {
    char *at = map();
    fill(at, 1);
    pthread_t threads[2];
    for (long n = 0; n < 2; n++) pthread_create(&threads[n], NULL, thrash, (void *)(n * 100));
    for (int round = 0; round < 8; round++) {
        long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) {
            int result = differs(at, 1) ? 11 : changes(at) ? 12 : differs(at, 1) ? 13 : 0;
            char *moved = mremap(at, LEN, 2 * LEN, MREMAP_MAYMOVE);
            /* Of what is registered in parts, one of them not yet, the kernel makes two mappings, and moves one at a time. */
            if (!result && moved == MAP_FAILED && errno != EFAULT) result = 17;
            if (!result && moved != MAP_FAILED && differs(moved, 1)) result = 14;
            if (!result && moved != MAP_FAILED) { fill(moved, 99); result = differs(moved, 99) ? 15 : 0; }
            /* Nothing is kept from it, whatever it is a copy of. */
            for (int fd = 3; fd < 1024; fd++) if (!result && fcntl(fd, F_GETFD) >= 0 && close(fd)) result = 16;
            syscall(SYS_exit_group, result);
        }
        int status;
        waitpid(pid, &status, 0);
        if (status) { printf("a child ended by %#x\n", status); return 1; }
        if (differs(at, 1)) { puts("the parent's bytes"); return 2; }
    }
    over = 1;
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    puts("all is well");
    return 0;
}
"#;

#[test]
fn a_child_by_the_bare_system_call_has_its_memory_and_its_parent_has_its_own() {
    if !can("a_child_by_the_bare_system_call_has_its_memory_and_its_parent_has_its_own", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let cloning = program(place.path(), "cloning", CLONING);
    let output = finish(&mut run(place.path(), &["--memory-max", "24M"], &[cloning.to_str().unwrap()]), 240);
    assert_eq!(good(&output), "all is well\n");
}

/// It forks when it has as many descriptors as it may, and its child does; later some are closed.
const AT_THE_LIMIT: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#define LEN (8 << 20)
static void *close_some(void *last) {
    for (long fd = (long)last; fd > (long)last - 8; fd--) { usleep(400000); close(fd); }
    return NULL;
}
static int differs(char *held) {
    for (int at = 0; at < LEN; at += 64) if (held[at] != (char)(at / 64 + 1)) return 1;
    return 0;
}
int main(int count, char **words) {
    char *held = malloc(LEN);
    for (int at = 0; at < LEN; at += 64) held[at] = (char)(at / 64 + 1);
    while (access(words[count - 1], F_OK)) usleep(20000);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 40;
    setrlimit(RLIMIT_NOFILE, &limit);
    long last = -1;
    for (int fd; (fd = open("/dev/null", O_RDONLY)) >= 0;) last = fd;
    pthread_t closer;
    pthread_create(&closer, NULL, close_some, (void *)last);
    int status, pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid == 0) _exit(differs(held) ? 11 : 7);
        waitpid(pid, &status, 0);
        _exit(differs(held) ? 12 : WIFEXITED(status) ? WEXITSTATUS(status) : 13);
    }
    waitpid(pid, &status, 0);
    pthread_join(closer, NULL);
    printf("%d %d %d\n", pid > 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1, differs(held));
    return 0;
}
"#;

#[test]
fn a_fork_for_which_there_is_no_descriptor_waits_until_there_is_one() {
    if !can("a_fork_for_which_there_is_no_descriptor_waits_until_there_is_one", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (forking, go) = (program(place.path(), "forking", AT_THE_LIMIT), place.path().join("go"));
    let program = [forking.to_str().unwrap(), go.to_str().unwrap()];
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "6M"], &program), 120);
    // Only of what is registered does the kernel tell, and ask for a descriptor.
    until_vm(&mut running, place.path(), |vm| vm["out"].as_u64() >= Some(1 << 20));
    std::fs::write(&go, "").unwrap();
    assert_eq!(good(&running.finish()), "1 7 0\n");
}

/// It has three pages wiped in children: before anything of ours runs, before its memory is looked for, and after.
const WIPING: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define LEN (8 << 20)
static void until(char *there) { while (access(there, F_OK)) usleep(20000); }
static char *at, *c;
static void first(void) {
    at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (madvise(c = at + (5 << 20), 4096, MADV_WIPEONFORK)) _exit(3);
}
__attribute__((section(".preinit_array"), used)) static void (*const FIRST)(void) = first;
int main(int count, char **words) {
    char *a = at + (1 << 20), *b = at + (2 << 20);
    if (count != 4 || madvise(a, 4096, MADV_WIPEONFORK)) return 1;
    for (int k = 0; k < LEN; k += 4096) at[k] = 1;
    until(words[1]);
    if (madvise(b, 4096, MADV_WIPEONFORK)) return 2;
    close(creat(words[2], 0600));
    until(words[3]);
    int status, pid = fork();
    if (pid == 0) _exit(*a + 2 * *b + 4 * !at[3 << 20] + 8 * *c);
    waitpid(pid, &status, 0);
    printf("%d %d %d\n", status, *a, *b + *c - 1);
    return 0;
}
"#;

#[test]
fn what_is_to_be_wiped_in_children_is_zeroes_there_and_stays_in_the_parent() {
    if !can("what_is_to_be_wiped_in_children_is_zeroes_there_and_stays_in_the_parent", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let wiping = program(place.path(), "wiping", WIPING);
    let files = ["seen", "marked", "out"].map(|name| place.path().join(name));
    let [seen, marked, out] = &files;
    let mut program = vec![wiping.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "64M"], &program), 120);
    until_vm(&mut running, place.path(), |vm| vm["resident"].as_u64() >= Some(7 << 20));
    std::fs::write(seen, "").unwrap();
    running.until(marked);
    let pid = running.program().to_string();
    until_vm(&mut running, place.path(), |vm| {
        good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
        vm["out"].as_u64() >= Some(7 << 20)
    });
    std::fs::write(out, "").unwrap();
    assert_eq!(good(&running.finish()), "0 1 1\n");
}

/// It has memory wiped in children, and moves it then; or has a page beside it that may not be written.
const WIPED_AND_MOVED: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define LEN (16L << 20)
static char *map(void) { return mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
int main(int count, char **words) {
    char *moved = map(), *beside = map(), *other = map();
    memset(beside, 1, LEN);
    usleep(500000); /* it is found */
    if (mprotect(beside, 4096, PROT_READ) || madvise(moved, LEN, MADV_WIPEONFORK)) return 1;
    if (madvise(beside + 8192, LEN - 8192, MADV_WIPEONFORK)) return 2;
    char *there = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    moved = mremap(moved, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, there);
    if (moved != there) return 3;
    for (long k = 0; k < LEN; k += 64) moved[k] = beside[k > 8192 ? k : 8192] = other[k] = (char)(k / 64 + 1);
    usleep(1500000); /* what is not left out leaves */
    int status, pid = fork();
    if (pid == 0) {
        long seen = 0;
        for (long k = 8192 + 64; k < LEN; k += 64) seen += (moved[k] != 0) + (beside[k] != 0);
        _exit(seen > 0);
    }
    waitpid(pid, &status, 0);
    for (long k = 64; k < LEN; k += 64) if (moved[k] != (char)(k / 64 + 1) || other[k] != (char)(k / 64 + 1)) return 4;
    printf("%x\n", status);
    return 0;
}
"#;

#[test]
fn what_is_to_be_wiped_in_children_is_so_wherever_it_moves_and_whatever_lies_beside_it() {
    if !can("what_is_to_be_wiped_in_children_is_so_wherever_it_moves_and_whatever_lies_beside_it", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let wiping = program(place.path(), "wiping", WIPED_AND_MOVED);
    let output = finish(&mut run(place.path(), &["--memory-max", "8M"], &[wiping.to_str().unwrap()]), 120);
    assert_eq!(good(&output), "0\n", "{}", shown(&output));
}
