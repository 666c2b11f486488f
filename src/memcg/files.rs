//! The text files of a memcg, as cgroup v2 has them, through one table.
//!
//! ```text
//!   name                 readable  takes                 read by            written by
//!   +--------------------+--------+--------------------+------------------+-------------------+
//!   | memory.stat        | yes    |                    | reading::stat    |                   |
//!   | memory.max         | yes    | a size, or "max"   | ::memory_max     | writing::memory_max
//!   | memory.reclaim     | no     | "<size> [source=.. |                  | ::reclaim         |
//!   +--------------------+--------+--------------------+------------------+-------------------+
//!        |                                                   |                    |
//!   Memcg::file_table  (documentation, mounts)      Memcg::read_file     Memcg::write_file, OpenFile
//! ```
//!
//! All there are, with what they say and take, are in `docs/control-files.md`, which a test compares with the table.
//!
//! What differs from the kernel: sizes are exact bytes, and not rounded down to pages. The root has all files. `memory.stat`
//! and `memory.numa_stat` have the lines that mean something here, and some of ours. Nothing here has a file or a process, so
//! the lines of `memory.events` and `cgroup.events` about those stay 0.

mod reading;
mod writing;

use super::cancel::Cancel;
use super::counter::Counter;
use super::error::Error;
use super::handle::Memcg;
use super::peak::PeakReader;
use super::request;
use writing::Refused;

/// One file of a memcg, for listings and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: &'static str,
    /// Whether it can be read.
    pub readable: bool,
    /// What can be written to it, if anything.
    pub takes: Option<&'static str>,
    /// What it says or does, in a sentence without its period.
    pub summary: &'static str,
}

impl FileInfo {
    /// Its permission bits: 0o444, 0o644 or 0o200.
    pub fn mode(&self) -> u16 {
        match (self.readable, self.takes) {
            (true, None) => 0o444,
            (true, Some(_)) => 0o644,
            (false, _) => 0o200,
        }
    }
}

/// A file of a memcg while it is open: what a file descriptor is in the kernel. Only `memory.peak` and its like have a state of
/// their own here: a write begins a peak for this reader alone.
#[derive(Debug)]
pub struct OpenFile {
    memcg: Memcg,
    file: &'static File,
    peak: Option<PeakReader>,
}

/// One row of the table.
struct File {
    name: &'static str,
    summary: &'static str,
    read: Option<fn(&Memcg) -> reading::Text>,
    write: Option<Write>,
    /// It is read and written per opener.
    peak: Option<Counter>,
}

/// What a file takes, and how.
struct Write {
    grammar: &'static str,
    words: Words,
    take: fn(&Memcg, &str, &Cancel) -> writing::Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    /// Exactly one.
    One,
    /// One after the other, each by itself.
    Each,
    /// The text as it is.
    Text,
}

const SIZE: &str = "a size in bytes as digits with an optional K, M, G or T, or \"max\"";
const TIER: &str = "a tier and max or 0, such as \"disk 0\"";
const ANYTHING: &str = "anything, to begin a peak of this reader's own from now on";

const fn reads(name: &'static str, summary: &'static str, read: fn(&Memcg) -> reading::Text) -> File {
    File { name, summary, read: Some(read), write: None, peak: None }
}

const fn peak(name: &'static str, summary: &'static str, counter: Counter) -> File {
    File { name, summary, read: None, write: None, peak: Some(counter) }
}

impl File {
    const fn takes(
        self,
        words: Words,
        grammar: &'static str,
        take: fn(&Memcg, &str, &Cancel) -> writing::Done,
    ) -> File {
        File { write: Some(Write { grammar, words, take }), ..self }
    }

    const fn takes_size(self, take: fn(&Memcg, &str, &Cancel) -> writing::Done) -> File {
        self.takes(Words::One, SIZE, take)
    }

    fn info(&self) -> FileInfo {
        let File { name, summary, .. } = *self;
        FileInfo { name, readable: self.is_readable(), takes: self.grammar(), summary }
    }

    fn is_readable(&self) -> bool {
        self.read.is_some() || self.peak.is_some()
    }

    fn grammar(&self) -> Option<&'static str> {
        self.write.as_ref().map(|write| write.grammar).or(self.peak.map(|_| ANYTHING))
    }
}

static FILES: &[File] = &[
    reads("memory.current", "bytes charged to it and all below it: compressed and resident", reading::memory_current),
    peak("memory.peak", "the most that memory.current was", Counter::Memory),
    reads(
        "memory.max",
        "the bytes there may be; what is above is reclaimed, and charges wait for that",
        reading::memory_max,
    )
    .takes_size(writing::memory_max),
    reads("memory.low", "the bytes that are left to it as long as others have some, in effect", reading::memory_low)
        .takes_size(writing::memory_low),
    reads("memory.min", "the bytes that are left to it whatever others have, in effect", reading::memory_min)
        .takes_size(writing::memory_min),
    reads("memory.high", "the bytes above which it is reclaimed from; nothing is refused", reading::memory_high)
        .takes_size(writing::memory_high),
    File {
        name: "memory.reclaim",
        summary: "has bytes reclaimed; EAGAIN when there were fewer than asked for",
        read: None,
        write: None,
        peak: None,
    }
    .takes(Words::Text, request::GRAMMAR, writing::reclaim),
    reads("memory.stat", "sums over it and all below it, a line each", reading::stat),
    reads("memory.numa_stat", "the sums of bytes by node", reading::numa_stat),
    reads("memory.events", "how often a limit mattered here and below", reading::events),
    reads("memory.events.local", "how often a limit mattered here", reading::local_events),
    reads("memory.pressure", "the time that threads lost waiting for memory", reading::pressure),
    reads("memory.swap.current", "bytes of places on devices", reading::swap_current),
    peak("memory.swap.peak", "the most that memory.swap.current was", Counter::Swap),
    reads("memory.swap.max", "the bytes on devices there may be; what is there stays", reading::swap_max)
        .takes_size(writing::swap_max),
    reads("memory.swap.tiers", "the tiers of devices, with their priorities", reading::tiers),
    reads("memory.swap.tiers.max", "the tiers that its pages may go to, as set here", reading::own_tiers).takes(
        Words::Text,
        TIER,
        writing::tiers,
    ),
    reads("memory.swap.tiers.effective", "those that every ancestor allows too", reading::effective_tiers),
    reads("memory.swap.events", "how often a place on a device was refused", reading::swap_events),
    reads("memory.zswap.current", "bytes of compressed pages", reading::zswap_current),
    peak("memory.zswap.peak", "the most that memory.zswap.current was", Counter::Zswap),
    reads("memory.zswap.max", "the compressed bytes there may be; what is above is written back", reading::zswap_max)
        .takes_size(writing::zswap_max),
    reads("memory.zswap.writeback", "whether pages may go to a device", reading::writeback).takes(
        Words::One,
        "0 (no page is written to a device from here on down) or 1",
        writing::writeback,
    ),
    reads("memory.zswap.nodes", "the nodes that its compressed pages may lie on, as set here", reading::nodes).takes(
        Words::One,
        "numbers and ranges of nodes with commas between them, such as 0-1,3",
        writing::nodes,
    ),
    reads("memory.zswap.nodes.effective", "the nodes that every ancestor allows too", reading::effective_nodes),
    reads("cgroup.procs", "nothing: no process lives here", reading::procs).takes(
        Words::Text,
        "nothing: a write is refused",
        writing::procs,
    ),
    reads("cgroup.controllers", "the controllers there are: memory", reading::controllers),
    reads("cgroup.subtree_control", "the controllers of its children: memory", reading::controllers).takes(
        Words::Each,
        "+memory, which is so already",
        writing::subtree_control,
    ),
    reads("cgroup.events", "whether it has processes, or is frozen: never", reading::cgroup_events),
    reads("cgroup.stat", "descendants there are, and removed ones of which something is left", reading::cgroup_stat),
];

fn names<'a>(files: impl Iterator<Item = &'a File>) -> String {
    files.map(|file| file.name).collect::<Vec<_>>().join(", ")
}

fn find(name: &str) -> Result<&'static File, Error> {
    FILES
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| Error::NoSuchFile { name: name.to_owned(), known: names(FILES.iter()) })
}

/// Whether a file has this name: then no memcg can, for they would be in one directory.
pub(super) fn is_file(name: &str) -> bool {
    FILES.iter().any(|file| file.name == name)
}

impl Write {
    fn write(&self, memcg: &Memcg, file: &'static str, text: &str, cancel: &Cancel) -> Result<(), Error> {
        let grammar = self.grammar;
        let take = |word: &str| {
            (self.take)(memcg, word, cancel).map_err(|refused| match refused {
                Refused::Word(why) => Error::BadWord { file, word: word.to_owned(), why, grammar },
                Refused::OneOf(word, why) => Error::BadWord { file, word, why, grammar },
                Refused::Unsupported(why) => Error::Unsupported { file, word: word.to_owned(), why },
                Refused::Nothing => Error::NoValue { file, grammar },
                Refused::Memcg(error) => error,
            })
        };
        if self.words == Words::Text {
            return take(text);
        }
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        match words[..] {
            [] => Err(Error::NoValue { file, grammar }),
            [_, extra, ..] if self.words == Words::One => {
                Err(Error::BadWord { file, word: extra.to_owned(), why: "one word is enough".to_owned(), grammar })
            }
            _ => words.into_iter().try_for_each(take),
        }
    }
}

// === impl OpenFile ===

impl OpenFile {
    /// Which it is.
    pub fn info(&self) -> FileInfo {
        self.file.info()
    }

    /// What it says now.
    ///
    /// # Errors
    /// [`Error::Offline`], [`Error::WriteOnly`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn read(&self) -> Result<String, Error> {
        self.memcg.check_online()?;
        match (&self.peak, self.file.read) {
            (Some(peak), _) => Ok(format!("{}\n", peak.read())),
            (None, Some(read)) => read(&self.memcg),
            (None, None) => {
                Err(Error::WriteOnly { file: self.file.name, takes: self.file.grammar().unwrap_or_default() })
            }
        }
    }

    /// Write to it: one whole text, with white space around it as `echo` leaves it. What runs long (reclaim, by request or
    /// because a limit was set below the usage) ends soon when `cancel` is set.
    ///
    /// # Errors
    /// [`Error::Offline`], [`Error::ReadOnly`]; [`Error::NoValue`], [`Error::BadWord`], [`Error::Unsupported`] and
    /// [`Error::Request`] with the offending word and what the file takes; those of [`Memcg::reclaim`].
    ///
    /// # Locks
    /// The tree lock; none while reclaimers are called.
    pub fn write(&self, text: &str, cancel: &Cancel) -> Result<(), Error> {
        self.memcg.check_online()?;
        let file = self.file.name;
        match (&self.peak, &self.file.write) {
            (Some(_), _) if text.trim_ascii().is_empty() => Err(Error::NoValue { file, grammar: ANYTHING }),
            (Some(peak), _) => peak.reset(),
            (None, Some(write)) => write.write(&self.memcg, file, text, cancel),
            (None, None) => {
                let writable = names(FILES.iter().filter(|file| file.grammar().is_some()));
                Err(Error::ReadOnly { file, writable })
            }
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Memcg {
    /// The files there are, in the order of the table.
    pub fn file_table() -> impl Iterator<Item = FileInfo> {
        FILES.iter().map(File::info)
    }

    /// Names of the files, in the order of the table.
    pub fn files() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|file| file.name)
    }

    /// Open a file, as often as wanted.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::Offline`].
    pub fn open_file(&self, name: &str) -> Result<OpenFile, Error> {
        let file = find(name)?;
        self.check_online()?;
        Ok(OpenFile { memcg: self.clone(), file, peak: file.peak.map(|counter| self.peak_reader(counter)) })
    }

    /// What a file says.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], and those of [`OpenFile::read`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn read_file(&self, name: &str) -> Result<String, Error> {
        self.open_file(name)?.read()
    }

    /// Write to a file; see [`OpenFile::write`]. To be able to cancel what runs long, [open](Self::open_file) it.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], and those of [`OpenFile::write`].
    ///
    /// # Locks
    /// The tree lock; none while reclaimers are called.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), Error> {
        self.open_file(name)?.write(text, &Cancel::new())
    }

    fn check_online(&self) -> Result<(), Error> {
        self.shared().check_online(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bytes4, Event, MemcgEvent, NO_LIMIT, Tree, TreeConfig};
    use super::*;
    use crate::units::{NodeId, NodeMask};

    fn vm(tree: &Tree) -> Memcg {
        tree.root().mkdir("vm").unwrap()
    }

    #[test]
    fn stat_files_show_the_subtree_in_the_units_of_the_kernel() {
        let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
        let vm = vm(&tree);
        let objcg = vm.objcg().unwrap();
        objcg.try_charge(5000).unwrap();
        let resident = vm.charge_resident(7).unwrap();
        let first = Bytes4 { compressed: 1000, original: 4096, payload: 900, incompressible: 0 };
        let raw = Bytes4 { compressed: 4000, original: 4096, payload: 4000, incompressible: 4096 };
        tree.account(objcg.id(), NodeId(0), first);
        tree.account(objcg.id(), NodeId(0), raw);
        tree.transfer(objcg.id(), NodeId(0), NodeId(1), raw);
        tree.count(objcg.id(), Event::ZswpOut, 2);
        tree.count(objcg.id(), Event::ZswpIn, 3);
        tree.count(objcg.id(), Event::ZswpWb, 4);
        tree.count(objcg.id(), Event::ZswpWbProactiveBytes, 5);
        let stat = "anon 7\nzswap 5000\nzswapped 8192\nzswap_incomp 1\nzswpin 3\nzswpout 2\nzswpwb 4\nzswpwb_bytes 0\n\
                    zswpwb_proactive_b 5\nzswap_payload 4900\nzswap_refused 0\n";
        let numa = "zswap N0=1000 N1=4000\nzswapped N0=4096 N1=4096\nzswap_incomp N0=0 N1=4096\n\
                    zswap_payload N0=900 N1=4000\n";
        for memcg in [&vm, &tree.root()] {
            assert_eq!(memcg.read_file("memory.stat").unwrap(), stat);
            assert_eq!(memcg.read_file("memory.numa_stat").unwrap(), numa);
            assert_eq!(memcg.read_file("memory.zswap.current").unwrap(), "5000\n");
            assert_eq!(memcg.read_file("memory.current").unwrap(), "5007\n");
        }
        drop(resident);
        tree.assert_quiet();
    }

    #[test]
    fn settings_read_back_and_take_suffixes() {
        let tree = Tree::new(TreeConfig::default());
        let vm = vm(&tree);
        for file in ["memory.max", "memory.high", "memory.swap.max", "memory.zswap.max"] {
            let set = |text: &str| {
                vm.write_file(file, text).unwrap();
                vm.read_file(file).unwrap()
            };
            assert_eq!(vm.read_file(file).unwrap(), "max\n");
            assert_eq!(set("10M\n"), "10485760\n");
            assert_eq!(set(" 2g "), "2147483648\n");
            assert_eq!(set("4097"), "4097\n", "exact bytes, and not whole pages");
            assert_eq!(set("0"), "0\n");
            assert_eq!(set("max\n"), "max\n");
        }
        vm.write_file("memory.zswap.writeback", "0\n").unwrap();
        assert_eq!(vm.read_file("memory.zswap.writeback").unwrap(), "0\n");
        assert!(!vm.writeback() && !vm.own_writeback());
        vm.write_file("memory.zswap.writeback", "1").unwrap();
        assert_eq!(vm.read_file("memory.zswap.writeback").unwrap(), "1\n");
        assert!(vm.writeback() && vm.own_writeback());
    }

    #[test]
    fn counters_peaks_and_events_are_each_in_their_file() {
        let tree = Tree::new(TreeConfig::default());
        let (root, vm) = (tree.root(), vm(&tree));
        let objcg = vm.objcg().unwrap();
        tree.charge(objcg.id(), super::Counter::Swap, 640).unwrap();
        let resident = vm.charge_resident(4096).unwrap();
        let read = |memcg: &Memcg, file: &str| memcg.read_file(file).unwrap();
        assert_eq!(
            (read(&vm, "memory.current"), read(&root, "memory.swap.current")),
            ("4096\n".into(), "640\n".into())
        );
        drop(resident);
        tree.uncharge(objcg.id(), super::Counter::Swap, 640);
        for (file, peak) in [("memory.peak", "4096\n"), ("memory.swap.peak", "640\n"), ("memory.zswap.peak", "0\n")] {
            assert_eq!(read(&root, file), peak);
            // Whoever resets it does so for itself, and a file that is closed is nobody any more.
            let mine = vm.open_file(file).unwrap();
            mine.write("reset\n", &Cancel::new()).unwrap();
            assert_eq!((mine.read().unwrap(), read(&vm, file)), ("0\n".to_owned(), peak.to_owned()));
            vm.write_file(file, "1").unwrap();
            assert_eq!(read(&vm, file), peak);
            assert!(
                mine.write("\n", &Cancel::new()).unwrap_err().to_string().starts_with("nothing was written to memory.")
            );
        }
        use MemcgEvent::*;
        for (event, times) in [(High, 1), (Max, 2), (Oom, 3), (SwapMax, 4), (SwapFail, 5)] {
            (0..times).for_each(|_| vm.note(event));
        }
        let events = "low 0\nhigh 1\nmax 2\noom 3\noom_kill 0\noom_group_kill 0\novershoot 0\n";
        assert_eq!((read(&vm, "memory.events"), read(&root, "memory.events")), (events.into(), events.into()));
        assert_eq!(read(&vm, "memory.events.local"), events);
        let none = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\novershoot 0\n";
        assert_eq!(read(&root, "memory.events.local"), none);
        assert_eq!(read(&root, "memory.swap.events"), "high 0\nmax 4\nfail 5\n");
        assert!(read(&vm, "memory.pressure").starts_with("some avg10=0.00 avg60=0.00 avg300=0.00 total="));
    }

    #[test]
    fn the_files_of_the_hierarchy_say_what_there_is() {
        let tree = Tree::new(TreeConfig::default());
        let (root, vm) = (tree.root(), vm(&tree));
        let read = |memcg: &Memcg, file: &str| memcg.read_file(file).unwrap();
        let below = vm.mkdir("a").unwrap().mkdir("b").unwrap();
        assert_eq!(read(&root, "cgroup.stat"), "nr_descendants 3\nnr_dying_descendants 0\n");
        let kept = below.charge_resident(1).unwrap();
        below.offline().unwrap();
        assert_eq!(read(&root, "cgroup.stat"), "nr_descendants 2\nnr_dying_descendants 1\n");
        assert_eq!(read(&vm, "cgroup.stat"), "nr_descendants 1\nnr_dying_descendants 1\n");
        drop(kept);
        assert_eq!(read(&vm, "cgroup.stat"), "nr_descendants 1\nnr_dying_descendants 0\n");
        assert_eq!(
            (read(&vm, "cgroup.procs"), read(&vm, "cgroup.controllers")),
            (String::new(), "memory\n".to_owned())
        );
        vm.write_file("cgroup.subtree_control", "+memory +memory\n").unwrap();
        assert_eq!(read(&vm, "cgroup.subtree_control"), "memory\n");
        assert_eq!(read(&vm, "cgroup.events"), "populated 0\nfrozen 0\n");
        let refuse = |file: &str, text: &str| {
            let error = vm.write_file(file, text).unwrap_err();
            (error.errno(), error.to_string())
        };
        let (errno, says) = refuse("cgroup.procs", "1234");
        assert_eq!(errno, libc::EOPNOTSUPP);
        assert!(
            says.starts_with("cgroup.procs does not take \"1234\": no process lives in a memcg of this tree"),
            "{says}"
        );
        assert_eq!(refuse("cgroup.subtree_control", "-memory").0, libc::EOPNOTSUPP);
        let (errno, says) = refuse("cgroup.subtree_control", "+memory +cpu");
        assert_eq!(errno, libc::EINVAL);
        assert!(says.contains("\"+cpu\": memory is the only controller"), "{says}");
        assert_eq!(refuse("cgroup.subtree_control", "").0, libc::EINVAL);
        // A memcg and a file would be in one directory.
        let error = vm.mkdir("memory.max").unwrap_err();
        assert_eq!((error.errno(), vm.mkdir("memory.maximum").is_ok()), (libc::EEXIST, true));
        assert_eq!(error.to_string(), "\"memory.max\" is the name of a control file; choose another name");
    }

    #[test]
    fn nodes_are_those_allowed_all_the_way_up() {
        let tree = Tree::new(TreeConfig { nodes: 4, ..TreeConfig::default() });
        let tenant = tree.root().mkdir("tenant").unwrap();
        let vm = tenant.mkdir("vm").unwrap();
        let read =
            |memcg: &Memcg| ["", ".effective"].map(|end| memcg.read_file(&format!("memory.zswap.nodes{end}")).unwrap());
        assert_eq!(read(&vm), ["0-3\n", "0-3\n"]);
        vm.write_file("memory.zswap.nodes", "0-1,3\n").unwrap();
        tenant.write_file("memory.zswap.nodes", "1-2").unwrap();
        assert_eq!(
            (read(&tenant), read(&vm)),
            (["1-2\n", "1-2\n"].map(str::to_owned), ["0-1,3\n", "1\n"].map(str::to_owned))
        );
        let late = vm.mkdir("late").unwrap();
        assert_eq!(read(&late), ["0-3\n", "1\n"]);
        tree.assert_valid();
        // Refusals change nothing.
        let empty = tenant.set_nodes(NodeMask::NONE).unwrap_err().to_string();
        assert_eq!(
            empty,
            "the nodes \"\" cannot be allowed: name at least one, and only those there are, which are 0-3"
        );
        for (text, says) in
            [("4", "there are only the nodes 0-3"), ("0,64", "node 64"), ("1-", "\"1-\" in"), ("0 1", "one word")]
        {
            let refused = vm.write_file("memory.zswap.nodes", text).unwrap_err().to_string();
            assert!(refused.contains(says) && refused.ends_with("such as 0-1,3"), "{refused}");
        }
        let refused = tenant.set_nodes("2".parse().unwrap()).unwrap_err().to_string();
        let why = "/tenant/vm would have no node left: it allows 0-1,3, and the memcgs above it 2; let one of them allow more first";
        assert_eq!(refused, why);
        assert_eq!((tenant.nodes().bits(), vm.nodes().bits(), late.nodes().bits()), (0b110, 0b10, 0b10));
        // What a removed memcg left is its parent's.
        let objcg = late.objcg().unwrap();
        late.offline().unwrap();
        assert_eq!(tree.allowed_nodes(objcg.id()), vm.nodes());
        assert_eq!(late.set_nodes(NodeMask::first(1)), Err(Error::Offline { id: late.id() }));
        tenant.set_nodes(NodeMask::first(4)).unwrap();
        assert_eq!((vm.nodes().bits(), tree.allowed_nodes(objcg.id()).bits()), (0b1011, 0b1011));
        tree.assert_valid();
    }

    #[test]
    fn what_a_file_does_not_take_is_named_with_the_grammar() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let refuse = |file: &str, text: &str| vm.write_file(file, text).unwrap_err().to_string();
        let grammar = "write a size in bytes as digits with an optional K, M, G or T, or \"max\"";
        for (text, word) in [("12Q", "12Q"), ("-1", "-1"), ("Max", "Max"), ("1 M", "M"), ("99999999T", "99999999T")] {
            let message = refuse("memory.zswap.max", text);
            assert!(message.contains(&format!("memory.zswap.max does not take {word:?}")), "{message}");
            assert!(message.ends_with(grammar), "{message}");
        }
        assert_eq!(refuse("memory.zswap.max", " \n"), format!("nothing was written to memory.zswap.max; {grammar}"));
        assert!(refuse("memory.zswap.writeback", "yes").contains("\"yes\": it is neither 0 nor 1; write 0 "));
        let read_only = "memory.stat can only be read; the files to write are memory.peak, memory.max, memory.low, ";
        assert!(refuse("memory.stat", "1").starts_with(read_only));
        assert!(refuse("memory.oom.group", "1").contains("no file \"memory.oom.group\"; there are memory.current, "));
        let write_only = vm.read_file("memory.reclaim").unwrap_err();
        assert_eq!(write_only.to_string(), format!("memory.reclaim can only be written; write {}", request::GRAMMAR));
        assert_eq!(vm.zswap_max(), NO_LIMIT);
    }

    #[test]
    fn files_of_a_removed_memcg_say_so() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        vm.offline().unwrap();
        for file in Memcg::files() {
            assert_eq!(vm.read_file(file), Err(Error::Offline { id: vm.id() }), "{file}");
        }
        assert_eq!(vm.write_file("memory.zswap.max", "1"), Err(Error::Offline { id: vm.id() }));
        assert_eq!(vm.write_file("memory.zswap.writeback", "1"), Err(Error::Offline { id: vm.id() }));
    }

    #[test]
    fn a_file_has_the_mode_of_what_can_be_done_with_it() {
        let (tree, mut modes) = (Tree::new(TreeConfig::default()), std::collections::BTreeMap::new());
        let vm = vm(&tree);
        for file in Memcg::file_table() {
            let can_be_read = vm.open_file(file.name).unwrap().read().is_ok();
            assert_eq!((file.readable, file.mode() & 0o444 != 0), (can_be_read, can_be_read), "{}", file.name);
            assert_eq!(file.mode() & 0o222 != 0, file.takes.is_some(), "{}", file.name);
            modes.insert(file.name, file.mode());
        }
        assert!(Memcg::files().eq(Memcg::file_table().map(|file| file.name)));
        let some = ["memory.current", "memory.max", "memory.peak", "memory.reclaim"].map(|name| modes[name]);
        assert_eq!(some, [0o444, 0o644, 0o644, 0o200]);
    }
}
