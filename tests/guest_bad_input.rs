//! Memory that cannot be registered, and kernels and users that cannot have a descriptor: a sentence each that says what to do.
#![cfg(all(feature = "guest", target_os = "linux"))]

mod support;
#[path = "support/uffd.rs"]
mod uffd;

use uffd::*;
use zspool::guest::memory::backer::{Backer, WANTED};
use zspool::guest::memory::{Memory, Method, Refusal};
use zspool::guest::uffd::{Ask, Descriptor, Error, Features, Modes, Way};

/// A refusal as its user sees it: a sentence, with what to do in it.
#[track_caller]
fn refused(memory: &Memory, says: &str, does: &str) -> Refusal {
    let refusal = memory.inspect().expect_err("it cannot be registered");
    sentence(&refusal.to_string(), says, does);
    refusal
}

#[track_caller]
fn sentence(text: &str, says: &str, does: &str) {
    assert!(
        text.ends_with('.') && text.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == '/'),
        "{text}"
    );
    assert!(text.contains(says), "{says:?} is not in: {text}");
    assert!(text.contains(does), "{does:?} is not in: {text}");
}

fn anonymous(map: &Mapped) -> Memory {
    Memory::anonymous(map.pointer(), map.bytes)
}

fn protect(map: &Mapped, first: usize, pages: usize, access: i32) {
    // SAFETY: the test's own memory.
    assert_eq!(unsafe { libc::mprotect(map.page(first) as *mut _, pages * PAGE, access) }, 0);
}

fn run(program: &str, arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(program).args(arguments).output().expect("it runs")
}

#[test]
fn fit_memory_is_not_refused() {
    let map = Mapped::anonymous(16);
    assert_eq!(anonymous(&map).inspect().expect("it is fit").mappings, 1);
    let map = Mapped::memfd(16);
    let file = map.file.as_ref().expect("its file");
    let inspected = Memory::memfd(map.pointer(), map.bytes, file, 0).inspect().expect("it is fit");
    // Other processes come and go, but one's parent is there.
    assert!(inspected.processes + inspected.hidden_processes > 0, "{inspected:?}");
    // The heap is anonymous memory too: what an unmodified program has.
    let heap = std::fs::read_to_string("/proc/self/maps").expect("maps");
    if let Some(line) = heap.lines().find(|line| line.ends_with("[heap]")) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let (start, end) =
            (usize::from_str_radix(start, 16).expect("hex"), usize::from_str_radix(end, 16).expect("hex"));
        Memory::anonymous(start as *mut u8, end - start).inspect().expect("it is fit");
    }
}

#[test]
fn an_empty_range() {
    let map = Mapped::anonymous(1);
    refused(&Memory::anonymous(map.pointer(), 0), "empty", "at least one page");
}

#[test]
fn a_range_that_is_not_in_whole_pages() {
    let map = Mapped::anonymous(4);
    for (from, bytes) in [(0, PAGE - 1), (0, PAGE + 1), (1, PAGE), (8, 2 * PAGE - 8)] {
        let memory = Memory::anonymous((map.address + from) as *mut u8, bytes);
        refused(&memory, "not in whole pages", "multiples of 4096");
    }
}

#[test]
fn a_range_of_more_pages_than_have_numbers() {
    let map = Mapped::anonymous(1);
    refused(
        &Memory::anonymous(map.pointer(), (u32::MAX as usize + 1) * PAGE),
        "too many for one region",
        "further regions",
    );
    // One that would pass the end of the address space is no other case.
    refused(&Memory::anonymous(map.pointer(), usize::MAX - PAGE + 1), "", "");
}

#[test]
fn a_range_that_is_not_mapped_or_has_a_gap() {
    let mut map = Mapped::anonymous(16);
    // SAFETY: the test's own memory, which is mapped again at once so that nobody else gets the place.
    assert_eq!(unsafe { libc::munmap(map.page(12) as *mut _, 4 * PAGE) }, 0);
    let refusal = refused(&anonymous(&map), "is not mapped", "leave it out");
    let Refusal::NotMapped { start, .. } = refusal else { panic!("{refusal:?}") };
    assert_eq!(start, map.page(12));
    map.bytes = 12 * PAGE;
    // A gap at the start, inside, and nothing at all.
    let low = 0x1000 as *mut u8;
    refused(&Memory::anonymous(low, PAGE), "is not mapped", "map it first");
}

#[test]
fn a_range_without_any_access() {
    let map = Mapped::with(8 * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0);
    refused(&anonymous(&map), "PROT_NONE", "leave reserved and guard pages out");
    protect(&map, 0, 4, libc::PROT_READ | libc::PROT_WRITE);
    let refusal = refused(&anonymous(&map), "PROT_NONE", "made readable and writable");
    let Refusal::NoAccess { start, end } = refusal else { panic!("{refusal:?}") };
    assert_eq!(start..end, map.span(4, 4));
}

#[test]
fn a_range_that_cannot_be_written_or_read() {
    for (access, letters) in [
        (libc::PROT_READ, "r--p"),
        (libc::PROT_READ | libc::PROT_EXEC, "r-xp"),
        (libc::PROT_WRITE, "-w-p"),
        (libc::PROT_EXEC, "--xp"),
    ] {
        let map = Mapped::anonymous(8);
        protect(&map, 2, 1, access);
        refused(&anonymous(&map), letters, "mprotect it first");
    }
}

#[test]
fn a_private_mapping_of_a_file() {
    let file = std::fs::File::open(std::env::current_exe().expect("a path")).expect("this program");
    let map = Mapped::with(
        PAGE,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE,
        Some(std::os::fd::OwnedFd::from(file)),
        0,
    );
    refused(&anonymous(&map), "private mapping of /", "copy it to anonymous memory");
    // A private mapping of a memfd too, whatever it was said to be.
    let map = Mapped::with(PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, Some(memfd(1, 0)), 0);
    refused(&anonymous(&map), "private mapping of /memfd:guest", "Leave it out");
    let memory = Memory::memfd(map.pointer(), map.bytes, map.file.as_ref().expect("its file"), 0);
    refused(&memory, "not a shared mapping", "MAP_SHARED");
}

#[test]
fn shared_memory_that_was_said_to_be_private() {
    let map = Mapped::memfd(4);
    refused(&anonymous(&map), "shared memory (/memfd:guest", "use `Memory::memfd`");
    let nameless =
        Mapped::with(PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None, 0);
    refused(&anonymous(&nameless), "MAP_SHARED | MAP_ANONYMOUS has none", "map a memfd instead");
}

#[test]
fn stacks_and_the_kernels_own_pages() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    for name in ["[stack]", "[vvar]", "[vdso]"] {
        let Some(line) = maps.lines().find(|line| line.ends_with(name)) else { continue };
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let (start, end) =
            (usize::from_str_radix(start, 16).expect("hex"), usize::from_str_radix(end, 16).expect("hex"));
        refused(&Memory::anonymous(start as *mut u8, end - start), name, "leave it out");
    }
}

#[test]
fn huge_pages_of_hugetlbfs() {
    // The mapping needs no huge page to be there when nothing is reserved for it.
    // SAFETY: a new mapping wherever the kernel likes.
    let address = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
        libc::mmap(std::ptr::null_mut(), 2 << 20, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if address == libc::MAP_FAILED {
        return support::skip("huge_pages_of_hugetlbfs", "the kernel has no hugetlbfs");
    }
    let map = Mapped { address: address as usize, bytes: 2 << 20, file: None };
    refused(&anonymous(&map), "huge pages (hugetlb)", "map normal pages");
    let file = memfd(512, libc::MFD_HUGETLB);
    let map = Mapped::with(
        2 << 20,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_NORESERVE,
        Some(file),
        0,
    );
    let memory = Memory::memfd(map.pointer(), map.bytes, map.file.as_ref().expect("its file"), 0);
    refused(&memory, "huge pages (hugetlb)", "map normal pages");
}

#[test]
fn locked_memory() {
    let map = Mapped::anonymous(8);
    // SAFETY: locks memory of the test's.
    if unsafe { libc::mlock(map.page(2) as *const _, 2 * PAGE) } != 0 {
        return support::skip("locked_memory", "mlock is not permitted");
    }
    let refusal = refused(&anonymous(&map), "is locked in memory", "munlock it first");
    let Refusal::Locked { start, end } = refusal else { panic!("{refusal:?}") };
    assert_eq!(start..end, map.span(2, 2));
    // Beside it nothing is locked.
    Memory::anonymous(map.page(4) as *mut u8, 4 * PAGE).inspect().expect("it is fit");
}

#[test]
fn a_descriptor_that_is_not_the_memory_s() {
    let map = Mapped::memfd(4);
    let memory = |file: &std::os::fd::OwnedFd, offset| Memory::memfd(map.pointer(), map.bytes, file, offset);
    let mine = map.file.as_ref().expect("its file");
    refused(&memory(&memfd(4, 0), 0), "does not show the memfd from offset 0", "pass the descriptor and the offset");
    refused(
        &memory(mine, PAGE as u64),
        "does not show the memfd from offset 4096",
        "the offset that the range was mapped with",
    );
    let file = std::fs::File::open(std::env::current_exe().expect("a path")).expect("this program");
    refused(&memory(&file.into(), 0), "not of a memfd", "memfd_create");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    refused(&memory(&reader.into(), 0), "not of a memfd", "memfd_create");
}

#[test]
fn a_memfd_that_ends_inside_the_range() {
    let map = Mapped::with(8 * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, Some(memfd(5, 0)), 0);
    let memory = Memory::memfd(map.pointer(), map.bytes, map.file.as_ref().expect("its file"), 0);
    refused(&memory, "has 20480 bytes and the range ends at 32768", "ftruncate");
}

#[test]
fn a_sealed_memfd() {
    use std::os::fd::AsRawFd;
    let map = Mapped::with(
        PAGE,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
        Some(memfd(1, libc::MFD_ALLOW_SEALING)),
        0,
    );
    let file = map.file.as_ref().expect("its file");
    Memory::memfd(map.pointer(), map.bytes, file, 0).inspect().expect("it is fit");
    // SAFETY: seals the test's own file. (F_SEAL_WRITE is refused by the kernel while a writable mapping is there.)
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) }, 0);
    refused(&Memory::memfd(map.pointer(), map.bytes, file, 0), "F_SEAL_FUTURE_WRITE", "create it without that seal");
}

#[test]
fn a_memfd_that_this_process_maps_twice() {
    use std::os::fd::AsFd;
    let map = Mapped::memfd(8);
    let file = map.file.as_ref().expect("its file");
    let again = file.as_fd().try_clone_to_owned().expect("a descriptor");
    let other = Mapped::with(2 * PAGE, libc::PROT_READ, libc::MAP_SHARED, Some(again), 6 * PAGE);
    let refusal = refused(&Memory::memfd(map.pointer(), map.bytes, file, 0), "mapped a second time", "Unmap it");
    let Refusal::MappedTwice { other: at } = refusal else { panic!("{refusal:?}") };
    assert_eq!(at, other.address);
    // The part of the file that only one of them shows is fit.
    Memory::memfd(map.pointer(), 6 * PAGE, file, 0).inspect().expect("it is fit");
}

#[test]
fn a_memfd_that_another_process_maps() {
    if !alone("a_memfd_that_another_process_maps") {
        return;
    }
    let map = Mapped::memfd(4);
    // A child inherits shared mappings.
    let child = sleeping_child();
    let memory = Memory::memfd(map.pointer(), map.bytes, map.file.as_ref().expect("its file"), 0);
    let refusal = memory.inspect();
    end(child);
    let refusal = refusal.expect_err("the child maps it");
    sentence(&refusal.to_string(), &format!("process {child}"), "unmap it there");
    memory.inspect().expect("it is fit again");
}

fn backer(features: Features) -> Option<Backer> {
    let ask = Ask { features, wanted: WANTED, nonblocking: true, ..Ask::default() };
    Some(Backer::new(uffd::ask(ask)?).expect("a backer"))
}

#[test]
fn a_range_that_is_registered_already_or_overlaps_one() {
    let (Some(one), Some(other)) = (backer(Features::empty()), backer(Features::empty())) else { return };
    let map = Mapped::anonymous(16);
    let part = |first: usize, pages: usize| Memory::anonymous(map.page(first) as *mut u8, pages * PAGE);
    let backing = one.back(&part(4, 8)).expect("a backing");
    backing.register().expect("it is registered");
    for backer in [&one, &other] {
        for (first, pages) in [(4, 8), (0, 5), (11, 5), (6, 2), (0, 16)] {
            let refusal = backer.back(&part(first, pages)).err().expect("it overlaps");
            sentence(&refusal.to_string(), "which is registered", "register each byte once");
        }
        drop(backer.back(&part(0, 4)).expect("a neighbour"));
        drop(backer.back(&part(12, 4)).expect("a neighbour"));
    }
    // Our own staging memory is nobody's to register.
    // SAFETY: the page's place, which is mapped; nothing is read.
    let staged = backing.staged(0) as *mut u8;
    let refusal = other.back(&Memory::anonymous(staged, PAGE)).err().expect("it is ours");
    sentence(&refusal.to_string(), "memory of this library's own", "no memory of this library's own");
}

/// Whether children of fork have what is mapped at an address.
fn is_inherited(address: usize) -> bool {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc");
    let mut lines = text.lines().skip_while(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        !range.is_some_and(|(start, end)| {
            number(start).is_some_and(|start| start <= address) && number(end).is_some_and(|end| address < end)
        })
    });
    let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("the kernel tells flags");
    !flags.split(' ').any(|flag| flag == "dc")
}

#[test]
fn memory_that_was_refused_is_inherited_by_children_as_before() {
    let Some(backer) = backer(Features::empty()) else { return };
    let stranger = descriptor(Features::empty()).expect("as before");
    let map = Mapped::anonymous(8);
    // SAFETY: the test's own memory, which nobody touches.
    unsafe { stranger.register(map.span(0, 8), Modes::MISSING) }.expect("it is registered");
    let backing = backer.back(&anonymous(&map)).expect("a backing");
    assert!(!is_inherited(map.page(3)), "children would share the pages");
    backing.register().expect_err("another descriptor has it");
    drop(backing);
    assert!(is_inherited(map.page(3)), "children lack memory that was refused");
}

#[test]
fn a_range_that_somebody_else_registered_with_the_kernel() {
    let Some(backer) = backer(Features::empty()) else { return };
    let stranger = descriptor(Features::empty()).expect("as before");
    let map = Mapped::anonymous(8);
    // SAFETY: the test's own memory, which nobody touches.
    unsafe { stranger.register(map.span(3, 2), Modes::MISSING) }.expect("it is registered");
    let backing = backer.back(&anonymous(&map)).expect("a backing");
    let refusal = backing.register().expect_err("another descriptor has it");
    sentence(&refusal.to_string(), "is registered with another userfaultfd descriptor", "unregister it there first");
    drop(stranger);
    backing.register().expect("it is free now");
}

#[test]
fn methods_that_do_not_fit_the_memory_or_the_descriptor() {
    // A child of another test's would have the memfd mapped.
    if !alone("methods_that_do_not_fit_the_memory_or_the_descriptor") {
        return;
    }
    let (anon, file) = (Mapped::anonymous(4), Mapped::memfd(4));
    let of_file = || Memory::memfd(file.pointer(), file.bytes, file.file.as_ref().expect("its file"), 0);
    let no = |backer: &Backer, memory: Memory, says: &str, does: &str| {
        let refusal = backer.back(&memory).err().expect("it does not work");
        sentence(&refusal.to_string(), says, does);
    };
    let Some(plain) = backer(Features::empty()) else { return };
    no(&plain, anonymous(&anon).method(Method::Zap), "only a memfd keeps what is unmapped", "Use `Method::Move`");
    no(&plain, of_file().method(Method::Move), "private anonymous memory only", "Use `Method::Zap`");
    assert_eq!(plain.method(&anonymous(&anon)).expect("one works"), Method::Move);
    assert_eq!(plain.method(&of_file()).expect("one works"), Method::Zap);
    if let Some(events) = backer(Features::EVENT_REMOVE) {
        no(&events, anonymous(&anon).method(Method::Protect), "waits for whoever reads events", "Linux 6.8");
        protect(&anon, 1, 1, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
        no(&events, anonymous(&anon), "that may be executed", "leave the events off");
        protect(&anon, 1, 1, libc::PROT_READ | libc::PROT_WRITE);
        no(&events, of_file().method(Method::Zap), "waits for whoever reads events", "Use `Method::Protect`");
        assert_eq!(events.method(&anonymous(&anon)).expect("one works"), Method::Move);
        assert_eq!(events.method(&of_file()).expect("one works"), Method::Protect);
    }
    if let Some(tracking) = backer(Features::WP_ASYNC) {
        no(
            &tracking,
            anonymous(&anon).method(Method::Protect),
            "no way to hold writes off",
            "do without dirty tracking",
        );
        no(&tracking, of_file().method(Method::Protect), "no way to hold writes off", "Linux 6.8");
        assert_eq!(tracking.method(&of_file()).expect("one works"), Method::Zap);
    }
    if let Some(both) = backer(Features::WP_ASYNC | Features::EVENT_REMOVE) {
        no(&both, of_file(), "no way to hold writes off", "do without dirty tracking");
    }
}

#[test]
fn no_address_space_for_the_shadow() {
    // In a process of its own: the limit is the process's.
    if !alone("no_address_space_for_the_shadow") {
        return;
    }
    let Some(backer) = backer(Features::empty()) else { return };
    let map = Mapped::anonymous(1 << 18); // 1 GiB
    let limit = libc::rlimit { rlim_cur: 2 << 30, rlim_max: 2 << 30 };
    // SAFETY: sets a limit of this process's own.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
    let held = Mapped::anonymous(1 << 17);
    let refusal = backer.back(&anonymous(&map)).err().expect("there is no address space");
    drop(held);
    sentence(&refusal.to_string(), "address space for pages on their way out", "raise `ulimit -v`");
}

/// The three ways out, for a user who has none of them.
#[test]
fn no_permission_to_serve_the_kernels_faults() {
    if std::env::var_os("ZSPOOL_TEST_NO_PERMISSION").is_none() {
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } != 0 {
            return check_without_permission();
        }
        // Another user in a process of its own, which a copy of this program is put where that user may read it.
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("test");
        std::fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
        run("chmod", &["-R", "a+rx", folder.path().to_str().expect("a path")]);
        let output = {
            use std::os::unix::process::CommandExt;
            std::process::Command::new(&copy)
                .args(["--exact", "no_permission_to_serve_the_kernels_faults", "--nocapture"])
                .env("ZSPOOL_TEST_NO_PERMISSION", "1")
                .env_remove("ZSPOOL_SKIP_LOG")
                .current_dir("/")
                .uid(65534)
                .gid(65534)
                .output()
                .expect("it runs")
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        if text.contains("skipped") {
            support::skip("no_permission_to_serve_the_kernels_faults", "every user may, here");
        }
        return;
    }
    check_without_permission();
}

fn check_without_permission() {
    let all = Ask { user_mode_only: false, ..Ask::default() };
    let error = match Descriptor::open(all) {
        Err(error) => error,
        Ok(_) => return support::skip("no_permission_to_serve_the_kernels_faults", "every user may, here"),
    };
    assert!(matches!(error, Error::NotPermitted { .. }), "{error:?}");
    let text = error.to_string();
    sentence(&text, "may not serve page faults that happen inside the kernel", "run it as root");
    sentence(&text, "vm.unprivileged_userfaultfd", "access to /dev/userfaultfd");
    sentence(&text, "Where only the program's own threads", "faults in user mode only");
    let error = Descriptor::open(Ask { way: Way::Device, ..all }).expect_err("not the device either");
    sentence(&error.to_string(), "/dev/userfaultfd cannot be used", "give this user access");
    // And what needs no permission works.
    Descriptor::open(Ask::default()).expect("in user mode everybody may");
    let error = Descriptor::open(Ask { features: Features::EVENT_FORK, ..Ask::default() }).expect_err("not the forks");
    sentence(&error.to_string(), "need CAP_SYS_PTRACE", "run it as root");
}

/// Under a filter that refuses the system call, as containers have it; and under one that says that there is none.
#[test]
fn a_filter_that_hides_userfaultfd() {
    let number = libc::SYS_userfaultfd as u32;
    for (errno, says, does) in [
        (libc::EPERM, "a seccomp filter or a container's policy", "Allow the system call userfaultfd"),
        (libc::ENOSYS, "There is no system call userfaultfd", "CONFIG_USERFAULTFD"),
    ] {
        let text = std::thread::spawn(move || {
            // Load the number of the call; if it is userfaultfd, refuse it; else allow it. For this thread only.
            let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
            let mut program = [
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
                statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
                statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            // SAFETY: takes numbers.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
            // SAFETY: the program is borrowed for the call.
            let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) };
            assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
            Descriptor::open(Ask { way: Way::SystemCall, ..Ask::default() })
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .join()
        .expect("it is well");
        match text {
            Err(text) => sentence(&text, says, does),
            // The device may still be had, by root: then the call's absence is no matter.
            Ok(()) => panic!("the filter does not work"),
        }
    }
}

#[test]
fn features_that_the_kernel_lacks() {
    let nobody_has = Features::from_bits_retain(1 << 40);
    let error = Descriptor::open(Ask { features: Features::SIGBUS | nobody_has, ..Ask::default() });
    match error {
        Err(error @ Error::Missing { missing, .. }) => {
            assert_eq!(missing, nobody_has);
            sentence(&error.to_string(), "lacks 0x10000000000", "use a newer kernel");
        }
        Err(Error::Filtered | Error::NoSystemCall) => {
            support::skip("features_that_the_kernel_lacks", "there is no userfaultfd");
        }
        other => panic!("{other:?}"),
    }
    let text = Error::Missing { missing: Features::MOVE, since: "6.8" }.to_string();
    sentence(&text, "lacks MOVE", "6.8 has all of it");
}

#[test]
fn no_file_descriptor_is_left() {
    if !alone("no_file_descriptor_is_left") {
        return;
    }
    if descriptor(Features::empty()).is_none() {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
    // SAFETY: sets a limit of this process's own.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let error = Descriptor::open(Ask::default()).expect_err("no number is left");
    sentence(&error.to_string(), "No file descriptor is left", "raise `ulimit -n`");
}
