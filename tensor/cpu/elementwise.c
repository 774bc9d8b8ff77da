/* cast, fill, add, mul, scale, add_rows.
 *
 * Cost: one read of each operand and one write of the result, which is the memory's floor (12 bytes
 * an element for add in fp32, 6 in bf16; 4 more bytes where the result is added to). Each loop is
 * right in place. sum_rows, the adjoint of add_rows, is in reduce.c.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

FM_INLINE void cast_chunk(fm_dtype from, fm_dtype to, void *y, const void *x, int64_t lo,
                          int64_t hi) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) fm_put(to, y, i, fm_get(from, x, i));
}

static void cast_float(fm_dtype to, void *y, fm_dtype from, const void *x, int64_t n) {
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++) {
        int64_t lo = c * FM_CHUNK, hi = fm_chunk_end(c, n);
        if (to == FM_BF16)
            FM_FLOAT_CALL(from, cast_chunk, FM_BF16, y, x, lo, hi);
        else
            FM_FLOAT_CALL(from, cast_chunk, FM_F32, y, x, lo, hi);
    }
}

/* Integers that do not fit are cut to their low 32 bits; the caller knows their range. */
static void cast_int(fm_dtype to, void *y, fm_dtype from, const void *x, int64_t n) {
    const int32_t *x32 = x;
    const int64_t *x64 = x;
    int32_t *y32 = y;
    int64_t *y64 = y;
    for (int64_t i = 0; i < n; i++) {
        int64_t v = from == FM_I64 ? x64[i] : x32[i];
        if (to == FM_I64)
            y64[i] = v;
        else
            y32[i] = (int32_t)v;
    }
}

fm_status FM_ISA_NAME(cpu_cast)(fm_device *dev, fm_dtype to, void *y, fm_dtype from, const void *x,
                                int64_t n) {
    if (fm_dtype_is_float(to) != fm_dtype_is_float(from))
        return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                       "cast: dtype %d to %d: only float to float and int to int", (int)from,
                       (int)to);
    if (fm_dtype_is_float(to))
        cast_float(to, y, from, x, n);
    else
        cast_int(to, y, from, x, n);
    return FM_OK;
}

FM_INLINE void fill_chunk(fm_dtype dt, void *y, float value, int64_t lo, int64_t hi) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) fm_put(dt, y, i, value);
}

static void fill_int(fm_dtype dt, void *y, float value, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (dt == FM_I64)
            ((int64_t *)y)[i] = (int64_t)value;
        else
            ((int32_t *)y)[i] = (int32_t)value;
    }
}

fm_status FM_ISA_NAME(cpu_fill)(fm_device *dev, fm_dtype dt, void *y, float value, int64_t n) {
    (void)dev;
    if (!fm_dtype_is_float(dt)) {
        fill_int(dt, y, value, n);
        return FM_OK;
    }
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_CALL(dt, fill_chunk, y, value, c * FM_CHUNK, fm_chunk_end(c, n));
    return FM_OK;
}

FM_INLINE void add_chunk(fm_dtype dt, void *y, const void *a, const void *b, int64_t lo,
                         int64_t hi) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) fm_put(dt, y, i, fm_get(dt, a, i) + fm_get(dt, b, i));
}

fm_status FM_ISA_NAME(cpu_add)(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b,
                               int64_t n) {
    (void)dev;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_CALL(dt, add_chunk, y, a, b, c * FM_CHUNK, fm_chunk_end(c, n));
    return FM_OK;
}

FM_INLINE void mul_chunk(fm_dtype dt, void *y, const void *a, const void *b, int64_t lo, int64_t hi,
                         bool add) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++)
        fm_put_or_add(dt, y, i, fm_get(dt, a, i) * fm_get(dt, b, i), add);
}

fm_status FM_ISA_NAME(cpu_mul)(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b,
                               int64_t n, bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_ADD_CALL(dt, accumulate, mul_chunk, y, a, b, c * FM_CHUNK, fm_chunk_end(c, n));
    return FM_OK;
}

FM_INLINE void scale_chunk(fm_dtype x_dt, fm_dtype y_dt, void *y, const void *x, float alpha,
                           int64_t lo, int64_t hi, bool add) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) fm_put_or_add(y_dt, y, i, alpha * fm_get(x_dt, x, i), add);
}

fm_status FM_ISA_NAME(cpu_scale)(fm_device *dev, fm_dtype y_dt, void *y, fm_dtype x_dt,
                                 const void *x, float alpha, int64_t n, bool accumulate) {
    (void)dev;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++) {
        int64_t lo = c * FM_CHUNK, hi = fm_chunk_end(c, n);
        if (y_dt == FM_BF16)
            FM_FLOAT_ADD_CALL(x_dt, accumulate, scale_chunk, FM_BF16, y, x, alpha, lo, hi);
        else
            FM_FLOAT_ADD_CALL(x_dt, accumulate, scale_chunk, FM_F32, y, x, alpha, lo, hi);
    }
    return FM_OK;
}

fm_status FM_ISA_NAME(cpu_add_rows)(fm_device *dev, fm_dtype dt, void *y, const void *a,
                                    const void *b, int64_t rows, int64_t cols, int64_t period) {
    (void)dev;
#pragma omp parallel for schedule(static) if (rows * cols >= FM_PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++)
        FM_FLOAT_CALL(dt, add_chunk, fm_at_mut(dt, y, r * cols), fm_at(dt, a, r * cols),
                      fm_at(dt, b, r % period * cols), 0, cols);
    return FM_OK;
}
