//! Unmodified programs under a limit: they compute what they would have computed, and the limit holds, seen from outside.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use under::*;

/// Run it with these options and JSON at the end; look from outside meanwhile. What it wrote, and the JSON with the most bytes that
/// were in memory of what is registered.
fn watched(options: &[&str], program: &[&str], seconds: u64) -> (String, serde_json::Value, u64) {
    let place = tempfile::tempdir().unwrap();
    let stat = place.path().join("stat.json");
    let mut all = options.to_vec();
    all.extend(["--stat", stat.to_str().unwrap()]);
    let mut running = Deadlined::start(&mut run(place.path(), &all, program), seconds);
    let pid = running.program();
    let mut most = 0;
    while running.is_running() {
        most = most.max(registered_rss(pid).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = good(&running.finish());
    (text, json(&stat), most)
}

/// The first VM of the last status.
fn vm(stat: &serde_json::Value) -> &serde_json::Value {
    let vm = &stat["status"]["vms"][0];
    assert!(vm.is_object(), "{stat:#}");
    vm
}

fn number(value: &serde_json::Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value:#}"))
}

/// A list of numbers as texts, about 30 MiB, gone over again and again in an order of its own, a hundred of them at a time, against sums that are known.
const PYTHON: &str = "
import hashlib
n = 200_000
x = ['%032x' % (i * 7919) for i in range(n)]
def check():
    h = hashlib.sha256()
    for k in range(n):
        at = k // 100 * 1237 % (n // 100) * 100 + k % 100
        assert x[at] == '%032x' % (at * 7919), at
        if k % 64 == 0: h.update(x[at].encode())
    return h.hexdigest()
print(check())
for i in range(0, n, 3): x[i] = '%032x' % (i * 7919)
y = list(x)
del x
x = y
print(check())
";

#[test]
fn python_builds_and_checks_a_list_in_a_third_of_its_memory() {
    if !can("python_builds_and_checks_a_list_in_a_third_of_its_memory", &["python3"]) {
        return;
    }
    let plain = std::process::Command::new("python3").args(["-c", PYTHON]).output().unwrap();
    let (text, stat, most) = watched(&["--memory-max", "12M"], &["python3", "-c", PYTHON], 300);
    assert_eq!(text, good(&plain));
    let vm = vm(&stat);
    assert_eq!(stat["status_is_seconds_old"].as_f64(), Some(0.0), "{stat:#}");
    assert!(number(vm, "taken_out_pages") > 1000 && number(&vm["faults"], "compressed") > 1000, "{stat:#}");
    assert_eq!(number(vm, "overshoot_bytes"), 0, "{stat:#}");
    // What has just been mapped is not registered yet: a moment's worth of a fast program.
    assert!(most <= 12 * MIB + 16 * MIB, "{most} bytes were in memory");
    assert!(most >= 4 * MIB, "{most} bytes: what was looked at?");
}

const NODE: &str = "
let n = 150000, m = new Map();
for (let i = 0; i < n; i++) m.set('k' + i, {i, text: 'value ' + (i * 7919)});
let sum = 0;
for (let round = 0; round < 2; round++)
  for (let k = 0, at = 0; k < n; k++) { at = (at + 224737) % n; const o = m.get('k' + at); if (o.i !== at || o.text !== 'value ' + (at * 7919)) throw at; sum += o.text.length; }
console.log(sum);
";

#[test]
fn node_keeps_its_objects() {
    if !can("node_keeps_its_objects", &["node"]) {
        return;
    }
    let plain = std::process::Command::new("node").args(["-e", NODE]).output().unwrap();
    let (text, stat, _) = watched(&["--memory-max", "48M"], &["node", "-e", NODE], 300);
    assert_eq!(text, good(&plain));
    assert!(number(vm(&stat), "taken_out_pages") > 1000, "{stat:#}");
}

/// A client of redis, and how many keys it has there.
struct Redis(BufReader<UnixStream>);

const KEYS: usize = 60_000;

impl Redis {
    /// The server's, as soon as it listens.
    fn at(socket: &Path) -> Self {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    return Redis(BufReader::new(stream));
                }
                Err(error) => assert!(Instant::now() < until, "redis does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn send(&mut self, words: &[&str]) {
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text += &format!("${}\r\n{word}\r\n", word.len()));
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.starts_with('-') && !line.is_empty(), "redis says {line:?}");
        let Some(len) = line.strip_prefix('$') else { return line[1..].trim_end().to_owned() };
        let mut bytes = vec![0; len.trim_end().parse::<usize>().expect("there is such a key") + 2];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.truncate(bytes.len() - 2);
        String::from_utf8(bytes).unwrap()
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        self.reply()
    }

    fn value(key: usize, version: u32) -> String {
        format!("version {version} of {key} ").repeat(20)
    }

    /// Those of every `step` keys: nothing else is there.
    fn check(&mut self, step: usize, version: u32) {
        for key in (0..KEYS).step_by(step) {
            assert_eq!(self.ask(&["GET", &key.to_string()]), Self::value(key, version));
        }
    }
}

#[test]
fn redis_saves_in_the_background_while_it_is_written() {
    let test = "redis_saves_in_the_background_while_it_is_written";
    if !can(test, &["redis-server"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (socket, stat) = (place.path().join("redis"), place.path().join("stat"));
    let (dir, path) = (place.path().to_str().unwrap(), socket.to_str().unwrap());
    let server = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", dir, "--save", "", "--daemonize", "no"];
    let options = ["--memory-max", "16M", "--stat", stat.to_str().unwrap()];
    let running = Deadlined::start(&mut run(place.path(), &options, &server), 240);
    let mut redis = Redis::at(&socket);
    for first in (0..KEYS).step_by(100) {
        (first..first + 100).for_each(|key| redis.send(&["SET", &key.to_string(), &Redis::value(key, 1)]));
        (0..100).for_each(|_| assert_eq!(redis.reply(), "OK"));
    }
    assert_eq!(redis.ask(&["BGSAVE"]), "Background saving started");
    // Written while the child reads: the child must have what was there before.
    for key in (0..KEYS).step_by(10) {
        assert_eq!(redis.ask(&["SET", &key.to_string(), &Redis::value(key, 2)]), "OK");
    }
    let until = Instant::now() + Duration::from_secs(120);
    let saved = loop {
        let said = redis.ask(&["INFO", "persistence"]);
        if said.contains("rdb_bgsave_in_progress:0") {
            break said;
        }
        assert!(Instant::now() < until, "the background save does not end: {said}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(saved.contains("rdb_last_bgsave_status:ok"), "{saved}");
    redis.check(10, 2);
    redis.send(&["SHUTDOWN", "NOSAVE"]);
    good(&running.finish());
    assert!(number(vm(&json(&stat)), "taken_out_pages") > 1000, "{:#}", json(&stat));

    // Another server, without a limit, reads what the child saved.
    let mut plain = Deadlined::start(std::process::Command::new(server[0]).args(&server[1..]), 120);
    let mut redis = Redis::at(&socket);
    while redis.ask(&["INFO", "persistence"]).contains("\nloading:1") {
        assert!(plain.is_running());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(redis.ask(&["DBSIZE"]), KEYS.to_string());
    redis.check(1, 1);
    redis.send(&["SHUTDOWN", "NOSAVE"]);
    good(&plain.finish());
}

#[test]
fn a_shell_script_and_chains_of_exec_are_one_program() {
    if !can("a_shell_script_and_chains_of_exec_are_one_program", &["python3", "bash"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let body = format!(
        "#!/bin/bash\nx=$(seq 1 100000)\necho ${{#x}} \"$(echo in a child)\"\nexec env bash -c 'exec python3 -c \"$1\"' - '{PYTHON}'\n",
        PYTHON = PYTHON.replace('\'', "'\\''")
    );
    std::fs::write(&script, body).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (text, stat, _) = watched(&["--memory-max", "12M"], &[script.to_str().unwrap()], 300);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("588894 in a child"));
    assert_eq!(lines.count(), 2);
    assert!(stat["status"]["program"].as_str().unwrap().starts_with("python3"), "{stat:#}");
    assert!(number(vm(&stat), "taken_out_pages") > 1000, "{stat:#}");
}

#[test]
fn a_program_that_mallocs_moves_forks_and_threads() {
    if !can("a_program_that_mallocs_moves_forks_and_threads", &[]) {
        return;
    }
    let me = std::env::current_exe().unwrap();
    let program = [me.to_str().unwrap(), "--exact", "the_program", "--ignored", "--nocapture", "--test-threads=1"];
    let (text, stat, most) = watched(&["--memory-max", "32M"], &program, 300);
    assert!(text.contains("the program is done"), "{text}");
    assert!(number(vm(&stat), "taken_out_pages") > 1000, "{stat:#}");
    // It has seen to the limit itself, each time that it had made something: what `mremap` moves, or makes longer, is above it until the library
    // has met it there, and how long that takes depends on who else wants the cores.
    println!("{most} bytes were in memory at most, of memory that the kernel has registered");
}

/// Wait until all that is registered of this process is below the limit of 32 MiB: what is above is there for a moment, and not for good.
fn below_the_limit(what: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let bytes = registered_rss(std::process::id()).expect("this process is there");
        if bytes <= 32 * MIB + 2 * MIB {
            return;
        }
        assert!(Instant::now() < until, "{what}: {bytes} bytes stay in memory");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Not a test: what the one above runs. Its allocator is the C library's malloc.
#[test]
#[ignore = "a program for another test"]
fn the_program() {
    // A page's content by its number: compressible, and never that of another.
    let fill = |page: &mut [u64], number: u64| {
        page.iter_mut()
            .enumerate()
            .for_each(|(k, word)| *word = if k % 4 == 0 { number << 16 | k as u64 } else { number });
    };
    let check = |page: &[u64], number: u64| {
        for (k, word) in page.iter().enumerate() {
            let expected = if k % 4 == 0 { number << 16 | k as u64 } else { number };
            assert_eq!(*word, expected, "word {k} of page {number}");
        }
    };
    const WORDS: usize = 512;
    // One that grows by realloc: mremap moves it, again and again.
    let mut growing: Vec<u64> = Vec::new();
    for number in 0..12_000u64 {
        let mut page = [0; WORDS];
        fill(&mut page, number);
        growing.extend_from_slice(&page);
    }
    growing.chunks(WORDS).zip(0..).for_each(|(page, number)| check(page, number));
    below_the_limit("grown");
    growing.chunks(WORDS).zip(0..).for_each(|(page, number)| check(page, number));
    println!("grown");
    // Shrunk: unmapped behind our back. Mapped again: reads as zeroes.
    growing.truncate(6000 * WORDS);
    growing.shrink_to_fit();
    let zeroes = vec![0u64; 3000 * WORDS];
    assert!(zeroes.iter().all(|word| *word == 0));
    below_the_limit("mapped again");
    drop(zeroes);
    // Small ones, on the heap and in arenas of threads, of all sizes, freed and allocated in turns.
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut held: HashMap<u64, Vec<u64>> = HashMap::new();
                let mut seed = thread + 1;
                for step in 0..30_000u64 {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let key = (seed >> 33) % 3000;
                    if let Some(old) = held.remove(&key) {
                        assert!(old.iter().all(|word| *word == old[0]), "thread {thread} step {step}");
                    } else {
                        let words = 1 + (seed >> 45) as usize % 900;
                        held.insert(key, vec![seed; words]);
                    }
                }
                held.len()
            })
        })
        .collect();
    let lens: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    println!("threads held {lens:?}");
    below_the_limit("after its threads");
    // A child sees what its parent has, and the parent what it had.
    for round in 0..3 {
        // SAFETY: the child does nothing but look at memory, and ends.
        match unsafe { libc::fork() } {
            0 => {
                for number in (0..6000usize).rev() {
                    let page = &mut growing[number * WORDS..][..WORDS];
                    if number >= 3000 {
                        check(page, number as u64);
                    }
                    page[7] = round;
                }
                // SAFETY: it ends the process.
                unsafe { libc::_exit(7) };
            }
            child => {
                for number in 0..3000 {
                    fill(&mut growing[number * WORDS..][..WORDS], number as u64 + 1_000_000 * (round + 1));
                }
                let mut status = 0;
                // SAFETY: the child is ours, and the status is written.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "the child ended by {status:#x}");
                for number in 0..6000usize {
                    let expected = if number < 3000 { number as u64 + 1_000_000 * (round + 1) } else { number as u64 };
                    check(&growing[number * WORDS..][..WORDS], expected);
                }
            }
        }
    }
    // System calls that read and write what is out.
    let (file, bytes) = (tempfile::tempfile().unwrap(), 6000 * WORDS * 8);
    use std::os::unix::fs::FileExt;
    // SAFETY: numbers are bytes.
    let as_bytes = unsafe { std::slice::from_raw_parts_mut(growing.as_mut_ptr().cast::<u8>(), bytes) };
    file.write_all_at(as_bytes, 0).unwrap();
    as_bytes.fill(0xee);
    file.read_exact_at(as_bytes, 0).unwrap();
    for number in 3000..6000usize {
        check(&growing[number * WORDS..][..WORDS], number as u64);
    }
    println!("the program is done");
}
