/* Rows times weights, dense or per expert over segments of rows: what linear_forward and
 * linear_backward_input are but for what becomes of a tile.
 *
 *   z[t, :] = x[t, :] op(w[e])   for the rows t of expert e
 *
 * A tile of z is one task, finished while it is in the core's cache. bf16 is multiplied as such where
 * the processor can (tensor/cpu/matmul.h), else widened to fp32 and its products run at the fp32 rate.
 */
#ifndef FM_TENSOR_CPU_ROW_PRODUCT_H
#define FM_TENSOR_CPU_ROW_PRODUCT_H
#include "tensor/cpu/product.h"

typedef struct fm_row_product {
    const char *slot;        /* for messages */
    const fm_linear_args *a; /* dt, T, E, offsets, w */
    const void *x;           /* [T, k] */
    int64_t k, n;
    bool trans_w;    /* w[e] is [n, k]; else [k, n] */
    float *z;        /* fp32: [T, n]. For bf16 each thread has a tile of its own */
    bool accumulate; /* fp32: adds to z */
    /* What becomes of a tile, whose row r is at z + r * ldz; NULL: nothing */
    void (*finish)(const void *user, const fm_task *t, const float *z, int64_t ldz);
    const void *user;
} fm_row_product;

FM_INLINE int64_t fm_weights_at(const fm_row_product *p, const fm_task *t) {
    return t->group * p->n * p->k + (p->trans_w ? t->col * p->k : t->col);
}

FM_INLINE fm_matmul fm_rounded_tile(const fm_row_product *p, const fm_task *t, fm_rounded r) {
    return (fm_matmul){.dt = FM_BF16,
                       .trans_b = p->trans_w,
                       .m = r.rows,
                       .n = t->cols,
                       .k = p->k,
                       .lda = p->k,
                       .ldb = p->trans_w ? p->k : p->n,
                       .ldc = t->cols};
}

FM_INLINE fm_status fm_row_product_bf16(fm_device *dev, const fm_row_product *p) {
    const fm_linear_args *a = p->a;
    fm_task *tasks;
    int64_t n, tile_size = FM_ROUNDED_TILE_ROWS * FM_TILE_COLS_BF16;
    void *scratch;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, p->n, FM_TILE_COLS_BF16, &tasks, &n));
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(omp_get_max_threads() * tile_size) * sizeof(float), &scratch));
    FM_TRY(fm_matmul_begin(dev));
    for (int64_t i = 0; i < n; i++) {
        fm_matmul tile = fm_rounded_tile(p, &tasks[i], fm_round_rows(&tasks[i], a->T));
        FM_TRY(fm_matmul_prepare(dev, &tile));
    }
    int error = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        fm_rounded r = fm_round_rows(t, a->T);
        fm_matmul tile = fm_rounded_tile(p, t, r);
        float *z = (float *)scratch + omp_get_thread_num() * tile_size;
        int e = fm_matmul_run(dev, &tile, fm_at(FM_BF16, p->x, r.row * p->k),
                              fm_at(FM_BF16, a->w, fm_weights_at(p, t)), z);
        if (e != 0) {
#pragma omp atomic write
            error = e;
        }
        if (p->finish) p->finish(p->user, t, z + r.skip * t->cols, t->cols);
    }
    return error != 0 ? fm_matmul_failed(dev, p->slot, error) : FM_OK;
}

FM_INLINE fm_status fm_row_product_run(fm_device *dev, const fm_row_product *p) {
    const fm_linear_args *a = p->a;
    if (fm_matmul_serves(a->dt) && p->k > 0) return fm_row_product_bf16(dev, p);
    fm_task *tasks;
    int64_t n;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, p->n, FM_TILE_COLS, &tasks, &n));
    bool narrow = a->dt == FM_BF16;
    /* bf16: all of w widened, and per thread a tile of x and one of z. */
    int64_t w_size = a->E * p->n * p->k, x_tile = FM_TILE_ROWS * p->k,
            z_tile = FM_TILE_ROWS * FM_TILE_COLS;
    void *scratch = NULL;
    if (narrow)
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                              (size_t)(w_size + omp_get_max_threads() * (x_tile + z_tile)) *
                                  sizeof(float),
                              &scratch));
    float *wide = scratch;
    const float *w = fm_widen_all(a->dt, wide, a->w, w_size);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        const float *x = (const float *)p->x + t->row * p->k;
        float *z = p->z + t->row * p->n + t->col;
        int64_t ldz = p->n;
        if (narrow) {
            float *own = wide + w_size + omp_get_thread_num() * (x_tile + z_tile);
            fm_widen(own, fm_at(FM_BF16, p->x, t->row * p->k), t->rows * p->k);
            x = own;
            z = own + x_tile;
            ldz = t->cols;
        }
        if (!fm_sgemm(false, p->trans_w, t->rows, t->cols, p->k, x, p->k, w + fm_weights_at(p, t),
                      p->trans_w ? p->k : p->n, p->accumulate && !narrow, z, ldz)) {
#pragma omp atomic write
            failed = true;
        }
        if (p->finish) p->finish(p->user, t, z, ldz);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE, "%s: %s refused [%lld, %lld] x [%lld]", p->slot,
                       fm_sgemm_library(), (long long)a->T, (long long)p->k, (long long)p->n);
    return FM_OK;
}

#endif
