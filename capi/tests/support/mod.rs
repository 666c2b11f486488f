//! What the tests share: the library built, C compiled against it, and programs run with a deadline.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A file of this package.
pub fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder that has libzspool.so, its soname and libzspool.a, in the profile of the tests.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let tests = std::env::current_exe().unwrap(); // TARGET/PROFILE/deps/NAME
        let folder = tests.ancestors().nth(2).unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-p", "zspool-capi", "--target-dir"]).arg(folder.parent().unwrap());
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells this test of its package, a build script would take for a change, and build everything anew.
        let of_package =
            |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|of| name.starts_with(of));
        let told = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package));
        told.for_each(|(name, _)| _ = cargo.env_remove(name));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        run(&mut cargo);
        let soname = folder.join(soname());
        // Test binaries run one after the other, but whoever comes second finds it there.
        let _ = std::fs::remove_file(&soname);
        std::os::unix::fs::symlink("libzspool.so", &soname).unwrap();
        folder
    })
}

/// What programs that are linked to the library ask for.
pub fn soname() -> String {
    match (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")) {
        ("0", minor) => format!("libzspool.so.0.{minor}"),
        (major, _) => format!("libzspool.so.{major}"),
    }
}

/// The shared library.
pub fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| folder().join("libzspool.so").to_str().unwrap().to_owned())
}

/// What a shared library exports, without versions.
pub fn symbols(library: &Path) -> Vec<String> {
    let output = run(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(library));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split([' ', '@']).next().unwrap().to_owned()).collect()
}

/// A compiler for a source, by its name, with all warnings as errors.
pub fn compile(source: &Path, to: &Path) -> Command {
    let mut compiler = match source.extension().unwrap().to_str() {
        Some("c") => Command::new("cc"),
        _ => Command::new("c++"),
    };
    compiler
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"])
        .arg("-I")
        .arg(manifest("include"))
        .arg(source)
        .arg("-o")
        .arg(to);
    compiler
}

/// How a program is linked to the library.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Dynamic,
    Static,
}

/// A program of a source of this package: compiled, linked. `with` are options more.
pub fn program(source: &str, link: Link, with: &[&str], to: &Path) -> PathBuf {
    let source = manifest(source);
    let standard = if source.extension().unwrap() == "c" { "-std=c11" } else { "-std=c++11" };
    let program = to.join(format!("{}-{link:?}", source.file_stem().unwrap().to_str().unwrap()));
    let mut compiler = compile(&source, &program);
    compiler.args([standard, "-D_GNU_SOURCE", "-O1", "-pthread"]).args(with);
    match link {
        Link::Dynamic => {
            compiler.arg("-L").arg(folder()).arg("-lzspool").arg(format!("-Wl,-rpath,{}", folder().display()))
        }
        // What `rustc --print native-static-libs` says; the pkg-config file has it too.
        Link::Static => compiler.arg(folder().join("libzspool.a")).args([
            "-lgcc_s",
            "-lutil",
            "-lrt",
            "-lpthread",
            "-lm",
            "-ldl",
            "-lc",
        ]),
    };
    run(&mut compiler);
    program
}

/// Run a program and have it succeed, in bounded time: a lost wake-up must be a failure, not a hang.
pub fn run(command: &mut Command) -> Output {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Run a program to its end, which must come within ten minutes for those that are slow (cargo, valgrind), and two for others.
pub fn finish(command: &mut Command) -> Output {
    let slow = command.get_program() == env!("CARGO") || command.get_program() == "valgrind";
    let patience = if slow { 600 } else { 120 };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let until = Instant::now() + Duration::from_secs(patience);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else { panic!("{command:?} did not end in time\n{}{}", text(&stdout), text(&stderr)) };
    Output { status, stdout, stderr }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether there is a program of this name.
pub fn have(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Say that a test could not run here, and why. Skips are collected and held against a list in CI.
pub fn skip(test: &str, why: &str) {
    eprintln!("{test}: skipped: {why}");
    if let Some(log) = std::env::var_os("ZSPOOL_SKIP_LOG") {
        use std::io::Write as _;
        let mut log =
            std::fs::File::options().append(true).create(true).open(log).expect("the skip log can be written");
        writeln!(log, "{test}: {why}").expect("the skip log can be written");
    }
}
