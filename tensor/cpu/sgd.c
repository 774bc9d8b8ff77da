/* SGD with momentum in one pass.
 *
 * Cost: reads p, g and (with momentum) mom, writes p and mom: 12 or 20 bytes a parameter, and the
 * model's 2 or 4; the memory's floor.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

FM_INLINE void sgd_chunk(fm_dtype model_dt, const fm_sgd_args *a, int64_t lo, int64_t hi,
                         bool has_model, bool has_momentum) {
    float *p = a->p, *mom = a->mom;
    const float *g = a->g;
    void *model = a->model;
    float lr = a->lr, wd = a->weight_decay, g_scale = a->g_scale;
    /* mom starts as g': what it held before is not read as a number (0 * NaN is NaN). */
    bool first = a->first, nesterov = a->nesterov;
    float mu = a->momentum;
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) {
        float gi = g_scale * g[i] + wd * p[i];
        if (has_momentum) {
            float mi = first ? gi : mu * mom[i] + gi;
            mom[i] = mi;
            gi = nesterov ? gi + mu * mi : mi;
        }
        float pi = p[i] - lr * gi;
        p[i] = pi;
        if (has_model) fm_put(model_dt, model, i, pi);
    }
}

FM_INLINE void with_model(const fm_sgd_args *a, int64_t lo, int64_t hi, bool has_momentum) {
    if (a->model)
        FM_FLOAT_CALL(a->model_dt, sgd_chunk, a, lo, hi, true, has_momentum);
    else
        sgd_chunk(FM_F32, a, lo, hi, false, has_momentum);
}

fm_status FM_ISA_NAME(cpu_sgd)(fm_device *dev, const fm_sgd_args *a) {
    (void)dev;
#pragma omp parallel for schedule(static) if (a->n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(a->n); c++) {
        int64_t lo = c * FM_CHUNK, hi = fm_chunk_end(c, a->n);
        if (a->momentum != 0.0f)
            with_model(a, lo, hi, true);
        else
            with_model(a, lo, hi, false);
    }
    return FM_OK;
}
