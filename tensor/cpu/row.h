/* Reductions of one row, for the norms, softmax and the loss. */
#ifndef FM_TENSOR_CPU_ROW_H
#define FM_TENSOR_CPU_ROW_H
#include "tensor/cpu/value.h"

#include <math.h>

FM_INLINE float fm_row_sum(fm_dtype dt, const void *x, int64_t n) {
    float s = 0.0f;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += fm_get(dt, x, i);
    return s;
}

/* The largest element; -inf of nothing. NaN is passed over: what is computed from the row is NaN
 * all the same, and the comparison stays one instruction. Lanes by hand, since gcc does not
 * vectorise the maximum of floats that may be NaN. */
FM_INLINE float fm_row_max(fm_dtype dt, const void *x, int64_t n) {
    enum { LANES = 32 };
    float lane[LANES];
    for (int l = 0; l < LANES; l++) lane[l] = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            float v = fm_get(dt, x, i + l);
            lane[l] = v > lane[l] ? v : lane[l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        float v = fm_get(dt, x, i + l);
        lane[l] = v > lane[l] ? v : lane[l];
    }
    float m = lane[0];
    for (int l = 1; l < LANES; l++) m = lane[l] > m ? lane[l] : m;
    return m;
}

#endif
