//! An agent that knows cgroup v2's files and nothing else drives a memcg through the mounted tree: a long reclaim holds nobody
//! up and can be interrupted, and an agent in the manner of senpai finds the working set of a program and leaves it alone.
#![cfg(feature = "fuse")]

mod support;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::compressible;
use tempfile::TempDir;
use zspool::cgroupfs::{self, Mounted};
use zspool::memcg::{Ask, Counter, End, Memcg, Reclaimed, Reclaimer, Resident, Source, Tree, TreeConfig};
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Installed, Taken, Zswap};

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

const PAGES: usize = 4000;
/// Pages that the program needs all the time.
const HOT: usize = 800;

/// A program whose pages are resident in a memcg, or compressed in an instance: the ones not used lately.
struct Program {
    zswap: Zswap,
    slots: SlotRange,
    memcg: Memcg,
    pages: Mutex<Pages>,
    /// Pages that are touched from now on: the first so many.
    needed: AtomicUsize,
    touches: AtomicU64,
    end: AtomicBool,
}

struct Pages {
    place: Vec<Place>,
    /// Resident pages, the one that came in or had its second chance longest ago first.
    order: VecDeque<usize>,
}

enum Place {
    Resident {
        page: Box<Page>,
        charge: Resident,
        referenced: bool,
    },
    /// On its way in or out, by somebody who holds no lock meanwhile.
    Moving,
    Stored,
}

impl Program {
    /// All its pages are resident.
    fn new(folder: &Path) -> Arc<Self> {
        let zswap = Zswap::builder().pool_limit(64 << 20).swapfile(folder.join("swap"), 64 << 20).build().unwrap();
        let memcg = zswap.root().mkdir("program").unwrap();
        let resident = |number| Place::Resident {
            page: Box::new(compressible(number as u64, 100)),
            charge: memcg.charge_resident(PAGE_SIZE as u64).unwrap(),
            referenced: false,
        };
        let pages = Pages { place: (0..PAGES).map(resident).collect(), order: (0..PAGES).collect() };
        Arc::new(Program {
            slots: zswap.reserve(PAGES as u64).unwrap(),
            zswap,
            memcg,
            pages: Mutex::new(pages),
            needed: AtomicUsize::new(PAGES),
            touches: AtomicU64::new(0),
            end: AtomicBool::new(false),
        })
    }

    fn touch(&self, number: usize) {
        let mut pages = loop {
            let mut pages = self.pages.lock().unwrap();
            match &mut pages.place[number] {
                Place::Resident { referenced, .. } => return *referenced = true,
                Place::Stored => break pages,
                Place::Moving => {}
            }
            drop(pages);
            if self.end.load(Relaxed) {
                return;
            }
            std::thread::yield_now();
        };
        pages.place[number] = Place::Moving;
        drop(pages);
        let stalled = self.memcg.stall();
        let mut page = Box::new(Page::zeroed());
        let install = |stored: &[u8; PAGE_SIZE]| {
            page.copy_from_slice(stored);
            Installed::Yes
        };
        let slot = self.slots.base() + number as u64;
        match self.zswap.take_with(slot, install).unwrap() {
            Taken::Freed => {}
            // It went to the device while it was read.
            Taken::Changed => assert!(self.zswap.free(slot)),
            taken => panic!("{taken:?}"),
        }
        assert_eq!(page[..], compressible(number as u64, 100)[..]);
        drop(stalled);
        // May call our own reclaimer.
        let charge = self.memcg.charge_resident(PAGE_SIZE as u64).unwrap();
        let mut pages = self.pages.lock().unwrap();
        pages.place[number] = Place::Resident { page, charge, referenced: true };
        pages.order.push_back(number);
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

    /// Compress the page that was not used for the longest time; what that makes free. None without a page.
    fn evict(&self) -> Option<u64> {
        let mut pages = self.pages.lock().unwrap();
        let number = loop {
            let oldest = pages.order.pop_front()?;
            match &mut pages.place[oldest] {
                Place::Resident { referenced, .. } if *referenced => *referenced = false,
                _ => break oldest,
            }
            pages.order.push_back(oldest);
        };
        let Place::Resident { page, charge, .. } = std::mem::replace(&mut pages.place[number], Place::Moving) else {
            panic!("what is in the order is resident");
        };
        drop(pages);
        let before = self.memcg.current(Counter::Zswap);
        self.zswap.store(self.slots.base() + number as u64, &self.memcg, NodeId(0), &page).unwrap();
        let compressed = self.memcg.current(Counter::Zswap).saturating_sub(before);
        drop(charge);
        self.pages.lock().unwrap().place[number] = Place::Stored;
        Some((PAGE_SIZE as u64).saturating_sub(compressed))
    }
}

/// The program's reclaimer, as a monitor of virtual machines has one.
struct Evictor(Arc<Program>);

impl Reclaimer for Evictor {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let mut bytes = 0;
        while bytes < ask.bytes {
            match self.0.evict() {
                Some(freed) => bytes += freed,
                None => return Reclaimed { bytes, end: End::NothingToScan },
            }
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
fn drive(test: &str, mode: &str) {
    let swap = tempfile::tempdir().unwrap();
    let program = Program::new(swap.path());
    let memcg = &program.memcg;
    let registered = memcg.tree().register(Box::new(Evictor(program.clone())));
    let Some((folder, mounted)) = mount(test, memcg.tree()) else { return };
    let cgroup = folder.path().join("program");
    let current = || memcg.current(Counter::Memory) as usize / PAGE_SIZE;
    assert_eq!(current(), PAGES);
    program.needed.store(HOT, Relaxed);

    let phases = || {
        // 1. The program needs a fifth of what it has: the rest is compressed, at little cost to it.
        let mut agent = Agent::start(mode, &cgroup);
        let stalled = memcg.stall_times().some.total;
        let started = Instant::now();
        wait_until("usage comes down to the working set and some compressed pages", || current() <= HOT * 16 / 10);
        let (took, backed) = agent.steps(0);
        let share = (memcg.stall_times().some.total - stalled).as_secs_f64() / started.elapsed().as_secs_f64();
        assert!(took >= 8, "each takes a tenth at most: {:?}", agent.lines);
        assert!(share < 0.25, "the program waited for {share} of the time");
        println!("{mode}: {took} steps down and {backed} back in {:?}, stalled {share:.3} of it", started.elapsed());

        // 2. It needs everything: the agent learns that from the pressure, and lets it.
        program.needed.store(PAGES, Relaxed);
        let from = agent.said();
        wait_until("usage comes up again", || current() >= PAGES * 8 / 10);
        wait_until("it has taken many steps", || agent.said() >= from + 40);
        let (took, backed) = agent.steps(from);
        assert!(backed > 2 * took, "{took} steps down, {backed} back: {:?}", agent.lines);
        wait_until("what it took for a try is back", || current() >= PAGES * 8 / 10);
        println!("{mode}: {took} steps down and {backed} back under pressure");

        // 3. The tree goes, and so does the agent.
        mounted.unmount().unwrap();
        wait_until("the agent ends", || agent.child.try_wait().unwrap().is_some());
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| program.run());
        }
        // Failed or not, the program ends.
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(phases));
        program.end.store(true, Relaxed);
        passed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    drop(registered);
    program.zswap.quiesce();
    // What the program has is all that is charged.
    let resident = program.pages.lock().unwrap().order.len() as u64 * PAGE_SIZE as u64;
    assert_eq!(memcg.current(Counter::Memory), resident + memcg.current(Counter::Zswap));
    program.zswap.assert_valid();
}

#[test]
fn senpai_finds_the_working_set_and_leaves_it_alone() {
    drive("senpai_finds_the_working_set_and_leaves_it_alone", "reclaim");
}

#[test]
fn senpai_with_memory_high_does_so_too() {
    drive("senpai_with_memory_high_does_so_too", "high");
}
