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

use super::key::{Cipher, Key};
use crate::swap::Error;
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
    pub(in crate::swap) fn check(&self) -> Result<(), Error> {
        match self {
            Protection::Sealed(key) => key.check(),
            Protection::Checksum(_) => Ok(()),
        }
    }

    /// Whether what was protected may be written: to be asked before it is.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of fork.
    pub(in crate::swap) fn check_process(&self) -> Result<(), Error> {
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

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::super::key::NONCES;
    use super::*;
    use crate::swap::{Area, Geometry, Label, MemoryDevice, Place, Tenant};
    use crate::units::Owner;

    #[test]
    fn when_nonces_run_out_batches_are_refused_on_all_devices_and_what_is_there_is_read() {
        let key = Key::new(Cipher::fastest()).unwrap().used(NONCES - 2);
        let protection = Protection::Sealed(Arc::new(key));
        let [one, other] = [0, 1].map(|number| {
            let device = Box::new(MemoryDevice::new(1 << 20, 4096));
            Area::with_protection(device, number, Geometry::default(), protection.clone()).unwrap()
        });
        let (mut first, mut second) = (one.begin(1).unwrap(), other.begin(1).unwrap());
        let tenant = Tenant { owner: Owner(1), payer: 1 };
        let places: Vec<Place> = (0..4)
            .map(|slot| {
                let batch = if slot % 2 == 0 { &mut first } else { &mut second };
                batch.push(slot, Label::default(), tenant, 5, |bytes| bytes.copy_from_slice(b"hello")).unwrap()
            })
            .collect();
        for area in [&one, &other] {
            assert!(matches!(area.begin(1), Err(Error::NoncesExhausted { sealed: NONCES })));
        }
        first.write().unwrap();
        second.write().unwrap();
        for (slot, &place) in places.iter().enumerate() {
            let area = if slot % 2 == 0 { &one } else { &other };
            assert_eq!(area.read(place, slot as u64, |object| object.bytes.to_vec()).unwrap(), b"hello");
            _ = area.free(place);
        }
        one.assert_valid();
    }
}
