//! What programs under a limit do that few do, or that all do and that would hit us: allocators of their own, descriptors at numbers of their choice,
//! memory that grows, moves and is replaced.
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
    running.until(&files[0]);
    // Ten of four mebibytes, smaller ones, and what the C library has; were they not joined, there would be 160.
    let vm = until_vm(&mut running, place.path(), |vm| vm["registered"].as_u64() >= Some(40 * MIB));
    assert!(vm["regions"].as_u64() <= Some(10 + 5 + 2), "{vm:#}");
    std::fs::write(&files[1], "").unwrap();
    assert_eq!(good(&running.finish()), "kept\n");
}

/// It moves memory of which the first half is registered and the second half is younger, in each way there is.
const MOVING: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (8L << 20)
#define ROOM (4 * LEN) /* of which the first two parts move, and the last one stays empty */
#define BESIDE (1L << 30) /* where others map things, and not where something has moved */
#define USE(at) mmap(at, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
enum { FAR, HERE, THERE, ONTO_ITSELF, SPARSE, GUARDED, WAYS };
static char *all[WAYS], *to[WAYS];
static void fill(char *at, int with) { for (long k = 0; k < LEN; k += 64) at[k] = (char)(k / 64 + with); }
static int differs(char *at, int with) {
    for (long k = 0; k < LEN; k += 64) if (at[k] != (char)(with ? k / 64 + with : 0)) return 1;
    return 0;
}
static void step(char **words, int n) {
    close(creat(words[2 * n - 1], 0600));
    while (access(words[2 * n], F_OK)) usleep(10000);
}
static void wrong(char *what, int way) { printf("%s in way %d\n", what, way); exit(1); }
int main(int count, char **words) {
    char *room = mmap(NULL, (WAYS + 1) * ROOM + BESIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(room + (WAYS + 1) * ROOM, BESIDE);
    for (int way = 0; way < WAYS; way++) fill(USE(all[way] = room + way * ROOM), 1);
    step(words, 1);
    for (int way = 0; way < WAYS; way++) {
        USE(all[way] + LEN);
        if (way != SPARSE) fill(all[way] + LEN, 2);
        if (way == GUARDED && mprotect(all[way] + LEN, 4096, PROT_NONE)) return 2;
        int flags = way == HERE ? 0 : way == THERE || way == ONTO_ITSELF ? MREMAP_MAYMOVE | MREMAP_FIXED : MREMAP_MAYMOVE;
        char *there = way == THERE ? room + WAYS * ROOM : way == ONTO_ITSELF ? all[way] + LEN : NULL;
        if (way == HERE) munmap(all[way] + 2 * LEN, LEN);
        to[way] = mremap(all[way], 2 * LEN, way == THERE || way == ONTO_ITSELF ? 2 * LEN : 3 * LEN, flags, there);
        if (way == ONTO_ITSELF || way == GUARDED) {
            if (to[way] != MAP_FAILED || errno != (way == GUARDED ? EFAULT : EINVAL)) wrong("no error", way);
            to[way] = all[way];
            if (way == GUARDED && mprotect(all[way] + LEN, 4096, PROT_READ | PROT_WRITE)) return 3;
        } else {
            if (to[way] == MAP_FAILED) { perror("mremap"); wrong("an error", way); }
            if ((way == HERE) != (to[way] == all[way]) || way == THERE && to[way] != there) wrong("another place", way);
        }
        int is_longer = way == FAR || way == HERE || way == SPARSE || way == GUARDED;
        if (way != GUARDED && is_longer && differs(to[way] + 2 * LEN, 0)) wrong("no zeroes", way);
    }
    step(words, 2);
    for (int way = 0; way < WAYS; way++)
        if (differs(to[way], 1) || differs(to[way] + LEN, way == SPARSE ? 0 : 2)) wrong("other bytes", way);
    puts("all have moved");
    return 0;
}
"#;

#[test]
fn what_the_program_has_as_one_mapping_moves_as_one() {
    if !can("what_the_program_has_as_one_mapping_moves_as_one", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let moving = program(place.path(), "moving", MOVING);
    let files: Vec<_> = (0..4).map(|k| place.path().join(k.to_string())).collect();
    let mut program = vec![moving.to_str().unwrap()];
    program.extend(files.iter().map(|file| file.to_str().unwrap()));
    let mut running = Deadlined::start(&mut run(place.path(), &["--memory-max", "32M"], &program), 120);
    // At first six parts; then all of it where it is now, and nothing where it was.
    for (step, parts) in [6, 3 + 3 + 2 + 2 + 3 + 2].into_iter().enumerate() {
        running.until(&files[2 * step]);
        let found = |vm: &serde_json::Value| {
            vm["registered"].as_u64() > Some((parts * 8 - 1) * MIB) && vm["resident"].as_u64() <= Some(32 * MIB)
        };
        let vm = until_vm(&mut running, place.path(), found);
        assert!(vm["registered"].as_u64() < Some((parts * 8 + 4) * MIB), "{vm:#}");
        std::fs::write(&files[2 * step + 1], "").unwrap();
    }
    assert_eq!(good(&running.finish()), "all have moved\n");
    // And so it is without us.
    assert_eq!(good(&Command::new(program[0]).args(&program[1..]).output().unwrap()), "all have moved\n");
}

/// Its threads end from deep within, by `pthread_exit`, or are cancelled while they map memory, use it and let it go.
const ENDING: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define LEN (2L << 20)
static int cleaned, ready[8];
static void clean(void *none) { __sync_fetch_and_add(&cleaned, 1); }
static void deep(long n) { if (n) deep(n - 1); else pthread_exit((void *)77); }
static void *exits(void *n) {
    pthread_cleanup_push(clean, NULL);
    deep((long)n);
    pthread_cleanup_pop(1);
    return NULL;
}
static void *is_cancelled(void *n) {
    pthread_cleanup_push(clean, NULL);
    for (int round = 0;; round++) {
        char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(at, round, LEN);
        if (mprotect(at, LEN, PROT_READ) || mlock(at, 8192) || munlock(at, 8192) || munmap(at, LEN)) exit(3);
        free(realloc(malloc(3 << 20), 5 << 20));
        ready[(long)n] = 1;
        pthread_testcancel();
    }
    pthread_cleanup_pop(1);
    return NULL;
}
int main(void) {
    char *held = malloc(24 << 20);
    for (int k = 0; k < 24 << 20; k += 64) held[k] = (char)(k / 64 + 1);
    for (int round = 0; round < 4; round++) {
        pthread_t threads[8];
        for (long n = 0; n < 8; n++) ready[n] = 0, pthread_create(&threads[n], NULL, n % 2 ? exits : is_cancelled, (void *)n);
        for (long n = 0; n < 8; n++) {
            void *ended;
            if (n % 2 == 0) { while (!*(volatile int *)&ready[n]) usleep(100); pthread_cancel(threads[n]); }
            pthread_join(threads[n], &ended);
            if (ended != (n % 2 ? (void *)77 : PTHREAD_CANCELED)) return 1;
        }
    }
    for (int k = 0; k < 24 << 20; k += 64) if (held[k] != (char)(k / 64 + 1)) return 2;
    printf("%d\n", cleaned);
    return 0;
}
"#;

#[test]
fn threads_end_as_they_like() {
    if !can("threads_end_as_they_like", &["cc"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let ending = program(place.path(), "ending", ENDING);
    let output = finish(&mut run(place.path(), &["--memory-max", "12M"], &[ending.to_str().unwrap()]), 240);
    assert_eq!(good(&output), "32\n");
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
        running.until(&files[2 * step]);
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
