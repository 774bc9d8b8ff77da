/* top_k of rows, and columns picked by index.
 *
 * Cost: one read of x, n comparisons a row and few insertions into the k best, which are kept sorted
 * in the result: O(n k) at the worst (a rising row), meant for the small k of routing.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

#include <limits.h>

/* Column of the first NaN met, or -1. A later element equal to an earlier one stays behind it. */
static int64_t top_k_row(float *values, int32_t *indices, const float *x, int64_t n, int64_t k) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i];
        if (i >= k && v <= values[k - 1]) continue; /* false for NaN */
        if (v != v) return i;
        int64_t j = i < k ? i : k - 1;
        for (; j > 0 && values[j - 1] < v; j--) {
            values[j] = values[j - 1];
            indices[j] = indices[j - 1];
        }
        values[j] = v;
        indices[j] = (int32_t)i;
    }
    return -1;
}

fm_status FM_ISA_NAME(cpu_top_k)(fm_device *dev, float *values, int32_t *indices, const float *x,
                                 int64_t T, int64_t n, int64_t k) {
    int64_t first_nan = INT64_MAX; /* the first in memory, whichever thread saw one first */
#pragma omp parallel for schedule(static) reduction(min : first_nan) if (T * n >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        int64_t bad = k > 0 ? top_k_row(values + t * k, indices + t * k, x + t * n, n, k) : -1;
        if (bad >= 0) first_nan = fm_min_i64(first_nan, t * n + bad);
    }
    if (first_nan != INT64_MAX)
        return fm_fail(
            dev->error, FM_ERR_NAN, "top_k: row %lld, column %lld of [%lld, %lld] is NaN",
            (long long)(first_nan / n), (long long)(first_nan % n), (long long)T, (long long)n);
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_gather_cols)(fm_device *dev, float *y, const float *x, const int32_t *idx,
                                       int64_t T, int64_t n, int64_t k) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * k >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = t * k; j < (t + 1) * k; j++) y[j] = idx[j] < 0 ? 0.0f : x[t * n + idx[j]];
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_scatter_cols)(fm_device *dev, float *dx, const float *dy,
                                        const int32_t *idx, int64_t T, int64_t n, int64_t k,
                                        bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (T * n >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        if (!accumulate)
            for (int64_t i = 0; i < n; i++) dx[t * n + i] = 0.0f;
        for (int64_t j = t * k; j < (t + 1) * k; j++)
            if (idx[j] >= 0) dx[t * n + idx[j]] += dy[j];
    }
    return FM_OK;
}
