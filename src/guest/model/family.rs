//! Children of a model's region: what they have of pages that are out, in a store that moves apart what they share with their parent.
//!
//! ```text
//!   parent: Model    [ 2 ]  staged, about to be stored in slot 0          real: family, children, their claims, the store
//!   child            [ . ]  claim on slot 0, which holds 1                simulated: the memory of each, a token a page
//! ```

use super::{Charged, Model, ModelOptions, Wallet};
use crate::guest::service::child::{Child, Copy, Whose};
use crate::guest::service::family::Family;
use crate::guest::service::keeping::Keeping;
use crate::guest::service::space::Space;
use crate::guest::uffd::Errno;
use crate::memcg::Memcg;
use crate::sync::thread::yield_now;
use crate::sync::{Arc, Mutex, Rank};
use crate::units::PAGE_SIZE;
use crate::zswap::Zswap;

/// A child, or a child of one.
pub struct ModelChild {
    child: Arc<Child>,
    memory: Memory,
}

/// The memory of a child: what each page holds, of twice as many as there are, so that they can be moved.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<Option<u64>>>>);

/// What a page holds that nobody can have.
const POISON: u64 = u64::MAX;

impl Memory {
    fn new(pages: u32) -> Self {
        Memory(Arc::new(Mutex::new(Rank::Leaf, vec![None; 2 * pages as usize])))
    }

    fn get(&self, page: usize) -> Option<u64> {
        self.0.lock()[page]
    }

    fn set(&self, address: usize, token: u64) -> Result<(), Errno> {
        match &mut self.0.lock()[address / PAGE_SIZE] {
            Some(_) => Err(Errno::EXISTS),
            none => {
                *none = Some(token);
                Ok(())
            }
        }
    }
}

impl Space for Memory {
    fn put(&self, address: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Errno> {
        self.set(address, u64::from_ne_bytes(*bytes.first_chunk().expect("a page has eight bytes")))
    }

    fn put_zeroes(&self, address: usize) -> Result<(), Errno> {
        self.set(address, 0)
    }

    fn put_poison(&self, address: usize) -> Result<(), Errno> {
        self.set(address, POISON)
    }

    fn wake_page(&self, _address: usize) {}

    fn is_there(&self) -> bool {
        true
    }
}

impl Model {
    /// A region over a real store, charged to `memcg`, that can have children.
    pub fn with_children(options: ModelOptions, zswap: Arc<Zswap>, memcg: &Memcg) -> Model {
        let slots = zswap.reserve(options.pages.into()).expect("there are slots");
        let family = Arc::new(Family::new(zswap.clone(), memcg.clone()));
        let (store, purse) = (Keeping::new(zswap, &family), Wallet(memcg.clone()));
        let (pages, backing, gate) = Self::make(options, store, purse, slots, false);
        let charged = Charged::Memcg(memcg.clone());
        Model { pages, backing, charged, tokens: None, gate, family: Some(family), _kept: None }
    }

    fn family(&self) -> &Family {
        self.family.as_ref().expect("the model has children")
    }

    fn adopt(&self) -> ModelChild {
        let memory = Memory::new(self.pages.count());
        let mut unborn = Arc::new(Child::unborn(self.pages.shared().clone(), 1));
        let child = self.family().adopt(Whose::Models(Box::new(memory.clone())), &mut unborn);
        ModelChild { child, memory }
    }

    /// A child is born: it has a copy of what is out. What is in memory it has from the kernel, which there is not.
    pub fn bear(&self) -> ModelChild {
        let born = self.adopt();
        let copy = Arc::new(Copy::empty(self.pages.addresses(), self.pages.slots()));
        born.child.inherit_all(&self.pages, copy, self.family(), &mut None);
        born.child.is_born();
        born
    }

    /// A child has a child.
    pub fn bear_of(&self, parent: &ModelChild) -> ModelChild {
        let born = self.adopt();
        born.child.inherit_all_from(&parent.child, self.family(), &mut None);
        born.child.is_born();
        born
    }

    /// A fault of a child's is served, if that can be now. What the page holds then.
    pub fn try_read_of(&self, of: &ModelChild, page: u32) -> Option<u64> {
        if of.memory.get(page as usize).is_none() {
            let (copy, number) = of.child.find(page as usize * PAGE_SIZE).expect("a child has the page");
            of.child.fill(&copy, number, self.family().zswap())?;
        }
        of.memory.get(page as usize)
    }

    /// A child reads a page.
    pub fn read_of(&self, of: &ModelChild, page: u32) -> u64 {
        loop {
            if let Some(token) = self.try_read_of(of, page) {
                return token;
            }
            yield_now();
        }
    }

    /// A child moves a page behind all others.
    pub fn move_of(&self, of: &ModelChild, page: u32) {
        let from = page as usize * PAGE_SIZE;
        of.child.move_pages(from..from + PAGE_SIZE, self.pages.count() as usize * PAGE_SIZE, self.family());
    }

    /// A child has ended.
    pub fn bury(&self, ended: &ModelChild) {
        self.family().bury(&ended.child);
    }
}
