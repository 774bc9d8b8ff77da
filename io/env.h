/* Shared by io's files: errors without a context, and the seam where tests inject failures.
 *
 * A save runs partly in a thread of its own, which may not touch the context; so these functions
 * report to a fm_error that they are given.
 */
#ifndef FM_IO_ENV_H
#define FM_IO_ENV_H
#include "tensor/status.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define FM_REQUIRE(err, cond, code, ...)                                                           \
    do {                                                                                           \
        if (!(cond)) return fm_fail(err, code, __VA_ARGS__);                                       \
    } while (0)

#define FM_REQUIRE_GOTO(err, cond, code, ...)                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            status = fm_fail(err, code, __VA_ARGS__);                                              \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* Counts the calls of a save that may fail (files and HDF5); the one numbered fail_at fails. */
typedef struct fm_io_env {
    int64_t calls;
    int64_t fail_at; /* -1: none */
    int fail_errno;
} fm_io_env;

/* True where the next call has to fail; errno is set then. env may be NULL. */
static inline bool fm_io_fails(fm_io_env *env) {
    if (!env || env->calls++ != env->fail_at) return false;
    errno = env->fail_errno;
    return true;
}

#endif
