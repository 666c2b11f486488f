//! The header in the repository is the one that the source makes, and compiles alone as C and as C++.
//!
//! ```text
//!   src/*.rs -- cbindgen --> declarations, with the functions' prose --+
//!   tests/header/intro.txt, headings.txt ------------------------------+--> include/zspool.h --> cc, c++: no warning
//! ```

mod support;

use std::path::Path;
use support::{compile, manifest, run};

const WRITE: &str = "ZSPOOL_WRITE_HEADER=1 cargo test -p zspool-capi --test header";

/// The header as the source says.
fn generated() -> String {
    let config = cbindgen::Config::from_file(manifest("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_crate(manifest("")).with_config(config);
    let mut text = Vec::new();
    builder.generate().expect("cbindgen understands the source").write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let text = text.replacen("#ifndef ZSPOOL_H\n", &format!("{}\n#ifndef ZSPOOL_H\n", intro()), 1);
    with_headings(&on_one_line(&text))
}

/// Prose of one line takes one.
fn on_one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (mut short, mut at) = (String::new(), 0);
    while at < lines.len() {
        let prose = lines.get(at + 1).and_then(|line| line.trim_start().strip_prefix("* "));
        match (lines[at].strip_suffix("/**"), prose, lines.get(at + 2).map(|line| line.trim())) {
            (Some(indent), Some(prose), Some("*/")) => {
                short += &format!("{indent}/** {prose} */\n");
                at += 3;
            }
            _ => {
                short += &format!("{}\n", lines[at]);
                at += 1;
            }
        }
    }
    short
}

fn intro() -> String {
    let prose = std::fs::read_to_string(manifest("tests/header/intro.txt")).unwrap();
    let lines: String = prose.lines().map(|line| format!(" * {line}").trim_end().to_owned() + "\n").collect();
    format!("/*\n{lines} */")
}

/// Each line of `headings.txt` is a function and the heading that goes above it.
fn with_headings(text: &str) -> String {
    let headings = std::fs::read_to_string(manifest("tests/header/headings.txt")).unwrap();
    headings.lines().fold(text.to_owned(), |text, line| {
        let (function, heading) = line.split_once(' ').expect("a function and a heading");
        let declared = [" ", "*"].iter().find_map(|before| text.find(&format!("{before}{function}(")));
        let declared = declared.unwrap_or_else(|| panic!("{function} is not declared"));
        let at = text[..declared].rfind("\n/**").expect("each function has its prose") + 1;
        format!("{}/* === {heading} === */\n\n{}", &text[..at], &text[at..])
    })
}

#[test]
fn the_header_is_what_the_source_says() {
    let path = manifest("include/zspool.h");
    let made = generated();
    if std::env::var_os("ZSPOOL_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there
        .lines()
        .zip(made.lines())
        .position(|(a, b)| a != b)
        .unwrap_or(there.lines().count().min(made.lines().count()));
    assert!(
        there == made,
        "include/zspool.h is not what the source says, from line {} on: write it by `{WRITE}`",
        differs + 1
    );
}

#[test]
fn the_header_compiles_alone_as_c_and_as_cpp() {
    let folder = tempfile::tempdir().unwrap();
    for (name, standard) in
        [("alone.c", "-std=c99"), ("alone.c", "-std=c11"), ("alone.cpp", "-std=c++11"), ("alone.cpp", "-std=c++17")]
    {
        let source = folder.path().join(name);
        // Twice: its guard works. And a function in it, for C does not like empty files.
        std::fs::write(
            &source,
            "#include <zspool.h>\n#include <zspool.h>\nint nothing(void);\nint nothing(void) { return ZSP_OK; }\n",
        )
        .unwrap();
        run(compile(&source, &folder.path().join("alone.o")).args([standard, "-c"]));
    }
    // The test would fail for a header that does not compile.
    let source = folder.path().join("wrong.c");
    std::fs::write(&source, "#include <zspool.h>\nint f(void);\nint f(void) { return zsp_no_such_thing(); }\n")
        .unwrap();
    assert!(
        !compile(&source, &folder.path().join("wrong.o")).args(["-std=c99", "-c"]).output().unwrap().status.success()
    );
}

#[test]
fn every_function_that_the_library_has_is_declared_and_no_other() {
    let header = std::fs::read_to_string(manifest("include/zspool.h")).unwrap();
    let symbols = support::symbols(Path::new(support::library()));
    assert!(symbols.len() > 40, "{symbols:?}");
    for symbol in &symbols {
        assert!(symbol.starts_with("zsp_"), "{symbol} is not ours to export");
        assert!(
            header.contains(&format!(" {symbol}(")) || header.contains(&format!("*{symbol}(")),
            "{symbol} is not in the header"
        );
    }
    // Its rules hold for every function: what it says of threads is said of each.
    for prose in header
        .split("\n/**")
        .skip(1)
        .filter(|part| part.split("*/\n").nth(1).is_some_and(|code| code.contains("enum zsp_status zsp_")))
    {
        let (prose, code) = prose.split_once("*/\n").unwrap();
        let known = [
            "Any thread",
            "any thread",
            "One thread",
            "Before the first VM",
            "The same",
            "argument, and it was installed",
            "as `zsp_zswap_load`",
        ];
        assert!(
            known.iter().any(|known| prose.replace("\n * ", " ").contains(known)),
            "no word of threads: {}",
            code.lines().next().unwrap()
        );
    }
}
