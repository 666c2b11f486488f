/* Guest memory: every service and both kinds of memory, pins, discards, dirty pages, what is asked at a limit. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 512
#define BYTES ((size_t)PAGES * PAGE)

static zsp_zswap *zswap;
static zsp_engine *engine;
static zsp_memcg *group;
static _Atomic uint32_t asked;
static _Atomic uint32_t verdict;

static uint32_t overshoot(void *context, const struct zsp_overshoot *about)
{
    uint64_t *id = context;
    if (about->size != sizeof *about || about->vm_memcg != *id || about->memcg != *id || about->usage_bytes + about->bytes <= about->limit_bytes)
        abort();
    atomic_fetch_add(&asked, 1);
    return atomic_load(&verdict);
}

static void fill(unsigned char *memory)
{
    size_t k;
    for (k = 0; k < PAGES; k++)
        make_page(memory + k * PAGE, k);
}

static void look(const unsigned char *memory)
{
    unsigned char wanted[PAGE];
    size_t k;
    for (k = 0; k < PAGES; k++) {
        make_page(wanted, k);
        TRUE(memcmp(memory + k * PAGE, wanted, PAGE) == 0);
    }
}

static unsigned char *anonymous(void)
{
    unsigned char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRUE(memory != MAP_FAILED);
    return memory;
}

/* Becomes true soon: the evictor may be at a few pages this moment. */
#define SOON(again, condition)                                                                                         \
    do {                                                                                                               \
        int left_ = 500;                                                                                               \
        for (again; !(condition) && left_ > 0; left_--) {                                                              \
            usleep(10000);                                                                                             \
            again;                                                                                                     \
        }                                                                                                              \
        TRUE(condition);                                                                                               \
    } while (0)

static struct zsp_vm_stats now(zsp_vm *vm)
{
    struct zsp_vm_stats stats = {.size = sizeof stats};
    OK(zsp_vm_get_stats(vm, &stats));
    return stats;
}

static struct zsp_vm_stats emptied(zsp_vm *vm)
{
    OK(zsp_vm_evict_all(vm, NULL));
    return now(vm);
}

/* In a quarter of its memory, with faults served as `options` say. */
static void in_a_quarter(zsp_vm *vm, unsigned char *memory, zsp_region *region)
{
    struct zsp_vm_stats stats = {.size = sizeof stats};
    struct zsp_evicted evicted = {.size = sizeof evicted};
    struct zsp_prefetched prefetched = {.size = sizeof prefetched};
    uint64_t bytes, won;
    OK(zsp_memcg_set_max(group, ZSP_MEMORY, BYTES / 4));
    fill(memory);
    look(memory);
    SOON(stats = now(vm), stats.resident_bytes + stats.staged_bytes + stats.compressed_bytes + stats.same_filled_bytes == BYTES);
    OK(zsp_memcg_peak(group, ZSP_MEMORY, &bytes));
    TRUE(bytes <= BYTES / 4 && stats.overshoot_bytes == 0);
    TRUE(stats.faults >= stats.compressed_faults && stats.compressed_faults > 0 && stats.fault_p50_ns > 0);
    OK(zsp_vm_evict(vm, 16 * PAGE, &won));
    TRUE(won >= 16 * PAGE / 2);
    OK(zsp_vm_evict_all(vm, &evicted));
    TRUE(evicted.pages > 0);
    SOON(stats = emptied(vm), stats.resident_bytes == 0 && stats.compressed_bytes == BYTES);
    OK(zsp_region_prefetch(region, 0, 8 * PAGE, &prefetched));
    TRUE(prefetched.pages == 8);
    OK(zsp_vm_make_resident(vm, memory, BYTES / 8));
    OK(zsp_region_evict(region, 0, 4 * PAGE, &evicted));
    TRUE(evicted.pages == 4);
    OK(zsp_memcg_reclaim(group, 8 * PAGE, &won));
    look(memory);
    OK(zsp_memcg_set_max(group, ZSP_MEMORY, ZSP_NO_LIMIT));
}

static void pins_and_discards(zsp_vm *vm, unsigned char *memory, zsp_region *region)
{
    struct zsp_vm_stats stats = {.size = sizeof stats};
    zsp_pin *pins[2];
    uint64_t thrown;
    size_t at;
    int ends[2];
    char back[PAGE];

    OK(zsp_region_pin(region, 4 * PAGE, 4 * PAGE, &pins[0]));
    OK(zsp_region_pin(region, 6 * PAGE, 4 * PAGE, &pins[1]));
    SOON(stats = emptied(vm), stats.pinned_bytes == 6 * PAGE && stats.resident_bytes == 6 * PAGE);
    /* The kernel looks at it: it is there. */
    TRUE(pipe(ends) == 0 && write(ends[1], memory + 5 * PAGE, PAGE) == PAGE && read(ends[0], back, PAGE) == PAGE);
    TRUE(memcmp(back, memory + 5 * PAGE, PAGE) == 0);
    close(ends[0]), close(ends[1]);
    OK(zsp_unpin(pins[0]));
    EXPECT(ZSP_EBUSY, zsp_region_discard(region, 6 * PAGE, PAGE, NULL));
    OK(zsp_unpin(pins[1]));

    OK(zsp_region_discard(region, 0, 8 * PAGE, &thrown));
    TRUE(thrown == 8 * PAGE);
    for (at = 0; at < 8 * PAGE; at++)
        TRUE(memory[at] == 0);
}

static void service(uint32_t kind, int memfd)
{
    struct zsp_vm_options options = {.size = sizeof options, .service = kind, .fault_around = memfd ? ZSP_AROUND_NONE : 8};
    zsp_vm *vm;
    zsp_region *region;
    unsigned char *memory;
    OK(or_skip(zsp_vm_new(engine, group, &options, &vm)));
    OK(zsp_memcg_write_file(group, "memory.peak", "reset"));
    if (memfd) {
        int fd = memfd_create("guest", MFD_CLOEXEC);
        TRUE(fd >= 0 && ftruncate(fd, 2 * BYTES) == 0);
        memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, BYTES);
        TRUE(memory != MAP_FAILED);
        EXPECT(ZSP_EINVAL, zsp_vm_register_memfd(vm, memory, BYTES, fd, 0, &region)); /* not what is mapped there */
        OK(or_skip(zsp_vm_register_memfd(vm, memory, BYTES, fd, BYTES, &region)));
        close(fd);
    } else {
        memory = anonymous();
        OK(zsp_vm_register(vm, memory, BYTES, &region));
    }
    in_a_quarter(vm, memory, region);
    pins_and_discards(vm, memory, region);
    fill(memory);
    OK(zsp_vm_evict_all(vm, NULL));
    OK(zsp_region_unregister(region));
    look(memory);
    OK(zsp_vm_close(vm));
    munmap(memory, BYTES);
}

/* === a loop of the embedder's === */

struct loop {
    zsp_vm *vm;
    _Atomic int stop;
    _Atomic size_t events;
};

static void *serve(void *context)
{
    struct loop *loop = context;
    struct pollfd of = {.events = POLLIN};
    OK(zsp_vm_fd(loop->vm, &of.fd));
    while (!atomic_load(&loop->stop)) {
        size_t events = 0;
        if (poll(&of, 1, 10) > 0) {
            OK(zsp_vm_serve(loop->vm, &events));
            atomic_fetch_add(&loop->events, events);
        }
    }
    return NULL;
}

static void external(void)
{
    struct zsp_vm_options options = {.size = sizeof options, .service = ZSP_EXTERNAL};
    struct loop loop = {.vm = NULL};
    unsigned char *memory = anonymous();
    zsp_region *region;
    pthread_t thread;
    OK(zsp_vm_new(engine, group, &options, &loop.vm));
    OK(zsp_vm_register(loop.vm, memory, BYTES, &region));
    TRUE(pthread_create(&thread, NULL, serve, &loop) == 0);
    OK(zsp_memcg_write_file(group, "memory.peak", "reset"));
    in_a_quarter(loop.vm, memory, region);
    OK(zsp_region_unregister(region));
    atomic_store(&loop.stop, 1);
    TRUE(pthread_join(thread, NULL) == 0);
    TRUE(atomic_load(&loop.events) > 0);
    look(memory);
    OK(zsp_vm_close(loop.vm));
    munmap(memory, BYTES);
}

/* === dirty pages === */

struct dirty {
    const unsigned char *memory;
    unsigned char pages[PAGES];
    unsigned runs;
};

static void note(void *context, void *address, size_t bytes)
{
    struct dirty *dirty = context;
    size_t first = (size_t)((unsigned char *)address - dirty->memory) / PAGE;
    TRUE(bytes % PAGE == 0 && first + bytes / PAGE <= PAGES);
    memset(dirty->pages + first, 1, bytes / PAGE);
    dirty->runs++;
}

static void dirty_pages(void)
{
    struct zsp_vm_options options = {.size = sizeof options, .dirty_tracking = 1};
    static struct dirty dirty;
    zsp_vm *vm;
    zsp_region *region;
    unsigned char *memory = anonymous();
    uint64_t pages;
    enum zsp_status status;
    OK(zsp_vm_new(engine, group, &options, &vm));
    OK(zsp_vm_register(vm, memory, BYTES, &region));
    fill(memory);
    dirty.memory = memory;
    REFUSED(ZSP_EINVAL, "`each` is NULL", zsp_vm_take_dirty(vm, NULL, NULL, NULL));
    status = zsp_vm_take_dirty(vm, note, &dirty, &pages);
    if (status == ZSP_EUNSUPPORTED) {
        TRUE(strstr(zsp_error_message(), "Linux 6.7") != NULL);
    } else {
        TRUE(status == ZSP_OK && pages == PAGES);
        memset(dirty.pages, 0, PAGES), dirty.runs = 0;
        memory[7 * PAGE]++, memory[8 * PAGE]++, memory[99 * PAGE]++;
        OK(zsp_vm_take_dirty(vm, note, &dirty, &pages));
        TRUE(pages == 3 && dirty.runs == 2 && dirty.pages[7] && dirty.pages[8] && dirty.pages[99]);
        memory[7 * PAGE]--, memory[8 * PAGE]--, memory[99 * PAGE]--;
    }
    OK(zsp_region_unregister(region));
    look(memory);
    OK(zsp_vm_close(vm));
    munmap(memory, BYTES);
}

/* === a limit that cannot be kept === */

static void at_a_limit(void)
{
    zsp_vm *vm;
    zsp_region *region;
    zsp_pin *pin;
    struct zsp_vm_stats stats = {.size = sizeof stats};
    unsigned char *memory = anonymous();
    OK(zsp_vm_new(engine, group, NULL, &vm));
    OK(zsp_vm_register(vm, memory, BYTES, &region));
    OK(zsp_region_pin(region, 0, 64 * PAGE, &pin));
    OK(zsp_memcg_set_max(group, ZSP_MEMORY, 64 * PAGE));
    atomic_store(&asked, 0);
    atomic_store(&verdict, ZSP_SERVE);
    memory[100 * PAGE] = 1; /* everything else is pinned */
    OK(zsp_vm_get_stats(vm, &stats));
    TRUE(atomic_load(&asked) > 0 && stats.overshoot_bytes >= PAGE);
    OK(zsp_unpin(pin));
    OK(zsp_memcg_set_max(group, ZSP_MEMORY, ZSP_NO_LIMIT));
    OK(zsp_region_unregister(region));
    OK(zsp_vm_close(vm));
    munmap(memory, BYTES);
}

/* === a handler of SIGBUS of the program's own === */

static _Atomic unsigned ours, theirs;
static unsigned char *hole;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    if (zsp_sigbus_handle(info, context) == ZSP_OK) {
        atomic_fetch_add(&ours, 1);
        return;
    }
    atomic_fetch_add(&theirs, 1);
    /* A page behind the end of a file: something to read. */
    if (mmap(hole, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        _exit(1);
}

static void own_handler(void)
{
    struct sigaction action;
    int fd = memfd_create("short", MFD_CLOEXEC);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO;
    sigfillset(&action.sa_mask);
    TRUE(sigaction(SIGBUS, &action, NULL) == 0);
    OK(zsp_sigbus_adopt());
    hole = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    TRUE(hole != MAP_FAILED);
    TRUE(((volatile unsigned char *)hole)[5] == 0 && atomic_load(&theirs) == 1);
    close(fd);
}

int main(int count, char **arguments)
{
    struct zsp_zswap_options options = {.size = sizeof options, .pool_limit_bytes = 16 << 20};
    static uint64_t id;
    struct zsp_engine_options with = {.size = sizeof with, .on_overshoot = overshoot, .context = &id};
    int memfd;
    if (count == 2 && strcmp(arguments[1], "adopted") == 0)
        own_handler();
    OK(zsp_zswap_new(&options, &zswap));
    OK(zsp_engine_new(zswap, &with, &engine));
    OK(zsp_memcg_mkdir(zswap, "/vm", &group));
    OK(zsp_memcg_id(group, &id));
    for (memfd = 0; memfd < 2; memfd++) {
        service(ZSP_IN_THREAD, memfd);
        service(ZSP_THREADS, memfd);
    }
    external();
    dirty_pages();
    at_a_limit();
    if (count == 2)
        TRUE(atomic_load(&ours) > 100 && atomic_load(&theirs) == 1);
    OK(zsp_memcg_close(group));
    OK(zsp_engine_close(engine));
    OK(zsp_zswap_close(zswap));
    puts("every guest had its memory");
    return 0;
}
