/* Softmax cross-entropy of rows of logits, forward and backward.
 *
 *   lse = log Σ_v exp(l_v),  loss = lse - l_target;  dl_v = (exp(l_v - lse) - [v = target]) scale
 *
 * Cost: forward one read of the logits, by blocks that stay in cache while they are read twice, with
 * a running maximum (Milakov, Gimelshein 2018); backward one read and one write. One exp a logit
 * each way. A row with +inf or NaN gives NaN; logits of -inf are probabilities of 0.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/vecmath.h"

#include <float.h>

enum { BLOCK = FM_TILE(4096, 5) /* logits: 16 KiB of fp32, half of a small L1 */ };

FM_INLINE void forward_row(fm_dtype dt, float *loss, float *lse, const void *logits, int32_t target,
                           int64_t V) {
    /* The maximum starts at the lowest finite number: x - max is then never -inf - -inf. */
    float max = -FLT_MAX, sum = 0.0f;
    for (int64_t v = 0; v < V; v += BLOCK) {
        const void *x = fm_at(dt, logits, v);
        int64_t n = fm_min_i64(BLOCK, V - v);
        float m = fm_row_max(dt, x, n), part = 0.0f;
        m = m > max ? m : max;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < n; i++) part += fm_vexp(fm_get(dt, x, i) - m);
        sum = sum * fm_vexp(max - m) + part;
        max = m;
    }
    float log_sum = fm_vlog(sum);
    *lse = max + log_sum;
    /* In this order the two large numbers cancel before the small one is added. */
    *loss = target < 0 ? 0.0f : (max - fm_get(dt, logits, target)) + log_sum;
}

fm_status FM_ISA_NAME(cpu_cross_entropy_forward)(fm_device *dev, fm_dtype dt, float *loss,
                                                 float *lse, const void *logits,
                                                 const int32_t *target, int64_t T, int64_t V) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * V >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_CALL(dt, forward_row, loss + t, lse + t, fm_at(dt, logits, t * V), target[t], V);
    return FM_OK;
}

FM_INLINE void backward_row(fm_dtype dt, void *dlogits, const void *logits, float lse,
                            int32_t target, float scale, int64_t V) {
    if (target == -1) {
        for (int64_t v = 0; v < V; v++) fm_put(dt, dlogits, v, 0.0f);
        return;
    }
    /* Read before the row is overwritten, which may be in place. */
    float at_target = target < 0 ? 0.0f
                                 : (fm_vexp(fm_get(dt, logits, target) - lse) - 1.0f) * scale;
#pragma omp simd
    for (int64_t v = 0; v < V; v++)
        fm_put(dt, dlogits, v, fm_vexp(fm_get(dt, logits, v) - lse) * scale);
    if (target >= 0) fm_put(dt, dlogits, target, at_target);
}

fm_status FM_ISA_NAME(cpu_cross_entropy_backward)(fm_device *dev, fm_dtype dt, void *dlogits,
                                                  const void *logits, const float *lse,
                                                  const int32_t *target, const float *scale,
                                                  float factor, int64_t T, int64_t V) {
    (void)dev;
    float s = *scale * factor;
#pragma omp parallel for schedule(static) if (T * V >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        FM_FLOAT_CALL(dt, backward_row, fm_at_mut(dt, dlogits, t * V), fm_at(dt, logits, t * V),
                      lse[t], target[t], s, V);
    return FM_OK;
}

/* Row t of the parts' lse, and behind them of their loss, lies 2 T apart. */
FM_INLINE void merge_row(float *loss, float *lse, const float *parts, int64_t owner, int64_t P,
                         int64_t T) {
    float max = -FLT_MAX, sum = 0.0f;
    for (int64_t p = 0; p < P; p++) max = parts[2 * p * T] > max ? parts[2 * p * T] : max;
    for (int64_t p = 0; p < P; p++) sum += fm_vexp(parts[2 * p * T] - max);
    float log_sum = fm_vlog(sum);
    *lse = max + log_sum;
    const float *own = parts + 2 * (owner < 0 ? 0 : owner) * T;
    *loss = owner < 0 ? 0.0f : own[T] + ((max - own[0]) + log_sum);
}

fm_status FM_ISA_NAME(cpu_cross_entropy_merge)(fm_device *dev, float *loss, float *lse,
                                               const float *parts, const int32_t *target,
                                               int64_t width, int64_t P, int64_t T) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * P >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        merge_row(loss + t, lse + t, parts + t, target[t] < 0 ? -1 : target[t] / width, P, T);
    return FM_OK;
}
