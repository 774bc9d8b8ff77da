/* Switch (Fedus et al. 2021): one expert a token, weighted by its softmax probability over all. */
#include "fmoe/gates.h"
#include "fmoe/moe.h"

static fm_status forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    (void)m;
    fm_tensor *top = NULL;
    fm_status status = FM_OK;
    /* Chosen by logits, not probabilities: softmax may round two of them to a tie. */
    bool was = fm_grad_enable(ctx, false);
    status = fm_gate_choose(ctx, in, 1, &top, &out->indices);
    fm_grad_enable(ctx, was);
    if (status != FM_OK) goto out;
    FM_TRY_GOTO(fm_softmax(ctx, &out->probs, in->logits));
    FM_TRY_GOTO(fm_gather_cols(ctx, &out->scores, out->probs, out->indices));
out:
    fm_tensor_free(top);
    return status;
}

const fm_gate fm_gate_switch = {.name = "switch",
                                .default_top_k = 1,
                                .fixed_top_k = true,
                                .causal = true,
                                .has_balance = true,
                                .jitters = true,
                                .forward = forward};
