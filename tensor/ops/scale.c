/* y = alpha * x. */
#include "tensor/ops/check.h"

static fm_status scale_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    float alpha = *(const float *)node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, fm_grad_dtype(x), &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, scale, fm_grad_dtype(x), dx.data, dy->dtype, dy->data, alpha,
                         fm_numel(dy), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_scale(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float alpha) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "scale", "x", x));
    fm_tensor *scaled = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &scaled, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, x->dtype, scaled->data, x->dtype, x->data, alpha, fm_numel(x),
                          false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "scale",
                                                 .grads_only = true,
                                                 .backward = scale_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {scaled},
                                                 .n_outputs = 1,
                                                 .attrs = &alpha,
                                                 .attrs_size = sizeof alpha}));
out:
    return fm_op_end(status, y, scaled);
}
