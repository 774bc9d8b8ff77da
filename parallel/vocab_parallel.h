/* A vocabulary split over the tp ranks: embedding, head and loss, of which no rank has all.
 *
 * Rank r has the rows [r n, min((r+1) n, V)) of embedding and head, n = ceil(V / tp): the last rank may
 * have fewer. With one rank everything is the plain operation.
 */
#ifndef FM_PARALLEL_VOCAB_PARALLEL_H
#define FM_PARALLEL_VOCAB_PARALLEL_H
#include "parallel/param.h"

/* The placement of a table [V, ...]. FM_ERR_VALUE: a rank would have no row. */
fm_status fm_split_vocab(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec);

/* This rank's term of table[ids]: rows that are elsewhere are zero. table [own, d], ids int32 [...] in
 * [0, V) -> [..., d]. What follows is the sum over ranks: fm_scatter_sum_sequence. */
fm_status fm_vocab_embedding(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *table,
                             fm_tensor *ids, int64_t V);

/* fm_linear_cross_entropy of the whole vocabulary; w [own, d], x [..., d] and targets are the same on all
 * ranks, and so is the loss. dx is this rank's term of the sum that fm_gather_sequence's backward makes.
 * Logits [T, own] exist as there, in chunks within ctx->logits_budget; sent is one all-gather of two
 * numbers a row. */
fm_status fm_vocab_cross_entropy(fm_ctx *ctx, fm_comm *tp, fm_tensor **loss, fm_tensor **losses,
                                 fm_tensor *x, fm_tensor *w, fm_tensor *target, int64_t V,
                                 double denominator);

/* x [..., own] of each rank -> y [..., V] on all. dx = own columns of dy: what is computed from y is
 * computed by all ranks alike. */
fm_status fm_gather_vocab(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, int64_t V);

#endif
