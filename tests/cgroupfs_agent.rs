//! An agent that knows cgroup v2's files and nothing else drives a memcg through the mounted tree: a long reclaim holds nobody
//! up and can be interrupted, and an agent in the manner of senpai finds the working set of a program and leaves it alone.
#![cfg(feature = "fuse")]

mod support;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zspool::cgroupfs::{self, Mounted};
use zspool::memcg::{Ask, Counter, End, Memcg, Reclaimed, Reclaimer, Resident, Source, Tree, TreeConfig};

/// Patience with a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn mount(test: &str, tree: &Tree) -> Option<(TempDir, Mounted)> {
    let folder = tempfile::tempdir().unwrap();
    match cgroupfs::mount(tree, folder.path()) {
        Ok(mounted) => Some((folder, mounted)),
        Err(error @ (cgroupfs::Error::NoFuse { .. } | cgroupfs::Error::Forbidden | cgroupfs::Error::NoHelper)) => {
            support::skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A shell in `folder` that runs in a process group of its own and has signals as they are by default: the test's parent may
/// ignore them.
fn shell(folder: &Path, script: &str) -> Child {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(folder).env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let reset = || {
        // SAFETY: a system call that is fit for a child between fork and exec.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(reset) };
    command.spawn().unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: a system call without pointers; the child was not waited for, so its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[track_caller]
fn wait_until(what: &str, mut seen: impl FnMut() -> bool) {
    let started = Instant::now();
    while !seen() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// === a reclaim without end ===

/// Reclaims a page each millisecond, as long as nobody cancels it.
#[derive(Clone, Default)]
struct Endless(Arc<Seen>);

#[derive(Default)]
struct Seen {
    running: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Reclaimer for Endless {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        self.0.running.fetch_add(1, Relaxed);
        let mut bytes = 0;
        while bytes < ask.bytes && !ask.cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
            bytes += 4096;
        }
        self.0.running.fetch_sub(1, Relaxed);
        if bytes >= ask.bytes {
            return Reclaimed { bytes, end: End::Met };
        }
        self.0.cancelled.fetch_add(1, Relaxed);
        Reclaimed { bytes, end: End::Cancelled }
    }
}

#[test]
fn a_long_reclaim_holds_nobody_up() {
    let tree = Tree::new(TreeConfig::default());
    let endless = Endless::default();
    let seen = &endless.0;
    let _registered = tree.register(Box::new(endless.clone()));
    let Some((folder, mounted)) = mount("a_long_reclaim_holds_nobody_up", &tree) else { return };
    let names = ["a", "b", "c", "d", "e"];
    let mut writers: Vec<_> = names
        .iter()
        .map(|name| shell(folder.path(), &format!("mkdir {name} && echo 1T > {name}/memory.reclaim")))
        .collect();
    wait_until("five reclaims are under way", || seen.running.load(Relaxed) == names.len());
    // More of them than threads that answer, and the tree is as quick as ever, the files of those memcgs too.
    let script =
        "for k in 1 2 3 4 5 6 7 8 9; do cat a/memory.* b/memory.stat; mkdir x && rmdir x; done >/dev/null && ls";
    let mut busy = shell(folder.path(), &script.replace("a/memory.*", "$(ls a/memory.* | grep -v reclaim)"));
    wait_until("a shell that reads is through", || busy.try_wait().unwrap().is_some());
    let output = busy.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(seen.running.load(Relaxed), names.len());
    // A memcg whose reclaim is under way can be removed. Nothing else is, and unmounting ends them all.
    fs::remove_dir(folder.path().join("e")).unwrap();
    let started = Instant::now();
    mounted.unmount().unwrap();
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    assert_eq!((seen.running.load(Relaxed), seen.cancelled.load(Relaxed)), (0, names.len()));
    writers.iter_mut().for_each(|writer| assert!(!writer.wait().unwrap().success()));
}

#[test]
fn an_interrupted_writer_ends_its_reclaim() {
    let tree = Tree::new(TreeConfig::default());
    let endless = Endless::default();
    let seen = &endless.0;
    let _registered = tree.register(Box::new(endless.clone()));
    let Some((folder, _mounted)) = mount("an_interrupted_writer_ends_its_reclaim", &tree) else { return };
    // Ctrl-C at a prompt ends the command; one that handles the signal sees EINTR; and nobody has to wait for one that is killed.
    for (number, script, says) in [
        (libc::SIGINT, "echo 1T > memory.reclaim", ""),
        (libc::SIGUSR1, "trap : USR1; echo 1T > memory.reclaim", "Interrupted system call"),
        (libc::SIGKILL, "echo 1T > memory.reclaim", ""),
    ] {
        let before = seen.cancelled.load(Relaxed);
        let mut writer = shell(folder.path(), script);
        wait_until("a reclaim is under way", || seen.running.load(Relaxed) == 1);
        // A signal that is ignored or blocked interrupts nobody.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((seen.running.load(Relaxed), writer.try_wait().unwrap()), (1, None));
        signal(&writer, number);
        wait_until("it ends", || seen.running.load(Relaxed) == 0);
        let output = writer.wait_with_output().unwrap();
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
        assert_eq!(seen.cancelled.load(Relaxed), before + 1);
    }
    let mut ignoring = shell(folder.path(), "trap '' USR1; echo 400K > memory.reclaim");
    wait_until("a reclaim is under way", || seen.running.load(Relaxed) == 1);
    signal(&ignoring, libc::SIGUSR1);
    assert!(ignoring.wait().unwrap().success(), "an ignored signal interrupts nothing");
}

// === senpai ===

/// Bytes of a page of the program: so large that filling it costs the test nothing.
const PAGE: u64 = 64 << 10;
const PAGES: usize = 800;
/// Pages that the program needs all the time.
const HOT: usize = 160;
/// What reading a page back takes: a disk's time.
const FAULT: Duration = Duration::from_millis(1);

/// A program whose pages are resident in a memcg or away, the least recently used ones first.
struct Program {
    memcg: Memcg,
    pages: Mutex<Pages>,
    /// Pages that are touched from now on: the first so many.
    needed: AtomicUsize,
    touches: AtomicU64,
    end: AtomicBool,
}

struct Pages {
    resident: Vec<Option<Resident>>,
    /// Resident pages, the one touched longest ago first.
    order: VecDeque<usize>,
}

impl Program {
    fn new(memcg: &Memcg) -> Arc<Self> {
        let pages = Pages { resident: (0..PAGES).map(|_| None).collect(), order: VecDeque::new() };
        Arc::new(Program {
            memcg: memcg.clone(),
            pages: Mutex::new(pages),
            needed: AtomicUsize::new(PAGES),
            touches: AtomicU64::new(0),
            end: AtomicBool::new(false),
        })
    }

    fn touch(&self, page: usize) {
        let mut pages = self.pages.lock().unwrap();
        if pages.resident[page].is_some() {
            // Linear, and short enough.
            let at = pages.order.iter().position(|&other| other == page).unwrap();
            pages.order.remove(at);
            pages.order.push_back(page);
            return;
        }
        drop(pages);
        let stalled = self.memcg.stall();
        std::thread::sleep(FAULT);
        drop(stalled);
        // May call our own reclaimer, so no lock.
        let charged = self.memcg.charge_resident(PAGE).unwrap();
        let mut pages = self.pages.lock().unwrap();
        pages.resident[page] = Some(charged);
        pages.order.push_back(page);
    }

    /// Touch the needed pages over and over.
    fn run(&self) {
        while !self.end.load(Relaxed) {
            let touch = self.touches.fetch_add(1, Relaxed) as usize;
            self.touch(touch % self.needed.load(Relaxed));
            if touch.is_multiple_of(16) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// The program's reclaimer: what was touched longest ago goes.
struct Evictor(Arc<Program>);

impl Reclaimer for Evictor {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let mut bytes = 0;
        while bytes < ask.bytes {
            let mut pages = self.0.pages.lock().unwrap();
            let Some(oldest) = pages.order.pop_front() else { return Reclaimed { bytes, end: End::NothingToScan } };
            let gone = pages.resident[oldest].take().expect("what is in the order is resident");
            bytes += gone.bytes();
        }
        Reclaimed { bytes, end: End::Met }
    }
}

/// The agent, and what it says.
struct Agent {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    fn start(mode: &str, cgroup: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/senpai.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg(mode).arg(cgroup).env("INTERVAL", "0.03").env("RATIO", "100");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let said = BufReader::new(child.stdout.take().unwrap());
        let kept = lines.clone();
        std::thread::spawn(move || said.lines().for_each(|line| kept.lock().unwrap().push(line.unwrap())));
        Agent { child, lines }
    }

    /// How many steps it took of each kind since it had said `from` lines: taking, backing off or resting.
    fn steps(&self, from: usize) -> (usize, usize) {
        let lines = self.lines.lock().unwrap();
        let count = |kinds: &[&str]| {
            lines[from..].iter().filter(|line| kinds.contains(&line.split(' ').next().unwrap())).count()
        };
        (count(&["reclaim", "lower"]), count(&["backoff", "rest"]))
    }

    fn said(&self) -> usize {
        self.lines.lock().unwrap().len()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has ended if the test got that far.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two ways there are to take memory from a cgroup.
fn drive(mode: &str) {
    let tree = Tree::new(TreeConfig::default());
    let memcg = tree.root().mkdir("program").unwrap();
    let program = Program::new(&memcg);
    let _registered = tree.register(Box::new(Evictor(program.clone())));
    let Some((folder, mounted)) = mount("senpai_finds_the_working_set_and_leaves_it_alone", &tree) else { return };
    let cgroup: PathBuf = folder.path().join("program");
    let current = || memcg.current(Counter::Memory) / PAGE;
    (0..PAGES).for_each(|page| program.touch(page));
    assert_eq!(current(), PAGES as u64);
    program.needed.store(HOT, Relaxed);

    let (sum, all) = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| program.run());
        }
        // A panic must not leave them running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // 1. The program needs a fifth of what it has: the rest goes, at little cost.
            let mut agent = Agent::start(mode, &cgroup);
            let stalled = memcg.stall_times().some.total;
            let started = Instant::now();
            wait_until("usage comes down to the working set", || current() <= (HOT + HOT / 4) as u64);
            let (took, backed) = agent.steps(0);
            let share = (memcg.stall_times().some.total - stalled).as_secs_f64() / started.elapsed().as_secs_f64();
            assert!(took > backed, "{took} steps down, {backed} back: {:?}", agent.lines);
            assert!(share < 0.25, "the program waited for {share} of the time");

            // 2. It needs everything: the agent is told so by the pressure, and lets it.
            program.needed.store(PAGES, Relaxed);
            let from = agent.said();
            wait_until("usage comes up again", || current() >= (PAGES * 8 / 10) as u64);
            wait_until("it has taken many steps", || agent.said() >= from + 40);
            let (took, backed) = agent.steps(from);
            assert!(backed > 2 * took, "{took} steps down, {backed} back: {:?}", agent.lines);
            assert!(current() >= (PAGES * 7 / 10) as u64, "{} pages of {PAGES} are left", current());

            // 3. The cgroup goes, and so does the agent.
            mounted.unmount().unwrap();
            wait_until("the agent ends", || agent.child.try_wait().unwrap().is_some());
            (took, backed)
        }));
        program.end.store(true, Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    println!("{mode}: {sum} steps down and {all} back under pressure");
    // What the program has is all that is charged.
    let resident = program.pages.lock().unwrap().order.len() as u64;
    assert_eq!(memcg.current(Counter::Memory), resident * PAGE);
    program.pages.lock().unwrap().resident.clear();
    tree.assert_valid();
}

#[test]
fn senpai_finds_the_working_set_and_leaves_it_alone() {
    drive("reclaim");
}

#[test]
fn senpai_with_memory_high_does_so_too() {
    drive("high");
}
