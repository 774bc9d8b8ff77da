/* Naive: the top-k logits, weighted by the softmax over those k. No balance loss.
 * Shazeer et al. 2017 without noise; FastMoE's NaiveGate. */
#include "fmoe/gates.h"
#include "fmoe/moe.h"

static fm_status forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    fm_tensor *top = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_gate_choose(ctx, in, m->config.top_k, &top, &out->indices));
    FM_TRY_GOTO(fm_softmax(ctx, &out->scores, top));
out:
    fm_tensor_free(top);
    return status;
}

const fm_gate fm_gate_naive = {
    .name = "naive", .default_top_k = 2, .causal = true, .forward = forward};
