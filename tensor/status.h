/* Errors are values.
 *
 * A fallible function returns fm_status; what was wrong, the value seen and the
 * value wanted stand in the context's fm_error. FM_TRY hands an error up,
 * FM_CHECK makes one. Both expect a `ctx` (fm_ctx *) in scope, which every
 * fallible function above the backends takes as its first argument; code that
 * has no context (the backends, the checkpoint writer's thread) calls fm_fail
 * on the fm_error that it was given.
 */
#ifndef FM_TENSOR_STATUS_H
#define FM_TENSOR_STATUS_H

/* name, number, text, Python exception. Append only: numbers reach exit codes and logs. */
#define FM_STATUS_MAP(X)                                                                           \
    X(FM_OK, 0, "ok", "")                                                                          \
    X(FM_ERR_OOM, 1, "out of memory", "MemoryError")                                               \
    X(FM_ERR_SHAPE, 2, "wrong shape", "ValueError")                                                \
    X(FM_ERR_DTYPE, 3, "wrong dtype", "ValueError")                                                \
    X(FM_ERR_VALUE, 4, "value not allowed", "ValueError")                                          \
    X(FM_ERR_RANGE, 5, "index out of range", "IndexError")                                         \
    X(FM_ERR_STATE, 6, "call not allowed now", "RuntimeError")                                     \
    X(FM_ERR_UNSUPPORTED, 7, "not supported", "NotImplementedError")                               \
    X(FM_ERR_IO, 8, "input or output failed", "OSError")                                           \
    X(FM_ERR_CHECKPOINT, 9, "bad checkpoint", "fmoe.CheckpointError")                              \
    X(FM_ERR_COMM, 10, "communication failed", "fmoe.CommError")                                   \
    X(FM_ERR_DEVICE, 11, "device failed", "RuntimeError")                                          \
    X(FM_ERR_NAN, 12, "not a number", "FloatingPointError")                                        \
    X(FM_ERR_INTERRUPTED, 13, "interrupted", "KeyboardInterrupt")

typedef enum fm_status {
#define FM_STATUS_ENUM(name, number, text, exception) name = number,
    FM_STATUS_MAP(FM_STATUS_ENUM)
#undef FM_STATUS_ENUM
} fm_status;

/* The last error of one owner (a context, a writer thread). Not shared between threads. */
typedef struct fm_error {
    fm_status status;
    char message[1024];
} fm_error;

const char *fm_status_name(fm_status s);      /* "FM_ERR_SHAPE" */
const char *fm_status_text(fm_status s);      /* "wrong shape" */
const char *fm_status_exception(fm_status s); /* "ValueError"; "" for FM_OK */

/* Records the message and returns `s`. The first error of a chain stays: callers that
 * clean up after an error may fail again without hiding its cause, until fm_error_clear. */
fm_status fm_fail(fm_error *err, fm_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the recorded message: where it happened (layer, file, parameter). */
fm_status fm_fail_context(fm_error *err, fm_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

void fm_error_clear(fm_error *err);

#define FM_TRY(call)                                                                               \
    do {                                                                                           \
        fm_status fm_try_status_ = (call);                                                         \
        if (fm_try_status_ != FM_OK) return fm_try_status_;                                        \
    } while (0)

/* For functions with an `out:` label and an fm_status named `status`. */
#define FM_TRY_GOTO(call)                                                                          \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != FM_OK) goto out;                                                             \
    } while (0)

#define FM_CHECK(cond, code, ...)                                                                  \
    do {                                                                                           \
        if (!(cond)) return fm_fail(&ctx->error, code, __VA_ARGS__);                               \
    } while (0)

#define FM_CHECK_GOTO(cond, code, ...)                                                             \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            status = fm_fail(&ctx->error, code, __VA_ARGS__);                                      \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

#endif
