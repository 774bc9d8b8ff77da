/* gemm: batched C (+)= op(A) op(B), for scripts and small parts of models; layers use linear_*.
 *
 * Cost: 2·batch·m·n·k FLOPs. bf16 is multiplied as such where the processor can, else widened whole.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/product.h"

FM_INLINE void store_row(fm_dtype dt, void *c, const float *z, int64_t n, bool add) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) fm_put_or_add(dt, c, i, z[i], add);
}

/* Elements from the first to behind the last of a batch of stored matrices. */
FM_INLINE int64_t extent(int64_t batch, int64_t stride, int64_t rows, int64_t cols, int64_t ld) {
    return batch == 0 || rows == 0 || cols == 0 ? 0 : (batch - 1) * stride + (rows - 1) * ld + cols;
}

/* Tile `i` of C, and where its operands begin, in elements. */
typedef struct gemm_tile {
    int64_t rows, cols, a, b, c;
} gemm_tile;

static int64_t tile_count(const fm_gemm_args *a, int64_t tile_cols) {
    return a->batch * fm_ceil_div(a->m, FM_TILE_ROWS) * fm_ceil_div(a->n, tile_cols);
}

static gemm_tile tile_of(const fm_gemm_args *a, int64_t tile_cols, int64_t i) {
    int64_t tiles_n = fm_ceil_div(a->n, tile_cols),
            tiles = tiles_n * fm_ceil_div(a->m, FM_TILE_ROWS);
    int64_t batch = i / tiles, r = i % tiles / tiles_n * FM_TILE_ROWS, c = i % tiles_n * tile_cols;
    return (gemm_tile){.rows = fm_min_i64(FM_TILE_ROWS, a->m - r),
                       .cols = fm_min_i64(tile_cols, a->n - c),
                       .a = batch * a->batch_a + (a->trans_a ? r : r * a->lda),
                       .b = batch * a->batch_b + (a->trans_b ? c * a->ldb : c),
                       .c = batch * a->batch_c + r * a->ldc + c};
}

static fm_matmul bf16_product(const fm_gemm_args *a, const gemm_tile *t) {
    bool narrow_c = a->c_dt == FM_BF16;
    return (fm_matmul){.dt = FM_BF16,
                       .trans_a = a->trans_a,
                       .trans_b = a->trans_b,
                       .add = a->accumulate && !narrow_c,
                       .m = t->rows,
                       .n = t->cols,
                       .k = a->k,
                       .lda = a->lda,
                       .ldb = a->ldb,
                       .ldc = narrow_c ? t->cols : a->ldc};
}

static fm_status gemm_bf16(fm_device *dev, const fm_gemm_args *a) {
    int64_t n = tile_count(a, FM_TILE_COLS_BF16), c_tile = FM_TILE_ROWS * FM_TILE_COLS_BF16;
    bool narrow_c = a->c_dt == FM_BF16;
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(omp_get_max_threads() * c_tile) * sizeof(float), &scratch));
    FM_TRY(fm_matmul_begin(dev));
    /* The first matrix has every shape. */
    for (int64_t i = 0; i < (a->batch > 0 ? n / a->batch : 0); i++) {
        gemm_tile t = tile_of(a, FM_TILE_COLS_BF16, i);
        fm_matmul product = bf16_product(a, &t);
        FM_TRY(fm_matmul_prepare(dev, &product));
    }
    int error = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        gemm_tile t = tile_of(a, FM_TILE_COLS_BF16, i);
        fm_matmul product = bf16_product(a, &t);
        float *z = narrow_c ? (float *)scratch + omp_get_thread_num() * c_tile
                            : (float *)a->c + t.c;
        int e = fm_matmul_run(dev, &product, fm_at(FM_BF16, a->a, t.a), fm_at(FM_BF16, a->b, t.b),
                              z);
        if (e != 0) {
#pragma omp atomic write
            error = e;
        }
        for (int64_t j = 0; narrow_c && j < t.rows; j++)
            store_row(FM_BF16, fm_at_mut(FM_BF16, a->c, t.c + j * a->ldc), z + j * t.cols, t.cols,
                      a->accumulate);
    }
    return error != 0 ? fm_matmul_failed(dev, "gemm", error) : FM_OK;
}

fm_status FM_ISA_NAME(cpu_gemm)(fm_device *dev, const fm_gemm_args *a) {
    if (fm_matmul_serves(a->dt) && a->k > 0) return gemm_bf16(dev, a);
    int64_t a_size = extent(a->batch, a->batch_a, a->trans_a ? a->k : a->m,
                            a->trans_a ? a->m : a->k, a->lda);
    int64_t b_size = extent(a->batch, a->batch_b, a->trans_b ? a->n : a->k,
                            a->trans_b ? a->k : a->n, a->ldb);
    bool narrow_c = a->c_dt == FM_BF16;
    int64_t c_tile = narrow_c ? (int64_t)FM_TILE_ROWS * FM_TILE_COLS : 0;
    void *scratch = NULL;
    if (a->dt == FM_BF16 || narrow_c)
        FM_TRY(fm_cpu_scratch(
            dev, FM_CPU_SCRATCH_PRODUCT,
            (size_t)(a_size + b_size + omp_get_max_threads() * c_tile) * sizeof(float), &scratch));
    float *wide = scratch;
    const float *left = fm_widen_all(a->dt, wide, a->a, a_size);
    const float *right = fm_widen_all(a->dt, wide ? wide + a_size : NULL, a->b, b_size);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < tile_count(a, FM_TILE_COLS); i++) {
        gemm_tile t = tile_of(a, FM_TILE_COLS, i);
        float *z = narrow_c ? wide + a_size + b_size + omp_get_thread_num() * c_tile
                            : (float *)a->c + t.c;
        int64_t ldz = narrow_c ? t.cols : a->ldc;
        if (!fm_sgemm(a->trans_a, a->trans_b, t.rows, t.cols, a->k, left + t.a, a->lda, right + t.b,
                      a->ldb, a->accumulate && !narrow_c, z, ldz)) {
#pragma omp atomic write
            failed = true;
        }
        for (int64_t j = 0; narrow_c && j < t.rows; j++)
            store_row(FM_BF16, fm_at_mut(FM_BF16, a->c, t.c + j * a->ldc), z + j * ldz, t.cols,
                      a->accumulate);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE, "gemm: %s refused m %lld, n %lld, k %lld",
                       fm_sgemm_library(), (long long)a->m, (long long)a->n, (long long)a->k);
    return FM_OK;
}
