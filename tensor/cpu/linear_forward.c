/* linear_forward: y = act(x wᵀ + b), dense or per expert over segments of rows.
 *
 * Cost: 2·T·in·out FLOPs; bytes are x, w, y (and pre) once each. The bias and the activation are
 * applied tile by tile.
 */
#include "tensor/cpu/act.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/row_product.h"

/* One row: z = z + b; pre = z; y = act(z). pre may be NULL, or z itself. */
FM_INLINE void epilogue_loop(fm_act act, fm_dtype dt, void *y, void *pre, const float *z,
                             const void *b, int64_t n, bool has_b, bool has_pre) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float v = has_b ? z[i] + fm_get(dt, b, i) : z[i];
        if (has_pre) fm_put(dt, pre, i, v);
        fm_put(dt, y, i, fm_act_value(act, v));
    }
}

FM_INLINE void epilogue_row(fm_act act, fm_dtype dt, void *y, void *pre, const float *z,
                            const void *b, int64_t n) {
    if (b && pre)
        epilogue_loop(act, dt, y, pre, z, b, n, true, true);
    else if (b)
        epilogue_loop(act, dt, y, pre, z, b, n, true, false);
    else if (pre)
        epilogue_loop(act, dt, y, pre, z, b, n, false, true);
    else
        epilogue_loop(act, dt, y, pre, z, b, n, false, false);
}

FM_INLINE void epilogue(fm_dtype dt, const fm_linear_args *a, const fm_task *t, const float *z,
                        int64_t ldz) {
    for (int64_t r = 0; r < t->rows; r++) {
        int64_t at = (t->row + r) * a->out + t->col;
        void *y = fm_at_mut(dt, a->y, at), *pre = a->pre ? fm_at_mut(dt, a->pre, at) : NULL;
        const void *b = a->b ? fm_at(dt, a->b, t->group * a->out + t->col) : NULL;
        FM_ACT_CALL(a->act, epilogue_row, dt, y, pre, z + r * ldz, b, t->cols);
    }
}

static void finish(const void *user, const fm_task *t, const float *z, int64_t ldz) {
    const fm_linear_args *a = user;
    FM_FLOAT_CALL(a->dt, epilogue, a, t, z, ldz);
}

fm_status FM_ISA_NAME(cpu_linear_forward)(fm_device *dev, const fm_linear_args *a) {
    bool plain = a->dt == FM_F32 && !a->b && !a->pre && a->act == FM_ACT_NONE;
    fm_row_product p = {.slot = "linear_forward",
                        .a = a,
                        .x = a->x,
                        .k = a->in,
                        .n = a->out,
                        .trans_w = true,
                        .z = a->pre ? a->pre : a->y,
                        .finish = plain ? NULL : finish,
                        .user = a};
    return fm_row_product_run(dev, &p);
}
