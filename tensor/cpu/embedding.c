/* Table lookup and its adjoint.
 *
 * Cost: forward T rows read and written. Backward: dtable is zeroed when overwriting (V d writes),
 * then one read of dy and one read and write of T rows. Several tokens may name one row: threads
 * take columns, not tokens, so each sum runs over t in order on one thread.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

#include <string.h>

fm_status FM_ISA_NAME(cpu_embedding_forward)(fm_device *dev, fm_dtype dt, void *y,
                                             const void *table, const int32_t *ids, int64_t T,
                                             int64_t d) {
    (void)dev;
    size_t bytes = (size_t)(d * (dt == FM_BF16 ? 2 : 4));
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        if (ids[t] < 0)
            memset(fm_at_mut(dt, y, t * d), 0, bytes);
        else
            memcpy(fm_at_mut(dt, y, t * d), fm_at(dt, table, ids[t] * d), bytes);
    }
    return FM_OK;
}

/* Columns [lo, hi) of all tokens. */
FM_INLINE void backward_cols(fm_dtype dt, float *dtable, const void *dy, const int32_t *ids,
                             int64_t T, int64_t d, int64_t lo, int64_t hi) {
    for (int64_t t = 0; t < T; t++) {
        if (ids[t] < 0) continue;
        float *row = dtable + ids[t] * d;
        const void *g = fm_at(dt, dy, t * d);
#pragma omp simd
        for (int64_t i = lo; i < hi; i++) row[i] += fm_get(dt, g, i);
    }
}

fm_status FM_ISA_NAME(cpu_embedding_backward)(fm_device *dev, fm_dtype dt, float *dtable,
                                              const void *dy, const int32_t *ids, int64_t T,
                                              int64_t d, int64_t V, bool accumulate) {
    enum {
        COLS = FM_TILE(64, 3)
    }; /* four cache lines of fp32: enough for a prefetcher, few enough to share */
    if (!accumulate) FM_TRY(fm_cpu_zero(dev, dtable, (size_t)(V * d) * sizeof(float)));
#pragma omp parallel for schedule(static) if (T * d >= FM_PARALLEL_MIN)
    for (int64_t b = 0; b < (d + COLS - 1) / COLS; b++)
        FM_FLOAT_CALL(dt, backward_cols, dtable, dy, ids, T, d, b * COLS,
                      fm_min_i64((b + 1) * COLS, d));
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_local_ids)(fm_device *dev, int32_t *y, const int32_t *ids, int64_t first,
                                     int64_t n, int64_t T) {
    (void)dev;
    for (int64_t t = 0; t < T; t++) {
        int64_t local = ids[t] - first;
        y[t] = ids[t] == -1 ? -1 : local >= 0 && local < n ? (int32_t)local : -2;
    }
    return FM_OK;
}
