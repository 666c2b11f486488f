//! `zspool squeeze --mount`: the memcgs of a run as files, looked at and driven by a shell while it runs.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;

#[cfg(not(feature = "fuse"))]
#[test]
fn a_program_without_it_says_how_to_build_one() {
    squeeze(&["--mount", "/nowhere"]).assert_refused(&["without --mount", "--features cli,fuse"]);
}

#[cfg(feature = "fuse")]
mod mounted {
    use super::support::{compressible, skip};
    use super::*;
    use std::fs;
    use std::ops::Deref;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use tempfile::TempDir;

    const PAGES: u64 = 2000;

    /// A held run: taken apart in this order, it goes in the other one.
    struct Held {
        folder: TempDir,
        at: Freed,
        running: Running,
    }

    /// None where FUSE is missing.
    fn held(test: &str) -> Option<Held> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("tree");
        fs::create_dir(&at).unwrap();
        let freed = Freed(at.clone());
        let images = ["a", "b"].map(|name| image(folder.path(), name, (0..PAGES).map(|k| compressible(k, 1200))));
        let swapfile = folder.path().join("swap");
        let mut arguments = vec!["--json", "-", "--swap-size", "64M", "--hold", "--mount", at.to_str().unwrap()];
        arguments.extend(["--swapfile", swapfile.to_str().unwrap()]);
        images.iter().for_each(|image| arguments.extend(["--image", image.to_str().unwrap()]));
        let mut running = Running::start(&arguments);
        while !running.said().contains("pages are held") {
            if running.has_ended() {
                let ended = running.finish();
                let missing = ["FUSE is missing", "may not use /dev/fuse", "helper fusermount3 is not there"];
                assert!(missing.iter().any(|said| ended.err.contains(said)), "{ended:?}");
                skip(test, &ended.err);
                return None;
            }
            std::thread::yield_now();
        }
        Some(Held { folder, at: freed, running })
    }

    /// Where the memcgs are; freed from what a killed run left there.
    struct Freed(PathBuf);

    impl Deref for Freed {
        type Target = Path;
        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Freed {
        fn drop(&mut self) {
            // An error says that nothing is mounted there any more.
            let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
        }
    }

    fn shell(at: &Path, script: &str) -> String {
        let output = Command::new("bash").args(["-c", script]).current_dir(at).stdin(Stdio::null()).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{script}: {err}");
        out
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn a_held_run_is_looked_at_and_driven_and_then_ends_as_ever() {
        let Some(Held { folder: _folder, at, running }) =
            held("a_held_run_is_looked_at_and_driven_and_then_ends_as_ever")
        else {
            return;
        };
        let zswap = |memcg: &str| -> u64 {
            shell(&at, &format!("awk '$1 == \"zswapped\" {{ print $2 }}' {memcg}/memory.stat")).trim().parse().unwrap()
        };
        assert_eq!((zswap("a"), zswap("b"), zswap(".")), (PAGES * 4096, PAGES * 4096, 2 * PAGES * 4096));
        // Written back by request, to the page: a source's first, then what there is of both.
        let written = |memcg: &str| -> u64 {
            let line = "$1 == \"zswpwb_proactive_b\" { print $2 }";
            shell(&at, &format!("awk '{line}' {memcg}/memory.stat")).trim().parse().unwrap()
        };
        shell(&at, "echo 1M source=zswap > a/memory.reclaim");
        let of_a = written("a");
        assert!((1 << 20..(1 << 20) + 4096).contains(&of_a), "{of_a}");
        assert_eq!((written("."), zswap("b")), (of_a, PAGES * 4096));
        shell(&at, "echo 1M source=zswap > memory.reclaim");
        let of_both = written(".") - of_a;
        assert!((1 << 20..(1 << 20) + 4096).contains(&of_both), "{of_both}");
        // A child of the run's own making, and the removal of a memcg of the run: its pages are the root's then.
        shell(&at, "mkdir a/sub && echo 0 > a/sub/memory.zswap.writeback && rmdir a/sub b");
        assert!(zswap("a") < zswap(".") && zswap(".") < 2 * PAGES * 4096 - (2 << 20));
        running.signal(libc::SIGINT);
        let ended = running.finish();
        let report = ended.assert_code(0).report();
        assert_eq!(sum(&report, "stored_pages"), 2 * PAGES);
        assert_eq!((sum(&report, "mismatched_pages"), report["failures"].as_array().unwrap().len()), (0, 0));
        // Of the one that is gone nothing is told, and of all together what the devices say.
        let (a, b) = (&report["sources"][0], &report["sources"][1]);
        assert_eq!((&a["removed"], &b["removed"]), (&false.into(), &true.into()));
        assert!(of(a, "written_back_pages") > 0 && b["written_back_pages"].is_null(), "{b}");
        let on_devices = of(&report["swap"], "physical_slots");
        assert!(on_devices > of(a, "written_back_pages"), "{report}");
        assert_eq!(of(&report["total"], "written_back_pages"), on_devices);
        ended.assert_said(&["b: its memcg was removed while it was held", "of swapfile"]);
        assert!(is_empty(&at), "it is unmounted");
    }

    #[test]
    fn a_run_whose_memcgs_were_all_removed_tells_what_the_devices_hold() {
        let test = "a_run_whose_memcgs_were_all_removed_tells_what_the_devices_hold";
        let Some(Held { folder: _folder, at, running }) = held(test) else { return };
        shell(&at, "echo 2M source=zswap > memory.reclaim && rmdir a b");
        running.signal(libc::SIGINT);
        let ended = running.finish();
        let report = ended.assert_code(0).report();
        let on_devices = of(&report["swap"], "physical_slots");
        assert!(on_devices > 100 && of(&report["total"], "written_back_pages") == on_devices, "{report}");
        assert_eq!(of(&report["total"], "payload_bytes"), of(&report["pool"], "payload_bytes"));
        ended.assert_said(&["of swapfile"]);
        let total = ended.err.lines().find(|line| line.starts_with("total ")).unwrap();
        assert_eq!(total.split_whitespace().last(), Some(on_devices.to_string().as_str()));
    }

    #[test]
    fn a_run_that_is_asked_to_end_while_it_holds_ends_and_unmounts() {
        let test = "a_run_that_is_asked_to_end_while_it_holds_ends_and_unmounts";
        let Some(Held { folder: _folder, at, running }) = held(test) else { return };
        let file = fs::File::open(at.join("a/memory.stat")).unwrap();
        running.signal(libc::SIGTERM);
        running.finish().assert_code(143).assert_said(&["Stopped by SIGTERM"]);
        assert!(is_empty(&at));
        drop(file);
    }

    #[test]
    fn unmounting_ends_the_hold() {
        let Some(Held { folder: _folder, at, running }) = held("unmounting_ends_the_hold") else { return };
        shell(Path::new("/"), &format!("umount {0} 2>/dev/null || fusermount3 -u {0}", at.display()));
        let ended = running.finish();
        assert_eq!(sum(&ended.assert_code(0).report(), "stored_pages"), 2 * PAGES);
    }

    #[test]
    fn what_a_killed_run_left_mounted_is_named_with_the_way_out() {
        let test = "what_a_killed_run_left_mounted_is_named_with_the_way_out";
        let Some(Held { folder, at, running }) = held(test) else { return };
        running.signal(libc::SIGKILL);
        assert_eq!(running.finish().status.code(), None);
        let image = folder.path().join("a.pages");
        let again = ["--mount", at.to_str().unwrap(), "--image", image.to_str().unwrap()];
        squeeze(&again).assert_refused(&["a program that has ended", &format!("umount {}", at.display())]);
        shell(Path::new("/"), &format!("umount {0} 2>/dev/null || fusermount3 -u {0}", at.display()));
        squeeze(&again).assert_code(0);
    }

    #[test]
    fn a_bad_mount_point_is_refused_before_anything_is_stored() {
        let Some(Held { folder, at, running: _running }) =
            held("a_bad_mount_point_is_refused_before_anything_is_stored")
        else {
            return;
        };
        let image = folder.path().join("a.pages");
        for (bad, says) in
            [(folder.path(), "is not empty"), (&at.join("a"), "lies in a tree"), (&at.join("c"), "with mkdir")]
        {
            let arguments = ["--mount", bad.to_str().unwrap(), "--image", image.to_str().unwrap()];
            squeeze(&arguments).assert_refused(&["The memcgs cannot be mounted", says]);
        }
    }
}
