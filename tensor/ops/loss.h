/* What the two cross entropies share. */
#ifndef FM_TENSOR_OPS_LOSS_H
#define FM_TENSOR_OPS_LOSS_H
#include "tensor/ops/check.h"

/* target is int32 with T elements in [-1, V) (elements are checked where memory is on the host, or
 * where they have to be counted); *factor becomes 1 / denominator, or 1 / max(1, valid targets)
 * where denominator is 0. `rows` names what has T rows in messages. */
fm_status fm_check_target(fm_ctx *ctx, const char *op, const fm_tensor *target, const char *rows,
                          const fm_tensor *of, int64_t V, double denominator, float *factor);

/* The shape of the per-row losses: that of the target. *loss [1] = factor Σ losses. */
fm_status fm_sum_losses(fm_ctx *ctx, fm_tensor **loss, const fm_tensor *losses, float factor);

#endif
