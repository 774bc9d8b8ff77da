/* Gates: who goes where, and with what weight.
 *
 * A gate turns router logits into indices [T, k] (int32, -1 = not taken) and scores
 * [T, k] (fp32, differentiable, no NaN), and may give a balance loss. One file per gate, one
 * registry. A gate adds no capacity drops: the layer does, after it.
 */
#ifndef FM_FMOE_GATE_H
#define FM_FMOE_GATE_H
#include "tensor/ops.h"

struct fm_moe;

typedef struct fm_gate_in {
    fm_tensor *x;         /* [T, d] float: the layer's input */
    fm_tensor *logits;    /* fp32 [T, E] = x gate_wᵀ + gate_b; NULL for gates with own_router */
    fm_tensor *token_ids; /* int32 [T]; may be NULL */
    /* int32 [T, k]: choices to follow instead of one's own, as in routing_log.h; NULL: none. Not for gates with
     * own_router. */
    fm_tensor *replayed;
    int64_t T, B; /* B sequences of T / B rows */
} fm_gate_in;

typedef struct fm_gate_out {
    fm_tensor *indices; /* int32 [T, k] */
    fm_tensor *chosen;  /* int32 [T, k]: before choices were drawn away; NULL: indices */
    fm_tensor *scores;  /* fp32 [T, k] */
    /* fp32 [T, E]: what the layer makes the balance loss E·Σ f_e·P_e of, with f_e of all ranks' first choices
     * (column 0 of indices) and P_e the mean of these; NULL: none. */
    fm_tensor *probs;
    fm_tensor
        *balance; /* [1] fp32: a loss of the gate's own, unweighted, perfect balance = 1; or NULL */
} fm_gate_out;

typedef struct fm_gate {
    const char *name;
    int64_t default_top_k;
    bool fixed_top_k;  /* another top_k is FM_ERR_VALUE */
    bool causal;       /* a token's routing does not depend on later tokens */
    bool has_balance;  /* gives a balance loss */
    bool jitters;      /* its router's input may be jittered */
    bool picks_second; /* knows second_policy */
    bool own_router;   /* computes its logits itself: the layer has no gate.weight */
    void *user;        /* whatever a gate from outside needs (a Python object) */
    fm_status (*forward)(fm_ctx *ctx, struct fm_moe *m, const fm_gate_in *in, fm_gate_out *out);
} fm_gate;

const fm_gate *fm_gate_find(const char *name); /* NULL: no such gate */
/* "naive, gshard, switch", for messages; i from 0, NULL behind the last. */
const fm_gate *fm_gate_at(int i);

void fm_gate_out_free(fm_gate_out *o);

/* ---- what several gates need */

/* The k largest logits of each token, or those that in->replayed names: *values [T, k], differentiable where
 * gradients are enabled, and *chosen int32 [T, k]. */
fm_status fm_gate_choose(fm_ctx *ctx, const fm_gate_in *in, int64_t k, fm_tensor **values,
                         fm_tensor **chosen);
/* A copy to drop choices in: the tape keeps the original (a dropped choice was still chosen, and the
 * softmax over the chosen has a gradient for it). */
fm_status fm_copy_indices(fm_ctx *ctx, fm_tensor **out, const fm_tensor *indices);
/* y[t, j] = x[t, j] / Σ_i x[t, i] over the choices i that were not dropped, 0 for the dropped, and 0 in
 * rows whose sum is below FLT_MIN (scores that rounded to nothing). */
fm_status fm_renormalize(fm_ctx *ctx, fm_tensor **y, fm_tensor *scores, fm_tensor *indices);

/* A small tensor in host memory: its own on the CPU, else a copy. fm_host_commit writes a changed
 * copy back; fm_host_release frees it (NULL is legal). */
fm_status fm_host_view(fm_ctx *ctx, const fm_tensor *t, void **host);
fm_status fm_host_commit(fm_ctx *ctx, fm_tensor *t, const void *host);
void fm_host_release(const fm_ctx *ctx, void *host);

/* ---- capacity: which choices keep their place; see docs/moe.md */

/* C = ceil(factor·k·rows/E); a factor without bound: no bound. */
int64_t fm_capacity(double factor, int64_t k, int64_t rows, int64_t E);
/* Sets indices beyond the capacity of each expert to -1, in place; of all T rows, or of each of the B
 * sequences by itself. by_score: the highest scores keep their places (ties: earlier token); else the order is
 * (token, choice). before [E]: places that are taken already, by tokens of earlier ranks; NULL: none. Not
 * with by_score. */
fm_status fm_capacity_drop(fm_ctx *ctx, fm_tensor *indices, const fm_tensor *scores, int64_t E,
                           int64_t B, int64_t capacity, bool per_sequence, bool by_score,
                           const int64_t *before);

#endif
