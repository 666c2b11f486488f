//! What models have of the service: the gate, and the backing behind it. The rest reads a descriptor, and there is no kernel.

pub(crate) mod gate;
pub(crate) mod gated;
