/* How products are cut into tasks, and bf16 operands widened. For the sources of the product slots. */
#ifndef FM_TENSOR_CPU_PRODUCT_H
#define FM_TENSOR_CPU_PRODUCT_H
#include "tensor/cpu/device.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sgemm.h"
#include "tensor/cpu/value.h"

#include <omp.h>

/* Tiles of C. A task packs its operands anew, which costs 1/rows of its arithmetic for B and
 * 1/columns for A: below these sizes that shows (a 64-row task reached 88 % of a 2048-row one), and
 * above them there would be too few tasks to share among threads. */
enum {
    FM_TILE_ROWS = FM_TILE(256, 3),
    FM_TILE_COLS = FM_TILE(1024, 5),
    FM_TILE_WEIGHT_ROWS = FM_TILE(128, 3), /* of dw, whose sums run over all rows of x */
    FM_TILE_COLS_BF16 = FM_TILE(512, 5), /* where bf16 is multiplied as such: its fp32 tile in L2 */
    FM_FEW_ROWS = 32,                    /* a task of fewer (generation) takes ... */
    FM_FEW_ROWS_COLS = FM_TILE(256, 5),  /* ... narrower tiles, to occupy all threads */
};

/* A tile [row, row + rows) × [col, col + cols) of group (expert, batch) `group`. */
typedef struct fm_task {
    int64_t group, row, rows, col, cols;
} fm_task;

FM_INLINE int64_t fm_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Cuts E groups of rows [lo(e), hi(e)) and `cols` columns into tasks of at most `tile_cols`
 * columns, in the kernel's scratch. offsets NULL: one group of T rows. */
FM_INLINE fm_status fm_cut_rows(fm_device *dev, int64_t T, int64_t E, const int32_t *offsets,
                                int64_t cols, int64_t tile_cols, fm_task **tasks, int64_t *n) {
    int64_t most = 0;
    for (int64_t e = 0; e < E; e++) {
        int64_t rows = offsets ? offsets[e + 1] - offsets[e] : T;
        most += fm_ceil_div(rows, FM_TILE_ROWS) * fm_ceil_div(cols, FM_FEW_ROWS_COLS);
    }
    void *memory;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, (size_t)most * sizeof **tasks, &memory));
    *tasks = memory;
    *n = 0;
    for (int64_t e = 0; e < E; e++) {
        int64_t start = offsets ? offsets[e] : 0, stop = offsets ? offsets[e + 1] : T;
        int64_t width = stop - start <= FM_FEW_ROWS ? FM_FEW_ROWS_COLS : tile_cols;
        for (int64_t r = start; r < stop; r += FM_TILE_ROWS)
            for (int64_t c = 0; c < cols; c += width)
                (*tasks)[(*n)++] = (fm_task){e, r, fm_min_i64(FM_TILE_ROWS, stop - r), c,
                                             fm_min_i64(width, cols - c)};
    }
    return FM_OK;
}

/* A task's rows rounded up to FM_MATMUL_ROWS, for which there are kernels: [row, row + rows) of
 * the T rows that exist, and the task's own begin `skip` later. What the others give is dropped. */
typedef struct fm_rounded {
    int64_t row, rows, skip;
} fm_rounded;

FM_INLINE fm_rounded fm_round_rows(const fm_task *t, int64_t T) {
    int64_t rows = fm_ceil_div(t->rows, FM_MATMUL_ROWS) * FM_MATMUL_ROWS;
    if (t->row + rows <= T) return (fm_rounded){t->row, rows, 0};
    if (rows <= T) return (fm_rounded){T - rows, rows, t->row - (T - rows)};
    return (fm_rounded){t->row, t->rows, 0};
}
enum {
    FM_ROUNDED_TILE_ROWS = (FM_TILE_ROWS + FM_MATMUL_ROWS - 1) / FM_MATMUL_ROWS * FM_MATMUL_ROWS
};

FM_INLINE void fm_widen(float *y, const void *x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = fm_get(FM_BF16, x, i);
}

/* fp32: p itself. bf16: n elements widened into `buffer`, by all threads. */
FM_INLINE const float *fm_widen_all(fm_dtype dt, float *buffer, const void *p, int64_t n) {
    if (dt == FM_F32 || !buffer) return p; /* callers have a buffer where one is needed */
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < fm_chunk_count(n); c++) {
        int64_t lo = c * FM_CHUNK, hi = fm_chunk_end(c, n);
        fm_widen(buffer + lo, fm_at(FM_BF16, p, lo), hi - lo);
    }
    return buffer;
}

#endif
