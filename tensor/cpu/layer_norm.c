/* Layer normalisation, forward and backward (Ba, Kiros, Hinton 2016).
 *
 *   xhat = (x - mean) rstd,  y = xhat w + b
 *   dx = rstd (g - mean(g) - xhat mean(g xhat)),  g = dy w;  dw = Σ_t dy xhat,  db = Σ_t dy
 *
 * Cost: forward one read of x and one write of y from memory (three passes over a row in cache);
 * backward one read of x and dy and one write of dx, with dw and db in the same pass. That is the
 * memory's floor. dw and db: each chunk of rows has a partial sum, and the chunks depend on T alone.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/row.h"

FM_INLINE void forward_row(fm_dtype dt, void *y, float *mean, float *rstd, const void *x,
                           const void *w, const void *b, int64_t d, float eps) {
    float m = fm_row_sum(dt, x, d) / (float)d;
    float var = 0.0f;
#pragma omp simd reduction(+ : var)
    for (int64_t i = 0; i < d; i++) {
        float c = fm_get(dt, x, i) - m;
        var += c * c;
    }
    float r = 1.0f / sqrtf(var / (float)d + eps);
    *mean = m;
    *rstd = r;
    if (b) {
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            fm_put(dt, y, i, (fm_get(dt, x, i) - m) * r * fm_get(dt, w, i) + fm_get(dt, b, i));
    } else {
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            fm_put(dt, y, i, (fm_get(dt, x, i) - m) * r * fm_get(dt, w, i));
    }
}

fm_status FM_ISA_NAME(cpu_layer_norm_forward)(fm_device *dev, fm_dtype dt, void *y, float *mean,
                                              float *rstd, const void *x, const void *w,
                                              const void *b, int64_t T, int64_t d, float eps) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_CALL(dt, forward_row, fm_at_mut(dt, y, t * d), mean + t, rstd + t,
                      fm_at(dt, x, t * d), w, b, d, eps);
    return FM_OK;
}

/* The two means of a row, adding the row's share to dw and db on the way (NULL: not wanted). */
FM_INLINE void backward_sums(fm_dtype dt, float *dw, float *db, float *sum_g, float *sum_gx,
                             const void *dy, const void *x, const void *w, float mean, float rstd,
                             int64_t d) {
    float s = 0.0f, sx = 0.0f;
    if (dw) {
#pragma omp simd reduction(+ : s, sx)
        for (int64_t i = 0; i < d; i++) {
            float xhat = (fm_get(dt, x, i) - mean) * rstd, g = fm_get(dt, dy, i);
            dw[i] += g * xhat;
            db[i] += g;
            g *= fm_get(dt, w, i);
            s += g;
            sx += g * xhat;
        }
    } else {
#pragma omp simd reduction(+ : s, sx)
        for (int64_t i = 0; i < d; i++) {
            float xhat = (fm_get(dt, x, i) - mean) * rstd;
            float g = fm_get(dt, dy, i) * fm_get(dt, w, i);
            s += g;
            sx += g * xhat;
        }
    }
    *sum_g = s;
    *sum_gx = sx;
}

FM_INLINE void backward_row(fm_dtype dt, void *dx, float *dw, float *db, const void *dy,
                            const void *x, const void *w, float mean, float rstd, int64_t d,
                            bool add) {
    float sum_g, sum_gx;
    backward_sums(dt, dw, db, &sum_g, &sum_gx, dy, x, w, mean, rstd, d);
    float mg = sum_g / (float)d, mgx = sum_gx / (float)d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        float xhat = (fm_get(dt, x, i) - mean) * rstd;
        float g = fm_get(dt, dy, i) * fm_get(dt, w, i);
        fm_put_or_add(dt, dx, i, rstd * (g - mg - xhat * mgx), add);
    }
}

/* Rows [lo, hi); `partial` [2, d] receives their dw and db. */
FM_INLINE void backward_chunk(fm_dtype dt, void *dx, float *partial, const void *dy, const void *x,
                              const void *w, const float *mean, const float *rstd, int64_t lo,
                              int64_t hi, int64_t d, bool add) {
    float *dw = partial, *db = partial ? partial + d : NULL;
    if (partial)
        for (int64_t i = 0; i < 2 * d; i++) partial[i] = 0.0f;
    for (int64_t t = lo; t < hi; t++)
        backward_row(dt, fm_at_mut(dt, dx, t * d), dw, db, fm_at(dt, dy, t * d),
                     fm_at(dt, x, t * d), w, mean[t], rstd[t], d, add);
}

fm_status FM_ISA_NAME(cpu_layer_norm_backward)(fm_device *dev, fm_dtype dt, void *dx,
                                               bool accumulate_x, float *dw, bool accumulate_w,
                                               float *db, bool accumulate_b, const void *dy,
                                               const void *x, const void *w, const float *mean,
                                               const float *rstd, int64_t T, int64_t d) {
    fm_split split = fm_split_rows(T, FM_TILE(16, 2));
    float *partial = NULL;
    if (dw || db) {
        void *scratch;
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL,
                              (size_t)(split.count * 2 * d) * sizeof(float), &scratch));
        partial = scratch;
    }
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < split.count; c++)
        FM_FLOAT_ADD_CALL(dt, accumulate_x, backward_chunk, dx,
                          partial ? partial + c * 2 * d : NULL, dy, x, w, mean, rstd,
                          c * split.size, fm_min_i64((c + 1) * split.size, T), d);
    if (dw) fm_add_partials(dw, partial, split.count, 2 * d, d, accumulate_w);
    if (db) fm_add_partials(db, partial + d, split.count, 2 * d, d, accumulate_b);
    return FM_OK;
}
