/* y = act(x wᵀ + b), one layer or one per expert over segments of rows. */
#include "tensor/ops/check.h"

#include <string.h>

/* x in w's dtype: x itself, or a copy (bf16 x under an fp32 w: a router). Backward widens again
 * rather than keep the copy, which is twice x. */
static fm_status widened(fm_ctx *ctx, fm_tensor **wide, fm_tensor *x, const fm_tensor *w) {
    if (x->dtype == w->dtype) {
        *wide = fm_tensor_retain(x);
        return FM_OK;
    }
    FM_TRY(fm_tensor_new(ctx, wide, w->dtype, x->ndim, x->shape));
    fm_status status = FM_KERNEL(ctx, cast, w->dtype, (*wide)->data, x->dtype, x->data,
                                 fm_numel(x));
    return fm_op_end(status, wide, *wide);
}

/* Inputs x, w, b; saved: offsets (NULL: one layer), pre (NULL: no activation).
 *   dpre = dy act'(pre);  dx = dpre w;  dw = dpreᵀ x;  db = Σ dpre, per expert */
static fm_status linear_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *w = node->inputs[1], *b = node->inputs[2];
    fm_tensor *offsets = node->saved[0], *pre = node->saved[1];
    fm_tensor *dy = node->dout[0], *dpre = NULL, *wide = NULL;
    if (!dy) return FM_OK;
    fm_act act = *(const fm_act *)node->attrs;
    fm_linear_args args = {.dt = w->dtype,
                           .T = fm_rows_of(x),
                           .in = fm_cols_of(x),
                           .out = fm_cols_of(dy),
                           .E = offsets ? w->shape[0] : 1,
                           .offsets = offsets ? offsets->data : NULL,
                           .w = w->data};
    fm_status status;
    if (act == FM_ACT_NONE) {
        dpre = fm_tensor_retain(dy);
    } else {
        FM_TRY_GOTO(fm_tensor_new(ctx, &dpre, dy->dtype, dy->ndim, dy->shape));
        FM_TRY_GOTO(FM_KERNEL(ctx, act_backward, dy->dtype, act, dpre->data, pre->data, dy->data,
                              args.T, args.out, false));
    }
    fm_grad dx, dw, db;
    FM_TRY_GOTO(fm_grad_begin(ctx, w, FM_F32, &dw));
    FM_TRY_GOTO(fm_grad_begin(ctx, b, FM_F32, &db));
    if (dw.data || db.data) {
        FM_TRY_GOTO(widened(ctx, &wide, x, w));
        args.x = wide->data;
        FM_TRY_GOTO(FM_KERNEL(ctx, linear_backward_weight, &args, dw.data, dw.accumulate, db.data,
                              db.accumulate, dpre->data));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dw));
    FM_TRY_GOTO(fm_grad_end(ctx, &db));
    FM_TRY_GOTO(fm_grad_begin(ctx, x, w->dtype, &dx));
    if (dx.data) {
        FM_TRY_GOTO(
            FM_KERNEL(ctx, linear_backward_input, &args, dx.data, dpre->data, dx.accumulate));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dx));
out:
    fm_tensor_free(wide);
    fm_tensor_free(dpre);
    return status;
}

/* Arguments are checked; w [out, in] where offsets is NULL, else [E, out, in]. */
static fm_status linear(fm_ctx *ctx, const char *op, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                        fm_tensor *b, fm_tensor *offsets, fm_act act) {
    fm_tensor *made = NULL, *pre = NULL, *wide = NULL;
    fm_status status;
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[w->ndim - 2];
    bool keep_pre = act != FM_ACT_NONE &&
                    (fm_needs_grad(ctx, x) || fm_needs_grad(ctx, w) || fm_needs_grad(ctx, b));
    FM_TRY_GOTO(widened(ctx, &wide, x, w));
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, w->dtype, x->ndim, shape));
    if (keep_pre) FM_TRY_GOTO(fm_tensor_new(ctx, &pre, w->dtype, x->ndim, shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, linear_forward,
                          &(fm_linear_args){.dt = w->dtype,
                                            .T = fm_rows_of(x),
                                            .in = fm_cols_of(x),
                                            .out = shape[x->ndim - 1],
                                            .E = offsets ? w->shape[0] : 1,
                                            .offsets = offsets ? offsets->data : NULL,
                                            .x = wide->data,
                                            .w = w->data,
                                            .b = b ? b->data : NULL,
                                            .act = act,
                                            .y = made->data,
                                            .pre = pre ? pre->data : NULL}));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .backward = linear_backward,
                                                 .inputs = {x, w, b},
                                                 .n_inputs = 3,
                                                 .saved = {offsets, pre},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &act,
                                                 .attrs_size = sizeof act}));
out:
    fm_tensor_free(wide);
    fm_tensor_free(pre);
    return fm_op_end(status, y, made);
}

static fm_status check_act(fm_ctx *ctx, const char *op, fm_act act) {
    FM_CHECK((unsigned)act < FM_ACT_COUNT, FM_ERR_VALUE, "%s: act is number %d; there are 0 to %d",
             op, (int)act, FM_ACT_COUNT - 1);
    FM_CHECK(!fm_act_is_glu(act), FM_ERR_VALUE,
             "%s: act is %s; it may not be a glu (use activation behind it)", op, fm_act_name(act));
    return FM_OK;
}

fm_status fm_linear(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                    fm_act act) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "linear", "x", x));
    FM_TRY(fm_check_float(ctx, "linear", "w", w));
    FM_TRY(fm_check_ndim(ctx, "linear", "x", x, 1, FM_MAX_DIMS));
    FM_TRY(fm_check_ndim(ctx, "linear", "w", w, 2, 2));
    FM_CHECK(fm_cols_of(x) == w->shape[1], FM_ERR_SHAPE,
             "linear: x is %s; its last dimension must be w's second, %" PRId64 " (w is %s)",
             FM_TEXT(x), w->shape[1], FM_TEXT(w));
    if (b) FM_TRY(fm_check_vector(ctx, "linear", "b", b, w->shape[0], "w", w));
    FM_TRY(check_act(ctx, "linear", act));
    if (x->dtype != FM_BF16 || w->dtype != FM_F32) {
        FM_TRY(fm_check_same_dtype(ctx, "linear", "w", w, "x", x));
    }
    return linear(ctx, "linear", y, x, w, b, NULL, act);
}

fm_status fm_grouped_linear(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                            fm_tensor *offsets, fm_act act) {
    static const char op[] = "grouped_linear";
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "x", x, 2, 2));
    FM_TRY(fm_check_same_dtype(ctx, op, "w", w, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "w", w, 3, 3));
    FM_CHECK(x->shape[1] == w->shape[2], FM_ERR_SHAPE,
             "grouped_linear: x is %s; its last dimension must be w's third, %" PRId64 " (w is %s)",
             FM_TEXT(x), w->shape[2], FM_TEXT(w));
    int64_t E = w->shape[0];
    if (b) {
        FM_TRY(fm_check_same_dtype(ctx, op, "b", b, "w", w));
        FM_CHECK(b->ndim == 2 && b->shape[0] == E && b->shape[1] == w->shape[1], FM_ERR_SHAPE,
                 "grouped_linear: b is %s; its shape must be [%" PRId64 ", %" PRId64 "] (w is %s)",
                 FM_TEXT(b), E, w->shape[1], FM_TEXT(w));
    }
    FM_TRY(fm_check_index(ctx, op, "offsets", offsets, 0, x->shape[0] + 1));
    FM_CHECK(offsets->ndim == 1 && offsets->shape[0] == E + 1, FM_ERR_SHAPE,
             "grouped_linear: offsets is %s; its shape must be [%" PRId64 "], one more than w's "
             "experts (w is %s)",
             FM_TEXT(offsets), E + 1, FM_TEXT(w));
    if (ctx->dev->on_host) {
        const int32_t *at = offsets->data;
        FM_CHECK(at[0] == 0, FM_ERR_VALUE, "grouped_linear: offsets[0] is %d; it must be 0", at[0]);
        for (int64_t e = 0; e < E; e++) {
            FM_CHECK(at[e] <= at[e + 1], FM_ERR_VALUE,
                     "grouped_linear: offsets[%" PRId64 "] is %d and offsets[%" PRId64 "] is %d; "
                     "they must not fall",
                     e, at[e], e + 1, at[e + 1]);
        }
    }
    FM_TRY(check_act(ctx, op, act));
    return linear(ctx, op, y, x, w, b, offsets, act);
}
