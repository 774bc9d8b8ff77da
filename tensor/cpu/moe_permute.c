/* Rows to experts and back: gather, weighted combine, and the weights' gradient.
 *
 * Cost: gather reads and writes N rows; combine reads T k rows and writes T; combine_weight reads
 * T (k + 1) rows. Those bytes are the floor: there is one multiplication an element.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

#include <string.h>

FM_INLINE void gather_row(fm_dtype dt, void *y, const void *x, float w, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) fm_put(dt, y, i, w * fm_get(dt, x, i));
}

fm_status FM_ISA_NAME(cpu_moe_gather)(fm_device *dev, fm_dtype dt, void *y, const void *x,
                                      const float *w, const int32_t *source, int64_t N, int64_t k,
                                      int64_t d) {
    (void)dev;
    size_t bytes = (size_t)(d * (dt == FM_BF16 ? 2 : 4));
#pragma omp parallel for schedule(static) if (N * d >= FM_PARALLEL_MIN)
    for (int64_t r = 0; r < N; r++) {
        int32_t choice = source[r];
        void *row = fm_at_mut(dt, y, r * d);
        if (choice < 0)
            memset(row, 0, bytes);
        else if (!w)
            memcpy(row, fm_at(dt, x, choice / k * d), bytes);
        else
            FM_FLOAT_CALL(dt, gather_row, row, fm_at(dt, x, choice / k * d), w[choice], d);
    }
    return FM_OK;
}

/* One token: its k rows are added up block by block of columns, so that the sum stays in L1. */
FM_INLINE void combine_row(fm_dtype dt, void *y, const void *z, const float *w, const int32_t *slot,
                           int64_t k, int64_t d, bool add) {
    enum { COLS = FM_TILE(512, 7) };
    for (int64_t lo = 0; lo < d; lo += COLS) {
        float sum[COLS] = {0};
        int64_t m = fm_min_i64(COLS, d - lo);
        for (int64_t j = 0; j < k; j++) {
            if (slot[j] < 0) continue;
            const void *row = fm_at(dt, z, slot[j] * d + lo);
            float weight = w ? w[j] : 1.0f;
#pragma omp simd
            for (int64_t i = 0; i < m; i++) sum[i] += weight * fm_get(dt, row, i);
        }
#pragma omp simd
        for (int64_t i = 0; i < m; i++) fm_put_or_add(dt, y, lo + i, sum[i], add);
    }
}

fm_status FM_ISA_NAME(cpu_moe_combine)(fm_device *dev, fm_dtype dt, void *y, const void *z,
                                       const float *w, const int32_t *slot, int64_t T, int64_t k,
                                       int64_t d, bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * k * d >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_ADD_CALL(dt, accumulate, combine_row, fm_at_mut(dt, y, t * d), z,
                          w ? w + t * k : NULL, slot + t * k, k, d);
    return FM_OK;
}

FM_INLINE float dot(fm_dtype dt, const void *a, const void *b, int64_t d) {
    float s = 0.0f;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < d; i++) s += fm_get(dt, a, i) * fm_get(dt, b, i);
    return s;
}

fm_status FM_ISA_NAME(cpu_moe_combine_weight)(fm_device *dev, fm_dtype dt, float *dw,
                                              const void *dy, const void *z, const int32_t *slot,
                                              int64_t T, int64_t k, int64_t d, bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * k * d >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            float g = slot[j] < 0 ? 0.0f
                                  : FM_FLOAT_CALL(dt, dot, fm_at(dt, dy, t * d),
                                                  fm_at(dt, z, slot[j] * d), d);
            dw[j] = accumulate ? dw[j] + g : g;
        }
    }
    return FM_OK;
}
