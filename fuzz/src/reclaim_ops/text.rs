//! Texts for control files: mostly what a file takes, with mistakes in it; and names of memcgs.

use arbitrary::{Arbitrary, Unstructured};

/// A text, from a few bytes of input.
#[derive(Arbitrary, Clone, Debug)]
pub enum Text {
    /// What `memory.reclaim` takes.
    Request {
        size: Size,
        sources: Option<Sources>,
        #[arbitrary(with = seldom)]
        swappiness: Option<u8>,
        #[arbitrary(with = seldom)]
        age: Option<u16>,
        #[arbitrary(with = seldom)]
        mistake: Option<Mistake>,
    },
    /// What a limit takes.
    Limit {
        size: Size,
        #[arbitrary(with = seldom)]
        mistake: Option<Mistake>,
    },
    /// Any words, one after the other.
    Words { words: [Option<Word>; 3], between: u8 },
    /// What `memory.zswap.nodes` takes.
    Nodes {
        parts: [Option<(u8, Option<u8>)>; 2],
        #[arbitrary(with = seldom)]
        mistake: Option<Mistake>,
    },
    /// Anything.
    Raw([u8; 6]),
}

/// A size, mostly of few pages.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    Bytes(u16),
    Kib(u8),
    Other { number: u32, unit: u8 },
    Huge(u64),
    Max,
}

/// A list of sources.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Sources {
    Zswap,
    Anon,
    Both,
    Any([Source; 2]),
}

/// An element of such a list.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Source {
    Zswap,
    Anon,
    File,
    None,
    Empty,
    Wrong,
}

/// A word that some file or other takes, or one like it.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Word {
    Size(Size),
    Digit(u8),
    Sources([Source; 2]),
    Swappiness(u16),
    SwappinessMax,
    Age(u64),
    To,
    Controller { takes_away: bool, memory: bool },
}

/// A wrong byte.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Mistake {
    Insert { at: u8, byte: u8 },
    Replace { at: u8, byte: u8 },
    Delete { at: u8 },
    Truncate { at: u8 },
    Twice,
}

/// One in eight times.
pub fn seldom<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> arbitrary::Result<Option<T>> {
    Ok(if u8::arbitrary(u)? >= 224 { Some(T::arbitrary(u)?) } else { None })
}

impl Size {
    fn text(self) -> String {
        match self {
            Size::Bytes(bytes) => bytes.to_string(),
            Size::Kib(kib) => format!("{kib}K"),
            Size::Other { number, unit } => {
                let units = ["", "k", "K", "m", "M", "g", "G", "t", "T", "B", "KB", "e"];
                format!("{number}{}", units[usize::from(unit) % units.len()])
            }
            Size::Huge(number) => number.to_string(),
            Size::Max => "max".to_owned(),
        }
    }
}

impl Sources {
    /// The list.
    pub fn text(self) -> String {
        match self {
            Sources::Zswap => "zswap".to_owned(),
            Sources::Anon => "anon".to_owned(),
            Sources::Both => "anon,zswap".to_owned(),
            Sources::Any(list) => Source::list(&list),
        }
    }
}

impl Source {
    fn list(list: &[Source]) -> String {
        let words = list.iter().filter_map(|source| match source {
            Source::Zswap => Some("zswap"),
            Source::Anon => Some("anon"),
            Source::File => Some("file"),
            Source::None => None,
            Source::Empty => Some(""),
            Source::Wrong => Some("zram"),
        });
        words.collect::<Vec<_>>().join(",")
    }
}

impl Word {
    fn text(self) -> String {
        match self {
            Word::Size(size) => size.text(),
            Word::Digit(digit) => (digit % 10).to_string(),
            Word::Sources(list) => format!("source={}", Source::list(&list)),
            Word::Swappiness(weight) => format!("swappiness={}", weight % 260),
            Word::SwappinessMax => "swappiness=max".to_owned(),
            Word::Age(seconds) => format!("age={seconds}"),
            Word::To => "to=1".to_owned(),
            Word::Controller { takes_away, memory } => {
                format!("{}{}", if takes_away { '-' } else { '+' }, if memory { "memory" } else { "cpu" })
            }
        }
    }
}

impl Mistake {
    fn make(self, text: String) -> String {
        let mut bytes = text.into_bytes();
        let place = |at: u8, len: usize| usize::from(at) % len.max(1);
        match self {
            Mistake::Insert { at, byte } => bytes.insert(place(at, bytes.len() + 1), byte),
            Mistake::Replace { at, byte } => {
                let at = place(at, bytes.len());
                bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
            }
            Mistake::Delete { at } if !bytes.is_empty() => _ = bytes.remove(place(at, bytes.len())),
            Mistake::Delete { .. } => {}
            Mistake::Truncate { at } => bytes.truncate(place(at, bytes.len())),
            Mistake::Twice => bytes = [&bytes[..], b" ", &bytes[..]].concat(),
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Text {
    /// The text.
    pub fn build(&self) -> String {
        let (text, mistake) = match self {
            Text::Request { size, sources, swappiness, age, mistake } => {
                let mut words = vec![size.text()];
                words.extend(sources.map(|sources| format!("source={}", sources.text())));
                words.extend(swappiness.map(|weight| format!("swappiness={weight}")));
                words.extend(age.map(|seconds| format!("age={seconds}")));
                (words.join(" "), mistake)
            }
            Text::Limit { size, mistake } => (format!("{}\n", size.text()), mistake),
            Text::Words { words, between } => {
                let between = [" ", "\n", "\t ", "\r", "\x0c", "\x0b", ",", "\0"][usize::from(between % 8)];
                (words.iter().flatten().map(|word| word.text()).collect::<Vec<_>>().join(between), &None)
            }
            Text::Nodes { parts, mistake } => {
                let part = |&(first, last): &(u8, Option<u8>)| match last {
                    Some(last) => format!("{}-{}", first % 4, last % 4),
                    None => (first % 4).to_string(),
                };
                (parts.iter().flatten().map(part).collect::<Vec<_>>().join(","), mistake)
            }
            Text::Raw(bytes) => (String::from_utf8_lossy(bytes).into_owned(), &None),
        };
        match mistake {
            Some(mistake) => mistake.make(text),
            None => text,
        }
    }
}

/// A name for a memcg, or for a file.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Name {
    /// One of few.
    Short(u8),
    /// Anything.
    Raw([u8; 2]),
    /// A control file's.
    File(u8),
    /// About as long as is possible.
    Long(u8),
    /// A word that means a directory, or nothing.
    Dots(u8),
}

impl Name {
    /// The name.
    pub fn build(self) -> String {
        match self {
            Name::Short(n) => format!("m{}", n % 8),
            Name::Raw(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Name::File(n) => super::expect::FILES[super::expect::which_file(n)].0.to_owned(),
            Name::Long(n) => "n".repeat(250 + usize::from(n % 10)),
            Name::Dots(n) => ".".repeat(usize::from(n % 4)),
        }
    }
}
