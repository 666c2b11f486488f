//! A store of pages: compressed in memory, on swap devices when colder, charged to groups with limits.

use crate::call::{enter, invalid};
use crate::handle::{Kind, Object, open};
use crate::sized::sized;
use crate::status::zsp_status;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zspool_core::zswap::Zswap;

/// No limit, where a limit is asked for.
pub const ZSP_NO_LIMIT: u64 = u64::MAX;

/// A store of pages.
pub struct zsp_zswap(());

/// What a store is to be.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_zswap_options {
    /// sizeof(struct zsp_zswap_options).
    pub size: usize,
    /// Bytes of memory that compressed pages may take at any instant. ZSP_NO_LIMIT: all there is.
    pub pool_limit_bytes: u64,
    /// Bytes in use on all swap devices together; 0: as many as they have.
    pub swap_limit_bytes: u64,
    /// Bytes of address space for the pool; 0: 16 times the machine's memory, less where the system refuses that.
    pub address_space_bytes: u64,
    /// Threads that can compress at once; 0: the machine's cores.
    pub compressing_threads: u64,
    /// Not 0: no thread keeps the pool below its limit; who stores makes room.
    pub no_worker: u64,
    /// Not 0: what goes to devices is not encrypted, with a checksum against accidents only.
    pub no_encryption: u64,
}
sized!(
    zsp_zswap_options,
    56,
    [pool_limit_bytes, swap_limit_bytes, address_space_bytes, compressing_threads, no_worker, no_encryption]
);

/// What a store holds and did.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_zswap_stats {
    /// sizeof(struct zsp_zswap_stats).
    pub size: usize,
    /// Bytes of memory that the pool takes, at most `limit_bytes`.
    pub backed_bytes: u64,
    /// The pool's limit.
    pub limit_bytes: u64,
    /// Bytes of tables for the slots in use.
    pub slot_table_bytes: u64,
    /// Slots with compressed bytes in the pool.
    pub compressed_pages: u64,
    /// Bytes that compression made of these and of the next.
    pub payload_bytes: u64,
    /// Slots with a page in the pool that does not shrink.
    pub incompressible_pages: u64,
    /// Slots whose page repeats one word, which takes nothing or 8 bytes.
    pub same_filled_pages: u64,
    /// Slots whose page is on a device.
    pub device_pages: u64,
    /// Bytes of those on the devices.
    pub device_bytes: u64,
    /// Slots whose page could not be read back.
    pub lost_pages: u64,
    /// Pages that went to a device without entering the pool, so far.
    pub written_through: u64,
    /// Stores that were refused so far.
    pub refused: u64,
    /// Reads from devices that failed so far.
    pub failed_loads: u64,
    /// Batches that devices failed to write so far.
    pub failed_writes: u64,
}
sized!(
    zsp_zswap_stats,
    120,
    [
        backed_bytes,
        limit_bytes,
        slot_table_bytes,
        compressed_pages,
        payload_bytes,
        incompressible_pages,
        same_filled_pages,
        device_pages,
        device_bytes,
        lost_pages,
        written_through,
        refused,
        failed_loads,
        failed_writes
    ]
);

/// What a handle is of.
pub(crate) struct Store {
    pub(crate) zswap: Arc<Zswap>,
    /// An engine was made over it.
    engaged: AtomicBool,
}

impl Object for Store {
    type Opaque = zsp_zswap;
    const KIND: Kind = Kind::Zswap;
}

impl Store {
    /// Whether no engine was made over it before.
    pub(crate) fn engage(&self) -> bool {
        !self.engaged.swap(true, Ordering::Relaxed)
    }

    /// It was not made after all.
    pub(crate) fn disengage(&self) {
        self.engaged.store(false, Ordering::Relaxed);
    }
}

/// Make a store: `*zswap` is its handle, NULL if it was refused. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_new(options: *const zsp_zswap_options, zswap: *mut *mut zsp_zswap) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(zswap, "zswap")?;
        let options = call.options(options, "options")?;
        if options.pool_limit_bytes == 0 {
            return Err(invalid(format_args!(
                "pool_limit_bytes is 0: say how many bytes of memory compressed pages may take, or ZSP_NO_LIMIT"
            )));
        }
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut builder = Zswap::builder()
            .pool_limit(options.pool_limit_bytes)
            .worker(options.no_worker == 0)
            .encryption(options.no_encryption == 0);
        if options.swap_limit_bytes > 0 {
            builder = builder.swap_limit(options.swap_limit_bytes);
        }
        if options.address_space_bytes > 0 {
            builder = builder.address_space(size(options.address_space_bytes));
        }
        match options.compressing_threads {
            0 => {}
            threads @ 1..=MOST_THREADS => builder = builder.compressing_threads(size(threads)),
            threads => {
                return Err(invalid(format_args!(
                    "compressing_threads is {threads}: ask for {MOST_THREADS} at most, or for 0"
                )));
            }
        }
        to.set(open(Store { zswap: Arc::new(builder.build()?), engaged: AtomicBool::new(false) }));
        Ok(())
    })
}

/// Each has scratch memory of its own.
const MOST_THREADS: u64 = 4096;

/// Close a store's handle. The store goes with its engine and the last of its VMs, and its swapfiles with it. NULL is ignored. Any thread, when no other call uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_close(zswap: *mut zsp_zswap) -> zsp_status {
    enter(|call| call.close::<Store>(zswap, "zswap"))
}

/// What the store holds and did. Any thread; exact while nobody stores or frees.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_get_stats(zswap: *const zsp_zswap, stats: *mut zsp_zswap_stats) -> zsp_status {
    enter(|call| {
        let now = call.object::<Store>(zswap, "zswap")?.zswap.stats();
        call.fill(
            stats,
            "stats",
            &zsp_zswap_stats {
                size: 0,
                backed_bytes: now.backed_bytes,
                limit_bytes: now.limit_bytes,
                slot_table_bytes: now.slot_table_bytes,
                compressed_pages: now.compressed_pages,
                payload_bytes: now.pool.payload_bytes,
                incompressible_pages: now.incompressible_pages,
                same_filled_pages: now.same_filled_pages + now.pattern_pages,
                device_pages: now.physical_pages,
                device_bytes: now.area.as_ref().map_or(0, |area| area.live_bytes),
                lost_pages: now.lost_pages,
                written_through: now.written_through,
                refused: now.refused,
                failed_loads: now.failed_loads,
                failed_writes: now.failed_writes,
            },
        )
    })
}
