//! The program of the guide compiles without a warning and does what it says.

mod support;

use std::process::Command;
use support::{compile, finish, folder, manifest, skip, text};

#[test]
fn the_program_of_the_guide_runs_in_a_quarter_of_its_memory() {
    let guide = std::fs::read_to_string(manifest("../docs/embedding.md")).unwrap();
    let section = guide.split("\n## An emulator in C\n").nth(1).expect("the guide has the section");
    let program = section
        .split("\n```c\n")
        .nth(1)
        .and_then(|rest| rest.split("\n```\n").next())
        .expect("the section has a program");
    assert!(program.contains("int main(void)"));
    let place = tempfile::tempdir().unwrap();
    let (source, made) = (place.path().join("guide.c"), place.path().join("guide"));
    std::fs::write(&source, format!("{program}\n")).unwrap();
    let mut compiler = compile(&source, &made);
    compiler.args(["-std=gnu99", "-L"]).arg(folder()).args(["-lzspool", &format!("-Wl,-rpath,{}", folder().display())]);
    support::run(&mut compiler);
    let output = finish(&mut Command::new(made));
    match output.status.code() {
        Some(77) => skip("the_program_of_the_guide_runs_in_a_quarter_of_its_memory", text(&output.stderr).trim()),
        Some(0) => {}
        _ => panic!("{}: {}", output.status, text(&output.stderr)),
    }
}
