/* Runs cases: labels, --only, skips, a time limit, the summary.
 *
 * A program is one process; its cases run one after the other. Arguments:
 *   --only LABEL    only the case with this label, or those whose label starts with it
 *   --list          prints the labels
 *   --seed N        instead of each case's own seed (an --only that has "seed=N" says it as well)
 *   --device NAME   cpu (default) or cuda; without a GPU everything is skipped, with the reason
 *   --isa NAME      one instruction set of the CPU; default: each that this processor has
 *   --limit N       seconds that a case may take (default 50)
 * A case that hangs or crashes ends the program as a failure, with the summary so far. The exit
 * status is 0 where nothing failed; an --only that no case has is a failure.
 */
#ifndef FM_TESTS_TENSOR_RUNNER_H
#define FM_TESTS_TENSOR_RUNNER_H
#include "tensor/ctx.h"

/* Something that a device has not, and how many cases want it. */
typedef struct test_lacking {
    const char *what;
    char why[256];
    int cases;
} test_lacking;
enum { TEST_MAX_LACKING = 64 };

typedef struct test {
    const char *program, *only, *device, *isa;
    bool list, has_seed, case_failed, case_skipped, case_lacks;
    uint64_t seed; /* where has_seed */
    unsigned limit;
    int passed, failed, skipped, listed;
    char label[256];
    test_lacking lacking[TEST_MAX_LACKING];
    int n_lacking;
    const struct test_case *cases; /* of test_program */
    int n_cases;
    fm_ctx *ctx; /* the device under test; NULL in programs that need none */
} test;

typedef struct test_case {
    const char *label;
    void (*run)(test *t);
} test_case;

/* Reads the arguments; exits with status 2 where they are wrong. */
void test_init(test *t, int argc, char **argv);
/* True where the case is to be run; then test_end must follow. */
bool test_begin(test *t, const char *label);
void test_end(test *t);
void test_run(test *t, const test_case *cases, int n);
/* Marks the running case and prints why. */
void test_fail(test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void test_skip(test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The running case cannot run, as others that want `what` (a static string) cannot: together they are
 * one skip, which test_finish prints with their number. */
void test_lack(test *t, const char *what, const char *why);
/* Prints the last line; returns the exit status. */
int test_finish(test *t);

/* Calls `body` once per device under test with t->ctx set: the CPU with each instruction set, or
 * the GPU. After each the context must be empty: no tensor, no node, no memory in use. */
void test_each_device(test *t, void (*body)(test *t));
/* A whole program: `cases` on each device under test. */
int test_program(int argc, char **argv, const test_case *cases, int n);
#define TEST_PROGRAM(cases)                                                                        \
    int main(int argc, char **argv) {                                                              \
        return test_program(argc, argv, cases, (int)(sizeof(cases) / sizeof *(cases)));            \
    }
/* A fresh context on the device under test (tests of two contexts, of contexts' ends). */
fm_status test_open(const test *t, const char *isa, fm_error *err, fm_ctx **out);

/* In a function that returns void: a false condition fails the case and leaves. */
#define EXPECT(t, cond, ...)                                                                       \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            test_fail(t, "%s:%d: %s", __FILE__, __LINE__, #cond);                                  \
            test_fail(t, "  " __VA_ARGS__);                                                        \
            return;                                                                                \
        }                                                                                          \
    } while (0)
/* The call must succeed. */
#define EXPECT_OK(t, call)                                                                         \
    do {                                                                                           \
        fm_status expect_ok_ = (call);                                                             \
        if (expect_ok_ != FM_OK) {                                                                 \
            test_fail(t, "%s:%d: %s", __FILE__, __LINE__, #call);                                  \
            test_fail(t, "  %s: %s", fm_status_name(expect_ok_), (t)->ctx->error.message);         \
            return;                                                                                \
        }                                                                                          \
    } while (0)
/* The call must fail with `code`, and its message must contain each of the texts. */
#define EXPECT_ERROR(t, call, code, ...)                                                           \
    do {                                                                                           \
        if (!test_error(t, (call), code, #call, (const char *[]){__VA_ARGS__, NULL})) return;      \
    } while (0)
bool test_error(test *t, fm_status got, fm_status want, const char *call, const char **texts);

#endif
