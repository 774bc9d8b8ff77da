/* The state of one opened GPU, and how errors of CUDA and cuBLAS become ours. */
#ifndef FM_TENSOR_CUDA_STATE_H
#define FM_TENSOR_CUDA_STATE_H
#include "tensor/backend.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

typedef struct fm_gemm_plans fm_gemm_plans; /* gemm.c */

/* fm_device.impl. Everything runs on one stream, in order: scratch and workspace are used again
 * by the next operation without waiting. */
typedef struct fm_cuda {
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *workspace; /* of cuBLASLt */
    size_t workspace_bytes;
    void *scratch; /* of one operation; grows */
    size_t scratch_bytes;
    double *host; /* one number, pinned: what sum_squares brings back */
    fm_gemm_plans *plans;
} fm_cuda;

/* The state, with the calling thread's current GPU set to this device: every slot starts so,
 * because a context may move between threads. */
fm_status fm_cuda_enter(fm_device *dev, fm_cuda **cuda);

/* At least `bytes` bytes of device memory, free again at the next call. */
fm_status fm_cuda_scratch(fm_device *dev, size_t bytes, void **out);

/* Record "cuda:0: WHAT (FILE:LINE): NAME: CUDA's text"; FM_ERR_OOM for a lack of memory, else
 * FM_ERR_DEVICE. `err` and `name`, where no device is open yet, else dev->error and dev->name. */
fm_status fm_cuda_fail(fm_error *err, const char *name, cudaError_t e, const char *what,
                       const char *file, int line);
fm_status fm_cublas_fail(fm_error *err, const char *name, cublasStatus_t e, const char *what,
                         const char *file, int line);

#define CUDA_TRY(dev, call)                                                                        \
    do {                                                                                           \
        cudaError_t cuda_try_ = (call);                                                            \
        if (cuda_try_ != cudaSuccess) {                                                            \
            return fm_cuda_fail((dev)->error, (dev)->name, cuda_try_, #call, __FILE__, __LINE__);  \
        }                                                                                          \
    } while (0)

#define CUBLAS_TRY(dev, call)                                                                      \
    do {                                                                                           \
        cublasStatus_t cublas_try_ = (call);                                                       \
        if (cublas_try_ != CUBLAS_STATUS_SUCCESS) {                                                \
            return fm_cublas_fail((dev)->error, (dev)->name, cublas_try_, #call, __FILE__,         \
                                  __LINE__);                                                       \
        }                                                                                          \
    } while (0)

/* gemm.c: gemm with a dense layer's epilogue, c = gelu?(a b + bias). bias [n] and aux [m, n], which
 * receives the value before the gelu, are of dtype c_dt, or NULL. *done is false where cuBLASLt has
 * no kernel for it; nothing has been computed then. */
fm_status fm_cuda_gemm_epilogue(fm_device *dev, const fm_gemm_args *g, const void *bias, bool gelu,
                                void *aux, bool *done);
fm_status fm_gemm_plans_new(fm_error *err, fm_gemm_plans **out);
void fm_gemm_plans_free(fm_gemm_plans *p); /* NULL is legal */

/* The slots: one prototype each, of the slot's own type. */
/* clang-format off */
#define FM_CUDA_SLOT_MAP(X)                                                                        \
    X(mem_alloc) X(mem_free) X(copy_in) X(copy_out) X(copy) X(copy_2d) X(zero) X(sync)             \
    X(cast) X(fill) X(add) X(mul) X(scale) X(add_rows) X(sum_rows)                                 \
    X(act_forward) X(act_backward) X(dropout)                                                      \
    X(gemm) X(linear_forward) X(linear_backward_input) X(linear_backward_weight)                   \
    X(layer_norm_forward) X(layer_norm_backward) X(rms_norm_forward) X(rms_norm_backward)          \
    X(sum) X(adamw) X(sum_squares)
/* clang-format on */
#define FM_CUDA_DECLARE(slot) __typeof__(*((fm_ops *)0)->slot) fm_cuda_##slot;
FM_CUDA_SLOT_MAP(FM_CUDA_DECLARE)
#undef FM_CUDA_DECLARE

#endif
