//! [`Client`]: who has pages in memory, and swaps them out when the tree asks for room.
//!
//! ```text
//!   touch --> in memory (charged as resident) --swap_out--> stored --fault--> in memory
//!                        ^                          |
//!                        +--- refused: it stays ----+
//! ```
//!
//! Its table is the model's too: every slot's page, and who is charged while it is in memory. No lock is held over a call.

use super::super::instance::Instance;
use super::super::page::PageOf;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use zspool::memcg::{Ask, End, Memcg, Reclaimed, Reclaimer, Resident, Source};
use zspool::units::NodeId;
use zspool::zswap::{Error, Stored};

/// A page of a slot.
#[derive(Debug)]
pub struct Held {
    /// What is in it.
    pub page: PageOf,
    /// Where.
    pub place: Place,
}

/// Where a page is.
#[derive(Debug)]
pub enum Place {
    /// In memory: charged so, and the group (by the model's number) that it was charged for.
    Memory(Resident, usize),
    /// On its way out.
    Leaving,
    /// The instance has it.
    Stored,
}

/// See the file.
#[derive(Default)]
pub struct Client {
    state: Mutex<State>,
}

/// What it has, and did.
#[derive(Default)]
pub struct State {
    /// By slot.
    pub held: BTreeMap<u8, Held>,
    /// The next request is cancelled after so many pages.
    pub cancel_after: Option<u8>,
    /// It was.
    pub cancelled: bool,
    /// Pages that the instance did not take, and why.
    pub refused: Vec<Error>,
    /// Pages swapped out for the tree.
    pub swapped_out: u64,
}

impl Client {
    /// Look at the table, or change it.
    pub fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock().unwrap())
    }

    /// Swap a page out, if it is in memory: how many bytes less it takes.
    pub fn swap_out(&self, instance: &Instance, slot: u8) -> Option<Result<u64, ()>> {
        let (page, resident, group) = self.with(|state| {
            let held = state.held.get_mut(&slot)?;
            let Place::Memory(_, group) = held.place else { return None };
            let Place::Memory(resident, _) = std::mem::replace(&mut held.place, Place::Leaving) else {
                unreachable!("it was just looked at")
            };
            Some((held.page, resident, group))
        })?;
        let bytes = resident.bytes();
        let node = NodeId(slot % instance.zswap.tree().nodes() as u8);
        let result = instance.zswap.swap_out(instance.slot(slot), resident, node, &page.build());
        Some(self.with(|state| {
            let place = &mut state.held.get_mut(&slot).expect("a page that leaves stays in the table").place;
            match result {
                Ok(stored) => {
                    *place = Place::Stored;
                    assert!(stored != Stored::WrittenThrough || instance.device.is_some());
                    Ok(bytes - stored.slot_bytes() as u64)
                }
                Err(refused) => {
                    assert_eq!(refused.resident.bytes(), bytes, "1: a page that was refused is charged as before");
                    *place = Place::Memory(refused.resident, group);
                    state.refused.push(refused.error);
                    Err(())
                }
            }
        }))
    }
}

/// The client as the tree knows it.
pub struct Server {
    /// It.
    pub client: std::sync::Arc<Client>,
    /// What it swaps out to.
    pub instance: std::sync::Arc<Instance>,
}

impl Reclaimer for Server {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        if ask.age.is_some() {
            return Reclaimed { bytes: 0, end: End::NothingToScan };
        }
        let below = memcg.subtree();
        let (mut tried, mut bytes) = (BTreeSet::new(), 0);
        let end = loop {
            if bytes >= ask.bytes {
                break End::Met;
            }
            if ask.cancel.is_cancelled() {
                break End::Cancelled;
            }
            let next = self.client.with(|state| {
                let here = |held: &Held| matches!(&held.place, Place::Memory(of, _) if below.contains(&of.memcg()));
                state.held.iter().find(|(slot, held)| !tried.contains(*slot) && here(held)).map(|(&slot, _)| slot)
            });
            let Some(slot) = next else {
                break if tried.is_empty() { End::NothingToScan } else { End::Exhausted };
            };
            tried.insert(slot);
            match self.client.swap_out(&self.instance, slot) {
                Some(Ok(fewer)) => {
                    bytes += fewer;
                    self.client.with(|state| state.swapped_out += 1);
                }
                // A refusal takes long, and the next would be like it.
                _ => break End::Exhausted,
            }
            self.client.with(|state| {
                state.cancel_after = state.cancel_after.and_then(|left| {
                    if left == 0 {
                        ask.cancel.cancel();
                        state.cancelled = true;
                    }
                    left.checked_sub(1)
                });
            });
        };
        Reclaimed { bytes, end }
    }
}
