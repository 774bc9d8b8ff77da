/* y = a * b, elementwise. */
#include "tensor/ops/check.h"

/* dx += dy * other */
static fm_status factor_backward(fm_ctx *ctx, fm_tensor *x, const fm_tensor *dy,
                                 const fm_tensor *other) {
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, dy->dtype, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, mul, dy->dtype, dx.data, dy->data, other->data, fm_numel(dy),
                         dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

static fm_status mul_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *a = node->inputs[0], *b = node->inputs[1], *dy = node->dout[0];
    if (!dy) return FM_OK;
    FM_TRY(factor_backward(ctx, a, dy, b));
    return factor_backward(ctx, b, dy, a);
}

fm_status fm_mul(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "mul", "a", a));
    FM_TRY(fm_check_same_dtype(ctx, "mul", "b", b, "a", a));
    FM_TRY(fm_check_same_shape(ctx, "mul", "b", b, "a", a));
    fm_tensor *product = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &product, a->dtype, a->ndim, a->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, mul, a->dtype, product->data, a->data, b->data, fm_numel(a), false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "mul",
                                                 .backward = mul_backward,
                                                 .inputs = {a, b},
                                                 .n_inputs = 2,
                                                 .outputs = {product},
                                                 .n_outputs = 1}));
out:
    return fm_op_end(status, y, product);
}
