//! Pages in slots: store, load, take, free. All but the store may run in the handler of a fault on the program's own memory.

use crate::call::{Outcome, Refused, enter, refuse};
use crate::memcg::zsp_memcg;
use crate::sized::sized;
use crate::status::{Coded, zsp_status};
use crate::zswap::{Store, zsp_zswap};
use std::ffi::{c_int, c_void};
use zspool_core::memcg::Memcg;
use zspool_core::swap::Why;
use zspool_core::units::{NodeId, Slot, SlotRange};
use zspool_core::zswap::{Error, Installed, Stored, Taken};

/// How a page was stored.
#[repr(C)]
pub enum zsp_form {
    /// Compressed, in the pool.
    ZSP_COMPRESSED = 0,
    /// It repeats one word, and takes nothing, or 8 bytes.
    ZSP_SAME_FILLED = 1,
    /// As it is, in the pool: it does not shrink.
    ZSP_INCOMPRESSIBLE = 2,
    /// On a device: a limit does not admit it to the pool.
    ZSP_WRITTEN_THROUGH = 3,
    /// In another way that came later.
    ZSP_FORM_OTHER = 4,
}

/// How a page was stored.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_stored {
    /// sizeof(struct zsp_stored).
    pub size: usize,
    /// enum zsp_form.
    pub form: u64,
    /// Bytes of pool memory that are charged for it.
    pub charged_bytes: u64,
}
sized!(zsp_stored, 24, [form, charged_bytes]);

/// What became of a slot whose page was taken.
#[repr(C)]
pub enum zsp_taken {
    /// The page was installed, and the slot is empty.
    ZSP_TAKEN = 0,
    /// The page was installed. What the slot holds was stored anew or moved meanwhile, so it was left: who alone stores to it frees it.
    ZSP_TAKEN_CHANGED = 1,
    /// The page was not installed: the slot keeps it.
    ZSP_TAKEN_KEPT = 2,
}

/// Installs a page of 4096 bytes; returns 0 when it is where it belongs. It must not end by an exception or longjmp.
pub type zsp_install = Option<unsafe extern "C" fn(context: *mut c_void, page: *const c_void) -> c_int>;

/// Reserve `count` slots: `*first` is the first of so many consecutive numbers, and slot `*first + k` may name page k of a guest. They
/// cost nothing until they are stored to, and their numbers never come back. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_reserve(zswap: *const zsp_zswap, count: u64, first: *mut u64) -> zsp_status {
    enter(|call| {
        let mut to = call.out(first, "first")?;
        to.set(call.object::<Store>(zswap, "zswap")?.zswap.reserve(count)?.base().0);
        Ok(())
    })
}

/// Store the 4096 bytes at `page`, charged to `memcg`, a group of this store. `stored` may be NULL. What the slot held before is gone,
/// also when the store is refused: then the caller's page is the only copy. `ZSP_ELIMIT` when a limit is reached and nothing colder could be
/// written to a device. Any thread, but not in handlers: it may allocate, and wait for a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_store(
    zswap: *const zsp_zswap,
    slot: u64,
    memcg: *const zsp_memcg,
    page: *const c_void,
    stored: *mut zsp_stored,
) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        call.check_fill(stored, "stored")?;
        let done = zswap.store(Slot(slot), memcg, NodeId(0), call.page(page, "page")?)?;
        let form = match done {
            Stored::Compressed { .. } => zsp_form::ZSP_COMPRESSED,
            Stored::SameFilled | Stored::Pattern { .. } => zsp_form::ZSP_SAME_FILLED,
            Stored::Incompressible => zsp_form::ZSP_INCOMPRESSIBLE,
            Stored::WrittenThrough => zsp_form::ZSP_WRITTEN_THROUGH,
            _ => zsp_form::ZSP_FORM_OTHER,
        };
        let numbers = zsp_stored { size: 0, form: form as u64, charged_bytes: done.slot_bytes() as u64 };
        call.fill_if_wanted(stored, "stored", &numbers)
    })
}

/// A refusal in words that nothing has to be allocated for.
fn plainly(slot: u64, error: Error) -> Refused {
    match error {
        Error::Lost { slot, loss } => {
            let (slot, device) = (slot.0, loss.device);
            match loss.why {
                Why::Io { errno } => refuse(
                    zsp_status::ZSP_ELOST,
                    format_args!(
                        "the page of slot {slot} is lost: device {device} could not read it (error number {errno}); store it again or free the slot"
                    ),
                ),
                _ => refuse(
                    zsp_status::ZSP_ELOST,
                    format_args!(
                        "the page of slot {slot} is lost: device {device} returned other bytes than were written; store it again or free the slot"
                    ),
                ),
            }
        }
        Error::Read { slot, source } => refuse(
            source.code(),
            format_args!(
                "the page of slot {} could not be read back from its device this time: check the device, and try again",
                slot.0
            ),
        ),
        Error::NotStored { .. } | Error::NeedsIo { .. } | Error::Corrupt { .. } | Error::TooManyReferences { .. } => {
            error.into()
        }
        other => refuse(
            other.code(),
            format_args!("the page of slot {slot} cannot be had: load it where waiting is allowed, which says why"),
        ),
    }
}

fn loaded(slot: u64, done: Result<(), Error>) -> Outcome {
    done.map_err(|error| plainly(slot, error))
}

/// Copy the page of a slot to the 4096 bytes at `page`. The slot keeps it. `ZSP_ENOENT` for an empty slot, `ZSP_ELOST` when it cannot be
/// had any more, `ZSP_EIO` when another try may do better; `page` has no meaning then. Allocates nothing; any thread, also in the handler of
/// a fault on memory of the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_load(zswap: *const zsp_zswap, slot: u64, page: *mut c_void) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        loaded(slot, zswap.load(Slot(slot), call.page_mut(page, "page")?))
    })
}

/// The same, but `ZSP_EWAIT` instead of waiting for a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_try_load(zswap: *const zsp_zswap, slot: u64, page: *mut c_void) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        loaded(slot, zswap.try_load(Slot(slot), call.page_mut(page, "page")?))
    })
}

/// Move the page of a slot to the 4096 bytes at `page`: as `zsp_zswap_load`, and the slot is empty afterwards, unless `*taken`, an
/// enum zsp_taken, is ZSP_TAKEN_CHANGED. It may be NULL: who stores to the slot again, or frees it, need not know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_take(
    zswap: *const zsp_zswap,
    slot: u64,
    page: *mut c_void,
    taken: *mut u32,
) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        let (page, mut told) = (call.page_mut(page, "page")?, call.out_or_none(taken, "taken")?);
        let done = zswap.take_with(Slot(slot), |found| {
            page.copy_from_slice(found);
            Installed::Yes
        });
        let done = number_of(done.map_err(|error| plainly(slot, error))?);
        told.iter_mut().for_each(|told| told.set(done));
        Ok(())
    })
}

/// The same, but `install` puts the page where it belongs (UFFDIO_COPY, say), called on this thread with `context` and without any lock
/// held. The slot is emptied only when it returns 0, so that there is never a moment without a copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_take_with(
    zswap: *const zsp_zswap,
    slot: u64,
    install: zsp_install,
    context: *mut c_void,
    taken: *mut u32,
) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        let mut told = call.out_or_none(taken, "taken")?;
        let Some(install) = install else {
            return Err(refuse(
                zsp_status::ZSP_EINVAL,
                format_args!("`install` is NULL: pass a function, or use zsp_zswap_take"),
            ));
        };
        let done = zswap.take_with(Slot(slot), |page| {
            // SAFETY: the caller's function, with the caller's context, during the call that was given both.
            if unsafe { install(context, page.as_ptr().cast()) } == 0 { Installed::Yes } else { Installed::No }
        });
        let done = number_of(done.map_err(|error| plainly(slot, error))?);
        told.iter_mut().for_each(|told| told.set(done));
        Ok(())
    })
}

fn number_of(taken: Taken) -> u32 {
    (match taken {
        Taken::Freed => zsp_taken::ZSP_TAKEN,
        Taken::Changed => zsp_taken::ZSP_TAKEN_CHANGED,
        Taken::Kept => zsp_taken::ZSP_TAKEN_KEPT,
    }) as u32
}

/// Empty `count` slots from `first` on; those that are empty already are passed over. `freed`, how many held a page, may be NULL. Takes
/// time by slots that were ever used. Allocates nothing; any thread, also in the handler of a fault on memory of the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_free(
    zswap: *const zsp_zswap,
    first: u64,
    count: u64,
    freed: *mut u64,
) -> zsp_status {
    enter(|call| {
        let zswap = &call.object::<Store>(zswap, "zswap")?.zswap;
        let mut told = call.out_or_none(freed, "freed")?;
        if first.checked_add(count).is_none() {
            let sentence = format_args!(
                "{count} slots from {first} on are more than there are numbers: free what zsp_zswap_reserve gave"
            );
            return Err(refuse(zsp_status::ZSP_EINVAL, sentence));
        }
        let done = zswap.free_run(SlotRange::new(Slot(first), count));
        told.iter_mut().for_each(|told| told.set(done));
        Ok(())
    })
}
