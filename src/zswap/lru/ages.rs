//! [`Ages`]: how long the entries of a list have lain there, without a byte in any entry.
//!
//! ```text
//!   head                                                     tail
//!    |  segment 0   |  segment 1  |   segment 2  |  segment 3  |      placed: stored or rotated
//!    +--------------+-------------+--------------+-------------+
//!     before 40      before 900    before 1030    before 1037         bounds, in ticks
//!                   ^             ^              ^        newest + 1
//!                   mark          mark           mark                 at most 16, each names the first entry after it
//! ```
//!
//! A list is in order of placement, so a few marks between its entries tell ages. A mark is made by the first placement of a
//! tick, and names the entry placed; when there are too many, that one goes whose neighbours are closest by ratio of ages. So
//! an entry is known to be as old as it is but for a tick where marks are dense, and within a factor where they are thinned
//! out: about 2 for an hour of stores without a pause, 3 for a day.
//!
//! - **A1** Every entry before a mark was placed before the mark's tick, and every entry before the tick after `newest`.
//! - **A2** Marks are in the list's order, with ticks that do not fall, and no two name one entry.
//! - **A3** The mark bit is set in the words of entries that a mark names, and in no others.

/// Milliseconds of a tick, as a shift: about a second.
const TICK_SHIFT: u32 = 10;

/// Marks of a list.
pub(super) const MOST: usize = 16;

/// A time in ticks.
pub(super) type Tick = u32;

/// The tick of a time in milliseconds.
pub(super) fn tick(millis: u64) -> Tick {
    (millis >> TICK_SHIFT) as Tick
}

/// All entries before `first` were placed before the tick `before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) before: Tick,
    pub(super) first: u32,
}

/// The marks of a list, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// The tick of the last placement.
    newest: Tick,
    len: u8,
    marks: [Mark; MOST],
}

/// How much of a list was placed before some tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// What comes before this entry; nothing if it is the head.
    Before(u32),
    /// Nothing is known to be.
    Nothing,
    All,
}

/// What became of the mark of an entry that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// The next entry is named instead of it.
    ToNext,
    /// The mark is gone, or was the next entry's already.
    Gone,
}

impl Ages {
    /// Of an empty list.
    pub(super) const NONE: Ages = Ages { newest: 0, len: 0, marks: [Mark { before: 0, first: 0 }; MOST] };

    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks[..self.len.into()]
    }

    /// The tick before which all entries were placed.
    pub(super) fn bound(&self) -> Tick {
        self.newest + 1
    }

    /// Ages of a list that is not empty: its bound, and marks in order, of which too many are thinned out. `dropped` is told
    /// which entries have no mark any more.
    pub(super) fn of(bound: Tick, marks: &mut Vec<Mark>, dropped: impl Fn(u32)) -> Self {
        while marks.len() > MOST {
            dropped(marks.remove(least(marks, bound)).first);
        }
        let mut ages = Ages { newest: bound - 1, len: marks.len() as u8, marks: [Mark::default(); MOST] };
        ages.marks[..marks.len()].copy_from_slice(marks);
        ages
    }

    /// The first entry of an empty list is placed.
    pub(super) fn begin(&mut self, now: Tick) {
        *self = Ages { newest: now, ..Self::NONE };
    }

    /// Whether a placement now makes a mark.
    #[inline]
    pub(super) fn is_due(&self, now: Tick) -> bool {
        now > self.newest
    }

    /// An entry is placed behind all others, and [is due](Self::is_due) a mark. Returns an entry whose mark went for it.
    #[cold]
    pub(super) fn mark(&mut self, now: Tick, head: u32, link: u32) -> Option<u32> {
        let new = Mark { before: self.bound(), first: link };
        let dropped = (usize::from(self.len) == MOST).then(|| {
            // Before the head there is nothing to know about.
            let which = if self.marks[0].first == head { 0 } else { least(&self.marks, now) };
            self.remove(which).first
        });
        self.marks[usize::from(self.len)] = new;
        self.len += 1;
        self.newest = now;
        dropped
    }

    /// An entry with a mark leaves; `next` comes after it, or nothing. `is_head`: nothing comes before it.
    #[cold]
    pub(super) fn leave(&mut self, link: u32, next: Option<u32>, is_head: bool) -> Moved {
        let which = self.marks().iter().position(|mark| mark.first == link).expect("A3: a mark names the entry");
        let Some(next) = next else {
            // What is left was all before it.
            self.newest = self.remove(which).before - 1;
            return Moved::Gone;
        };
        if is_head {
            self.remove(which);
            return Moved::Gone;
        }
        self.marks[which].first = next;
        if self.marks().get(which + 1).is_some_and(|mark| mark.first == next) {
            // The older tick holds for what is before it: nothing lies between the two.
            self.remove(which + 1);
            return Moved::Gone;
        }
        Moved::ToNext
    }

    /// How far the entries are known to have been placed before the tick.
    pub(super) fn reach(&self, tick: Tick) -> Reach {
        if self.bound() <= tick {
            return Reach::All;
        }
        let last = self.marks().iter().rev().find(|mark| mark.before <= tick);
        last.map_or(Reach::Nothing, |mark| Reach::Before(mark.first))
    }

    fn remove(&mut self, which: usize) -> Mark {
        let mark = self.marks[which];
        self.marks.copy_within(which + 1..usize::from(self.len), which);
        self.len -= 1;
        mark
    }
}

/// The mark that is missed least: between its neighbours the ratio of ages is smallest. Never the oldest.
fn least(marks: &[Mark], now: Tick) -> usize {
    let age = |tick: Tick| u64::from(now.saturating_sub(tick)) + 1;
    let ratio = |i: usize| {
        let next = marks.get(i + 1).map_or(now, |mark| mark.before);
        (age(marks[i - 1].before), age(next))
    };
    // a/b < c/d as a*d < c*b: ages have 33 bits.
    let less = |i: usize, than: usize| {
        let ((a, b), (c, d)) = (ratio(i), ratio(than));
        u128::from(a) * u128::from(d) < u128::from(c) * u128::from(b)
    };
    (1..marks.len()).reduce(|best, i| if less(i, best) { i } else { best }).expect("there are several")
}
