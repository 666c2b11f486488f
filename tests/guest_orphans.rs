//! Children of fork whose parent, who served their memory, is gone without a word: each page is as it was, or its touch is a SIGBUS. Never zeroes.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/family.rs"]
mod family;
#[path = "support/forked.rs"]
mod forked;
#[path = "support/served.rs"]
mod served;
mod support;

use family::*;
use forked::fork;
use served::*;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a page whose touch was a SIGBUS reads as from then on.
const TOLD: u64 = 0xB05B_05B0_5B05_B05B;

/// Have a SIGBUS map a page of [`TOLD`] where it happened.
fn be_told() {
    extern "C" fn told(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the kernel's own.
        let info = unsafe { &*info };
        // SAFETY: of that kind.
        let page = unsafe { info.si_addr() }.addr() & !(PAGE - 1);
        let at = std::ptr::with_exposed_provenance_mut(page);
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: over a page of the test's that cannot be had.
        unsafe { libc::mmap(at, PAGE, prot, flags, -1, 0) };
        // SAFETY: mapped right now.
        (0..PAGE / 8).for_each(|k| unsafe { at.cast::<u64>().wrapping_add(k).write_volatile(TOLD) });
    }
    // SAFETY: all zeroes are good values.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = told as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a handler of that kind.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) }, 0);
}

/// One line to standard output, without an allocator.
fn say(name: &str, numbers: &[usize]) {
    use std::io::Write;
    let mut line = [0u8; 128];
    let mut rest = &mut line[..];
    write!(rest, "{name}").unwrap();
    numbers.iter().for_each(|number| write!(rest, " {number}").unwrap());
    writeln!(rest).unwrap();
    let left = rest.len();
    // SAFETY: the line.
    unsafe { libc::write(1, line.as_ptr().cast(), 128 - left) };
}

/// Look at all pages: so many are what they were, so many were told, and so many are neither.
fn look(name: &str, mapping: &Mapping) {
    let (mut same, mut told, mut wrong) = (0, 0, 0);
    for page in 0..mapping.pages() {
        // SAFETY: the test's memory.
        let word = |k: usize| unsafe { mapping.at(page).wrapping_add(k).read_volatile() };
        let all = |value: u64| (0..512).all(|k| word(k) == value);
        let was = match page {
            0..400 => mapping.is(page..page + 1, 1),
            400..450 => all(page as u64),
            _ => all(0),
        };
        match was {
            true => same += 1,
            false if all(TOLD) => told += 1,
            false => wrong += 1,
        }
    }
    say(name, &[same, told, wrong]);
}

/// In a child: wait until its parent is gone.
fn until_orphaned(parent: i32) {
    // SAFETY: takes nothing.
    while unsafe { libc::getppid() } == parent {
        std::thread::yield_now();
    }
}

/// In a child, without an allocator: wait until its parent, whose name stands in that file, is the program `sleep`.
fn until_another_program(name: &std::ffi::CStr) {
    let mut text = [0u8; 5];
    while text != *b"sleep" {
        // SAFETY: a path.
        let file = unsafe { libc::open(name.as_ptr(), libc::O_RDONLY) };
        // SAFETY: room for what is read.
        unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
        // SAFETY: opened here.
        unsafe { libc::close(file) };
    }
}

/// In the parent of one child: wait until that is known, and held for it if this process ends. Right after the fork it may be neither.
fn until_served(family: &Family) {
    until("the child is known", || family.vm.service_stats().children > 0);
}

/// Two counters that processes share.
fn counters() -> &'static [AtomicUsize; 2] {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: memory of its own.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: zeroes, which are counters, and nobody unmaps them.
    unsafe { &*at.cast() }
}

fn pid() -> i32 {
    std::process::id() as i32
}

fn kill(pid: i32) {
    // SAFETY: takes numbers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// The numbers of each line of that name.
fn lines(output: &Output, name: &str) -> Vec<Vec<usize>> {
    let text = String::from_utf8_lossy(&output.stdout);
    let ours = text.lines().filter_map(|line| line.split_once(name).map(|(_, numbers)| numbers.to_owned()));
    ours.map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect()
}

/// The process of the guardian, which is no child that anybody waits for, as soon as it has settled in.
fn guardian() -> i32 {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(20) {
        for task in std::fs::read_dir(format!("/proc/{}/task", pid())).unwrap() {
            let children = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let of = |what: &str| std::fs::read_to_string(format!("/proc/{child}/{what}")).unwrap_or_default();
                let descriptors = std::fs::read_dir(format!("/proc/{child}/fd")).map_or(0, Iterator::count);
                if of("comm").trim() == "zspool-guardian" && descriptors == 3 {
                    return child.parse().unwrap();
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("there is no guardian");
}

#[test]
fn a_child_of_a_parent_that_is_killed_reads_what_was_there_or_is_told() {
    let name = "a_child_of_a_parent_that_is_killed_reads_what_was_there_or_is_told";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1).kernel_faults(true));
        let parent = pid();
        fork(|| {
            be_told();
            until_orphaned(parent);
            // The kernel's accesses as well: an error, and nothing written.
            // SAFETY: a page of the test's, and /dev/null would not look at it.
            let (mut ends, page) = ([0; 2], family.mapping.at(10).cast());
            // SAFETY: room for two.
            unsafe { libc::pipe(ends.as_mut_ptr()) };
            // SAFETY: as above.
            let written = unsafe { libc::write(ends[1], page, PAGE) };
            say("written", &[(written + 1) as usize]);
            // A child that is born now, of an orphan.
            let grandchild = fork(|| {
                look("grandchild", &family.mapping);
                0
            });
            forked::wait(grandchild);
            look("child", &family.mapping);
            0
        });
        until_served(&family);
        kill(parent);
    })
    .unwrap();
    for who in ["grandchild", "child"] {
        let line = lines(&output, &format!("{who} ")).first().cloned().unwrap_or_default();
        let [same, told, wrong] = line[..] else { panic!("{}", said_all(&output)) };
        assert_eq!(wrong, 0, "{who}: {}", said_all(&output));
        // 300 and more are out; what was in memory is there.
        assert!(same >= 100 && told >= 200 && same + told == 500, "{who}: {}", said_all(&output));
    }
    assert_eq!(lines(&output, "written "), [[0]], "EFAULT: {}", said_all(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is gone, and 1 children of its live on"), "{text}");
}

fn said_all(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_child_that_is_just_born_when_its_parent_is_killed_never_reads_zeroes() {
    let name = "a_child_that_is_just_born_when_its_parent_is_killed_never_reads_zeroes";
    if !told_of_forks(name) {
        return;
    }
    for round in 0..12usize {
        let output = in_a_process_with(name, &[("ZSPOOL_TEST_ROUND", &round.to_string())], || {
            let round: usize = std::env::var("ZSPOOL_TEST_ROUND").unwrap().parse().unwrap();
            let [begun, born] = counters();
            let family = family(parent(2).follow(zspool::guest::Follow::Mappings));
            let parent = pid();
            // Another process kills it, while it forks: as soon as a fork begins, or as soon as a child is born, or a little later.
            let (of, count) = (if round.is_multiple_of(2) { begun } else { born }, 1 + round / 2);
            fork(|| {
                while of.load(Relaxed) < count {}
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(300 * (round as u64 % 3)) {}
                kill(parent);
                0
            });
            for _ in 0..10 {
                begun.fetch_add(1, Relaxed);
                fork(|| {
                    family.engine.fork_child(); // or it ends here
                    born.fetch_add(1, Relaxed);
                    be_told();
                    look("child", &family.mapping);
                    0
                });
            }
            std::thread::sleep(Duration::from_secs(50)); // until it is killed
        })
        .unwrap();
        let looks = lines(&output, "child ");
        assert!(looks.iter().all(|line| line.len() == 3 && line[2] == 0), "{}", said_all(&output));
        assert!(round.is_multiple_of(2) || looks.len() > round / 2, "all that were born looked: {}", said_all(&output));
    }
}

#[test]
fn a_child_whose_parent_crashes_or_executes_something_else_is_told_too() {
    let name = "a_child_whose_parent_crashes_or_executes_something_else_is_told_too";
    if !told_of_forks(name) {
        return;
    }
    for end in ["abort", "exec", "exit"] {
        let output = in_a_process_with(name, &[("ZSPOOL_TEST_END", end)], || {
            let family = family(parent(1));
            let parent = pid();
            let exec = std::env::var("ZSPOOL_TEST_END").unwrap() == "exec";
            let parents_name = std::ffi::CString::new(format!("/proc/{parent}/comm")).unwrap();
            fork(|| {
                be_told();
                if exec {
                    until_another_program(&parents_name)
                } else {
                    until_orphaned(parent)
                }
                look("child", &family.mapping);
                0
            });
            until_served(&family);
            match std::env::var("ZSPOOL_TEST_END").unwrap().as_str() {
                "abort" => std::process::abort(),
                // Without a word to the engine.
                // SAFETY: ends it.
                "exit" => unsafe { libc::_exit(3) },
                _ => {
                    use std::os::unix::process::CommandExt;
                    let error = std::process::Command::new("sleep").arg("1").exec();
                    panic!("{error}");
                }
            }
        })
        .unwrap();
        let seen = lines(&output, "child ");
        assert_eq!(seen.len(), 1, "{end}: {}", said_all(&output));
        assert!(seen[0][2] == 0 && seen[0][1] >= 200, "{end}: {}", said_all(&output));
    }
}

#[test]
fn a_child_whose_parent_says_that_it_ends_is_told_nothing_and_has_everything() {
    let name = "a_child_whose_parent_says_that_it_ends_is_told_nothing_and_has_everything";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1));
        let parent = pid();
        fork(|| {
            until_orphaned(parent);
            // The guardian, if it took this one for an orphan, would poison what was never touched.
            std::thread::sleep(Duration::from_millis(100));
            look("child", &family.mapping);
            0
        });
        family.engine.settle_children();
        kill(parent);
    })
    .unwrap();
    assert_eq!(lines(&output, "child "), [[500, 0, 0]], "{}", said_all(&output));
    assert!(!said_all(&output).contains("is gone"), "{}", said_all(&output));
}

#[test]
fn a_child_waits_rather_than_read_zeroes_when_the_guardian_is_killed_as_well() {
    let name = "a_child_waits_rather_than_read_zeroes_when_the_guardian_is_killed_as_well";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1));
        let (parent, guardian) = (pid(), guardian());
        fork(|| {
            until_orphaned(parent);
            say("ORPHANED", &[]);
            // SAFETY: a timer, whose signal ends the process.
            unsafe { libc::alarm(2) };
            say("READ", &[family.mapping.is(0..1, 1).into()]);
            0
        });
        until_served(&family);
        kill(guardian);
        kill(parent);
    })
    .unwrap();
    assert_eq!(lines(&output, "ORPHANED").len(), 1, "{}", said_all(&output));
    assert!(lines(&output, "READ").is_empty(), "{}", said_all(&output));
}

#[test]
fn the_guardian_is_small_and_ends_with_its_parent() {
    let name = "the_guardian_is_small_and_ends_with_its_parent";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        // What was there before the first VM: not to be kept by a copy of it.
        let large = vec![1u8; 64 << 20];
        let family = family(parent(1));
        let guardian = guardian();
        let resident = || -> usize {
            let status = std::fs::read_to_string(format!("/proc/{guardian}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let since = Instant::now();
        while resident() >= 2048 && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let kibibytes = resident();
        let descriptors = std::fs::read_dir(format!("/proc/{guardian}/fd")).unwrap().count();
        say("guardian", &[guardian as usize, kibibytes, descriptors]);
        assert!(large[5] == 1);
        // A child that ends, and one that misses nothing, are no wards.
        assert_eq!(forked::wait(fork(|| 0)), 0);
        drop(family);
        // SAFETY: nobody is waited for: ECHILD.
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }, -1);
    })
    .unwrap();
    well(&output);
    let line = lines(&output, "guardian ").first().cloned().unwrap_or_default();
    let [guardian, kibibytes, descriptors] = line[..] else { panic!("{}", said_all(&output)) };
    assert!(kibibytes < 2048 && descriptors == 3, "{kibibytes} KiB, {descriptors} descriptors");
    until("the guardian ends", || {
        let state = std::fs::read_to_string(format!("/proc/{guardian}/stat"));
        state.map_or(true, |state| state.contains(") Z "))
    });
}
