/* Switch (Fedus et al. 2021): one expert a token, weighted by its softmax probability over all. */
#include "fmoe/gates.h"
#include "fmoe/moe.h"

static fm_status forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    fm_tensor *top = NULL, *probs = NULL;
    fm_status status = FM_OK;
    /* Chosen by logits, not probabilities: softmax may round two of them to a tie. */
    bool was = fm_grad_enable(ctx, false);
    status = fm_top_k(ctx, &top, &out->indices, in->logits, 1);
    fm_grad_enable(ctx, was);
    if (status != FM_OK) goto out;
    FM_TRY_GOTO(fm_softmax(ctx, &probs, in->logits));
    FM_TRY_GOTO(fm_gather_cols(ctx, &out->scores, probs, out->indices));
    FM_TRY_GOTO(fm_first_choice_balance(ctx, &out->balance, probs, out->indices, in->B,
                                        m->config.aux_loss_scope == FM_SCOPE_SEQUENCE));
out:
    fm_tensor_free(top);
    fm_tensor_free(probs);
    return status;
}

const fm_gate fm_gate_switch = {.name = "switch",
                                .default_top_k = 1,
                                .fixed_top_k = true,
                                .causal = true,
                                .has_balance = true,
                                .jitters = true,
                                .forward = forward};
