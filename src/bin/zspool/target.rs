//! The store that is squeezed into: this crate's.

use crate::squeeze::interface::{ClassRow, GroupStats, PoolStats, Settings, Target, Trouble};
use zspool::units::{PAGE_SIZE, Slot, SlotRange};

/// Makes the store.
pub(crate) fn open(_settings: &Settings) -> Result<Zswap, Trouble> {
    Err("this build has no zswap layer yet.".into())
}

/// No value of it exists before the zswap layer does.
pub(crate) enum Zswap {}

impl Target for Zswap {
    type Group = ();
    fn mkdir(&self, _: &str) -> Result<(), Trouble> {
        match *self {}
    }
    fn set_limit(&self, _: &(), _: u64) -> Result<(), Trouble> {
        match *self {}
    }
    fn reserve(&self, _: u64) -> Result<SlotRange, Trouble> {
        match *self {}
    }
    fn store(&self, _: Slot, _: &(), _: &[u8; PAGE_SIZE]) -> Result<(), Trouble> {
        match *self {}
    }
    fn load(&self, _: Slot, _: &mut [u8; PAGE_SIZE]) -> Result<(), Trouble> {
        match *self {}
    }
    fn free(&self, _: Slot) -> Result<(), Trouble> {
        match *self {}
    }
    fn settle(&self) {
        match *self {}
    }
    fn group(&self, _: &()) -> GroupStats {
        match *self {}
    }
    fn stat(&self, _: &()) -> String {
        match *self {}
    }
    fn pool(&self) -> PoolStats {
        match *self {}
    }
    fn classes(&self) -> Vec<ClassRow> {
        match *self {}
    }
}
