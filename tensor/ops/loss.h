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

/* A vocabulary of V classes in parts of `width` (the last may be shorter), each on a rank of its own. This
 * rank's begins at `first`. */
typedef struct fm_vocab_part {
    int64_t V, first, width;
    int n_parts;
    /* all [n_parts, n]: own [n] of every part; all ranks call it together */
    fm_status (*gather)(fm_ctx *ctx, void *user, float *all, const float *own, int64_t n);
    void *user;
} fm_vocab_part;

/* fm_linear_cross_entropy where w and b are one part of the vocabulary; targets number all of it. loss is
 * the whole; dx is this part's share. NULL: there are no other parts. */
fm_status fm_linear_cross_entropy_part(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses,
                                       fm_tensor *x, fm_tensor *w, fm_tensor *b, fm_tensor *target,
                                       double denominator, const fm_vocab_part *part);

#endif
