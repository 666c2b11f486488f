//! What programs under a limit do that few do, or that all do and that would hit us: allocators of their own, descriptors at numbers of their choice,
//! children without `fork`.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::path::{Path, PathBuf};
use std::process::Command;
use under::*;

const LIMIT: [&str; 2] = ["--memory-max", "64M"];

/// What must be there, or a skip.
fn can(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !has(program)).map(|program| format!("there is no {program} here"));
    let why = not_permitted().or(missing);
    if let Some(why) = &why {
        support::skip(test, why);
    }
    why.is_none()
}

/// Have the C compiler make something of a file.
fn compiled(source: &Path, to: &Path, options: &[&str]) {
    let output = Command::new("cc").args(options).arg("-o").arg(to).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

/// A program in C.
fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&source, text).unwrap();
    compiled(&source, &program, &["-O1", "-pthread"]);
    program
}

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
