/* Softmax of the last dimension. */
#include "tensor/ops/check.h"

/* dx = y (dy - Σ y dy) */
static fm_status softmax_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *y = node->saved[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, softmax_backward, x->dtype, dx.data, y->data, dy->data, fm_rows_of(x),
                         fm_cols_of(x), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_softmax(fm_ctx *ctx, fm_tensor **y, fm_tensor *x) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "softmax", "x", x));
    FM_TRY(fm_check_ndim(ctx, "softmax", "x", x, 1, FM_MAX_DIMS));
    fm_tensor *made = NULL, *saved = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, softmax_forward, x->dtype, made->data, x->data, fm_rows_of(x),
                          fm_cols_of(x)));
    FM_TRY_GOTO(fm_save_output(ctx, &saved, made));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "softmax",
                                                 .grads_only = true,
                                                 .backward = softmax_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .saved = {saved},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    fm_tensor_free(saved);
    return fm_op_end(status, y, made);
}
