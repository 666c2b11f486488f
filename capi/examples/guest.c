/*
 * An emulator in C whose guest's memory is under a limit of a quarter of it.
 *
 *   64 MiB of the guest's   [ p0 p1 p2 ...                              ]     read and written as ever
 *                              |                    ^
 *                              | memory.max: 16 MiB | touched: it is there again
 *                              v                    |
 *                           compressed, some 1 byte in 10 of what it was
 *
 * The guest is a machine of eight registers that sorts records by their keys. It knows nothing of the limit. Afterwards every page
 * is looked at, and the program fails if one is wrong or the limit was ever passed.
 *
 *   cc guest.c $(pkg-config --cflags --libs zspool) -o guest && ./guest
 */
#include <zspool.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define GUEST_BYTES ((size_t)64 << 20)
#define LIMIT ((uint64_t)16 << 20)
#define PAGE 4096
#define PAGES (GUEST_BYTES / PAGE)

/* Every call of the library returns a code; the sentence that belongs to it says what to do. */
static void check(enum zsp_status status, const char *doing)
{
    if (status == ZSP_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", doing, zsp_status_name(status), zsp_error_message());
    exit(status == ZSP_EPERM || status == ZSP_EUNSUPPORTED ? 77 : 1); /* 77: it cannot be shown on this machine */
}

/* === the emulator === */

enum operation { SET, ADD, MULTIPLY, AND, LOAD, STORE, JUMP_BELOW, HALT };

struct instruction {
    enum operation operation;
    unsigned to, from;
    uint64_t number; /* added to an address; for SET the value; for a jump where to */
};

struct machine {
    unsigned char *memory;
    size_t bytes;
    uint64_t registers[8];
    uint64_t executed;
};

/* A word of the guest's memory. Nothing is special about it but that its page may be out. */
static uint64_t *word(struct machine *machine, uint64_t address)
{
    if (address % 8 != 0 || address > machine->bytes - 8) {
        fprintf(stderr, "the guest looked at %#" PRIx64 ", where it has no memory\n", address);
        exit(1);
    }
    return (uint64_t *)(void *)(machine->memory + address);
}

static void run(struct machine *machine, const struct instruction *program)
{
    uint64_t *r = machine->registers;
    size_t at = 0;
    for (;; machine->executed++) {
        struct instruction now = program[at++];
        switch (now.operation) {
        case SET: r[now.to] = now.number; break;
        case ADD: r[now.to] += r[now.from] + now.number; break;
        case MULTIPLY: r[now.to] = r[now.to] * now.number; break;
        case AND: r[now.to] &= now.number; break;
        case LOAD: r[now.to] = *word(machine, r[now.from] + now.number); break;
        case STORE: *word(machine, r[now.from] + now.number) = r[now.to]; break;
        case JUMP_BELOW: if (r[now.to] < r[now.from]) at = now.number; break;
        case HALT: return;
        }
    }
}

/* === what the guest does === */

/* Registers: 0 a counter, 1 its end, 2 an address, 3 a value, 4 zero. */

/* Writes a record every 128 bytes: its number, times a number that is different for each page. */
static const struct instruction fill[] = {
    {SET, 0, 0, 0},
    {SET, 1, 0, GUEST_BYTES},
    {SET, 4, 0, 0},
    /* 3: */ {SET, 3, 0, 0},
    {ADD, 3, 0, 0},
    {AND, 3, 0, ~(uint64_t)(PAGE - 1)},
    {MULTIPLY, 3, 0, 0x9e3779b97f4a7c15u},
    {STORE, 3, 0, 0},
    {ADD, 0, 4, 128},
    {JUMP_BELOW, 0, 1, 3},
    {HALT, 0, 0, 0},
};

/* Goes over all pages four times, each time in another order, and adds one to a word of each. */
static const struct instruction work[] = {
    {SET, 0, 0, 0},
    {SET, 1, 0, 4 * PAGES},
    {SET, 4, 0, 0},
    /* 3: */ {SET, 2, 0, 0},
    {ADD, 2, 0, 0},
    {MULTIPLY, 2, 0, (uint64_t)PAGE * 6151}, /* odd times the page: every page once in as many steps as there are pages */
    {AND, 2, 0, GUEST_BYTES - 1},
    {LOAD, 3, 2, 64},
    {ADD, 3, 4, 1},
    {STORE, 3, 2, 64},
    {ADD, 0, 4, 1},
    {JUMP_BELOW, 0, 1, 3},
    {HALT, 0, 0, 0},
};

/* What those two leave in each page. */
static int is_right(const struct machine *machine, size_t page)
{
    const uint64_t *words = (const uint64_t *)(const void *)(machine->memory + page * PAGE);
    size_t at;
    for (at = 0; at < PAGE / 8; at++) {
        uint64_t wanted = at % 16 == 0 ? page * PAGE * 0x9e3779b97f4a7c15u : at == 8 ? 4 : 0;
        if (words[at] != wanted)
            return 0;
    }
    return 1;
}

int main(void)
{
    struct zsp_zswap_options options = {.size = sizeof options, .pool_limit_bytes = 64 << 20};
    struct zsp_vm_stats stats = {.size = sizeof stats};
    struct machine machine = {.bytes = GUEST_BYTES};
    zsp_zswap *zswap;
    zsp_engine *engine;
    zsp_memcg *group;
    zsp_vm *vm;
    zsp_region *region;
    uint64_t peak;
    size_t page, wrong = 0;

    /* The memory is the emulator's, mapped as ever. */
    machine.memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (machine.memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }

    check(zsp_zswap_new(&options, &zswap), "making the store"); /* zsp_zswap_swapon adds a swapfile for what is colder still */
    check(zsp_engine_new(zswap, NULL, &engine), "making the engine");             /* one a process */
    check(zsp_memcg_mkdir(zswap, "/vm0", &group), "making a group");              /* limits and counters of one guest */
    check(zsp_memcg_set_max(group, ZSP_MEMORY, LIMIT), "setting memory.max");
    check(zsp_vm_new(engine, group, NULL, &vm), "making a VM");
    check(zsp_vm_register(vm, machine.memory, GUEST_BYTES, &region), "registering its memory");

    run(&machine, fill);
    run(&machine, work);
    for (page = 0; page < PAGES; page++)
        wrong += !is_right(&machine, page);

    check(zsp_vm_get_stats(vm, &stats), "reading the statistics");
    check(zsp_memcg_peak(group, ZSP_MEMORY, &peak), "reading the peak");
    printf("%zu MiB of guest in %" PRIu64 " MiB: %" PRIu64 " instructions, %zu of %zu pages wrong\n", GUEST_BYTES >> 20, LIMIT >> 20,
           machine.executed, wrong, (size_t)PAGES);
    printf("memory.peak %" PRIu64 " of memory.max %" PRIu64 "; %" PRIu64 " bytes in memory, %" PRIu64 " compressed into %" PRIu64 "\n", peak,
           LIMIT, stats.resident_bytes + stats.staged_bytes, stats.compressed_bytes, stats.compressed_into_bytes);
    printf("%" PRIu64 " faults, half of them within %" PRIu64 " ns, 99 of 100 within %" PRIu64 " ns\n", stats.faults, stats.fault_p50_ns,
           stats.fault_p99_ns);
    if (peak > LIMIT || stats.overshoot_bytes != 0) {
        fprintf(stderr, "the limit was passed\n");
        return 1;
    }

    /* All of it comes in again, past no limit that there is now; then the memory is as if nothing had happened. */
    check(zsp_memcg_set_max(group, ZSP_MEMORY, ZSP_NO_LIMIT), "raising memory.max");
    check(zsp_region_unregister(region), "unregistering");
    for (page = 0; page < PAGES; page++)
        wrong += !is_right(&machine, page);
    printf("unregistered: %zu pages wrong\n", wrong);

    check(zsp_vm_close(vm), "closing the VM");
    check(zsp_memcg_rmdir(group), "removing the group");
    check(zsp_memcg_close(group), "closing the group");
    check(zsp_engine_close(engine), "closing the engine");
    check(zsp_zswap_close(zswap), "closing the store");
    munmap(machine.memory, GUEST_BYTES);
    return wrong != 0;
}
