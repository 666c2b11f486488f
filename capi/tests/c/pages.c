/* A store: groups, limits, swap devices, pages in slots; from several threads. argv[1] is a folder for swapfiles. */
#include "check.h"

#include <pthread.h>
#include <sys/stat.h>

#define SLOTS 2000
#define THREADS 4

static zsp_zswap *zswap;
static zsp_memcg *group;
static uint64_t first;

static int is_page(const unsigned char *page, uint64_t number)
{
    unsigned char wanted[PAGE];
    make_page(wanted, number);
    return memcmp(page, wanted, PAGE) == 0;
}

/* Installs into `context`, or refuses to where it begins with 1. */
static int install(void *context, const void *page)
{
    unsigned char *to = context;
    if (to[0] == 1)
        return -1;
    memcpy(to, page, PAGE);
    return 0;
}

/* Calls it off at the first word. */
static int call_off(void *context, const struct zsp_swapoff_report *so_far)
{
    TRUE(so_far->size == sizeof *so_far && so_far->pages_at_start > 0);
    ++*(int *)context;
    return 1;
}

static void one_page(void)
{
    unsigned char page[PAGE], back[PAGE];
    struct zsp_stored stored = {.size = sizeof stored};
    uint64_t bytes;
    uint32_t taken = 99;

    make_page(page, 5);
    OK(zsp_zswap_store(zswap, first, group, page, &stored));
    TRUE(stored.form == ZSP_COMPRESSED && stored.charged_bytes > 0 && stored.charged_bytes < PAGE / 2);
    OK(zsp_memcg_current(group, ZSP_ZSWAP, &bytes));
    TRUE(bytes == stored.charged_bytes);
    OK(zsp_zswap_load(zswap, first, back));
    TRUE(memcmp(page, back, PAGE) == 0);
    back[0] = 1;
    OK(zsp_zswap_take_with(zswap, first, install, back, &taken));
    TRUE(taken == ZSP_TAKEN_KEPT);
    memset(back, 0, PAGE);
    OK(zsp_zswap_take_with(zswap, first, install, back, &taken));
    TRUE(taken == ZSP_TAKEN && is_page(back, 5));
    EXPECT(ZSP_ENOENT, zsp_zswap_load(zswap, first, back));

    memset(page, 0, PAGE);
    OK(zsp_zswap_store(zswap, first, group, page, &stored));
    TRUE(stored.form == ZSP_SAME_FILLED && stored.charged_bytes == 0);
    OK(zsp_zswap_take(zswap, first, back, &taken));
    TRUE(taken == ZSP_TAKEN && memcmp(page, back, PAGE) == 0);
    OK(zsp_memcg_current(group, ZSP_ZSWAP, &bytes));
    TRUE(bytes == 0);
}

static void *worker(void *which)
{
    uint64_t k, me = *(unsigned *)which;
    unsigned char page[PAGE];
    for (k = me; k < SLOTS; k += THREADS) {
        make_page(page, k);
        OK(zsp_zswap_store(zswap, first + k, group, page, NULL));
        if (k % 8 != 4)
            continue; /* all that was loaded is passed over once by reclaim */
        OK(zsp_zswap_load(zswap, first + k, page));
        TRUE(is_page(page, k));
    }
    return NULL;
}

static void text_files(void)
{
    char text[8192];
    size_t length, again;
    OK(zsp_memcg_write_file(group, "memory.zswap.max", "64M"));
    OK(zsp_memcg_read_file(group, "memory.zswap.max", text, sizeof text, &length));
    TRUE(strcmp(text, "67108864\n") == 0 && length == 9);
    EXPECT(ZSP_ERANGE, zsp_memcg_read_file(group, "memory.zswap.max", text, 9, &length));
    OK(zsp_memcg_read_file(group, "memory.zswap.max", text, 10, &length));
    EXPECT(ZSP_ERANGE, zsp_memcg_read_file(group, "memory.stat", NULL, 0, &length));
    OK(zsp_memcg_read_file(group, "memory.stat", text, sizeof text, &again));
    TRUE(again >= length && strlen(text) == again && strstr(text, "zswapped ") != NULL);
}

int main(int count, char **arguments)
{
    struct zsp_zswap_options options = {.size = sizeof options, .pool_limit_bytes = 16 << 20};
    struct zsp_swap_options fast = {.size = sizeof fast, .bytes = 4 << 20, .tier = "fast", .priority = 10};
    struct zsp_swap_options slow = {.size = sizeof slow, .bytes = 16 << 20, .min_free_bytes = 4096};
    struct zsp_zswap_stats stats = {.size = sizeof stats};
    struct zsp_swapoff_report report = {.size = sizeof report};
    struct zsp_device device = {.size = sizeof device};
    pthread_t threads[THREADS];
    unsigned numbers[THREADS], k;
    uint32_t number, other;
    uint64_t bytes, id, freed, peak, left = 0;
    unsigned char page[PAGE];
    char path[4096];
    zsp_memcg *same, *root;
    int told = 0;
    struct stat there;

    TRUE(count == 2);
    snprintf(path, sizeof path, "%s/fast.swap", arguments[1]);
    fast.path = path, slow.unnamed_in = arguments[1];
    OK(zsp_zswap_new(&options, &zswap));
    OK(zsp_memcg_mkdir(zswap, "/tenants", &group));
    OK(zsp_memcg_close(group));
    OK(zsp_memcg_mkdir(zswap, "/tenants/vm0/", &group));
    OK(zsp_memcg_open(zswap, "/tenants/vm0", &same));
    OK(zsp_memcg_open(zswap, "/", &root));
    OK(zsp_memcg_id(group, &bytes));
    OK(zsp_memcg_id(same, &id));
    TRUE(bytes == id);
    OK(zsp_memcg_close(same));
    OK(zsp_zswap_reserve(zswap, SLOTS, &first));

    one_page();
    text_files();
    OK(zsp_zswap_swapon(zswap, &fast, &number));
    OK(zsp_zswap_swapon(zswap, &slow, NULL));
    TRUE(stat(path, &there) == 0 && (there.st_mode & 0777) == 0600);
    EXPECT(ZSP_EBUSY, zsp_zswap_swapon(zswap, &fast, &other)); /* it is locked by whoever has it */
    for (k = 0; k < THREADS; k++) {
        numbers[k] = k;
        TRUE(pthread_create(&threads[k], NULL, worker, &numbers[k]) == 0);
    }
    for (k = 0; k < THREADS; k++)
        TRUE(pthread_join(threads[k], NULL) == 0);

    /* Colder ones to the devices, the faster first; then that one is taken off. */
    OK(zsp_memcg_reclaim(group, 600000, &bytes)); /* more than the one segment that a swapoff moves at least */
    TRUE(bytes >= 600000);
    OK(zsp_zswap_get_device(zswap, 0, &device));
    TRUE(strcmp(device.tier, "fast") == 0 && strcmp(device.name, path) == 0 && device.number == number && device.priority == 10);
    TRUE(device.state == ZSP_DEVICE_ON && device.pages > 0 && device.live_bytes > 0 && device.written_bytes >= device.live_bytes);
    OK(zsp_zswap_get_stats(zswap, &stats));
    TRUE(stats.device_pages >= device.pages && stats.device_pages + stats.compressed_pages == SLOTS);
    TRUE(stats.backed_bytes <= stats.limit_bytes && stats.limit_bytes == 16 << 20 && stats.payload_bytes > 0);
    EXPECT(ZSP_EWAIT, zsp_zswap_try_load(zswap, first, page)); /* the coldest */
    OK(zsp_zswap_load(zswap, first, page));
    TRUE(is_page(page, 0));
    EXPECT(ZSP_ECANCELED, zsp_zswap_swapoff(zswap, number, call_off, &told, &report));
    TRUE(told >= 1 && report.pages_left <= report.pages_at_start);
    OK(zsp_zswap_swapoff(zswap, number, NULL, NULL, &report));
    TRUE(report.pages_left == 0 && report.to_pool + report.to_devices > 0 && report.lost == 0);
    TRUE(stat(path, &there) != 0);
    OK(zsp_zswap_get_device(zswap, 0, &device));
    TRUE(strcmp(device.tier, "swap") == 0);
    EXPECT(ZSP_ENOENT, zsp_zswap_get_device(zswap, 1, &device));

    for (k = 0; k < SLOTS; k += 2) {
        uint32_t taken;
        OK(zsp_zswap_take(zswap, first + k, page, &taken));
        TRUE(is_page(page, k) && taken != ZSP_TAKEN_KEPT);
        left += taken == ZSP_TAKEN_CHANGED; /* it was just being moved on its device */
    }
    OK(zsp_zswap_free(zswap, first, SLOTS, &freed));
    TRUE(freed == SLOTS / 2 + left);
    OK(zsp_memcg_current(root, ZSP_MEMORY, &bytes));
    OK(zsp_memcg_peak(group, ZSP_ZSWAP, &peak));
    TRUE(bytes == 0 && peak > 0);
    OK(zsp_memcg_rmdir(group));
    OK(zsp_memcg_close(group));
    OK(zsp_memcg_close(root));
    OK(zsp_zswap_close(zswap));
    puts("every page came back");
    return 0;
}
