/* Bad input of every kind is told by a code and a sentence, and nothing else happens. */
#include "check.h"

#include <sys/mman.h>

/* A handle of the library with other bits. */
static void *changed(void *handle, uintptr_t by) { return (void *)((uintptr_t)handle ^ by); }

static void pools(void)
{
    struct zsp_pool_options options = {.size = sizeof options, .limit_bytes = 1 << 20};
    struct zsp_pool_options wrong = options;
    struct zsp_pool_usage usage = {.size = sizeof usage};
    struct { struct zsp_pool_options known; uint64_t later; } newer = {.known = options};
    zsp_pool *pool = (zsp_pool *)&options, *other;
    struct zsp_view view = {.bytes = NULL}, again;
    uint64_t object = 0, foreign;
    unsigned char bytes[PAGE + 1] = {1, 2, 3};
    size_t length = 7;

    REFUSED(ZSP_EINVAL, "`options` is NULL", zsp_pool_new(NULL, &pool));
    TRUE(pool == NULL);
    REFUSED(ZSP_EINVAL, "`pool` is NULL", zsp_pool_new(&options, NULL));
    wrong.limit_bytes = 0;
    REFUSED(ZSP_EINVAL, "limit_bytes is 0", zsp_pool_new(&wrong, &pool));
    wrong = options, wrong.size = 0;
    REFUSED(ZSP_EINVAL, "set its `size` to its sizeof", zsp_pool_new(&wrong, &pool));
    wrong.size = 1 << 30;
    REFUSED(ZSP_EINVAL, "set its `size` to its sizeof", zsp_pool_new(&wrong, &pool));
    newer.known.size = sizeof newer, newer.later = 1;
    REFUSED(ZSP_EINVAL, "does not have yet", zsp_pool_new(&newer.known, &pool));
    newer.later = 0;
    OK(zsp_pool_new(&newer.known, &other));
    OK(zsp_pool_new(&options, &pool));

    REFUSED(ZSP_EINVAL, "0 bytes is not possible", zsp_pool_insert(pool, bytes, 0, &object));
    REFUSED(ZSP_EINVAL, "4097 bytes is not possible", zsp_pool_insert(pool, bytes, sizeof bytes, &object));
    REFUSED(ZSP_EINVAL, "cannot have", zsp_pool_insert(pool, bytes, SIZE_MAX, &object));
    REFUSED(ZSP_EINVAL, "`bytes` is NULL", zsp_pool_insert(pool, NULL, 3, &object));
    REFUSED(ZSP_EINVAL, "`object` is NULL", zsp_pool_insert(pool, bytes, 3, NULL));
    REFUSED(ZSP_EINVAL, "is not aligned", zsp_pool_insert(pool, bytes, 3, (uint64_t *)(void *)(bytes + 1)));
    REFUSED(ZSP_EINVAL, "`pool` is NULL: pass the zsp_pool that zsp_pool_new gave", zsp_pool_insert(NULL, bytes, 3, &object));
    TRUE(object == 0);
    OK(zsp_pool_insert(pool, bytes, 3, &object));
    OK(zsp_pool_insert(other, bytes, 3, &foreign));
    TRUE(object != 0 && foreign != object);

    REFUSED(ZSP_EINVAL, "ask the pool that made it", zsp_pool_view(pool, foreign, &view));
    REFUSED(ZSP_EINVAL, "never made by this pool", zsp_pool_remove(pool, object + ((uint64_t)1 << 32)));
    REFUSED(ZSP_EINVAL, "", zsp_pool_remove(pool, 0));
    REFUSED(ZSP_ERANGE, "has 3 bytes and there is room for 2", zsp_pool_read(pool, object, bytes, 2, &length));
    TRUE(length == 3);
    REFUSED(ZSP_EINVAL, "`to` is NULL", zsp_pool_read(pool, object, NULL, 2, &length));
    EXPECT(ZSP_ERANGE, zsp_pool_read(pool, object, NULL, 0, &length));
    REFUSED(ZSP_EINVAL, "`length` is NULL", zsp_pool_read(pool, object, bytes, 3, NULL));

    OK(zsp_pool_view(pool, object, &view));
    TRUE(view.length == 3 && memcmp(view.bytes, bytes, 3) == 0);
    again = view; /* moved: allowed */
    memset(&view, 0, sizeof view);
    OK(zsp_pool_remove(pool, object));
    REFUSED(ZSP_ESTALE, "was removed before", zsp_pool_remove(pool, object));
    EXPECT(ZSP_ESTALE, zsp_pool_read(pool, object, bytes, 3, &length));
    EXPECT(ZSP_ESTALE, zsp_pool_view(pool, object, &view));
    TRUE(view.bytes == NULL);
    OK(zsp_pool_close(pool));
    TRUE(memcmp(again.bytes, bytes, 3) == 0); /* neither removal nor closing takes it from who looks */
    OK(zsp_view_release(&again));
    REFUSED(ZSP_EINVAL, "the view holds nothing", zsp_view_release(&again));
    REFUSED(ZSP_EINVAL, "the view holds nothing", zsp_view_release(&view));
    REFUSED(ZSP_EINVAL, "`view` is NULL", zsp_view_release(NULL));

    REFUSED(ZSP_EINVAL, "closed before", zsp_pool_insert(pool, bytes, 3, &object));
    REFUSED(ZSP_EINVAL, "closed before", zsp_pool_close(pool));
    REFUSED(ZSP_EINVAL, "no handle that this library gave", zsp_pool_close(changed(other, 1u << 20)));
    REFUSED(ZSP_EINVAL, "no handle that this library gave", zsp_pool_get_usage((zsp_pool *)(void *)&options, &usage));
    usage.size = 8;
    REFUSED(ZSP_EINVAL, "`usage` says that it has 8 bytes", zsp_pool_get_usage(other, &usage));
    OK(zsp_pool_close(other));
    OK(zsp_pool_close(NULL));
}

static int never(void *context, const void *page)
{
    (void)context, (void)page;
    exit(1);
}

static void stores(void)
{
    struct zsp_zswap_options options = {.size = sizeof options};
    struct zsp_swap_options swap = {.size = sizeof swap};
    struct zsp_swapoff_report report = {.size = sizeof report};
    struct zsp_device device = {.size = sizeof device};
    struct zsp_stored stored = {.size = sizeof stored};
    zsp_zswap *zswap, *other;
    zsp_memcg *group, *foreign, *same;
    unsigned char page[PAGE];
    uint64_t slot, bytes;
    size_t length;
    char text[8];

    REFUSED(ZSP_EINVAL, "pool_limit_bytes is 0", zsp_zswap_new(&options, &zswap));
    options.pool_limit_bytes = 1 << 20, options.compressing_threads = UINT64_MAX;
    REFUSED(ZSP_EINVAL, "compressing_threads", zsp_zswap_new(&options, &zswap));
    options.compressing_threads = 2;
    OK(zsp_zswap_new(&options, &zswap));
    OK(zsp_zswap_new(&options, &other));

    REFUSED(ZSP_EINVAL, "begin with \"/\"", zsp_memcg_mkdir(zswap, "vm", &group));
    REFUSED(ZSP_ENOENT, "there is no group", zsp_memcg_mkdir(zswap, "/tenants/vm", &group));
    REFUSED(ZSP_EINVAL, "the root is there already", zsp_memcg_mkdir(zswap, "/", &group));
    REFUSED(ZSP_EINVAL, "cannot name a memcg", zsp_memcg_mkdir(zswap, "/.", &group));
    REFUSED(ZSP_EINVAL, "not UTF-8", zsp_memcg_mkdir(zswap, "/\xff", &group));
    REFUSED(ZSP_EINVAL, "`path` is NULL", zsp_memcg_mkdir(zswap, NULL, &group));
    REFUSED(ZSP_ENOENT, "zsp_memcg_mkdir", zsp_memcg_open(zswap, "/vm", &group));
    REFUSED(ZSP_EINVAL, "begin with \"/\"", zsp_memcg_open(zswap, "vm", &group));
    REFUSED(ZSP_EINVAL, "begin with \"/\"", zsp_memcg_open(zswap, "", &group));
    static char longest[5002] = "/";
    memset(longest + 1, 'x', 5000);
    REFUSED(ZSP_EINVAL, "use 1 to 255 bytes", zsp_memcg_mkdir(zswap, longest, &group));
    TRUE(group == NULL);
    OK(zsp_memcg_mkdir(zswap, "/vm", &group));
    EXPECT(ZSP_EEXIST, zsp_memcg_mkdir(zswap, "/vm", &same));
    OK(zsp_memcg_mkdir(zswap, "/vm/inner", &same));
    EXPECT(ZSP_EBUSY, zsp_memcg_rmdir(group));
    OK(zsp_memcg_rmdir(same));
    EXPECT(ZSP_EGONE, zsp_memcg_rmdir(same));
    EXPECT(ZSP_EGONE, zsp_memcg_current(same, ZSP_MEMORY, &bytes));
    EXPECT(ZSP_EGONE, zsp_memcg_set_max(same, ZSP_MEMORY, 1));
    OK(zsp_memcg_close(same));
    OK(zsp_memcg_mkdir(other, "/vm", &foreign));
    REFUSED(ZSP_EINVAL, "no counter 3", zsp_memcg_set_max(group, 3, 1));
    REFUSED(ZSP_EINVAL, "no counter 4", zsp_memcg_current(group, 4, &bytes));
    EXPECT(ZSP_ENOENT, zsp_memcg_write_file(group, "memory.no", "1"));
    REFUSED(ZSP_EINVAL, "memory.max", zsp_memcg_write_file(group, "memory.max", "much"));
    REFUSED(ZSP_ERANGE, "room for 8", zsp_memcg_read_file(group, "memory.stat", text, sizeof text, &length));
    TRUE(length > 100);
    REFUSED(ZSP_EPARTIAL, "were reclaimed", zsp_memcg_reclaim(group, 1 << 20, &bytes));
    TRUE(bytes == 0);

    make_page(page, 1);
    REFUSED(ZSP_EINVAL, "0 slots", zsp_zswap_reserve(zswap, 0, &slot));
    OK(zsp_zswap_reserve(zswap, 10, &slot));
    REFUSED(ZSP_ENOENT, "holds no page", zsp_zswap_load(zswap, slot, page));
    REFUSED(ZSP_EINVAL, "never reserved", zsp_zswap_store(zswap, slot + ((uint64_t)1 << 40), group, page, NULL));
    REFUSED(ZSP_EINVAL, "another instance", zsp_zswap_store(zswap, slot, foreign, page, NULL));
    REFUSED(ZSP_EINVAL, "`page` is NULL", zsp_zswap_store(zswap, slot, group, NULL, NULL));
    REFUSED(ZSP_EINVAL, "`memcg` is a zsp_zswap", zsp_zswap_store(zswap, slot, (zsp_memcg *)zswap, page, NULL));
    OK(zsp_memcg_set_max(group, ZSP_ZSWAP, 0));
    REFUSED(ZSP_ELIMIT, "memory.zswap.max", zsp_zswap_store(zswap, slot, group, page, &stored));
    REFUSED(ZSP_EINVAL, "`install` is NULL", zsp_zswap_take_with(zswap, slot, NULL, NULL, NULL));
    EXPECT(ZSP_ENOENT, zsp_zswap_take_with(zswap, slot, never, NULL, NULL));
    EXPECT(ZSP_ENOENT, zsp_zswap_take(zswap, slot, page, NULL));
    REFUSED(ZSP_EINVAL, "more than there are numbers", zsp_zswap_free(zswap, slot + 1, UINT64_MAX, &bytes));
    OK(zsp_zswap_free(zswap, slot, 10, &bytes));
    TRUE(bytes == 0);

    REFUSED(ZSP_EINVAL, "set one of `path` and `unnamed_in`", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.path = "/no/such/folder/swap";
    REFUSED(ZSP_EINVAL, "too small", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.bytes = 1 << 20;
    REFUSED(ZSP_ENOENT, "/no/such/folder", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.path = "/etc/passwd";
    REFUSED(ZSP_EEXIST, "was left alone", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.low_percent = 90, swap.high_percent = 80;
    REFUSED(ZSP_EINVAL, "low_percent is 90", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.priority = 40000;
    REFUSED(ZSP_EINVAL, "priority is 40000", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.overwrite = 1;
    REFUSED(ZSP_EINVAL, "`overwrite` is for disks", zsp_zswap_swapon(zswap, &swap, NULL));
    swap.disk = 1;
    REFUSED(ZSP_EINVAL, "not a block device", zsp_zswap_swapon(zswap, &swap, NULL));
    EXPECT(ZSP_ENOENT, zsp_zswap_swapoff(zswap, 0, NULL, NULL, &report));
    REFUSED(ZSP_ENOENT, "no swap device 300", zsp_zswap_swapoff(zswap, 300, NULL, NULL, NULL));
    EXPECT(ZSP_ENOENT, zsp_zswap_reinstate(zswap, 1));
    REFUSED(ZSP_ENOENT, "there are 0 swap devices", zsp_zswap_get_device(zswap, 0, &device));

    OK(zsp_memcg_close(foreign));
    OK(zsp_zswap_close(other));
    OK(zsp_zswap_close(zswap));
    OK(zsp_memcg_set_max(group, ZSP_ZSWAP, 1)); /* a group's handle outlives its store */
    EXPECT(ZSP_EINVAL, zsp_zswap_load(zswap, slot, page));
    OK(zsp_memcg_close(group));
}

static void guests(void)
{
    struct zsp_zswap_options options = {.size = sizeof options, .pool_limit_bytes = 8 << 20};
    struct zsp_engine_options with = {.size = sizeof with};
    struct zsp_vm_options how = {.size = sizeof how};
    zsp_zswap *zswap, *other;
    zsp_engine *engine, *second;
    zsp_memcg *group, *foreign;
    zsp_vm *vm, *late;
    zsp_region *region, *overlap;
    zsp_pin *pin;
    uint32_t core = 100000;
    uint64_t thrown;
    size_t bytes = 16 * PAGE;
    unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd;

    TRUE(memory != MAP_FAILED);
    OK(zsp_zswap_new(&options, &zswap));
    OK(zsp_zswap_new(&options, &other));
    OK(zsp_memcg_mkdir(zswap, "/vm", &group));
    OK(zsp_memcg_mkdir(other, "/vm", &foreign));
    REFUSED(ZSP_EINVAL, "`zswap` is a zsp_memcg: pass the zsp_zswap", zsp_engine_new((zsp_zswap *)group, NULL, &engine));
    OK(zsp_engine_new(zswap, &with, &engine));
    REFUSED(ZSP_EINVAL, "one in its life", zsp_engine_new(zswap, NULL, &second));
    TRUE(second == NULL);

    REFUSED(ZSP_EINVAL, "not of this engine's tree", zsp_vm_new(engine, foreign, NULL, &vm));
    how.service = 4;
    REFUSED(ZSP_EINVAL, "no service 4", zsp_vm_new(engine, group, &how, &vm));
    how.service = ZSP_IN_THREAD, how.threads = 2;
    REFUSED(ZSP_EINVAL, "are for ZSP_THREADS", zsp_vm_new(engine, group, &how, &vm));
    how.service = ZSP_THREADS, how.threads = 1000000;
    REFUSED(ZSP_EINVAL, "`threads` is 1000000", zsp_vm_new(engine, group, &how, &vm));
    how.threads = 1, how.core_count = 1;
    REFUSED(ZSP_EINVAL, "`options->cores` is NULL", zsp_vm_new(engine, group, &how, &vm));
    how.cores = &core;
    EXPECT(ZSP_ESYSTEM, or_skip(zsp_vm_new(engine, group, &how, &vm)));
    how = (struct zsp_vm_options){.size = sizeof how, .follow = 3};
    REFUSED(ZSP_EINVAL, "zsp_follow", zsp_vm_new(engine, group, &how, &vm));
    how = (struct zsp_vm_options){.size = sizeof how, .reserved = 3};
    REFUSED(ZSP_EINVAL, "`reserved` is 3", zsp_vm_new(engine, group, &how, &vm));
    how = (struct zsp_vm_options){.size = sizeof how, .kept_bytes = 1 << 20, .dirty_tracking = 1};
    REFUSED(ZSP_EINVAL, "use one of the two", zsp_vm_new(engine, group, &how, &vm));
    TRUE(vm == NULL);
    OK(or_skip(zsp_vm_new(engine, group, NULL, &vm)));

    REFUSED(ZSP_EINVAL, "ZSP_EXTERNAL", zsp_vm_fd(vm, &fd));
    REFUSED(ZSP_EINVAL, "ZSP_EXTERNAL", zsp_vm_serve(vm, NULL));
    REFUSED(ZSP_EINVAL, "", zsp_vm_take_dirty(vm, NULL, NULL, NULL));
    REFUSED(ZSP_EINVAL, "is empty", zsp_vm_register(vm, memory, 0, &region));
    REFUSED(ZSP_EINVAL, "whole pages", zsp_vm_register(vm, memory + 1, PAGE, &region));
    REFUSED(ZSP_EINVAL, "", zsp_vm_register(vm, NULL, PAGE, &region));
    REFUSED(ZSP_EINVAL, "descriptor", zsp_vm_register_memfd(vm, memory, bytes, -1, 0, &region));
    REFUSED(ZSP_EINVAL, "not a shared mapping", zsp_vm_register_memfd(vm, memory, bytes, 100000, 0, &region));
    EXPECT(ZSP_EINVAL, zsp_vm_register_memfd(vm, memory, bytes, 2, 0, &region));
    TRUE(region == NULL);
    OK(zsp_vm_register(vm, memory, bytes, &region));
    EXPECT(ZSP_EINVAL, zsp_vm_register(vm, memory + 4 * PAGE, PAGE, &overlap));

    memset(memory, 7, bytes);
    REFUSED(ZSP_EINVAL, "does not begin and end with a page", zsp_region_pin(region, 1, PAGE, &pin));
    REFUSED(ZSP_EINVAL, "outside", zsp_region_pin(region, 15 * PAGE, 2 * PAGE, &pin));
    REFUSED(ZSP_EINVAL, "more than there are numbers", zsp_region_pin(region, PAGE, SIZE_MAX, &pin));
    REFUSED(ZSP_EINVAL, "outside", zsp_region_evict(region, 0, 17 * PAGE, NULL));
    REFUSED(ZSP_EINVAL, "outside", zsp_region_prefetch(region, 17 * PAGE, PAGE, NULL));
    REFUSED(ZSP_EINVAL, "outside", zsp_vm_make_resident(vm, memory, bytes + PAGE));
    REFUSED(ZSP_EINVAL, "end of the address space", zsp_vm_make_resident(vm, memory, SIZE_MAX));
    OK(zsp_region_pin(region, PAGE, PAGE, &pin));
    REFUSED(ZSP_EBUSY, "pinned", zsp_region_discard(region, 0, 2 * PAGE, &thrown));
    REFUSED(ZSP_EBUSY, "1 pins", zsp_region_unregister(region));
    REFUSED(ZSP_EBUSY, "pinned", zsp_memcg_set_max(group, ZSP_MEMORY, 0));
    REFUSED(ZSP_EINVAL, "`region` is a zsp_pin", zsp_region_unregister((zsp_region *)pin));
    OK(zsp_unpin(pin));
    REFUSED(ZSP_EINVAL, "closed before", zsp_unpin(pin));

    /* In whatever order handles are closed: what is used stays as long as it is used. */
    OK(zsp_engine_close(engine));
    REFUSED(ZSP_EINVAL, "`engine` was closed before", zsp_vm_new(engine, group, NULL, &late));
    REFUSED(ZSP_EINVAL, "`engine` was closed before", zsp_engine_close(engine));
    OK(zsp_zswap_close(zswap));
    OK(zsp_memcg_close(group));
    OK(zsp_region_evict(region, 0, bytes, NULL));
    TRUE(memory[5 * PAGE] == 7);
    OK(zsp_region_unregister(region));
    REFUSED(ZSP_EINVAL, "closed before", zsp_region_unregister(region));
    REFUSED(ZSP_EINVAL, "closed before", zsp_region_discard(region, 0, PAGE, NULL));
    TRUE(memory[6 * PAGE] == 7);
    OK(zsp_vm_close(vm));
    OK(zsp_memcg_close(foreign));
    OK(zsp_zswap_close(other));
    EXPECT(ZSP_EINVAL, zsp_sigbus_handle(NULL, NULL));
    munmap(memory, bytes);
}

int main(void)
{
    TRUE(zsp_version() == (ZSP_VERSION_MAJOR << 16 | ZSP_VERSION_MINOR << 8 | ZSP_VERSION_PATCH));
    TRUE(zsp_error_message()[0] == 0);
    pools();
    stores();
    guests();
    puts("every misuse was told");
    return 0;
}
