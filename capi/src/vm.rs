//! A VM: the memory of one guest, its service of faults, its statistics.

use crate::call::{Call, Outcome, enter, invalid, refuse};
use crate::engine::zsp_engine;
use crate::handle::{Kind, Object, open};
use crate::memcg::zsp_memcg;
use crate::region::zsp_region;
use crate::sized::sized;
use crate::status::zsp_status::{self, ZSP_EUNSUPPORTED};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use zspool_core::guest::memory::Memory;
use zspool_core::guest::{
    Engine, Error, Evicted, FaultAround, FaultKind, Follow, Service, ThreadOptions, Vm, VmOptions,
};
use zspool_core::memcg::Memcg;

/// The memory of one guest.
pub struct zsp_vm(());

/// Who serves faults.
#[repr(C)]
pub enum zsp_service {
    /// The thread that touches a page that is out, in a handler of SIGBUS: the cheapest. System calls on such a page fail with EFAULT: pin
    /// it, or make it resident, before.
    ZSP_IN_THREAD = 0,
    /// Threads of the library. With `kernel_faults` system calls, KVM and vhost wait as loads do.
    ZSP_THREADS = 1,
    /// The caller's event loop: poll `zsp_vm_fd`, then `zsp_vm_serve`. It must not touch the memory itself.
    ZSP_EXTERNAL = 2,
    /// Nobody: pages are brought in by calls before they are touched.
    ZSP_NOBODY = 3,
}

/// Which changes that the program makes to registered memory by itself its pages follow. ZSP_IN_THREAD can follow none.
#[repr(C)]
pub enum zsp_follow {
    /// None: `zsp_region_discard` drops pages.
    ZSP_FOLLOW_NOTHING = 0,
    /// madvise that drops pages.
    ZSP_FOLLOW_DISCARDS = 1,
    /// That, munmap and mremap.
    ZSP_FOLLOW_MAPPINGS = 2,
}

/// For `fault_around`: no neighbours.
pub const ZSP_AROUND_NONE: u32 = u32::MAX;

/// How a VM is served.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_vm_options {
    /// sizeof(struct zsp_vm_options).
    pub size: usize,
    /// enum zsp_service.
    pub service: u32,
    /// ZSP_THREADS: how many; 0: one.
    pub threads: u32,
    /// ZSP_THREADS: the cores they run on, in turn; NULL: any.
    pub cores: *const u32,
    /// How many those are.
    pub core_count: usize,
    /// ZSP_THREADS: say on standard error when one has been at a page for so many milliseconds; 0: never.
    pub watchdog_ms: u32,
    /// Not 0: serve the kernel's accesses too. Needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd.
    pub kernel_faults: u32,
    /// Not 0: `zsp_vm_take_dirty` works. Linux 6.7.
    pub dirty_tracking: u32,
    /// enum zsp_follow.
    pub follow: u32,
    /// Neighbours that come along with a page; 0: 16, and 64 where pages are touched in order.
    pub fault_around: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of compressed copies that are kept of pages that came in and were not written: such a page leaves again for nothing.
    pub kept_bytes: u64,
}
sized!(
    zsp_vm_options,
    64,
    [
        service,
        threads,
        cores,
        core_count,
        watchdog_ms,
        kernel_faults,
        dirty_tracking,
        follow,
        fault_around,
        reserved,
        kept_bytes
    ]
);

/// A VM's numbers at one moment.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_vm_stats {
    /// sizeof(struct zsp_vm_stats).
    pub size: usize,
    /// Bytes in the guest's memory.
    pub resident_bytes: u64,
    /// Bytes taken out of it, in memory still.
    pub staged_bytes: u64,
    /// Bytes of pages that are compressed in the pool.
    pub compressed_bytes: u64,
    /// What those take there.
    pub compressed_into_bytes: u64,
    /// Bytes of pages on devices.
    pub on_device_bytes: u64,
    /// What those take there.
    pub on_device_into_bytes: u64,
    /// Bytes of pages that repeat one word, and take nothing.
    pub same_filled_bytes: u64,
    /// Bytes that cannot be had: who touches them gets SIGBUS.
    pub poisoned_bytes: u64,
    /// Bytes that are pinned.
    pub pinned_bytes: u64,
    /// Bytes in memory that were found not to shrink, with no device that takes them.
    pub incompressible_bytes: u64,
    /// Bytes charged past a limit because nothing could be evicted, added up.
    pub overshoot_bytes: u64,
    /// Pages taken out so far.
    pub taken_out_pages: u64,
    /// Pages compressed, or stored as they are, so far.
    pub put_away_pages: u64,
    /// Pages that came along with one that was asked for, so far.
    pub around_pages: u64,
    /// Pages that the kernel would not move, so far: pinned by a device, or shared after a fork.
    pub busy_pages: u64,
    /// Pages that the store had no room for, so far.
    pub refused_pages: u64,
    /// Faults and calls that a page was brought in for, so far, but for those where it was there already.
    pub faults: u64,
    /// Of those, of pages that were taken out and not compressed yet.
    pub staged_faults: u64,
    /// Of pages that were compressed.
    pub compressed_faults: u64,
    /// Of pages on devices.
    pub device_faults: u64,
    /// Of pages that repeat one word.
    pub same_filled_faults: u64,
    /// Of pages that were nowhere: first touches.
    pub absent_faults: u64,
    /// Nanoseconds within which half of all faults were served, without what the kernel takes.
    pub fault_p50_ns: u64,
    /// 99 of 100.
    pub fault_p99_ns: u64,
    /// 999 of 1000.
    pub fault_p999_ns: u64,
}
sized!(
    zsp_vm_stats,
    208,
    [
        resident_bytes,
        staged_bytes,
        compressed_bytes,
        compressed_into_bytes,
        on_device_bytes,
        on_device_into_bytes,
        same_filled_bytes,
        poisoned_bytes,
        pinned_bytes,
        incompressible_bytes,
        overshoot_bytes,
        taken_out_pages,
        put_away_pages,
        around_pages,
        busy_pages,
        refused_pages,
        faults,
        staged_faults,
        compressed_faults,
        device_faults,
        same_filled_faults,
        absent_faults,
        fault_p50_ns,
        fault_p99_ns,
        fault_p999_ns
    ]
);

/// Pages that were asked to leave.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_evicted {
    /// sizeof(struct zsp_evicted).
    pub size: usize,
    /// Pages that left.
    pub pages: u64,
    /// Bytes by which less is charged.
    pub won_bytes: u64,
    /// Pages that stay: pinned, or the kernel would not move them.
    pub stayed: u64,
    /// Pages that the store had no room for.
    pub refused: u64,
}
sized!(zsp_evicted, 40, [pages, won_bytes, stayed, refused]);

impl From<Evicted> for zsp_evicted {
    fn from(done: Evicted) -> Self {
        zsp_evicted {
            size: 0,
            pages: done.pages,
            won_bytes: done.won_bytes,
            stayed: done.stayed,
            refused: done.refused,
        }
    }
}

/// Told of `bytes` bytes from `address` on that were written. It must not end by an exception or longjmp.
pub type zsp_on_dirty = Option<unsafe extern "C" fn(context: *mut c_void, address: *mut c_void, bytes: usize)>;

/// What a handle is of.
pub(crate) struct Guest {
    pub(crate) vm: Vm,
    external: bool,
    dirty_tracking: bool,
}

impl Object for Guest {
    type Opaque = zsp_vm;
    const KIND: Kind = Kind::Vm;
}

/// Make a VM without memory, charged to `memcg`, a group of the engine's store: `*vm` is its handle, NULL if it was refused. `options` may
/// be NULL: then faults are served by the threads that have them. `ZSP_EPERM` and `ZSP_EUNSUPPORTED` say what this process or kernel lacks.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_new(
    engine: *const zsp_engine,
    memcg: *const zsp_memcg,
    options: *const zsp_vm_options,
    vm: *mut *mut zsp_vm,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(vm, "vm")?;
        let engine = call.object::<Engine>(engine, "engine")?;
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        let options = call.options_or_default(options, "options")?;
        let vm = engine.vm(memcg, described(call, &options)?)?;
        let external = options.service == zsp_service::ZSP_EXTERNAL as u32;
        to.set(open(Guest { vm, external, dirty_tracking: options.dirty_tracking != 0 }));
        Ok(())
    })
}

fn described(call: &Call, options: &zsp_vm_options) -> Outcome<VmOptions> {
    let service = match options.service {
        0 => Service::InThread,
        1 if options.threads > MOST_THREADS => {
            return Err(invalid(format_args!(
                "`threads` is {}: ask for {MOST_THREADS} at most; one is enough for most",
                options.threads
            )));
        }
        1 => {
            let mut threads = ThreadOptions::new(options.threads.max(1) as usize);
            let cores = call.numbers(options.cores, options.core_count, "options->cores")?;
            if !cores.is_empty() {
                threads = threads.cores(cores.iter().map(|&core| core as usize).collect::<Vec<_>>());
            }
            if options.watchdog_ms > 0 {
                threads = threads.watchdog(Duration::from_millis(options.watchdog_ms.into()));
            }
            Service::Threads(threads)
        }
        2 => Service::External,
        3 => Service::None,
        other => return Err(invalid(format_args!("there is no service {other}: see enum zsp_service"))),
    };
    if options.service != 1 && (options.threads, options.core_count, options.watchdog_ms) != (0, 0, 0) {
        return Err(invalid(format_args!("`threads`, `cores` and `watchdog_ms` are for ZSP_THREADS: leave them at 0")));
    }
    let follow = match options.follow {
        0 => Follow::Nothing,
        1 => Follow::Discards,
        2 => Follow::Mappings,
        other => return Err(invalid(format_args!("nobody can follow {other}: see enum zsp_follow"))),
    };
    if options.reserved != 0 {
        return Err(invalid(format_args!("`reserved` is {}: leave it at 0", options.reserved)));
    }
    let around = match options.fault_around {
        0 => FaultAround::Adaptive,
        ZSP_AROUND_NONE => FaultAround::Off,
        pages => FaultAround::Pages(pages),
    };
    Ok(VmOptions::new()
        .service(service)
        .fault_around(around)
        .kept_bytes(options.kept_bytes)
        .dirty_tracking(options.dirty_tracking != 0)
        .kernel_faults(options.kernel_faults != 0)
        .follow(follow))
}

/// More handlers than any machine has use for.
const MOST_THREADS: u32 = 1024;

/// Close a VM's handle. The VM goes with the last of its regions. NULL is ignored. Any thread, when no other call uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_close(vm: *mut zsp_vm) -> zsp_status {
    enter(|call| call.close::<Guest>(vm, "vm"))
}

/// Register private anonymous memory (mmap, the heap): `bytes` bytes from `address` on, whole pages of 4096, empty or in use by any number
/// of threads. `*region` is its handle, NULL if it was refused. From here on its pages leave as limits want, and come back when they are
/// touched. It must stay mapped as it is until `zsp_region_unregister`. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_register(
    vm: *const zsp_vm,
    address: *mut c_void,
    bytes: usize,
    region: *mut *mut zsp_region,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(region, "region")?;
        let guest = call.object::<Guest>(vm, "vm")?;
        to.set(register(guest, Memory::anonymous(address.cast(), bytes))?);
        Ok(())
    })
}

/// The same for a shared mapping of a memfd from `offset` on, which nobody else has mapped. The descriptor may be closed afterwards. Any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_register_memfd(
    vm: *const zsp_vm,
    address: *mut c_void,
    bytes: usize,
    fd: c_int,
    offset: u64,
    region: *mut *mut zsp_region,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(region, "region")?;
        let guest = call.object::<Guest>(vm, "vm")?;
        if fd < 0 {
            return Err(invalid(format_args!("`fd` is {fd}: pass the descriptor of the memfd that is mapped there")));
        }
        // SAFETY: not -1; it is only duplicated, and if it is not open that is refused.
        let file = unsafe { BorrowedFd::borrow_raw(fd) };
        to.set(register(guest, Memory::memfd(address.cast(), bytes, file, offset))?);
        Ok(())
    })
}

fn register(guest: &Guest, memory: Memory) -> Outcome<*mut zsp_region> {
    // SAFETY: the header asks the caller to keep it mapped as it is until it is unregistered.
    let region = unsafe { guest.vm.register(memory) }?;
    Ok(open(Arc::new(region)))
}

/// With ZSP_EXTERNAL: a descriptor that is readable when there are faults to serve. It is the VM's: not to be read or closed. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_fd(vm: *const zsp_vm, fd: *mut c_int) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        let mut to = call.out(fd, "fd")?;
        let Some(fd) = guest.vm.fd() else { return Err(not_external()) };
        to.set(fd.as_raw_fd());
        Ok(())
    })
}

/// With ZSP_EXTERNAL: serve what there is, and return when there is nothing more. `events`, how many there were, may be NULL. One thread at
/// a time: a second one returns at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_serve(vm: *const zsp_vm, events: *mut usize) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        let mut told = call.out_or_none(events, "events")?;
        if !guest.external {
            return Err(not_external());
        }
        let served = guest.vm.service()?;
        told.iter_mut().for_each(|told| told.set(served));
        Ok(())
    })
}

fn not_external() -> crate::call::Refused {
    invalid(format_args!("this VM serves its faults itself: make it with the service ZSP_EXTERNAL to do it in a loop"))
}

/// Have pages leave until `bytes` bytes fewer are charged to the VM's group, the coldest first, whatever limits say. `won`, how many fewer
/// there are, may be NULL. Any thread that is not in a handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_evict(vm: *const zsp_vm, bytes: u64, won: *mut u64) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        let mut told = call.out_or_none(won, "won")?;
        let won = guest.vm.evict(bytes);
        told.iter_mut().for_each(|told| told.set(won));
        Ok(())
    })
}

/// Have everything leave that can: the guest sleeps. `evicted` may be NULL. Any thread that is not in a handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_evict_all(vm: *const zsp_vm, evicted: *mut zsp_evicted) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        call.check_fill(evicted, "evicted")?;
        call.fill_if_wanted(evicted, "evicted", &guest.vm.evict_all().into())
    })
}

/// Bring in the pages of `bytes` bytes from `address` on, which may span regions, whatever has to leave for them: before a system call looks
/// at them, say. They may leave again at once; `zsp_region_pin` keeps them. `ZSP_ELOST` or `ZSP_EIO` for one that cannot be read. Any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_make_resident(vm: *const zsp_vm, address: *const c_void, bytes: usize) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        let start = address.addr();
        let Some(end) = start.checked_add(bytes) else {
            return Err(invalid(format_args!(
                "{bytes} bytes from {start:#x} on pass the end of the address space: see how they were computed"
            )));
        };
        Ok(guest.vm.make_resident(start..end)?)
    })
}

/// With `dirty_tracking`: tell `each`, on this thread, the addresses that were written since this was called last; the first time, ever.
/// `pages`, how many they are, may be NULL. Pages that left memory meanwhile count as written. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_take_dirty(
    vm: *const zsp_vm,
    each: zsp_on_dirty,
    context: *mut c_void,
    pages: *mut u64,
) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        let mut told = call.out_or_none(pages, "pages")?;
        let Some(each) = each else {
            return Err(invalid(format_args!("`each` is NULL: pass a function that is told what was written")));
        };
        let done = guest.vm.take_dirty(|run: Range<usize>| {
            let address = std::ptr::with_exposed_provenance_mut(run.start);
            // SAFETY: the caller's function, with the caller's context, during the call that was given both.
            unsafe { each(context, address, run.len()) };
        });
        let pages = done.map_err(|error| match error {
            // It was asked for when the VM was made.
            Error::Options { .. } if guest.dirty_tracking => refuse(ZSP_EUNSUPPORTED, format_args!("{error}")),
            error => error.into(),
        })?;
        told.iter_mut().for_each(|told| told.set(pages));
        Ok(())
    })
}

/// The VM's numbers at this moment. Any thread that is not in a handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_vm_get_stats(vm: *const zsp_vm, stats: *mut zsp_vm_stats) -> zsp_status {
    enter(|call| {
        let guest = call.object::<Guest>(vm, "vm")?;
        call.check_fill(stats, "stats")?;
        let now = guest.vm.stats();
        let times = now.fault_nanos();
        let faults = |kind| now.faults_of(kind).count();
        call.fill(
            stats,
            "stats",
            &zsp_vm_stats {
                size: 0,
                resident_bytes: now.resident,
                staged_bytes: now.staged,
                compressed_bytes: now.compressed,
                compressed_into_bytes: now.compressed_into,
                on_device_bytes: now.on_device,
                on_device_into_bytes: now.on_device_into,
                same_filled_bytes: now.same_filled,
                poisoned_bytes: now.poisoned,
                pinned_bytes: now.pinned,
                incompressible_bytes: now.incompressible,
                overshoot_bytes: now.overshoot_bytes,
                taken_out_pages: now.taken_out,
                put_away_pages: now.put_away,
                around_pages: now.around,
                busy_pages: now.busy,
                refused_pages: now.refused,
                faults: now.all_faults(),
                staged_faults: faults(FaultKind::Staged),
                compressed_faults: faults(FaultKind::Compressed),
                device_faults: faults(FaultKind::Device),
                same_filled_faults: faults(FaultKind::SameFilled),
                absent_faults: faults(FaultKind::Absent),
                fault_p50_ns: times.p50(),
                fault_p99_ns: times.p99(),
                fault_p999_ns: times.p999(),
            },
        )
    })
}
