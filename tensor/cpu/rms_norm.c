/* RMS normalisation, forward and backward (Zhang, Sennrich 2019).
 *
 *   xhat = x rstd,  y = xhat w,  rstd = 1 / sqrt(mean(x²) + eps)
 *   dx = rstd (g - xhat mean(g xhat)),  g = dy w;  dw = Σ_t dy xhat
 *
 * Cost and order of sums as in layer_norm.c: one read of each operand, one write of each result.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/row.h"

FM_INLINE void forward_row(fm_dtype dt, void *y, float *rstd, const void *x, const void *w,
                           int64_t d, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) sum += fm_get(dt, x, i) * fm_get(dt, x, i);
    float r = 1.0f / sqrtf(sum / (float)d + eps);
    *rstd = r;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) fm_put(dt, y, i, fm_get(dt, x, i) * r * fm_get(dt, w, i));
}

fm_status FM_ISA_NAME(cpu_rms_norm_forward)(fm_device *dev, fm_dtype dt, void *y, float *rstd,
                                            const void *x, const void *w, int64_t T, int64_t d,
                                            float eps) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_CALL(dt, forward_row, fm_at_mut(dt, y, t * d), rstd + t, fm_at(dt, x, t * d), w, d,
                      eps);
    return FM_OK;
}

/* Σ g xhat of a row, adding the row's share to dw on the way (NULL: not wanted). */
FM_INLINE float backward_sum(fm_dtype dt, float *dw, const void *dy, const void *x, const void *w,
                             float rstd, int64_t d) {
    float sx = 0.0f;
    if (dw) {
#pragma omp simd reduction(+ : sx)
        for (int64_t i = 0; i < d; i++) {
            float gx = fm_get(dt, dy, i) * fm_get(dt, x, i) * rstd;
            dw[i] += gx;
            sx += gx * fm_get(dt, w, i);
        }
    } else {
#pragma omp simd reduction(+ : sx)
        for (int64_t i = 0; i < d; i++)
            sx += fm_get(dt, dy, i) * fm_get(dt, x, i) * rstd * fm_get(dt, w, i);
    }
    return sx;
}

/* Rows [lo, hi); `dw` [d] receives their share. */
FM_INLINE void backward_chunk(fm_dtype dt, void *dx, float *dw, const void *dy, const void *x,
                              const void *w, const float *rstd, int64_t lo, int64_t hi, int64_t d,
                              bool add) {
    if (dw)
        for (int64_t i = 0; i < d; i++) dw[i] = 0.0f;
    for (int64_t t = lo; t < hi; t++) {
        const void *g = fm_at(dt, dy, t * d), *row = fm_at(dt, x, t * d);
        void *out = fm_at_mut(dt, dx, t * d);
        float r = rstd[t], m = backward_sum(dt, dw, g, row, w, r, d) / (float)d;
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            fm_put_or_add(dt, out, i,
                          r * (fm_get(dt, g, i) * fm_get(dt, w, i) - fm_get(dt, row, i) * r * m),
                          add);
    }
}

fm_status FM_ISA_NAME(cpu_rms_norm_backward)(fm_device *dev, fm_dtype dt, void *dx,
                                             bool accumulate_x, float *dw, bool accumulate_w,
                                             const void *dy, const void *x, const void *w,
                                             const float *rstd, int64_t T, int64_t d) {
    fm_split split = fm_split_rows(T, FM_TILE(16, 2));
    float *partial = NULL;
    if (dw) {
        void *scratch;
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, (size_t)(split.count * d) * sizeof(float),
                              &scratch));
        partial = scratch;
    }
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < split.count; c++)
        FM_FLOAT_ADD_CALL(dt, accumulate_x, backward_chunk, dx, partial ? partial + c * d : NULL,
                          dy, x, w, rstd, c * split.size, fm_min_i64((c + 1) * split.size, T), d);
    if (dw) fm_add_partials(dw, partial, split.count, d, d, accumulate_w);
    return FM_OK;
}
