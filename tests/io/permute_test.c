#include "io/dataset.h"
#include "tests/io/check.h"

/* Every number of [0, n) is hit once. */
static void is_a_bijection(fm_ctx *ctx) {
    (void)ctx;
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 15, 16, 17, 63, 64, 65, 1000, 4097, 65536};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (uint64_t key = 0; key < 3; key++) {
            int64_t n = sizes[s];
            char *seen = calloc((size_t)n, 1);
            CHECK(seen, "memory");
            int64_t bad = -1;
            for (int64_t i = 0; i < n && bad < 0; i++) {
                int64_t j = fm_permute_index(key, n, i);
                if (j < 0 || j >= n || seen[j]++) bad = i;
            }
            free(seen);
            CHECK(bad < 0, "n=%lld key=%llu: index %lld", (long long)n, (unsigned long long)key,
                  (long long)bad);
        }
    }
}

/* Spot checks where no table could be made: inside, and no two alike. */
static void works_on_huge_sizes(fm_ctx *ctx) {
    (void)ctx;
    static const int64_t sizes[] = {(INT64_C(1) << 40) + 12345, INT64_MAX, (INT64_C(1) << 62) + 1};
    enum { N = 300 };
    int64_t out[N];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int i = 0; i < N; i++) {
            out[i] = fm_permute_index(9, sizes[s], i);
            CHECK(out[i] >= 0 && out[i] < sizes[s], "%lld outside", (long long)out[i]);
            for (int j = 0; j < i; j++) CHECK(out[i] != out[j], "%d and %d go to one place", i, j);
        }
    }
}

/* Neighbours part: the order is not the identity, another key gives another order, and the mean
 * distance of neighbours is that of a random order, n/3. */
static void shuffles(fm_ctx *ctx) {
    (void)ctx;
    enum { N = 10007 };
    for (uint64_t key = 1; key <= 4; key++) {
        double distance = 0;
        int fixed = 0, same = 0;
        for (int64_t i = 0; i < N; i++) {
            int64_t a = fm_permute_index(key, N, i), b = fm_permute_index(key, N, (i + 1) % N);
            distance += (double)llabs(a - b);
            fixed += a == i;
            same += a == fm_permute_index(key + 1, N, i);
        }
        double mean = distance / N / N;
        CHECK(mean > 1. / 3 - 0.01 && mean < 1. / 3 + 0.01, "mean distance %g n", mean);
        CHECK(fixed < 10 && same < 10, "%d fixed points, %d shared with the next key", fixed, same);
    }
}

/* The order is part of what a checkpoint resumes: it may never change. */
static void stays_what_it_was(fm_ctx *ctx) {
    (void)ctx;
    static const int64_t wanted[] = {150, 842, 110, 838, 294, 826, 651, 460};
    for (int64_t i = 0; i < (int64_t)(sizeof wanted / sizeof *wanted); i++) {
        int64_t got = fm_permute_index(1234, 1000, i);
        CHECK(got == wanted[i], "index %lld is %lld, was %lld", (long long)i, (long long)got,
              (long long)wanted[i]);
    }
}

static const test_case cases[] = {
    {"permute(bijection)", is_a_bijection},
    {"permute(huge)", works_on_huge_sizes},
    {"permute(shuffles)", shuffles},
    {"permute(golden)", stays_what_it_was},
};
TEST_MAIN(cases)
