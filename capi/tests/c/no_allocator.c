/*
 * What may run in the handler of a fault calls no allocator, also when it refuses. Linked statically with --wrap, so that every call of
 * malloc and the others, the library's too, comes here. argv[1] is a folder for a swapfile.
 */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static __thread int forbidden;

static void look(const char *what)
{
    if (forbidden) {
        forbidden = 0;
        fprintf(stderr, "%s was called where nothing may be allocated\n", what);
        abort();
    }
}

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
void __real_free(void *);
int __real_posix_memalign(void **, size_t, size_t);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
void __wrap_free(void *at);
int __wrap_posix_memalign(void **at, size_t align, size_t bytes);
void *__wrap_malloc(size_t bytes) { look("malloc"); return __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { look("calloc"); return __real_calloc(count, bytes); }
void *__wrap_realloc(void *at, size_t bytes) { look("realloc"); return __real_realloc(at, bytes); }
void __wrap_free(void *at) { look("free"); __real_free(at); }
int __wrap_posix_memalign(void **at, size_t align, size_t bytes) { look("posix_memalign"); return __real_posix_memalign(at, align, bytes); }

static int install(void *context, const void *page) { return memcmp(context, page, PAGE) != 0; }

/* The descriptor of a file that the library has open. */
static int descriptor_of(const char *path)
{
    char name[64], target[4096];
    int fd;
    for (fd = 3; fd < 1000; fd++) {
        ssize_t length;
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        length = readlink(name, target, sizeof target - 1);
        if (length > 0 && strlen(path) == (size_t)length && memcmp(path, target, (size_t)length) == 0)
            return fd;
    }
    TRUE(0 && "the swapfile is open");
    return -1;
}

int main(int count, char **arguments)
{
    struct zsp_zswap_options options = {.size = sizeof options, .pool_limit_bytes = 16 << 20};
    struct zsp_swap_options swap = {.size = sizeof swap, .bytes = 4 << 20};
    struct zsp_pool_options small = {.size = sizeof small, .limit_bytes = 1 << 20};
    zsp_zswap *zswap;
    zsp_memcg *group;
    zsp_pool *pool;
    uint64_t first, k, freed, object, bytes;
    unsigned char page[PAGE], wanted[PAGE];
    char path[4096];
    uint32_t taken;
    size_t length;
    int fd, saved, folder;

    TRUE(count == 2);
    snprintf(path, sizeof path, "%s/swap", arguments[1]);
    swap.path = path;
    OK(zsp_zswap_new(&options, &zswap));
    OK(zsp_zswap_swapon(zswap, &swap, NULL));
    OK(zsp_memcg_mkdir(zswap, "/vm", &group));
    OK(zsp_zswap_reserve(zswap, 1000, &first));
    for (k = 0; k < 900; k++) {
        make_page(page, k);
        OK(zsp_zswap_store(zswap, first + k, group, page, NULL));
    }
    EXPECT(ZSP_EPARTIAL, zsp_memcg_reclaim(group, 8 << 20, &bytes)); /* all of them go to the device */
    for (k = 800; k < 900; k++) {
        make_page(page, k);
        OK(zsp_zswap_store(zswap, first + k, group, page, NULL)); /* and some are in the pool again */
    }

    for (k = 0; k < 900; k += 3) {
        make_page(wanted, k);
        forbidden = 1;
        if (k < 800)
            EXPECT(ZSP_EWAIT, zsp_zswap_try_load(zswap, first + k, page));
        OK(zsp_zswap_load(zswap, first + k, page));
        forbidden = 0;
        TRUE(memcmp(page, wanted, PAGE) == 0);
        forbidden = 1;
        OK(zsp_zswap_take(zswap, first + k, page, &taken));
        if (taken == ZSP_TAKEN_CHANGED) /* it was just being moved on the device */
            OK(zsp_zswap_free(zswap, first + k, 1, NULL));
        make_page(wanted, k + 1);
        OK(zsp_zswap_take_with(zswap, first + k + 1, install, wanted, &taken));
        TRUE(taken != ZSP_TAKEN_KEPT);
        OK(zsp_zswap_free(zswap, first + k + 2, 1, &freed));
        EXPECT(ZSP_ENOENT, zsp_zswap_load(zswap, first + k, page));
        EXPECT(ZSP_ENOENT, zsp_zswap_take(zswap, first + k, page, NULL));
        EXPECT(ZSP_EINVAL, zsp_zswap_load(NULL, first, page));
        forbidden = 0;
        TRUE(freed == 1);
    }

    /* A device that fails: pages that are lost, whose sentences have the system's reason. */
    for (k = 0; k < 2; k++) {
        make_page(page, k);
        OK(zsp_zswap_store(zswap, first + k, group, page, NULL));
    }
    zsp_memcg_reclaim(group, 1 << 20, &bytes);
    fd = descriptor_of(path);
    saved = dup(fd);
    folder = open("/", O_RDONLY | O_DIRECTORY);
    TRUE(saved >= 0 && folder >= 0 && dup2(folder, fd) == fd); /* reads fail with EISDIR */
    forbidden = 1;
    EXPECT(ZSP_ELOST, zsp_zswap_load(zswap, first, page));
    forbidden = 0;
    TRUE(strstr(zsp_error_message(), "device 0 could not read it (error number 21)") != NULL);
    TRUE(dup2(saved, fd) == fd && ftruncate(fd, 4096) == 0); /* somebody cuts the file down */
    close(saved), close(folder);
    forbidden = 1;
    EXPECT(ZSP_ELOST, zsp_zswap_load(zswap, first + 1, page));
    EXPECT(ZSP_ELOST, zsp_zswap_take(zswap, first, page, NULL));
    TRUE(strstr(zsp_error_message(), "is lost: device 0") != NULL);
    OK(zsp_zswap_free(zswap, first, 1000, &freed));
    forbidden = 0;

    OK(zsp_pool_new(&small, &pool));
    OK(zsp_pool_insert(pool, "object", 6, &object));
    forbidden = 1;
    OK(zsp_pool_read(pool, object, page, PAGE, &length));
    OK(zsp_pool_remove(pool, object));
    EXPECT(ZSP_ESTALE, zsp_pool_read(pool, object, page, PAGE, &length));
    forbidden = 0;
    OK(zsp_pool_close(pool));
    OK(zsp_memcg_close(group));
    OK(zsp_zswap_close(zswap));
    puts("nothing was allocated");
    return 0;
}
