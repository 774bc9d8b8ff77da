/* Layer norm and RMS norm over the last dimension. */
#include "tensor/ops/check.h"

#include <math.h>

/* One kernel writes all three gradients, so no two of them may be one tensor's. */
static fm_status check_norm(fm_ctx *ctx, const char *op, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                            float eps) {
    FM_TRY(fm_check_float(ctx, op, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "x", x, 1, FM_MAX_DIMS));
    FM_TRY(fm_check_vector(ctx, op, "w", w, fm_cols_of(x), "x", x));
    if (b) FM_TRY(fm_check_vector(ctx, op, "b", b, fm_cols_of(x), "x", x));
    FM_CHECK(x != w && x != b && w != b, FM_ERR_VALUE,
             "%s: %s is the same tensor as %s; they must be two", op, x == w ? "w" : "b",
             w == b ? "w" : "x");
    FM_CHECK(eps >= 0.0f && isfinite(eps), FM_ERR_VALUE,
             "%s: eps is %g; it must be finite and at least 0", op, (double)eps);
    return FM_OK;
}

/* The kernels always write dx: where nobody wants it, it goes here. */
static fm_status unwanted_dx(fm_ctx *ctx, const fm_tensor *x, fm_grad *dx, fm_tensor **bin) {
    if (dx->data) return FM_OK;
    FM_TRY(fm_tensor_new(ctx, bin, x->dtype, x->ndim, x->shape));
    dx->data = (*bin)->data;
    dx->accumulate = false;
    return FM_OK;
}

/* Inputs x, w, b; saved: rstd, mean (NULL: RMS norm) */
static fm_status norm_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *w = node->inputs[1], *b = node->inputs[2];
    fm_tensor *rstd = node->saved[0], *mean = node->saved[1], *dy = node->dout[0], *bin = NULL;
    if (!dy) return FM_OK;
    int64_t T = fm_rows_of(x), d = fm_cols_of(x);
    fm_grad dx, dw, db;
    fm_status status;
    FM_TRY_GOTO(fm_grad_begin(ctx, x, x->dtype, &dx));
    FM_TRY_GOTO(fm_grad_begin(ctx, w, FM_F32, &dw));
    FM_TRY_GOTO(fm_grad_begin(ctx, b, FM_F32, &db));
    FM_TRY_GOTO(unwanted_dx(ctx, x, &dx, &bin));
    if (mean) {
        FM_TRY_GOTO(FM_KERNEL(ctx, layer_norm_backward, x->dtype, dx.data, dx.accumulate, dw.data,
                              dw.accumulate, db.data, db.accumulate, dy->data, x->data, w->data,
                              mean->data, rstd->data, T, d));
    } else {
        FM_TRY_GOTO(FM_KERNEL(ctx, rms_norm_backward, x->dtype, dx.data, dx.accumulate, dw.data,
                              dw.accumulate, dy->data, x->data, w->data, rstd->data, T, d));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &db));
    FM_TRY_GOTO(fm_grad_end(ctx, &dw));
    if (!bin) FM_TRY_GOTO(fm_grad_end(ctx, &dx));
out:
    fm_tensor_free(bin);
    return status;
}

fm_status fm_layer_norm(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                        float eps) {
    *y = NULL;
    FM_TRY(check_norm(ctx, "layer_norm", x, w, b, eps));
    int64_t T = fm_rows_of(x), d = fm_cols_of(x);
    fm_tensor *made = NULL, *mean = NULL, *rstd = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_NEW(ctx, &mean, FM_F32, T));
    FM_TRY_GOTO(FM_NEW(ctx, &rstd, FM_F32, T));
    FM_TRY_GOTO(FM_KERNEL(ctx, layer_norm_forward, x->dtype, made->data, mean->data, rstd->data,
                          x->data, w->data, b ? b->data : NULL, T, d, eps));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "layer_norm",
                                                 .backward = norm_backward,
                                                 .inputs = {x, w, b},
                                                 .n_inputs = 3,
                                                 .saved = {rstd, mean},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    fm_tensor_free(mean);
    fm_tensor_free(rstd);
    return fm_op_end(status, y, made);
}

fm_status fm_rms_norm(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, float eps) {
    *y = NULL;
    FM_TRY(check_norm(ctx, "rms_norm", x, w, NULL, eps));
    int64_t T = fm_rows_of(x), d = fm_cols_of(x);
    fm_tensor *made = NULL, *rstd = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_NEW(ctx, &rstd, FM_F32, T));
    FM_TRY_GOTO(FM_KERNEL(ctx, rms_norm_forward, x->dtype, made->data, rstd->data, x->data, w->data,
                          T, d, eps));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "rms_norm",
                                                 .backward = norm_backward,
                                                 .inputs = {x, w, NULL},
                                                 .n_inputs = 3,
                                                 .saved = {rstd, NULL},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    fm_tensor_free(rstd);
    return fm_op_end(status, y, made);
}
