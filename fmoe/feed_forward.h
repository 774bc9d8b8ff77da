/* The feed-forward network: of dense layers, of shared experts, and of experts side by side. */
#ifndef FM_FMOE_FEED_FORWARD_H
#define FM_FMOE_FEED_FORWARD_H
#include "tensor/ops.h"

/* y = down(act(up(x))), biases where not NULL. x [.., d], up_w [h, d] (2h rows for a glu), down_w [d, h];
 * with offsets (int32 [E+1]) x is [T, d], and rows offsets[e] to offsets[e+1] go through up_w[e] of
 * [E, h, d] and down_w[e] of [E, d, h]. NULL: one network for all rows. */
fm_status fm_feed_forward(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *offsets,
                          fm_tensor *up_w, fm_tensor *up_b, fm_tensor *down_w, fm_tensor *down_b,
                          fm_act act);

#endif
