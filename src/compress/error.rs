//! What this layer refuses.

use super::CodecId;

/// A codec was not found or cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No codec has this name.
    #[error("there is no codec {name:?}; use one of: {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The registered names, separated by commas.
        known: String,
    },
    /// Another codec has the id.
    #[error("codec {name:?} cannot take id {id}: codec {holder:?} has it; give each codec an id of its own")]
    IdTaken {
        /// The codec that was refused.
        name: &'static str,
        /// Its id.
        id: CodecId,
        /// The codec that has the id.
        holder: &'static str,
    },
    /// Another codec has the name.
    #[error("codec {name:?} is registered already; give each codec a name of its own")]
    NameTaken {
        /// The name.
        name: &'static str,
    },
    /// The id is reserved for pages kept raw.
    #[error("codec {name:?} cannot take id 0, which marks pages kept raw; use an id from 1 to 15")]
    IdReserved {
        /// The codec that was refused.
        name: &'static str,
    },
}

/// Bytes that are no page. Small and `Copy`, because loads return it where nothing may be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// The bytes are not what the codec writes.
    #[error("{len} bytes are not a page compressed by {codec}")]
    Malformed {
        /// The codec that was to read them.
        codec: &'static str,
        /// How many bytes there were.
        len: usize,
    },
    /// The bytes are well formed but hold less than a page.
    #[error("{codec} unpacked {unpacked} bytes where a page has 4096")]
    WrongLength {
        /// The codec that read them.
        codec: &'static str,
        /// Bytes that came out.
        unpacked: usize,
    },
    /// No codec with this id is registered.
    #[error("the page was compressed by codec {0}, which is not registered here; register it before loading")]
    UnknownId(CodecId),
}
