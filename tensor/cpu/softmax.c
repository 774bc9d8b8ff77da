/* Softmax of rows, forward and backward.
 *
 *   y = exp(x - max) / Σ exp(x - max),   dx = y (dy - Σ y dy)
 *
 * Cost: one read and one write of the row from memory (backward two reads), three passes in cache;
 * one exp an element in fp32, two in bf16, where keeping exp(x - max) in y would round it twice.
 * A row of nothing but -inf, or with +inf or NaN, gives NaN.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/vecmath.h"

FM_INLINE void forward_row(fm_dtype dt, void *y, const void *x, int64_t n) {
    float m = fm_row_max(dt, x, n), sum = 0.0f;
    if (dt == FM_F32) {
        float *out = y;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) {
            float e = fm_vexp(fm_get(dt, x, i) - m);
            out[i] = e;
            sum += e;
        }
        float scale = 1.0f / sum;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) out[i] *= scale;
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += fm_vexp(fm_get(dt, x, i) - m);
        float scale = 1.0f / sum;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) fm_put(dt, y, i, fm_vexp(fm_get(dt, x, i) - m) * scale);
    }
}

fm_status FM_ISA_NAME(cpu_softmax_forward)(fm_device *dev, fm_dtype dt, void *y, const void *x,
                                           int64_t rows, int64_t n) {
    (void)dev;
#pragma omp parallel for schedule(static) if (rows * n >= FM_PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++)
        FM_FLOAT_CALL(dt, forward_row, fm_at_mut(dt, y, r * n), fm_at(dt, x, r * n), n);
    return FM_OK;
}

FM_INLINE void backward_row(fm_dtype dt, void *dx, const void *y, const void *dy, int64_t n,
                            bool add) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) dot += fm_get(dt, y, i) * fm_get(dt, dy, i);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        fm_put_or_add(dt, dx, i, fm_get(dt, y, i) * (fm_get(dt, dy, i) - dot), add);
}

fm_status FM_ISA_NAME(cpu_softmax_backward)(fm_device *dev, fm_dtype dt, void *dx, const void *y,
                                            const void *dy, int64_t rows, int64_t n,
                                            bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (rows * n >= FM_PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++)
        FM_FLOAT_ADD_CALL(dt, accumulate, backward_row, fm_at_mut(dt, dx, r * n),
                          fm_at(dt, y, r * n), fm_at(dt, dy, r * n), n);
    return FM_OK;
}
