//! Guests: VMs without a kernel, with threads that touch their pages, throw them away and pin them.

use crate::Random;
use crate::execution::note;
use crate::paint::{Sizes, paint, token};
use crate::plan::GuestPlan;
use crate::register::{Content, Register};
use crate::system::System;
use std::ops::Range;
use zspool::guest::model::{Model, ModelOptions};
use zspool::memcg::Objcg;
use zspool::sync::Planted;

/// A VM with one region.
pub struct Guest {
    /// How it is.
    pub plan: GuestPlan,
    /// Through whom it is charged: to its memcg, and once that is removed to what was above it.
    pub payer: Objcg,
    /// The region; its pages are real, its kernel is not.
    pub model: Model,
    /// The model of each page.
    pub pages: Vec<Register>,
}

/// One thread of a guest.
pub struct Vcpu<'a> {
    system: &'a System,
    guest: &'a Guest,
    random: Random,
    /// Its faults are served by another thread.
    served: bool,
    pins: Vec<Range<u32>>,
}

impl Guest {
    /// One with no page in memory.
    pub fn new(system: &System, plan: GuestPlan, number: usize, planted: Planted) -> Self {
        let memcg = system.memcg(plan.memcg);
        let options = ModelOptions {
            pages: plan.pages,
            in_place: plan.in_place,
            kept_bytes: plan.kept_bytes,
            around: plan.around,
            stiff_from: 0,
            planted,
        };
        let model = Model::limited(options, &system.engine, &memcg, paint).expect("a guest can be made");
        let payer = memcg.objcg().expect("nobody removes it yet");
        let page = |page: u32| Register::new(format!("page {page} of guest {number}"), Content::Page(0));
        Guest { plan, payer, model, pages: (0..plan.pages).map(page).collect() }
    }

    /// Read a page.
    pub fn read(&self, system: &System, page: u32) -> Content {
        let began = system.time.now();
        let content = self.model.read(page).map_or(Content::Lost, Content::Page);
        self.was_read(system, page, began, content);
        content
    }

    fn was_read(&self, system: &System, page: u32, began: u64, content: Content) {
        let register = &self.pages[page as usize];
        match content {
            Content::Lost => {
                assert!(
                    system.costs.pages || system.costs.patience,
                    "no device of this run loses anything: page {page}"
                );
                system.reach("guest pages poisoned", 1);
                register.was_lost(&system.time, began);
            }
            _ => register.saw(&system.time, began, content),
        }
        note(if let Content::Page(token) = content { token } else { 2 });
    }

    fn write(&self, system: &System, page: u32, token: u64, served: bool) {
        let register = &self.pages[page as usize];
        let begun = register.begin(&system.time, Content::Page(token));
        let began = system.time.now();
        let written = if served { self.model.write_and_be_served(page, token) } else { self.model.write(page, token) };
        match written {
            Some(()) => register.end(&system.time, begun),
            None => {
                register.undo(begun);
                self.was_read(system, page, began, Content::Lost);
            }
        }
        system.reach("guest writes", 1);
    }

    /// Throw pages away.
    pub fn discard(&self, system: &System, pages: Range<u32>) {
        let begun: Vec<_> =
            pages.clone().map(|page| (page, self.pages[page as usize].begin(&system.time, Content::Page(0)))).collect();
        let done = self.model.discard(pages.start, pages.end - pages.start);
        for (page, begun) in begun {
            let register = &self.pages[page as usize];
            match &done {
                Ok(_) => register.end(&system.time, begun),
                Err(_) => register.end_in_doubt(&system.time, begun), // those before the one that is pinned
            }
        }
        system.reach("guest pages thrown away", u64::from(done.is_ok()));
        note(done.unwrap_or(u64::MAX));
    }
}

impl<'a> Vcpu<'a> {
    /// A thread of this guest.
    pub fn new(system: &'a System, guest: &'a Guest, mut random: Random) -> Self {
        let served = random.one_in(3);
        Vcpu { system, guest, random, served, pins: Vec::new() }
    }

    /// So many operations.
    pub fn run(mut self, operations: u64) {
        (0..operations).for_each(|_| self.step());
        for pages in std::mem::take(&mut self.pins) {
            self.guest.model.unpin(pages.start, pages.end - pages.start);
        }
    }

    fn page(&mut self) -> u32 {
        // Some are hot.
        let among = if self.random.one_in(2) { self.guest.plan.pages.div_ceil(4) } else { self.guest.plan.pages };
        self.random.below(among.into()) as u32
    }

    fn range(&mut self, most: u64) -> Range<u32> {
        let (first, pages) = (self.page(), 1 + self.random.below(most) as u32);
        first..(first + pages).min(self.guest.plan.pages)
    }

    fn step(&mut self) {
        let (system, guest) = (self.system, self.guest);
        match self.random.below(100) {
            0..40 => {
                let (page, noise) = (self.page(), self.random.one_in(6));
                let sizes = if noise { Sizes::None } else { system.plan.sizes };
                let token = token(system.next_token(), &mut self.random, sizes);
                guest.write(system, page, token, self.served);
            }
            40..70 => {
                let page = self.page();
                guest.read(system, page);
            }
            70..76 => {
                let pages = self.range(6);
                guest.discard(system, pages);
            }
            76..80 => self.pin(),
            80..84 => {
                if let Some(pages) = self.pins.pop() {
                    guest.model.unpin(pages.start, pages.end - pages.start);
                }
            }
            84..88 => {
                let pages = self.range(16);
                let came = guest.model.prefetch(pages.start, pages.end - pages.start);
                system.reach("guest pages prefetched", came);
                note(came);
            }
            88..91 => {
                let pages = self.range(8);
                self.bring(pages, |model, first, pages| model.make_resident(first, pages));
            }
            91..94 => {
                let pages = self.range(32);
                let (staged, _) = guest.model.stage(pages.start, pages.end - pages.start);
                system.reach("guest pages staged by hand", staged.into());
            }
            94..96 => {
                let stored = guest.model.compress(8);
                system.reach("guest pages compressed by hand", stored.into());
            }
            96..98 => {
                let (page, busy) = (self.page(), self.random.one_in(2));
                guest.model.set_busy(page, busy);
            }
            98 => guest.model.set_again(1 + self.random.below(3) as u32),
            _ => self.vanish(),
        }
    }

    fn pin(&mut self) {
        let pages = self.range(3);
        if self.pins.len() < 2 && self.bring(pages.clone(), |model, first, pages| model.pin(first, pages)) {
            self.system.reach("guest pages pinned", 1);
            self.pins.push(pages);
        }
    }

    fn bring(&self, pages: Range<u32>, how: impl FnOnce(&Model, u32, u32) -> Result<(), zspool::guest::Error>) -> bool {
        let done = how(&self.guest.model, pages.start, pages.end - pages.start);
        if let Err(error) = &done {
            let costs = self.system.costs;
            assert!(costs.pages || costs.patience, "every device of this run answers: {error}");
        }
        note(done.is_ok().into());
        done.is_ok()
    }

    /// Somebody throws a page away behind our back: zeroes, unless it was elsewhere.
    fn vanish(&mut self) {
        let page = self.page();
        let register = &self.guest.pages[page as usize];
        let begun = register.begin(&self.system.time, Content::Page(0));
        self.guest.model.vanish(page);
        register.end_in_doubt(&self.system.time, begun);
        self.system.reach("guest pages vanished", 1);
    }
}
