/* y[0] = factor * Σ x. */
#include "tensor/ops/check.h"

static fm_status sum_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    float factor = *(const float *)node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, FM_F32, &dx));
    if (dx.data) {
        FM_TRY(fm_fill_from(ctx, dx.data, dy->data, factor, fm_numel(x), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_sum(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float factor) {
    *y = NULL;
    FM_TRY(fm_check_dtype(ctx, "sum", "x", x, FM_F32));
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &made, FM_F32, 1));
    FM_TRY_GOTO(FM_KERNEL(ctx, sum, made->data, x->data, factor, fm_numel(x), false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "sum",
                                                 .grads_only = true,
                                                 .backward = sum_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &factor,
                                                 .attrs_size = sizeof factor}));
out:
    return fm_op_end(status, y, made);
}
