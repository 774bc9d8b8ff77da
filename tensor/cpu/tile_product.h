/* Products of small tiles in cache, for attention: C [m, n] (+)= A [m, k] B [k, n].
 *
 * A's elements are broadcast, so A may lie in any strides; B's and C's rows are read in vectors,
 * so n is a multiple of FM_VEC (buffers are padded to it). Register block: FM_BLOCK_ROWS rows of
 * two vectors of C; per step of k two loads of B and 2·FM_BLOCK_ROWS fused multiply-adds.
 */
#ifndef FM_TENSOR_CPU_TILE_PRODUCT_H
#define FM_TENSOR_CPU_TILE_PRODUCT_H
#include "tensor/cpu/isa.h"

#include <stdbool.h>
#include <stdint.h>

/* Lanes of the widest vector, and as many rows as its registers can hold accumulators for. */
#if defined(__AVX512F__)
enum { FM_VEC = 16, FM_BLOCK_ROWS = 8 };
#elif defined(__AVX__)
enum { FM_VEC = 8, FM_BLOCK_ROWS = 4 };
#else
enum { FM_VEC = 4, FM_BLOCK_ROWS = 4 };
#endif
typedef float fm_vec __attribute__((vector_size(4 * FM_VEC), aligned(4), may_alias));

/* mr <= FM_BLOCK_ROWS rows, `vecs` (1 or 2) vectors of columns; both constants where inlined. */
FM_INLINE void fm_tile_block(int mr, int vecs, int64_t k, const float *a, int64_t row_a,
                             int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc,
                             bool accumulate) {
    fm_vec acc[FM_BLOCK_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            acc[i][v] = accumulate ? *(const fm_vec *)(c + i * ldc + v * FM_VEC) : (fm_vec){0};
    for (int64_t p = 0; p < k; p++) {
        fm_vec b0 = *(const fm_vec *)(b + p * ldb);
        fm_vec b1 = vecs == 2 ? *(const fm_vec *)(b + p * ldb + FM_VEC) : b0;
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++) {
            float x = a[i * row_a + p * col_a];
            acc[i][0] += x * b0;
            if (vecs == 2) acc[i][1] += x * b1;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) *(fm_vec *)(c + i * ldc + v * FM_VEC) = acc[i][v];
}

FM_INLINE void fm_tile_rows(int mr, int64_t n, int64_t k, const float *a, int64_t row_a,
                            int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc,
                            bool accumulate) {
    int64_t j = 0;
    for (; j + 2 * FM_VEC <= n; j += 2 * FM_VEC)
        fm_tile_block(mr, 2, k, a, row_a, col_a, b + j, ldb, c + j, ldc, accumulate);
    if (j < n) fm_tile_block(mr, 1, k, a, row_a, col_a, b + j, ldb, c + j, ldc, accumulate);
}

/* Element (i, p) of A is a[i * row_a + p * col_a]. */
FM_INLINE void fm_tile_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t row_a,
                               int64_t col_a, const float *b, int64_t ldb, float *c, int64_t ldc,
                               bool accumulate) {
    int64_t i = 0;
    for (; i + FM_BLOCK_ROWS <= m; i += FM_BLOCK_ROWS)
        fm_tile_rows(FM_BLOCK_ROWS, n, k, a + i * row_a, row_a, col_a, b, ldb, c + i * ldc, ldc,
                     accumulate);
    for (; i < m; i++)
        fm_tile_rows(1, n, k, a + i * row_a, row_a, col_a, b, ldb, c + i * ldc, ldc, accumulate);
}

FM_INLINE int64_t fm_clamp_i64(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

/* The same where A is zero behind a diagonal, and adding to C: row i sums p < i + d. What lies
 * behind is not touched, so that a NaN there stays away. A whole block takes what all its rows
 * see; each row then the rest. */
FM_INLINE void fm_tile_product_lower(int64_t m, int64_t n, int64_t k, int64_t d, const float *a,
                                     int64_t row_a, int64_t col_a, const float *b, int64_t ldb,
                                     float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i += FM_BLOCK_ROWS) {
        int64_t common = 0, stop = i + FM_BLOCK_ROWS < m ? i + FM_BLOCK_ROWS : m;
        if (stop == i + FM_BLOCK_ROWS) {
            common = fm_clamp_i64(i + d, 0, k);
            fm_tile_rows(FM_BLOCK_ROWS, n, common, a + i * row_a, row_a, col_a, b, ldb, c + i * ldc,
                         ldc, true);
        }
        for (int64_t r = i; r < stop; r++) {
            int64_t rest = fm_clamp_i64(r + d, 0, k) - common;
            if (rest > 0)
                fm_tile_rows(1, n, rest, a + r * row_a + common * col_a, row_a, col_a,
                             b + common * ldb, ldb, c + r * ldc, ldc, true);
        }
    }
}

/* Its transpose: row i sums p > i - d. */
FM_INLINE void fm_tile_product_upper(int64_t m, int64_t n, int64_t k, int64_t d, const float *a,
                                     int64_t row_a, int64_t col_a, const float *b, int64_t ldb,
                                     float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i += FM_BLOCK_ROWS) {
        int64_t common = k, stop = i + FM_BLOCK_ROWS < m ? i + FM_BLOCK_ROWS : m;
        if (stop == i + FM_BLOCK_ROWS) {
            common = fm_clamp_i64(stop - d, 0, k);
            fm_tile_rows(FM_BLOCK_ROWS, n, k - common, a + i * row_a + common * col_a, row_a, col_a,
                         b + common * ldb, ldb, c + i * ldc, ldc, true);
        }
        for (int64_t r = i; r < stop; r++) {
            int64_t first = fm_clamp_i64(r - d + 1, 0, k);
            if (first < common)
                fm_tile_rows(1, n, common - first, a + r * row_a + first * col_a, row_a, col_a,
                             b + first * ldb, ldb, c + r * ldc, ldc, true);
        }
    }
}

#endif
