/* Sequence parallelism (Korthikanti et al. 2022): between the layers that tensor parallelism splits, each
 * of the tp ranks holds S/tp positions of every sequence.
 *
 *   gather       x [B, S/tp, d] of each rank -> y [B, S, d] on all
 *   scatter_sum  x [B, S, d], a term of a sum on each rank -> own positions [B, S/tp, d] of the sum
 *
 * Rank r has positions [r S/tp, (r+1) S/tp). The two are each other's conjugate: what is seeded alike on
 * the tp ranks comes back as exact partial gradients. In x's dtype, fp32 or bf16. A group of one returns
 * x itself; nothing is copied.
 */
#ifndef FM_PARALLEL_SEQUENCE_H
#define FM_PARALLEL_SEQUENCE_H
#include "parallel/comm.h"
#include "tensor/tensor.h"

/* On the tape. FM_ERR_SHAPE: x is not [B, S, d]; scatter_sum: the group does not divide S. */
fm_status fm_gather_sequence(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x);
fm_status fm_scatter_sum_sequence(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x);

/* ---- off the tape, in two halves between which the ranks compute */

typedef struct fm_sequence_move {
    fm_request request;
    fm_tensor *ranks; /* [tp, B, S/tp, d]: the whole, rank by rank */
    fm_tensor *own;   /* [B, S/tp, d] */
} fm_sequence_move;

/* x is borrowed until the end. */
fm_status fm_sequence_gather_start(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, fm_sequence_move *m);
fm_status fm_sequence_gather_end(fm_ctx *ctx, fm_sequence_move *m, fm_tensor **y);
fm_status fm_sequence_sum_start(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, fm_sequence_move *m);
fm_status fm_sequence_sum_end(fm_ctx *ctx, fm_sequence_move *m, fm_tensor **y);
/* After an error, and harmless else: what is under way is waited for, its memory given back. */
void fm_sequence_drop(fm_ctx *ctx, fm_sequence_move *m);

#endif
