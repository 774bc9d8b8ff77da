/* The k largest of each row, and elements of rows by index. */
#include "tensor/ops/check.h"

#include <string.h>

/* The adjoint of both: dx[t, idx[t, j]] += dy[t, j]. Saved: idx */
static fm_status pick_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *idx = node->saved[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, FM_F32, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, scatter_cols, dx.data, dy->data, idx->data, fm_rows_of(x),
                         fm_cols_of(x), fm_cols_of(dy), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

static fm_status record_pick(fm_ctx *ctx, const char *op, fm_tensor *x, fm_tensor *idx,
                             fm_tensor *y) {
    return fm_tape_record(ctx, &(fm_record){.name = op,
                                            .grads_only = true,
                                            .backward = pick_backward,
                                            .inputs = {x},
                                            .n_inputs = 1,
                                            .saved = {idx},
                                            .n_saved = 1,
                                            .outputs = {y},
                                            .n_outputs = 1});
}

fm_status fm_top_k(fm_ctx *ctx, fm_tensor **values, fm_tensor **indices, fm_tensor *x, int64_t k) {
    *values = *indices = NULL;
    FM_TRY(fm_check_dtype(ctx, "top_k", "x", x, FM_F32));
    FM_TRY(fm_check_ndim(ctx, "top_k", "x", x, 1, FM_MAX_DIMS));
    FM_CHECK(k >= 1 && k <= fm_cols_of(x), FM_ERR_VALUE,
             "top_k: k is %" PRId64 "; it must be in [1, %" PRId64 "] (x is %s)", k, fm_cols_of(x),
             FM_TEXT(x));
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = k;
    fm_tensor *top = NULL, *idx = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &top, FM_F32, x->ndim, shape));
    FM_TRY_GOTO(fm_tensor_new(ctx, &idx, FM_I32, x->ndim, shape));
    FM_TRY_GOTO(
        FM_KERNEL(ctx, top_k, top->data, idx->data, x->data, fm_rows_of(x), fm_cols_of(x), k));
    FM_TRY_GOTO(record_pick(ctx, "top_k", x, idx, top));
    *indices = fm_tensor_retain(idx);
out:
    fm_tensor_free(idx);
    return fm_op_end(status, values, top);
}

fm_status fm_gather_cols(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *idx) {
    *y = NULL;
    FM_TRY(fm_check_dtype(ctx, "gather_cols", "x", x, FM_F32));
    FM_TRY(fm_check_ndim(ctx, "gather_cols", "x", x, 1, FM_MAX_DIMS));
    FM_TRY(fm_check_index(ctx, "gather_cols", "idx", idx, -1, fm_cols_of(x)));
    FM_TRY(fm_check_ndim(ctx, "gather_cols", "idx", idx, x->ndim, x->ndim));
    FM_CHECK(memcmp(x->shape, idx->shape, (size_t)(x->ndim - 1) * sizeof *x->shape) == 0,
             FM_ERR_SHAPE,
             "gather_cols: idx is %s; but for the last dimension its shape must "
             "be x's (%s)",
             FM_TEXT(idx), FM_TEXT(x));
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, FM_F32, idx->ndim, idx->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, gather_cols, made->data, x->data, idx->data, fm_rows_of(x),
                          fm_cols_of(x), fm_cols_of(idx)));
    FM_TRY_GOTO(record_pick(ctx, "gather_cols", x, idx, made));
out:
    return fm_op_end(status, y, made);
}
