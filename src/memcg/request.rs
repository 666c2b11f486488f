//! What is written to `memory.reclaim`, as a value: [`ReclaimRequest`].
//!
//! ```text
//! <size> [source=LIST | swappiness=0..200|max] [age=SECONDS] [to=TIER]
//!
//!   10M                        ordinary reclaim: pages out of memory first, then compressed bytes to the device
//!   10M source=zswap           10 MiB of compressed bytes to the device, nothing else
//!   10M source=zswap age=600   only pages that have lain compressed for ten minutes
//!   10M source=anon,zswap      pages out of memory, and what that leaves to do as compressed bytes
//!   10M source=zswap to=disk   10 MiB of compressed bytes out of the pool, to devices of the tier "disk"
//!   10M to=disk                10 MiB down to that tier from the one above it (from the pool, if there is none above)
//!   10M swappiness=0           ordinary reclaim that leaves pages in memory alone
//! ```
//!
//! The size comes first, the options in any order, white space between them. `source` and `swappiness` exclude each other, for
//! one names what the other weighs; `to` goes with `source=zswap` or none, for pages in memory go to no tier.

use super::size::{SizeError, parse_size};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

bitflags::bitflags! {
    /// What reclaim takes bytes from.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Source: u8 {
        /// Pages in memory that have no file: to be compressed.
        const ANON = 1;
        /// Pages in memory that a file has too. Known, and served by nobody here.
        const FILE = 2;
        /// Compressed pages: to be written to a device.
        const ZSWAP = 4;
    }
}

/// Each source with the word for it, in the order in which ordinary reclaim asks.
pub(super) const SOURCES: [(Source, &str); 3] =
    [(Source::ANON, "anon"), (Source::FILE, "file"), (Source::ZSWAP, "zswap")];

/// Words as the list of a `source`: `anon,zswap`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = SOURCES.iter().filter(|(one, _)| self.contains(*one)).map(|&(_, word)| word).collect();
        f.write_str(&words.join(","))
    }
}

/// How ordinary reclaim weighs pages without a file against those with one. Here there are no pages with one, so only 0
/// matters: pages in memory are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swappiness {
    /// 0 (leave pages without a file alone) to 200.
    Weight(u8),
    /// Only pages without a file.
    Max,
}

/// A request to reclaim bytes, as `memory.reclaim` takes it.
///
/// ```
/// use zspool::memcg::{ReclaimRequest, Source};
/// let request: ReclaimRequest = "10M source=zswap age=600".parse()?;
/// assert_eq!((request.bytes, request.sources), (10 << 20, Some(Source::ZSWAP)));
/// let refused = "10M source=zswap swappiness=60".parse::<ReclaimRequest>().unwrap_err();
/// assert!(refused.to_string().starts_with("source and swappiness exclude each other"));
/// # Ok::<(), zspool::memcg::RequestError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReclaimRequest {
    /// How many bytes.
    pub bytes: u64,
    /// From where, `None`: ordinary reclaim.
    pub sources: Option<Source>,
    /// How ordinary reclaim weighs.
    pub swappiness: Option<Swappiness>,
    /// Only what has lain so long.
    pub age: Option<Duration>,
    /// Name of the tier that bytes are to go to.
    pub to: Option<String>,
}

/// What a request takes, for errors and for the table of files.
pub(super) const GRAMMAR: &str =
    "\"<size> [source=LIST | swappiness=0..200|max] [age=SECONDS] [to=TIER]\", such as \"10M source=zswap\"";

const MAX_SWAPPINESS: u8 = 200;

/// A text that is no request. All of them are `EINVAL`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no text.
    #[error("the request is empty; write {GRAMMAR}")]
    Empty,
    /// There is a NUL in it.
    #[error("the request has a NUL at byte {at}; write {GRAMMAR}")]
    Nul {
        /// Where.
        at: usize,
    },
    /// It begins with an option.
    #[error("the request begins with {word:?}, which is no size; write {GRAMMAR}")]
    NoSize {
        /// The first word.
        word: String,
    },
    /// It begins with something like a size.
    #[error("{0}; write {GRAMMAR}")]
    BadSize(#[from] SizeError),
    /// It has a word that is no option.
    #[error("{word:?} is no option; the options are source=, swappiness=, age= and to=")]
    NoOption {
        /// The word.
        word: String,
    },
    /// It has a second size.
    #[error("{word:?} is a second size; write one, and then only options")]
    SecondSize {
        /// The second.
        word: String,
    },
    /// An option that is not known.
    #[error("{key:?} is no option; the options are source, swappiness, age and to")]
    UnknownKey {
        /// What is before the `=`.
        key: String,
    },
    /// An option is there twice.
    #[error("{key} is there twice; write it once")]
    Twice {
        /// Which.
        key: &'static str,
    },
    /// A list of sources is empty, or an element of it.
    #[error("a source is missing in {list:?}; name one or more of anon, file and zswap with commas between them")]
    EmptySource {
        /// The list.
        list: String,
    },
    /// A source that is not known.
    #[error("{word:?} is no source; the sources are anon, file and zswap")]
    UnknownSource {
        /// The word.
        word: String,
    },
    /// A source is in the list twice.
    #[error("{word} is in the list of sources twice; name it once")]
    SourceTwice {
        /// Which.
        word: &'static str,
    },
    /// Both were given.
    #[error("source and swappiness exclude each other: one says what to reclaim, the other weighs it; leave one out")]
    SourceAndSwappiness,
    /// Neither 0 to 200 nor `max`.
    #[error("swappiness={value} is neither 0 to {MAX_SWAPPINESS} nor \"max\"; write one of those")]
    BadSwappiness {
        /// What is after the `=`.
        value: String,
    },
    /// No number of seconds.
    #[error("age={value} is no age; write 0 to {} seconds as digits", u32::MAX)]
    BadAge {
        /// What is after the `=`.
        value: String,
    },
    /// No tier is named.
    #[error("to= names no tier; write one of memory.swap.tiers after it, or leave it out")]
    EmptyTier,
    /// A tier is named for what goes to none.
    #[error("to={tier} goes with source=zswap or without source and swappiness: only compressed bytes go to a tier")]
    TierWithSource {
        /// The tier.
        tier: String,
    },
}

impl ReclaimRequest {
    /// Ordinary reclaim of so many bytes.
    pub fn new(bytes: u64) -> Self {
        ReclaimRequest { bytes, sources: None, swappiness: None, age: None, to: None }
    }

    /// The same from these sources, and no others.
    #[must_use]
    pub fn from_sources(self, sources: Source) -> Self {
        ReclaimRequest { sources: Some(sources), ..self }
    }

    /// The same, to this tier.
    #[must_use]
    pub fn to_tier(self, name: &str) -> Self {
        ReclaimRequest { to: Some(name.to_owned()), ..self }
    }

    /// The same, only of what has lain so long.
    #[must_use]
    pub fn aged(self, age: Duration) -> Self {
        ReclaimRequest { age: Some(age), ..self }
    }
}

fn only_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn sources(list: &str) -> Result<Source, RequestError> {
    list.split(',').try_fold(Source::empty(), |sum, word| {
        if word.is_empty() {
            return Err(RequestError::EmptySource { list: list.to_owned() });
        }
        let Some(&(source, word)) = SOURCES.iter().find(|(_, known)| *known == word) else {
            return Err(RequestError::UnknownSource { word: word.to_owned() });
        };
        if sum.contains(source) { Err(RequestError::SourceTwice { word }) } else { Ok(sum | source) }
    })
}

fn swappiness(value: &str) -> Result<Swappiness, RequestError> {
    if value == "max" {
        return Ok(Swappiness::Max);
    }
    let weight = only_digits(value).then(|| value.parse().ok()).flatten();
    match weight.filter(|&weight| weight <= MAX_SWAPPINESS) {
        Some(weight) => Ok(Swappiness::Weight(weight)),
        None => Err(RequestError::BadSwappiness { value: value.to_owned() }),
    }
}

fn age(value: &str) -> Result<Duration, RequestError> {
    let seconds = only_digits(value).then(|| value.parse::<u32>().ok()).flatten();
    let seconds = seconds.ok_or_else(|| RequestError::BadAge { value: value.to_owned() })?;
    Ok(Duration::from_secs(seconds.into()))
}

fn set<T>(option: &mut Option<T>, value: T, key: &'static str) -> Result<(), RequestError> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(RequestError::Twice { key }),
    }
}

impl FromStr for ReclaimRequest {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if let Some(at) = text.find('\0') {
            return Err(RequestError::Nul { at });
        }
        let mut words = text.split_ascii_whitespace();
        let first = words.next().ok_or(RequestError::Empty)?;
        if !first.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(RequestError::NoSize { word: first.to_owned() });
        }
        let mut request = ReclaimRequest::new(parse_size(first)?);
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                let word = word.to_owned();
                return Err(match parse_size(&word) {
                    Ok(_) => RequestError::SecondSize { word },
                    Err(_) => RequestError::NoOption { word },
                });
            };
            match key {
                "source" => set(&mut request.sources, sources(value)?, "source")?,
                "swappiness" => set(&mut request.swappiness, swappiness(value)?, "swappiness")?,
                "age" => set(&mut request.age, age(value)?, "age")?,
                "to" if value.is_empty() => return Err(RequestError::EmptyTier),
                "to" => set(&mut request.to, value.to_owned(), "to")?,
                _ => return Err(RequestError::UnknownKey { key: key.to_owned() }),
            }
        }
        let plain = request.swappiness.is_none() && request.sources.is_none_or(|sources| sources == Source::ZSWAP);
        match (request.sources, request.swappiness, &request.to) {
            (Some(_), Some(_), _) => Err(RequestError::SourceAndSwappiness),
            (_, _, Some(tier)) if !plain => Err(RequestError::TierWithSource { tier: tier.clone() }),
            _ => Ok(request),
        }
    }
}

/// The text that is read as this request.
impl fmt::Display for ReclaimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes)?;
        if let Some(sources) = self.sources {
            write!(f, " source={sources}")?;
        }
        match self.swappiness {
            Some(Swappiness::Weight(weight)) => write!(f, " swappiness={weight}")?,
            Some(Swappiness::Max) => f.write_str(" swappiness=max")?,
            None => {}
        }
        if let Some(age) = self.age {
            write!(f, " age={}", age.as_secs())?;
        }
        if let Some(tier) = &self.to {
            write!(f, " to={tier}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<ReclaimRequest>().expect_err(text).to_string()
    }

    #[test]
    fn the_five_bad_inputs_of_the_selftest_are_refused() {
        assert_eq!(
            refused("source=zswap"),
            format!("the request begins with \"source=zswap\", which is no size; write {GRAMMAR}")
        );
        for both in ["swappiness=60", "swappiness=max"] {
            for text in [format!("10M source=zswap {both}"), format!("10M {both} source=zswap")] {
                assert!(refused(&text).starts_with("source and swappiness exclude each other"), "{text}");
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_meant() {
        let anon_zswap = Source::ANON | Source::ZSWAP;
        let plain = ReclaimRequest::new(10 << 20);
        for (text, meant) in [
            ("10M", plain.clone()),
            (" 10485760 \n", plain.clone()),
            ("10m source=zswap", plain.clone().from_sources(Source::ZSWAP)),
            ("10M\tsource=zswap,anon", plain.clone().from_sources(anon_zswap)),
            ("10M source=file", plain.clone().from_sources(Source::FILE)),
            ("10M age=7  source=zswap\n", plain.clone().from_sources(Source::ZSWAP).aged(Duration::from_secs(7))),
            ("10M age=0", plain.clone().aged(Duration::ZERO)),
            ("10M swappiness=200", ReclaimRequest { swappiness: Some(Swappiness::Weight(200)), ..plain.clone() }),
            ("10M swappiness=max", ReclaimRequest { swappiness: Some(Swappiness::Max), ..plain.clone() }),
            ("10M to=disk", plain.clone().to_tier("disk")),
            ("10M to=a-b.c source=zswap", plain.clone().from_sources(Source::ZSWAP).to_tier("a-b.c")),
            ("0", ReclaimRequest::new(0)),
            ("18446744073709551615", ReclaimRequest::new(u64::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(meant.clone()), "{text}");
            assert_eq!(meant.to_string().parse(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn what_is_no_request_is_named() {
        for (text, says) in [
            ("", "the request is empty"),
            (" \n", "the request is empty"),
            ("10M\0", "a NUL at byte 3"),
            ("\0", "a NUL at byte 0"),
            ("zswap", "begins with \"zswap\", which is no size"),
            ("-1", "begins with \"-1\", which is no size"),
            ("+1", "begins with \"+1\""),
            ("max", "begins with \"max\""),
            ("10MB", "\"MB\" in \"10MB\" is no unit"),
            ("10M,source=zswap", "is no unit"),
            ("1.5M", "is no unit"),
            ("18446744073709551616", "more than 2^64 - 1"),
            ("16777216T source=zswap", "more than 2^64 - 1"),
            ("1 2", "\"2\" is a second size"),
            ("1M 2M source=zswap", "\"2M\" is a second size"),
            ("1 zswap", "\"zswap\" is no option; the options are source="),
            ("1 M", "\"M\" is no option"),
            ("1 Source=zswap", "\"Source\" is no option; the options are source, "),
            ("1 =zswap", "\"\" is no option"),
            ("1 source=", "a source is missing in \"\""),
            ("1 source=zswap,", "a source is missing in \"zswap,\""),
            ("1 source=,zswap", "a source is missing"),
            ("1 source=zswap,,anon", "a source is missing"),
            ("1 source=disk", "\"disk\" is no source; the sources are anon, file and zswap"),
            ("1 source=zswap zswap", "\"zswap\" is no option"),
            ("1 source=ZSWAP", "\"ZSWAP\" is no source"),
            ("1 source=zswap,zswap", "zswap is in the list of sources twice"),
            ("1 source=zswap source=anon", "source is there twice"),
            ("1 source=zswap source=zswap", "source is there twice"),
            ("1 source=zswapzswapzswapzswap", "is no source"),
            ("1 swappiness=201", "swappiness=201 is neither 0 to 200 nor \"max\""),
            ("1 swappiness=-1", "swappiness=-1 is neither"),
            ("1 swappiness=+1", "swappiness=+1 is neither"),
            ("1 swappiness=", "swappiness= is neither"),
            ("1 swappiness=Max", "swappiness=Max is neither"),
            ("1 swappiness=256", "swappiness=256 is neither"),
            ("1 swappiness=1 swappiness=1", "swappiness is there twice"),
            ("1 age=", "age= is no age"),
            ("1 age=abc", "age=abc is no age; write 0 to 4294967295 seconds"),
            ("1 age=-1", "age=-1 is no age"),
            ("1 age=1.5", "age=1.5 is no age"),
            ("1 age=4294967296", "age=4294967296 is no age"),
            ("1 age=99999999999999999999999", "is no age"),
            ("1 age=1 age=2", "age is there twice"),
            ("1 source=zswap to=", "to= names no tier"),
            ("1 to=a to=a", "to is there twice"),
            ("1 source=anon to=disk", "to=disk goes with source=zswap or without"),
            ("1 source=zswap,anon to=disk", "to=disk goes with source=zswap or without"),
            ("1 to=disk swappiness=max", "to=disk goes with source=zswap or without"),
            ("1 \u{a0}source=zswap", "is no option"),
        ] {
            assert!(refused(text).contains(says), "{text:?}: {}", refused(text));
        }
    }
}
