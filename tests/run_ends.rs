//! `zspool run` around the program: refusals with sentences, how it ends, what is known of it then, and what it can be told.
#![cfg(all(target_os = "linux", feature = "cli", feature = "guest"))]

mod support;
#[path = "support/run.rs"]
mod under;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Output;
use std::time::{Duration, Instant};
use under::*;

const LIMIT: [&str; 2] = ["--memory-max", "64M"];

fn can(test: &str) -> bool {
    let why = not_permitted().or_else(|| (!has("python3")).then(|| "there is no python3 here".to_owned()));
    if let Some(why) = &why {
        support::skip(test, why);
    }
    why.is_none()
}

/// It was not started, with this status and these words.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", shown(output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.trim_end().ends_with('.') && said.lines().count() == 1, "no sentence: {}", shown(output));
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn what_cannot_be_limited_is_refused_with_a_sentence() {
    if !can("what_cannot_be_limited_is_refused_with_a_sentence") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = |options: &[&str], program: &[&str]| finish(&mut run(folder.path(), options, program), 20);
    let file = |name: &str, content: &[u8], mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert_refused(&refused(&LIMIT, &["no-such-program"]), 127, &["no-such-program", "PATH"]);
    assert_refused(&refused(&LIMIT, &[&file("text", b"echo\n", 0o755)]), 125, &["#!", "sh FILE"]);
    assert_refused(&refused(&LIMIT, &[&file("mode", b"#!/bin/sh\n", 0o644)]), 126, &["ls -l"]);
    let shell = std::fs::read("/bin/sh").unwrap();
    let setuid = file("setuid", &shell, 0o755);
    if std::os::unix::fs::chown(&setuid, Some(12345), None).is_ok() {
        std::fs::set_permissions(&setuid, std::fs::Permissions::from_mode(0o4755)).unwrap();
        assert_refused(&refused(&LIMIT, &[&setuid]), 125, &["setuid", "as that user"]);
    }
    // A program without a dynamic linker: the header of one, with no use for it.
    let mut fixed = shell;
    let headers = u64::from_le_bytes(fixed[32..40].try_into().unwrap()) as usize;
    for number in 0..usize::from(u16::from_le_bytes([fixed[56], fixed[57]])) {
        let at = headers + number * 56;
        if fixed[at..at + 4] == libc::PT_INTERP.to_le_bytes() {
            fixed[at..at + 4].fill(0);
        }
    }
    assert_refused(&refused(&LIMIT, &[&file("static", &fixed, 0o755)]), 125, &["statically", "embed"]);
    assert_refused(&refused(&[], &["true"]), 125, &["--memory-max"]);
    assert_refused(&refused(&["--memory-max", "1M", "--memory-high", "2M"], &["true"]), 125, &["--memory-high"]);
    for bytes in ["0", "1", "64"] {
        assert_refused(&refused(&["--memory-max", bytes], &["true"]), 125, &["--memory-max", "1048576", "64M"]);
    }
    assert_refused(&refused(&["--memory-high", "0"], &["true"]), 125, &["--memory-high"]);
    assert_eq!(
        refused(&["--memory-max", "1024T"], &["true"]).status.code(),
        Some(0),
        "more than there is, is no limit"
    );
    assert_refused(&refused(&["--memory-max", "1M", "--preload", "/no/such"], &["true"]), 125, &["cargo build"]);
    // What is preloaded to no effect would have the program run without a limit.
    for other in ["/bin/ls", &file("no.so", b"", 0o644), zspool(folder.path()).get_program().to_str().unwrap()] {
        let preloading = ["--memory-max", "1M", "--preload", other];
        assert_refused(&refused(&preloading, &["true"]), 125, &[other, "without a limit", "cargo build"]);
    }
    assert_refused(&refused(&["--memory-max", "1M", "--swapfile", "/x"], &["true"]), 125, &["--swap-size"]);
    assert_refused(&refused(&["--memory-max", "1M", "--no-encryption"], &["true"]), 125, &["--swapfile PATH"]);
    let shared = ["--memory-max", "1M", "--children", "--swapfile", "/tmp/x,size=1M"];
    assert_refused(&refused(&shared, &["true"]), 125, &["unnamed"]);
    let nowhere = ["--memory-max", "1M", "--stat", "/no/such/folder/stat"];
    assert_refused(&refused(&nowhere, &["true"]), 125, &["/no/such/folder/stat"]);
    // The library says it, in the program's place.
    let codec = refused(&["--memory-max", "64M", "--codec", "morse"], &["true"]);
    assert_eq!(codec.status.code(), Some(125), "{}", shown(&codec));
    assert!(String::from_utf8_lossy(&codec.stderr).contains("morse"), "{}", shown(&codec));
}

#[test]
fn a_user_who_may_not_serve_the_kernels_faults_gets_the_ways_out() {
    let test = "a_user_who_may_not_serve_the_kernels_faults_gets_the_ways_out";
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let mut command = run(folder.path(), &LIMIT, &["true"]);
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } == 0 {
        if std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|text| text.trim() == "1") {
            return support::skip(test, "every user may, here");
        }
        // The program and the library may lie where nobody else comes.
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["zspool", "libzspool_preload.so"] {
            std::fs::copy(built().join(name), bin.join(name)).unwrap();
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut other = std::process::Command::new(bin.join("zspool"));
        other.args(["run", "--memory-max", "64M", "--", "true"]).uid(65534).gid(65534).env_remove("XDG_RUNTIME_DIR");
        command = other;
    } else if not_permitted().is_none() {
        return support::skip(test, "this user may, here");
    }
    let output = finish(&mut command, 20);
    assert_refused(&output, 125, &["vm.unprivileged_userfaultfd", "/dev/userfaultfd", "root"]);
}

#[test]
fn it_ends_as_the_program_did() {
    if !can("it_ends_as_the_program_did") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let code = |script: &str| finish(&mut run(place.path(), &LIMIT, &["sh", "-c", script]), 30).status;
    assert_eq!(code("exit 0").code(), Some(0));
    assert_eq!(code("exit 42").code(), Some(42));
    assert_eq!(code("kill -TERM $$").signal(), Some(libc::SIGTERM));
    assert_eq!(code("kill -KILL $$").signal(), Some(libc::SIGKILL));
    // A signal to the launcher is the program's.
    let mut running = Deadlined::start(
        &mut run(
            place.path(),
            &LIMIT,
            &["sh", "-c", "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done"],
        ),
        30,
    );
    running.program();
    std::thread::sleep(Duration::from_millis(700));
    // SAFETY: it only sends a signal, to a child of ours.
    unsafe { libc::kill(running.pid() as i32, libc::SIGUSR1) };
    let output = running.finish();
    assert_eq!(output.status.code(), Some(9), "{}", shown(&output));
    assert_eq!(output.stdout, b"ready\ngot it\n");
    assert!(std::fs::read_dir(place.path().join("zspool")).unwrap().next().is_none(), "something was left behind");
}

#[test]
fn it_ends_for_a_parent_that_ignores_its_children_and_the_program_ignores_them_too() {
    if !can("it_ends_for_a_parent_that_ignores_its_children_and_the_program_ignores_them_too") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let ignoring = |program: &[&str]| {
        let mut command = run(place.path(), &LIMIT, program);
        let ignore = || {
            // SAFETY: ignoring runs nothing.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: one system call, which a child of fork may make.
        unsafe { command.pre_exec(ignore) };
        finish(&mut command, 60)
    };
    good(&ignoring(&["true"]));
    assert_eq!(ignoring(&["sh", "-c", "exit 42"]).status.code(), Some(42));
    // As it would be without us.
    let said = good(&ignoring(&["grep", "SigIgn", "/proc/self/status"]));
    let ignored = u64::from_str_radix(said.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert!(ignored >> (libc::SIGCHLD - 1) & 1 == 1, "{said}");
}

#[test]
fn numbers_are_there_however_it_ends() {
    if !can("numbers_are_there_however_it_ends") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (stat, end) = (place.path().join("stat.json"), place.path().join("end"));
    // What it came to, of a program that ends so when its memory was seen, and so long after that.
    let after = |how: &str, hold: Duration| {
        let _ = std::fs::remove_file(&end);
        let script = format!(
            "import os, signal, sys, time\nx = bytearray(os.urandom(8 << 20))\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\n{how}"
        );
        let options = ["--memory-max", "64M", "--stat", stat.to_str().unwrap()];
        let program = ["python3", "-c", &script, end.to_str().unwrap()];
        let mut running = Deadlined::start(&mut run(place.path(), &options, &program), 120);
        until_vm(&mut running, place.path(), |vm| vm["resident"].as_u64() >= Some(8 << 20));
        let seen = Instant::now();
        std::thread::sleep(hold);
        std::fs::write(&end, "").unwrap();
        let output = running.finish();
        let read = json(&stat);
        let resident = read["status"]["vms"][0]["resident"].as_u64();
        let resident = resident.unwrap_or_else(|| panic!("no numbers: {read:#}\n{}", shown(&output)));
        let old = read["status_is_seconds_old"].as_f64().unwrap();
        assert!(old <= read["wall_seconds"].as_f64().unwrap(), "{read:#}");
        let is_new = Duration::from_secs_f64(old) < seen.elapsed();
        (resident, old, is_new, (read["exit_code"].as_u64(), read["exit_signal"].as_u64()))
    };
    let (resident, old, _, ended) = after("raise SystemExit(3)", Duration::ZERO);
    assert_eq!((old, ended), (0.0, (Some(3), None)), "its last word");
    assert!(resident >= 4096, "an interpreter that ends in order has freed most by then, but not all");
    for (how, as_it_did) in
        [("os._exit(4)", (Some(4), None)), ("os.kill(os.getpid(), signal.SIGKILL)", (None, Some(libc::SIGKILL as u64)))]
    {
        // Once a second it is asked for numbers, where it gets the time: those that it has from then on are of all the memory.
        let mut hold = Duration::from_millis(1500);
        loop {
            let (resident, old, is_new, ended) = after(how, hold);
            assert!(old > 0.0 && ended == as_it_did, "{how}: {old} seconds old, {ended:?}");
            if is_new {
                assert!(resident >= 8 << 20, "{how}: {resident} bytes");
                break;
            }
            hold *= 2;
            assert!(hold < Duration::from_secs(60), "{how}: nobody asks it for numbers");
        }
    }
}

#[test]
fn numbers_go_into_a_pipe_when_the_program_has_ended_and_not_over_its_swapfile() {
    if !can("numbers_go_into_a_pipe_when_the_program_has_ended_and_not_over_its_swapfile") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let pipe = place.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let options = ["--memory-max", "64M", "--stat", pipe.to_str().unwrap()];
    let running = Deadlined::start(&mut run(place.path(), &options, &["sh", "-c", "exit 3"]), 60);
    let read = std::fs::read_to_string(&pipe).unwrap();
    assert_eq!(running.finish().status.code(), Some(3));
    let read: serde_json::Value = serde_json::from_str(&read).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    assert_eq!(read["exit_code"].as_u64(), Some(3));

    // Nobody reads it: the program is not started, and the launcher can be ended.
    let mut running = Deadlined::start(&mut run(place.path(), &options, &["true"]), 60);
    let caught = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
    };
    while !caught(running.pid()) {
        assert!(running.is_running());
    }
    // SAFETY: it only sends a signal, to a child of ours.
    unsafe { libc::kill(running.pid() as i32, libc::SIGTERM) };
    assert_refused(&running.finish(), 125, &["nobody reads it, and SIGTERM came"]);

    let swap = place.path().join("swap");
    let spec = format!("{},size=16M", swap.display());
    let over = ["--memory-max", "64M", "--swapfile", &spec, "--stat", swap.to_str().unwrap()];
    assert_refused(&finish(&mut run(place.path(), &over, &["true"]), 20), 125, &["a swapfile of this run"]);
    assert!(!swap.exists());
}

#[test]
fn folders_may_have_any_bytes_in_their_names() {
    if !can("folders_may_have_any_bytes_in_their_names") {
        return;
    }
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join(std::ffi::OsStr::from_bytes(b"a b\xff\r"));
    std::fs::create_dir(&place).unwrap();
    let (end, stat) = (folder.path().join("end"), folder.path().join("stat"));
    let script = "import os, sys, time\nx = bytearray(os.urandom(8 << 20))\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)";
    let mut command = zspool(&place);
    let swap = [place.join("swap").as_os_str(), std::ffi::OsStr::new(",size=16M")].join(std::ffi::OsStr::new(""));
    command.args(["run", "--memory-max", "64M", "--stat"]).arg(&stat).arg("--swapfile").arg(swap);
    command.args(["--", "python3", "-c", script]).arg(&end);
    let mut running = Deadlined::start(&mut command, 120);
    // It listens where it is looked for.
    until_vm(&mut running, &place, |vm| vm["resident"].as_u64() >= Some(8 << 20));
    assert!(place.join("swap").exists());
    std::fs::write(&end, "").unwrap();
    good(&running.finish());
    assert_eq!(json(&stat)["status_is_seconds_old"].as_f64(), Some(0.0), "its last word");
    let left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["zspool"], "no folder with a similar name, and no swapfile");
}

/// A program that holds 24 MiB, half of them of a kind that compresses, until somebody writes to its standard input.
const HOLDER: &str = "import os, sys, time\nx = [os.urandom(16) * 256 for i in range(3072)] + [os.urandom(4096) for i in range(3072)]\ns = sum(map(hash, x))\nprint('ready', flush=True)\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\nprint(sum(map(hash, x)) == s)";

#[test]
fn it_can_be_asked_and_told() {
    if !can("it_can_be_asked_and_told") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let end = place.path().join("end");
    let swap = format!("{},size=256M", place.path().join("swap").display());
    let options = ["--memory-max", "128M", "--swapfile", &swap];
    let mut running =
        Deadlined::start(&mut run(place.path(), &options, &["python3", "-c", HOLDER, end.to_str().unwrap()]), 120);
    let pid = running.program().to_string();
    let ctl = |verb: &[&str]| {
        let output = finish(zspool(place.path()).arg("ctl").arg(&pid).args(verb), 60);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => Ok(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()),
            Some(2) => Err(said),
            _ => panic!("{}", shown(&output)),
        }
    };
    let since = Instant::now();
    let vm = || ctl(&["status"]).map(|status| status["vms"][0].clone()).unwrap_or_default();
    let get = |key: &str| vm()[key].as_u64().unwrap_or(0);
    while get("resident") < 24 << 20 {
        assert!(running.is_running() && since.elapsed() < Duration::from_secs(60), "{:#}", vm());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500)); // until it only waits
    assert_eq!(vm()["memory_max"].as_u64(), Some(128 << 20));
    let won = ctl(&["reclaim", "8M", "source=anon"]).unwrap();
    assert!(won["reclaimed"].as_u64().unwrap() >= 4 << 20, "{won}");
    let limited = ctl(&["limit", "100M"]).unwrap();
    assert_eq!((limited["before"].as_str(), limited["now"].as_str()), (Some("134217728"), Some("104857600")));
    ctl(&["out"]).unwrap();
    assert!(get("on_device") > 4 << 20, "{:#}", vm());
    assert!(get("resident") + get("staged") < 8 << 20, "{:#}", vm());
    ctl(&["trim"]).unwrap();
    let top = finish(zspool(place.path()).args(["top", "--once", "--json", "--interval", "0.1"]), 30);
    let rows: serde_json::Value = serde_json::from_str(&good(&top)).unwrap();
    let ours = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["pid"].as_u64() == pid.parse().ok())
        .expect("it is in the table");
    assert_eq!(ours["memory_max"].as_u64(), Some(100 << 20));
    let table = good(&finish(zspool(place.path()).args(["top", "--once", "--interval", "0.1"]), 30));
    assert!(table.contains("PROGRAM") && table.contains("python3") && table.contains("100M"), "{table}");
    ctl(&["in"]).unwrap();
    assert!(get("out") < 1 << 20, "{:#}", vm());
    for (verb, words) in [(&["fly"][..], "status"), (&["limit", "lots"][..], "lots"), (&["out", "now"][..], "now")] {
        let refused = ctl(verb).unwrap_err();
        assert!(refused.contains(words) && refused.trim_end().ends_with('.'), "{verb:?}: {refused}");
    }
    std::fs::write(&end, "").unwrap();
    assert_eq!(good(&running.finish()), "ready\nTrue\n");
    assert!(!place.path().join("swap").exists(), "the swapfile was left behind");
    let gone = finish(zspool(place.path()).args(["ctl", &pid, "status"]), 30);
    assert_eq!(gone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("Nobody listens"), "{}", shown(&gone));
}

#[test]
fn children_take_part_if_they_are_to() {
    if !can("children_take_part_if_they_are_to") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let sockets = |options: &[&str]| {
        let mut all = LIMIT.to_vec();
        all.extend(options);
        let script = "import os, subprocess, sys\nsys.stdout.write(subprocess.run(['sh', '-c', 'ls \"$XDG_RUNTIME_DIR\"/zspool | grep -c sock; true'], capture_output=True, text=True).stdout)";
        good(&finish(&mut run(place.path(), &all, &["python3", "-c", script]), 30)).trim().to_owned()
    };
    assert_eq!(sockets(&[]), "1", "python's");
    // And the shell's, and those of the two that it starts as far as they have begun.
    assert!(sockets(&["--children"]).parse::<u32>().unwrap() >= 2);
}

/// What cannot leave stays: the program goes on past its limit, in bounded time, and the numbers say by how much, and why.
#[test]
fn a_program_whose_swapfile_is_full_goes_on_past_its_limit() {
    if !can("a_program_whose_swapfile_is_full_goes_on_past_its_limit") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (swap, stat) = (format!("{},size=2M", place.path().join("swap").display()), place.path().join("stat.json"));
    let end = place.path().join("end");
    // Nothing of it compresses, and there is room for 18 MiB of 32. It is written, looked for by the library, and read.
    let script = "import os, sys, time\nx = [os.urandom(4096) for i in range(8192)]\ns = sum(map(hash, x))\n\
                  while not os.path.exists(sys.argv[1]): time.sleep(0.02)\n\
                  print(sum(b[0] for b in x) == sum(b[0] for b in x) and sum(map(hash, x)) == s)";
    let options = ["--memory-max", "16M", "--stat", stat.to_str().unwrap(), "--swapfile", &swap];
    let program = ["python3", "-c", script, end.to_str().unwrap()];
    let mut running = Deadlined::start(&mut run(place.path(), &options, &program), 180);
    // Those that do not shrink are gone by the end of the program.
    let count = |vm: &serde_json::Value, key: &str| vm[key].as_u64().unwrap_or(0);
    until_vm(&mut running, place.path(), |vm| count(vm, "overshoot_bytes") > 0 && count(vm, "put_back_pages") > 1024);
    std::fs::write(&end, "").unwrap();
    let output = running.finish();
    assert_eq!(good(&output), "True\n");
    let read = json(&stat);
    let vm = &read["status"]["vms"][0];
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| panic!("no number: {read:#}"));
    let faults = number(&vm["faults"]["total"]);
    println!(
        "{faults} faults, {} pages taken out, {} put away, {} put back, {} bytes past the limit, {} s user, {} s system",
        vm["taken_out_pages"],
        vm["put_away_pages"],
        vm["put_back_pages"],
        vm["overshoot_bytes"],
        read["user_seconds"],
        read["system_seconds"]
    );
    // Each page is touched a few times, and most of them are there.
    assert!(faults < 8 * 8192, "each access is a fault: {read:#}");
}

/// Pages whose copies are damaged are errors of system calls, and their number is said at the end; where there are none, nothing is.
#[test]
fn what_could_not_be_read_back_is_said_at_the_end() {
    if !can("what_could_not_be_read_back_is_said_at_the_end") {
        return;
    }
    let me = std::env::current_exe().unwrap();
    for (damages, ends) in [(true, "exit"), (true, "_exit"), (false, "exit")] {
        let place = tempfile::tempdir().unwrap();
        let (swap, end) = (place.path().join("swap"), place.path().join("end"));
        let device = format!("{},size=64M", swap.display());
        let options = ["--memory-max", "128M", "--swapfile", &device];
        let program = [me.to_str().unwrap(), "--exact", "the_reader", "--ignored", "--nocapture", "--test-threads=1"];
        let mut command = run(place.path(), &options, &program);
        command.env("ZSPOOL_TEST_END", &end).env("ZSPOOL_TEST_ENDS_BY", ends);
        let mut running = Deadlined::start(&mut command, 120);
        until_vm(&mut running, place.path(), |vm| vm["resident"].as_u64() >= Some(8 << 20));
        let pid = running.program().to_string();
        // What it does while it waits comes in again, and stays.
        good(&finish(zspool(place.path()).args(["ctl", &pid, "out"]), 60));
        until_vm(&mut running, place.path(), |vm| vm["on_device"].as_u64() >= Some(4 << 20));
        std::thread::sleep(Duration::from_secs(1));
        if damages {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::options().write(true).open(&swap).unwrap();
            let noise = vec![0xa5; file.metadata().unwrap().len() as usize - 4096];
            file.write_all_at(&noise, 4096).unwrap();
        }
        std::fs::write(&end, "").unwrap();
        let output = running.finish();
        let (text, said) = (good(&output), String::from_utf8_lossy(&output.stderr).into_owned());
        let lost =
            text.lines().find_map(|line| line.strip_suffix(" pages are lost")).map(|n| n.parse::<u64>().unwrap());
        assert_eq!(lost.is_some_and(|lost| lost > 0), damages, "{}", shown(&output));
        let sentence = |lost: u64| format!("zspool: {lost} pages of ");
        assert_eq!(said.contains("could not be read back"), damages, "{}", shown(&output));
        assert_eq!(said.contains(&sentence(lost.unwrap_or(0))), damages, "{}", shown(&output));
    }
}

/// Not a test: what the one above runs. It has its memory read by system calls, which fail where it cannot be had.
#[test]
#[ignore = "a program for another test"]
fn the_reader() {
    let (Ok(end), Ok(ends_by)) = (std::env::var("ZSPOOL_TEST_END"), std::env::var("ZSPOOL_TEST_ENDS_BY")) else {
        return;
    };
    let (mut seed, end) = (1u64, std::ffi::CString::new(end).unwrap());
    let noise: Vec<u64> = (0..1 << 20)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed ^ seed >> 29
        })
        .collect();
    let mut ends = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let mut page = [0u64; 512];
    let mut through_the_pipe = |at: *const u64| {
        // SAFETY: a page of ours; that it cannot be had is an error of the call's.
        let written = unsafe { libc::write(ends[1], at.cast(), 4096) };
        let len = usize::try_from(written).unwrap_or(0);
        // SAFETY: the page is ours, and no pipe has more for it than was written.
        let read = unsafe { libc::read(if len > 0 { ends[0] } else { -1 }, page.as_mut_ptr().cast(), len) };
        assert_eq!(read.max(0), written.max(0));
        written
    };
    // Nothing of the library's own is used from here on: what it has is out too.
    // SAFETY: the name ends with a zero.
    while unsafe { libc::access(end.as_ptr(), libc::F_OK) } != 0 {
        assert_eq!(through_the_pipe(seed_page()), 4096);
        println!("{} pages are there", noise.len() >> 9);
        // SAFETY: takes a number.
        unsafe { libc::usleep(20_000) };
    }
    // The first whole page on: what lies beside it is the allocator's.
    let first = noise.as_ptr().addr().next_multiple_of(4096) - noise.as_ptr().addr();
    let lost = (0..(1 << 11) - 1)
        .filter(|page| through_the_pipe(noise.as_ptr().wrapping_byte_add(first + page * 4096)) != 4096)
        .count();
    println!("{lost} pages are lost");
    match ends_by.as_str() {
        // SAFETY: it ends the process.
        "_exit" => unsafe { libc::_exit(0) },
        // SAFETY: as above.
        _ => unsafe { libc::exit(0) },
    }
}

/// A page that is always there: what is done with it is done the same way with others.
fn seed_page() -> *const u64 {
    static PAGE: [u64; 512] = [7; 512];
    PAGE.as_ptr()
}

#[test]
fn a_fork_at_the_limit_ends_in_bounded_time() {
    if !can("a_fork_at_the_limit_ends_in_bounded_time") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    // Pages that are shared with the child cannot leave, and both go over all of them.
    let script = "import os\nx = [str(i) * 5 for i in range(150000)]\ns = sum(map(hash, x))\npid = os.fork()\nif pid == 0: os._exit(0 if sum(map(hash, x)) == s else 1)\nprint(os.waitpid(pid, 0)[1] == 0 and sum(map(hash, x)) == s)";
    let output = finish(&mut run(place.path(), &["--memory-max", "10M"], &["python3", "-c", script]), 60);
    assert_eq!(good(&output), "True\n");
}

#[test]
fn a_child_that_outlives_the_program_has_all_its_memory() {
    if !can("a_child_that_outlives_the_program_has_all_its_memory") {
        return;
    }
    let script = "import os, sys, time\nx = [str(i) * 5 for i in range(120000)]\ns = sum(map(hash, x))\nif os.fork():\n    os._exit(0) if sys.argv[1] == '_exit' else sys.exit(0)\ntime.sleep(0.3)\nopen(sys.argv[2] + '.new', 'w').write(str(sum(map(hash, x)) == s))\nos.rename(sys.argv[2] + '.new', sys.argv[2])\nos._exit(0)";
    for how in ["exit", "_exit"] {
        let place = tempfile::tempdir().unwrap();
        let said = place.path().join("said");
        let program = ["python3", "-c", script, how, said.to_str().unwrap()];
        let output = finish(&mut run(place.path(), &["--memory-max", "9M"], &program), 60);
        good(&output);
        let since = Instant::now();
        while !said.exists() {
            assert!(since.elapsed() < Duration::from_secs(30), "{how}: the child says nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(std::fs::read_to_string(&said).unwrap(), "True", "{how}");
    }
}
