/* linear_backward_input: dx (+)= dy w.  linear_backward_weight: dw (+)= dyᵀ x, db (+)= Σ dy.
 *
 * Cost: 2·T·in·out FLOPs each; bytes are each operand and result once.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/product.h"

static fm_status refused(fm_device *dev, const char *slot, const fm_linear_args *a) {
    return fm_fail(dev->error, FM_ERR_DEVICE, "%s: %s refused [%lld, %lld] x [%lld]", slot,
                   fm_sgemm_library(), (long long)a->T, (long long)a->in, (long long)a->out);
}

FM_INLINE void round_row(void *y, const float *x, int64_t n, bool add) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) fm_put_or_add(FM_BF16, y, i, x[i], add);
}

fm_status FM_ISA_NAME(cpu_linear_backward_input)(fm_device *dev, const fm_linear_args *a, void *dx,
                                                 const void *dy, bool accumulate) {
    fm_task *tasks;
    int64_t n;
    FM_TRY(fm_cut_rows(dev, a->T, a->E, a->offsets, a->in, &tasks, &n));
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
    return failed ? refused(dev, "linear_backward_input", a) : FM_OK;
}

/* db[c] (+)= Σ_r dy[r, c] in the order of r; few columns at a time, whose sums stay in L1. */
FM_INLINE void sum_columns(float *db, const float *dy, int64_t rows, int64_t ld, int64_t cols,
                           bool accumulate) {
    float sum[FM_TILE_WEIGHT_ROWS] = {0};
    for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) sum[c] += dy[r * ld + c];
    }
    for (int64_t c = 0; c < cols; c++) db[c] = accumulate ? db[c] + sum[c] : sum[c];
}

fm_status FM_ISA_NAME(cpu_linear_backward_weight)(fm_device *dev, const fm_linear_args *a,
                                                  float *dw, bool accumulate_w, float *db,
                                                  bool accumulate_b, const void *dy) {
    void *scratch = NULL;
    int64_t x_size = a->T * a->in, dy_size = a->T * a->out;
    if (a->dt == FM_BF16)
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                              (size_t)(x_size + dy_size) * sizeof(float), &scratch));
    float *wide = scratch;
    const float *x = fm_widen_all(a->dt, wide, a->x, x_size);
    const float *g = fm_widen_all(a->dt, wide ? wide + x_size : NULL, dy, dy_size);
    /* Tiles of dw: [rows of dw] × [columns of dw] of each expert; sums over its rows of x. */
    int64_t tiles_out = fm_ceil_div(a->out, FM_TILE_WEIGHT_ROWS);
    int64_t tiles_in = fm_ceil_div(a->in, FM_TILE_COLS);
    if (tiles_in == 0) tiles_in = 1; /* db is wanted all the same */
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < a->E * tiles_out * tiles_in; i++) {
        int64_t e = i / (tiles_out * tiles_in), tile = i % (tiles_out * tiles_in);
        int64_t o = tile / tiles_in * FM_TILE_WEIGHT_ROWS, c = tile % tiles_in * FM_TILE_COLS;
        int64_t m = fm_min_i64(FM_TILE_WEIGHT_ROWS, a->out - o);
        int64_t width = fm_min_i64(FM_TILE_COLS, a->in - c);
        int64_t start = a->offsets ? a->offsets[e] : 0,
                stop = a->offsets ? a->offsets[e + 1] : a->T;
        const float *ge = g + start * a->out + o, *xe = x + start * a->in + c;
        if (dw && !fm_sgemm(true, false, m, width, stop - start, ge, a->out, xe, a->in,
                            accumulate_w, dw + (e * a->out + o) * a->in + c, a->in)) {
#pragma omp atomic write
            failed = true;
        }
        if (db && c == 0)
            sum_columns(db + e * a->out + o, ge, stop - start, a->out, m, accumulate_b);
    }
    return failed ? refused(dev, "linear_backward_weight", a) : FM_OK;
}
