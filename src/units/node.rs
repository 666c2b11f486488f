//! NUMA nodes and sets of them.

use std::fmt;
use std::str::FromStr;

/// Nodes a topology may have: a set of them fits in a `u64`.
pub const MAX_NODES: usize = 64;

/// A NUMA node, numbered densely from 0 within a topology. Below [`MAX_NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A set of nodes, a bit each. As text it is a list as the kernel writes them: `0-1,3`.
///
/// ```
/// use zspool::units::{NodeId, NodeMask};
///
/// let mask: NodeMask = "0-1,3".parse()?;
/// assert!(mask.contains(NodeId(3)) && !mask.contains(NodeId(2)));
/// assert_eq!((mask & NodeMask::first(2)).to_string(), "0-1");
/// # Ok::<(), zspool::units::NodeListError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeMask(u64);

/// A word that is no list of nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeListError {
    /// A part is neither a number nor a range.
    #[error("{part:?} in {word:?} is neither a node's number nor a range such as 0-3")]
    BadPart {
        /// The word.
        word: String,
        /// The part between commas.
        part: String,
    },
    /// A number is larger than nodes have.
    #[error("node {number} in {word:?} cannot be: nodes are numbered from 0 to {}", MAX_NODES - 1)]
    TooLarge {
        /// The word.
        word: String,
        /// The number.
        number: u64,
    },
    /// A range ends before it begins.
    #[error("the range {part:?} in {word:?} ends before it begins")]
    Backwards {
        /// The word.
        word: String,
        /// The range.
        part: String,
    },
}

// === impl NodeId ===

impl NodeId {
    /// As an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "N{}", self.0)
    }
}

// === impl NodeMask ===

impl NodeMask {
    /// No node.
    pub const NONE: NodeMask = NodeMask(0);

    /// The first `count` nodes: all that a topology of so many has.
    ///
    /// # Panics
    /// When `count` is above [`MAX_NODES`].
    #[inline]
    pub const fn first(count: usize) -> Self {
        assert!(count <= MAX_NODES);
        match count {
            0 => NodeMask(0),
            _ => NodeMask(u64::MAX >> (MAX_NODES - count)),
        }
    }

    /// One node.
    #[inline]
    pub const fn only(node: NodeId) -> Self {
        NodeMask(1 << node.0)
    }

    /// The nodes whose bits are set.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        NodeMask(bits)
    }

    /// A bit for each node.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether there is none in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the node is in it.
    #[inline]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }

    /// Whether all nodes of `other` are in it.
    #[inline]
    pub const fn covers(self, other: NodeMask) -> bool {
        other.0 & !self.0 == 0
    }

    /// Its nodes, ascending.
    pub fn iter(self) -> impl Iterator<Item = NodeId> + use<> {
        (0..MAX_NODES as u8).map(NodeId).filter(move |&node| self.contains(node))
    }
}

impl std::ops::BitAnd for NodeMask {
    type Output = NodeMask;
    #[inline]
    fn bitand(self, other: NodeMask) -> NodeMask {
        NodeMask(self.0 & other.0)
    }
}

impl FromIterator<NodeId> for NodeMask {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        NodeMask(nodes.into_iter().fold(0, |bits, node| bits | 1 << node.0))
    }
}

/// The empty set is the empty word.
impl fmt::Display for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut separator) = (self.0, "");
        while rest != 0 {
            let first = rest.trailing_zeros();
            let last = first + (rest >> first).trailing_ones() - 1;
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
            rest &= u64::MAX.checked_shl(last + 1).unwrap_or(0);
        }
        Ok(())
    }
}

impl fmt::Debug for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeMask({self})")
    }
}

impl FromStr for NodeMask {
    type Err = NodeListError;

    fn from_str(word: &str) -> Result<Self, NodeListError> {
        let number = |part: &str, text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let bad = || NodeListError::BadPart { word: word.to_owned(), part: part.to_owned() };
            let number: u64 = text.parse().ok().filter(|_| digits).ok_or_else(bad)?;
            match number {
                0..64 => Ok(number as u32),
                _ => Err(NodeListError::TooLarge { word: word.to_owned(), number }),
            }
        };
        let mut bits = 0;
        for part in word.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(part, first)?, number(part, last)?);
            if first > last {
                return Err(NodeListError::Backwards { word: word.to_owned(), part: part.to_owned() });
            }
            bits |= u64::MAX >> (MAX_NODES as u32 - 1 - (last - first)) << first;
        }
        Ok(NodeMask(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_as_they_are_written() {
        for (text, bits) in [
            ("0", 1),
            ("63", 1 << 63),
            ("0-63", u64::MAX),
            ("0-1,3", 0b1011),
            ("1,3,5-7", 0b1110_1010),
            ("62-63", 3 << 62),
        ] {
            let mask: NodeMask = text.parse().unwrap();
            assert_eq!((mask.bits(), mask.to_string().as_str()), (bits, text));
            assert_eq!(mask.iter().collect::<NodeMask>(), mask);
            assert_eq!(mask.len(), mask.iter().count());
        }
        assert_eq!("3,0,1-1,0-1".parse(), Ok(NodeMask(0b1011)), "in any order, and twice");
        assert_eq!(NodeMask::NONE.to_string(), "");
        assert_eq!([0, 1, 64].map(|n| NodeMask::first(n).bits()), [0, 1, u64::MAX]);
    }

    #[test]
    fn what_is_no_list_is_named() {
        for word in ["", ",", "0,", "a", "0-", "-1", "0-1-2", "+1", "0 1", "\u{661}", "99999999999999999999"] {
            let error = word.parse::<NodeMask>().unwrap_err();
            assert!(matches!(error, NodeListError::BadPart { .. }), "{word}: {error}");
        }
        assert_eq!(
            "0-64".parse::<NodeMask>().unwrap_err().to_string(),
            "node 64 in \"0-64\" cannot be: nodes are numbered from 0 to 63"
        );
        assert_eq!(
            "3-1".parse::<NodeMask>().unwrap_err().to_string(),
            "the range \"3-1\" in \"3-1\" ends before it begins"
        );
    }
}
