/* The caching allocator: reuse, counts, failures. */
#include "tests/tensor/runner.h"

#include <stdint.h>

static void reuse(test *t) {
    fm_allocator *a = t->ctx->alloc;
    void *p, *q;
    fm_alloc_trim(a);
    EXPECT_OK(t, fm_alloc(a, 1000, &p));
    fm_alloc_stats one = fm_alloc_get_stats(a);
    EXPECT(t, (uintptr_t)p % 64 == 0, "%p is not aligned", p);
    EXPECT(t, one.in_use >= 1000 && one.reserved >= 1000, "%zu in use", one.in_use);
    fm_dealloc(a, p);
    EXPECT(t, fm_alloc_get_stats(a).in_use == 0, "%zu in use", fm_alloc_get_stats(a).in_use);
    EXPECT_OK(t, fm_alloc(a, 1000, &q));
    fm_alloc_stats two = fm_alloc_get_stats(a);
    EXPECT(t, q == p && two.n_backend == one.n_backend, "the block was not used again");
    EXPECT(t, two.n_alloc == one.n_alloc + 1, "%d calls", (int)two.n_alloc);
    fm_dealloc(a, q);
    fm_alloc_trim(a);
    EXPECT(t, fm_alloc_get_stats(a).reserved == 0, "trim left %zu", fm_alloc_get_stats(a).reserved);
}

static void sizes(test *t) {
    fm_allocator *a = t->ctx->alloc;
    enum { N = 40 };
    void *p[N];
    for (int i = 0; i < N; i++) {
        size_t bytes = (size_t)i * (size_t)i * 97;
        EXPECT_OK(t, fm_alloc(a, bytes, &p[i]));
        EXPECT(t, p[i] && (uintptr_t)p[i] % 64 == 0, "%zu bytes at %p", bytes, p[i]);
        for (int j = 0; j < i; j++) {
            size_t other = (size_t)j * (size_t)j * 97;
            bool apart = (char *)p[j] + other <= (char *)p[i] ||
                         (char *)p[i] + bytes <= (char *)p[j];
            EXPECT(t, p[i] != p[j] && apart, "blocks %d and %d overlap", i, j);
        }
    }
    for (int i = 0; i < N; i++) fm_dealloc(a, p[(i * 7) % N]);
    fm_dealloc(a, NULL);
    EXPECT(t, fm_alloc_get_stats(a).in_use == 0, "%zu in use", fm_alloc_get_stats(a).in_use);
}

static void peak(test *t) {
    fm_allocator *a = t->ctx->alloc;
    void *p, *q;
    fm_alloc_reset_peak(a);
    EXPECT_OK(t, fm_alloc(a, 4096, &p));
    EXPECT_OK(t, fm_alloc(a, 8192, &q));
    fm_dealloc(a, q);
    fm_alloc_stats s = fm_alloc_get_stats(a);
    EXPECT(t, s.peak_in_use >= 4096 + 8192 && s.in_use < 8192, "peak %zu, in use %zu",
           s.peak_in_use, s.in_use);
    fm_alloc_reset_peak(a);
    s = fm_alloc_get_stats(a);
    EXPECT(t, s.peak_in_use == s.in_use, "the peak was not reset");
    fm_dealloc(a, p);
}

static void failures(test *t) {
    fm_allocator *a = t->ctx->alloc;
    void *p, *q;
    fm_alloc_fail_at(a, 1);
    EXPECT_OK(t, fm_alloc(a, 64, &p));
    EXPECT_ERROR(t, fm_alloc(a, 64, &q), FM_ERR_OOM, "64 bytes");
    EXPECT(t, q == NULL, "something was returned");
    EXPECT_OK(t, fm_alloc(a, 64, &q)); /* once */
    fm_alloc_fail_at(a, -1);
    fm_dealloc(a, p);
    fm_dealloc(a, q);
    /* More than any machine has; then the allocator still works. */
    EXPECT_ERROR(t, fm_alloc(a, (size_t)1 << 60, &p), FM_ERR_OOM, "1152921504606846976 bytes");
    EXPECT_OK(t, fm_alloc(a, 100, &p));
    fm_dealloc(a, p);
}

/* Steps of other sizes each: what is reserved stays near what is used at one time. */
static void changing_sizes(test *t) {
    enum { STEPS = 60, N = 12 };
    fm_allocator *a = t->ctx->alloc;
    fm_alloc_trim(a);
    fm_alloc_reset_peak(a);
    for (int step = 0; step < STEPS; step++) {
        void *p[N];
        size_t S = 1 + fm_mix64((uint64_t)step) % 512;
        for (int i = 0; i < N; i++)
            EXPECT_OK(t, fm_alloc(a, S * (size_t)(64 + 640 * (i % 3)), &p[i]));
        for (int i = 0; i < N; i++) fm_dealloc(a, p[i]);
    }
    fm_alloc_stats s = fm_alloc_get_stats(a);
    EXPECT(t, s.in_use == 0 && s.peak_reserved <= s.peak_in_use * 3 / 2,
           "%zu bytes were reserved, %zu in use", s.peak_reserved, s.peak_in_use);
    /* and steps of one size do not go to the backend after the first */
    int64_t asked = 0;
    for (int step = 0; step < 3; step++) {
        void *p[N];
        for (int i = 0; i < N; i++)
            EXPECT_OK(t, fm_alloc(a, 512 * (size_t)(64 + 640 * (i % 3)), &p[i]));
        for (int i = 0; i < N; i++) fm_dealloc(a, p[i]);
        if (step == 0) asked = fm_alloc_get_stats(a).n_backend;
    }
    EXPECT(t, fm_alloc_get_stats(a).n_backend == asked, "the same sizes were asked for again");
}

static const test_case cases[] = {{"reuse", reuse},
                                  {"sizes", sizes},
                                  {"peak", peak},
                                  {"failures", failures},
                                  {"changing_sizes", changing_sizes}};

static void all(test *t) { test_run(t, cases, sizeof cases / sizeof *cases); }

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
