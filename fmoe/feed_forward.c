#include "fmoe/feed_forward.h"

static fm_status linear(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *offsets, fm_tensor *w,
                        fm_tensor *b, fm_act act) {
    return offsets ? fm_grouped_linear(ctx, y, x, w, b, offsets, act)
                   : fm_linear(ctx, y, x, w, b, act);
}

fm_status fm_feed_forward(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *offsets,
                          fm_tensor *up_w, fm_tensor *up_b, fm_tensor *down_w, fm_tensor *down_b,
                          fm_act act) {
    fm_tensor *h = NULL, *a = NULL;
    fm_status status = FM_OK;
    bool glu = fm_act_is_glu(act); /* an operation of its own: it halves the width */
    FM_TRY_GOTO(linear(ctx, &h, x, offsets, up_w, up_b, glu ? FM_ACT_NONE : act));
    if (glu)
        FM_TRY_GOTO(fm_activation(ctx, &a, h, act));
    else
        a = fm_tensor_retain(h);
    FM_TRY_GOTO(linear(ctx, y, a, offsets, down_w, down_b, FM_ACT_NONE));
out:
    fm_tensor_free(h);
    fm_tensor_free(a);
    return status;
}
