/* Activations and gated activations, forward and backward.
 *
 * Cost: forward one read and one write (8 bytes an element in fp32), backward two reads and one
 * write; some 20 (relu: 1) operations an element, which a vector unit does faster than the memory
 * brings them. Right in place.
 */
#include "tensor/cpu/act.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

FM_INLINE void forward_loop(fm_act act, fm_dtype dt, void *y, const void *x, int64_t lo,
                            int64_t hi) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++) fm_put(dt, y, i, fm_act_value(act, fm_get(dt, x, i)));
}

FM_INLINE void forward_chunk(fm_dtype dt, fm_act act, void *y, const void *x, int64_t lo,
                             int64_t hi) {
    FM_ACT_CALL(act, forward_loop, dt, y, x, lo, hi);
}

/* One row of a gated form: y = act(gate) * up. */
FM_INLINE void glu_forward_loop(fm_act act, fm_dtype dt, void *y, const void *gate, const void *up,
                                int64_t h) {
#pragma omp simd
    for (int64_t i = 0; i < h; i++)
        fm_put(dt, y, i, fm_act_value(act, fm_get(dt, gate, i)) * fm_get(dt, up, i));
}

FM_INLINE void glu_forward_row(fm_dtype dt, fm_act act, void *y, const void *x, int64_t r,
                               int64_t h) {
    const void *gate = fm_at(dt, x, r * 2 * h), *up = fm_at(dt, x, r * 2 * h + h);
    void *out = fm_at_mut(dt, y, r * h);
    if (act == FM_ACT_SWIGLU)
        glu_forward_loop(FM_ACT_SWIGLU, dt, out, gate, up, h);
    else
        glu_forward_loop(FM_ACT_GEGLU, dt, out, gate, up, h);
}

fm_status FM_ISA_NAME(cpu_act_forward)(fm_device *dev, fm_dtype dt, fm_act act, void *y,
                                       const void *x, int64_t rows, int64_t cols) {
    (void)dev;
    int64_t n = rows * cols;
    if (fm_act_is_glu(act)) {
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
        for (int64_t r = 0; r < rows; r++) FM_FLOAT_CALL(dt, glu_forward_row, act, y, x, r, cols);
        return FM_OK;
    }
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_CALL(dt, forward_chunk, act, y, x, c * FM_CHUNK, fm_chunk_end(c, n));
    return FM_OK;
}

FM_INLINE void backward_loop(fm_act act, fm_dtype dt, void *dx, const void *x, const void *dy,
                             int64_t lo, int64_t hi, bool add) {
#pragma omp simd
    for (int64_t i = lo; i < hi; i++)
        fm_put_or_add(dt, dx, i, fm_get(dt, dy, i) * fm_act_slope(act, fm_get(dt, x, i)), add);
}

FM_INLINE void backward_chunk(fm_dtype dt, fm_act act, void *dx, const void *x, const void *dy,
                              int64_t lo, int64_t hi, bool add) {
    FM_ACT_CALL(act, backward_loop, dt, dx, x, dy, lo, hi, add);
}

FM_INLINE void glu_backward_loop(fm_act act, fm_dtype dt, void *dgate, void *dup, const void *gate,
                                 const void *up, const void *dy, int64_t h, bool add) {
#pragma omp simd
    for (int64_t i = 0; i < h; i++) {
        float g = fm_get(dt, gate, i), u = fm_get(dt, up, i), d = fm_get(dt, dy, i);
        fm_put_or_add(dt, dgate, i, d * u * fm_act_slope(act, g), add);
        fm_put_or_add(dt, dup, i, d * fm_act_value(act, g), add);
    }
}

FM_INLINE void glu_backward_row(fm_dtype dt, fm_act act, void *dx, const void *x, const void *dy,
                                int64_t r, int64_t h, bool add) {
    const void *gate = fm_at(dt, x, r * 2 * h), *up = fm_at(dt, x, r * 2 * h + h);
    void *dgate = fm_at_mut(dt, dx, r * 2 * h), *dup = fm_at_mut(dt, dx, r * 2 * h + h);
    const void *d = fm_at(dt, dy, r * h);
    if (act == FM_ACT_SWIGLU)
        glu_backward_loop(FM_ACT_SWIGLU, dt, dgate, dup, gate, up, d, h, add);
    else
        glu_backward_loop(FM_ACT_GEGLU, dt, dgate, dup, gate, up, d, h, add);
}

fm_status FM_ISA_NAME(cpu_act_backward)(fm_device *dev, fm_dtype dt, fm_act act, void *dx,
                                        const void *x, const void *dy, int64_t rows, int64_t cols,
                                        bool accumulate) {
    (void)dev;
    int64_t n = rows * cols;
    if (fm_act_is_glu(act)) {
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
        for (int64_t r = 0; r < rows; r++)
            FM_FLOAT_ADD_CALL(dt, accumulate, glu_backward_row, act, dx, x, dy, r, cols);
        return FM_OK;
    }
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_ADD_CALL(dt, accumulate, backward_chunk, act, dx, x, dy, c * FM_CHUNK,
                          fm_chunk_end(c, n));
    return FM_OK;
}
