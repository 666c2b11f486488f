//! Compressed memory for userspace.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("zspool needs a 64-bit unix");

pub mod arena;
pub mod compress;
pub mod memcg;
pub mod swap;
pub mod sync;
pub mod units;
pub mod zsmalloc;
pub mod zswap;
