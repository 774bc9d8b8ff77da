/* GShard (Lepikhin et al. 2020): two experts a token, weighted by their softmax probabilities
 * renormalised over the two; in training the second is kept with probability min(1, 2·score). */
#include "fmoe/gates.h"
#include "fmoe/moe.h"

/* Drops second choices: with probability max(0, 1 - 2·score), drawn by the global token index. */
static fm_status drop_second(fm_ctx *ctx, const fm_moe *m, fm_tensor *indices,
                             const fm_tensor *scores) {
    int32_t *index = NULL;
    float *score = NULL;
    fm_status status = FM_OK;
    fm_rng_key key = fm_rng(ctx, fm_mix64(m->stream + 1));
    int64_t T = fm_rows_of(indices);
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, scores, (void **)&score));
    for (int64_t t = 0; t < T; t++) {
        float u = fm_rng_uniform(fm_rng_bits(&key, (uint64_t)fm_rng_row(&key, t)));
        if (u >= 2.0f * score[2 * t + 1]) index[2 * t + 1] = -1;
    }
    FM_TRY_GOTO(fm_host_commit(ctx, indices, index));
out:
    fm_host_release(ctx, score);
    fm_host_release(ctx, index);
    return status;
}

/* Drops those that were dropped when the routing was recorded. */
static fm_status drop_replayed(fm_ctx *ctx, const fm_tensor *replayed, fm_tensor *indices) {
    int32_t *index = NULL, *recorded = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, replayed, (void **)&recorded));
    for (int64_t i = 0; i < fm_numel(indices); i++)
        if (recorded[i] < 0) index[i] = -1;
    FM_TRY_GOTO(fm_host_commit(ctx, indices, index));
out:
    fm_host_release(ctx, recorded);
    fm_host_release(ctx, index);
    return status;
}

static fm_status forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    fm_tensor *top = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_gate_choose(ctx, in, 2, &top, &out->chosen));
    FM_TRY_GOTO(fm_copy_indices(ctx, &out->indices, out->chosen));
    /* softmax over E, taken at the two and renormalised, is the softmax over the two. */
    FM_TRY_GOTO(fm_softmax(ctx, &out->scores, top));
    FM_TRY_GOTO(fm_softmax(ctx, &out->probs, in->logits));
    if (in->replayed)
        FM_TRY_GOTO(drop_replayed(ctx, in->replayed, out->indices));
    else if (m->training && m->config.random_second)
        FM_TRY_GOTO(drop_second(ctx, m, out->indices, out->scores));
out:
    fm_tensor_free(top);
    return status;
}

const fm_gate fm_gate_gshard = {.name = "gshard",
                                .default_top_k = 2,
                                .fixed_top_k = true,
                                .causal = true,
                                .has_balance = true,
                                .picks_second = true,
                                .forward = forward};
