//! [`Backer`]: makes the [`Backing`] that fits, from the kind of memory and what the kernel can do.
//!
//! | memory | kernel | descriptor | backing |
//! |---|---|---|---|
//! | anonymous | 6.8 and later (MOVE) | any | moved to a range of ours and back |
//! | anonymous | 5.7 and later | no event of removal, no asynchronous write protection | write-protected and dropped |
//! | memfd | 5.14 and later (MINOR_SHMEM) | no event of removal | unmapped, then punched out |
//! | memfd | 5.19 and later | no asynchronous write protection | write-protected, then punched out |
//!
//! [`Memory::method`] forces one of them.

use super::backing::Backing;
use super::frames::{Frames, POOL_BYTES};
use super::guest_range::GuestRange;
use super::maps::Mapping;
use super::memfd::{Filed, Out};
use super::protected::Protected;
use super::reserved::Reserved;
use super::shadowed::{Drain, Shadowed};
use super::{Kind, Memory, Method, Refusal};
use crate::guest::uffd::{Ask, Descriptor, Features, Modes, PageMap};
use crate::sync::{Arc, Mutex, Rank};
use std::io;
use std::ops::Range;

/// What backings can use of a descriptor: to be [wanted](Ask::wanted) of the one that serves guest memory.
pub const WANTED: Features = Features::PAGEFAULT_FLAG_WP
    .union(Features::MISSING_SHMEM)
    .union(Features::MINOR_SHMEM)
    .union(Features::WP_HUGETLBFS_SHMEM)
    .union(Features::EXACT_ADDRESS)
    .union(Features::POISON)
    .union(Features::MOVE);

/// Features with which `madvise` and its like raise events, and wait for whoever reads them.
const EVENTS: Features =
    Features::EVENT_FORK.union(Features::EVENT_REMAP).union(Features::EVENT_REMOVE).union(Features::EVENT_UNMAP);

/// Makes the backings of one VM's regions, all served by one descriptor.
#[derive(Debug)]
pub struct Backer {
    descriptor: Arc<Descriptor>,
    /// What the kernel has.
    found: Features,
    page_map: Arc<PageMap>,
    /// Made with the first range that is moved.
    drain: Mutex<Option<Arc<Drain>>>,
}

impl Backer {
    /// For ranges that `descriptor` is to serve.
    ///
    /// # Errors
    /// When `/proc/self/pagemap` cannot be opened, or the kernel does not say what it can do.
    pub fn new(descriptor: Arc<Descriptor>) -> Result<Backer, Refusal> {
        let page_map = PageMap::open().map_err(|source| Refusal::Proc { what: "/proc/self/pagemap", source })?;
        super::proc_self::keep();
        let found = Descriptor::found()?;
        Ok(Backer { descriptor, found, page_map: Arc::new(page_map), drain: Mutex::new(Rank::Leaf, None) })
    }

    /// The descriptor.
    pub fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// How pages of `memory` are taken out.
    ///
    /// # Errors
    /// When the method that was asked for does not work here, or none does.
    pub fn method(&self, memory: &Memory) -> Result<Method, Refusal> {
        let on = self.descriptor.features();
        let protects = |method| match () {
            () if on.contains(Features::WP_ASYNC) => Err(Refusal::NoMethod {
                method,
                why: "asynchronous write protection (dirty tracking) leaves no way to hold writes off. Use Linux 6.8, whose \
                      userfaultfd moves pages, or do without dirty tracking.",
            }),
            () => Ok(()),
        };
        let anonymous = matches!(memory.kind(), Kind::Anonymous);
        let works = |method: Method| -> Result<(), Refusal> {
            let lacks = |why| Err(Refusal::NoMethod { method, why });
            match method {
                Method::Move if !anonymous => {
                    lacks("the kernel moves private anonymous memory only. Use `Method::Zap`.")
                }
                Method::Move if !self.found.contains(Features::MOVE) => {
                    lacks("this kernel's userfaultfd cannot move pages. Use Linux 6.8 or later.")
                }
                Method::Zap if anonymous => lacks("only a memfd keeps what is unmapped. Use `Method::Move`."),
                Method::Zap if on.contains(Features::EVENT_REMOVE) => lacks(
                    "with events of removal on, unmapping waits for whoever reads events. Use `Method::Protect`, or leave those \
                     events off.",
                ),
                Method::Zap if !self.found.contains(Features::MINOR_SHMEM | Features::MISSING_SHMEM) => {
                    lacks("this kernel's userfaultfd has no faults of unmapped shared memory. Use Linux 5.14 or later.")
                }
                Method::Protect if anonymous && on.contains(Features::EVENT_REMOVE) => lacks(
                    "with events of removal on, dropping pages waits for whoever reads events. Use Linux 6.8 or later, whose \
                     userfaultfd moves pages, or leave those events off.",
                ),
                Method::Protect if anonymous && !self.found.contains(Features::PAGEFAULT_FLAG_WP) => {
                    lacks("this kernel's userfaultfd cannot write-protect. Use Linux 5.7 or later.")
                }
                Method::Protect
                    if !anonymous && !self.found.contains(Features::WP_HUGETLBFS_SHMEM | Features::MINOR_SHMEM) =>
                {
                    lacks("this kernel's userfaultfd cannot write-protect shared memory. Use Linux 5.19 or later.")
                }
                Method::Protect => protects(method),
                Method::Move | Method::Zap | Method::Probed => Ok(()),
            }
        };
        match memory.chosen_method() {
            Method::Probed => {
                let first = if anonymous { Method::Move } else { Method::Zap };
                works(first).map(|()| first).or_else(|_| works(Method::Protect).map(|()| Method::Protect))
            }
            method => works(method).map(|()| method),
        }
    }

    /// Look at `memory` and make what backs it. It is not registered yet: [`Backing::register`] does it, when whoever serves its faults
    /// knows it.
    ///
    /// # Errors
    /// What is in the way of registering it.
    pub fn back(&self, memory: &Memory) -> Result<Box<dyn Backing>, Refusal> {
        let (_, mappings) = memory.inspect_mappings()?;
        let method = self.method(memory)?;
        let guest = GuestRange::new(memory, self.descriptor.clone(), self.page_map.clone())?;
        Ok(match (memory.kind(), method) {
            (Kind::Anonymous, Method::Move) => {
                Box::new(Shadowed::new(guest, self.drain()?, &executable(&mappings, memory.addresses()))?)
            }
            (Kind::Anonymous, _) => Box::new(Protected::new(guest)),
            (Kind::Memfd { file, offset }, method) => {
                let file = file
                    .as_ref()
                    .map_err(|&errno| Refusal::Descriptor { source: io::Error::from_raw_os_error(errno) })?;
                let out = if method == Method::Protect { Out::Protect } else { Out::Zap };
                Box::new(Filed::new(guest, file, *offset, out)?)
            }
        })
    }

    /// Where frames go that are dropped: see A4 of `shadowed`.
    fn drain(&self) -> Result<Arc<Drain>, Refusal> {
        if let Some(drain) = &*self.drain.lock() {
            return Ok(drain.clone());
        }
        // Made outside of the lock, as the kernel is asked for it; of two that are made at once one is given up again.
        let only = self.descriptor.features().intersects(EVENTS);
        let descriptor = if only {
            Arc::new(Descriptor::open(Ask { features: Features::MOVE, ..Ask::default() })?)
        } else {
            self.descriptor.clone()
        };
        let memory = Reserved::new(POOL_BYTES)?;
        // SAFETY: memory of ours.
        unsafe { descriptor.register(memory.addresses(), Modes::PROTECT) }?;
        let made = Arc::new(Drain { descriptor, frames: Frames::new(memory), only });
        Ok(self.drain.lock().get_or_insert(made).clone())
    }
}

/// The parts of a range that may be executed, in bytes from its start.
fn executable(mappings: &[Mapping], range: Range<usize>) -> Vec<Range<usize>> {
    let part = |mapping: &Mapping| {
        mapping.range.start.max(range.start) - range.start..mapping.range.end.min(range.end) - range.start
    };
    mappings.iter().filter(|mapping| mapping.execute).map(part).collect()
}
