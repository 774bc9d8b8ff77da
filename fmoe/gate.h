/* Gates: who goes where, and with what weight.
 *
 * A gate turns router logits into indices [T, k] (int32, -1 = dropped) and scores
 * [T, k] (fp32, differentiable), and may give a balance loss. One file per gate, one
 * registry. A gate adds no capacity drops: the layer does, after it.
 */
#ifndef FM_FMOE_GATE_H
#define FM_FMOE_GATE_H
#include "tensor/ops.h"

struct fm_moe;

typedef struct fm_gate_out {
    fm_tensor *indices; /* int32 [T, k] */
    fm_tensor *scores;  /* fp32 [T, k] */
    fm_tensor *probs;   /* fp32 [T, E] softmax over all experts; NULL for gates without balance loss */
    fm_tensor *balance; /* [1] unweighted balance loss; NULL: none */
} fm_gate_out;

typedef struct fm_gate {
    const char *name;
    int64_t default_top_k;
    bool fixed_top_k; /* another top_k is FM_ERR_VALUE */
    bool causal;      /* a token's routing does not depend on later tokens */
    /* logits fp32 [T, E]; B sequences of T/B rows. */
    fm_status (*forward)(fm_ctx *ctx, struct fm_moe *m, fm_tensor *logits, int64_t B,
                         fm_tensor *token_ids, fm_gate_out *out);
} fm_gate;

const fm_gate *fm_gate_find(const char *name); /* NULL: no such gate */
/* "naive, gshard, switch", for messages; i from 0, NULL behind the last. */
const fm_gate *fm_gate_at(int i);

void fm_gate_out_free(fm_gate_out *o);

/* ---- capacity: which choices keep their place; see docs/moe.md */

/* Sets indices beyond capacity to -1, in place. C = ceil(factor·k·rows/E) per expert, rows being
 * those of the scope (all T, or each of the B sequences). by_score: the highest scores keep their
 * places (ties: earlier token, then lower choice); else the order is (token, choice). */
fm_status fm_capacity_drop(fm_ctx *ctx, fm_tensor *indices, const fm_tensor *scores, int64_t E,
                           int64_t B, double factor, bool per_sequence, bool by_score);
int64_t fm_capacity(double factor, int64_t k, int64_t rows, int64_t E);

#endif
