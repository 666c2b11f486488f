//! What a VM did: bytes by where they are, faults by kind, ages.
