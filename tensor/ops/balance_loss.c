/* The two losses of a router. Rows are few and short, so both are put together from slots. */
#include "tensor/ops/check.h"

static fm_status check_rows(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t) {
    FM_TRY(fm_check_dtype(ctx, op, name, t, FM_F32));
    return fm_check_ndim(ctx, op, name, t, 1, FM_MAX_DIMS);
}

/* A mean over no rows is 0. */
static float mean_factor(float factor, int64_t T) { return factor / (float)(T > 0 ? T : 1); }

/* y[i] = x[i] * s[0], fp32: a product whose second operand is 1 x 1 */
static fm_status times_scalar(fm_ctx *ctx, fm_tensor *y, const fm_tensor *x, const fm_tensor *s) {
    int64_t n = fm_numel(x);
    return FM_KERNEL(ctx, gemm,
                     &(fm_gemm_args){.dt = FM_F32,
                                     .c_dt = FM_F32,
                                     .m = 1,
                                     .n = n,
                                     .k = 1,
                                     .batch = 1,
                                     .a = s->data,
                                     .b = x->data,
                                     .c = y->data,
                                     .lda = 1,
                                     .ldb = n,
                                     .ldc = n});
}

/* ---- balance: loss = factor/T Σ_e f[e] Σ_t probs[t, e] */

/* dprobs[t, e] = dloss factor/T f[e]. Saved: f */
static fm_status balance_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *probs = node->inputs[0], *f = node->saved[0], *dloss = node->dout[0];
    fm_tensor *row = NULL, *scaled = NULL;
    if (!dloss) return FM_OK;
    float factor = *(const float *)node->attrs;
    int64_t T = fm_rows_of(probs), E = fm_cols_of(probs);
    fm_grad dprobs;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &row, FM_F32, E));
    FM_TRY_GOTO(FM_NEW(ctx, &scaled, FM_F32, E));
    FM_TRY_GOTO(times_scalar(ctx, row, f, dloss));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, FM_F32, scaled->data, FM_F32, row->data,
                          mean_factor(factor, T), E, false));
    FM_TRY_GOTO(fm_grad_begin(ctx, probs, FM_F32, &dprobs));
    if (dprobs.data) {
        if (!dprobs.accumulate) {
            FM_TRY_GOTO(FM_KERNEL(ctx, zero, dprobs.data, fm_nbytes(probs)));
        }
        FM_TRY_GOTO(
            FM_KERNEL(ctx, add_rows, FM_F32, dprobs.data, dprobs.data, scaled->data, T, E, 1));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dprobs));
out:
    fm_tensor_free(row);
    fm_tensor_free(scaled);
    return status;
}

fm_status fm_balance_loss(fm_ctx *ctx, fm_tensor **loss, fm_tensor *probs, fm_tensor *f,
                          float factor) {
    *loss = NULL;
    FM_TRY(check_rows(ctx, "balance_loss", "probs", probs));
    int64_t T = fm_rows_of(probs), E = fm_cols_of(probs);
    FM_TRY(fm_check_vector(ctx, "balance_loss", "f", f, E, "probs", probs));
    fm_tensor *made = NULL, *sums = NULL, *terms = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &sums, FM_F32, E));
    FM_TRY_GOTO(FM_NEW(ctx, &terms, FM_F32, E));
    FM_TRY_GOTO(FM_KERNEL(ctx, sum_rows, FM_F32, sums->data, probs->data, T, E, 1, false));
    FM_TRY_GOTO(FM_KERNEL(ctx, mul, FM_F32, terms->data, sums->data, f->data, E, false));
    FM_TRY_GOTO(FM_NEW(ctx, &made, FM_F32, 1));
    FM_TRY_GOTO(FM_KERNEL(ctx, sum, made->data, terms->data, mean_factor(factor, T), E, false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "balance_loss",
                                                 .grads_only = true,
                                                 .backward = balance_backward,
                                                 .inputs = {probs},
                                                 .n_inputs = 1,
                                                 .saved = {f},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &factor,
                                                 .attrs_size = sizeof factor}));
out:
    fm_tensor_free(sums);
    fm_tensor_free(terms);
    return fm_op_end(status, loss, made);
}

/* ---- z: loss = factor/T Σ_t lse_t², lse_t = logsumexp(logits[t]) */

/* dlogits[t] = (2 factor/T dloss lse_t) softmax(logits[t]). Weighting rows is combining one choice
 * per token; with one expert its slots are the rows themselves. Saved: lse, zeros int32 [T] */
static fm_status z_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *logits = node->inputs[0], *lse = node->saved[0], *zeros = node->saved[1];
    fm_tensor *dloss = node->dout[0], *probs = NULL, *weight = NULL, *scaled = NULL;
    fm_moe_map map = {0};
    if (!dloss) return FM_OK;
    float factor = *(const float *)node->attrs;
    int64_t T = fm_rows_of(logits), E = fm_cols_of(logits);
    fm_grad dlogits;
    fm_status status;
    FM_TRY_GOTO(fm_moe_map_new(ctx, &map, zeros, 1));
    FM_TRY_GOTO(fm_tensor_new(ctx, &probs, FM_F32, logits->ndim, logits->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, softmax_forward, FM_F32, probs->data, logits->data, T, E));
    FM_TRY_GOTO(FM_NEW(ctx, &weight, FM_F32, T));
    FM_TRY_GOTO(FM_NEW(ctx, &scaled, FM_F32, T));
    FM_TRY_GOTO(times_scalar(ctx, weight, lse, dloss));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, FM_F32, scaled->data, FM_F32, weight->data,
                          2.0f * mean_factor(factor, T), T, false));
    FM_TRY_GOTO(fm_grad_begin(ctx, logits, FM_F32, &dlogits));
    if (dlogits.data) {
        FM_TRY_GOTO(FM_KERNEL(ctx, moe_combine, FM_F32, dlogits.data, probs->data, scaled->data,
                              map.slot->data, T, 1, E, dlogits.accumulate));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dlogits));
out:
    fm_moe_map_free(&map);
    fm_tensor_free(probs);
    fm_tensor_free(weight);
    fm_tensor_free(scaled);
    return status;
}

fm_status fm_z_loss(fm_ctx *ctx, fm_tensor **loss, fm_tensor *logits, float factor) {
    *loss = NULL;
    FM_TRY(check_rows(ctx, "z_loss", "logits", logits));
    int64_t T = fm_rows_of(logits), E = fm_cols_of(logits);
    FM_CHECK(E > 0, FM_ERR_SHAPE, "z_loss: logits is %s; its last dimension must be at least 1",
             FM_TEXT(logits));
    fm_tensor *made = NULL, *zeros = NULL, *lse = NULL, *terms = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &zeros, FM_I32, 2, (int64_t[]){T, 1}));
    FM_TRY_GOTO(FM_NEW(ctx, &lse, FM_F32, T));
    FM_TRY_GOTO(FM_NEW(ctx, &terms, FM_F32, T));
    /* Only lse is wanted of it; its losses, of target 0 everywhere, are overwritten. */
    FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_forward, FM_F32, terms->data, lse->data, logits->data,
                          zeros->data, T, E));
    FM_TRY_GOTO(FM_KERNEL(ctx, mul, FM_F32, terms->data, lse->data, lse->data, T, false));
    FM_TRY_GOTO(FM_NEW(ctx, &made, FM_F32, 1));
    FM_TRY_GOTO(FM_KERNEL(ctx, sum, made->data, terms->data, mean_factor(factor, T), T, false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "z_loss",
                                                 .backward = z_backward,
                                                 .inputs = {logits},
                                                 .n_inputs = 1,
                                                 .saved = {lse, zeros},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &factor,
                                                 .attrs_size = sizeof factor}));
out:
    fm_tensor_free(zeros);
    fm_tensor_free(lse);
    fm_tensor_free(terms);
    return fm_op_end(status, loss, made);
}
