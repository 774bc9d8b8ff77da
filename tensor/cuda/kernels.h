/* The kernels' launchers: C linkage, called by the slots, defined in the .cu file of that name.
 *
 * Arguments are those of the slots in tensor/backend.h, checked there. Each launches on stream `s`
 * and returns at once; sizes of zero launch nothing (or clear what has to be cleared). Pointers need
 * the alignment of their element type only: 16-byte accesses are used where all pointers and rows
 * allow them, and the result does not depend on it.
 */
#ifndef FM_TENSOR_CUDA_KERNELS_H
#define FM_TENSOR_CUDA_KERNELS_H
#include "tensor/backend.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cudaErrorNoKernelImageForDevice where the current GPU can run no kernel of this plugin. */
cudaError_t fmk_probe(void);

/* copy_2d.cu */
cudaError_t fmk_copy_2d(cudaStream_t s, void *dst, size_t dst_stride, const void *src,
                        size_t src_stride, size_t width, int64_t rows);

/* elementwise.cu */
cudaError_t fmk_cast(cudaStream_t s, fm_dtype to, void *y, fm_dtype from, const void *x, int64_t n);
cudaError_t fmk_fill(cudaStream_t s, fm_dtype dt, void *y, float value, int64_t n);
cudaError_t fmk_add(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b, int64_t n);
cudaError_t fmk_mul(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b, int64_t n,
                    bool accumulate);
cudaError_t fmk_scale(cudaStream_t s, fm_dtype y_dt, void *y, fm_dtype x_dt, const void *x,
                      float alpha, int64_t n, bool accumulate);

/* rows.cu */
cudaError_t fmk_add_rows(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b,
                         int64_t rows, int64_t cols, int64_t period);
cudaError_t fmk_sum_rows(cudaStream_t s, fm_dtype dt, float *db, const void *dy, int64_t rows,
                         int64_t cols, int64_t period, bool accumulate, float *scratch);

/* Bytes of device memory that fmk_sum_rows and the norms' backward want as `scratch`, for `sums`
 * sums over the same rows: 1 for sum_rows and rms_norm, 2 for layer_norm. */
size_t fmk_column_scratch(int64_t rows, int64_t cols, int64_t period, int sums);

/* activation.cu */
cudaError_t fmk_act_forward(cudaStream_t s, fm_dtype dt, fm_act act, void *y, const void *x,
                            int64_t rows, int64_t cols);
cudaError_t fmk_act_backward(cudaStream_t s, fm_dtype dt, fm_act act, void *dx, const void *x,
                             const void *dy, int64_t rows, int64_t cols, bool accumulate);

/* dropout.cu */
cudaError_t fmk_dropout(cudaStream_t s, fm_dtype dt, void *y, const void *x, int64_t rows,
                        int64_t cols, float p, const fm_rng_key *key, bool accumulate);

/* layer_norm.cu, rms_norm.cu */
cudaError_t fmk_layer_norm_forward(cudaStream_t s, fm_dtype dt, void *y, float *mean, float *rstd,
                                   const void *x, const void *w, const void *b, int64_t T,
                                   int64_t d, float eps);
cudaError_t fmk_layer_norm_backward(cudaStream_t s, fm_dtype dt, void *dx, bool accumulate_x,
                                    float *dw, bool accumulate_w, float *db, bool accumulate_b,
                                    const void *dy, const void *x, const void *w, const float *mean,
                                    const float *rstd, int64_t T, int64_t d, float *scratch);
cudaError_t fmk_rms_norm_forward(cudaStream_t s, fm_dtype dt, void *y, float *rstd, const void *x,
                                 const void *w, int64_t T, int64_t d, float eps);
cudaError_t fmk_rms_norm_backward(cudaStream_t s, fm_dtype dt, void *dx, bool accumulate_x,
                                  float *dw, bool accumulate_w, const void *dy, const void *x,
                                  const void *w, const float *rstd, int64_t T, int64_t d,
                                  float *scratch);

/* adamw.cu */
cudaError_t fmk_adamw(cudaStream_t s, const fm_adamw_args *a);

/* reduce.cu: out[0] = Σ g² in double; scratch and out are device memory. */
enum { FMK_REDUCE_PARTS = 1024 }; /* doubles of scratch */
cudaError_t fmk_sum_squares(cudaStream_t s, double *out, const float *g, int64_t n,
                            double *scratch);
/* y[0] (+)= factor Σ x */
cudaError_t fmk_sum(cudaStream_t s, float *y, const float *x, float factor, int64_t n,
                    bool accumulate, double *scratch);

#ifdef __cplusplus
}
#endif
#endif
