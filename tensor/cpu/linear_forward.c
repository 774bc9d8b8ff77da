/* linear_forward: y = act(x wᵀ + b), dense or per expert over segments of rows.
 *
 * Cost: 2·T·in·out FLOPs; bytes are x, w, y (and pre) once each. The bias and the activation are
 * applied tile by tile, while the tile is in the core's cache. bf16 is multiplied as such where the
 * processor can (tensor/cpu/matmul.h), else widened to fp32 and its products run at the fp32 rate.
 */
#include "tensor/cpu/act.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/product.h"

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

/* The product of a task's rows, in a thread's own tile. */
FM_INLINE fm_matmul bf16_tile(const fm_linear_args *a, const fm_task *t, fm_rounded r) {
    return (fm_matmul){.dt = FM_BF16,
                       .trans_b = true,
                       .m = r.rows,
                       .n = t->cols,
                       .k = a->in,
                       .lda = a->in,
                       .ldb = a->in,
                       .ldc = t->cols};
}

static fm_status forward_bf16(fm_device *dev, const fm_linear_args *a) {
    fm_task *tasks;
    int64_t n, y_tile = FM_ROUNDED_TILE_ROWS * FM_TILE_COLS_BF16;
    void *scratch;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, a->out, FM_TILE_COLS_BF16, &tasks, &n));
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(omp_get_max_threads() * y_tile) * sizeof(float), &scratch));
    FM_TRY(fm_matmul_begin(dev));
    for (int64_t i = 0; i < n; i++) {
        fm_matmul tile = bf16_tile(a, &tasks[i], fm_round_rows(&tasks[i], a->T));
        FM_TRY(fm_matmul_prepare(dev, &tile));
    }
    int error = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        fm_rounded r = fm_round_rows(t, a->T);
        fm_matmul tile = bf16_tile(a, t, r);
        float *z = (float *)scratch + omp_get_thread_num() * y_tile;
        int e = fm_matmul_run(dev, &tile, fm_at(FM_BF16, a->x, r.row * a->in),
                              fm_at(FM_BF16, a->w, (t->group * a->out + t->col) * a->in), z);
        if (e != 0) {
#pragma omp atomic write
            error = e;
        }
        epilogue(FM_BF16, a, t, z + r.skip * t->cols, t->cols);
    }
    return error != 0 ? fm_matmul_failed(dev, "linear_forward", error) : FM_OK;
}

fm_status FM_ISA_NAME(cpu_linear_forward)(fm_device *dev, const fm_linear_args *a) {
    if (fm_matmul_serves(a->dt) && a->in > 0) return forward_bf16(dev, a);
    fm_task *tasks;
    int64_t n;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, a->out, FM_TILE_COLS, &tasks, &n));
    bool narrow = a->dt == FM_BF16;
    /* bf16: all of w widened, and per thread a tile of x and one of y. */
    int64_t w_size = a->E * a->out * a->in, x_tile = FM_TILE_ROWS * a->in,
            y_tile = FM_TILE_ROWS * FM_TILE_COLS;
    void *scratch = NULL;
    if (narrow)
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                              (size_t)(w_size + omp_get_max_threads() * (x_tile + y_tile)) *
                                  sizeof(float),
                              &scratch));
    float *wide = scratch;
    const float *w = fm_widen_all(a->dt, wide, a->w, w_size);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        const float *x = (const float *)a->x + t->row * a->in;
        float *z = (float *)(a->pre ? a->pre : a->y) + t->row * a->out + t->col;
        int64_t ldz = a->out;
        if (narrow) {
            float *own = wide + w_size + omp_get_thread_num() * (x_tile + y_tile);
            fm_widen(own, fm_at(FM_BF16, a->x, t->row * a->in), t->rows * a->in);
            x = own;
            z = own + x_tile;
            ldz = t->cols;
        }
        const float *we = w + (t->group * a->out + t->col) * a->in;
        if (!fm_sgemm(false, true, t->rows, t->cols, a->in, x, a->in, we, a->in, false, z, ldz)) {
#pragma omp atomic write
            failed = true;
        }
        if (a->b || a->pre || narrow || a->act != FM_ACT_NONE)
            FM_FLOAT_CALL(a->dt, epilogue, a, t, z, ldz);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE,
                       "linear_forward: %s refused [%lld, %lld] x [%lld]", fm_sgemm_library(),
                       (long long)a->T, (long long)a->in, (long long)a->out);
    return FM_OK;
}
