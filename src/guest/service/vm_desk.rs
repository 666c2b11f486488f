//! [`VmDesk`]: what readers of a VM's descriptor need of the VM: whose faults those are, and who follows changes of mappings.
//!
//! ```text
//!   reader --answer--> registry: region --> Pages::fault          nowhere, or of no region: what mremap has moved (relics)
//!          --follow--> a removal: here         what allocates, or calls the embedder: Matters --> the thread of the VM's children
//! ```

use super::children::Children;
use super::fork::Held;
use super::gate::{Closed, Gate};
use super::matters::Matters;
use super::reader::Parking;
use super::running::{MappingChange, OnChange};
use super::source::Source;
use super::space::Here;
use super::{Answer, Change, Desk, Panics, answers, changes, last_words};
use crate::guest::pages::bits::State;
use crate::guest::pages::{Access, Pages, Shared, Waiting};
use crate::guest::registry::{self, Found};
use crate::guest::uffd::{Descriptor, Fault, Features};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Rank};
use crate::units::PAGE_SIZE;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Addresses that no mapping has: of what is closed, everything alone has them.
const NOWHERE: Range<usize> = 0..1;

/// The desk of a VM.
pub(crate) struct VmDesk {
    descriptor: Arc<Descriptor>,
    gate: Option<Arc<Gate>>,
    parking: Parking,
    shared: Arc<Shared>,
    /// What a fork under way keeps in memory.
    pub(super) held: Mutex<Held>,
    pub(super) children: Children,
    /// Changes that wait for the thread that follows them.
    matters: Matters,
    panics: Panics,
    on_change: Option<OnChange>,
    pub(super) counts: Counts,
}

/// What it counts, as in [`ServiceStats`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) discarded: AtomicU64,
    /// Runs of pages that the kernel left in a range of which it told that it is dropped.
    pub(super) left_there: AtomicU64,
    pub(super) unmapped: AtomicU64,
    pub(super) moved: AtomicU64,
    pub(super) strangers: AtomicU64,
    pub(super) children: AtomicU64,
}

/// For a sentence about a page.
fn state_name(state: State) -> &'static str {
    match state {
        State::Absent => "nowhere yet",
        State::Resident => "in memory",
        State::Leaving => "being taken out",
        State::Staged => "staged",
        State::Compressing => "being compressed",
        State::Stored => "in its slot",
        State::Filling => "being brought in",
        State::Dropping => "being discarded",
        State::Poisoned => "poisoned",
    }
}

// === impl VmDesk ===

impl VmDesk {
    /// Of a VM with this descriptor, whose children these are.
    pub(super) fn new(
        descriptor: Arc<Descriptor>,
        gate: Option<Arc<Gate>>,
        children: Children,
        shared: Arc<Shared>,
        on_change: Option<OnChange>,
    ) -> Self {
        VmDesk {
            descriptor,
            gate,
            parking: Parking::new(),
            shared,
            held: Mutex::new(Rank::Guest, Held::default()),
            children,
            matters: Matters::new(),
            panics: Panics::new(),
            on_change,
            counts: Counts::default(),
        }
    }

    /// The gate, for who keeps it.
    pub(super) fn own_gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// Each region that lies in a range, with its pages there.
    pub(super) fn regions_in(&self, range: &Range<usize>, mut each: impl FnMut(&Arc<Pages>, Range<u32>)) {
        for pages in registry::overlapping(range) {
            let there = pages.addresses();
            let page = |address: usize| ((address - there.start) / PAGE_SIZE) as u32;
            each(&pages, page(range.start.max(there.start))..page(range.end.min(there.end)));
        }
    }

    /// What the descriptor can do.
    pub(super) fn descriptor_features(&self) -> Features {
        self.descriptor.features()
    }

    /// The regions that children have a copy of.
    pub(super) fn inherited_regions(&self) -> impl Iterator<Item = Arc<Pages>> {
        let all = registry::overlapping(&(0..usize::MAX));
        all.filter(|pages| Arc::ptr_eq(pages.shared(), &self.shared) && pages.is_inherited())
    }

    /// What all regions share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The descriptor, for who keeps it.
    pub(super) fn own_descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// This process's memory.
    pub(super) fn here(&self) -> Here {
        Here { descriptor: Arc::clone(&self.descriptor), gate: self.gate.clone() }
    }

    /// Whether all children are born of which a reader has read: he reads alone in the gate, and it is closed until they are.
    pub(super) fn has_none_unborn(&self) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.pass(NOWHERE).is_some())
    }

    /// Nobody is reading any more what was told before: he reads alone in the gate, and puts aside what he gets there.
    pub(super) fn until_read(&self) {
        if let Some(gate) = &self.gate {
            drop(gate.pass(NOWHERE));
        }
    }

    /// Follow what readers have handed on.
    pub(super) fn follow_matters(&self) {
        while let Some(matter) = self.matters.first() {
            let mut change = Some(matter.change);
            while catch_unwind(AssertUnwindSafe(|| changes::follow(self, &mut change))).is_err() {
                if let Some(times) = self.panics.too_many() {
                    last_words::end(format_args!(
                        "following a change of mappings panicked {times} times in a row: the process ends, for its pages would not be what they must"
                    ));
                }
            }
            self.panics.none();
            if let Some(gate) = &self.gate {
                matter.closed.into_iter().flatten().for_each(|closed| gate.open(closed));
            }
            self.matters.done();
        }
    }

    /// Tell the embedder.
    pub(super) fn tell(&self, change: &MappingChange) {
        if let Some(OnChange(tell)) = &self.on_change {
            tell(change);
        }
    }
}

impl Desk for VmDesk {
    fn source(&self) -> &dyn Source {
        &*self.descriptor
    }

    fn gate(&self) -> Option<&Gate> {
        self.gate.as_deref()
    }

    fn answer(&self, fault: Fault) -> Answer {
        let access = match fault {
            Fault { protected: true, .. } => Access::Protect,
            Fault { minor: true, .. } => Access::Minor,
            Fault { write: true, .. } => Access::Write,
            _ => Access::Read,
        };
        match registry::find(fault.address) {
            Found::Page(pages, page) => {
                let nowhere = pages.word(page).load().state() == State::Absent;
                let relic = nowhere.then(|| self.children.family().answer_relic_that_is_out(fault.address)).flatten();
                relic.unwrap_or_else(|| answers::answer(&pages, page, access, Waiting::Leave))
            }
            // Its thread makes the access again, and finds out what is there then.
            Found::Transit => {
                let page = fault.address & !(PAGE_SIZE - 1);
                self.source().wake(page..page + PAGE_SIZE);
                Answer::Served
            }
            // Where it is not registered any more, the kernel refuses, and its thread is woken.
            Found::Gone | Found::Nothing if fault.protected => Answer::Stranger,
            Found::Gone | Found::Nothing => {
                self.children.family().answer_relic(fault.address).unwrap_or(Answer::Stranger)
            }
        }
    }

    fn follow(&self, change: &mut Option<Change>, closed: &mut [Option<Closed>; 2]) -> bool {
        match (&self.gate, &change) {
            // Another thread does what allocates, or calls the embedder, and what comes after that. A thread that forks has the allocator's locks,
            // and waits for a reader of its event: who reads must not wait for those.
            (Some(_), Some(Change::Removed(_))) if self.matters.is_empty() && !self.children.family().has_relics() => {}
            (Some(_), _) => {
                let handed = self.matters.put(change, closed);
                self.children.ring_follower();
                return handed;
            }
            (None, _) => {}
        }
        changes::follow(self, change);
        true
    }

    fn stranger(&self, fault: Fault) -> bool {
        if !fault.protected {
            self.counts.strangers.fetch_add(1, Ordering::Relaxed);
        }
        let page = fault.address & !(PAGE_SIZE - 1);
        // A move that another has read of may bring pages here that are out: until that is followed nobody knows, and after that it is no stranger.
        let passing = self.gate.as_ref().map(|gate| gate.pass(page..page + PAGE_SIZE));
        if matches!(passing, Some(None)) || !fault.protected && self.children.family().is_relic(page) {
            return false;
        }
        // Zeroes where nobody registers anything meanwhile: else a page might have been there, and be out by now.
        registry::while_nobodys(fault.address, || answers::stranger(&self.descriptor, fault)).unwrap_or_else(|| {
            self.source().wake(page..page + PAGE_SIZE);
            true
        })
    }

    fn parking(&self) -> &Parking {
        &self.parking
    }

    fn state(&self, address: usize) -> &'static str {
        match registry::find(address) {
            Found::Page(pages, page) => state_name(pages.word(page).load().state()),
            Found::Transit => "being registered",
            Found::Gone => "just unregistered",
            Found::Nothing => "of no region",
        }
    }
}
