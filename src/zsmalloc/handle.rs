//! [`Handle`]: the name of an object in a [`Pool`](super::Pool), and [`TagSpace`], which tells pools apart.
//!
//! ```text
//! bit   63 ..................... 32 | 31 ............... 8 | 7 .... 0
//!       index of the cell           | generation           | tag of the pool
//!                                     1 to 2^24 - 1
//! ```
//!
//! A generation is used for one object and never again: an index that has used its last is retired. So a handle that
//! was freed is known as such for ever, and 0 is no handle. Tags are used again, in turn, when their pool is closed.

use crate::sync::{Arc, Mutex, MutexGuard, Rank, process_mutex};
use std::fmt;

/// Pools open at a time in one [`TagSpace`].
const TAGS: usize = 256;

/// A stable name for an object. Survives compaction; not a pointer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(u64);

impl Handle {
    /// Bits of the generation.
    pub(super) const GENERATION_BITS: u32 = 24;
    /// The last generation an index can have.
    pub(super) const LAST_GENERATION: u32 = (1 << Self::GENERATION_BITS) - 1;

    pub(super) fn new(index: u32, generation: u32, tag: u8) -> Self {
        debug_assert!((1..=Self::LAST_GENERATION).contains(&generation));
        Handle(u64::from(index) << 32 | u64::from(generation) << 8 | u64::from(tag))
    }

    /// The handle as a number, to keep it elsewhere.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The handle with this number. Numbers that are no handle are refused where they are used.
    pub const fn from_raw(raw: u64) -> Self {
        Handle(raw)
    }

    pub(super) const fn index(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn generation(self) -> u32 {
        (self.0 >> 8) as u32 & Self::LAST_GENERATION
    }

    pub(super) const fn tag(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handle {}.{} of pool {}", self.index(), self.generation(), self.tag())
    }
}

/// Tags for pools whose handles might be mixed up: give one `TagSpace` to all of them. The default is one for the whole
/// process.
#[derive(Clone, Debug)]
pub struct TagSpace(Space);

#[derive(Clone, Debug)]
enum Space {
    Process,
    Own(Arc<Mutex<Tags>>),
}

process_mutex! {
    /// Tags of the pools that were not told otherwise.
    PROCESS: Tags = Rank::Leaf, Tags::NONE
}

#[derive(Debug)]
struct Tags {
    used: [bool; TAGS],
    live: usize,
    /// Where to look for the next one: the one used longest ago, if all were closed in order.
    next: usize,
}

impl Tags {
    const NONE: Tags = Tags { used: [false; TAGS], live: 0, next: 0 };
}

/// A tag that no other live pool of its space has.
#[derive(Debug)]
pub(super) struct Tag {
    space: TagSpace,
    tag: u8,
}

impl TagSpace {
    /// A space without pools.
    pub fn new() -> Self {
        TagSpace(Space::Own(Arc::new(Mutex::new(Rank::Leaf, Tags::NONE))))
    }

    /// The space that all pools of the process share which were not given another: two of them never have the same tag.
    pub const fn process() -> Self {
        TagSpace(Space::Process)
    }

    /// Pools open.
    pub fn live(&self) -> usize {
        self.lock().live
    }

    fn lock(&self) -> MutexGuard<'_, Tags> {
        match &self.0 {
            Space::Process => PROCESS.lock(),
            Space::Own(tags) => tags.lock(),
        }
    }

    /// A tag; `None` when all are in use.
    pub(super) fn take(&self) -> Option<Tag> {
        let mut tags = self.lock();
        let tag = (0..TAGS).map(|k| (tags.next + k) % TAGS).find(|&tag| !tags.used[tag])?;
        tags.used[tag] = true;
        tags.live += 1;
        tags.next = (tag + 1) % TAGS;
        Some(Tag { space: self.clone(), tag: tag as u8 })
    }
}

impl Default for TagSpace {
    /// [`process`](Self::process).
    fn default() -> Self {
        Self::process()
    }
}

impl Tag {
    pub(super) fn number(&self) -> u8 {
        self.tag
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let mut tags = self.space.lock();
        tags.used[self.tag as usize] = false;
        tags.live -= 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn handles_keep_their_parts() {
        let handle = Handle::new(u32::MAX, Handle::LAST_GENERATION, 255);
        assert_eq!((handle.index(), handle.generation(), handle.tag()), (u32::MAX, Handle::LAST_GENERATION, 255));
        let handle = Handle::from_raw(Handle::new(0, 1, 0).raw());
        assert_eq!((handle.index(), handle.generation(), handle.tag()), (0, 1, 0));
        assert_ne!(handle.raw(), 0);
    }

    #[test]
    fn tags_go_round_and_the_257th_is_refused() {
        let space = TagSpace::new();
        drop(space.take());
        let mut tags: Vec<Tag> = (0..TAGS).map(|_| space.take().unwrap()).collect();
        assert_eq!(tags[0].number(), 1, "the tag closed last comes last");
        assert!(space.take().is_none());
        tags.remove(7);
        assert_eq!((space.live(), space.take().unwrap().number()), (255, 8));
    }
}
