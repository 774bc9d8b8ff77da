/* gemm: batched C (+)= op(A) op(B), for scripts and small parts of models; layers use linear_*.
 *
 * Cost: 2·batch·m·n·k FLOPs. bf16 operands are widened whole.
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

fm_status FM_ISA_NAME(cpu_gemm)(fm_device *dev, const fm_gemm_args *a) {
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
    int64_t tiles_m = fm_ceil_div(a->m, FM_TILE_ROWS), tiles_n = fm_ceil_div(a->n, FM_TILE_COLS);
    bool failed = false;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < a->batch * tiles_m * tiles_n; i++) {
        int64_t batch = i / (tiles_m * tiles_n), tile = i % (tiles_m * tiles_n);
        int64_t r = tile / tiles_n * FM_TILE_ROWS, c = tile % tiles_n * FM_TILE_COLS;
        int64_t rows = fm_min_i64(FM_TILE_ROWS, a->m - r);
        int64_t cols = fm_min_i64(FM_TILE_COLS, a->n - c);
        const float *p = left + batch * a->batch_a + (a->trans_a ? r : r * a->lda);
        const float *q = right + batch * a->batch_b + (a->trans_b ? c * a->ldb : c);
        int64_t at = batch * a->batch_c + r * a->ldc + c;
        float *z = narrow_c ? wide + a_size + b_size + omp_get_thread_num() * c_tile
                            : (float *)a->c + at;
        int64_t ldz = narrow_c ? cols : a->ldc;
        if (!fm_sgemm(a->trans_a, a->trans_b, rows, cols, a->k, p, a->lda, q, a->ldb,
                      a->accumulate && !narrow_c, z, ldz)) {
#pragma omp atomic write
            failed = true;
        }
        for (int64_t j = 0; narrow_c && j < rows; j++)
            store_row(FM_BF16, fm_at_mut(FM_BF16, a->c, at + j * a->ldc), z + j * ldz, cols,
                      a->accumulate);
    }
    if (failed)
        return fm_fail(dev->error, FM_ERR_DEVICE, "gemm: %s refused m %lld, n %lld, k %lld",
                       fm_sgemm_library(), (long long)a->m, (long long)a->n, (long long)a->k);
    return FM_OK;
}
