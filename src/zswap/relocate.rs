//! Relocation: what lives in a segment goes elsewhere. Cleaning, demotion and swapoff are policies over it.
//!
//! ```text
//!   segment, one read     [obj] [obj]  X  [obj] ...          live objects by their reverse words, in device order
//!   per object            cluster lock { word names the place, not in flight }      else: freed, replaced, or on its way
//!                         verify                                                    flawed: the page is lost (lost.rs)
//!      into the pool      promotion.rs                                              refused by a limit: to a device
//!      to a device        record, writeback bit; copy into a batch; write; land     flights.rs
//! ```
//!
//! - **R1** An object is moved if its slot's word names its place, and by nobody else meanwhile; one that is freed or replaced on the
//!   way is not brought back.
//! - **R2** Only verified bytes are copied. What cannot be read becomes lost where it is, and is not copied as if it could.
//! - **R3** The charge goes along with an object of the same size: it is never charged twice, so that a full limit keeps nobody
//!   from cleaning up.
//! - **R4** A reverse word whose slot does not name the place belongs to a flight that has not landed, or has to be freed: it is
//!   counted as busy, and whoever wants the segment empty looks again.
//! - **R5** Where others have no room they are cleaned, between two looks at a segment: who holds the lease of one device does not
//!   wait for another's. A tier that has none all the same is left out; a segment of which nothing may go is not read.

use super::WRITEBACK_BATCH;
use super::core::Core;
use super::flights::{Flight, Flights, Landing, Marked, Toll};
use super::payload::Payload;
use super::places::PlaceCharge;
use super::promotion::{Promoted, names};
use crate::memcg::ObjcgId;
use crate::swap::{
    self, Allowed, DeviceRef, Label, ObjectRef, Outgoing, Place, SegmentId, SegmentImage, SlotGuard, SlotWord, Tenant,
};
use crate::sync::{self, Bug, Step};
use crate::units::{NodeId, PAGE_SIZE, Slot, TierMask};

const LANDING: Landing = [Step::PlaceLanding, Step::PlaceSwitched, Step::PlaceFreed];

/// Where objects may go.
pub(super) struct Route<'r> {
    /// Into the pool, first of all.
    pub(super) pool: bool,
    /// To which devices: tiers are narrowed down to those that each object's payer may use.
    pub(super) to: To,
    /// Whose objects: those whose payer this says yes to.
    pub(super) whose: &'r dyn Fn(ObjcgId) -> bool,
}

/// To which devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The one they are on, so that a segment becomes free.
    Same,
    /// Others.
    Others(Allowed),
    /// None.
    Nowhere,
}

/// What came of the objects of segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved {
    /// Objects that were looked at.
    pub(super) touched: u64,
    /// Of those, how many went to the pool,
    pub(super) to_pool: u64,
    /// to a place,
    pub(super) to_places: u64,
    /// or could not be read, and are lost;
    pub(super) lost: u64,
    /// were freed or replaced by then,
    pub(super) gone: u64,
    /// were on their way,
    pub(super) busy: u64,
    /// belong to somebody else,
    pub(super) foreign: u64,
    /// and had nowhere to go.
    pub(super) stranded: u64,
    /// Payload bytes that were moved,
    pub(super) payload_bytes: u64,
    /// and that are in the batch that is being filled.
    under_way: u64,
    /// Bytes of the blocks they left,
    pub(super) left_bytes: u64,
    /// and that those in that batch will leave.
    leaving_bytes: u64,
    /// Bytes of devices that its batches took, with headers and padding.
    pub(super) written_bytes: u64,
    /// Why the pool did not take one, as its limit says.
    pub(super) refused: Option<String>,
    /// Why a device did not.
    pub(super) device_refused: Option<String>,
    /// A device failed in a way that says nothing about the page.
    pub(super) failed: Option<String>,
    /// The one that is gone over does not answer: each further segment would be met in vain.
    pub(super) hung: bool,
}

impl Moved {
    /// Objects that were moved.
    pub(super) fn objects(&self) -> u64 {
        self.to_pool + self.to_places
    }

    /// Payload bytes that were moved, or are about to be.
    pub(super) fn payload_sent(&self) -> u64 {
        self.payload_bytes + self.under_way
    }

    /// Bytes of the blocks that were left, or are about to be.
    pub(super) fn blocks_sent(&self) -> u64 {
        self.left_bytes + self.leaving_bytes
    }

    /// Whether all that lived there has gone, or was freed.
    pub(super) fn left_nothing(&self) -> bool {
        self.busy + self.foreign + self.stranded == 0 && self.failed.is_none()
    }

    fn count(&mut self, from: Place, payload: usize) {
        self.payload_bytes += payload as u64;
        self.left_bytes += from.len_bytes() as u64;
    }
}

/// Moves objects away, in batches.
pub(super) struct Mover<'a, 'r> {
    core: &'a Core,
    route: Route<'r>,
    /// Tiers that have not refused a batch so far.
    roomy: TierMask,
    /// Tiers that have, in this segment.
    refused: TierMask,
    /// A device of those has failed to write a batch, in this look at the segment.
    unwritten: bool,
    batch: Option<Going<'a>>,
    pub(super) moved: Moved,
}

/// A batch that is being filled.
struct Going<'a> {
    batch: Outgoing<'a>,
    flights: Flights<'a>,
}

/// One object of a segment.
struct One {
    place: Place,
    tenant: Tenant,
    slot: Slot,
    word: SlotWord,
}

/// Bytes of an object that was verified.
struct Opened {
    label: Label,
    len: usize,
    bytes: [u8; PAGE_SIZE],
}

impl Opened {
    fn new() -> Self {
        Opened { label: Label::default(), len: 0, bytes: [0; PAGE_SIZE] }
    }

    /// Whether it is the page as it was.
    fn is_raw(&self) -> bool {
        self.len == PAGE_SIZE
    }

    fn take(&mut self, object: &ObjectRef<'_>) {
        (self.label, self.len) = (object.label, object.bytes.len());
        self.bytes[..self.len].copy_from_slice(object.bytes);
    }

    fn as_ref(&self) -> ObjectRef<'_> {
        ObjectRef { label: self.label, bytes: &self.bytes[..self.len] }
    }
}

impl<'a, 'r> Mover<'a, 'r> {
    pub(super) fn new(core: &'a Core, route: Route<'r>) -> Self {
        sync::assert_no_lock_held("moving what lives in a segment");
        let (roomy, refused) = (TierMask::ALL, TierMask::NONE);
        Mover { core, route, roomy, refused, unwritten: false, batch: None, moved: Moved::default() }
    }

    /// Move what lives in a segment, until `stop` says so, which is asked before each object. What one device fails to write is offered to the
    /// next; where none is left that has room, those that refused are cleaned.
    pub(super) fn segment(&mut self, device: &DeviceRef<'_>, id: SegmentId, stop: &dyn Fn(&Moved) -> bool) {
        if !self.has_candidates(device, id) {
            return; // nor is it read
        }
        let mut made_room = false;
        loop {
            let (objects, stranded) = (self.moved.objects(), self.moved.stranded);
            self.segment_once(device, id, stop);
            let unwritten = std::mem::take(&mut self.unwritten);
            let To::Others(allowed) = self.route.to else { return };
            if stop(&self.moved) {
                return;
            }
            // One device less each time.
            let next = unwritten && !allowed.within(self.roomy).without(device.number()).is_nowhere();
            if !next {
                let refused = std::mem::replace(&mut self.refused, TierMask::NONE);
                let in_vain = made_room && self.moved.objects() == objects;
                if refused.is_empty() || in_vain {
                    return;
                }
                // Without the lease: who cleans those devices may be about to move objects to this one.
                let (geometry, to) = (self.core.devices.geometry(), allowed.within(refused).without(device.number()));
                match self.core.begin_batch(&to, geometry.pages_for(PAGE_SIZE), geometry.batch_pages) {
                    Ok(batch) => drop(batch),
                    Err(_) => return,
                }
                made_room = true;
                self.roomy = TierMask::from_bits(self.roomy.bits() | refused.bits());
            }
            // Those are looked at as if for the first time.
            self.moved.touched -= self.moved.stranded - stranded;
            self.moved.stranded = stranded;
            self.moved.device_refused = None;
        }
    }

    /// Whether no object may go anywhere any more.
    pub(super) fn is_nowhere(&self) -> bool {
        match self.route.to {
            _ if self.route.pool => false,
            To::Same => false,
            To::Others(allowed) => allowed.within(self.roomy).is_nowhere(),
            To::Nowhere => true,
        }
    }

    /// Whether there may be an object that is to go, and may go somewhere.
    fn has_candidates(&self, device: &DeviceRef<'_>, id: SegmentId) -> bool {
        let To::Others(allowed) = self.route.to else { return true };
        let may_go = |payer: ObjcgId| {
            let tiers = self.core.tree.allowed_tiers(payer) & self.roomy;
            (self.route.whose)(payer) && !allowed.within(tiers).is_nowhere()
        };
        self.route.pool || device.objects_of(id).iter().any(|(_, tenant)| may_go(ObjcgId::from_raw(tenant.payer)))
    }

    fn segment_once(&mut self, device: &DeviceRef<'_>, id: SegmentId, stop: &dyn Fn(&Moved) -> bool) {
        let mut lease = match device.lease_segment() {
            Ok(lease) => lease,
            Err(hung) => {
                (self.moved.failed, self.moved.hung) = (Some(hung.to_string()), true);
                return;
            }
        };
        let (objects, mut image) = match device.read_segment(id, &mut lease) {
            Ok(None) => return,
            Ok(Some(image)) => (image.objects().to_vec(), Some(image)),
            // One bad sector costs the objects on it, and no others.
            Err(swap::Error::Io { .. }) => (device.objects_of(id), None),
            Err(hung) => {
                (self.moved.failed, self.moved.hung) = (Some(hung.to_string()), true);
                return;
            }
        };
        if let Err(failed) = self.core.steps.reach(Step::SegmentRead) {
            self.moved.failed = Some(failed.to_string());
            return;
        }
        let mut opened = Opened::new();
        let mut left: usize = objects.iter().map(|(place, _)| usize::from(place.blocks)).sum();
        for (i, &(place, tenant)) in objects.iter().enumerate() {
            if stop(&self.moved) {
                break;
            }
            let and_behind = left;
            left -= usize::from(place.blocks);
            if !(self.route.whose)(ObjcgId::from_raw(tenant.payer)) {
                self.moved.foreign += 1;
                continue;
            }
            self.moved.touched += 1;
            let Some(one) = self.look(place, tenant) else { continue };
            if self.open(&one, image.as_mut().map(|image| (image, i)), &mut opened) {
                self.send(&one, &opened, and_behind);
            }
        }
        // While the lease is ours: who has it may wait for a write buffer, but nobody waits the other way round.
        self.flush();
    }

    /// See whether the slot of a reverse word names the place, and is not on its way.
    fn look(&mut self, place: Place, tenant: Tenant) -> Option<One> {
        let guard = self.core.slots.lock_owner(tenant.owner);
        match guard.filter(|guard| names(guard, place)) {
            Some(guard) if guard.word().writeback() => self.moved.busy += 1,
            Some(guard) => return Some(One { place, tenant, slot: guard.slot(), word: guard.word() }),
            // Freed meanwhile, or not named yet.
            None if self.core.devices.get(place.device).is_some_and(|device| device.tenant(place).is_some()) => {
                self.moved.busy += 1;
            }
            None => self.moved.gone += 1,
        }
        None
    }

    /// Verify the object. False when that is its end here.
    fn open(&mut self, one: &One, image: Option<(&mut SegmentImage<'_, '_>, usize)>, opened: &mut Opened) -> bool {
        if let Some((image, i)) = image
            && let Ok(object) = image.open(i, one.slot.0)
        {
            opened.take(&object);
            return true;
        }
        // Alone: the image may be older than the object, or another's sector may have failed the read.
        match self.core.devices.read(one.place, one.slot.0, |object| opened.take(&object)) {
            Ok(()) => return true,
            Err(failure) => match self.core.unread(one.slot, one.word, one.place, failure) {
                None => self.moved.gone += 1,
                Some(super::Error::Lost { .. }) => self.moved.lost += 1,
                Some(error) => {
                    self.moved.busy += 1;
                    self.moved.failed = Some(error.to_string());
                }
            },
        }
        false
    }

    /// Send it where it may go. So many blocks are left in its segment, its own included.
    fn send(&mut self, one: &One, opened: &Opened, left: usize) {
        if self.route.pool {
            match self.core.promote(one.tenant.owner, one.place, &opened.as_ref()) {
                Promoted::Done => {
                    self.moved.to_pool += 1;
                    self.moved.count(one.place, opened.len);
                    return;
                }
                Promoted::Overtaken => return self.moved.gone += 1,
                Promoted::Failed(failed) => {
                    self.moved.failed = Some(failed.to_string());
                    return self.moved.busy += 1;
                }
                Promoted::Refused(why) => self.moved.refused = Some(why.to_string()),
            }
        }
        match self.launch(one, opened, left) {
            Launched::Off => {}
            Launched::Overtaken => self.moved.gone += 1,
            Launched::Busy => self.moved.busy += 1,
            Launched::Nowhere => self.moved.stranded += 1,
        }
    }

    /// Copy it into a batch.
    fn launch(&mut self, one: &One, opened: &Opened, left: usize) -> Launched {
        let core = self.core;
        loop {
            let may_convert = self.route.to != To::Same;
            let Some(going) = self.batch_for(one, left) else { return Launched::Nowhere };
            let whole = may_convert && going.batch.device().whole_pages() && !opened.is_raw();
            if !going.batch.fits(if whole { PAGE_SIZE } else { opened.len }) {
                self.flush();
                continue;
            }
            let trusting = core.planted.is(Bug::MoveTrustsReverseWord);
            let at_place = |guard: &SlotGuard<'_>| names(guard, one.place) || trusting && !guard.word().is_empty();
            let Some(mut guard) = core.slots.lock_owner(one.tenant.owner).filter(at_place) else {
                return Launched::Overtaken;
            };
            if guard.word().writeback() {
                return Launched::Busy;
            }
            let Some(marked) = Marked::begin(core, &mut guard) else {
                drop(guard);
                if going.flights.len() == 0 {
                    return Launched::Busy;
                }
                self.flush();
                continue;
            };
            let payer = whole.then(|| core.tree.borrow(ObjcgId::from_raw(one.tenant.payer)));
            drop(guard);
            if let Err(failed) = core.steps.reach(Step::PlaceMarked) {
                self.moved.failed = Some(failed.to_string());
                return Launched::Busy;
            }
            let toll = match payer.map(|payer| PlaceCharge::take(&core.tree, payer, PAGE_SIZE)) {
                None => Toll::Carried,
                Some(Ok(charge)) => Toll::Paid(charge),
                Some(Err(hit)) => {
                    self.moved.device_refused = Some(hit.to_string());
                    return Launched::Nowhere;
                }
            };
            let mut page = [0; PAGE_SIZE];
            let mut payload = Payload::of(&opened.as_ref());
            if whole {
                payload = match core.unpack(one.slot, payload, &mut page) {
                    Ok(raw) => raw,
                    Err(_) => return Launched::Nowhere, // a load will say what is wrong with it
                };
            }
            let (label, bytes) = (payload.label(NodeId(opened.label.node)), payload.bytes);
            let to = going.batch.push(one.slot.0, label, one.tenant, bytes.len(), |to| to.copy_from_slice(bytes));
            let to = to.expect("it was asked whether it fits");
            let mut flight = Flight::new(marked, Some(one.place), to, toll, opened.len);
            let failed = core.steps.reach(Step::PlaceCopied).err();
            if failed.is_some() {
                flight.abort();
            }
            going.flights.push(one.place.len_bytes(), flight);
            self.moved.failed = failed.map(|failed| failed.to_string()).or(self.moved.failed.take());
            self.moved.under_way += opened.len as u64;
            self.moved.leaving_bytes += one.place.len_bytes() as u64;
            return Launched::Off;
        }
    }

    /// The batch that is being filled, if it may have this object, or another.
    fn batch_for(&mut self, one: &One, left: usize) -> Option<&mut Going<'a>> {
        let core = self.core;
        let tiers = core.tree.allowed_tiers(ObjcgId::from_raw(one.tenant.payer));
        if self
            .batch
            .as_ref()
            .is_some_and(|going| self.route.to != To::Same && !tiers.contains(going.batch.device().tier()))
        {
            self.flush();
        }
        if self.batch.is_none() {
            let geometry = core.devices.geometry();
            let begun = match self.route.to {
                To::Nowhere => return None,
                To::Same => {
                    let pages = left.div_ceil(geometry.blocks_per_page()).clamp(1, geometry.batch_pages);
                    core.devices.begin_for_cleaning(one.place.device, pages, pages)
                }
                To::Others(allowed) => {
                    let allowed = allowed.within(tiers & self.roomy).without(one.place.device);
                    if allowed.is_nowhere() {
                        return None; // its payer may not go there; others' may
                    }
                    core.devices.begin(&allowed, geometry.pages_for(PAGE_SIZE), geometry.batch_pages)
                }
            };
            match begun {
                Ok(batch) if core.steps.reach(Step::MoveBegun).is_ok() => {
                    self.batch = Some(Going { batch, flights: Flights::new(core, WRITEBACK_BATCH, LANDING) });
                }
                Ok(_) => return None,
                Err(refused) => {
                    self.moved.device_refused = Some(refused.to_string());
                    match self.route.to {
                        // The rest of a segment does not make it free, and takes up what is kept for one.
                        To::Same => self.route.to = To::Nowhere,
                        _ => {
                            let tiers = tiers & self.roomy;
                            self.roomy = TierMask::from_bits(self.roomy.bits() & !tiers.bits());
                            self.refused = TierMask::from_bits(self.refused.bits() | tiers.bits());
                        }
                    }
                    return None;
                }
            }
        }
        self.batch.as_mut()
    }

    /// Write what is in the batch, and have it land.
    fn flush(&mut self) {
        let Some(Going { batch, mut flights }) = self.batch.take() else { return };
        (self.moved.under_way, self.moved.leaving_bytes) = (0, 0);
        if flights.len() == 0 {
            return;
        }
        let number = batch.number();
        match batch.write() {
            Ok(written) => self.moved.written_bytes += written.device_bytes,
            Err(error) => {
                self.core.counters.failed_writes.add(1);
                self.moved.stranded += flights.len() as u64;
                self.moved.device_refused = Some(error.to_string());
                if let To::Others(allowed) = &mut self.route.to {
                    *allowed = allowed.without(number);
                    self.unwritten = true;
                } else {
                    self.route.to = To::Nowhere;
                }
                return;
            }
        }
        flights.arrive();
        if let Err(failed) = self.core.steps.reach(Step::MoveWritten) {
            self.moved.failed = Some(failed.to_string());
            return;
        }
        let (moved, all) = (&mut self.moved, flights.len() as u64);
        let before = moved.to_places;
        let failed = flights.land(false, |blocks_bytes, payload| {
            moved.to_places += 1;
            moved.payload_bytes += payload;
            moved.left_bytes += blocks_bytes as u64;
        });
        // The others were cancelled.
        moved.gone += all - (moved.to_places - before);
        moved.failed = failed.map(|failed| failed.to_string()).or(moved.failed.take());
    }
}

/// What became of an object that was to be copied into a batch.
enum Launched {
    Off,
    Overtaken,
    Busy,
    Nowhere,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_sent_and_not_yet_moved() {
        let mut moved = Moved { to_pool: 3, to_places: 40, under_way: 1000, leaving_bytes: 20_000, ..Moved::default() };
        moved.count(Place { device: 1, block: 2, blocks: 5, generation: 0 }, 300);
        moved.count(Place { device: 1, block: 9, blocks: 1, generation: 0 }, 7);
        let blocks = 6 * crate::swap::BLOCK_BYTES as u64;
        assert_eq!((moved.objects(), moved.payload_bytes, moved.left_bytes), (43, 307, blocks));
        assert_eq!((moved.payload_sent(), moved.blocks_sent()), (1307, 20_000 + blocks));
    }
}
