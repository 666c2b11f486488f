//! `zspool squeeze` from end to end over each kind of source: all pages there, all identical, the report as promised.
#![cfg(feature = "cli")]

mod support;

use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;

const ZSPOOL: &str = env!("CARGO_BIN_EXE_zspool");
const PAGE: usize = 4096;

/// Squeeze and return the report.
#[track_caller]
fn report(arguments: &[&str]) -> Value {
    let output = Command::new(ZSPOOL).args(["squeeze", "--json", "-"]).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("came back identical"), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Pages of text, of zeroes, of one word and of noise, in turn.
fn pages(count: usize) -> Vec<u8> {
    let mut noise = 88172645463325252u64;
    let mut bytes = Vec::with_capacity(count * PAGE);
    for n in 0..count {
        match n % 4 {
            0 => bytes.extend((0..PAGE).map(|i| b"the quick brown fox "[(i * 7 + i / 100 + n) % 20])),
            1 => bytes.resize(bytes.len() + PAGE, 0),
            2 => bytes.extend((n as u64 * 0x0101_0101_0101).to_le_bytes().repeat(PAGE / 8)),
            _ => bytes.extend((0..PAGE / 8).flat_map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()
            })),
        }
    }
    bytes
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn sum(report: &Value, field: &str) -> u64 {
    report["sources"].as_array().unwrap().iter().map(|source| source[field].as_u64().unwrap()).sum()
}

/// A process that has `mebibytes` of memory and then sleeps; it says so when it has it.
fn holder(mebibytes: usize) -> Option<Child> {
    let script = format!(
        "x = bytearray(range(256)) * 4096 * {mebibytes}; print('.', flush=True); import time; time.sleep(1000)"
    );
    let mut child = Command::new("python3").args(["-c", &script]).stdout(Stdio::piped()).spawn().ok()?;
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    Some(child)
}

#[test]
fn images() {
    let (a, b) = (file(&pages(400)), file(&pages(41)));
    let report = report(&["--image", a.path().to_str().unwrap(), "--image", b.path().to_str().unwrap()]);
    let field = |source: usize, name: &str| report["sources"][source][name].as_u64().unwrap();
    assert_eq!((field(0, "pages"), field(1, "pages")), (400, 41));
    assert_eq!(field(0, "same_filled_pages"), 200);
    assert_eq!(field(0, "incompressible_pages"), 100);
    assert_eq!(field(0, "original_bytes"), 200 * PAGE as u64);
    assert!(field(0, "payload_bytes") < field(0, "original_bytes"));
    assert!(field(0, "slot_bytes") >= field(0, "payload_bytes"));
    assert_eq!(report["pool"]["payload_bytes"].as_u64().unwrap(), sum(&report, "payload_bytes"));
    assert_eq!(sum(&report, "mismatched_pages"), 0);
}

#[test]
fn an_elf_core() {
    let memory = pages(64);
    let mut core = vec![0; 64 + 2 * 56];
    core[..6].copy_from_slice(b"\x7fELF\x02\x01");
    core[16] = 4;
    core[32] = 64;
    core[54] = 56;
    core[56] = 2;
    for (n, (offset, len)) in
        [(4096u64, 40 * PAGE as u64), (4096 + 40 * PAGE as u64, 24 * PAGE as u64)].iter().enumerate()
    {
        let program = &mut core[64 + n * 56..][..56];
        program[0] = 1;
        program[8..16].copy_from_slice(&offset.to_le_bytes());
        program[32..40].copy_from_slice(&len.to_le_bytes());
    }
    core.resize(4096, 0);
    core.extend_from_slice(&memory);
    let core = file(&core);
    let report = report(&["--core", core.path().to_str().unwrap()]);
    assert_eq!(sum(&report, "pages"), 64);
    assert_eq!(sum(&report, "same_filled_pages"), 32);
}

#[test]
fn a_live_process_which_goes_on() {
    let Some(mut child) = holder(8) else {
        support::skip("a_live_process_which_goes_on", "python3 is not there");
        return;
    };
    let report = report(&["--pid", &child.id().to_string()]);
    assert!(child.try_wait().unwrap().is_none(), "the process was ended");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sum(&report, "pages") >= 2048);
    assert_eq!(report["sources"][0]["kind"], "process");
}

#[test]
fn all_a_user_without_rights_may_read() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        support::skip("all_a_user_without_rights_may_read", "needs root, to become a user who has one process");
        return;
    }
    // A copy that others may execute, and a user whose only other process is the one that is to be found.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("zspool");
    std::fs::copy(ZSPOOL, &program).unwrap();
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let user = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(61_748).gid(61_748).current_dir("/");
        command
    };
    let mut child = user(Path::new("sleep")).arg("1000").spawn().unwrap();
    // Until it is asleep it may still be a copy of this test, which is somebody else's.
    while !std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains("(sleep) S ") {
        std::thread::yield_now();
    }
    let output = user(&program).args(["squeeze", "--json", "-"]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["sources"].as_array().unwrap().len(), 1);
    assert_eq!(report["sources"][0]["name"], format!("sleep-{}", child.id()));
}

#[test]
fn a_command_which_is_ended() {
    let report = report(&["--after", "0.3", "--", "sh", "-c", "sleep 4321 & sleep 4322"]);
    assert_eq!(report["sources"][0]["name"], "sh");
    assert!(sum(&report, "pages") > 30);
    let left = Command::new("ps").args(["-eo", "args"]).output();
    if let Ok(left) = left {
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        assert!(!left.lines().any(|line| line == "sleep 4321" || line == "sleep 4322"), "{left}");
    }
}

#[test]
fn limits_of_nothing_one_byte_and_more_than_there_is() {
    let image = file(&pages(64));
    for limit in ["0", "1", "8388607T"] {
        for option in ["--pool-limit", "--memcg-limit"] {
            let report = report(&["--image", image.path().to_str().unwrap(), option, limit]);
            assert_eq!(sum(&report, "pages"), 64, "{option} {limit}");
            assert_eq!(sum(&report, "stored_pages") + sum(&report, "refused_pages"), 64, "{option} {limit}");
            if limit != "8388607T" {
                // Pages of one small word are kept even so.
                assert!(sum(&report, "stored_pages") >= 16, "{option} {limit}");
                assert_eq!(sum(&report, "payload_bytes"), 0, "{option} {limit}");
            }
        }
    }
}

#[test]
fn the_table_goes_to_standard_output_when_json_goes_to_a_file() {
    let (image, json) = (file(&pages(8)), NamedTempFile::new().unwrap());
    let paths = [image.path(), json.path()].map(|path| path.to_str().unwrap());
    let output = Command::new(ZSPOOL)
        .args(["squeeze", "--image", paths[0], "--json", paths[1], "--classes", "--stat"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("came back identical") && table.contains("freeable") && table.contains("zswap"), "{table}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json.path()).unwrap()).unwrap();
    assert_eq!(sum(&report, "pages"), 8);
}
