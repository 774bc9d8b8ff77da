/* Datasets of every way that chunks can cut them, read back through HDF5's own checksums. */
#include "io/h5.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

/* What fills a dataset: fletcher32 has two forms of zero, and sums that may overflow. */
typedef enum filling { ZEROS, ONES, LAST_BIT, RANDOM, N_FILLINGS } filling;

static void fill(uint32_t *bits, int64_t n, filling how) {
    memset(bits, how == ONES ? 0xff : 0, (size_t)n * sizeof *bits);
    if (how == LAST_BIT && n > 0) bits[n - 1] = 0x80000000u;
    for (int64_t i = 0; how == RANDOM && i < n; i++) bits[i] = (uint32_t)fm_mix64((uint64_t)i + 7);
}

static void chunks(fm_ctx *ctx) {
    static const struct {
        int ndim;
        int64_t shape[4];
    } shapes[] = {{1, {1}},
                  {1, {7}},
                  {1, {4096 * 2}},
                  {1, {1 << 18}},
                  {1, {(1 << 18) + 1}},
                  {1, {3 * 262144 - 5}},
                  {2, {5, 3}},
                  {2, {2, 262145}},
                  {2, {3, 262144}},
                  {2, {1000, 1000}},
                  {3, {3, 4, 70001}},
                  {3, {2, 3, 300007}},
                  {3, {0, 3, 5}},
                  {4, {2, 2, 3, 131073}},
                  {4, {2, 3, 1, 262144}}};
    fm_error *err = &ctx->error;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (filling how = ZEROS; how < N_FILLINGS; how++)
            for (int compression = 0; compression <= (s < 8 ? 1 : 0); compression++) {
                char path[600];
                snprintf(path, sizeof path, "%s/%zu-%d-%d.h5", test_folder(), s, (int)how,
                         compression);
                int64_t corners[2 * 4] = {0};
                for (int d = 0; d < shapes[s].ndim; d++)
                    corners[shapes[s].ndim + d] = shapes[s].shape[d];
                fm_placement p = placement_of(shapes[s].ndim, shapes[s].shape, 1, corners);
                int64_t n = fm_placement_numel(&p), count;
                size_t bytes = (size_t)n * sizeof(float);
                uint32_t *in = malloc(bytes + 1), *out = malloc(bytes + 1);
                if (!in || !out) abort();
                fill(in, n, how);
                memset(out, 0x55, bytes);
                fm_h5 *h;
                CHECK_OK(fm_h5_create(err, NULL, path, &h));
                fm_region r = fm_region_of(&p);
                CHECK_OK(fm_h5_write(err, h, "a/b", &r, (const float *)in, compression));
                CHECK_OK(fm_h5_close(err, h));
                fm_h5_array *arrays;
                CHECK_OK(fm_h5_open(err, path, &h));
                CHECK_OK(fm_h5_arrays(err, h, &arrays, &count));
                CHECK(count == 1 && strcmp(arrays->name, "a/b") == 0, "%lld", (long long)count);
                if (n > 0) CHECK_OK(fm_h5_read(err, h, arrays, 0, &p.boxes[0], (float *)out));
                CHECK(memcmp(in, out, bytes) == 0, "shape %zu, filling %d, gzip %d", s, (int)how,
                      compression);
                fm_h5_arrays_free(arrays, count);
                CHECK_OK(fm_h5_close(err, h));
                free(in), free(out);
                remove(path);
            }
}

static const test_case cases[] = {{"chunks", chunks}};
TEST_MAIN(cases)
