//! What files take, said a second time: a parser that has nothing in common with the crate's but cgroup v2's documents.

/// What is written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nothing,
    Limit,
    Protection,
    Reclaim,
    Peak,
    Flag,
    Nodes,
    Tiers,
    Procs,
    Controllers,
}

/// Every file, and what it takes.
pub const FILES: &[(&str, Kind)] = &[
    ("memory.current", Kind::Nothing),
    ("memory.peak", Kind::Peak),
    ("memory.max", Kind::Limit),
    ("memory.low", Kind::Protection),
    ("memory.min", Kind::Protection),
    ("memory.high", Kind::Limit),
    ("memory.reclaim", Kind::Reclaim),
    ("memory.stat", Kind::Nothing),
    ("memory.numa_stat", Kind::Nothing),
    ("memory.events", Kind::Nothing),
    ("memory.events.local", Kind::Nothing),
    ("memory.pressure", Kind::Nothing),
    ("memory.swap.current", Kind::Nothing),
    ("memory.swap.peak", Kind::Peak),
    ("memory.swap.max", Kind::Limit),
    ("memory.swap.tiers", Kind::Nothing),
    ("memory.swap.tiers.max", Kind::Tiers),
    ("memory.swap.tiers.effective", Kind::Nothing),
    ("memory.swap.events", Kind::Nothing),
    ("memory.zswap.current", Kind::Nothing),
    ("memory.zswap.peak", Kind::Peak),
    ("memory.zswap.max", Kind::Limit),
    ("memory.zswap.writeback", Kind::Flag),
    ("memory.zswap.nodes", Kind::Nodes),
    ("memory.zswap.nodes.effective", Kind::Nothing),
    ("cgroup.procs", Kind::Procs),
    ("cgroup.controllers", Kind::Nothing),
    ("cgroup.subtree_control", Kind::Controllers),
    ("cgroup.events", Kind::Nothing),
    ("cgroup.stat", Kind::Nothing),
];

/// Which file the number in an operation means: an index of [`FILES`]. Those of tiers, low and min came late; numbers in seeds from before
/// mean what they meant, but for a few.
pub fn which_file(file: u8) -> usize {
    let is_late =
        |&index: &usize| FILES[index].0.starts_with("memory.swap.tiers") || FILES[index].1 == Kind::Protection;
    let (late, early): (Vec<_>, Vec<_>) = (0..FILES.len()).partition(is_late);
    match usize::from(file % 64).checked_sub(64 - late.len()) {
        Some(which) => late[which],
        None => early[usize::from(file) % early.len()],
    }
}

/// What a text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Bytes, `u64::MAX` for no limit.
    Limit(u64),
    Flag(bool),
    /// A bit for each node.
    Nodes(u64),
    Reclaim(Request),
    /// Nothing that one could look at afterwards.
    Done,
}

/// A request to reclaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub bytes: u64,
    /// The letters a, f and z, for those that are named.
    pub sources: Option<String>,
    /// Pages in memory are left alone.
    pub spares_anon: bool,
    pub age: Option<u64>,
}

/// What the text means to a file, or with which error it is refused.
pub fn meaning(kind: Kind, text: &str) -> Result<Meaning, i32> {
    let words = words(text);
    let one = || if words.len() == 1 { Ok(&words[0]) } else { Err(libc::EINVAL) };
    match kind {
        Kind::Nothing => Err(libc::EACCES),
        Kind::Limit | Kind::Protection => match one()?.as_slice() {
            b"max" => Ok(Meaning::Limit(u64::MAX)),
            word => size(word).map(Meaning::Limit).ok_or(libc::EINVAL),
        },
        Kind::Reclaim => request(text, &words).map(Meaning::Reclaim).ok_or(libc::EINVAL),
        Kind::Peak if words.is_empty() => Err(libc::EINVAL),
        Kind::Peak => Ok(Meaning::Done),
        Kind::Flag => match one()?.as_slice() {
            b"0" => Ok(Meaning::Flag(false)),
            b"1" => Ok(Meaning::Flag(true)),
            _ => Err(libc::EINVAL),
        },
        Kind::Nodes => nodes(one()?).map(Meaning::Nodes).ok_or(libc::EINVAL),
        // The one tier there is.
        Kind::Tiers => match &words[..] {
            [tier, value] if tier == b"swap" && [&b"max"[..], b"0"].contains(&value.as_slice()) => Ok(Meaning::Done),
            _ => Err(libc::EINVAL),
        },
        Kind::Procs => Err(libc::EOPNOTSUPP),
        Kind::Controllers => match words.iter().find(|word| word.as_slice() != b"+memory") {
            Some(word) if word == b"-memory" => Err(libc::EOPNOTSUPP),
            None if !words.is_empty() => Ok(Meaning::Done),
            _ => Err(libc::EINVAL),
        },
    }
}

/// Runs of bytes without white space.
fn words(text: &str) -> Vec<Vec<u8>> {
    let (mut words, mut word) = (Vec::new(), Vec::new());
    for &byte in text.as_bytes().iter().chain(b" ") {
        if [b' ', b'\t', b'\n', b'\r', 0x0c].contains(&byte) {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(byte);
        }
    }
    words
}

fn number(digits: &[u8]) -> Option<u64> {
    let mut sum = 0_u128;
    for digit in digits {
        sum =
            (sum * 10 + u128::from(digit.checked_sub(b'0').filter(|&digit| digit < 10)?)).min(u128::from(u64::MAX) + 1);
    }
    (!digits.is_empty()).then_some(sum)?.try_into().ok()
}

fn size(word: &[u8]) -> Option<u64> {
    let (&last, rest) = word.split_last()?;
    let power = match last.to_ascii_lowercase() {
        b'k' => 1,
        b'm' => 2,
        b'g' => 3,
        b't' => 4,
        _ => return number(word),
    };
    (0..power).try_fold(number(rest)?, |bytes, _| bytes.checked_mul(1024))
}

fn nodes(word: &[u8]) -> Option<u64> {
    word.split(|&byte| byte == b',').try_fold(0_u64, |bits, part| {
        let mut ends = part.split(|&byte| byte == b'-');
        let first = number(ends.next()?)?;
        let last = ends.next().map_or(Some(first), number)?;
        let is_range = ends.next().is_none() && first <= last && last < 64;
        is_range.then(|| (first..=last).fold(bits, |bits, node| bits | 1 << node))
    })
}

fn request(text: &str, words: &[Vec<u8>]) -> Option<Request> {
    let (first, options) = words.split_first()?;
    let mut request = Request { bytes: size(first)?, ..Request::default() };
    let mut seen = Vec::new();
    for option in options {
        let at = option.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&option[..at], &option[at + 1..]);
        if seen.contains(&key) {
            return None;
        }
        seen.push(key);
        match key {
            b"source" => {
                let mut letters = String::new();
                for source in value.split(|&byte| byte == b',') {
                    let letter = match source {
                        b"anon" => 'a',
                        b"file" => 'f',
                        b"zswap" => 'z',
                        _ => return None,
                    };
                    if letters.contains(letter) {
                        return None;
                    }
                    letters.push(letter);
                }
                request.sources = Some(letters);
            }
            b"swappiness" if value == b"max" => {}
            b"swappiness" => request.spares_anon = number(value).filter(|&weight| weight <= 200)? == 0,
            b"age" => request.age = Some(number(value).filter(|&seconds| seconds < 1 << 32)?),
            _ => return None,
        }
    }
    let both = [&b"source"[..], b"swappiness"].iter().all(|key| seen.contains(key));
    (!both && !text.contains('\0')).then_some(request)
}

/// Whether a memcg can have the name, or why not.
pub fn name(name: &str) -> Result<(), i32> {
    match name {
        "" | "." | ".." => Err(libc::EINVAL),
        _ if name.len() > 255 => Err(libc::ENAMETOOLONG),
        _ if name.bytes().any(|byte| [b'/', 0, b'\n'].contains(&byte)) => Err(libc::EINVAL),
        _ if FILES.iter().any(|(file, _)| *file == name) => Err(libc::EEXIST),
        _ => Ok(()),
    }
}
