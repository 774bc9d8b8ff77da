/* A test program's cases: each a function, run alone by --only 'name'.
 *
 * CHECK records a failure and leaves the case; CHECK_OK wants FM_OK and prints the context's
 * message otherwise; CHECK_FAILS wants a status and words in the message, and clears it. */
#ifndef FM_TESTS_IO_CHECK_H
#define FM_TESTS_IO_CHECK_H
#include "tensor/ctx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_case {
    const char *name;
    void (*run)(fm_ctx *ctx);
} test_case;

extern int test_failures; /* of the case that runs now */

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("  %s:%d: %s: ", __FILE__, __LINE__, #cond);                                    \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            test_failures++;                                                                       \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        fm_status check_status_ = (call);                                                          \
        CHECK(check_status_ == FM_OK, "%s: %s", fm_status_name(check_status_),                     \
              ctx->error.message);                                                                 \
    } while (0)
#define CHECK_FAILS(call, wanted, ...)                                                             \
    do {                                                                                           \
        fm_status check_status_ = (call);                                                          \
        CHECK(check_status_ == (wanted), "got %s (%s)", fm_status_name(check_status_),             \
              ctx->error.message);                                                                 \
        const char *check_words_[] = {__VA_ARGS__};                                                \
        for (size_t check_i_ = 0; check_i_ < sizeof check_words_ / sizeof *check_words_;           \
             check_i_++)                                                                           \
            CHECK(strstr(ctx->error.message, check_words_[check_i_]), "'%s' is not in '%s'",       \
                  check_words_[check_i_], ctx->error.message);                                     \
        fm_error_clear(&ctx->error);                                                               \
    } while (0)

/* A fresh empty folder below $TEST_TMPDIR (or /tmp), gone when the program ends normally. */
const char *test_folder(void);
void test_write_file(const char *path, const void *data, size_t n);

int test_main(int argc, char **argv, const test_case *cases, size_t n);
#define TEST_MAIN(cases)                                                                           \
    int main(int argc, char **argv) {                                                              \
        return test_main(argc, argv, cases, sizeof(cases) / sizeof *(cases));                      \
    }

#endif
