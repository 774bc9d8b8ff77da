/* Inverted dropout: y = x * mask / (1 - p). Nothing is saved: backward draws the mask again. */
#include "tensor/ops/check.h"

typedef struct dropout_attrs {
    float p;
    fm_rng_key key;
} dropout_attrs;

static fm_status dropout_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    const dropout_attrs *attrs = node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, dropout, x->dtype, dx.data, dy->data, fm_rows_of(x), fm_cols_of(x),
                         attrs->p, &attrs->key, dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_dropout(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float p, const fm_rng_key *key) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "dropout", "x", x));
    FM_CHECK(p >= 0.0f && p < 1.0f, FM_ERR_VALUE, "dropout: p is %g; it must be in [0, 1)",
             (double)p);
    if (p == 0.0f) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    FM_CHECK(key, FM_ERR_VALUE, "dropout: key is NULL; it must be there where p > 0 (p is %g)",
             (double)p);
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, x->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, dropout, x->dtype, made->data, x->data, fm_rows_of(x), fm_cols_of(x),
                          p, key, false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "dropout",
                                                 .grads_only = true,
                                                 .backward = dropout_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &(dropout_attrs){p, *key},
                                                 .attrs_size = sizeof(dropout_attrs)}));
out:
    return fm_op_end(status, y, made);
}
