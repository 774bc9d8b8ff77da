/* Rows of a table. */
#include "tensor/ops/check.h"

#include <string.h>

static fm_status embedding_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *table = node->inputs[0], *ids = node->saved[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    fm_grad dtable;
    FM_TRY(fm_grad_begin(ctx, table, FM_F32, &dtable));
    if (dtable.data) {
        FM_TRY(FM_KERNEL(ctx, embedding_backward, dy->dtype, dtable.data, dy->data, ids->data,
                         fm_numel(ids), table->shape[1], table->shape[0], dtable.accumulate));
    }
    return fm_grad_end(ctx, &dtable);
}

fm_status fm_embedding(fm_ctx *ctx, fm_tensor **y, fm_tensor *table, fm_tensor *ids) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "embedding", "table", table));
    FM_TRY(fm_check_ndim(ctx, "embedding", "table", table, 2, 2));
    FM_TRY(fm_check_index(ctx, "embedding", "ids", ids, 0, table->shape[0]));
    FM_TRY(fm_check_ndim(ctx, "embedding", "ids", ids, 0, FM_MAX_DIMS - 1));
    int64_t d = table->shape[1], shape[FM_MAX_DIMS] = {0};
    memcpy(shape, ids->shape, (size_t)ids->ndim * sizeof *shape);
    shape[ids->ndim] = d;
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, table->dtype, ids->ndim + 1, shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, embedding_forward, table->dtype, made->data, table->data, ids->data,
                          fm_numel(ids), d));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "embedding",
                                                 .grads_only = true,
                                                 .backward = embedding_backward,
                                                 .inputs = {table},
                                                 .n_inputs = 1,
                                                 .saved = {ids},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    return fm_op_end(status, y, made);
}
