//! [`SlotGuard`]: a slot whose cluster is locked.
//!
//! All changes of words go through it, but for the locations that compaction changes: so `live`, `entries` and `shared` of the
//! cluster cannot differ from its words, and a number of references cannot be lost by who changes what backs a slot.

use super::cluster::{Cluster, Flags, State, push};
use super::counts::MAX_REFERENCES;
use super::{Slots, owner, split};
use crate::swap::SlotWord;
use crate::swap::word::MANY;
use crate::sync::{Bug, CLUSTER_SLOTS, MutexGuard, atomic::Ordering};
use crate::units::{Owner, Slot};

/// A slot whose cluster is locked.
pub struct SlotGuard<'a> {
    slots: &'a Slots,
    cluster: &'a Cluster,
    pub(super) state: MutexGuard<'a, State>,
    slot: Slot,
    owner: Owner,
}

/// Whether a slot with this word needs its link word: it has an object in the pool.
pub(super) fn needs_link(word: SlotWord) -> bool {
    word.entry().is_some()
}

impl<'a> SlotGuard<'a> {
    pub(super) fn new(
        slots: &'a Slots,
        cluster: &'a Cluster,
        state: MutexGuard<'a, State>,
        slot: Slot,
        owner: Owner,
    ) -> Self {
        SlotGuard { slots, cluster, state, slot, owner }
    }

    /// The slot that was asked for.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Its dense number.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Go on to another slot of the same cluster.
    ///
    /// # Panics
    /// When it is in another.
    pub fn go_to(&mut self, slot: Slot) {
        let (was, (cluster, offset)) = (split(self.slot).0, split(slot));
        assert_eq!(cluster, was, "slot {} is in another cluster than the one that is locked", slot.0);
        self.slot = slot;
        self.owner = owner(self.ordinal(), offset);
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.owner.0 / CLUSTER_SLOTS as u32
    }

    /// Its word. Its location may change at any time; nothing else does while the guard lives.
    pub fn word(&self) -> SlotWord {
        self.slots.word(self.owner)
    }

    /// A generation for a new content of the slot.
    pub fn next_generation(&mut self) -> u8 {
        self.state.stores += 1;
        self.state.stores as u8
    }

    /// How many contents the cluster's slots have got so far: while it is the same, so is what is in them, or they are empty.
    pub fn stores(&self) -> u64 {
        self.state.stores
    }

    // --- what is in it ---

    /// Empty the slot and return what was in it. From here on compaction cannot move the object: it is the caller's.
    #[must_use = "what was in the slot must be given back"]
    pub fn take(&mut self) -> SlotWord {
        // AcqRel: a relocation that came first is seen, with the bytes it wrote.
        let old = self.slots.words.get(self.owner.0 as usize).swap(0, Ordering::AcqRel);
        let old = SlotWord::from_raw(old);
        if old.is_empty() {
            return old;
        }
        if old.count() == MANY && !self.slots.planted.is(Bug::TakeKeepsCount) {
            self.set_references(0);
        }
        self.state.live -= 1;
        self.left(old);
        self.note_room();
        old
    }

    /// Put a content with one reference into the slot, which is empty.
    pub fn put(&mut self, word: SlotWord) {
        debug_assert!(self.word().is_empty() && !word.is_empty() && word.count() == 1);
        // Release pairs with `word`: the object's bytes come before the word that names it.
        self.slots.words.get(self.owner.0 as usize).store(word.raw(), Ordering::Release);
        self.state.live += 1;
        self.came(word);
    }

    /// Have something else back what the slot holds; its references stay, the writeback bit is cleared. Returns the word as it was.
    pub fn switch(&mut self, to: SlotWord) -> SlotWord {
        debug_assert!(!to.is_empty() && !to.writeback());
        let old = self.change(|old| to.with_count(old.count()));
        self.came(to);
        self.left(old);
        old
    }

    /// Set or clear the writeback bit, whatever compaction does meanwhile; returns the word as it was.
    pub fn set_writeback(&mut self, on: bool) -> SlotWord {
        self.change(|word| word.with_writeback(on))
    }

    fn change(&mut self, mut f: impl FnMut(SlotWord) -> SlotWord) -> SlotWord {
        let mut old = self.word();
        loop {
            match self.slots.exchange(self.owner, old, f(old)) {
                Ok(()) => return old,
                Err(now) => old = now,
            }
        }
    }

    // --- who refers to it ---

    /// References to the slot; 0 where nothing is stored.
    pub fn references(&self) -> u32 {
        match self.word().count() {
            MANY => self.slots.counts.get(self.owner),
            count => count.into(),
        }
    }

    /// One reference more; returns how many there are. `None` when it has [`MAX_REFERENCES`]. The slot holds something.
    pub fn add_reference(&mut self) -> Option<u32> {
        let references = self.references();
        debug_assert!(references > 0, "only what is stored has references");
        let more = references.checked_add(1)?;
        self.set_references(more);
        let inline = more.min(MANY.into()) as u8;
        if references < MANY.into() {
            self.change(|word| word.with_count(inline));
        }
        Some(more)
    }

    /// One reference less; returns how many are left. With 0 nothing was changed: it was the last one, and what is in the slot is
    /// to be [taken](Self::take).
    #[must_use = "with the last reference what is in the slot must be given back"]
    pub fn drop_reference(&mut self) -> u32 {
        let references = self.references();
        debug_assert!(references > 0, "only what is stored has references");
        let left = references - 1;
        if left > 0 {
            self.set_references(left);
            let inline = left.min(MANY.into()) as u8;
            if left < MANY.into() {
                self.change(|word| word.with_count(inline));
            }
        }
        left
    }

    /// Keep so many references where the word does not (N1). The word is changed by the caller.
    fn set_references(&mut self, references: u32) {
        let counts = &self.slots.counts;
        let was = if self.state.has(Flags::COUNTS) { counts.get(self.owner) } else { 0 };
        if references >= MANY.into() {
            if !self.state.has(Flags::COUNTS) {
                self.state.flags |= Flags::COUNTS;
                self.slots.counted.add(1);
            }
            counts.set(self.owner, references);
            self.state.shared += u16::from(was == 0);
        } else if was > 0 {
            counts.set(self.owner, 0);
            self.state.shared -= 1;
            self.note_idle();
        }
    }

    // --- what its cluster is good for ---

    /// The slot got this content.
    fn came(&mut self, word: SlotWord) {
        if needs_link(word) {
            self.state.entries += 1;
            if !self.state.has(Flags::LINKS) {
                self.state.flags |= Flags::LINKS;
                self.slots.linked.add(1);
            }
        }
    }

    /// It lost this one.
    fn left(&mut self, word: SlotWord) {
        self.state.entries -= u16::from(needs_link(word));
        self.note_idle();
    }

    /// Have the cluster looked at, if it has something to give back: for who had it made and may put nothing into it (S4).
    pub fn note_idle(&mut self) {
        if self.state.is_idle() && !self.state.has(Flags::IDLE) {
            self.state.flags |= Flags::IDLE;
            push(&self.slots.idle, self.ordinal(), &self.cluster.next_idle);
        }
    }

    /// Have single slots allocated from the cluster again, if enough of them are empty by now.
    pub(super) fn note_room(&mut self) {
        let looked_at = Flags::SINGLES | Flags::CURRENT | Flags::ROOMY;
        if self.state.flags & looked_at == Flags::SINGLES {
            self.slots.singles.note_room(self.ordinal(), &mut self.state, self.cluster);
        }
    }
}

const _: () = assert!(MAX_REFERENCES as u64 > MANY as u64);
