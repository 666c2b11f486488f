/* What the programs of the tests share: a check that says where and why it failed. */
#include <zspool.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096

/* The call must end with this code. */
#define EXPECT(code, call)                                                                                             \
    do {                                                                                                               \
        enum zsp_status got_ = (call);                                                                                 \
        if (got_ != (code)) {                                                                                          \
            fprintf(stderr, "line %d: %s: %s (%s) instead of %s\n", __LINE__, #call, zsp_status_name(got_),            \
                    zsp_error_message(), #code);                                                                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define OK(call) EXPECT(ZSP_OK, call)

/* The call must end with this code and a sentence that has this in it. */
#define REFUSED(code, words, call)                                                                                     \
    do {                                                                                                               \
        EXPECT(code, call);                                                                                            \
        if (strstr(zsp_error_message(), words) == NULL) {                                                              \
            fprintf(stderr, "line %d: %s says \"%s\" instead of \"%s\"\n", __LINE__, #call, zsp_error_message(), words); \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define TRUE(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);                                                \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Ends with 77 where the machine has no userfaultfd for this process: the test is skipped then. */
static inline enum zsp_status or_skip(enum zsp_status status)
{
    if (status == ZSP_EPERM || status == ZSP_EUNSUPPORTED) {
        fprintf(stderr, "%s\n", zsp_error_message());
        exit(77);
    }
    return status;
}

/* A page that compresses to some 300 bytes, another for each number. */
static inline void make_page(unsigned char *page, uint64_t number)
{
    uint64_t word = number * 0x9e3779b97f4a7c15u + 1;
    size_t at;
    memset(page, (int)(number % 200), PAGE);
    for (at = 0; at < 256; at += 8) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        memcpy(page + at * 2, &word, 8);
    }
}
