//! [`Protection`]: how the objects of an instance are kept from being read, forged or mistaken on its devices.
//!
//! ```text
//!              Sealed(key)                          Checksum(seed)
//!   payload    encrypted                            as it is
//!   changed    seen: needs the key to forge         seen: accidents only
//!   bound to   slot, place, generation, instance    slot, place, generation, instance
//!   adds       32 bytes an object                   32 bytes an object
//! ```
//!
//! 1. All devices of an instance share one key and its nonces, so that an object which moves from one to another is
//!    sealed anew with a nonce of its own.
//! 2. Which of the two it is does not change in the life of an instance.

use super::Error;
use super::key::{Cipher, Key};
use crate::sync::Arc;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// How objects are protected on devices. Clones share the key.
#[derive(Clone, Debug)]
pub enum Protection {
    /// Encrypted and authenticated with a key that never leaves memory.
    Sealed(Arc<Key>),
    /// Not encrypted; xxh3-64 with this seed and the place mixed in.
    Checksum(u64),
}

// === impl Protection ===

impl Protection {
    /// The default: sealed with a new key for the cipher that is fastest here. Under a model checker or Miri, which cannot
    /// run the cipher, a checksum.
    ///
    /// # Errors
    /// [`Error::Key`] when the system has no memory or no random numbers for a key.
    pub fn new() -> Result<Self, Error> {
        if crate::sync::ENCRYPTS { Self::sealed(Cipher::fastest()) } else { Ok(Self::checksum()) }
    }

    /// Sealed with a new key for `cipher`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sealed(cipher: Cipher) -> Result<Self, Error> {
        Ok(Protection::Sealed(Arc::new(Key::new(cipher)?)))
    }

    /// A checksum with a random seed.
    pub fn checksum() -> Self {
        // Keyed by the system's random numbers, differently at each call.
        Protection::Checksum(std::hash::RandomState::new().build_hasher().finish())
    }

    /// Whether what is on the devices is encrypted.
    pub fn encrypts(&self) -> bool {
        matches!(self, Protection::Sealed(_))
    }

    /// Whether more objects may be protected: to be asked when a batch begins.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of fork, which has its parent's nonces; [`Error::NoncesExhausted`] when all are used.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Protection::Sealed(key) => key.check(),
            Protection::Checksum(_) => Ok(()),
        }
    }

    /// Whether what was protected may be written: to be asked before it is.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of fork.
    pub(super) fn check_process(&self) -> Result<(), Error> {
        match self {
            Protection::Sealed(key) => key.check_process(),
            Protection::Checksum(_) => Ok(()),
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protection::Sealed(key) => write!(f, "encrypted with {}", key.cipher()),
            Protection::Checksum(_) => write!(f, "not encrypted"),
        }
    }
}
