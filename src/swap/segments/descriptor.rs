//! [`Segment`]: what is known of one segment, in 48 bytes, and which lists that puts it on.
//!
//! | state | live objects | its pages |
//! |---|---|---|
//! | free | none | nobody's |
//! | punching | none | their storage is being given back |
//! | held | any | those from `append` on are a batch's |
//! | used | some | open where there are any from `append` on, else full |
//! | bad | none | not used again |
//!
//! A segment that is *condemned* takes no batch any more, and is bad once its last object is gone.

use super::super::rmap::Rmap;
use super::lists::{Home, Homes, LIVE_BUCKETS, Link, Links};
use std::ops::{Index, IndexMut};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Free,
    Punching,
    Held,
    Used,
    Bad,
}

bitflags::bitflags! {
    /// What else there is to say of a segment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Flags: u8 {
        /// Something read there was not what was written, or could not be read.
        const BAD_READ = 1;
        /// A write there failed with an I/O error.
        const BAD_WRITE = 1 << 1;
        /// Its objects are being moved: it takes no batch meanwhile, and no other mover.
        const MOVING = 1 << 2;
        /// Its tail is kept for cleaning.
        const RESERVE = 1 << 3;
        /// The write of the batch that holds it is late.
        const LATE = 1 << 4;

        const CONDEMNED = Self::BAD_READ.bits() | Self::BAD_WRITE.bits();
    }
}

/// What a descriptor adds to the sums of its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) free: usize,
    pub(super) punching: usize,
    pub(super) held: usize,
    pub(super) late: usize,
    pub(super) open: usize,
    pub(super) full: usize,
    pub(super) bad: usize,
    /// Pages before the append points of segments in use, but for those of open batches.
    pub(super) used_pages: u64,
    pub(super) live_blocks: u64,
    /// Pages that repacking the live objects of each segment would win.
    pub(super) reclaimable_pages: u64,
    /// Pages of free segments that may have storage behind them.
    pub(super) punchable_pages: u64,
    /// Bytes of reverse words.
    pub(super) reverse_bytes: u64,
}

/// Sizes that decide about lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Pages of a segment.
    pub(super) pages: usize,
    /// Blocks of a page, as a power of two.
    pub(super) page_shift: u32,
    /// Live blocks of a bucket, as a power of two.
    bucket_shift: u32,
}

/// One segment.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) rmap: Rmap,
    pub(super) links: Links,
    /// How often it was handed out while free, above the device's base.
    pub(super) generation: u16,
    /// Blocks of its live objects: at most 4096.
    pub(super) live_blocks: u16,
    /// The first page that no batch has written in this use.
    pub(super) append: u8,
    /// Pages from the first that may have storage behind them.
    pub(super) dirty: u8,
    pub(super) state: State,
    pub(super) flags: Flags,
}

const _: () = assert!(size_of::<Segment>() == 48 && size_of::<Link>() == 8);

/// The descriptors of the segments that were ever handed out, and of a few more.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    chunks: Vec<Box<[Segment]>>,
}

/// Descriptors made at once: 48 KiB, for 256 MiB of a device.
const CHUNK: usize = 1024;

// === impl Sizes ===

impl Sizes {
    pub(super) fn new(pages: usize, page_shift: u32) -> Self {
        let blocks = pages << page_shift;
        let most = (blocks as u32).next_power_of_two().ilog2();
        Sizes { pages, page_shift, bucket_shift: most.saturating_sub(LIVE_BUCKETS.ilog2()) }
    }

    /// Blocks of a segment.
    pub(super) fn blocks(&self) -> usize {
        self.pages << self.page_shift
    }

    fn pages_for(&self, blocks: u16) -> u64 {
        usize::from(blocks).div_ceil(1 << self.page_shift) as u64
    }
}

// === impl Segment ===

impl Segment {
    pub(super) fn is_condemned(&self) -> bool {
        self.flags.intersects(Flags::CONDEMNED)
    }

    /// Pages that no batch has written in this use.
    pub(super) fn tail(&self, sizes: &Sizes) -> usize {
        sizes.pages - usize::from(self.append)
    }

    /// Pages that repacking its live objects would win.
    pub(super) fn gain(&self, sizes: &Sizes) -> u64 {
        if self.live_blocks == 0 || self.is_condemned() {
            return 0;
        }
        u64::from(self.append) - sizes.pages_for(self.live_blocks)
    }

    /// The list by live blocks.
    #[inline]
    pub(super) fn live_home(&self, sizes: &Sizes) -> Option<Home> {
        if self.state != State::Used || self.is_condemned() || self.flags.contains(Flags::MOVING) {
            return None;
        }
        Some(if self.gain(sizes) == 0 {
            Home::DENSE
        } else if self.tail(sizes) > sizes.pages / 4 {
            Home::ROOMY
        } else {
            Home::live(usize::from(self.live_blocks) >> sizes.bucket_shift)
        })
    }

    /// The lists it is on.
    pub(super) fn homes(&self, sizes: &Sizes) -> Homes {
        let closed = self.is_condemned() || self.flags.intersects(Flags::MOVING | Flags::RESERVE);
        let room = match self.state {
            State::Free if self.dirty > 0 => Some(Home::DIRTY),
            State::Free => Some(Home::CLEAN),
            State::Bad if self.rmap.bytes() > 0 => Some(Home::SPENT),
            State::Used if !closed && self.tail(sizes) > 0 => Some(Home::tail(self.tail(sizes))),
            _ => None,
        };
        let age = (self.live_blocks > 0).then_some(Home::AGES);
        [room, self.live_home(sizes), age]
    }

    /// What it adds to the sums.
    pub(super) fn share(&self, sizes: &Sizes) -> Share {
        let mut share = Share {
            live_blocks: self.live_blocks.into(),
            reclaimable_pages: self.gain(sizes),
            reverse_bytes: self.rmap.bytes() as u64,
            ..Share::default()
        };
        match self.state {
            State::Free => (share.free, share.punchable_pages) = (1, self.dirty.into()),
            State::Punching => share.punching = 1,
            State::Held if self.flags.contains(Flags::LATE) => share.late = 1,
            State::Held => share.held = 1,
            State::Used if self.tail(sizes) > 0 && !self.is_condemned() => share.open = 1,
            State::Used => share.full = 1,
            State::Bad => share.bad = 1,
        }
        if matches!(self.state, State::Held | State::Used) {
            share.used_pages = self.append.into();
        }
        share
    }
}

// === impl Descriptors ===

impl Descriptors {
    /// A chunk for the next segments. This allocates.
    pub(super) fn chunk(segments: usize) -> Box<[Segment]> {
        std::iter::repeat_with(Segment::default).take(segments.min(CHUNK)).collect()
    }

    /// Segments there are descriptors for.
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// More of them.
    pub(super) fn grow(&mut self, chunk: Box<[Segment]>) {
        self.chunks.push(chunk);
    }

    /// Bytes of memory, reverse words left out.
    pub(super) fn bytes(&self) -> usize {
        self.len() * size_of::<Segment>() + self.chunks.capacity() * size_of::<Box<[Segment]>>()
    }
}

impl Index<u32> for Descriptors {
    type Output = Segment;
    #[inline]
    fn index(&self, id: u32) -> &Segment {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

impl IndexMut<u32> for Descriptors {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Segment {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

// === impl Share ===

impl Share {
    /// Take `before` out and put `after` in.
    pub(super) fn replace(&mut self, before: &Share, after: &Share) {
        macro_rules! each {
            ($($field:ident)*) => {$( self.$field = self.$field - before.$field + after.$field; )*};
        }
        each!(free punching held late open full bad used_pages live_blocks reclaimable_pages punchable_pages reverse_bytes);
    }
}
