//! Control files: what is written is taken or refused as the second parser says, and what is read adds up.

use super::super::expect::{FILES, Kind, Meaning, meaning};
use super::{Model, OPEN, pick};
use zspool::memcg::{Cancel, Counter, Error, Memcg};
use zspool::units::NodeMask;

/// The counter and the limit that a file is about.
fn counter(file: &str) -> Counter {
    match file {
        _ if file.starts_with("memory.swap.") => Counter::Swap,
        _ if file.starts_with("memory.zswap.") => Counter::Zswap,
        _ => Counter::Memory,
    }
}

fn number(text: &str) -> u64 {
    text.strip_suffix('\n').and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no number"))
}

/// The values of a file with a word and a number a line.
fn keyed(text: &str) -> impl Fn(&str) -> u64 + use<> {
    let lines: Vec<(String, u64)> = text
        .split_terminator('\n')
        .map(|line| {
            let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is no line"));
            (key.to_owned(), value.parse().unwrap_or_else(|_| panic!("{value:?} of {key} is no number")))
        })
        .collect();
    move |wanted| lines.iter().find(|(key, _)| key == wanted).unwrap_or_else(|| panic!("there is no {wanted}")).1
}

impl Model {
    pub(super) fn write(&mut self, g: usize, file: usize, text: &str) {
        let (file, kind) = FILES[file % FILES.len()];
        if kind == Kind::Reclaim {
            return self.reclaim(g, text, super::super::Cancelled::No);
        }
        let memcg = self.memcg(g);
        let before = settings(&memcg);
        let result = memcg.write_file(file, text);
        self.wrote(g, file, kind, text, before, result);
    }

    /// Check what came of a write.
    fn wrote(&mut self, g: usize, file: &str, kind: Kind, text: &str, before: String, result: Result<(), Error>) {
        let memcg = self.memcg(g);
        let meant = match meaning(kind, text) {
            Ok(Meaning::Nodes(nodes)) if !self.can_have(g, nodes) => Err(libc::EINVAL),
            meant => meant,
        };
        let errno = result.as_ref().map_err(Error::errno);
        self.reached.note("texts refused", meant.is_err());
        match (&meant, errno) {
            (Err(errno), Err(is)) if *errno == is => {
                assert!(self.meddling || settings(&memcg) == before, "3: {text:?} is refused, and changed something");
            }
            (Ok(_), Err(libc::ENODEV)) if self.meddling => {}
            // What could not be moved lies outside still; the nodes are set.
            (Ok(Meaning::Nodes(_)), Err(libc::EBUSY)) => self.reached.add("objects left outside of a mask", 1),
            (Ok(_), Ok(())) => {}
            _ => panic!("3: {text:?} to {file} means {meant:?}, and came to {result:?}"),
        }
        let (Ok(meant), false) = (meant, self.meddling) else { return };
        let read = || memcg.read_file(file).expect("what can be set can be read");
        match meant {
            Meaning::Limit(limit) => {
                let says = if limit == u64::MAX { "max\n".to_owned() } else { format!("{limit}\n") };
                assert_eq!(read(), says, "3: {file} after {text:?}");
                if kind == Kind::Limit {
                    self.check_limit_met(g, file, limit);
                }
            }
            Meaning::Flag(on) => assert_eq!(read(), if on { "1\n" } else { "0\n" }),
            Meaning::Nodes(nodes) => assert_eq!(memcg.own_nodes().bits(), nodes, "3: {}", read()),
            Meaning::Done => {}
            Meaning::Reclaim(_) => unreachable!("that is no setting"),
        }
    }

    /// What was above a limit that is set is reclaimed, as far as that goes.
    fn check_limit_met(&mut self, g: usize, file: &str, limit: u64) {
        let (counter, memcg) = (counter(file), self.memcg(g));
        if counter == Counter::Swap || !self.works() {
            return;
        }
        let (pages, ballast) = self.resident(g);
        let stays = match counter {
            Counter::Zswap => 0,
            _ if self.served.is_some() => ballast,
            _ => pages + ballast,
        };
        let now = memcg.current(counter);
        assert!(now <= limit.max(stays), "5: {file} of {} is {limit}, and {now} are left", memcg.path());
        self.reached.note("limits set and met", limit < u64::MAX);
    }

    /// Whether these can be the nodes of the group: all there are, and one is left to everyone below.
    fn can_have(&self, g: usize, nodes: u64) -> bool {
        let all = NodeMask::first(self.instance.zswap.tree().nodes());
        let own = |at: usize| if at == g { nodes } else { self.groups[at].memcg.own_nodes().bits() };
        let left = |mut at: usize| {
            let mut left = own(at);
            while at != 0 {
                at = self.groups[at].parent;
                left &= own(at);
            }
            left
        };
        nodes != 0
            && all.covers(NodeMask::from_bits(nodes))
            && self.online().filter(|&other| self.is_below(other, g)).all(|other| left(other) != 0)
    }

    pub(super) fn read(&mut self, g: usize, file: usize) {
        let (file, kind) = FILES[file % FILES.len()];
        let memcg = self.memcg(g);
        let text = match memcg.read_file(file) {
            Err(error) => return assert!(kind == Kind::Reclaim && error.errno() == libc::EACCES, "3: {file}: {error}"),
            Ok(text) => text,
        };
        assert!(kind != Kind::Reclaim, "3: {file} says {text:?}");
        let [zswap, memory, swap] = Counter::ALL.map(|counter| memcg.current(counter));
        match file {
            "memory.current" | "memory.zswap.current" | "memory.swap.current" => {
                assert_eq!(number(&text), memcg.current(counter(file)));
            }
            "memory.peak" | "memory.zswap.peak" | "memory.swap.peak" => {
                assert!(number(&text) >= memcg.current(counter(file)), "{file} of {} says {text}", memcg.path());
            }
            "memory.stat" => {
                let (of, (pages, ballast)) = (keyed(&text), self.resident(g));
                assert_eq!((of("anon"), of("zswap")), (pages + ballast, zswap), "2: {text}");
                assert_eq!(memory, zswap + of("anon"), "2: {text}");
                assert!(of("zswap_payload") <= zswap && of("zswpwb_proactive_b") <= of("zswpwb_bytes"), "4: {text}");
            }
            "memory.numa_stat" => {
                let bytes = text.lines().next().unwrap_or_default().split(' ').skip(1);
                let bytes = bytes.map(|node| node.split_once('=').unwrap().1.parse::<u64>().unwrap());
                assert_eq!(bytes.sum::<u64>(), zswap, "2: {text}");
            }
            "memory.events" => {
                let (all, local) = (keyed(&text), keyed(&memcg.read_file("memory.events.local").unwrap()));
                ["high", "max", "oom"].iter().for_each(|key| assert!(all(key) >= local(key), "{key} in {text}"));
            }
            "memory.pressure" => {
                let starts = text.lines().map(|line| line.split(" avg10=").next().unwrap()).collect::<Vec<_>>();
                assert_eq!(starts, ["some", "full"], "{text}");
            }
            "cgroup.stat" => {
                let below = self.online().filter(|&other| other != g && self.is_below(other, g)).count();
                assert_eq!(keyed(&text)("nr_descendants"), below as u64);
            }
            "memory.zswap.nodes.effective" => assert_eq!(text, format!("{}\n", memcg.nodes())),
            "memory.events.local" | "cgroup.events" | "memory.swap.events" => _ = keyed(&text),
            _ => assert!(swap <= memcg.peak(Counter::Swap)),
        }
    }

    pub(super) fn no_file(&mut self, g: usize, name: &str, text: &str) {
        if let Some(file) = FILES.iter().position(|(file, _)| *file == name) {
            return self.write(g, file, text);
        }
        let memcg = self.memcg(g);
        let errors = [memcg.read_file(name).map(drop), memcg.write_file(name, text), memcg.open_file(name).map(drop)];
        errors.into_iter().for_each(|error| assert_eq!(error.map_err(|error| error.errno()), Err(libc::ENOENT)));
    }

    pub(super) fn open(&mut self, g: usize, file: usize) {
        if self.open.len() < OPEN {
            self.open.push((self.memcg(g).open_file(FILES[file % FILES.len()].0).expect("it is online"), g));
        }
    }

    /// Read and write what is open, also when its memcg was removed since.
    pub(super) fn write_open(&mut self, which: u8, text: &str) {
        let Some(at) = pick(which, self.open.len()) else { return };
        let (file, g) = self.open.swap_remove(at);
        let (name, kind) = *FILES.iter().find(|(name, _)| *name == file.info().name).expect("it is one");
        if !self.groups[g].online {
            let errors = [file.read().map(drop), file.write(text, &Cancel::new())];
            errors.into_iter().for_each(|error| assert_eq!(error.map_err(|e| e.errno()), Err(libc::ENODEV), "6"));
        } else if kind == Kind::Reclaim {
            self.reclaim(g, text, super::super::Cancelled::No);
        } else {
            let memcg = self.memcg(g);
            let before = settings(&memcg);
            let result = file.write(text, &Cancel::new());
            let taken = result.is_ok();
            self.wrote(g, name, kind, text, before, result);
            if kind == Kind::Peak && !self.meddling {
                let (now, peak) = (memcg.current(counter(name)), number(&file.read().expect("it is online")));
                assert!(
                    if taken { peak == now } else { peak >= now },
                    "{name} is {peak} after {text:?}, {now} are there"
                );
                self.reached.note("peaks begun anew", taken);
            }
        }
        self.open.push((file, g));
    }

    pub(super) fn removed(&mut self, which: u8, file: usize, text: &str) {
        let removed: Vec<usize> = (0..self.groups.len()).filter(|&g| !self.groups[g].online).collect();
        let Some(at) = pick(which, removed.len()) else { return };
        let memcg = self.memcg(removed[at]);
        let (file, _) = FILES[file % FILES.len()];
        let errors = [
            memcg.read_file(file).map(drop),
            memcg.write_file(file, text),
            memcg.mkdir("m").map(drop),
            memcg.offline(),
        ];
        errors.into_iter().for_each(|error| assert_eq!(error.map_err(|e| e.errno()), Err(libc::ENODEV), "6: {file}"));
        self.reached.add("files of removed memcgs refused", 1);
    }
}

/// All that can be set.
fn settings(memcg: &Memcg) -> String {
    let set = |&&(file, kind): &&(&str, Kind)| {
        matches!(kind, Kind::Limit | Kind::Protection | Kind::Flag | Kind::Nodes) && !file.is_empty()
    };
    FILES.iter().filter(set).map(|(file, _)| memcg.read_file(file).unwrap_or_default()).collect()
}
