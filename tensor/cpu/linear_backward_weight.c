/* linear_backward_weight: dw (+)= dyᵀ x, db (+)= Σ dy, per expert over its rows.
 *
 * Cost: 2·T·in·out FLOPs; bytes are dy, x, dw once each. A tile of dw is one task; db of its rows of
 * dw is summed by the task of the first column.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/product.h"

/* Rows of x that one bf16 product sums over: a multiple of FM_MATMUL_ROWS. */
enum { STEP = FM_TILE(512, 16) };

/* Task i: the tile of dw [row, row + m) × [col, col + n) of expert e, whose rows of x are
 * [start, stop). */
typedef struct weight_task {
    int64_t e, row, m, col, n, start, stop;
} weight_task;

static int64_t tiles_of(int64_t size, int64_t tile) {
    /* One even without columns: db is wanted all the same. */
    return size > 0 ? fm_ceil_div(size, tile) : 1;
}

static weight_task task_of(const fm_linear_args *a, int64_t tile_cols, int64_t i) {
    int64_t tiles_in = tiles_of(a->in, tile_cols);
    int64_t tiles = fm_ceil_div(a->out, FM_TILE_WEIGHT_ROWS) * tiles_in;
    weight_task t = {.e = i / tiles};
    t.row = i % tiles / tiles_in * FM_TILE_WEIGHT_ROWS;
    t.col = i % tiles_in * tile_cols;
    t.m = fm_min_i64(FM_TILE_WEIGHT_ROWS, a->out - t.row);
    t.n = fm_min_i64(tile_cols, a->in - t.col);
    t.start = a->offsets ? a->offsets[t.e] : 0;
    t.stop = a->offsets ? a->offsets[t.e + 1] : a->T;
    return t;
}

static int64_t task_count(const fm_linear_args *a, int64_t tile_cols) {
    return a->E * fm_ceil_div(a->out, FM_TILE_WEIGHT_ROWS) * tiles_of(a->in, tile_cols);
}

/* db[c] (+)= Σ_r dy[r, c], 64 rows at a time so that a sum of many rows stays exact enough; few
 * columns, whose sums stay in L1. */
FM_INLINE void sum_columns(fm_dtype dt, float *db, const void *dy, int64_t rows, int64_t ld,
                           int64_t cols, bool accumulate) {
    enum { RUN = 64 };
    float sum[FM_TILE_WEIGHT_ROWS] = {0};
    for (int64_t lo = 0; lo < rows; lo += RUN) {
        float part[FM_TILE_WEIGHT_ROWS] = {0};
        for (int64_t r = lo; r < fm_min_i64(lo + RUN, rows); r++) {
#pragma omp simd
            for (int64_t c = 0; c < cols; c++) part[c] += fm_get(dt, dy, r * ld + c);
        }
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) sum[c] += part[c];
    }
    for (int64_t c = 0; c < cols; c++) db[c] = accumulate ? db[c] + sum[c] : sum[c];
}

FM_INLINE void bias_of(fm_dtype dt, const fm_linear_args *a, const weight_task *t, float *db,
                       const void *dy, bool accumulate) {
    sum_columns(dt, db + t->e * a->out + t->row, fm_at(dt, dy, t->start * a->out + t->row),
                t->stop - t->start, a->out, t->m, accumulate);
}

/* The next rows of `rest` that one bf16 product takes: STEP, or all whole FM_MATMUL_ROWS, or the
 * few behind them, which are copied and padded with zeros. */
static int64_t piece(int64_t rest) {
    if (rest >= STEP) return STEP;
    return rest >= FM_MATMUL_ROWS ? rest / FM_MATMUL_ROWS * FM_MATMUL_ROWS : rest;
}

static fm_matmul piece_tile(const fm_linear_args *a, const weight_task *t, int64_t rows, bool add) {
    bool padded = rows < FM_MATMUL_ROWS;
    return (fm_matmul){.dt = FM_BF16,
                       .trans_a = true,
                       .add = add,
                       .m = t->m,
                       .n = t->n,
                       .k = padded ? FM_MATMUL_ROWS : rows,
                       .lda = padded ? FM_TILE_WEIGHT_ROWS : a->out,
                       .ldb = padded ? FM_TILE_COLS_BF16 : a->in,
                       .ldc = a->in};
}

/* Every tile's shapes; what differs between tasks of an expert are the last row and column. */
static fm_status prepare(fm_device *dev, const fm_linear_args *a, bool accumulate) {
    FM_TRY(fm_matmul_begin(dev));
    for (int64_t i = 0; i < task_count(a, FM_TILE_COLS_BF16); i++) {
        weight_task t = task_of(a, FM_TILE_COLS_BF16, i);
        bool inner = t.row > 0 && t.m == FM_TILE_WEIGHT_ROWS && t.col > 0 &&
                     t.n == FM_TILE_COLS_BF16;
        for (int64_t r = t.start, k; r < t.stop && !inner; r += k) {
            k = piece(t.stop - r);
            fm_matmul tile = piece_tile(a, &t, k, accumulate || r > t.start);
            FM_TRY(fm_matmul_prepare(dev, &tile));
        }
    }
    return FM_OK;
}

/* `rows` (fewer than FM_MATMUL_ROWS) rows of x of width n, and zeros behind them. */
FM_INLINE void pad_rows(fm_bf16 *y, int64_t ldy, const void *x, int64_t ldx, int64_t rows,
                        int64_t n) {
    for (int64_t r = 0; r < FM_MATMUL_ROWS; r++)
        for (int64_t c = 0; c < n; c++)
            y[r * ldy + c] = r < rows ? ((const fm_bf16 *)x)[r * ldx + c] : (fm_bf16){0};
}

static int weight_tile_bf16(fm_device *dev, const fm_linear_args *a, const weight_task *t,
                            float *dw, bool accumulate, const void *dy, fm_bf16 *pad) {
    float *out = dw + (t->e * a->out + t->row) * a->in + t->col;
    for (int64_t i = 0; t->start == t->stop && !accumulate && i < t->m; i++)
        for (int64_t c = 0; c < t->n; c++) out[i * a->in + c] = 0.0f;
    for (int64_t r = t->start, k; r < t->stop; r += k) {
        k = piece(t->stop - r);
        fm_matmul tile = piece_tile(a, t, k, accumulate || r > t->start);
        const void *g = fm_at(FM_BF16, dy, r * a->out + t->row);
        const void *x = fm_at(FM_BF16, a->x, r * a->in + t->col);
        if (k < FM_MATMUL_ROWS) {
            fm_bf16 *pad_x = pad + FM_MATMUL_ROWS * FM_TILE_WEIGHT_ROWS;
            pad_rows(pad, FM_TILE_WEIGHT_ROWS, g, a->out, k, t->m);
            pad_rows(pad_x, FM_TILE_COLS_BF16, x, a->in, k, t->n);
            g = pad;
            x = pad_x;
        }
        int e = fm_matmul_run(dev, &tile, g, x, out);
        if (e != 0) return e;
    }
    return 0;
}

static fm_status weight_bf16(fm_device *dev, const fm_linear_args *a, float *dw, bool accumulate_w,
                             float *db, bool accumulate_b, const void *dy) {
    enum { PAD = FM_MATMUL_ROWS * (FM_TILE_WEIGHT_ROWS + FM_TILE_COLS_BF16) };
    void *pads;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)omp_get_max_threads() * PAD * sizeof(fm_bf16), &pads));
    if (dw) FM_TRY(prepare(dev, a, accumulate_w));
    int error = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < task_count(a, FM_TILE_COLS_BF16); i++) {
        weight_task t = task_of(a, FM_TILE_COLS_BF16, i);
        int e = dw ? weight_tile_bf16(dev, a, &t, dw, accumulate_w, dy,
                                      (fm_bf16 *)pads + omp_get_thread_num() * PAD)
                   : 0;
        if (e != 0) {
#pragma omp atomic write
            error = e;
        }
        if (db && t.col == 0) bias_of(FM_BF16, a, &t, db, dy, accumulate_b);
    }
    return error != 0 ? fm_matmul_failed(dev, "linear_backward_weight", error) : FM_OK;
}

fm_status FM_ISA_NAME(cpu_linear_backward_weight)(fm_device *dev, const fm_linear_args *a,
                                                  float *dw, bool accumulate_w, float *db,
                                                  bool accumulate_b, const void *dy) {
    if (fm_matmul_serves(a->dt) && a->in > 0)
        return weight_bf16(dev, a, dw, accumulate_w, db, accumulate_b, dy);
    void *scratch = NULL;
    int64_t x_size = a->T * a->in, dy_size = a->T * a->out;
    if (a->dt == FM_BF16)
        FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                              (size_t)(x_size + dy_size) * sizeof(float), &scratch));
    float *wide = scratch;
    const float *x = fm_widen_all(a->dt, wide, a->x, x_size);
    const float *g = fm_widen_all(a->dt, wide ? wide + x_size : NULL, dy, dy_size);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < task_count(a, FM_TILE_COLS); i++) {
        weight_task t = task_of(a, FM_TILE_COLS, i);
        if (dw && !fm_sgemm(true, false, t.m, t.n, t.stop - t.start, g + t.start * a->out + t.row,
                            a->out, x + t.start * a->in + t.col, a->in, accumulate_w,
                            dw + (t.e * a->out + t.row) * a->in + t.col, a->in)) {
#pragma omp atomic write
            failed = true;
        }
        if (db && t.col == 0) bias_of(FM_F32, a, &t, db, g, accumulate_b);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE,
                       "linear_backward_weight: %s refused [%lld, %lld] x [%lld]",
                       fm_sgemm_library(), (long long)a->T, (long long)a->in, (long long)a->out);
    return FM_OK;
}
