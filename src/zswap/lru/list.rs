//! [`List`]: one list of entries, in order of placement.
//!
//! Its methods run under the lock of the list's group; they change words of entries that are on it.

use super::ages::{Ages, Mark, Moved, Tick};
use super::links::{END, Links, MARK, Word};

/// The ends of a list, and what is known of the ages between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
    /// How many entries have been taken from where they were, ever: modulo 2^32.
    moves: u32,
    ages: Ages,
}

/// A part of a list in which no age is told from another.
#[derive(Clone, Copy)]
struct Segment {
    first: u32,
    last: u32,
    /// All of it was placed before this.
    before: Tick,
}

impl List {
    pub(super) const EMPTY: List = List { head: END, tail: END, len: 0, moves: 0, ages: Ages::NONE };

    pub(super) fn head(&self) -> Option<u32> {
        (self.head != END).then_some(self.head)
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    pub(super) fn ages(&self) -> &Ages {
        &self.ages
    }

    /// Place an entry at the warm end and clear some of its bits. Returns its word as it was.
    pub(super) fn place(&mut self, links: &Links, link: u32, now: Tick, clear: u64) -> Word {
        let old = links.set_last(link, self.tail, clear);
        if self.tail == END {
            self.head = link;
            self.ages.begin(now);
        } else {
            links.set_next(self.tail, link);
            if self.ages.is_due(now) {
                let dropped = self.ages.mark(now, self.head, link);
                links.set_mark(link, true);
                if let Some(dropped) = dropped {
                    links.set_mark(dropped, false);
                }
            }
        }
        self.tail = link;
        self.len += 1;
        old
    }

    /// Take an entry out of the list. Its own links stay as they are.
    fn unlink(&mut self, links: &Links, link: u32) {
        let word = links.word(link);
        let (prev, next) = (word.prev(), word.next());
        if word.has(MARK) {
            let after = (next != END).then_some(next);
            if self.ages.leave(link, after, prev == END) == Moved::ToNext {
                links.set_mark(next, true);
            }
        }
        match prev {
            END => self.head = next,
            prev => links.set_next(prev, next),
        }
        match next {
            END => self.tail = prev,
            next => links.set_prev(next, prev),
        }
        self.len -= 1;
        self.moves = self.moves.wrapping_add(1);
    }

    /// Take an entry off for good.
    pub(super) fn remove(&mut self, links: &Links, link: u32) {
        self.unlink(links, link);
        links.set_off(link);
    }

    /// Place an entry of this list at its warm end and clear some of its bits. Returns its word as it was.
    pub(super) fn rotate(&mut self, links: &Links, link: u32, now: Tick, clear: u64) -> Word {
        self.unlink(links, link);
        self.place(links, link, now, clear | MARK)
    }

    /// Give all entries to another list, which stays in order of placement as far as ages are known. Takes time by marks, not
    /// by entries.
    pub(super) fn splice_into(&mut self, to: &mut List, links: &Links) {
        if self.len == 0 {
            return;
        }
        // On a tie what comes from here is the colder.
        let (from, into) = (self.segments(links), to.segments(links));
        let mut merged = Vec::with_capacity(from.len() + into.len());
        let (mut from, mut into) = (from.into_iter().peekable(), into.into_iter().peekable());
        while let Some(segment) = match (from.peek(), into.peek()) {
            (Some(a), Some(b)) if b.before < a.before => into.next(),
            (Some(_), _) => from.next(),
            (None, _) => into.next(),
        } {
            merged.push(segment);
        }

        let mut marks: Vec<Mark> = Vec::with_capacity(merged.len());
        for pair in merged.windows(2) {
            let [a, b] = [pair[0], pair[1]];
            links.set_next(a.last, b.first);
            links.set_prev(b.first, a.last);
            let told_apart = a.before < b.before;
            links.set_mark(b.first, told_apart);
            if told_apart {
                marks.push(Mark { before: a.before, first: b.first });
            }
        }
        let (first, last) = (merged[0], merged[merged.len() - 1]);
        links.set_mark(first.first, false);
        links.set_prev(first.first, END);
        links.set_next(last.last, END);
        *to = List {
            head: first.first,
            tail: last.last,
            len: to.len + self.len,
            moves: to.moves,
            ages: Ages::of(last.before, &mut marks, |dropped| links.set_mark(dropped, false)),
        };
        *self = List { moves: self.moves.wrapping_add(self.len), ..List::EMPTY };
    }

    fn segments(&self, links: &Links) -> Vec<Segment> {
        let mut segments = Vec::with_capacity(self.ages.marks().len() + 1);
        let mut first = self.head;
        for &Mark { before, first: next } in self.ages.marks() {
            // A mark at the head has nothing before it.
            if next != first {
                segments.push(Segment { first, last: links.word(next).prev(), before });
                first = next;
            }
        }
        if self.len > 0 {
            segments.push(Segment { first, last: self.tail, before: self.ages.bound() });
        }
        segments
    }

    /// Call `f` with the links from the cold end on, and check that links, ends, length and marks agree.
    ///
    /// # Panics
    /// When they do not.
    pub(super) fn for_each(&self, links: &Links, mut f: impl FnMut(u32)) {
        let (mut link, mut before, mut len) = (self.head, END, 0);
        let mut marks = self.ages.marks().iter().peekable();
        let mut tick = 0;
        while link != END {
            let word = links.word(link);
            assert_eq!(word.prev(), before, "an entry's prev is the one before it");
            let mark = marks.next_if(|mark| mark.first == link);
            assert_eq!(word.has(MARK), mark.is_some(), "A3: the mark bit says whether a mark names the entry");
            if let Some(mark) = mark {
                assert!(mark.before >= tick, "A2: ticks do not fall");
                tick = mark.before;
            }
            f(link);
            (before, link, len) = (link, word.next(), len + 1);
        }
        assert!(marks.next().is_none(), "A2: every mark names an entry of the list, in its order");
        assert!(self.len == 0 || self.ages.bound() >= tick, "A2: ticks do not fall");
        assert_eq!(self.tail, before, "the tail is the last entry");
        assert_eq!(self.len, len, "the length counts the entries");
    }
}
