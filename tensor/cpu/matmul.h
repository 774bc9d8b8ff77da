/* Products of tiles by kernels that oneDNN makes once per shape. Compiled once.
 *
 * Where the processor multiplies bf16 (AVX512-BF16, AMX) tiles of bf16 are multiplied as such, with
 * sums in fp32; elsewhere the kernels widen bf16 and call fm_sgemm. A kernel is made for one
 * thread and a tile computed by one, so bits do not depend on the number of threads.
 *
 * Making a kernel takes 0.2 to 0.5 ms and may fail: an operation prepares its tiles before its
 * parallel region. Row counts that change at every step (experts) are rounded up to multiples of
 * FM_MATMUL_ROWS, so that few kernels serve them all.
 */
#ifndef FM_TENSOR_CPU_MATMUL_H
#define FM_TENSOR_CPU_MATMUL_H
#include "tensor/backend.h"

enum { FM_MATMUL_ROWS = 16 };

/* C [m, n] (+)= op(A) op(B); A, B of dtype dt, C fp32, row-major; leading dimensions are those of
 * the arrays as stored. m, n, k >= 1. */
typedef struct fm_matmul {
    fm_dtype dt;
    bool trans_a, trans_b, add;
    int64_t m, n, k, lda, ldb, ldc;
} fm_matmul;

/* Whether products of this dtype go here: a property of the processor. */
bool fm_matmul_serves(fm_dtype dt);

/* Starts one operation, whose regions have at most omp_get_max_threads() threads. It may drop
 * earlier operations' kernels: prepare every tile that will be run. FM_ERR_OOM, FM_ERR_DEVICE. */
fm_status fm_matmul_begin(fm_device *dev);
fm_status fm_matmul_prepare(fm_device *dev, const fm_matmul *tile);

/* Computes a prepared tile on the calling thread of a parallel region. 0, or oneDNN's number of
 * the error (nothing is reported: threads call it), for fm_matmul_failed. */
int fm_matmul_run(fm_device *dev, const fm_matmul *tile, const void *a, const void *b, float *out);
fm_status fm_matmul_failed(fm_device *dev, const char *slot, int error);

#endif
