/* AdamW in one pass.
 *
 * Cost: reads p, m, v, g and writes p, m, v: 28 bytes a parameter (30 with a bf16 model), the
 * memory's floor; the square root and division an element hide behind it.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

#include <math.h>

FM_INLINE void adamw_chunk(fm_dtype model_dt, const fm_adamw_args *a, int64_t lo, int64_t hi,
                           bool has_model) {
    float *p = a->p, *m = a->m, *v = a->v;
    const float *g = a->g;
    void *model = a->model;
    float b1 = a->beta1, b2 = a->beta2, eps = a->eps, g_scale = a->g_scale;
    float c1 = 1.0f - b1, c2 = 1.0f - b2;
    float keep = 1.0f - a->lr * a->weight_decay, step = a->lr / a->bias1;
    float inv_sqrt_bias2 = 1.0f / sqrtf(a->bias2);
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) {
        float gi = g_scale * g[i];
        float mi = b1 * m[i] + c1 * gi;
        float vi = b2 * v[i] + c2 * gi * gi;
        float pi = p[i] * keep - step * mi / (sqrtf(vi) * inv_sqrt_bias2 + eps);
        m[i] = mi;
        v[i] = vi;
        p[i] = pi;
        if (has_model) fm_put(model_dt, model, i, pi);
    }
}

fm_status FM_ISA_NAME(cpu_adamw)(fm_device *dev, const fm_adamw_args *a) {
    (void)dev;
#pragma omp parallel for schedule(static) if (a->n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(a->n); c++) {
        int64_t lo = c * FM_CHUNK, hi = fm_chunk_end(c, a->n);
        if (a->model)
            FM_FLOAT_CALL(a->model_dt, adamw_chunk, a, lo, hi, true);
        else
            adamw_chunk(FM_F32, a, lo, hi, false);
    }
    return FM_OK;
}
