//! Programs in C and C++ that use the whole interface, rightly and wrongly. What each shows is in its first lines.

mod support;

use std::process::Command;
use support::Link::{self, Dynamic, Static};
use support::{finish, program, skip, text};

const SANITIZED: &[&str] = &["-fsanitize=address,undefined", "-fno-sanitize-recover"];

/// Compile, link and run one, with a folder of its own where it asks for one; it must end with this line.
fn shows(test: &str, source: &str, link: Link, with: &[&str], arguments: &[&str], line: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program(source, link, with, folder.path()));
    let swap = folder.path().join("files");
    std::fs::create_dir(&swap).unwrap();
    command.args(
        arguments.iter().map(|argument| if *argument == "FOLDER" { swap.as_os_str() } else { argument.as_ref() }),
    );
    let output = finish(&mut command);
    if output.status.code() == Some(77) {
        return skip(test, text(&output.stderr).trim());
    }
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{source} {link:?} {with:?}: {}\n{said}{wrong}", output.status);
    assert_eq!(said.trim_end(), line, "{wrong}");
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(std::fs::read_dir(&swap).unwrap().count(), 0, "no swapfile is left");
}

#[test]
fn every_misuse_is_told_and_nothing_else_happens() {
    let shows = |link, with| {
        shows(
            "every_misuse_is_told_and_nothing_else_happens",
            "tests/c/misuse.c",
            link,
            with,
            &[],
            "every misuse was told",
        )
    };
    shows(Static, &[]);
    shows(Dynamic, SANITIZED);
}

#[test]
fn a_store_with_devices_and_groups_gives_every_page_back() {
    let shows = |link, with| {
        let test = "a_store_with_devices_and_groups_gives_every_page_back";
        shows(test, "tests/c/pages.c", link, with, &["FOLDER"], "every page came back");
    };
    shows(Static, &[]);
    shows(Dynamic, SANITIZED);
}

#[test]
fn guests_have_their_memory_whoever_serves_their_faults() {
    let shows = |link, with, arguments: &[&str]| {
        let test = "guests_have_their_memory_whoever_serves_their_faults";
        shows(test, "tests/c/guests.c", link, with, arguments, "every guest had its memory");
    };
    shows(Static, &[], &[]);
    shows(Dynamic, SANITIZED, &[]);
}

#[test]
fn a_handler_of_sigbus_of_the_program_s_own_hands_on_what_is_ours() {
    let test = "a_handler_of_sigbus_of_the_program_s_own_hands_on_what_is_ours";
    shows(test, "tests/c/guests.c", Dynamic, &[], &["adopted"], "every guest had its memory");
}

#[test]
fn what_runs_in_handlers_of_faults_allocates_nothing() {
    let wrap = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free,--wrap=posix_memalign";
    shows(
        "what_runs_in_handlers_of_faults_allocates_nothing",
        "tests/c/no_allocator.c",
        Static,
        &[wrap],
        &["FOLDER"],
        "nothing was allocated",
    );
}

#[test]
fn cpp_closes_its_handles_by_itself() {
    let shows = |link, with| {
        shows("cpp_closes_its_handles_by_itself", "tests/c/raii.cpp", link, with, &[], "every handle was closed")
    };
    shows(Static, &[]);
    shows(Dynamic, SANITIZED);
}

/// Its handler of SIGBUS stays in a process that has used it, and would be nowhere.
#[test]
fn a_library_that_was_loaded_stays_when_it_is_closed() {
    let path = std::ffi::CString::new(support::library()).unwrap();
    // SAFETY: its constructors are the Rust runtime's.
    let open = |flags| unsafe { libc::dlopen(path.as_ptr(), flags) };
    let library = open(libc::RTLD_NOW);
    assert!(!library.is_null() && open(libc::RTLD_NOW | libc::RTLD_NOLOAD) == library);
    // SAFETY: twice opened, and nothing of it is used.
    (0..2).for_each(|_| assert_eq!(unsafe { libc::dlclose(library) }, 0));
    assert_eq!(open(libc::RTLD_NOW | libc::RTLD_NOLOAD), library);
}
