/* How work is cut, so that results do not depend on the number of threads.
 *
 * The cuts depend on sizes alone. Where elements are independent, a chunk's end still decides
 * which elements the vector loop leaves to the scalar one (whose rounding may differ); where
 * sums cross chunks, each chunk has a partial sum and they are added in the order of chunks.
 */
#ifndef FM_TENSOR_CPU_PARALLEL_H
#define FM_TENSOR_CPU_PARALLEL_H
#include "tensor/cpu/isa.h"
#include "tensor/cpu/tile.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    /* Elements of a chunk of an elementwise loop: 64 KiB of fp32, so that two or three arrays'
     * chunks stay in L2, and a multiple of every vector width. */
    FM_CHUNK = FM_TILE(16384, 53),
    /* Elements that pay for waking the other threads (2 to 5 µs): at some 0.2 ns an element a
     * loop of fewer is over sooner alone. */
    FM_PARALLEL_MIN = FM_TILE(32768, 2),
    /* Most partial sums of one reduction: enough for 64 threads, little enough that adding them
     * up is nothing. */
    FM_MAX_SPLIT = FM_TILE(64, 3),
};

FM_INLINE int64_t fm_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

FM_INLINE int64_t fm_chunk_count(int64_t n) { return (n + FM_CHUNK - 1) / FM_CHUNK; }

/* [lo, hi) of chunk c of n elements. */
FM_INLINE int64_t fm_chunk_end(int64_t c, int64_t n) { return fm_min_i64((c + 1) * FM_CHUNK, n); }

/* n rows in at most FM_MAX_SPLIT chunks of `size` rows, none smaller than `least` but the last. */
typedef struct fm_split {
    int64_t count, size;
} fm_split;

FM_INLINE fm_split fm_split_rows(int64_t n, int64_t least) {
    int64_t size = (n + FM_MAX_SPLIT - 1) / FM_MAX_SPLIT;
    if (size < least) size = least;
    return (fm_split){(n + size - 1) / size, size};
}

/* y[i] (+)= Σ_c partial[c, i] over `count` rows of `stride` floats, in the order of c. */
FM_INLINE void fm_add_partials(float *y, const float *partial, int64_t count, int64_t stride,
                               int64_t n, bool accumulate) {
    enum { COLS = FM_TILE(256, 5) };
#pragma omp parallel for schedule(static) if (count * n >= FM_PARALLEL_MIN)
    for (int64_t b = 0; b < (n + COLS - 1) / COLS; b++) {
        float sum[COLS] = {0};
        int64_t lo = b * COLS, m = fm_min_i64(COLS, n - lo);
        for (int64_t c = 0; c < count; c++) {
#pragma omp simd
            for (int64_t i = 0; i < m; i++) sum[i] += partial[c * stride + lo + i];
        }
        for (int64_t i = 0; i < m; i++) y[lo + i] = accumulate ? y[lo + i] + sum[i] : sum[i];
    }
}

#endif
