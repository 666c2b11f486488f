//! What the tree and its files refuse. A limit's refusal is [`LimitHit`](super::LimitHit).

use super::charge::LimitHit;
use super::id::MemcgId;
use super::reclaim::End;
use super::request::{RequestError, Source};
use crate::units::NodeMask;

/// A refusal of the memcg tree or of one of its text files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The memcg was removed.
    #[error("memcg {id} was removed; use its parent, or make a new one with mkdir")]
    Offline {
        /// The removed memcg.
        id: MemcgId,
    },
    /// A name no memcg can have.
    #[error(
        "{} cannot name a memcg: {why}; use 1 to 255 bytes without '/', NUL and line break, and not \".\" or \"..\"",
        quoted(name)
    )]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A control file has this name, in the directory that the memcg would be in.
    #[error("{name:?} is the name of a control file; choose another name")]
    FileName {
        /// The name.
        name: String,
    },
    /// A sibling has this name.
    #[error("{path} exists already; choose another name or use the memcg that is there")]
    Exists {
        /// Path of the memcg that has it.
        path: String,
    },
    /// The memcg has children.
    #[error("{path} still has memcgs below it ({children}); remove them first")]
    HasChildren {
        /// Path of the memcg.
        path: String,
        /// How many.
        children: usize,
    },
    /// The root was to be removed.
    #[error("the root memcg cannot be removed; drop the tree instead")]
    Root,
    /// Every objcg id is in use: by memcgs, and by objects that removed memcgs left behind.
    #[error(
        "all {limit} objcg ids are in use, {online} of them by memcgs; remove memcgs, or free what removed ones left"
    )]
    OutOfIds {
        /// How many ids there are.
        limit: u32,
        /// Memcgs there are.
        online: usize,
    },
    /// The tree cannot be this deep.
    #[error("a memcg {depth} levels below the root is too deep; {most} levels are possible")]
    TooDeep {
        /// Depth asked for.
        depth: u32,
        /// Deepest possible.
        most: u16,
    },
    /// A node mask is empty, or names nodes that are not there.
    #[error("the nodes {:?} cannot be allowed: name at least one, and only those there are, which are {all}", .mask.to_string())]
    Nodes {
        /// What was asked for.
        mask: NodeMask,
        /// The nodes there are.
        all: NodeMask,
    },
    /// A memcg would have no node left.
    #[error(
        "{path} would have no node left: it allows {own}, and the memcgs above it {above}; let one of them allow more first"
    )]
    NoNodeLeft {
        /// Path of the memcg.
        path: String,
        /// What it allows itself.
        own: NodeMask,
        /// What those above allow.
        above: NodeMask,
    },
    /// No tier has this name.
    #[error("there is no tier {name:?}{}", match known.as_str() {
        "" => ", nor any other: add a swap device first".to_owned(),
        known => format!("; the tiers are {known}"),
    })]
    NoSuchTier {
        /// The name.
        name: String,
        /// The names there are, with commas.
        known: String,
    },
    /// A request names a tier that the memcg may not use.
    #[error(
        "{path} may not use the tier {tier}: memory.swap.tiers.max is 0 for it there or above; write \"{tier} max\" to it"
    )]
    TierForbidden {
        /// Path of the memcg.
        path: String,
        /// The tier.
        tier: String,
    },
    /// No file has this name.
    #[error("there is no file {name:?}; there are {known}")]
    NoSuchFile {
        /// The name.
        name: String,
        /// The names there are, with commas.
        known: String,
    },
    /// The file cannot be written.
    #[error("{file} can only be read; the files to write are {writable}")]
    ReadOnly {
        /// The file.
        file: &'static str,
        /// The names of those that can, with commas.
        writable: String,
    },
    /// The file cannot be read.
    #[error("{file} can only be written; write {takes}")]
    WriteOnly {
        /// The file.
        file: &'static str,
        /// What it takes.
        takes: &'static str,
    },
    /// Something that cgroup v2 knows and that means nothing here.
    #[error("{file} does not take {word:?}: {why}")]
    Unsupported {
        /// The file.
        file: &'static str,
        /// The word.
        word: String,
        /// Why it means nothing.
        why: &'static str,
    },
    /// Nothing was written where a value is needed.
    #[error("nothing was written to {file}; write {grammar}")]
    NoValue {
        /// The file.
        file: &'static str,
        /// What the file takes.
        grammar: &'static str,
    },
    /// A word that the file's grammar does not know.
    #[error("{file} does not take {word:?}: {why}; write {grammar}")]
    BadWord {
        /// The file.
        file: &'static str,
        /// The offending word.
        word: String,
        /// What is wrong with it.
        why: String,
        /// What the file takes.
        grammar: &'static str,
    },
    /// What was written to `memory.reclaim` is no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A request names sources that nobody serves.
    #[error("nobody serves source={sources} here; {}", match served.is_empty() {
        true => "no reclaimer is registered".to_owned(),
        false => format!("name one or more of {served}"),
    })]
    Unserved {
        /// Those that nobody serves.
        sources: Source,
        /// Those that somebody does.
        served: Source,
    },
    /// A request names zswap, whose writeback is disabled.
    #[error("{path} has no writeback to ask for: memory.zswap.writeback is 0 there or above it; set it to 1")]
    WritebackOff {
        /// Path of the memcg.
        path: String,
    },
    /// A `memory.max` that is less than what nobody can take away.
    #[error(
        "{path} has {pinned} bytes pinned in memory, so its memory.max cannot be {limit}: unpin some, or write {pinned} or more"
    )]
    BelowPinned {
        /// Path of the memcg.
        path: String,
        /// What was to be set, in bytes.
        limit: u64,
        /// Bytes that are pinned there and below.
        pinned: u64,
    },
    /// The nodes were set, and not everything could be moved off the others. What is stored from now on obeys all the same.
    #[error("{bytes} bytes of {path} lie outside of the nodes {nodes} still ({why}); set its nodes again later")]
    Unmoved {
        /// Path of the memcg.
        path: String,
        /// Where its objects may lie.
        nodes: NodeMask,
        /// Bytes of slots outside.
        bytes: u64,
        /// What kept them there.
        why: String,
    },
    /// Fewer bytes were reclaimed than were asked for.
    #[error("{reclaimed} of {asked} bytes of {path} were reclaimed, and no more: {}", match end {
        End::Exhausted => "what is left was used lately or cannot be written; try again later, or ask for less",
        End::Busy => "what is left is in use this moment; try again",
        _ => "nothing else of it can be; ask for less, or add a device that pages can be written to",
    })]
    Again {
        /// Path of the memcg.
        path: String,
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes there were.
        reclaimed: u64,
        /// Why there were no more.
        end: End,
    },
    /// A request was cancelled.
    #[error(
        "reclaim of {path} was interrupted after {reclaimed} of {asked} bytes; ask for the rest when there is time"
    )]
    Interrupted {
        /// Path of the memcg.
        path: String,
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes there were.
        reclaimed: u64,
    },
}

/// The beginning of it is enough to know it by; what to do about it comes after it.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

impl Error {
    /// The number with which a system call on cgroup v2's files fails in the same case.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Offline { .. } => libc::ENODEV,
            Error::BadName { name, .. } if name.len() > super::hierarchy::NAME_MAX => libc::ENAMETOOLONG,
            Error::Exists { .. } | Error::FileName { .. } => libc::EEXIST,
            Error::HasChildren { .. } | Error::Root | Error::Unmoved { .. } | Error::BelowPinned { .. } => libc::EBUSY,
            Error::OutOfIds { .. } => libc::ENOSPC,
            Error::TooDeep { .. } | Error::Again { .. } => libc::EAGAIN,
            Error::Interrupted { .. } => libc::EINTR,
            Error::NoSuchFile { .. } => libc::ENOENT,
            Error::ReadOnly { .. } | Error::WriteOnly { .. } => libc::EACCES,
            Error::Unsupported { .. } => libc::EOPNOTSUPP,
            Error::BadName { .. }
            | Error::Nodes { .. }
            | Error::NoNodeLeft { .. }
            | Error::NoSuchTier { .. }
            | Error::TierForbidden { .. }
            | Error::NoValue { .. }
            | Error::BadWord { .. }
            | Error::Request(_)
            | Error::Unserved { .. }
            | Error::WritebackOff { .. } => libc::EINVAL,
        }
    }
}

/// Why [`Tree::enter`](super::Tree::enter) refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChargeError {
    /// The memcg was removed.
    #[error(transparent)]
    Offline(#[from] Error),
    /// A limit would be passed.
    #[error(transparent)]
    Limit(#[from] LimitHit),
    /// The memcg is of another tree than the one that is charged.
    #[error("{path} is a memcg of another tree; charge one of the tree that the pool was made with")]
    Foreign {
        /// Its path there.
        path: String,
    },
}
