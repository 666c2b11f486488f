use crate::units::Slot;
/// Errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No room for the words of so many slots.
    #[error(
        "cannot reserve {bytes} bytes of address space for slot words: raise `ulimit -v` or allow fewer slots in use"
    )]
    AddressSpace {
        /// Bytes asked for.
        bytes: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A range that cannot be handed out.
    #[error(
        "cannot reserve {asked} slots: ask for at least 1, and for no more than 2^63 in all over the life of an instance"
    )]
    Reserve {
        /// Slots asked for.
        asked: u64,
    },
    /// A slot no range handed out.
    #[error("slot {} was never reserved: use slots of a range that `reserve` returned", .slot.0)]
    NotReserved {
        /// The slot.
        slot: Slot,
    },
    /// All dense numbers are in use.
    #[error("all {in_use} slots that can be in use at once are: free some, or build the instance with more")]
    TooManySlots {
        /// Slots in touched clusters.
        in_use: u64,
    },
}
