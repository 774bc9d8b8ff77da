/* Counting cases: begin one by its label, fail it as often as needed, end it. */
#ifndef FM_TESTS_TENSOR_CPU_CASES_H
#define FM_TESTS_TENSOR_CPU_CASES_H
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct cases {
    const char *only; /* run the case of this label alone; NULL: all */
    char label[160];
    int passed, failed, skipped, errors;
} cases;

static inline cases cases_new(int argc, char **argv) {
    cases c = {0};
    if (argc == 3 && strcmp(argv[1], "--only") == 0) c.only = argv[2];
    return c;
}

/* False: the case is not wanted. */
__attribute__((format(printf, 2, 3))) static inline bool case_begin(cases *c, const char *fmt,
                                                                    ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->label, sizeof c->label, fmt, ap);
    va_end(ap);
    c->errors = 0;
    return !c->only || strcmp(c->only, c->label) == 0;
}

/* The first few of a case are printed. */
__attribute__((format(printf, 2, 3))) static inline void case_fail(cases *c, const char *fmt, ...) {
    if (c->errors++ >= 3) return;
    printf("FAIL --only '%s': ", c->label);
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

static inline void case_end(cases *c) {
    if (c->errors > 0)
        c->failed++;
    else
        c->passed++;
}

static inline void case_skip(cases *c, const char *reason) {
    printf("SKIP: %s: %s\n", c->label, reason);
    c->skipped++;
}

/* The summary and the exit status. Nothing run is a failure: the label was wrong. */
static inline int cases_end(const cases *c) {
    printf("%d passed, %d failed, %d skipped\n", c->passed, c->failed, c->skipped);
    return c->failed > 0 || c->passed + c->skipped == 0;
}

#endif
