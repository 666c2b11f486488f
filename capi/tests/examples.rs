//! The examples, compiled as a user does, linked both ways, run, and looked at by tools that see misuse of memory.

mod support;

use std::process::Command;
use support::Link::{Dynamic, Static};
use support::{finish, have, program, run, skip, text};

/// Standard output, or `None`, said aloud, where the program says by its status (77) that it cannot be shown on this machine.
fn shown(test: &str, command: &mut Command) -> Option<String> {
    let output = finish(command);
    if output.status.code() == Some(77) {
        skip(test, text(&output.stderr).trim());
        return None;
    }
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Some(text(&output.stdout))
}

/// The numbers of a text, in their order.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    words.map(|word| word.parse().unwrap()).collect()
}

fn check_guest(output: &str) {
    let lines: Vec<Vec<u64>> = output.lines().map(numbers).collect();
    let [first, second, third, last] = &lines[..] else { panic!("{output}") };
    assert_eq!((first[0], first[1], first[3], first[4]), (64, 16, 0, 16384), "{output}");
    let (peak, max, in_memory, compressed, into) = (second[0], second[1], second[2], second[3], second[4]);
    assert!(peak <= max && max == 16 << 20 && peak > max / 2, "{output}");
    // What is not in memory is compressed, to a tenth or less; all of it together is what is charged.
    // The numbers are of one moment each, while pages come and go: that the limit holds is what the peak says.
    let all = (in_memory + compressed).abs_diff(64 << 20);
    assert!(all < 1 << 20 && into < compressed / 8 && in_memory + into <= max + (1 << 20), "{output}");
    assert!(third[0] > 1000, "its pages came by faults: {output}");
    assert_eq!(last[..], [0], "{output}");
}

#[test]
fn an_emulator_runs_in_a_quarter_of_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    for link in [Dynamic, Static] {
        let program = program("examples/guest.c", link, &[], folder.path());
        let Some(output) = shown("an_emulator_runs_in_a_quarter_of_its_memory", &mut Command::new(program)) else {
            return;
        };
        check_guest(&output);
    }
}

#[test]
fn an_emulator_runs_under_the_address_sanitizer() {
    let folder = tempfile::tempdir().unwrap();
    let program =
        program("examples/guest.c", Dynamic, &["-fsanitize=address,undefined", "-fno-sanitize-recover"], folder.path());
    if let Some(output) = shown("an_emulator_runs_under_the_address_sanitizer", &mut Command::new(program)) {
        check_guest(&output);
    }
}

fn check_cache(output: &str) {
    let lines: Vec<Vec<u64>> = output.lines().map(numbers).collect();
    let [first, second] = &lines[..] else { panic!("{output}") };
    assert!(first[0] > first[1] / 2 && first[1] == 2400 && first[2] > 0, "{output}");
    let (objects, payload, backed, limit) = (second[0], second[1], second[2], second[3]);
    assert!(objects > 300 && payload < backed && backed <= limit && limit == 256 << 10, "{output}");
    assert!(payload > limit * 6 / 10, "the pool is used: {output}");
}

#[test]
fn a_cache_keeps_what_is_popular_and_nothing_of_memory_is_misused() {
    let folder = tempfile::tempdir().unwrap();
    for link in [Dynamic, Static] {
        check_cache(&text(&run(&mut Command::new(program("examples/cache.c", link, &[], folder.path()))).stdout));
    }
    let sanitized =
        program("examples/cache.c", Dynamic, &["-fsanitize=address,undefined", "-fno-sanitize-recover"], folder.path());
    check_cache(&text(&run(&mut Command::new(sanitized)).stdout));
}

#[test]
fn valgrind_finds_nothing_in_a_cache() {
    if !have("valgrind") {
        return skip("valgrind_finds_nothing_in_a_cache", "there is no valgrind");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = program("examples/cache.c", Dynamic, &[], folder.path());
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]).arg(program);
    check_cache(&text(&run(&mut valgrind).stdout));
}
