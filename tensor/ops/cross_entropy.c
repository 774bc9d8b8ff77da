/* Softmax cross-entropy: loss = factor Σ_t (logsumexp(logits[t]) - logits[t, target[t]]). */
#include "tensor/ops/loss.h"

#include <math.h>
#include <stdlib.h>

/* On a GPU this copies them and waits, which callers that give a denominator are spared. */
static fm_status count_valid(fm_ctx *ctx, const char *op, const fm_tensor *target, int64_t V,
                             int64_t *count) {
    int64_t T = fm_numel(target);
    int32_t *copy = NULL;
    fm_status status = FM_OK;
    const int32_t *v = target->data;
    if (!ctx->dev->on_host) {
        copy = malloc(fm_nbytes(target) + 1);
        FM_CHECK_GOTO(copy, FM_ERR_OOM, "%s: out of memory for the %" PRId64 " targets", op, T);
        FM_TRY_GOTO(fm_tensor_to_host(ctx, target, copy, fm_nbytes(target)));
        v = copy;
    }
    *count = 0;
    for (int64_t t = 0; t < T; t++) {
        FM_CHECK_GOTO(v[t] >= -1 && v[t] < V, FM_ERR_RANGE,
                      "%s: target[%" PRId64 "] is %d; it must be in [-1, %" PRId64 ")", op, t, v[t],
                      V);
        *count += v[t] >= 0;
    }
out:
    free(copy);
    return status;
}

fm_status fm_count_targets(fm_ctx *ctx, const fm_tensor *target, int64_t V, int64_t *count) {
    FM_TRY(fm_check_dtype(ctx, "count_targets", "target", target, FM_I32));
    return count_valid(ctx, "count_targets", target, V, count);
}

fm_status fm_check_target(fm_ctx *ctx, const char *op, const fm_tensor *target, const char *rows,
                          const fm_tensor *of, int64_t V, double denominator, float *factor) {
    FM_TRY(fm_check_dtype(ctx, op, "target", target, FM_I32));
    FM_CHECK(fm_numel(target) == fm_rows_of(of), FM_ERR_SHAPE,
             "%s: target is %s; it must have one element for each of %s's %" PRId64 " rows "
             "(%s is %s)",
             op, FM_TEXT(target), rows, fm_rows_of(of), rows, FM_TEXT(of));
    FM_CHECK(denominator >= 0 && isfinite(denominator), FM_ERR_VALUE,
             "%s: denominator is %g; it must be finite and above 0, or 0 for the number of "
             "valid targets",
             op, denominator);
    if (denominator > 0) {
        *factor = (float)(1.0 / denominator);
        return fm_check_index(ctx, op, "target", target, -1, V);
    }
    int64_t count = 0;
    FM_TRY(count_valid(ctx, op, target, V, &count));
    *factor = (float)(1.0 / (double)(count > 0 ? count : 1));
    return FM_OK;
}

fm_status fm_sum_losses(fm_ctx *ctx, fm_tensor **loss, const fm_tensor *losses, float factor) {
    FM_TRY(FM_NEW(ctx, loss, FM_F32, 1));
    fm_status status = FM_KERNEL(ctx, sum, (*loss)->data, losses->data, factor, fm_numel(losses),
                                 false);
    return fm_op_end(status, loss, *loss);
}

/* dlogits = (softmax - onehot) * dloss * factor. Saved: target, lse */
static fm_status cross_entropy_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *logits = node->inputs[0], *target = node->saved[0], *lse = node->saved[1];
    fm_tensor *dloss = node->dout[0], *dlogits = NULL;
    if (!dloss) return FM_OK;
    float factor = *(const float *)node->attrs;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &dlogits, logits->dtype, logits->ndim, logits->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_backward, logits->dtype, dlogits->data, logits->data,
                          lse->data, target->data, dloss->data, factor, fm_rows_of(logits),
                          fm_cols_of(logits)));
    FM_TRY_GOTO(fm_grad_pass(ctx, logits, dlogits));
out:
    fm_tensor_free(dlogits);
    return status;
}

fm_status fm_cross_entropy(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses, fm_tensor *logits,
                           fm_tensor *target, double denominator) {
    *loss = NULL;
    if (losses) *losses = NULL;
    float factor;
    FM_TRY(fm_check_float(ctx, "cross_entropy", "logits", logits));
    FM_TRY(fm_check_ndim(ctx, "cross_entropy", "logits", logits, 1, FM_MAX_DIMS));
    int64_t T = fm_rows_of(logits), V = fm_cols_of(logits);
    FM_TRY(
        fm_check_target(ctx, "cross_entropy", target, "logits", logits, V, denominator, &factor));
    fm_tensor *made = NULL, *terms = NULL, *lse = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &terms, FM_F32, target->ndim, target->shape));
    FM_TRY_GOTO(FM_NEW(ctx, &lse, FM_F32, T));
    FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_forward, logits->dtype, terms->data, lse->data,
                          logits->data, target->data, T, V));
    FM_TRY_GOTO(fm_sum_losses(ctx, &made, terms, factor));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "cross_entropy",
                                                 .backward = cross_entropy_backward,
                                                 .inputs = {logits},
                                                 .n_inputs = 1,
                                                 .saved = {target, lse},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &factor,
                                                 .attrs_size = sizeof factor}));
    if (losses) *losses = fm_tensor_retain(terms);
out:
    fm_tensor_free(terms);
    fm_tensor_free(lse);
    return fm_op_end(status, loss, made);
}
