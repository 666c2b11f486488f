//! The pool alone: objects of 1 to 4096 bytes in memory that has a limit, named by handles of 64 bits; and looking at them.

use crate::call::{enter, invalid, refuse};
use crate::handle::{Kind, Object, open};
use crate::kept::Kept;
use crate::sized::sized;
use crate::status::zsp_status::{self, ZSP_ERANGE};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;
use zspool_core::zsmalloc::{Compactor, DEFAULT_WASTE_PER_MILLE, Handle, HandleCells, Pool, ReadGuard};

/// A pool of objects.
pub struct zsp_pool(());

/// What a pool is to be.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_pool_options {
    /// sizeof(struct zsp_pool_options).
    pub size: usize,
    /// Bytes of memory that the pool may take at any instant. Tables of some 20 bytes an object come on top. ZSP_NO_LIMIT: all there is.
    pub limit_bytes: u64,
    /// Bytes of address space for it; 0: 16 times the machine's memory, less where the system refuses that.
    pub address_space_bytes: u64,
    /// Not 0: a thread compacts the pool when more than 2.5 percent are wasted, and gives memory back that is not used.
    pub background: u64,
}
sized!(zsp_pool_options, 32, [limit_bytes, address_space_bytes, background]);

/// Where a pool's memory goes, in bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_pool_usage {
    /// sizeof(struct zsp_pool_usage).
    pub size: usize,
    /// Objects.
    pub objects: u64,
    /// Bytes that were inserted.
    pub payload_bytes: u64,
    /// What their slots are larger.
    pub rounding_bytes: u64,
    /// Free slots between them, which compaction packs.
    pub free_slot_bytes: u64,
    /// Ends of pages that no slot has.
    pub tail_bytes: u64,
    /// Pages that are kept for what comes next.
    pub warm_bytes: u64,
    /// Those together, as the limit counts them: never more than it.
    pub backed_bytes: u64,
    /// Tables beside them.
    pub metadata_bytes: u64,
}
sized!(
    zsp_pool_usage,
    72,
    [objects, payload_bytes, rounding_bytes, free_slot_bytes, tail_bytes, warm_bytes, backed_bytes, metadata_bytes]
);

/// What a compaction did.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_compacted {
    /// sizeof(struct zsp_compacted).
    pub size: usize,
    /// Objects that were moved; their handles stay good.
    pub moved_objects: u64,
    /// Bytes of their slots.
    pub moved_bytes: u64,
    /// Pages of 4096 bytes that the pool takes less now.
    pub frames_won: u64,
    /// Not 0: the budget ended it, there may be more to do.
    pub out_of_budget: u64,
}
sized!(zsp_compacted, 40, [moved_objects, moved_bytes, frames_won, out_of_budget]);

/// An object being looked at. It may be moved to another variable, but not copied and released twice.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_view {
    /// The object's bytes; NULL when nothing is held.
    pub bytes: *const c_void,
    /// How many they are.
    pub length: usize,
    /// The library's.
    pub held: [MaybeUninit<u64>; 12],
}

impl zsp_view {
    /// Of nothing.
    const NONE: zsp_view = zsp_view { bytes: std::ptr::null(), length: 0, held: [MaybeUninit::new(0); 12] };
}

/// What a handle is of.
pub(crate) struct Held {
    // Dropped first: its thread has the pool too.
    _compactor: Option<Compactor>,
    pool: Arc<Pool>,
}

impl Object for Held {
    type Opaque = zsp_pool;
    const KIND: Kind = Kind::Pool;
}

/// What is in a view's `held`, behind its mark.
type View = Kept<ReadGuard<'static, HandleCells>, Pool>;

/// The first word of a view that holds something.
const MARK: u64 = 0x7a73_705f_7669_6577;

const _: () = {
    assert!(size_of::<View>() <= 11 * size_of::<u64>());
    assert!(align_of::<View>() <= align_of::<u64>());
};

/// Make a pool: `*pool` is its handle, NULL if it was refused. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_new(options: *const zsp_pool_options, pool: *mut *mut zsp_pool) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(pool, "pool")?;
        let options = call.options(options, "options")?;
        if options.limit_bytes == 0 {
            return Err(invalid(format_args!(
                "limit_bytes is 0: say how many bytes of memory the pool may take, or ZSP_NO_LIMIT"
            )));
        }
        let mut builder = Pool::builder().limit(options.limit_bytes);
        if options.address_space_bytes > 0 {
            builder = builder.address_space(usize::try_from(options.address_space_bytes).unwrap_or(usize::MAX));
        }
        let pool = Arc::new(builder.build()?);
        let compactor = (options.background != 0).then(|| Compactor::start(&pool, Some(DEFAULT_WASTE_PER_MILLE)));
        let compactor = compactor.transpose().map_err(|error| {
            refuse(
                zsp_status::ZSP_ENOMEM,
                format_args!("cannot start the pool's thread ({error}): raise `ulimit -u`, or leave `background` at 0"),
            )
        })?;
        to.set(open(Held { _compactor: compactor, pool }));
        Ok(())
    })
}

/// Close a pool. Its objects go; those that are being looked at when their views are released. NULL is ignored. Any thread, when no other
/// call uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_close(pool: *mut zsp_pool) -> zsp_status {
    enter(|call| call.close::<Held>(pool, "pool"))
}

/// Put `length` bytes in, 1 to 4096: `*object` is their handle, never 0, and no other object ever has it. `ZSP_ELIMIT` when the pool is
/// full: remove something, or compact. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_insert(
    pool: *const zsp_pool,
    bytes: *const c_void,
    length: usize,
    object: *mut u64,
) -> zsp_status {
    enter(|call| {
        let mut to = call.out(object, "object")?;
        let handle = call.object::<Held>(pool, "pool")?.pool.insert(call.bytes(bytes, length, "bytes")?)?;
        to.set(handle.raw());
        Ok(())
    })
}

/// Copy an object to `to`, which has room for `room` bytes; 4096 are always enough. `*length` is how long it is, also with `ZSP_ERANGE`,
/// when it does not fit and nothing was copied. `ZSP_ESTALE` when it was removed. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_read(
    pool: *const zsp_pool,
    object: u64,
    to: *mut c_void,
    room: usize,
    length: *mut usize,
) -> zsp_status {
    enter(|call| {
        let held = call.object::<Held>(pool, "pool")?;
        let (to, mut length) = (call.room(to, room, "to")?, call.out(length, "length")?);
        let object = held.pool.get(Handle::from_raw(object))?;
        length.set(object.len());
        let Some(to) = to.get_mut(..object.len()) else {
            return Err(refuse(
                ZSP_ERANGE,
                format_args!("the object has {} bytes and there is room for {room}", object.len()),
            ));
        };
        to.copy_from_slice(&object);
        Ok(())
    })
}

/// Look at an object where it lies, without a copy: `view->bytes` and `view->length`, until `zsp_view_release`. It stays readable also
/// when it is removed, moved by compaction, or its pool is closed meanwhile. At most 63 views hold one object: one more waits for one of
/// them to be released. `ZSP_ESTALE` when it was removed; `view->bytes` is NULL then. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_view(pool: *const zsp_pool, object: u64, view: *mut zsp_view) -> zsp_status {
    enter(|call| {
        let mut to = call.out(view, "view")?;
        to.set(zsp_view::NONE);
        let held = call.object::<Held>(pool, "pool")?;
        let view = View::new(&held.pool, |pool| pool.get(Handle::from_raw(object)))?;
        let bytes: &[u8] = view.get();
        let mut shown = zsp_view { bytes: bytes.as_ptr().cast(), length: bytes.len(), ..zsp_view::NONE };
        shown.held[0] = MaybeUninit::new(MARK);
        let place = shown.held[1..].as_mut_ptr().cast::<View>();
        // SAFETY: there is room for a `View`, aligned, behind the mark, as asserted above. Its padding and the provenance of its pointers are kept
        // by whoever copies it: these are bytes of any kind.
        unsafe { place.write(view) };
        to.set(shown);
        Ok(())
    })
}

/// Look no longer. `view->bytes` is NULL after it; a view that holds nothing is refused. Any thread, also another than the one that looked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_view_release(view: *mut zsp_view) -> zsp_status {
    enter(|call| {
        let view = call.variable(view, "view")?;
        // SAFETY: a variable that was filled by us, or by the caller, as the header asks: the first word always is.
        if view.bytes.is_null() || unsafe { view.held[0].assume_init() } != MARK {
            return Err(invalid(format_args!("the view holds nothing: release what zsp_pool_view has filled, once")));
        }
        let place = view.held[1..].as_ptr().cast::<View>();
        // SAFETY: the mark says that one was written there and not taken out yet.
        let held = unsafe { place.read() };
        *view = zsp_view::NONE;
        drop(held);
        Ok(())
    })
}

/// Take an object out. Its handle is `ZSP_ESTALE` for ever after. Allocates nothing. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_remove(pool: *const zsp_pool, object: u64) -> zsp_status {
    enter(|call| Ok(call.object::<Held>(pool, "pool")?.pool.remove(Handle::from_raw(object))?))
}

/// Move objects together, until no page of memory can be won or `budget_bytes` were moved. `compacted` may be NULL. Any thread, while
/// others use the pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_compact(
    pool: *const zsp_pool,
    budget_bytes: u64,
    compacted: *mut zsp_compacted,
) -> zsp_status {
    enter(|call| {
        call.check_fill(compacted, "compacted")?;
        let done = call.object::<Held>(pool, "pool")?.pool.compact(budget_bytes);
        call.fill_if_wanted(
            compacted,
            "compacted",
            &zsp_compacted {
                size: 0,
                moved_objects: done.moved_objects,
                moved_bytes: done.moved_bytes,
                frames_won: done.frames_won(),
                out_of_budget: done.out_of_budget.into(),
            },
        )
    })
}

/// Where the pool's memory goes. Any thread; exact while nobody inserts or removes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_pool_get_usage(pool: *const zsp_pool, usage: *mut zsp_pool_usage) -> zsp_status {
    enter(|call| {
        let pool = &call.object::<Held>(pool, "pool")?.pool;
        let now = pool.usage();
        call.fill(
            usage,
            "usage",
            &zsp_pool_usage {
                size: 0,
                objects: pool.stats().objects,
                payload_bytes: now.payload_bytes,
                rounding_bytes: now.rounding_bytes,
                free_slot_bytes: now.free_slot_bytes,
                tail_bytes: now.tail_bytes,
                warm_bytes: now.warm_bytes,
                backed_bytes: now.backed_bytes(),
                metadata_bytes: now.metadata_bytes(),
            },
        )
    })
}
