/* Rotary positions (Su et al. 2021), pairs (i, i + dh/2).
 *
 * Cost: one read and one write of x; the table of sines is S·dh/2 of them, made once a call.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

#include <math.h>

FM_INLINE void rotate_row(fm_dtype dt, void *y, const void *x, const float *cosine,
                          const float *sine, int64_t heads, int64_t dh, int64_t cols) {
    int64_t half = dh / 2;
    for (int64_t h = 0; h < heads; h++) {
        const void *in = fm_at(dt, x, h * dh);
        void *out = fm_at_mut(dt, y, h * dh);
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            float p = fm_get(dt, in, i), q = fm_get(dt, in, i + half);
            fm_put(dt, out, i, p * cosine[i] - q * sine[i]);
            fm_put(dt, out, i + half, q * cosine[i] + p * sine[i]);
        }
    }
#pragma omp simd
    for (int64_t c = heads * dh; c < cols; c++) fm_put(dt, y, c, fm_get(dt, x, c));
}

fm_status FM_ISA_NAME(cpu_rope)(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t T,
                                int64_t S, int64_t heads, int64_t dh, int64_t cols, float theta,
                                int64_t pos0, bool inverse) {
    int64_t half = dh / 2;
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, (size_t)(2 * S * half) * sizeof(float),
                          &scratch));
    float *cosine = scratch, *sine = cosine + S * half;
    /* In double: at position 100,000 a float angle would be off by 0.004. */
#pragma omp parallel for schedule(static) if (S * half >= 256)
    for (int64_t s = 0; s < S; s++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)(pos0 + s) * pow((double)theta, -2.0 * (double)i / (double)dh);
            cosine[s * half + i] = (float)cos(angle);
            sine[s * half + i] = (float)(inverse ? -sin(angle) : sin(angle));
        }
#pragma omp parallel for schedule(static) if (T * cols >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_CALL(dt, rotate_row, fm_at_mut(dt, y, t * cols), fm_at(dt, x, t * cols),
                      cosine + t % S * half, sine + t % S * half, heads, dh, cols);
    return FM_OK;
}
