//! What programs under a limit do that few do, or that all do and that would hit us: allocators of their own, descriptors at numbers of their choice,
//! children without `fork`.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::path::Path;
use std::process::Command;
use under::*;

const LIMIT: [&str; 2] = ["--memory-max", "64M"];

/// It makes a piece larger, again and again.
const GROWING: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    char *piece = malloc(5000);
    for (int k = 1; k <= 60; k++) {
        piece = realloc(piece, k * 5000);
        memset(piece + (k - 1) * 5000, k, 5000);
    }
    for (int at = 0; at < 60 * 5000; at++) if (piece[at] != at / 5000 + 1) return 1;
    puts("kept");
    return 0;
}
"#;

#[test]
fn an_allocator_in_a_shared_library_is_not_taken_for_the_c_librarys() {
    if !can("an_allocator_in_a_shared_library_is_not_taken_for_the_c_librarys", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let growing = program(place.path(), "growing", GROWING);
    let growing = growing.to_str().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/allocator.c");
    // Some bring the C library's private names as well, with their own functions behind them.
    for names in [&["-DALIAS"][..], &[]] {
        let library = place.path().join("allocator.so");
        compiled(&source, &library, &[&["-O1", "-shared", "-fPIC"], names].concat());
        let under = |program: &[&str]| {
            let mut command = run(place.path(), &LIMIT, program);
            good(&finish(command.env("LD_PRELOAD", &library), 60))
        };
        assert_eq!(under(&[growing]), "kept\n", "{names:?}");
        // In a child of the program's, which is not under the limit.
        let script = format!("{growing} && echo and the child is well");
        assert_eq!(under(&["sh", "-c", &script]), "kept\nand the child is well\n", "{names:?}");
    }
}

/// What a program does at the end of each of these tests: its memory is what it was, after it was out and after forks.
const HOLDS: &str = "
import os
held = [os.urandom(16) * 256 for _ in range(2048)]
def fork():
    pid = os.fork()
    if pid == 0: os._exit(0 if sum(map(hash, held)) == whole else 1)
    return os.waitpid(pid, 0)[1]
whole = sum(map(hash, held))
";

#[test]
fn a_shell_that_puts_a_file_at_a_number_of_its_choice_puts_it_there_and_nowhere_else() {
    if !can("a_shell_that_puts_a_file_at_a_number_of_its_choice_puts_it_there_and_nowhere_else", &["bash"]) {
        return;
    }
    // What it holds is written in and read after each step, and more than it may have in memory.
    let script = r#"
        held=$(seq 1 200000)
        sum() { cksum <<<"$held"; }
        before=$(sum)
        exec N>"$1"
        echo a >&N
        for i in 1 2 3; do (:); done
        [ "$(sum)" = "$before" ] || exit 3
        exec N<"$2"
        read -r line <&N
        for i in 1 2 3; do (:); done
        [ "$(sum)" = "$before" ] || exit 4
        echo "$line"
    "#;
    let place = tempfile::tempdir().unwrap();
    let (written, read) = (place.path().join("written"), place.path().join("read"));
    std::fs::write(&read, "what is read\n".repeat(1000)).unwrap();
    for number in 3..18 {
        let script = script.replace('N', &number.to_string());
        let files = [written.to_str().unwrap(), read.to_str().unwrap()];
        let program = ["bash", "-c", &script, "-", files[0], files[1]];
        let output = finish(&mut run(place.path(), &["--memory-max", "2M"], &program), 120);
        assert_eq!(good(&output), "what is read\n", "{number}: {}", shown(&output));
        assert_eq!(std::fs::read_to_string(&written).unwrap(), "a\n", "{number}");
    }
}

#[test]
fn a_program_that_closes_all_descriptors_there_are_closes_its_own() {
    if !can("a_program_that_closes_all_descriptors_there_are_closes_its_own", &["python3"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    // By ranges, one by one, and by putting another in place of each; and those of children that live meanwhile.
    for closing in [
        "os.closerange(3, 256)",
        "os.closerange(3, 1 << 20)",
        "libc.closefrom(3)",
        "[libc.close(fd) for fd in range(3, 4096)]",
        "[libc.dup2(0, fd) for fd in range(3, 1024)]; os.closerange(3, 4096)",
    ] {
        let script = format!(
            "{HOLDS}
import ctypes
libc = ctypes.CDLL(None)
mine = os.open('/dev/null', os.O_RDONLY)
(hold, held_back) = os.pipe()
child = os.fork()
if child == 0:
    os.close(held_back)
    os.read(hold, 1)
    os._exit(0 if sum(map(hash, held)) == whole else 1)
{closing}
try: os.fstat(mine); print('open')
except OSError: pass
print(os.waitpid(child, 0)[1], [fork() for _ in range(3)], sum(map(hash, held)) == whole)"
        );
        let output = finish(&mut run(place.path(), &["--memory-max", "6M"], &["python3", "-c", &script]), 120);
        let said = good(&output);
        assert_eq!(said, "0 [0, 0, 0] True\n", "{closing}: {}", shown(&output));
    }
}

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
    let mut running = Deadlined::start(&mut run(place.path(), &LIMIT, &program), 120);
    until_vm(&mut running, place.path(), |vm| vm["resident"].as_u64() >= Some(7 << 20));
    std::fs::write(seen, "").unwrap();
    while !marked.exists() {
        assert!(running.is_running());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = running.program().to_string();
    until_vm(&mut running, place.path(), |vm| {
        good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
        vm["out"].as_u64() >= Some(7 << 20)
    });
    std::fs::write(out, "").unwrap();
    assert_eq!(good(&running.finish()), "0 1 1\n");
}

/// Its memory grows a little at a time, as that of an interpreter, each piece beside the last one.
const GROWING_SLOWLY: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#define PIECE (256L << 10)
#define PIECES 160
int main(int count, char **words) {
    char *at = mmap(NULL, (PIECES + 64) * PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    at += (64L << 18) - (unsigned long)at % (64L << 18); /* where a region begins */
    for (int n = 0; n < PIECES; n++) {
        char *piece = at + n * PIECE;
        if (mmap(piece, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != piece) return 1;
        for (long k = 0; k < PIECE; k += 64) piece[k] = (char)(n * 7 + k / 64);
        usleep(25000);
    }
    close(creat(words[1], 0600));
    while (access(words[2], F_OK)) usleep(10000);
    for (int n = 0; n < PIECES; n++)
        for (long k = 0; k < PIECE; k += 64) if (at[n * PIECE + k] != (char)(n * 7 + k / 64)) return 2;
    puts("kept");
    return 0;
}
"#;

#[test]
fn memory_that_grows_a_little_at_a_time_is_few_regions() {
    if !can("memory_that_grows_a_little_at_a_time_is_few_regions", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let growing = program(place.path(), "growing", GROWING_SLOWLY);
    let files = ["grown", "seen"].map(|name| place.path().join(name));
    let program = [growing.to_str().unwrap(), files[0].to_str().unwrap(), files[1].to_str().unwrap()];
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "16M"], &program), 120);
    while !files[0].exists() {
        assert!(running.is_running(), "{}", shown(&running.finish()));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Ten of four mebibytes, smaller ones, and what the C library has; were they not joined, there would be 160.
    let vm = until_vm(&mut running, place.path(), |vm| vm["registered"].as_u64() >= Some(40 * MIB));
    assert!(vm["regions"].as_u64() <= Some(10 + 5 + 2), "{vm:#}");
    std::fs::write(&files[1], "").unwrap();
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It changes its root, where nothing is mounted, and uses memory.
const CONFINED: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (32L << 20)
int main(int count, char **words) {
    if (chroot(words[1]) || chdir("/")) { perror("chroot"); return 1; }
    char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long k = 0; k < LEN; k += 64) at[k] = (char)(k / 64 + 1);
    while (access("/go", F_OK)) usleep(10000);
    for (long k = 0; k < LEN; k += 64) if (at[k] != (char)(k / 64 + 1)) return 2;
    puts("kept");
    return 0;
}
"#;

#[test]
fn a_program_that_changes_its_root_stays_under_its_limit() {
    let test = "a_program_that_changes_its_root_stays_under_its_limit";
    if !can(test, &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (confined, root) = (program(place.path(), "confined", CONFINED), place.path().join("root"));
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("go"), "").unwrap();
    let program = [confined.to_str().unwrap(), root.to_str().unwrap()];
    let alone = Command::new(program[0]).arg(program[1]).output().unwrap();
    if alone.status.code() == Some(1) {
        return support::skip(test, &shown(&alone));
    }
    std::fs::remove_file(root.join("go")).unwrap();
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "16M"], &program), 120);
    let enough = |vm: &serde_json::Value| {
        vm["registered"].as_u64() >= Some(32 * MIB) && vm["resident"].as_u64() <= Some(16 * MIB)
    };
    until_vm(&mut running, place.path(), enough);
    std::fs::write(root.join("go"), "").unwrap();
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It serves faults of a part of its memory itself, for a while.
const SERVING: &str = r#"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LEN (16L << 20)
#define PART (8L << 20)
static int file;
static void *serve(void *none) {
    static char page[4096] __attribute__((aligned(4096)));
    struct uffd_msg message;
    while (read(file, &message, sizeof message) == sizeof message) {
        memset(page, 77, sizeof page);
        struct uffdio_copy copy = { message.arg.pagefault.address & ~4095UL, (unsigned long)page, 4096, 0, 0 };
        ioctl(file, UFFDIO_COPY, &copy);
    }
    return none;
}
static void step(char **words, int n) {
    close(creat(words[2 * n - 1], 0600));
    while (access(words[2 * n], F_OK)) usleep(10000);
}
static int differs(char *at) {
    for (long k = 0; k < LEN; k += 64) if (at[k] != (k / 4096 == 3 ? 77 : (char)(k / 64 + 1))) return 1;
    return 0;
}
int main(int count, char **words) {
    char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long k = 0; k < LEN; k += 64) at[k] = (char)(k / 64 + 1);
    step(words, 1);
    file = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = { .api = UFFD_API };
    if (file < 0 || ioctl(file, UFFDIO_API, &api)) { perror("userfaultfd"); return 1; }
    struct uffdio_register range = { .range = { (unsigned long)at, PART }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    if (ioctl(file, UFFDIO_REGISTER, &range)) { perror("UFFDIO_REGISTER"); return 2; }
    pthread_t thread;
    pthread_create(&thread, NULL, serve, NULL);
    if (madvise(at + 3 * 4096, 4096, MADV_DONTNEED)) return 3;
    step(words, 2);
    if (differs(at) || ioctl(file, UFFDIO_UNREGISTER, &range.range)) return 4;
    step(words, 3);
    if (differs(at)) return 5;
    puts("kept");
    return 0;
}
"#;

#[test]
fn a_program_can_serve_faults_of_its_memory_itself() {
    if !can("a_program_can_serve_faults_of_its_memory_itself", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let serving = program(place.path(), "serving", SERVING);
    let files: Vec<_> = (0..6).map(|k| place.path().join(k.to_string())).collect();
    let mut program = vec![serving.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &LIMIT, &program), 120);
    let pid = running.program().to_string();
    for (step, (least, most)) in [(16, 24), (8, 16), (16, 24)].into_iter().enumerate() {
        while !files[2 * step].exists() {
            assert!(running.is_running(), "{}", shown(&running.finish()));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        until_vm(&mut running, place.path(), |vm| {
            good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
            let out = vm["out"].as_u64().unwrap_or(0);
            let registered = vm["registered"].as_u64().unwrap_or(0);
            (least * MIB..most * MIB).contains(&registered) && out >= least * MIB
        });
        std::fs::write(&files[2 * step + 1], "").unwrap();
    }
    assert_eq!(good(&running.finish()), "kept\n");
}

#[test]
fn descriptors_that_are_made_while_it_runs_lie_out_of_the_way_too() {
    if !can("descriptors_that_are_made_while_it_runs_lie_out_of_the_way_too", &["python3"]) {
        return;
    }
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let (swap, go) = (place.path().join("swap"), place.path().join("go"));
    // What does not shrink is written and read while children have it and are born.
    let script = "
import os, sys, threading
held = [bytearray(os.urandom(1 << 20)) for _ in range(24)]
whole = [hash(bytes(one)) for one in held]
wrong = []
def read():
    for _ in range(2): wrong.extend(k for k in range(24) if hash(bytes(held[k])) != whole[k])
def fork():
    for _ in range(4):
        pid = os.fork()
        if pid == 0: os._exit(any(hash(bytes(held[k])) != whole[k] for k in range(0, 24, 5)))
        wrong.extend([pid] * os.waitpid(pid, 0)[1])
threads = [threading.Thread(target=one) for one in [read, read, fork, fork]]
[one.start() for one in threads]
[one.join() for one in threads]
while not os.path.exists(sys.argv[1]): pass
print(len(wrong))";
    let options =
        ["--memory-max", "8M", "--pool-limit", "2M", "--swap-size", "64M", "--swapfile", swap.to_str().unwrap()];
    let program = ["python3", "-c", script, go.to_str().unwrap()];
    let mut running = Deadlined::start(&mut run(place.path(), &options, &program), 240);
    let fds = format!("/proc/{}/fd", running.program());
    let mut rings = std::collections::BTreeSet::new();
    let since = std::time::Instant::now();
    while rings.is_empty() || since.elapsed().as_secs() < 4 {
        assert!(running.is_running(), "{}", shown(&running.finish()));
        let ours = std::fs::read_dir(&fds).unwrap().flatten().filter_map(|fd| {
            let is_ring = std::fs::read_link(fd.path()).ok()?.to_str()?.contains("io_uring");
            is_ring.then(|| fd.file_name().to_str()?.parse::<u32>().ok())?
        });
        rings.extend(ours);
        if rings.is_empty() && since.elapsed().as_secs() > 20 {
            return support::skip("descriptors_that_are_made_while_it_runs_lie_out_of_the_way_too", "no io_uring here");
        }
    }
    std::fs::write(&go, "").unwrap();
    assert_eq!(good(&running.finish()), "0\n");
    assert!(rings.iter().all(|fd| *fd >= 512), "{rings:?}");
}

/// The smallest mappings lie where libraries have their data, and threads of ours use that.
#[test]
fn mappings_of_any_size_can_be_under_the_limit() {
    if !can("mappings_of_any_size_can_be_under_the_limit", &["python3"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let script = format!(
        "{HOLDS}
import threading
threads = [threading.Thread(target=lambda: [hash(one) for one in held]) for _ in range(4)]
[one.start() for one in threads]
print([fork() for _ in range(3)], [one.join() for one in threads], sum(map(hash, held)) == whole)"
    );
    for least in ["0", "4096", "64K"] {
        let options = ["--memory-max", "6M", "--least", least];
        let output = finish(&mut run(place.path(), &options, &["python3", "-c", &script]), 120);
        assert_eq!(good(&output), "[0, 0, 0] [None, None, None, None] True\n", "{least}: {}", shown(&output));
    }
}

/// It replaces pieces of its memory by new ones at the same addresses, as collectors and runtimes do, at a limit at which each look at a region takes
/// long; and looks whether it has its bytes.
const REPLACING: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#define PIECE (256L << 10)
#define PIECES 160
static char *base;
static unsigned char made[PIECES];
static char byte(int n, long k) { return (char)(n * 7 + made[n] * 13 + k / 64 + 1); }
static void map(int n, int protection) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (protection ? 0 : MAP_NORESERVE);
    if (mmap(base + n * PIECE, PIECE, protection, flags, -1, 0) == MAP_FAILED) exit(1);
}
static void make(int n) {
    map(n, PROT_READ | PROT_WRITE);
    made[n]++;
    for (long k = 0; k < PIECE; k += 64) base[n * PIECE + k] = byte(n, k);
}
int main(int count, char **words) {
    base = mmap(NULL, PIECES * PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int n = 0; n < PIECES; n++) make(n);
    srand(7);
    for (time_t end = time(NULL) + 6; time(NULL) < end; usleep(rand() % 3000)) {
        int n = rand() % PIECES;
        if (rand() % 3 == 0) {
            map(n, PROT_NONE);
            if (rand() % 2) usleep(rand() % 3000);
            make(n);
        } else {
            for (long k = 0; k < PIECE; k += 64)
                if (base[n * PIECE + k] != byte(n, k)) { printf("byte %ld of piece %d is %d\n", k, n, base[n * PIECE + k]); return 2; }
        }
    }
    puts("kept");
    return 0;
}
"#;

#[test]
fn memory_that_is_replaced_where_it_is_has_its_new_bytes() {
    if !can("memory_that_is_replaced_where_it_is_has_its_new_bytes", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let replacing = program(place.path(), "replacing", REPLACING);
    let output = finish(&mut run(place.path(), &["--memory-max", "24M"], &[replacing.to_str().unwrap()]), 120);
    assert_eq!(good(&output), "kept\n", "{}", shown(&output));
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
