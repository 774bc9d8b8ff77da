/* linear_backward_input: dx (+)= dy w.
 *
 * Cost: 2·T·in·out FLOPs; bytes are dy, w, dx once each.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/product.h"

FM_INLINE void round_row(void *y, const float *x, int64_t n, bool add) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) fm_put_or_add(FM_BF16, y, i, x[i], add);
}

FM_INLINE fm_matmul input_tile(const fm_linear_args *a, const fm_task *t, fm_rounded r) {
    return (fm_matmul){.dt = FM_BF16,
                       .m = r.rows,
                       .n = t->cols,
                       .k = a->out,
                       .lda = a->out,
                       .ldb = a->in,
                       .ldc = t->cols};
}

static fm_status input_bf16(fm_device *dev, const fm_linear_args *a, void *dx, const void *dy,
                            bool accumulate) {
    fm_task *tasks;
    int64_t n, dx_tile = FM_ROUNDED_TILE_ROWS * FM_TILE_COLS_BF16;
    void *scratch;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, a->in, FM_TILE_COLS_BF16, &tasks, &n));
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(omp_get_max_threads() * dx_tile) * sizeof(float), &scratch));
    FM_TRY(fm_matmul_begin(dev));
    for (int64_t i = 0; i < n; i++) {
        fm_matmul tile = input_tile(a, &tasks[i], fm_round_rows(&tasks[i], a->T));
        FM_TRY(fm_matmul_prepare(dev, &tile));
    }
    int error = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        fm_rounded r = fm_round_rows(t, a->T);
        fm_matmul tile = input_tile(a, t, r);
        float *z = (float *)scratch + omp_get_thread_num() * dx_tile;
        int e = fm_matmul_run(dev, &tile, fm_at(FM_BF16, dy, r.row * a->out),
                              fm_at(FM_BF16, a->w, t->group * a->out * a->in + t->col), z);
        if (e != 0) {
#pragma omp atomic write
            error = e;
        }
        for (int64_t i_row = 0; i_row < t->rows; i_row++)
            round_row(fm_at_mut(FM_BF16, dx, (t->row + i_row) * a->in + t->col),
                      z + (r.skip + i_row) * t->cols, t->cols, accumulate);
    }
    return error != 0 ? fm_matmul_failed(dev, "linear_backward_input", error) : FM_OK;
}

fm_status FM_ISA_NAME(cpu_linear_backward_input)(fm_device *dev, const fm_linear_args *a, void *dx,
                                                 const void *dy, bool accumulate) {
    if (fm_matmul_serves(a->dt) && a->out > 0) return input_bf16(dev, a, dx, dy, accumulate);
    fm_task *tasks;
    int64_t n;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, a->in, FM_TILE_COLS, &tasks, &n));
    bool narrow = a->dt == FM_BF16;
    int64_t w_size = a->E * a->out * a->in, dy_tile = FM_TILE_ROWS * a->out,
            dx_tile = FM_TILE_ROWS * FM_TILE_COLS;
    void *scratch = NULL;
    if (narrow)
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                              (size_t)(w_size + omp_get_max_threads() * (dy_tile + dx_tile)) *
                                  sizeof(float),
                              &scratch));
    float *wide = scratch;
    const float *w = fm_widen_all(a->dt, wide, a->w, w_size);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const fm_task *t = &tasks[i];
        const float *g = (const float *)dy + t->row * a->out;
        float *z = (float *)dx + t->row * a->in + t->col;
        int64_t ldz = a->in;
        if (narrow) {
            float *own = wide + w_size + omp_get_thread_num() * (dy_tile + dx_tile);
            fm_widen(own, fm_at(FM_BF16, dy, t->row * a->out), t->rows * a->out);
            g = own;
            z = own + dy_tile;
            ldz = t->cols;
        }
        const float *we = w + t->group * a->out * a->in + t->col;
        if (!fm_sgemm(false, false, t->rows, t->cols, a->out, g, a->out, we, a->in,
                      accumulate && !narrow, z, ldz)) {
#pragma omp atomic write
            failed = true;
        }
        for (int64_t r = 0; narrow && r < t->rows; r++)
            round_row(fm_at_mut(FM_BF16, dx, (t->row + r) * a->in + t->col), z + r * ldz, t->cols,
                      accumulate);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE,
                       "linear_backward_input: %s refused [%lld, %lld] x [%lld]",
                       fm_sgemm_library(), (long long)a->T, (long long)a->out, (long long)a->in);
    return FM_OK;
}
