/* Tensor parallelism (Shoeybi et al. 2019) with sequence-parallel activations (sequence.h): one linear
 * layer split over the tp ranks, by its outputs or by its inputs.
 *
 *                  x             w                y            sends, forward    backward
 *   column_linear  [B, S/tp, in] own rows         [B, S, own]  gather            gather again, sum
 *   row_linear     [B, S, own]   own columns      [B, S/tp, out] scatter_sum     gather
 *
 * With one rank both are fm_linear. A model writes attention and feed-forward as column_linear, what
 * works on own heads or columns, row_linear; and gives the weights the placements below.
 */
#ifndef FM_PARALLEL_TENSOR_PARALLEL_H
#define FM_PARALLEL_TENSOR_PARALLEL_H
#include "parallel/param.h"

/* y = act(gather(x) wᵀ + b). x [B, S/tp, in], w [own, in], b [own] or NULL, y [B, S, own]. act may not
 * be a glu.
 * What is kept for the backward is x; it gathers x again for the weight's gradient while dx is
 * computed: one more gather a layer, and 1/tp of the memory, which grows with the layers. */
fm_status fm_column_linear(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                           fm_tensor *b, fm_act act);
/* y = scatter_sum(x wᵀ) + b. x [B, S, own], w [out, own], b [out] or NULL: whole, added to own
 * positions, so that its gradient is a partial one. y [B, S/tp, out]. */
fm_status fm_row_linear(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                        fm_tensor *b);

/* The same for all positions on all ranks, y [B, S, out], by an all-reduce: where a sequence cannot be
 * divided (a token at a time). */
fm_status fm_row_linear_whole(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                              fm_tensor *b);

/* ---- which slice is whose. With tp = 1 they leave the placement as it is. */

/* Dimension 0 is `n` parts of these sizes one behind the other (q, k, v; both halves of a glu), of each
 * of which this rank has the tp_rank-th of tp equal pieces. FM_ERR_VALUE: tp does not divide a size. */
fm_status fm_split_rows(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec, int n,
                        const int64_t *sizes);
/* Dimension 1 in equal pieces. FM_ERR_VALUE as above. */
fm_status fm_split_columns(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec);

#endif
