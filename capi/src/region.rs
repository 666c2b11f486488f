//! A region: a registered range of memory; and pins of its pages.

use crate::call::{Outcome, enter, invalid, refuse};
use crate::handle::{Kind, Object, open};
use crate::kept::Kept;
use crate::sized::sized;
use crate::status::zsp_status::{self, ZSP_EBUSY};
use crate::vm::zsp_evicted;
use std::ops::Range;
use std::sync::Arc;
use zspool_core::guest::{Pin, Region};

/// A registered range of memory.
pub struct zsp_region(());

/// Pages that stay in memory.
pub struct zsp_pin(());

/// Pages that were brought in ahead.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_prefetched {
    /// sizeof(struct zsp_prefetched).
    pub size: usize,
    /// Pages that are in memory now and were not.
    pub pages: u64,
    /// Pages that were left: a limit is reached, or they cannot be read.
    pub left: u64,
}
sized!(zsp_prefetched, 24, [pages, left]);

impl Object for Arc<Region> {
    type Opaque = zsp_region;
    const KIND: Kind = Kind::Region;
}

type Pinned = Kept<Pin<'static>, Region>;

impl Object for Pinned {
    type Opaque = zsp_pin;
    const KIND: Kind = Kind::Pin;
}

/// A part of a region.
fn range(offset: usize, bytes: usize) -> Outcome<Range<usize>> {
    match offset.checked_add(bytes) {
        Some(end) => Ok(offset..end),
        None => Err(invalid(format_args!(
            "{bytes} bytes from {offset} on are more than there are numbers: see how they were computed"
        ))),
    }
}

/// Bring everything in and give the range back: the handle is closed, and the memory is as it was before, all there. Threads may use it
/// all the while. When a page cannot be read (`ZSP_ELOST`, `ZSP_EIO`) or pins are left (`ZSP_EBUSY`) it is refused, and everything stays as
/// it was: try again, discard the page, or close the pins. Any thread, when no other call uses the handle; before the memory is unmapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_region_unregister(region: *mut zsp_region) -> zsp_status {
    enter(|call| {
        call.close_unless::<Arc<Region>>(region, "region", |region| match Arc::try_unwrap(region) {
            Ok(region) => region.unregister().map_err(|(region, error)| (Arc::new(region), error.into())),
            Err(region) => {
                let pins = Arc::strong_count(&region) - 1;
                let sentence =
                    format_args!("the region has {pins} pins: close them with zsp_unpin before it is unregistered");
                Err((region, refuse(ZSP_EBUSY, sentence)))
            }
        })
    })
}

/// Bring pages in and keep them there, for devices and system calls that look at them: `bytes` bytes from `offset` in the region, whole
/// pages. `*pin` is a handle for `zsp_unpin`, NULL if it was refused; then nothing is pinned by this. Pins nest, up to 255 a page. Any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_region_pin(
    region: *const zsp_region,
    offset: usize,
    bytes: usize,
    pin: *mut *mut zsp_pin,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(pin, "pin")?;
        let region = call.object::<Arc<Region>>(region, "region")?;
        let range = range(offset, bytes)?;
        to.set(open(Pinned::new(region, |region| region.pin(range))?));
        Ok(())
    })
}

/// Close a pin: its pages may leave again. NULL is ignored. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_unpin(pin: *mut zsp_pin) -> zsp_status {
    enter(|call| call.close::<Pinned>(pin, "pin"))
}

/// Throw pages away, wherever they are: they read as zeroes from then on, and nothing is charged for them. For balloons and free pages,
/// instead of madvise. `thrown`, how many bytes were somewhere, may be NULL. `ZSP_EBUSY` for a pinned page. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_region_discard(
    region: *const zsp_region,
    offset: usize,
    bytes: usize,
    thrown: *mut u64,
) -> zsp_status {
    enter(|call| {
        let region = call.object::<Arc<Region>>(region, "region")?;
        let mut told = call.out_or_none(thrown, "thrown")?;
        let thrown = region.discard(range(offset, bytes)?)?;
        told.iter_mut().for_each(|told| told.set(thrown));
        Ok(())
    })
}

/// Have these pages leave, compressed, however hot they are; but those that are pinned. `evicted` may be NULL. Any thread that is not in a
/// handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_region_evict(
    region: *const zsp_region,
    offset: usize,
    bytes: usize,
    evicted: *mut zsp_evicted,
) -> zsp_status {
    enter(|call| {
        let region = call.object::<Arc<Region>>(region, "region")?;
        call.check_fill(evicted, "evicted")?;
        let range = inside(region, range(offset, bytes)?)?;
        call.fill_if_wanted(evicted, "evicted", &region.evict(range).into())
    })
}

/// Bring pages in that are compressed or on devices, as far as nothing has to leave for them. `prefetched` may be NULL. Any thread that is
/// not in a handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_region_prefetch(
    region: *const zsp_region,
    offset: usize,
    bytes: usize,
    prefetched: *mut zsp_prefetched,
) -> zsp_status {
    enter(|call| {
        let region = call.object::<Arc<Region>>(region, "region")?;
        call.check_fill(prefetched, "prefetched")?;
        let done = region.prefetch(inside(region, range(offset, bytes)?)?);
        let numbers = zsp_prefetched { size: 0, pages: done.pages, left: done.left };
        call.fill_if_wanted(prefetched, "prefetched", &numbers)
    })
}

/// Those calls pass over what lies outside; here it is told, as with the others.
fn inside(region: &Region, range: Range<usize>) -> Outcome<Range<usize>> {
    let there = region.addresses().len();
    if range.end <= there {
        return Ok(range);
    }
    Err(invalid(format_args!(
        "{range:#x?} is outside of the region, which has {there:#x} bytes: ask for what lies inside"
    )))
}
