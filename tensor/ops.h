/* The differentiable operations: what models, MoE layers and Python scripts are made of.
 *
 * Each checks its arguments, calls one or a few slots of the operation table, and
 * records itself on the tape; its forward and backward stand side by side in
 * tensor/ops/<name>.c. All take the context first and write new tensors (one
 * reference, the caller's) to their outputs; on an error outputs are NULL.
 *
 * Inputs are borrowed. "float" means fp32 or bf16; inputs of one call have one dtype
 * unless said otherwise. Leading dimensions are free: [..., d] is treated as rows of d.
 * Errors: FM_ERR_SHAPE, FM_ERR_DTYPE, FM_ERR_VALUE name the operation, the argument,
 * the value seen and what is allowed; FM_ERR_OOM.
 */
#ifndef FM_TENSOR_OPS_H
#define FM_TENSOR_OPS_H
#include "tensor/ctx.h"
#include "tensor/tape.h"
#include "tensor/tensor.h"

/* ---- elementwise */
fm_status fm_add(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b);  /* same shape */
fm_status fm_mul(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b);  /* same shape */
fm_status fm_scale(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float alpha); /* alpha * x */
/* Float to float, int to int; x itself where it has that dtype. */
fm_status fm_cast(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_dtype dtype);
/* y[..., r, :] = a[..., r, :] + b[r, :]; a [..., S, d], b [S, d] or [d] */
fm_status fm_add_rows(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b);
/* glu forms halve the last dimension; FM_ACT_NONE returns x itself */
fm_status fm_activation(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_act act);
/* Inverted dropout, mask counted by (key, global element); returns x itself when p == 0. */
fm_status fm_dropout(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float p, const fm_rng_key *key);
/* [1] fp32 = factor Σ x; x fp32 */
fm_status fm_sum(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, float factor);

/* ---- shape; reshape and split along the first dimension are views */
/* one -1 allowed */
fm_status fm_reshape(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int ndim, const int64_t *shape);
/* any number n >= 1 of tensors that differ in dimension `axis` only */
fm_status fm_cat(fm_ctx *ctx, fm_tensor **y, fm_tensor **x, int n, int axis);
/* y = x[.., start:stop, ..] along `axis`; FM_ERR_RANGE */
fm_status fm_split(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int axis, int64_t start, int64_t stop);

/* ---- products */
/* [.., m, k] x [.., k, n]; 2-D, or 3-D with equal batch. trans_b: b is [.., n, k]. */
fm_status fm_matmul(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b, bool trans_b);
/* y = act(x wᵀ + b); x [..., in], w [out, in], b [out] or NULL. act may not be a glu.
 * x may be bf16 with w fp32 (a router): x is widened and y is fp32.
 * FLOPs 2·T·in·out forward, twice that backward. */
fm_status fm_linear(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                    fm_act act);
/* The same per expert over row segments; x [N, in], w [E, out, in], b [E, out] or NULL,
 * offsets int32 [E+1] rising from 0; rows behind offsets[E] are not read and come out undefined. */
fm_status fm_grouped_linear(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                            fm_tensor *offsets, fm_act act);

/* ---- normalisation of the last dimension; b may be NULL; x, w and b are different tensors */
fm_status fm_layer_norm(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, fm_tensor *b,
                        float eps);
fm_status fm_rms_norm(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *w, float eps);

/* ---- attention */
/* qkv [B, S, (H + 2 KV) dh], rows q, k, v, head-major -> [B, S, H dh]; scale 0 means 1/sqrt(dh). */
fm_status fm_attention_qkv(fm_ctx *ctx, fm_tensor **y, fm_tensor *qkv, int64_t n_head,
                           int64_t n_kv_head, bool causal, float scale);
/* q [B, Sq, H dh], k, v [B, Skv, KV dh]; causal: the queries are the last Sq positions. */
fm_status fm_attention(fm_ctx *ctx, fm_tensor **y, fm_tensor *q, fm_tensor *k, fm_tensor *v,
                       int64_t n_head, int64_t n_kv_head, bool causal, float scale);
/* Bytes that the backward of either takes on ctx's CPU beside its tensors, once, whatever the number of
 * layers; 0 for a GPU. It grows with the threads. */
size_t fm_attention_scratch(const fm_ctx *ctx, int64_t B, int64_t S, int64_t n_head,
                            int64_t n_kv_head, int64_t dh);
/* Rotates the first `heads` heads of width dh of x [B, S, cols]; positions from pos0. */
fm_status fm_rope(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int64_t heads, int64_t dh, float theta,
                  int64_t pos0);

/* ---- lookup, softmax, loss */
/* ids int32 [...] in [0, V) (checked where memory is on the host) -> [..., d] */
fm_status fm_embedding(fm_ctx *ctx, fm_tensor **y, fm_tensor *table, fm_tensor *ids);
fm_status fm_softmax(fm_ctx *ctx, fm_tensor **y, fm_tensor *x);
/* Targets that are not -1, checked to be below V; a GPU's are copied to the host. */
fm_status fm_count_targets(fm_ctx *ctx, const fm_tensor *target, int64_t V, int64_t *count);
/* loss [1] fp32 = Σ_t nll_t / denominator; target int32, -1 ignored. denominator 0 means the number
 * of valid targets of this call (at least 1); to count them a GPU's are copied to the host. losses,
 * where not NULL, gets the fp32 terms in target's shape; they are not differentiable. */
fm_status fm_cross_entropy(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses, fm_tensor *logits,
                           fm_tensor *target, double denominator);
/* The same of logits x wᵀ (+ b): the head and the loss as one, in chunks of rows, so that [T, V]
 * never exists twice, and not at all above ctx->logits_budget: then a chunk has as many rows as fit
 * into the budget (32 at least) and backward computes it again, 2·T·V·d FLOPs more. */
fm_status fm_linear_cross_entropy(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses, fm_tensor *x,
                                  fm_tensor *w, fm_tensor *b, fm_tensor *target,
                                  double denominator);

/* ---- routing; fp32 */
/* values [T, k] (differentiable), indices int32 [T, k]; ties to the lower index */
fm_status fm_top_k(fm_ctx *ctx, fm_tensor **values, fm_tensor **indices, fm_tensor *x, int64_t k);
/* y[t, j] = x[t, idx[t, j]], 0 where idx is -1 */
fm_status fm_gather_cols(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_tensor *idx);
/* Where the T·k choices go. Not differentiable; integer bookkeeping, kept for the whole layer. */
typedef struct fm_moe_map {
    int64_t T, k, E;
    fm_tensor *counts;  /* int32 [E] */
    fm_tensor *offsets; /* int32 [E+1] */
    fm_tensor *slot;    /* int32 [T, k] */
    fm_tensor *source;  /* int32 [T*k] */
} fm_moe_map;
fm_status fm_moe_map_new(fm_ctx *ctx, fm_moe_map *map, fm_tensor *indices, int64_t E);
void fm_moe_map_free(fm_moe_map *map); /* safe on a zeroed one */
/* x [T, d] -> [T*k, d] in expert order; rows of dropped choices (at the end) are zero */
fm_status fm_moe_permute(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, const fm_moe_map *map);
/* y[t] = Σ_j scores[t, j] z[slot[t, j]]; z [T*k, d], scores fp32 [T, k] or NULL (1) */
fm_status fm_moe_unpermute(fm_ctx *ctx, fm_tensor **y, fm_tensor *z, fm_tensor *scores,
                           const fm_moe_map *map);
/* loss [1] = factor · Σ_e f[e] · mean_t probs[t, e]; probs [T, E] differentiable, f fp32 [E] constant */
fm_status fm_balance_loss(fm_ctx *ctx, fm_tensor **loss, fm_tensor *probs, fm_tensor *f,
                          float factor);
/* loss [1] = factor · mean_t logsumexp(logits[t])² */
fm_status fm_z_loss(fm_ctx *ctx, fm_tensor **loss, fm_tensor *logits, float factor);

#endif
