/* y = x in another dtype: float to float (differentiable) or int to int. */
#include "tensor/ops/check.h"

static fm_status cast_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, fm_grad_dtype(x), &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, scale, fm_grad_dtype(x), dx.data, dy->dtype, dy->data, 1.0f,
                         fm_numel(dy), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_cast(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_dtype dtype) {
    *y = NULL;
    FM_TRY(fm_check_tensor(ctx, "cast", "x", x));
    FM_CHECK((unsigned)dtype <= FM_I64, FM_ERR_DTYPE, "cast: dtype is number %d; there are 0 to %d",
             (int)dtype, (int)FM_I64);
    FM_CHECK(fm_dtype_is_float(x->dtype) == fm_dtype_is_float(dtype), FM_ERR_DTYPE,
             "cast: x is %s; it cannot become %s (float to float, int to int)", FM_TEXT(x),
             fm_dtype_name(dtype));
    if (x->dtype == dtype) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, cast, dtype, made->data, x->dtype, x->data, fm_numel(x)));
    if (!fm_dtype_is_float(dtype)) goto out;
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "cast",
                                                 .grads_only = true,
                                                 .backward = cast_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    return fm_op_end(status, y, made);
}
