//! From an address to the region it lies in, without a lock: for handlers of signals.

use super::pages::Pages;
use crate::sync::Arc;
use std::ops::Range;

/// What is at an address.
pub(crate) enum Found {
    /// A page of a region. The region lives as long as this does.
    Page(Arc<Pages>, u32),
    /// It is being registered, or was until a moment ago: touch it again.
    Transit,
    /// Nothing of ours.
    Nothing,
}

/// What is at an address, in the whole process. No lock, no allocation.
pub(crate) fn find(_address: usize) -> Found {
    todo!()
}

/// Say that a range is about to be registered.
///
/// # Errors
/// The range that it overlaps.
pub(crate) fn announce(_range: Range<usize>) -> Result<(), Range<usize>> {
    todo!()
}
