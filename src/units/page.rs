//! [`Page`]: what a client hands in and gets back.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Size of a client's page in bytes. Other page sizes are refused.
pub const PAGE_SIZE: usize = 4096;

/// One page of a client, aligned as devices and vector loops want it.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

impl Page {
    /// A page of zeroes.
    pub const fn zeroed() -> Self {
        Page([0; PAGE_SIZE])
    }
}

impl Deref for Page {
    type Target = [u8; PAGE_SIZE];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:02x?}..)", &self.0[..16])
    }
}
