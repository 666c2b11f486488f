/*
 * A small cache of objects in a pool of 256 KiB: what was used longest ago goes when the pool is full.
 *
 *   key --> entry: handle, links by use --> pool: objects of 1 to 4096 bytes, in memory that has a limit
 *
 *   cc cache.c $(pkg-config --cflags --libs zspool) -o cache && ./cache
 *
 * Whoever has objects to keep compresses them before; here they are short texts as they are.
 */
#include <zspool.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 1200
#define LIMIT ((uint64_t)256 << 10)
#define NOBODY KEYS

struct entry {
    uint64_t object; /* 0: not in the cache */
    unsigned colder, hotter;
};

struct cache {
    zsp_pool *pool;
    struct entry entries[KEYS + 1]; /* the last one is the ring's head: its `hotter` is the coldest, its `colder` the hottest */
    uint64_t evicted;
};

static void fail(enum zsp_status status, const char *doing)
{
    fprintf(stderr, "%s: %s: %s\n", doing, zsp_status_name(status), zsp_error_message());
    exit(1);
}

static void unlink_entry(struct cache *cache, unsigned key)
{
    struct entry *entry = &cache->entries[key];
    cache->entries[entry->colder].hotter = entry->hotter;
    cache->entries[entry->hotter].colder = entry->colder;
}

static void make_hottest(struct cache *cache, unsigned key)
{
    struct entry *entry = &cache->entries[key];
    entry->hotter = NOBODY;
    entry->colder = cache->entries[NOBODY].colder;
    cache->entries[entry->colder].hotter = key;
    cache->entries[NOBODY].colder = key;
}

static void forget(struct cache *cache, unsigned key)
{
    struct entry *entry = &cache->entries[key];
    enum zsp_status status;
    if (entry->object == 0)
        return;
    status = zsp_pool_remove(cache->pool, entry->object);
    if (status != ZSP_OK)
        fail(status, "removing an object");
    unlink_entry(cache, key);
    entry->object = 0;
}

static void put(struct cache *cache, unsigned key, const void *bytes, size_t length)
{
    enum zsp_status status;
    uint64_t object;
    forget(cache, key);
    /* Refused at the limit: then something else has to go. Any other refusal is a defect of this program. */
    while ((status = zsp_pool_insert(cache->pool, bytes, length, &object)) == ZSP_ELIMIT) {
        struct zsp_compacted won = {.size = sizeof won};
        unsigned coldest = cache->entries[NOBODY].hotter;
        zsp_pool_compact(cache->pool, 64 << 10, &won);
        if (won.frames_won > 0)
            continue;
        if (coldest == NOBODY)
            fail(status, "inserting into an empty pool");
        forget(cache, coldest);
        cache->evicted++;
    }
    if (status != ZSP_OK)
        fail(status, "inserting an object");
    cache->entries[key].object = object;
    make_hottest(cache, key);
}

/* Calls `look` with the object's bytes where they lie: no copy. Whether it was there. */
static int get(struct cache *cache, unsigned key, void (*look)(void *, const void *, size_t), void *context)
{
    struct zsp_view view;
    enum zsp_status status;
    if (cache->entries[key].object == 0)
        return 0;
    status = zsp_pool_view(cache->pool, cache->entries[key].object, &view);
    if (status != ZSP_OK)
        fail(status, "looking at an object");
    look(context, view.bytes, view.length);
    zsp_view_release(&view);
    unlink_entry(cache, key);
    make_hottest(cache, key);
    return 1;
}

/* === what is cached, and checked === */

static size_t text_of(unsigned key, char *to)
{
    size_t length = 0, repeats = 1 + key % 40, n;
    for (n = 0; n < repeats; n++)
        length += (size_t)sprintf(to + length, "object %u, line %zu\n", key, n);
    return length;
}

static void compare(void *context, const void *bytes, size_t length)
{
    static char wanted[2048];
    unsigned key = *(unsigned *)context;
    if (text_of(key, wanted) != length || memcmp(wanted, bytes, length) != 0) {
        fprintf(stderr, "object %u is not what was put in\n", key);
        exit(1);
    }
}

int main(void)
{
    static struct cache cache;
    static char text[2048];
    struct zsp_pool_options options = {.size = sizeof options, .limit_bytes = LIMIT};
    struct zsp_pool_usage usage = {.size = sizeof usage};
    enum zsp_status status = zsp_pool_new(&options, &cache.pool);
    unsigned key, round, hits = 0, asked = 0;

    if (status != ZSP_OK)
        fail(status, "making a pool");
    cache.entries[NOBODY].colder = cache.entries[NOBODY].hotter = NOBODY;

    for (round = 0; round < 2; round++)
        for (key = 0; key < KEYS; key++) {
            unsigned popular = key * key % 61; /* asked for all the time: it stays */
            put(&cache, key, text, text_of(key, text));
            asked++;
            if (get(&cache, popular, compare, &popular))
                hits++;
        }
    for (key = 0; key < KEYS; key++)
        if (get(&cache, key, compare, &key))
            put(&cache, key, text, text_of(key, text));

    status = zsp_pool_get_usage(cache.pool, &usage);
    if (status != ZSP_OK)
        fail(status, "asking for the usage");
    printf("%u of %u popular objects were there; %" PRIu64 " others were evicted\n", hits, asked, cache.evicted);
    printf("%" PRIu64 " objects, %" PRIu64 " bytes of them, in %" PRIu64 " of at most %" PRIu64 " bytes\n", usage.objects, usage.payload_bytes,
           usage.backed_bytes, LIMIT);
    if (usage.backed_bytes > LIMIT || cache.evicted == 0)
        return 1;
    for (key = 0; key < KEYS; key++)
        forget(&cache, key);
    status = zsp_pool_close(cache.pool);
    if (status != ZSP_OK)
        fail(status, "closing the pool");
    return 0;
}
