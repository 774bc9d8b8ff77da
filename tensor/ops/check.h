/* What the operations share: argument checks and the end of a call.
 *
 * A message names the operation, the argument, what it is and what it must be:
 *   "linear: x is [3, 5] float32; its last dimension must be w's second, 7 (w is [4, 7] float32)"
 */
#ifndef FM_TENSOR_OPS_CHECK_H
#define FM_TENSOR_OPS_CHECK_H
#include "tensor/ops.h"

#include <inttypes.h>

/* A tensor's text inside the argument list of a message. */
#define FM_TEXT(t) fm_tensor_describe((t), (char[96]){0}, 96)

/* `t` is there and of this context. Each of the checks below asks for that first. */
fm_status fm_check_tensor(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t);
/* fp32 or bf16 */
fm_status fm_check_float(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t);
fm_status fm_check_dtype(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                         fm_dtype dtype);
fm_status fm_check_same_dtype(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                              const char *other_name, const fm_tensor *other);
fm_status fm_check_same_shape(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                              const char *other_name, const fm_tensor *other);
/* min <= ndim <= max */
fm_status fm_check_ndim(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t, int min,
                        int max);
/* [n], of the same dtype as `other` */
fm_status fm_check_vector(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                          int64_t n, const char *other_name, const fm_tensor *other);
/* Every element of an int32 tensor in [low, n), or FM_ERR_RANGE names the first that is not.
 * Nothing is read where the device's memory is not the host's. */
fm_status fm_check_index(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                         int64_t low, int64_t n);

/* The end of an operation: *y = made, or, after an error, `made` is dropped. Returns status. */
fm_status fm_op_end(fm_status status, fm_tensor **y, fm_tensor *made);

/* The dtype in which x's gradient is kept: a kernel that can write either writes this one. */
fm_dtype fm_grad_dtype(const fm_tensor *x);

/* A second handle of t's data for a node to save. An output must be saved this way: the node would
 * otherwise hold the tensor that holds the node. */
#define fm_save_output fm_tensor_detach

/* dx (+)= dy[0] * factor, n elements of fp32; dy is one number in device memory. */
fm_status fm_fill_from(fm_ctx *ctx, float *dx, const float *dy, float factor, int64_t n,
                       bool accumulate);

#endif
