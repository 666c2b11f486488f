//! zspool for C and C++: what `include/zspool.h` declares.
//!
//! ```text
//!   C            zsp_pool *   struct zsp_vm_options *   void *page      enum zsp_status, and a sentence for the thread
//!   ------------------|-----------------|-------------------|--------------------------^------------------------------
//!   here         handle.rs          sized.rs           boundary.rs      call.rs: panics end here; message.rs, status.rs
//!                     |                 |                   |                          ^
//!                pool.rs          | zswap.rs  device.rs  page.rs  memcg.rs | engine.rs  vm.rs  region.rs  sigbus.rs
//!   ------------------|-----------------------------------------------------------------|-----------------------------
//!   zspool       zsmalloc::Pool          zswap::Zswap, memcg::Memcg              guest::{Engine, Vm, Region}
//! ```
//!
//! 1. A handle is a number that is looked up, never an address that is followed: NULL, a handle that was closed and one of another kind are
//!    refused, and nothing else happens.
//! 2. Every call ends by returning a code. A panic below it is caught, and is a code too.
//! 3. What C hands over (bytes, texts, structs) is looked at during the call and not after it, but for callbacks with their contexts.
//! 4. The calls for pages (`page.rs`, but for `zsp_zswap_store`) allocate nothing here, and lock nothing, also when they refuse.
//!
//! The header is made of this source by cbindgen, prose included: `ZSPOOL_WRITE_HEADER=1 cargo test -p zspool-capi --test header`.

#![cfg(target_os = "linux")]
// The names are those of the header. Its prose has, for every function, what a `# Safety` section would have.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod boundary;
mod call;
mod handle;
mod kept;
mod sized;

// In the order of the header.
pub mod status;

pub mod message;

pub mod pool;

pub mod zswap;

pub mod memcg;

pub mod page;

pub mod device;

pub mod engine;

pub mod vm;

pub mod region;

pub mod sigbus;

/// Major version of the header. Before 1.0, a new minor version may change what is here; from then on, only a new major one.
pub const ZSP_VERSION_MAJOR: u32 = 0;
/// Minor version of the header.
pub const ZSP_VERSION_MINOR: u32 = 1;
/// Patch version of the header.
pub const ZSP_VERSION_PATCH: u32 = 0;

/// Version of the library that is running, as `major << 16 | minor << 8 | patch`; `ZSP_VERSION_MAJOR` and so on are the header's. Any
/// thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn zsp_version() -> u32 {
    ZSP_VERSION_MAJOR << 16 | ZSP_VERSION_MINOR << 8 | ZSP_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_package_s() {
        let [major, minor, patch] = [super::ZSP_VERSION_MAJOR, super::ZSP_VERSION_MINOR, super::ZSP_VERSION_PATCH];
        assert_eq!(format!("{major}.{minor}.{patch}"), env!("CARGO_PKG_VERSION"));
        assert_eq!(super::zsp_version(), major << 16 | minor << 8 | patch);
    }
}
