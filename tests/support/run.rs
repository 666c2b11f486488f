//! Programs under `zspool run`: the library built, a deadline for each, and what they say.
#![allow(dead_code, unreachable_pub)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use zspool::guest::uffd::{Ask, Descriptor};

pub const MIB: u64 = 1 << 20;

/// The folder of `zspool`, which has the library in it after this.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_zspool")).parent().unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-p", "zspool-preload", "--target-dir"]).arg(folder.parent().unwrap());
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells this test of its package, a build script would take for a change, and build everything anew.
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        let told = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package));
        told.for_each(|(name, _)| _ = cargo.env_remove(name));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "the library cannot be built: {}", String::from_utf8_lossy(&output.stderr));
        assert!(folder.join("libzspool_preload.so").is_file());
        folder
    })
}

/// Why nothing can be run under a limit here.
pub fn not_permitted() -> Option<String> {
    Descriptor::open(Ask { user_mode_only: false, ..Ask::default() }).err().map(|error| error.to_string())
}

/// `zspool`, with a folder for its sockets.
pub fn zspool(place: &Path) -> Command {
    let mut command = Command::new(built().join("zspool"));
    command.env("XDG_RUNTIME_DIR", place).stdin(Stdio::null());
    command
}

/// `zspool run OPTIONS -- PROGRAM`.
pub fn run(place: &Path, options: &[&str], program: &[&str]) -> Command {
    let mut command = zspool(place);
    command.arg("run").args(options).arg("--").args(program);
    command
}

/// A program that does not end by then hangs, and is ended: a lost wake-up must be a failure.
pub struct Deadlined {
    child: Option<Child>,
    until: Instant,
}

impl Deadlined {
    pub fn start(command: &mut Command, seconds: u64) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Deadlined { child: Some(child), until: Instant::now() + Duration::from_secs(seconds) }
    }

    /// The launcher's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn is_running(&mut self) -> bool {
        assert!(Instant::now() < self.until, "it did not end in time");
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// The program's process, when there is one.
    pub fn program(&mut self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        loop {
            assert!(self.is_running(), "it ended at once");
            let text = std::fs::read_to_string(&children).unwrap_or_default();
            if let Some(pid) = text.split_whitespace().next() {
                return pid.parse().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Wait until it has made a file.
    #[track_caller]
    pub fn until(&mut self, made: &Path) {
        while !made.exists() {
            assert!(self.is_running(), "it ended before it made {}", made.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Both its outputs, read to their ends.
    pub fn finish(mut self) -> Output {
        let mut child = self.child.take().unwrap();
        let read = |mut from: Box<dyn std::io::Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            })
        };
        let (stdout, stderr) =
            (read(Box::new(child.stdout.take().unwrap())), read(Box::new(child.stderr.take().unwrap())));
        let mut hung = false;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > self.until {
                hung = true;
                end(&mut child);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let output = Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
        assert!(!hung, "it did not end in time: {}", shown(&output));
        output
    }
}

impl Drop for Deadlined {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
            let _ = child.wait();
        }
    }
}

/// What the engine of a program says of its VM; `None` while it does not answer.
pub fn vm_of(place: &Path, pid: u32) -> Option<Value> {
    let output = finish(zspool(place).args(["ctl", &pid.to_string(), "status"]), 60);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status["vms"].get(0).cloned()
}

/// Wait until the engine of a program that runs says something of its VM: how long that takes is the machine's affair.
#[track_caller]
pub fn until_vm(running: &mut Deadlined, place: &Path, says: impl Fn(&Value) -> bool) -> Value {
    let pid = running.program();
    let mut last = Value::Null;
    loop {
        assert!(running.is_running(), "it ended before its engine said so; last: {last:#}");
        match vm_of(place, pid) {
            Some(vm) if says(&vm) => return vm,
            Some(vm) => last = vm,
            None => {}
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The launcher and the program: of both a test has started.
fn end(child: &mut Child) {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    for pid in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
        // SAFETY: it only sends a signal, to a child of a child of ours.
        unsafe { libc::kill(pid.parse().unwrap(), libc::SIGKILL) };
    }
    let _ = child.kill();
}

/// Run it to its end.
pub fn finish(command: &mut Command, seconds: u64) -> Output {
    Deadlined::start(command, seconds).finish()
}

pub fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n--- out\n{}\n--- err\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// What it wrote, when it ended well.
pub fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", shown(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether there is such a program.
pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|o| o.status.success())
}

/// Bytes in memory of the mappings of a process that are registered for missing pages, as the kernel counts them; `None`: it has
/// ended.
pub fn registered_rss(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut sum, mut rss) = (0, 0);
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("Rss:") {
            rss = value.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10;
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && flags.split_whitespace().any(|flag| flag == "um")
        {
            sum += rss;
        }
    }
    (!text.is_empty()).then_some(sum)
}

/// What must be there, or a skip.
pub fn can(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !has(program)).map(|program| format!("there is no {program} here"));
    let why = not_permitted().or(missing);
    if let Some(why) = &why {
        super::support::skip(test, why);
    }
    why.is_none()
}

/// Have the C compiler make something of a file.
pub fn compiled(source: &Path, to: &Path, options: &[&str]) {
    let output = Command::new("cc").args(options).arg("-o").arg(to).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

/// A program in C.
pub fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&source, text).unwrap();
    compiled(&source, &program, &["-O1", "-pthread"]);
    program
}
