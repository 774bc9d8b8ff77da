/* sum_rows, sum, sum_squares.
 *
 * Cost: one read of the operand, the memory's floor. Order of the sums: rows or elements in chunks
 * that depend on sizes alone, then the chunks in order. sum and sum_squares add in double.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

/* y[c] (+)= Σ_{j < n} of rows that lie `stride` elements apart; in blocks of columns whose sums
 * stay in L1. */
FM_INLINE void sum_strided(fm_dtype dt, float *y, const void *x, int64_t n, int64_t stride,
                           int64_t cols, bool add) {
    enum { COLS = FM_TILE(256, 5) };
    for (int64_t lo = 0; lo < cols; lo += COLS) {
        float sum[COLS] = {0};
        int64_t m = fm_min_i64(COLS, cols - lo);
        for (int64_t j = 0; j < n; j++) {
            const void *row = fm_at(dt, x, j * stride + lo);
#pragma omp simd
            for (int64_t c = 0; c < m; c++) sum[c] += fm_get(dt, row, c);
        }
        for (int64_t c = 0; c < m; c++) y[lo + c] = add ? y[lo + c] + sum[c] : sum[c];
    }
}

fm_status FM_ISA_NAME(cpu_sum_rows)(fm_device *dev, fm_dtype dt, float *db, const void *dy,
                                    int64_t rows, int64_t cols, int64_t period, bool accumulate) {
    int64_t most = (rows + period - 1) / period; /* rows of position 0, which has the most */
    fm_split split = fm_split_rows(most, FM_TILE(32, 2));
    /* One chunk a position, or none: it writes to db itself. */
    float *out = db;
    bool add = accumulate;
    if (split.count > 1) {
        void *scratch;
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL,
                              (size_t)(split.count * period * cols) * sizeof(float), &scratch));
        out = scratch;
        add = false;
    } else {
        split = (fm_split){1, most};
    }
#pragma omp parallel for collapse(2) schedule(static) if (rows * cols >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < split.count; c++) {
        for (int64_t p = 0; p < period; p++) {
            int64_t n = p < rows ? (rows - p + period - 1) / period : 0;
            int64_t lo = fm_min_i64(c * split.size, n), hi = fm_min_i64(lo + split.size, n);
            FM_FLOAT_CALL(dt, sum_strided, out + (c * period + p) * cols,
                          fm_at(dt, dy, (lo * period + p) * cols), hi - lo, period * cols, cols,
                          add);
        }
    }
    if (split.count > 1)
        fm_add_partials(db, out, split.count, period * cols, period * cols, accumulate);
    return FM_OK;
}

FM_INLINE double chunk_sum(const float *x, int64_t lo, int64_t hi, bool square) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = lo; i < hi; i++) {
        double v = x[i];
        s += square ? v * v : v;
    }
    return s;
}

/* Σ x or Σ x², chunk by chunk. */
FM_INLINE fm_status chunked_sum(fm_device *dev, double *out, const float *x, int64_t n,
                                bool square) {
    int64_t chunks = fm_chunk_count(n);
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, (size_t)chunks * sizeof(double), &scratch));
    double *partial = scratch, s = 0;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < chunks; c++)
        partial[c] = square ? chunk_sum(x, c * FM_CHUNK, fm_chunk_end(c, n), true)
                            : chunk_sum(x, c * FM_CHUNK, fm_chunk_end(c, n), false);
    for (int64_t c = 0; c < chunks; c++) s += partial[c];
    *out = s;
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_sum)(fm_device *dev, float *y, const float *x, float factor, int64_t n,
                               bool accumulate) {
    double s;
    FM_TRY(chunked_sum(dev, &s, x, n, false));
    *y = (float)((accumulate ? (double)*y : 0.0) + (double)factor * s);
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_sum_squares)(fm_device *dev, double *out, const float *g, int64_t n,
                                       bool accumulate) {
    double s;
    FM_TRY(chunked_sum(dev, &s, g, n, true));
    *out = accumulate ? *out + s : s;
    return FM_OK;
}
