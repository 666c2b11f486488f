//! The text files of a memcg, as cgroup v2 has them, through one table.
//!
//! | file | reads | takes |
//! |---|---|---|
//! | `memory.stat` | sums of the subtree, a line each | |
//! | `memory.numa_stat` | the sums of bytes by node, all in bytes | |
//! | `memory.zswap.current` | bytes charged to the subtree | |
//! | `memory.zswap.max` | the limit in bytes, or `max` | a size, or `max` |
//! | `memory.zswap.writeback` | what is set here: `0` or `1` | `0` or `1` |
//! | `memory.zswap.nodes` | the nodes allowed here: `0-1,3` | a list of nodes |
//! | `memory.zswap.nodes.effective` | those that every ancestor allows too | |
//!
//! Lines of `memory.stat`: `zswap` and `zswapped` in bytes, `zswap_incomp` in pages, `zswpin`, `zswpout` and `zswpwb`
//! in pages as the kernel has them; ours are `zswap_payload` (bytes the codec made) and `zswap_refused` (charges
//! refused at a limit here or further up). The kernel rounds a limit down to whole pages; ours is exact.

use super::counter::NO_LIMIT;
use super::error::Error;
use super::handle::Memcg;
use super::size::parse_size;
use super::stat::{Bytes4, Event};
use crate::units::{NodeListError, NodeMask, PAGE_SIZE};

/// One file of a memcg.
struct File {
    name: &'static str,
    read: fn(&Memcg) -> Result<String, Error>,
    /// What it takes, and how.
    write: Option<(&'static str, WriteFn)>,
}

/// Takes the one word of the text. What it does not understand comes back as a reason.
type WriteFn = fn(&Memcg, &str) -> Result<(), Refused>;

enum Refused {
    /// What is wrong with the word.
    Word(String),
    Memcg(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Memcg(error)
    }
}

static FILES: &[File] = &[
    File { name: "memory.stat", read: read_stat, write: None },
    File { name: "memory.numa_stat", read: read_numa_stat, write: None },
    File { name: "memory.zswap.current", read: read_current, write: None },
    File {
        name: "memory.zswap.max",
        read: read_max,
        write: Some(("a size in bytes as digits with an optional K, M, G or T, or \"max\"", write_max)),
    },
    File {
        name: "memory.zswap.writeback",
        read: read_writeback,
        write: Some(("0 (no page is written to a device from here on down) or 1", write_writeback)),
    },
    File {
        name: "memory.zswap.nodes",
        read: read_nodes,
        write: Some(("numbers and ranges of nodes with commas between them, such as 0-1,3", write_nodes)),
    },
    File { name: "memory.zswap.nodes.effective", read: read_effective_nodes, write: None },
];

fn read_stat(memcg: &Memcg) -> Result<String, Error> {
    let stat = memcg.stat()?;
    let Bytes4 { compressed, original, payload, incompressible } = stat.bytes;
    let lines = [
        ("zswap", compressed),
        ("zswapped", original),
        ("zswap_incomp", incompressible / PAGE_SIZE as u64),
        ("zswpin", stat.events(Event::ZswpIn)),
        ("zswpout", stat.events(Event::ZswpOut)),
        ("zswpwb", stat.events(Event::ZswpWb)),
        ("zswpwb_bytes", stat.events(Event::ZswpWbBytes)),
        ("zswap_payload", payload),
        ("zswap_refused", stat.events(Event::Refused)),
    ];
    Ok(lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect())
}

fn read_numa_stat(memcg: &Memcg) -> Result<String, Error> {
    let nodes = memcg.numa_stat()?;
    let line = |name: &str, value: fn(&Bytes4) -> u64| {
        let values = nodes.iter().enumerate().map(|(node, bytes)| format!(" N{node}={}", value(bytes)));
        format!("{name}{}\n", values.collect::<String>())
    };
    Ok([
        line("zswap", |bytes| bytes.compressed),
        line("zswapped", |bytes| bytes.original),
        line("zswap_incomp", |bytes| bytes.incompressible),
        line("zswap_payload", |bytes| bytes.payload),
    ]
    .concat())
}

fn read_current(memcg: &Memcg) -> Result<String, Error> {
    memcg.shared().check_online(memcg.words())?;
    Ok(format!("{}\n", memcg.usage()))
}

fn read_max(memcg: &Memcg) -> Result<String, Error> {
    memcg.shared().check_online(memcg.words())?;
    Ok(match memcg.zswap_max() {
        NO_LIMIT => "max\n".to_owned(),
        limit => format!("{limit}\n"),
    })
}

fn write_max(memcg: &Memcg, word: &str) -> Result<(), Refused> {
    let limit = match word {
        "max" => NO_LIMIT,
        _ => parse_size(word).map_err(|error| Refused::Word(error.to_string()))?,
    };
    Ok(memcg.set_zswap_max(limit)?)
}

fn read_writeback(memcg: &Memcg) -> Result<String, Error> {
    memcg.shared().check_online(memcg.words())?;
    Ok(if memcg.own_writeback() { "1\n" } else { "0\n" }.to_owned())
}

fn write_writeback(memcg: &Memcg, word: &str) -> Result<(), Refused> {
    match word {
        "0" => Ok(memcg.set_writeback(false)?),
        "1" => Ok(memcg.set_writeback(true)?),
        _ => Err(Refused::Word("it is neither 0 nor 1".to_owned())),
    }
}

fn read_nodes(memcg: &Memcg) -> Result<String, Error> {
    memcg.shared().check_online(memcg.words())?;
    Ok(format!("{}\n", memcg.own_nodes()))
}

fn read_effective_nodes(memcg: &Memcg) -> Result<String, Error> {
    memcg.shared().check_online(memcg.words())?;
    Ok(format!("{}\n", memcg.nodes()))
}

fn write_nodes(memcg: &Memcg, word: &str) -> Result<(), Refused> {
    let nodes: NodeMask = word.parse().map_err(|error: NodeListError| Refused::Word(error.to_string()))?;
    match memcg.set_nodes(nodes) {
        Err(Error::Nodes { all, .. }) => Err(Refused::Word(format!("there are only the nodes {all}"))),
        done => Ok(done.and_then(|()| memcg.move_home())?),
    }
}

fn names(files: impl Iterator<Item = &'static File>) -> String {
    files.map(|file| file.name).collect::<Vec<_>>().join(", ")
}

fn find(name: &str) -> Result<&'static File, Error> {
    FILES
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| Error::NoSuchFile { name: name.to_owned(), known: names(FILES.iter()) })
}

impl Memcg {
    /// Names of the files, in the order of the table.
    pub fn files() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|file| file.name)
    }

    /// What a file says.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn read_file(&self, name: &str) -> Result<String, Error> {
        (find(name)?.read)(self)
    }

    /// Write to a file: one word, with white space around it as `echo` leaves it.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::ReadOnly`], [`Error::Offline`]; [`Error::NoValue`] and [`Error::BadWord`] with
    /// the offending word and what the file takes.
    ///
    /// # Locks
    /// The tree lock.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), Error> {
        let &File { name: file, write, .. } = find(name)?;
        let Some((grammar, write)) = write else {
            return Err(Error::ReadOnly { file, writable: names(FILES.iter().filter(|file| file.write.is_some())) });
        };
        let mut words = text.split_whitespace();
        let word = words.next().ok_or(Error::NoValue { file, grammar })?;
        if let Some(extra) = words.next() {
            let why = "one word is enough".to_owned();
            return Err(Error::BadWord { file, word: extra.to_owned(), why, grammar });
        }
        write(self, word).map_err(|refused| match refused {
            Refused::Word(why) => Error::BadWord { file, word: word.to_owned(), why, grammar },
            Refused::Memcg(error) => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tree, TreeConfig};
    use super::*;
    use crate::units::NodeId;

    #[test]
    fn stat_files_show_the_subtree_in_the_units_of_the_kernel() {
        let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        let objcg = vm.objcg().unwrap();
        objcg.try_charge(5000).unwrap();
        let first = Bytes4 { compressed: 1000, original: 4096, payload: 900, incompressible: 0 };
        let raw = Bytes4 { compressed: 4000, original: 4096, payload: 4000, incompressible: 4096 };
        tree.account(objcg.id(), NodeId(0), first);
        tree.account(objcg.id(), NodeId(0), raw);
        tree.transfer(objcg.id(), NodeId(0), NodeId(1), raw);
        tree.count(objcg.id(), Event::ZswpOut, 2);
        tree.count(objcg.id(), Event::ZswpIn, 3);
        tree.count(objcg.id(), Event::ZswpWb, 4);
        let stat = "zswap 5000\nzswapped 8192\nzswap_incomp 1\nzswpin 3\nzswpout 2\nzswpwb 4\nzswpwb_bytes 0\nzswap_payload 4900\n\
                    zswap_refused 0\n";
        let numa = "zswap N0=1000 N1=4000\nzswapped N0=4096 N1=4096\nzswap_incomp N0=0 N1=4096\n\
                    zswap_payload N0=900 N1=4000\n";
        for memcg in [&vm, &tree.root()] {
            assert_eq!(memcg.read_file("memory.stat").unwrap(), stat);
            assert_eq!(memcg.read_file("memory.numa_stat").unwrap(), numa);
            assert_eq!(memcg.read_file("memory.zswap.current").unwrap(), "5000\n");
        }
        tree.assert_quiet();
    }

    #[test]
    fn settings_read_back_and_take_suffixes() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let max = |text: &str| {
            vm.write_file("memory.zswap.max", text).unwrap();
            vm.read_file("memory.zswap.max").unwrap()
        };
        assert_eq!(vm.read_file("memory.zswap.max").unwrap(), "max\n");
        assert_eq!(max("10M\n"), "10485760\n");
        assert_eq!(max(" 2g "), "2147483648\n");
        assert_eq!(max("0"), "0\n");
        assert_eq!(max("max\n"), "max\n");
        vm.write_file("memory.zswap.writeback", "0\n").unwrap();
        assert_eq!(vm.read_file("memory.zswap.writeback").unwrap(), "0\n");
        assert!(!vm.writeback());
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
        let read_only = "memory.stat can only be read; the files to write are memory.zswap.max, memory.zswap.writeback, memory.zswap.nodes";
        assert_eq!(refuse("memory.stat", "1"), read_only);
        assert!(refuse("memory.high", "1").contains("no file \"memory.high\"; there are memory.stat, "));
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
}
