/* y = a + b, and y[..., r, :] = a[..., r, :] + b[r, :]. */
#include "tensor/ops/check.h"

static fm_status add_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *dy = node->dout[0];
    if (!dy) return FM_OK;
    FM_TRY(fm_grad_pass(ctx, node->inputs[0], dy));
    return fm_grad_pass(ctx, node->inputs[1], dy);
}

fm_status fm_add(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "add", "a", a));
    FM_TRY(fm_check_same_dtype(ctx, "add", "b", b, "a", a));
    FM_TRY(fm_check_same_shape(ctx, "add", "b", b, "a", a));
    fm_tensor *sum = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &sum, a->dtype, a->ndim, a->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, add, a->dtype, sum->data, a->data, b->data, fm_numel(a)));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "add",
                                                 .grads_only = true,
                                                 .backward = add_backward,
                                                 .inputs = {a, b},
                                                 .n_inputs = 2,
                                                 .outputs = {sum},
                                                 .n_outputs = 1}));
out:
    return fm_op_end(status, y, sum);
}

/* da = dy;  db[r, :] = Σ_... dy[..., r, :] */
static fm_status add_rows_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *a = node->inputs[0], *b = node->inputs[1], *dy = node->dout[0];
    if (!dy) return FM_OK;
    int64_t period = *(const int64_t *)node->attrs;
    fm_grad db;
    FM_TRY(fm_grad_begin(ctx, b, FM_F32, &db));
    if (db.data) {
        FM_TRY(FM_KERNEL(ctx, sum_rows, dy->dtype, db.data, dy->data, fm_rows_of(dy),
                         fm_cols_of(dy), period, db.accumulate));
    }
    FM_TRY(fm_grad_end(ctx, &db));
    return fm_grad_pass(ctx, a, dy);
}

fm_status fm_add_rows(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "add_rows", "a", a));
    FM_TRY(fm_check_same_dtype(ctx, "add_rows", "b", b, "a", a));
    FM_TRY(fm_check_ndim(ctx, "add_rows", "b", b, 1, 2));
    FM_TRY(fm_check_ndim(ctx, "add_rows", "a", a, b->ndim, FM_MAX_DIMS));
    for (int i = 0; i < b->ndim; i++) {
        FM_CHECK(a->shape[a->ndim - b->ndim + i] == b->shape[i], FM_ERR_SHAPE,
                 "add_rows: b is %s; its shape must be the end of a's (a is %s)", FM_TEXT(b),
                 FM_TEXT(a));
    }
    int64_t period = b->ndim == 2 && b->shape[0] > 0 ? b->shape[0] : 1;
    fm_tensor *sum = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &sum, a->dtype, a->ndim, a->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, add_rows, a->dtype, sum->data, a->data, b->data, fm_rows_of(a),
                          fm_cols_of(a), period));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "add_rows",
                                                 .grads_only = true,
                                                 .backward = add_rows_backward,
                                                 .inputs = {a, b},
                                                 .n_inputs = 2,
                                                 .outputs = {sum},
                                                 .n_outputs = 1,
                                                 .attrs = &period,
                                                 .attrs_size = sizeof period}));
out:
    return fm_op_end(status, y, sum);
}
