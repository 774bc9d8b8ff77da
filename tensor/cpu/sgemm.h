/* The one seam to the libraries that multiply matrices. Compiled once.
 *
 * Which library serves is a rule, never a timing: on CPUs with AVX-512 oneDNN, else OpenBLAS if it
 * has chosen kernels for this CPU (docs/adr/0001-gemm-seam.md has the measurements). Both run on the calling thread alone inside
 * a parallel region, which is how the kernels call them: a product is cut into tasks by its shape,
 * so that its bits do not depend on the number of threads.
 */
#ifndef FM_TENSOR_CPU_SGEMM_H
#define FM_TENSOR_CPU_SGEMM_H
#include "tensor/status.h"

#include <stdbool.h>
#include <stdint.h>

/* C [m, n] (+)= op(A) op(B), fp32, row-major; op(A) is [m, k], op(B) [k, n]; leading dimensions are
 * those of the arrays as stored. Sizes may be 0. False: the library refused (never for valid sizes
 * below 2^31); nothing is reported, since threads of a parallel region may call it. */
bool fm_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
              int64_t lda, const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc);

/* "oneDNN 2.6.3", "OpenBLAS 0.3.21 (Haswell)" */
const char *fm_sgemm_library(void);

#endif
