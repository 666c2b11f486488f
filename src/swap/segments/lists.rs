//! Lists of segments, chained through their descriptors.
//!
//! ```text
//!   chain 0   CLEAN  DIRTY  SPENT  tail 1 .. tail 64      where there is room: free, or so many pages left
//!   chain 1   live 0 .. live 15  ROOMY  DENSE             what cleaning would win
//!   chain 2   AGES                                        in order of filling
//! ```
//!
//! A segment is on at most one list of each chain; which, [`Segment::homes`](super::descriptor::Segment::homes) says.

use super::super::geometry::MAX_BATCH_PAGES;
use super::descriptor::Descriptors;

/// End of a list.
pub(super) const NIL: u32 = u32::MAX;

/// Buckets by live blocks.
pub(super) const LIVE_BUCKETS: usize = 16;

pub(super) const CHAINS: usize = 3;

/// Neighbours on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Default for Link {
    fn default() -> Self {
        Link { prev: NIL, next: NIL }
    }
}

/// Neighbours on the list of each chain.
pub(super) type Links = [Link; CHAINS];

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home(u8);

/// The list of each chain that a segment is on.
pub(super) type Homes = [Option<Home>; CHAINS];

const TAILS: usize = 3;
const LIVES: usize = TAILS + MAX_BATCH_PAGES;
const AGES: usize = LIVES + LIVE_BUCKETS + 2;
const HOMES: usize = AGES + 1;

impl Home {
    /// Free, with nothing behind it.
    pub(super) const CLEAN: Home = Home(0);
    /// Free, perhaps with storage behind it.
    pub(super) const DIRTY: Home = Home(1);
    /// Bad, with reverse words to give back.
    pub(super) const SPENT: Home = Home(2);
    /// Cleaning would win something, but there is much room to fill first.
    pub(super) const ROOMY: Home = Home((LIVES + LIVE_BUCKETS) as u8);
    /// Cleaning would win nothing.
    pub(super) const DENSE: Home = Home((LIVES + LIVE_BUCKETS + 1) as u8);
    /// There are live objects.
    pub(super) const AGES: Home = Home(AGES as u8);

    /// Used, with so many pages left.
    pub(super) fn tail(pages: usize) -> Home {
        debug_assert!((1..=MAX_BATCH_PAGES).contains(&pages));
        Home((TAILS + pages - 1) as u8)
    }

    /// By live blocks.
    pub(super) fn live(bucket: usize) -> Home {
        Home((LIVES + bucket.min(LIVE_BUCKETS - 1)) as u8)
    }

    /// Those where cleaning wins something, best first.
    pub(super) fn by_live_blocks() -> impl Iterator<Item = Home> {
        (0..LIVE_BUCKETS).map(Home::live).chain([Home::ROOMY])
    }

    /// The chain that links the list.
    pub(super) fn chain(self) -> usize {
        match usize::from(self.0) {
            0..LIVES => 0,
            LIVES..AGES => 1,
            _ => 2,
        }
    }
}

/// First and last of each list.
#[derive(Debug)]
pub(super) struct Lists {
    ends: [Link; HOMES],
    /// Which lists of tails are not empty: bit n for tail n + 1.
    tails: u64,
}

const _: () = assert!(MAX_BATCH_PAGES <= u64::BITS as usize);

impl Lists {
    pub(super) fn new() -> Self {
        Lists { ends: [Link::default(); HOMES], tails: 0 }
    }

    /// The segment that came last.
    pub(super) fn newest(&self, home: Home) -> Option<u32> {
        Some(self.ends[usize::from(home.0)].prev).filter(|&id| id != NIL)
    }

    /// The segment that came first.
    pub(super) fn oldest(&self, home: Home) -> Option<u32> {
        Some(self.ends[usize::from(home.0)].next).filter(|&id| id != NIL)
    }

    /// The shortest tail of `pages` pages or more.
    pub(super) fn shortest_tail(&self, pages: usize) -> Option<u32> {
        let enough = self.tails & u64::MAX.checked_shl(pages as u32 - 1).unwrap_or(0);
        (enough != 0).then(|| self.newest(Home::tail(enough.trailing_zeros() as usize + 1)).expect("the bit says so"))
    }

    /// The longest tail, if it has `pages` pages.
    pub(super) fn longest_tail(&self, pages: usize) -> Option<u32> {
        let longest = (u64::BITS - self.tails.leading_zeros()) as usize;
        (longest >= pages).then(|| self.newest(Home::tail(longest)).expect("the bit says so"))
    }

    /// Put a segment at the end of a list.
    pub(super) fn push(&mut self, segments: &mut Descriptors, home: Home, id: u32) {
        let chain = home.chain();
        let ends = &mut self.ends[usize::from(home.0)];
        let last = std::mem::replace(&mut ends.prev, id);
        segments[id].links[chain] = Link { prev: last, next: NIL };
        match last {
            NIL => ends.next = id,
            last => segments[last].links[chain].next = id,
        }
        self.note(home);
    }

    /// Take a segment off a list that it is on.
    pub(super) fn remove(&mut self, segments: &mut Descriptors, home: Home, id: u32) {
        let chain = home.chain();
        let ends = &mut self.ends[usize::from(home.0)];
        let Link { prev, next } = segments[id].links[chain];
        match prev {
            NIL => ends.next = next,
            prev => segments[prev].links[chain].next = next,
        }
        match next {
            NIL => ends.prev = prev,
            next => segments[next].links[chain].prev = prev,
        }
        self.note(home);
    }

    fn note(&mut self, home: Home) {
        let at = usize::from(home.0);
        if (TAILS..LIVES).contains(&at) {
            let bit = 1 << (at - TAILS);
            if self.ends[at].next == NIL { self.tails &= !bit } else { self.tails |= bit }
        }
    }

    /// All lists, for checks.
    pub(super) fn all() -> impl Iterator<Item = Home> {
        (0..HOMES as u8).map(Home)
    }
}
