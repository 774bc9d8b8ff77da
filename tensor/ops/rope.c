/* Rotary position embedding. */
#include "tensor/ops/check.h"

#include <math.h>

typedef struct rope_attrs {
    int64_t heads, dh, pos0;
    float theta;
} rope_attrs;

static fm_status rotate(fm_ctx *ctx, const rope_attrs *r, fm_tensor *y, const fm_tensor *x,
                        bool inverse) {
    return FM_KERNEL(ctx, rope, x->dtype, y->data, x->data, fm_rows_of(x), x->shape[1], r->heads,
                     r->dh, fm_cols_of(x), r->theta, r->pos0, inverse);
}

/* A rotation's adjoint is its inverse. */
static fm_status rope_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0], *dx = NULL;
    if (!dy) return FM_OK;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &dx, dy->dtype, dy->ndim, dy->shape));
    FM_TRY_GOTO(rotate(ctx, node->attrs, dx, dy, true));
    FM_TRY_GOTO(fm_grad_pass(ctx, x, dx));
out:
    fm_tensor_free(dx);
    return status;
}

fm_status fm_rope(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int64_t heads, int64_t dh, float theta,
                  int64_t pos0) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "rope", "x", x));
    FM_TRY(fm_check_ndim(ctx, "rope", "x", x, 3, 3));
    FM_CHECK(dh >= 2 && dh % 2 == 0, FM_ERR_VALUE,
             "rope: dh is %" PRId64 "; it must be even and at least 2", dh);
    FM_CHECK(heads >= 0 && heads <= x->shape[2] / dh, FM_ERR_VALUE,
             "rope: heads is %" PRId64 "; it must be in [0, %" PRId64 "], what fits into x's last "
             "dimension (x is %s, dh is %" PRId64 ")",
             heads, x->shape[2] / dh, FM_TEXT(x), dh);
    FM_CHECK(theta > 0.0f && isfinite(theta), FM_ERR_VALUE,
             "rope: theta is %g; it must be finite and above 0", (double)theta);
    FM_CHECK(pos0 >= 0, FM_ERR_VALUE, "rope: pos0 is %" PRId64 "; it must be at least 0", pos0);
    rope_attrs attrs = {heads, dh, pos0, theta};
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(rotate(ctx, &attrs, made, x, false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "rope",
                                                 .grads_only = true,
                                                 .backward = rope_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &attrs,
                                                 .attrs_size = sizeof attrs}));
out:
    return fm_op_end(status, y, made);
}
