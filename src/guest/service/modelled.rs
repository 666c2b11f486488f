//! What models have of the service: the gate with the backing behind it, the reader of events with what follows them, and what children of fork have.

pub(crate) mod answers;
mod bell;
pub(crate) mod child;
mod claim;
pub(crate) mod desk;
pub(crate) mod emptied;
pub(crate) mod family;
mod fork_mark;
pub(crate) mod gate;
pub(crate) mod gated;
pub(crate) mod keeping;
mod last_words;
mod list;
pub(crate) mod reader;
mod relics;
pub(crate) mod source;
pub(crate) mod space;
mod wards;
pub(crate) mod watch;

/// A model's child does not ask whether it was born in time.
mod canary {
    use crate::guest::uffd::Descriptor;

    pub(super) fn tell(_child: &Descriptor) {}
}

/// Nor has it descriptors.
mod aside {
    use std::os::fd::OwnedFd;

    pub(super) fn put(fd: OwnedFd) -> OwnedFd {
        fd
    }
}
