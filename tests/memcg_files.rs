//! The control files from outside: the document against the table, errors as cgroup v2 gives them, limits below the usage.

use std::sync::{Arc, Mutex};
use zspool::memcg::{
    Ask, Cancel, Counter, End, Error, Memcg, MemcgEvent, Reclaimed, Reclaimer, RequestError, Resident, Source, Tree,
    TreeConfig,
};

fn tree() -> (Tree, Memcg) {
    let tree = Tree::new(TreeConfig::default());
    let vm = tree.root().mkdir("vm").unwrap();
    (tree, vm)
}

fn refused(memcg: &Memcg, file: &str, text: &str) -> Error {
    memcg.write_file(file, text).expect_err(&format!("{file} took {text:?}"))
}

#[test]
fn the_document_lists_the_files_that_there_are() {
    let mut table = String::from("| file | mode | says or does | takes |\n|---|---|---|---|\n");
    for info in Memcg::file_table() {
        let takes = info.takes.unwrap_or_default().replace('|', "\\|").replace('<', "\\<");
        table += &format!("| `{}` | {:o} | {} | {takes} |\n", info.name, info.mode(), info.summary);
    }
    let document = include_str!("../docs/control-files.md");
    assert!(document.contains(&table), "docs/control-files.md lacks this table as it is now:\n{table}");
}

#[test]
fn bad_requests_are_einval_with_a_sentence() {
    let (_tree, vm) = tree();
    let bad = [
        // The kernel's selftest.
        "source=zswap",
        "10M source=zswap swappiness=60",
        "10M swappiness=60 source=zswap",
        "10M source=zswap swappiness=max",
        "10M swappiness=max source=zswap",
        // And others.
        "",
        "\n",
        "10Q",
        "-1",
        "1 2",
        "18446744073709551616",
        "16777216T",
        "1\0",
        "1 \0source=zswap",
        "1 tier=0",
        "1 source=",
        "1 source=ram",
        "1 source=zswap,zswap",
        "1 source=zswap source=zswap",
        "1 swappiness=201",
        "1 age=abc",
        "1 age=18446744073709551616",
        "1 to=",
        "1 to=ssd source=anon",
    ];
    for text in bad {
        let error = refused(&vm, "memory.reclaim", text);
        assert!(matches!(error, Error::Request(_)), "{text:?}: {error:?}");
        assert_eq!(error.errno(), libc::EINVAL, "{text:?}");
        let says = error.to_string();
        assert!(says.contains(' ') && !says.ends_with('.'), "{text:?}: {says}");
    }
    let file = refused(&vm, "memory.reclaim", "1 source=file");
    assert_eq!((file.errno(), matches!(file, Error::Unserved { .. })), (libc::EINVAL, true));
    assert!(file.to_string().contains("source=file"));
    let tier = refused(&vm, "memory.reclaim", "1 to=ssd");
    assert_eq!((tier.errno(), matches!(tier, Error::NoSuchTier { .. })), (libc::EINVAL, true));
    let both = refused(&vm, "memory.reclaim", "1 source=anon swappiness=0");
    assert_eq!(both, Error::Request(RequestError::SourceAndSwappiness));
    assert_eq!(refused(&vm, "memory.reclaim", "1").errno(), libc::EAGAIN, "there is nothing");
    vm.write_file("memory.reclaim", "0 age=0\n").unwrap();
}

#[test]
fn every_file_refuses_what_it_does_not_take_by_errno() {
    let (tree, vm) = tree();
    for info in Memcg::file_table() {
        let name = info.name;
        match info.readable {
            true => assert!(vm.read_file(name).is_ok(), "{name}"),
            false => assert_eq!(vm.read_file(name).unwrap_err().errno(), libc::EACCES, "{name}"),
        }
        match info.takes {
            None => assert_eq!(refused(&vm, name, "1").errno(), libc::EACCES, "{name}"),
            Some(_) if name == "cgroup.procs" => assert_eq!(refused(&vm, name, "1").errno(), libc::EOPNOTSUPP),
            Some(_) => assert_eq!(refused(&vm, name, " \n").errno(), libc::EINVAL, "{name}"),
        }
        if name.ends_with(".max") && name != "memory.swap.tiers.max"
            || matches!(name, "memory.high" | "memory.low" | "memory.min")
        {
            for text in ["12Q", "-1", "MAX", "1 2", "0x10", "1.5M", "18446744073709551616", "1T0", "4096\0", "max 1"] {
                let error = refused(&vm, name, text);
                assert_eq!(error.errno(), libc::EINVAL, "{name} {text:?}");
                assert!(error.to_string().contains("write a size in bytes"), "{error}");
                let unset = if matches!(name, "memory.low" | "memory.min") { "0\n" } else { "max\n" };
                assert_eq!(vm.read_file(name).unwrap(), unset, "{name} {text:?}");
            }
        }
    }
    assert_eq!(vm.read_file("memory.oom.group").unwrap_err().errno(), libc::ENOENT);
    vm.offline().unwrap();
    for info in Memcg::file_table() {
        assert_eq!(vm.read_file(info.name).unwrap_err().errno(), libc::ENODEV, "{}", info.name);
        assert_eq!(refused(&vm, info.name, "1").errno(), libc::ENODEV, "{}", info.name);
    }
    drop(tree);
}

#[test]
fn directories_are_refused_as_cgroup_v2_refuses_them() {
    let (tree, vm) = tree();
    let mkdir = |name: &str| vm.mkdir(name).unwrap_err().errno();
    vm.mkdir("child").unwrap();
    assert_eq!(mkdir("child"), libc::EEXIST);
    assert_eq!(mkdir("memory.max"), libc::EEXIST);
    assert_eq!(mkdir(&"x".repeat(256)), libc::ENAMETOOLONG);
    for name in ["a/b", "a\0", "a\nb", "", ".", ".."] {
        assert_eq!(mkdir(name), libc::EINVAL, "{name:?}");
    }
    vm.mkdir(&"x".repeat(255)).unwrap();
    assert_eq!(vm.offline().unwrap_err().errno(), libc::EBUSY, "it has children");
    assert_eq!(tree.root().offline().unwrap_err().errno(), libc::EBUSY);
    vm.children().iter().for_each(|child| child.offline().unwrap());
    vm.offline().unwrap();
    assert_eq!(vm.offline().unwrap_err().errno(), libc::ENODEV);
    assert_eq!(mkdir("late"), libc::ENODEV);
    let few = Tree::new(TreeConfig { objcg_ids: 1, ..TreeConfig::default() });
    assert_eq!(few.root().mkdir("one").unwrap_err().errno(), libc::ENOSPC);
}

/// Resident pages, which are dropped when asked for; and a number of them that cannot be.
struct Pages {
    kept: usize,
    pages: Mutex<Vec<Resident>>,
}

impl Reclaimer for Pages {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let mut pages = self.pages.lock().unwrap();
        let mut bytes = 0;
        while bytes < ask.bytes && pages.len() > self.kept && !ask.cancel.is_cancelled() {
            bytes += pages.pop().unwrap().bytes();
        }
        let end = match () {
            () if bytes >= ask.bytes => End::Met,
            () if ask.cancel.is_cancelled() => End::Cancelled,
            () => End::Exhausted,
        };
        Reclaimed { bytes, end }
    }
}

#[test]
fn a_limit_below_the_usage_is_reclaimed_to_before_the_write_returns() {
    let (tree, vm) = tree();
    let pages = Arc::new(Pages { kept: 10, pages: Mutex::default() });
    let _registration = tree.register(Box::new(Arc::clone(&pages)));
    let fill = |n: usize| {
        let mut pages = pages.pages.lock().unwrap();
        while pages.len() < n {
            pages.push(vm.charge_resident(4096).unwrap());
        }
    };
    let current = || vm.current(Counter::Memory);
    fill(100);
    vm.write_file("memory.high", "200K").unwrap();
    assert_eq!((current(), vm.read_file("memory.high").unwrap()), (50 * 4096, "204800\n".to_owned()));
    vm.write_file("memory.high", "max").unwrap();
    fill(100);
    vm.write_file("memory.max", "200001").unwrap();
    assert_eq!(current(), 48 * 4096, "the last page that is above");
    assert_eq!(vm.events(MemcgEvent::Oom), 0);
    // What cannot be reclaimed stays, and the write succeeds all the same.
    vm.write_file("memory.max", "4096").unwrap();
    assert_eq!((current(), vm.max(Counter::Memory), vm.events(MemcgEvent::Oom)), (10 * 4096, 4096, 1));
    // A write that is cancelled has set the limit.
    vm.write_file("memory.max", "max").unwrap();
    fill(100);
    let cancel = Cancel::new();
    cancel.cancel();
    vm.open_file("memory.max").unwrap().write("200K", &cancel).unwrap();
    assert_eq!((current(), vm.max(Counter::Memory), vm.events(MemcgEvent::Oom)), (100 * 4096, 200 << 10, 1));
    // And a request that is cancelled says so.
    let error = vm.open_file("memory.reclaim").unwrap().write("1M", &cancel).unwrap_err();
    assert_eq!(error.errno(), libc::EINTR);
    vm.write_file("memory.reclaim", "40K").unwrap();
    assert_eq!(current(), 90 * 4096);
    let error = refused(&vm, "memory.reclaim", "1M");
    assert_eq!(error, Error::Again { path: "/vm".into(), asked: 1 << 20, reclaimed: 80 * 4096, end: End::Exhausted });
    pages.pages.lock().unwrap().clear();
    tree.assert_quiet();
}
