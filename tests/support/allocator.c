/* An allocator in a shared library: what a page and more want begins right above a page that nobody may read.
 *   cc -shared -fPIC allocator.c          with -DALIAS it brings the C library's private names as well, as some do
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE ((size_t)4096)

/* The size of a small piece lies before it. Nothing is used again. */
static char *chunk;
static size_t left;
static atomic_flag lock = ATOMIC_FLAG_INIT;

static void *map(size_t len) {
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* That of a large one stands in here. */
static struct { char *at; size_t len; } large[1 << 16];
static atomic_size_t larges;

void *memalign(size_t align, size_t len) {
    if (align < 16) align = 16;
    if (len >= PAGE || align >= PAGE) {
        size_t n = atomic_fetch_add(&larges, 1);
        char *at = n < 1 << 16 ? map(2 * align + 2 * PAGE + len) : NULL;
        if (!at) { errno = ENOMEM; return NULL; }
        size_t step = align > PAGE ? align : PAGE;
        char *piece = (char *)(((uintptr_t)at + PAGE + step - 1) / step * step);
        mprotect(piece - PAGE, PAGE, PROT_NONE);
        large[n].len = len;
        large[n].at = piece;
        return piece;
    }
    size_t need = (len + 16 + align + 15) / 16 * 16;
    while (atomic_flag_test_and_set(&lock)) {}
    if (need > left) { chunk = map(1 << 20); left = chunk ? 1 << 20 : 0; }
    char *start = chunk;
    if (chunk) { chunk += need; left -= need; }
    atomic_flag_clear(&lock);
    if (!start) { errno = ENOMEM; return NULL; }
    char *piece = (char *)(((uintptr_t)start + 16 + align - 1) / align * align);
    ((size_t *)piece)[-1] = len;
    return piece;
}

static size_t len_of(char *piece) {
    if ((uintptr_t)piece % PAGE) return ((size_t *)piece)[-1];
    for (size_t n = 0; n < larges; n++) if (large[n].at == piece) return large[n].len;
    return ((size_t *)piece)[-1];
}

void *malloc(size_t len) { return memalign(16, len); }
void free(void *piece) { (void)piece; }
void *calloc(size_t n, size_t len) { return malloc(n * len); } /* new, so zeroes */
void *aligned_alloc(size_t align, size_t len) { return memalign(align, len); }
int posix_memalign(void **at, size_t align, size_t len) { return (*at = memalign(align, len)) ? 0 : ENOMEM; }

void *realloc(void *old, size_t len) {
    char *piece = malloc(len);
    if (old && piece) memcpy(piece, old, len_of(old) < len ? len_of(old) : len);
    return piece;
}

#ifdef ALIAS
void *__libc_realloc(void *old, size_t len) __attribute__((alias("realloc")));
void *__libc_malloc(size_t len) __attribute__((alias("malloc")));
#endif
