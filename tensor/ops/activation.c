/* y = act(x); the glu forms halve the last dimension. */
#include "tensor/ops/check.h"

#include <string.h>

static fm_status activation_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    fm_act act = *(const fm_act *)node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, act_backward, x->dtype, act, dx.data, x->data, dy->data,
                         fm_rows_of(dy), fm_cols_of(dy), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_activation(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_act act) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "activation", "x", x));
    FM_CHECK((unsigned)act < FM_ACT_COUNT, FM_ERR_VALUE,
             "activation: act is number %d; there are 0 to %d", (int)act, FM_ACT_COUNT - 1);
    if (act == FM_ACT_NONE) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    if (fm_act_is_glu(act)) {
        FM_TRY(fm_check_ndim(ctx, "activation", "x", x, 1, FM_MAX_DIMS));
        FM_CHECK(fm_cols_of(x) % 2 == 0, FM_ERR_SHAPE,
                 "activation: x is %s; its last dimension must be even for %s", FM_TEXT(x),
                 fm_act_name(act));
        shape[x->ndim - 1] /= 2;
    }
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, act_forward, x->dtype, act, made->data, x->data, fm_rows_of(made),
                          fm_cols_of(made)));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "activation",
                                                 .backward = activation_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &act,
                                                 .attrs_size = sizeof act}));
out:
    return fm_op_end(status, y, made);
}
