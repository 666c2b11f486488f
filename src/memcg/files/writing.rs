//! What the files take. A limit below the usage has what is above it reclaimed before the write returns, as far as that goes:
//! nothing that is charged fails for it, and the write succeeds; but for a `memory.max` below what is pinned, which never could
//! hold.

use super::super::cancel::Cancel;
use super::super::counter::{Counter, NO_LIMIT};
use super::super::error::Error;
use super::super::handle::Memcg;
use super::super::size::parse_size;
use crate::units::{NodeListError, NodeMask};

/// What keeps a word from being taken.
pub(super) enum Refused {
    /// What is wrong with the word.
    Word(String),
    /// What is wrong with one of several words.
    OneOf(String, String),
    /// There is no word.
    Nothing,
    /// The word is one of cgroup v2's, and means nothing here: why.
    Unsupported(&'static str),
    Memcg(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Memcg(error)
    }
}

pub(super) type Done = Result<(), Refused>;

fn size_or_max(word: &str) -> Result<u64, Refused> {
    match word {
        "max" => Ok(NO_LIMIT),
        _ => parse_size(word).map_err(|error| Refused::Word(error.to_string())),
    }
}

fn limit(memcg: &Memcg, word: &str, cancel: &Cancel, counter: Counter) -> Done {
    let limit = size_or_max(word)?;
    memcg.set_max(counter, limit)?;
    memcg.reclaim_above(counter, limit, cancel);
    Ok(())
}

pub(super) fn memory_max(memcg: &Memcg, word: &str, cancel: &Cancel) -> Done {
    limit(memcg, word, cancel, Counter::Memory)
}

pub(super) fn memory_low(memcg: &Memcg, word: &str, _: &Cancel) -> Done {
    Ok(memcg.set_low(size_or_max(word)?)?)
}

pub(super) fn memory_min(memcg: &Memcg, word: &str, _: &Cancel) -> Done {
    Ok(memcg.set_min(size_or_max(word)?)?)
}

pub(super) fn memory_high(memcg: &Memcg, word: &str, cancel: &Cancel) -> Done {
    let high = size_or_max(word)?;
    memcg.set_high(high)?;
    memcg.reclaim_above(Counter::Memory, high, cancel);
    Ok(())
}

pub(super) fn zswap_max(memcg: &Memcg, word: &str, cancel: &Cancel) -> Done {
    limit(memcg, word, cancel, Counter::Zswap)
}

pub(super) fn swap_max(memcg: &Memcg, word: &str, _: &Cancel) -> Done {
    // What lies on devices stays, as in the kernel: there is nowhere else to put it.
    Ok(memcg.set_max(Counter::Swap, size_or_max(word)?)?)
}

pub(super) fn writeback(memcg: &Memcg, word: &str, _: &Cancel) -> Done {
    match word {
        "0" => Ok(memcg.set_writeback(false)?),
        "1" => Ok(memcg.set_writeback(true)?),
        _ => Err(Refused::Word("it is neither 0 nor 1".to_owned())),
    }
}

pub(super) fn nodes(memcg: &Memcg, word: &str, _: &Cancel) -> Done {
    let nodes: NodeMask = word.parse().map_err(|error: NodeListError| Refused::Word(error.to_string()))?;
    match memcg.set_nodes(nodes) {
        Err(Error::Nodes { all, .. }) => Err(Refused::Word(format!("there are only the nodes {all}"))),
        done => Ok(done.and_then(|()| memcg.move_home())?),
    }
}

/// One tier and its value, as flat-keyed files take them.
pub(super) fn tiers(memcg: &Memcg, text: &str, _: &Cancel) -> Done {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let refuse = |word: &str, why: &str| Err(Refused::OneOf(word.to_owned(), why.to_owned()));
    let (tier, allowed) = match words[..] {
        [] => return Err(Refused::Nothing),
        [tier] => return refuse(tier, "a tier is followed by max or 0"),
        [tier, "max"] => (tier, true),
        [tier, "0"] => (tier, false),
        [_, value] => return refuse(value, "it is neither max nor 0"),
        [_, _, more, ..] => return refuse(more, "one tier at a time"),
    };
    match memcg.set_tier(tier, allowed) {
        Err(error @ Error::NoSuchTier { .. }) => Err(Refused::OneOf(tier.to_owned(), error.to_string())),
        done => Ok(done?),
    }
}

pub(super) fn reclaim(memcg: &Memcg, text: &str, cancel: &Cancel) -> Done {
    let request = text.parse().map_err(Error::from)?;
    let _met = memcg.reclaim(&request, cancel)?;
    Ok(())
}

pub(super) fn procs(_: &Memcg, _: &str, _: &Cancel) -> Done {
    Err(Refused::Unsupported(
        "no process lives in a memcg of this tree; pages are charged to the memcg that a store names",
    ))
}

pub(super) fn subtree_control(_: &Memcg, word: &str, _: &Cancel) -> Done {
    match word {
        "+memory" => Ok(()),
        "-memory" => Err(Refused::Unsupported("every memcg of this tree has the memory controller")),
        _ => Err(Refused::Word("memory is the only controller".to_owned())),
    }
}
