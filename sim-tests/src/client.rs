//! Clients: threads that store, load, take, free and share pages in slots, some of which all of them use.

use crate::Random;
use crate::execution::note;
use crate::paint::{paint, token, token_of};
use crate::register::{Content, Moment, Register};
use crate::system::System;
use std::collections::BTreeSet;
use std::sync::Mutex;
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot};
use zspool::zswap::{Error, Installed, Taken};

/// One slot, and what it may hold.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub slot: Slot,
    /// The model of it.
    pub register: Register,
    /// Tokens that were taken out of it.
    taken: Mutex<BTreeSet<u64>>,
}

impl Place {
    /// An empty slot.
    pub fn new(slot: Slot) -> Self {
        let register = Register::new(format!("slot {}", slot.0), Content::Nothing);
        Place { slot, register, taken: Mutex::default() }
    }
}

/// One thread.
pub struct Client<'a> {
    system: &'a System,
    random: Random,
    /// Its own slots are `own`, of all; the first ones are everybody's.
    own: std::ops::Range<usize>,
    shared: usize,
    /// References to its own slots, as far as they hold anything.
    references: Vec<u32>,
}

/// What a read says, if it says anything.
fn content(result: Result<&[u8; PAGE_SIZE], &Error>) -> Option<Content> {
    match result {
        Ok(page) => Some(Content::Page(token_of(page))),
        Err(Error::NotStored { .. }) => Some(Content::Nothing),
        Err(Error::Lost { .. }) => Some(Content::Lost),
        Err(Error::Read { .. } | Error::NeedsIo { .. }) => None,
        Err(other) => panic!("a load says: {other}"),
    }
}

impl System {
    /// A read of a slot came to this.
    pub fn slot_was_read(
        &self,
        place: &Place,
        began: Moment,
        result: Result<&[u8; PAGE_SIZE], &Error>,
    ) -> Option<Content> {
        match result {
            Err(error @ Error::Lost { .. }) => {
                assert!(self.costs.pages, "no device of this run loses anything: {error}");
                self.reach("pages lost", 1);
            }
            Err(error @ Error::Read { .. }) => {
                assert!(self.costs.patience, "every device of this run answers: {error}");
                self.reach("reads to be tried again", 1);
            }
            _ => {}
        }
        let content = content(result);
        match content {
            Some(Content::Lost) => place.register.was_lost(&self.time, began),
            Some(content) => place.register.saw(&self.time, began, content),
            None => {}
        }
        note(match content {
            Some(Content::Page(token)) => token,
            Some(Content::Nothing) => 1,
            Some(Content::Lost) => 2,
            None => 3,
        });
        content
    }

    /// Read a slot, whoever's.
    pub fn read_slot(&self, place: &Place) -> Option<Content> {
        let (mut page, began) = (Page::zeroed(), self.time.now());
        let result = self.zswap().load(place.slot, &mut page);
        self.slot_was_read(place, began, result.as_ref().map(|()| &*page))
    }
}

impl<'a> Client<'a> {
    /// The `number`th of them.
    pub fn new(system: &'a System, number: usize, random: Random) -> Self {
        let (shared, each) = (system.plan.shared_slots, system.plan.own_slots);
        let first = shared + number * each;
        let references = (0..each).map(|k| system.zswap().references(system.places[first + k].slot)).collect();
        Client { system, random, own: first..first + each, shared, references }
    }

    /// So many operations.
    pub fn run(mut self, operations: u64) {
        (0..operations).for_each(|_| self.step());
    }

    /// One of its slots, or of those that are everybody's.
    fn any(&mut self) -> usize {
        match self.shared {
            0 => self.mine(),
            shared if self.random.one_in(3) => self.random.index(shared),
            _ => self.mine(),
        }
    }

    fn mine(&mut self) -> usize {
        self.own.start + self.random.index(self.own.len())
    }

    fn place(&self, k: usize) -> &'a Place {
        &self.system.places[k]
    }

    fn set_references(&mut self, k: usize, references: u32) {
        if self.own.contains(&k) {
            self.references[k - self.own.start] = references;
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..35 => self.store(),
            35..60 => {
                let k = self.random.index(self.system.places.len());
                self.system.read_slot(self.place(k));
            }
            60..65 => self.try_load(),
            65..70 => self.load_run(),
            70..82 => self.take(),
            82..90 => self.free(),
            90..96 => self.dup(),
            _ => self.put(),
        }
    }

    fn store(&mut self) {
        let (system, k) = (self.system, self.any());
        let place = self.place(k);
        let token = token(system.next_token(), &mut self.random, system.plan.sizes);
        let mut page = Page::zeroed();
        paint(token, &mut page);
        let memcg = system.any_memcg(&mut self.random);
        let node = NodeId(self.random.index(system.plan.nodes) as u8);
        let begun = place.register.begin(&system.time, Content::Page(token));
        let result = system.zswap().store(place.slot, &memcg, node, &page);
        match result {
            Ok(_) => {
                place.register.end(&system.time, begun);
                self.set_references(k, 1);
                system.reach("stores", 1);
            }
            Err(Error::Limit { .. } | Error::PoolFull { .. } | Error::NodesFull { .. } | Error::Memcg(_)) => {
                place.register.end_with(&system.time, begun, Content::Nothing);
                self.set_references(k, 0);
                system.reach("stores refused", 1);
                note(4);
            }
            Err(other) => panic!("a store is refused by {other}"),
        }
    }

    fn try_load(&mut self) {
        let (system, k) = (self.system, self.any());
        let (place, mut page, began) = (self.place(k), Page::zeroed(), self.system.time.now());
        let result = system.zswap().try_load(place.slot, &mut page);
        system.slot_was_read(place, began, result.as_ref().map(|()| &*page));
    }

    /// As many as lie together, from one of them on.
    fn load_run(&mut self) {
        let (system, k) = (self.system, self.any());
        let first = system.places[k].slot;
        let run =
            system.places[k..].iter().enumerate().take_while(|(n, place)| place.slot.0 == first.0 + *n as u64).count();
        let (mut pages, began) = (vec![[0; PAGE_SIZE]; run], system.time.now());
        let (done, result) = system.zswap().load_run(first, &mut pages);
        for (n, page) in pages.iter().enumerate().take(done) {
            system.slot_was_read(self.place(k + n), began, Ok(page));
        }
        if let Err(error) = &result {
            system.slot_was_read(self.place(k + done), began, Err(error));
        }
        assert_eq!(result.is_ok(), done == run, "all pages, or an error");
    }

    fn take(&mut self) {
        let (system, k) = (self.system, self.any());
        let (place, install) = (self.place(k), !self.random.one_in(4));
        let mut copy = Page::zeroed();
        let begun = place.register.begin(&system.time, Content::Nothing);
        let began = system.time.now();
        let taken = system.zswap().take_with(place.slot, |page| {
            copy.copy_from_slice(page);
            if install { Installed::Yes } else { Installed::No }
        });
        let read = taken.as_ref().map(|_| &*copy);
        let Some(Content::Page(token)) = system.slot_was_read(place, began, read) else {
            return place.register.undo(begun);
        };
        let references = if self.own.contains(&k) { self.references[k - self.own.start] } else { 1 };
        match taken.expect("a page was read") {
            Taken::Freed if references > 1 => {
                place.register.undo(begun);
                self.set_references(k, references - 1);
            }
            Taken::Freed => {
                place.register.end(&system.time, begun);
                self.set_references(k, 0);
                let first = place.taken.lock().expect("a failed check ends the execution").insert(token);
                assert!(first, "token {token:#x} was taken from slot {} twice", place.slot.0);
                system.reach("takes", 1);
            }
            Taken::Changed | Taken::Kept => {
                place.register.undo(begun);
                system.reach("takes that found the slot changed", u64::from(install));
            }
        }
    }

    fn free(&mut self) {
        let (system, k) = (self.system, self.any());
        let place = self.place(k);
        let begun = place.register.begin(&system.time, Content::Nothing);
        let held = system.zswap().free(place.slot);
        place.register.end(&system.time, begun);
        if self.own.contains(&k) {
            let references = self.references[k - self.own.start];
            assert_eq!(held, references > 0, "slot {} had {references} references when it was freed", place.slot.0);
        }
        self.set_references(k, 0);
        note(u64::from(held));
    }

    fn dup(&mut self) {
        let k = self.mine();
        let (slot, references) = (self.place(k).slot, self.references[k - self.own.start]);
        match self.system.zswap().dup(slot) {
            Ok(now) => {
                assert_eq!((references > 0, now), (true, references + 1), "references of slot {}", slot.0);
                self.set_references(k, now);
                self.system.reach("references to one slot, 15 or more", u64::from(now >= 15));
            }
            Err(Error::NotStored { .. }) => assert_eq!(references, 0, "references of slot {}", slot.0),
            Err(other) => panic!("{other}"),
        }
    }

    fn put(&mut self) {
        let (system, k) = (self.system, self.mine());
        let (place, references) = (self.place(k), self.references[k - self.own.start]);
        let begun = place.register.begin(&system.time, Content::Nothing);
        let left = system.zswap().put(place.slot);
        if references == 1 {
            place.register.end(&system.time, begun);
        } else {
            place.register.undo(begun);
        }
        match left {
            Ok(left) => {
                assert_eq!(Some(left), references.checked_sub(1), "references of slot {}", place.slot.0);
                self.set_references(k, left);
            }
            Err(Error::NotStored { .. }) => assert_eq!(references, 0, "references of slot {}", place.slot.0),
            Err(other) => panic!("{other}"),
        }
    }
}
