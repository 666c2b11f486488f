//! Guest memory: a virtual machine's or an emulator's memory under a limit, paged out while it runs and back on a fault.

pub mod control;
pub mod limits;
pub mod memory;
pub(crate) mod pages;
pub mod service;
pub mod stats;
pub mod uffd;
