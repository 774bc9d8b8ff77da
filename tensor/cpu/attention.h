/* What attention's forward and backward share: tiles, packing, masks. */
#ifndef FM_TENSOR_CPU_ATTENTION_H
#define FM_TENSOR_CPU_ATTENTION_H
#include "tensor/cpu/attention_parts.h"
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/tile_product.h"
#include "tensor/cpu/value.h"
#include "tensor/cpu/vecmath.h"

#include <math.h>
#include <omp.h>

/* Row length of what has a column per query: whole vectors. */
enum { FM_TILE_Q_LANES = (FM_TILE_Q + FM_VEC - 1) / FM_VEC * FM_VEC };

/* Scores are kept in units of ln 2, so that the softmax needs 2^x, not e^x. */
#define FM_LOG2_E 1.44269504088896341f
#define FM_LN_2 0.69314718055994531f

/* 2^x for x up to 127, as a score less its row's maximum or logsumexp is: relative error below
 * 1.7e-7; 0 below 2^-126. NaN in, NaN out. Half the work of fm_vexp, which softmax tiles notice. */
FM_INLINE float fm_exp2(float x) {
    /* Adding it leaves in the low bits the rounded integer, plus the exponent's bias. */
    const float magic = 12582912.0f + 127.0f;
    float t = x + magic;
    float r = x - (t - magic);
    float p = 0x1.5bba0ep-10f;
    p = p * r + 0x1.3cea88p-7f;
    p = p * r + 0x1.c6b752p-5f;
    p = p * r + 0x1.ebf9bcp-3f;
    p = p * r + 0x1.62e42ap-1f;
    p = p * r + 1.0f;
    float y = p * fm_float_of_bits(fm_bits_of_float(t) << 23);
    return x < -126.0f ? 0.0f : y;
}

FM_INLINE int64_t fm_round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* x rows [n, dh] at stride `row` -> y [n_padded, width], times alpha; zeros around it. */
FM_INLINE void fm_pack_rows(fm_dtype dt, float *y, const void *x, int64_t row, int64_t n,
                            int64_t n_padded, int64_t dh, int64_t width, float alpha) {
    for (int64_t r = 0; r < n; r++) {
        const void *in = fm_at(dt, x, r * row);
        float *out = y + r * width;
#pragma omp simd
        for (int64_t c = 0; c < dh; c++) out[c] = alpha * fm_get(dt, in, c);
        for (int64_t c = dh; c < width; c++) out[c] = 0.0f;
    }
    for (int64_t i = n * width; i < n_padded * width; i++) y[i] = 0.0f;
}

/* The same, transposed in tiles of FM_TILE_K rows: y[tile][c][row in tile]. */
FM_INLINE void fm_pack_transposed(fm_dtype dt, float *y, const void *x, int64_t row, int64_t n,
                                  int64_t dh) {
    for (int64_t lo = 0; lo < n; lo += FM_TILE_K) {
        float *tile = y + lo * dh;
        int64_t rows = fm_min_i64(FM_TILE_K, n - lo);
        for (int64_t r = 0; r < rows; r++) {
            const void *in = fm_at(dt, x, (lo + r) * row);
            for (int64_t c = 0; c < dh; c++) tile[c * FM_TILE_K + r] = fm_get(dt, in, c);
        }
        for (int64_t r = rows; r < FM_TILE_K; r++)
            for (int64_t c = 0; c < dh; c++) tile[c * FM_TILE_K + r] = 0.0f;
    }
}

/* Keys that query i may see: [0, this). */
FM_INLINE int64_t fm_visible(const fm_attention_args *a, int64_t i) {
    return a->causal ? fm_min_i64(i + a->Skv - a->Sq + 1, a->Skv) : a->Skv;
}

/* The mask of the tile at (i0, j0): its query r sees its keys below r + this. */
FM_INLINE int64_t fm_tile_diagonal(const fm_attention_args *a, int64_t i0, int64_t j0) {
    return a->causal ? i0 + a->Skv - a->Sq + 1 - j0 : FM_TILE_K;
}

#endif
