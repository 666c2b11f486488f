/*
 * zspool for C and C++: hold more pages than there is memory for them.
 *
 *   guest     zsp_engine, zsp_vm, zsp_region   memory of VMs and emulators under a limit while it is used, on Linux by userfaultfd
 *   pages     zsp_zswap, zsp_memcg             pages named by slots: compressed, on swap devices when colder, charged to groups with limits
 *   objects   zsp_pool                         1 to 4096 bytes each, in memory that has a limit
 *
 * An emulator needs eight calls (examples/guest.c):
 *
 *   zsp_zswap_new        a store: how much memory compressed pages may take
 *   zsp_engine_new       an engine over it, one a process
 *   zsp_memcg_mkdir      a group for each guest; zsp_memcg_set_max sets its limit
 *   zsp_vm_new           a VM: who serves faults
 *   zsp_vm_register      the guest's memory, wherever it is mapped; from here on it is used as ever
 *   zsp_region_unregister, and zsp_vm_close, zsp_engine_close, zsp_zswap_close
 *
 * Rules that hold for all of it:
 *
 * - A call returns ZSP_OK or says why not: a code for the program, and a sentence for people, which says what to do:
 *   zsp_error_message(). What was refused has changed nothing, unless it says otherwise. The process ends, with a sentence on standard
 *   error, only where there is no memory for the library itself, or a thread would otherwise wait for ever.
 * - A handle (zsp_pool *, ...) belongs to who made it, and is closed once, in any order: what is used stays as long as it is used. It is
 *   not an address: NULL, closed handles, and handles of another kind are told as ZSP_EINVAL, whatever they look like. But no thread may
 *   close a handle while another is in a call with it.
 * - Structs begin with their size, so that they can grow: set `size` to sizeof, and what you do not use to 0
 *   (struct zsp_pool_options options = {.size = sizeof options, ...}; in C++: zsp_pool_options options = {}; options.size = sizeof options;).
 *   A struct of results is filled as far as its size says.
 * - Flags are numbers: 0 is no and what is usual. Enums travel as numbers of fixed size; a number that is none is ZSP_EINVAL.
 * - Other pointers are to memory of the caller's that may be read, or written, during the call, and that nobody else writes meanwhile;
 *   texts end with a 0 and are UTF-8 (paths are bytes). Results that are not wanted may be NULL where it says so.
 * - "Any thread" means any number of threads at the same time, with the same handle.
 * - After fork, handles are the parent's: the child must not use them. Memory that is registered is not in the child.
 * - Sizes are in bytes; a page has 4096.
 */
#ifndef ZSPOOL_H
#define ZSPOOL_H

#include <stddef.h>
#include <stdint.h>

/** Major version of the header. Before 1.0, a new minor version may change what is here; from then on, only a new major one. */
#define ZSP_VERSION_MAJOR 0

/** Minor version of the header. */
#define ZSP_VERSION_MINOR 1

/** Patch version of the header. */
#define ZSP_VERSION_PATCH 0

/** No limit, where a limit is asked for. */
#define ZSP_NO_LIMIT UINT64_MAX

/** For `fault_around`: no neighbours. */
#define ZSP_AROUND_NONE UINT32_MAX

/** What became of a call. `zsp_error_message()` has the sentence. */
typedef enum zsp_status {
    /** It did what it says. */
    ZSP_OK = 0,
    /** An argument is NULL, not aligned, of another kind, closed before, or a number that cannot be: a defect of the program. */
    ZSP_EINVAL = 1,
    /** A limit is reached and no room could be made below it: free something, raise it, or add a swap device. */
    ZSP_ELIMIT = 2,
    /** The handle is of an object that was removed. */
    ZSP_ESTALE = 3,
    /** It is not there: the slot is empty, the group, file, tier or device does not exist. */
    ZSP_ENOENT = 4,
    /** It is there already; or the path has something that must not be overwritten. */
    ZSP_EEXIST = 5,
    /** The group was removed, or the memory unmapped, since the handle was made. */
    ZSP_EGONE = 6,
    /** The page cannot be had any more: its device lost it, or its bytes are damaged. It is never made up. */
    ZSP_ELOST = 7,
    /** A device failed, or does not answer: nothing is lost, another try may succeed. */
    ZSP_EIO = 8,
    /** It would have to wait for a device, and was told not to. */
    ZSP_EWAIT = 9,
    /** It is in use this moment: pinned, locked, being moved, not empty. Try again when that has changed. */
    ZSP_EBUSY = 10,
    /** Less was done than was asked for; the result says how much. */
    ZSP_EPARTIAL = 11,
    /** A callback called it off. What was done stays done. */
    ZSP_ECANCELED = 12,
    /** The buffer is too small; the result says what is needed. */
    ZSP_ERANGE = 13,
    /** This process may not do it: a capability, a setting or a file's mode is missing. */
    ZSP_EPERM = 14,
    /** The kernel or the file system here cannot do it. */
    ZSP_EUNSUPPORTED = 15,
    /** The system has no memory, address space, thread or descriptor left for it. */
    ZSP_ENOMEM = 16,
    /** The system refused something else. */
    ZSP_ESYSTEM = 17,
    /** The library panicked, and the panic was caught: a defect of the library. */
    ZSP_EPANIC = 18,
    /** Anything else: codes that come later are this to older programs. */
    ZSP_EOTHER = 19,
} zsp_status;

/** What bytes are charged as. */
typedef enum zsp_counter {
    /** Pages in memory and compressed ones: memory.current, memory.max, memory.peak. */
    ZSP_MEMORY = 0,
    /** Compressed ones alone: memory.zswap.current and so on. */
    ZSP_ZSWAP = 1,
    /** On swap devices: memory.swap.current and so on. */
    ZSP_SWAP = 2,
} zsp_counter;

/** How a page was stored. */
typedef enum zsp_form {
    /** Compressed, in the pool. */
    ZSP_COMPRESSED = 0,
    /** It repeats one word, and takes nothing, or 8 bytes. */
    ZSP_SAME_FILLED = 1,
    /** As it is, in the pool: it does not shrink. */
    ZSP_INCOMPRESSIBLE = 2,
    /** On a device: a limit does not admit it to the pool. */
    ZSP_WRITTEN_THROUGH = 3,
    /** In another way that came later. */
    ZSP_FORM_OTHER = 4,
} zsp_form;

/** What became of a slot whose page was taken. */
typedef enum zsp_taken {
    /** The page was installed, and the slot is empty. */
    ZSP_TAKEN = 0,
    /** The page was installed. What the slot holds was stored anew or moved meanwhile, so it was left: who alone stores to it frees it. */
    ZSP_TAKEN_CHANGED = 1,
    /** The page was not installed: the slot keeps it. */
    ZSP_TAKEN_KEPT = 2,
} zsp_taken;

/** How a swap device is. */
typedef enum zsp_device_state {
    /** It is read and written. */
    ZSP_DEVICE_ON = 0,
    /** It is being emptied. */
    ZSP_DEVICE_DRAINING = 1,
    /** It is only read: too many writes failed. */
    ZSP_DEVICE_RETIRED = 2,
    /** A request has not come back in time: nothing is written until it does. */
    ZSP_DEVICE_HUNG = 3,
    /** Anything else. */
    ZSP_DEVICE_OTHER = 4,
} zsp_device_state;

/** What is done about it. */
typedef enum zsp_verdict {
    /** It is served: charged past the limit, and counted. */
    ZSP_SERVE = 0,
    /** The limit was raised, or room made: it is charged again. Asked in vain 64 times, it is served. */
    ZSP_AGAIN = 1,
    /** The thread waits up to 10 ms for room, is charged again, and asks again. */
    ZSP_PAUSE = 2,
    /** The page is poisoned: who touches it gets SIGBUS. */
    ZSP_POISON = 3,
} zsp_verdict;

/** Who serves faults. */
typedef enum zsp_service {
    /**
     * The thread that touches a page that is out, in a handler of SIGBUS: the cheapest. System calls on such a page fail with EFAULT: pin
     * it, or make it resident, before.
     */
    ZSP_IN_THREAD = 0,
    /** Threads of the library. With `kernel_faults` system calls, KVM and vhost wait as loads do. */
    ZSP_THREADS = 1,
    /** The caller's event loop: poll `zsp_vm_fd`, then `zsp_vm_serve`. It must not touch the memory itself. */
    ZSP_EXTERNAL = 2,
    /** Nobody: pages are brought in by calls before they are touched. */
    ZSP_NOBODY = 3,
} zsp_service;

/** Which changes that the program makes to registered memory by itself its pages follow. ZSP_IN_THREAD can follow none. */
typedef enum zsp_follow {
    /** None: `zsp_region_discard` drops pages. */
    ZSP_FOLLOW_NOTHING = 0,
    /** madvise that drops pages. */
    ZSP_FOLLOW_DISCARDS = 1,
    /** That, munmap and mremap. */
    ZSP_FOLLOW_MAPPINGS = 2,
} zsp_follow;

/** What VMs share. */
typedef struct zsp_engine zsp_engine;

/** A group of a store's tree. */
typedef struct zsp_memcg zsp_memcg;

/** Pages that stay in memory. */
typedef struct zsp_pin zsp_pin;

/** A pool of objects. */
typedef struct zsp_pool zsp_pool;

/** A registered range of memory. */
typedef struct zsp_region zsp_region;

/** The memory of one guest. */
typedef struct zsp_vm zsp_vm;

/** A store of pages. */
typedef struct zsp_zswap zsp_zswap;

/** What a pool is to be. */
typedef struct zsp_pool_options {
    /** sizeof(struct zsp_pool_options). */
    size_t size;
    /** Bytes of memory that the pool may take at any instant. Tables of some 20 bytes an object come on top. ZSP_NO_LIMIT: all there is. */
    uint64_t limit_bytes;
    /** Bytes of address space for it; 0: 16 times the machine's memory, less where the system refuses that. */
    uint64_t address_space_bytes;
    /** Not 0: a thread compacts the pool when more than 2.5 percent are wasted, and gives memory back that is not used. */
    uint64_t background;
} zsp_pool_options;

/** An object being looked at. It may be moved to another variable, but not copied and released twice. */
typedef struct zsp_view {
    /** The object's bytes; NULL when nothing is held. */
    const void *bytes;
    /** How many they are. */
    size_t length;
    /** The library's. */
    uint64_t held[12];
} zsp_view;

/** What a compaction did. */
typedef struct zsp_compacted {
    /** sizeof(struct zsp_compacted). */
    size_t size;
    /** Objects that were moved; their handles stay good. */
    uint64_t moved_objects;
    /** Bytes of their slots. */
    uint64_t moved_bytes;
    /** Pages of 4096 bytes that the pool takes less now. */
    uint64_t frames_won;
    /** Not 0: the budget ended it, there may be more to do. */
    uint64_t out_of_budget;
} zsp_compacted;

/** Where a pool's memory goes, in bytes. */
typedef struct zsp_pool_usage {
    /** sizeof(struct zsp_pool_usage). */
    size_t size;
    /** Objects. */
    uint64_t objects;
    /** Bytes that were inserted. */
    uint64_t payload_bytes;
    /** What their slots are larger. */
    uint64_t rounding_bytes;
    /** Free slots between them, which compaction packs. */
    uint64_t free_slot_bytes;
    /** Ends of pages that no slot has. */
    uint64_t tail_bytes;
    /** Pages that are kept for what comes next. */
    uint64_t warm_bytes;
    /** Those together, as the limit counts them: never more than it. */
    uint64_t backed_bytes;
    /** Tables beside them. */
    uint64_t metadata_bytes;
} zsp_pool_usage;

/** What a store is to be. */
typedef struct zsp_zswap_options {
    /** sizeof(struct zsp_zswap_options). */
    size_t size;
    /** Bytes of memory that compressed pages may take at any instant. ZSP_NO_LIMIT: all there is. */
    uint64_t pool_limit_bytes;
    /** Bytes in use on all swap devices together; 0: as many as they have. */
    uint64_t swap_limit_bytes;
    /** Bytes of address space for the pool; 0: 16 times the machine's memory, less where the system refuses that. */
    uint64_t address_space_bytes;
    /** Threads that can compress at once; 0: the machine's cores. */
    uint64_t compressing_threads;
    /** Not 0: no thread keeps the pool below its limit; who stores makes room. */
    uint64_t no_worker;
    /** Not 0: what goes to devices is not encrypted, with a checksum against accidents only. */
    uint64_t no_encryption;
} zsp_zswap_options;

/** What a store holds and did. */
typedef struct zsp_zswap_stats {
    /** sizeof(struct zsp_zswap_stats). */
    size_t size;
    /** Bytes of memory that the pool takes, at most `limit_bytes`. */
    uint64_t backed_bytes;
    /** The pool's limit. */
    uint64_t limit_bytes;
    /** Bytes of tables for the slots in use. */
    uint64_t slot_table_bytes;
    /** Slots with compressed bytes in the pool. */
    uint64_t compressed_pages;
    /** Bytes that compression made of these and of the next. */
    uint64_t payload_bytes;
    /** Slots with a page in the pool that does not shrink. */
    uint64_t incompressible_pages;
    /** Slots whose page repeats one word, which takes nothing or 8 bytes. */
    uint64_t same_filled_pages;
    /** Slots whose page is on a device. */
    uint64_t device_pages;
    /** Bytes of those on the devices. */
    uint64_t device_bytes;
    /** Slots whose page could not be read back. */
    uint64_t lost_pages;
    /** Pages that went to a device without entering the pool, so far. */
    uint64_t written_through;
    /** Stores that were refused so far. */
    uint64_t refused;
    /** Reads from devices that failed so far. */
    uint64_t failed_loads;
    /** Batches that devices failed to write so far. */
    uint64_t failed_writes;
} zsp_zswap_stats;

/** How a page was stored. */
typedef struct zsp_stored {
    /** sizeof(struct zsp_stored). */
    size_t size;
    /** enum zsp_form. */
    uint64_t form;
    /** Bytes of pool memory that are charged for it. */
    uint64_t charged_bytes;
} zsp_stored;

/** Installs a page of 4096 bytes; returns 0 when it is where it belongs. It must not end by an exception or longjmp. */
typedef int (*zsp_install)(void *context, const void *page);

/** A swap device that is to be added. */
typedef struct zsp_swap_options {
    /** sizeof(struct zsp_swap_options). */
    size_t size;
    /** A file, which is made if it is not there, and refused if it holds anything but an earlier swapfile; or, with `disk`, a disk. */
    const char *path;
    /** Instead of a path: a folder for a file without a name, which nobody else can open and which goes with the process. */
    const char *unnamed_in;
    /** Bytes of the file; of a disk that may be used, 0: all of it. */
    uint64_t bytes;
    /** Name of the tier; NULL: "swap". A tier has one priority. */
    const char *tier;
    /** Tiers with a higher one are written to first. */
    int64_t priority;
    /** Bytes that its file system keeps free. */
    uint64_t min_free_bytes;
    /** Move what was written first to the next tier when more than so many percent are in use; 0: never. */
    uint64_t high_percent;
    /** Down to so many percent. */
    uint64_t low_percent;
    /** Not 0: through the page cache. */
    uint64_t buffered;
    /** Not 0: a file that was made stays, empty, when the device goes. */
    uint64_t keep;
    /** Not 0: `path` is a disk. */
    uint64_t disk;
    /** Not 0: a disk that holds something is used all the same. What is on it is lost. */
    uint64_t overwrite;
} zsp_swap_options;

/** How far a swapoff is, or what it came to. */
typedef struct zsp_swapoff_report {
    /** sizeof(struct zsp_swapoff_report). */
    size_t size;
    /** Pages that lived on the device when it began. */
    uint64_t pages_at_start;
    /** Pages that live there now. */
    uint64_t pages_left;
    /** Pages that went into the pool. Told when it is done. */
    uint64_t to_pool;
    /** Pages that went to other devices. Told when it is done. */
    uint64_t to_devices;
    /** Pages that could not be read back. Told when it is done. */
    uint64_t lost;
} zsp_swapoff_report;

/** Told now and then how far a swapoff is; returns other than 0 to call it off. It must not end by an exception or longjmp. */
typedef int (*zsp_swapoff_progress)(void *context, const struct zsp_swapoff_report *so_far);

/** A swap device as a row of a table. */
typedef struct zsp_device {
    /** sizeof(struct zsp_device). */
    size_t size;
    /** Its number. */
    uint64_t number;
    /** enum zsp_device_state. */
    uint64_t state;
    /** The priority of its tier. */
    int64_t priority;
    /** The name of its tier, and 0. */
    char tier[64];
    /** Its path, and 0; cut where it is longer. */
    char name[256];
    /** Bytes that it has room for. */
    uint64_t bytes;
    /** Bytes that were written and not given back yet. */
    uint64_t used_bytes;
    /** Bytes of pages that live there. */
    uint64_t live_bytes;
    /** Pages that live there. */
    uint64_t pages;
    /** Bytes written so far. */
    uint64_t written_bytes;
    /** Bytes read so far. */
    uint64_t read_bytes;
    /** Requests that failed so far. */
    uint64_t io_errors;
    /** Pages found damaged so far. */
    uint64_t corrupt;
} zsp_device;

/** A limit that is about to be passed, because a page must be served and nothing can be evicted. */
typedef struct zsp_overshoot {
    /** sizeof(struct zsp_overshoot). */
    size_t size;
    /** `zsp_memcg_id` of the VM's group. */
    uint64_t vm_memcg;
    /** That of the group whose limit it is: the same, or one above it. */
    uint64_t memcg;
    /** Bytes charged to it. */
    uint64_t usage_bytes;
    /** Its limit. */
    uint64_t limit_bytes;
    /** Bytes that are to be charged. */
    uint64_t bytes;
    /** How often it was asked about this charge before. */
    uint64_t asked;
    /** Whether it may say ZSP_POISON. */
    uint64_t can_poison;
} zsp_overshoot;

/**
 * Asked when a limit is about to be passed; returns an enum zsp_verdict, anything else is ZSP_SERVE. It is called by the thread that
 * faults, perhaps in a signal handler: it may do only what such a handler may, must not touch memory of a VM, and must not end by an
 * exception or longjmp.
 */
typedef uint32_t (*zsp_on_overshoot)(void *context, const struct zsp_overshoot *overshoot);

/** What an engine is to be. */
typedef struct zsp_engine_options {
    /** sizeof(struct zsp_engine_options). */
    size_t size;
    /** Asked before a limit is passed; NULL: the page is served, and the bytes counted. */
    zsp_on_overshoot on_overshoot;
    /** Handed to it. */
    void *context;
    /** Not 0: no thread evicts ahead of need; faults at the limit do it themselves. */
    uint64_t no_evictor;
} zsp_engine_options;

/** How a VM is served. */
typedef struct zsp_vm_options {
    /** sizeof(struct zsp_vm_options). */
    size_t size;
    /** enum zsp_service. */
    uint32_t service;
    /** ZSP_THREADS: how many; 0: one. */
    uint32_t threads;
    /** ZSP_THREADS: the cores they run on, in turn; NULL: any. */
    const uint32_t *cores;
    /** How many those are. */
    size_t core_count;
    /** ZSP_THREADS: say on standard error when one has been at a page for so many milliseconds; 0: never. */
    uint32_t watchdog_ms;
    /** Not 0: serve the kernel's accesses too. Needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd. */
    uint32_t kernel_faults;
    /** Not 0: `zsp_vm_take_dirty` works. Linux 6.7. */
    uint32_t dirty_tracking;
    /** enum zsp_follow. */
    uint32_t follow;
    /** Neighbours that come along with a page; 0: 16, and 64 where pages are touched in order. */
    uint32_t fault_around;
    /** 0. */
    uint32_t reserved;
    /** Bytes of compressed copies that are kept of pages that came in and were not written: such a page leaves again for nothing. */
    uint64_t kept_bytes;
} zsp_vm_options;

/** Pages that were asked to leave. */
typedef struct zsp_evicted {
    /** sizeof(struct zsp_evicted). */
    size_t size;
    /** Pages that left. */
    uint64_t pages;
    /** Bytes by which less is charged. */
    uint64_t won_bytes;
    /** Pages that stay: pinned, or the kernel would not move them. */
    uint64_t stayed;
    /** Pages that the store had no room for. */
    uint64_t refused;
} zsp_evicted;

/** Told of `bytes` bytes from `address` on that were written. It must not end by an exception or longjmp. */
typedef void (*zsp_on_dirty)(void *context, void *address, size_t bytes);

/** A VM's numbers at one moment. */
typedef struct zsp_vm_stats {
    /** sizeof(struct zsp_vm_stats). */
    size_t size;
    /** Bytes in the guest's memory. */
    uint64_t resident_bytes;
    /** Bytes taken out of it, in memory still. */
    uint64_t staged_bytes;
    /** Bytes of pages that are compressed in the pool. */
    uint64_t compressed_bytes;
    /** What those take there. */
    uint64_t compressed_into_bytes;
    /** Bytes of pages on devices. */
    uint64_t on_device_bytes;
    /** What those take there. */
    uint64_t on_device_into_bytes;
    /** Bytes of pages that repeat one word, and take nothing. */
    uint64_t same_filled_bytes;
    /** Bytes that cannot be had: who touches them gets SIGBUS. */
    uint64_t poisoned_bytes;
    /** Bytes that are pinned. */
    uint64_t pinned_bytes;
    /** Bytes in memory that were found not to shrink, with no device that takes them. */
    uint64_t incompressible_bytes;
    /** Bytes charged past a limit because nothing could be evicted, added up. */
    uint64_t overshoot_bytes;
    /** Pages taken out so far. */
    uint64_t taken_out_pages;
    /** Pages compressed, or stored as they are, so far. */
    uint64_t put_away_pages;
    /** Pages that came along with one that was asked for, so far. */
    uint64_t around_pages;
    /** Pages that the kernel would not move, so far: pinned by a device, or shared after a fork. */
    uint64_t busy_pages;
    /** Pages that the store had no room for, so far. */
    uint64_t refused_pages;
    /** Faults and calls that a page was brought in for, so far, but for those where it was there already. */
    uint64_t faults;
    /** Of those, of pages that were taken out and not compressed yet. */
    uint64_t staged_faults;
    /** Of pages that were compressed. */
    uint64_t compressed_faults;
    /** Of pages on devices. */
    uint64_t device_faults;
    /** Of pages that repeat one word. */
    uint64_t same_filled_faults;
    /** Of pages that were nowhere: first touches. */
    uint64_t absent_faults;
    /** Nanoseconds within which half of all faults were served, without what the kernel takes. */
    uint64_t fault_p50_ns;
    /** 99 of 100. */
    uint64_t fault_p99_ns;
    /** 999 of 1000. */
    uint64_t fault_p999_ns;
} zsp_vm_stats;

/** Pages that were brought in ahead. */
typedef struct zsp_prefetched {
    /** sizeof(struct zsp_prefetched). */
    size_t size;
    /** Pages that are in memory now and were not. */
    uint64_t pages;
    /** Pages that were left: a limit is reached, or they cannot be read. */
    uint64_t left;
} zsp_prefetched;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* === versions === */

/**
 * Version of the library that is running, as `major << 16 | minor << 8 | patch`; `ZSP_VERSION_MAJOR` and so on are the header's. Any
 * thread, at any time.
 */
uint32_t zsp_version(void);

/* === codes and sentences === */

/** The name of a code, such as "ZSP_ELIMIT"; "unknown" for a number that is none. Never freed. Any thread, at any time. */
const char *zsp_status_name(int32_t status);

/**
 * What was wrong with the last call of this thread that did not return `ZSP_OK`, and what to do about it: one sentence in English, in
 * UTF-8; empty if there was none. It is this thread's until its next call that fails, and is never freed. Any thread, at any time, also
 * in signal handlers.
 */
const char *zsp_error_message(void);

/* === objects: a pool === */

/** Make a pool: `*pool` is its handle, NULL if it was refused. Any thread. */
enum zsp_status zsp_pool_new(const struct zsp_pool_options *options, struct zsp_pool **pool);

/**
 * Close a pool. Its objects go; those that are being looked at when their views are released. NULL is ignored. Any thread, when no other
 * call uses the handle.
 */
enum zsp_status zsp_pool_close(struct zsp_pool *pool);

/**
 * Put `length` bytes in, 1 to 4096: `*object` is their handle, never 0, and no other object ever has it. `ZSP_ELIMIT` when the pool is
 * full: remove something, or compact. Any thread.
 */
enum zsp_status zsp_pool_insert(const struct zsp_pool *pool, const void *bytes, size_t length, uint64_t *object);

/**
 * Copy an object to `to`, which has room for `room` bytes; 4096 are always enough. `*length` is how long it is, also with `ZSP_ERANGE`,
 * when it does not fit and nothing was copied. `ZSP_ESTALE` when it was removed. Any thread.
 */
enum zsp_status zsp_pool_read(const struct zsp_pool *pool, uint64_t object, void *to, size_t room, size_t *length);

/**
 * Look at an object where it lies, without a copy: `view->bytes` and `view->length`, until `zsp_view_release`. It stays readable also
 * when it is removed, moved by compaction, or its pool is closed meanwhile. At most 63 views hold one object: one more waits for one of
 * them to be released. `ZSP_ESTALE` when it was removed; `view->bytes` is NULL then. Any thread.
 */
enum zsp_status zsp_pool_view(const struct zsp_pool *pool, uint64_t object, struct zsp_view *view);

/** Look no longer. `view->bytes` is NULL after it; a view that holds nothing is refused. Any thread, also another than the one that looked. */
enum zsp_status zsp_view_release(struct zsp_view *view);

/** Take an object out. Its handle is `ZSP_ESTALE` for ever after. Allocates nothing. Any thread. */
enum zsp_status zsp_pool_remove(const struct zsp_pool *pool, uint64_t object);

/**
 * Move objects together, until no page of memory can be won or `budget_bytes` were moved. `compacted` may be NULL. Any thread, while
 * others use the pool.
 */
enum zsp_status zsp_pool_compact(const struct zsp_pool *pool, uint64_t budget_bytes, struct zsp_compacted *compacted);

/** Where the pool's memory goes. Any thread; exact while nobody inserts or removes. */
enum zsp_status zsp_pool_get_usage(const struct zsp_pool *pool, struct zsp_pool_usage *usage);

/* === pages: a store === */

/** Make a store: `*zswap` is its handle, NULL if it was refused. Any thread. */
enum zsp_status zsp_zswap_new(const struct zsp_zswap_options *options, struct zsp_zswap **zswap);

/** Close a store's handle. The store goes with its engine and the last of its VMs, and its swapfiles with it. NULL is ignored. Any thread, when no other call uses the handle. */
enum zsp_status zsp_zswap_close(struct zsp_zswap *zswap);

/** What the store holds and did. Any thread; exact while nobody stores or frees. */
enum zsp_status zsp_zswap_get_stats(const struct zsp_zswap *zswap, struct zsp_zswap_stats *stats);

/* === groups with limits === */

/**
 * Make a group: `*memcg` is its handle, NULL if it was refused. The path begins with "/", which is the root, and all but its last name
 * are there already: "/tenants/vm0". A new group has no limit of its own. Any thread.
 */
enum zsp_status zsp_memcg_mkdir(const struct zsp_zswap *zswap, const char *path, struct zsp_memcg **memcg);

/** A handle of a group that is there already; "/" is the root. `ZSP_ENOENT` if there is none. Any thread. */
enum zsp_status zsp_memcg_open(const struct zsp_zswap *zswap, const char *path, struct zsp_memcg **memcg);

/** Close a handle. The group stays, until `zsp_memcg_rmdir`. NULL is ignored. Any thread, when no other call uses the handle. */
enum zsp_status zsp_memcg_close(struct zsp_memcg *memcg);

/**
 * Remove a group: what is charged to it is its parent's from now on. `ZSP_EBUSY` while it has groups below it. Its handles stay good for
 * `zsp_memcg_close`, and say `ZSP_EGONE` to the rest. Any thread.
 */
enum zsp_status zsp_memcg_rmdir(const struct zsp_memcg *memcg);

/** The group's number, which no other group of the store ever has. Any thread. */
enum zsp_status zsp_memcg_id(const struct zsp_memcg *memcg, uint64_t *id);

/**
 * Set a limit in bytes; `counter` is an enum zsp_counter, ZSP_NO_LIMIT takes the limit away. When this returns nothing is charged past it
 * any more; what is charged already stays until it is reclaimed, and pages of VMs leave at once. Any thread.
 */
enum zsp_status zsp_memcg_set_max(const struct zsp_memcg *memcg, uint32_t counter, uint64_t bytes);

/** Bytes charged to the group and those below it. Any thread, but not in handlers: it waits a moment for what threads hold in stock. */
enum zsp_status zsp_memcg_current(const struct zsp_memcg *memcg, uint32_t counter, uint64_t *bytes);

/** The most that `zsp_memcg_current` ever was. Any thread. */
enum zsp_status zsp_memcg_peak(const struct zsp_memcg *memcg, uint32_t counter, uint64_t *bytes);

/**
 * Read one of cgroup v2's files, such as "memory.stat": `*length` is how long its text is, without the 0 that is written behind it.
 * `ZSP_ERANGE` when `room` bytes are not enough for both; nothing was written then, and NULL with 0 bytes asks for the length. Any thread.
 */
enum zsp_status zsp_memcg_read_file(const struct zsp_memcg *memcg, const char *name, char *text, size_t room, size_t *length);

/**
 * Write one of cgroup v2's files: "memory.high" with "512M", "memory.low", "memory.swap.tiers.max", "memory.reclaim" with
 * "64M source=zswap". docs/control-files.md has them all. Any thread.
 */
enum zsp_status zsp_memcg_write_file(const struct zsp_memcg *memcg, const char *name, const char *text);

/**
 * Have `bytes` bytes leave of the group and those below it, the coldest first: pages of VMs into the pool, compressed ones to devices.
 * `reclaimed`, how many there were, may be NULL; `ZSP_EPARTIAL` when they are fewer. Any thread, but not in handlers.
 */
enum zsp_status zsp_memcg_reclaim(const struct zsp_memcg *memcg, uint64_t bytes, uint64_t *reclaimed);

/* === pages: slots === */

/**
 * Reserve `count` slots: `*first` is the first of so many consecutive numbers, and slot `*first + k` may name page k of a guest. They
 * cost nothing until they are stored to, and their numbers never come back. Any thread.
 */
enum zsp_status zsp_zswap_reserve(const struct zsp_zswap *zswap, uint64_t count, uint64_t *first);

/**
 * Store the 4096 bytes at `page`, charged to `memcg`, a group of this store. `stored` may be NULL. What the slot held before is gone,
 * also when the store is refused: then the caller's page is the only copy. `ZSP_ELIMIT` when a limit is reached and nothing colder could be
 * written to a device. Any thread, but not in handlers: it may allocate, and wait for a device.
 */
enum zsp_status zsp_zswap_store(const struct zsp_zswap *zswap,
                                uint64_t slot,
                                const struct zsp_memcg *memcg,
                                const void *page,
                                struct zsp_stored *stored);

/**
 * Copy the page of a slot to the 4096 bytes at `page`. The slot keeps it. `ZSP_ENOENT` for an empty slot, `ZSP_ELOST` when it cannot be
 * had any more, `ZSP_EIO` when another try may do better; `page` has no meaning then. Allocates nothing; any thread, also in the handler of
 * a fault on memory of the caller's.
 */
enum zsp_status zsp_zswap_load(const struct zsp_zswap *zswap, uint64_t slot, void *page);

/** The same, but `ZSP_EWAIT` instead of waiting for a device. */
enum zsp_status zsp_zswap_try_load(const struct zsp_zswap *zswap, uint64_t slot, void *page);

/**
 * Move the page of a slot to the 4096 bytes at `page`: as `zsp_zswap_load`, and the slot is empty afterwards, unless `*taken`, an
 * enum zsp_taken, is ZSP_TAKEN_CHANGED. It may be NULL: who stores to the slot again, or frees it, need not know.
 */
enum zsp_status zsp_zswap_take(const struct zsp_zswap *zswap, uint64_t slot, void *page, uint32_t *taken);

/**
 * The same, but `install` puts the page where it belongs (UFFDIO_COPY, say), called on this thread with `context` and without any lock
 * held. The slot is emptied only when it returns 0, so that there is never a moment without a copy.
 */
enum zsp_status zsp_zswap_take_with(const struct zsp_zswap *zswap, uint64_t slot, zsp_install install, void *context, uint32_t *taken);

/**
 * Empty `count` slots from `first` on; those that are empty already are passed over. `freed`, how many held a page, may be NULL. Takes
 * time by slots that were ever used. Allocates nothing; any thread, also in the handler of a fault on memory of the caller's.
 */
enum zsp_status zsp_zswap_free(const struct zsp_zswap *zswap, uint64_t first, uint64_t count, uint64_t *freed);

/* === pages: swap devices === */

/** Add a device; `*device` is its number, and may be NULL. Any thread, while pages are stored and loaded. */
enum zsp_status zsp_zswap_swapon(const struct zsp_zswap *zswap, const struct zsp_swap_options *options, uint32_t *device);

/**
 * Empty a device and remove it, while pages are stored and loaded: what is on it goes into the pool, and to other devices where that is
 * full. `progress` is called on this thread now and then, with `context`; it and `report` may be NULL. `ZSP_ECANCELED` when it called
 * the rest off, `ZSP_ELIMIT` when nothing takes the rest: the device is used as before then, and another call goes on. Any thread.
 */
enum zsp_status zsp_zswap_swapoff(const struct zsp_zswap *zswap,
                                  uint32_t device,
                                  zsp_swapoff_progress progress,
                                  void *context,
                                  struct zsp_swapoff_report *report);

/** Row `nth` of the table of devices, from 0, those of the highest priority first; `ZSP_ENOENT` behind the last. Any thread. */
enum zsp_status zsp_zswap_get_device(const struct zsp_zswap *zswap, uint32_t nth, struct zsp_device *device);

/** Write to a device again that was retired after failed writes. Any thread. */
enum zsp_status zsp_zswap_reinstate(const struct zsp_zswap *zswap, uint32_t device);

/* === guests: an engine === */

/**
 * Make an engine over a store, which has one engine in its life: `*engine` is its handle, NULL if it was refused. `options` may be NULL. The
 * store's handle stays good. Any thread.
 */
enum zsp_status zsp_engine_new(const struct zsp_zswap *zswap,
                               const struct zsp_engine_options *options,
                               struct zsp_engine **engine);

/** Close an engine's handle. The engine goes with the last of its VMs. NULL is ignored. Any thread, when no other call uses the handle. */
enum zsp_status zsp_engine_close(struct zsp_engine *engine);

/* === guests: a VM and its memory === */

/**
 * Make a VM without memory, charged to `memcg`, a group of the engine's store: `*vm` is its handle, NULL if it was refused. `options` may
 * be NULL: then faults are served by the threads that have them. `ZSP_EPERM` and `ZSP_EUNSUPPORTED` say what this process or kernel lacks.
 * Any thread.
 */
enum zsp_status zsp_vm_new(const struct zsp_engine *engine,
                           const struct zsp_memcg *memcg,
                           const struct zsp_vm_options *options,
                           struct zsp_vm **vm);

/** Close a VM's handle. The VM goes with the last of its regions. NULL is ignored. Any thread, when no other call uses the handle. */
enum zsp_status zsp_vm_close(struct zsp_vm *vm);

/**
 * Register private anonymous memory (mmap, the heap): `bytes` bytes from `address` on, whole pages of 4096, empty or in use by any number
 * of threads. `*region` is its handle, NULL if it was refused. From here on its pages leave as limits want, and come back when they are
 * touched. It must stay mapped as it is until `zsp_region_unregister`. Any thread.
 */
enum zsp_status zsp_vm_register(const struct zsp_vm *vm, void *address, size_t bytes, struct zsp_region **region);

/**
 * The same for a shared mapping of a memfd from `offset` on, which nobody else has mapped. The descriptor may be closed afterwards. Any
 * thread.
 */
enum zsp_status zsp_vm_register_memfd(const struct zsp_vm *vm,
                                      void *address,
                                      size_t bytes,
                                      int fd,
                                      uint64_t offset,
                                      struct zsp_region **region);

/** With ZSP_EXTERNAL: a descriptor that is readable when there are faults to serve. It is the VM's: not to be read or closed. Any thread. */
enum zsp_status zsp_vm_fd(const struct zsp_vm *vm, int *fd);

/**
 * With ZSP_EXTERNAL: serve what there is, and return when there is nothing more. `events`, how many there were, may be NULL. One thread at
 * a time: a second one returns at once.
 */
enum zsp_status zsp_vm_serve(const struct zsp_vm *vm, size_t *events);

/**
 * Have pages leave until `bytes` bytes fewer are charged to the VM's group, the coldest first, whatever limits say. `won`, how many fewer
 * there are, may be NULL. Any thread that is not in a handler.
 */
enum zsp_status zsp_vm_evict(const struct zsp_vm *vm, uint64_t bytes, uint64_t *won);

/** Have everything leave that can: the guest sleeps. `evicted` may be NULL. Any thread that is not in a handler. */
enum zsp_status zsp_vm_evict_all(const struct zsp_vm *vm, struct zsp_evicted *evicted);

/**
 * Bring in the pages of `bytes` bytes from `address` on, which may span regions, whatever has to leave for them: before a system call looks
 * at them, say. They may leave again at once; `zsp_region_pin` keeps them. `ZSP_ELOST` or `ZSP_EIO` for one that cannot be read. Any
 * thread.
 */
enum zsp_status zsp_vm_make_resident(const struct zsp_vm *vm, const void *address, size_t bytes);

/**
 * With `dirty_tracking`: tell `each`, on this thread, the addresses that were written since this was called last; the first time, ever.
 * `pages`, how many they are, may be NULL. Pages that left memory meanwhile count as written. One thread at a time.
 */
enum zsp_status zsp_vm_take_dirty(const struct zsp_vm *vm, zsp_on_dirty each, void *context, uint64_t *pages);

/** The VM's numbers at this moment. Any thread that is not in a handler. */
enum zsp_status zsp_vm_get_stats(const struct zsp_vm *vm, struct zsp_vm_stats *stats);

/* === guests: a region and its pages === */

/**
 * Bring everything in and give the range back: the handle is closed, and the memory is as it was before, all there. Threads may use it
 * all the while. When a page cannot be read (`ZSP_ELOST`, `ZSP_EIO`) or pins are left (`ZSP_EBUSY`) it is refused, and everything stays as
 * it was: try again, discard the page, or close the pins. Any thread, when no other call uses the handle; before the memory is unmapped.
 */
enum zsp_status zsp_region_unregister(struct zsp_region *region);

/**
 * Bring pages in and keep them there, for devices and system calls that look at them: `bytes` bytes from `offset` in the region, whole
 * pages. `*pin` is a handle for `zsp_unpin`, NULL if it was refused; then nothing is pinned by this. Pins nest, up to 255 a page. Any
 * thread.
 */
enum zsp_status zsp_region_pin(const struct zsp_region *region, size_t offset, size_t bytes, struct zsp_pin **pin);

/** Close a pin: its pages may leave again. NULL is ignored. Any thread. */
enum zsp_status zsp_unpin(struct zsp_pin *pin);

/**
 * Throw pages away, wherever they are: they read as zeroes from then on, and nothing is charged for them. For balloons and free pages,
 * instead of madvise. `thrown`, how many bytes were somewhere, may be NULL. `ZSP_EBUSY` for a pinned page. Any thread.
 */
enum zsp_status zsp_region_discard(const struct zsp_region *region, size_t offset, size_t bytes, uint64_t *thrown);

/**
 * Have these pages leave, compressed, however hot they are; but those that are pinned. `evicted` may be NULL. Any thread that is not in a
 * handler.
 */
enum zsp_status zsp_region_evict(const struct zsp_region *region, size_t offset, size_t bytes, struct zsp_evicted *evicted);

/**
 * Bring pages in that are compressed or on devices, as far as nothing has to leave for them. `prefetched` may be NULL. Any thread that is
 * not in a handler.
 */
enum zsp_status zsp_region_prefetch(const struct zsp_region *region, size_t offset, size_t bytes, struct zsp_prefetched *prefetched);

/* === guests: programs with a handler of SIGBUS === */

/**
 * Serve a fault of registered memory from a handler of SIGBUS of the program's own: `info` and `context` are the handler's second and third
 * argument, and it was installed with SA_SIGINFO and a mask of all signals. `ZSP_OK`: it was one, and the handler must return. `ZSP_ENOENT`:
 * it is the program's; nothing was done, and no sentence written. Programs without such a handler need not call this.
 */
enum zsp_status zsp_sigbus_handle(void *info,
                                  void *context);

/**
 * Say that the program's handler of SIGBUS, installed by now and for good, calls `zsp_sigbus_handle` first. The library installs none then.
 * Before the first VM.
 */
enum zsp_status zsp_sigbus_adopt(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ZSPOOL_H */
