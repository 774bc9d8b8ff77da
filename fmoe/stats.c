/* Statistics of a layer's routing: cheap sums over [E] and [T, k], on the host. */
#include "fmoe/moe.h"

#include <math.h>

/* The losses, of what training has not computed too. */
static fm_status note_losses(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, const fm_gate_out *gate,
                             const fm_tensor *z) {
    fm_tensor *probs = NULL, *balance = NULL, *z_of_logits = NULL;
    fm_status status = FM_OK;
    bool was = fm_grad_enable(ctx, false);
    if (!gate->balance && in->logits) {
        FM_TRY_GOTO(fm_softmax(ctx, &probs, in->logits));
        FM_TRY_GOTO(fm_first_choice_balance(ctx, &balance, probs, gate->indices, in->B,
                                            m->config.aux_loss_scope == FM_SCOPE_SEQUENCE));
    }
    if (!z && in->logits) FM_TRY_GOTO(fm_z_loss(ctx, &z_of_logits, in->logits, 1.0f));
    const fm_tensor *b = gate->balance ? gate->balance : balance;
    if (b) FM_TRY_GOTO(fm_tensor_item(ctx, b, &m->stats.balance));
    if (!z) z = z_of_logits;
    if (z) FM_TRY_GOTO(fm_tensor_item(ctx, z, &m->stats.z));
out:
    fm_grad_enable(ctx, was);
    fm_tensor_free(z_of_logits);
    fm_tensor_free(balance);
    fm_tensor_free(probs);
    return status;
}

/* The part of `whole` that is missing in `part`; of nothing, nothing is missing. */
static double missing(int64_t part, int64_t whole) {
    return whole > 0 ? (double)(whole - part) / (double)whole : 0;
}

/* Before drops: the load that the gate asked for. */
fm_status fm_moe_note_routing(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, const fm_gate_out *gate,
                              const fm_tensor *z) {
    if (ctx->recomputing || m->generating) return FM_OK; /* a recomputed block was counted */
    fm_moe_stats *s = &m->stats;
    int64_t E = m->config.num_experts, total = 0;
    fm_moe_map map = {0};
    int32_t *count = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_moe_map_new(ctx, &map, gate->indices, E));
    FM_TRY_GOTO(fm_host_view(ctx, map.counts, (void **)&count));
    double squares = 0, most = 0, entropy = 0;
    for (int64_t e = 0; e < E; e++) {
        total += count[e];
        squares += (double)count[e] * count[e];
        if (count[e] > most) most = count[e];
    }
    double all = (double)total, mean = all / (double)E;
    for (int64_t e = 0; e < E; e++)
        if (count[e] > 0) entropy -= count[e] / all * log(count[e] / all);
    *s = (fm_moe_stats){
        .tokens = map.T, .choices = total, .entropy = entropy, .balance = NAN, .z = NAN};
    s->not_taken = missing(total, map.T * map.k);
    s->load_max_over_mean = mean > 0 ? most / mean : 0;
    s->load_cv = mean > 0 ? sqrt(fmax(0, squares / (double)E - mean * mean)) / mean : 0;
    FM_TRY_GOTO(note_losses(ctx, m, in, gate, z));
out:
    fm_host_release(ctx, count);
    fm_moe_map_free(&map);
    return status;
}

void fm_moe_forget_last(fm_moe *m) {
    fm_tensor_free(m->last_indices);
    fm_tensor_free(m->last_scores);
    fm_tensor_free(m->last_counts);
    m->last_indices = m->last_scores = m->last_counts = NULL;
}

/* After drops: what the experts got; keeps the routing of the last forward. */
fm_status fm_moe_note_dispatch(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate,
                               const fm_moe_map *map) {
    if (ctx->recomputing || m->generating) return FM_OK;
    int32_t *offsets = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_host_view(ctx, map->offsets, (void **)&offsets));
    m->stats.kept = offsets[map->E];
    m->stats.dropped = missing(m->stats.kept, m->stats.choices);
    fm_moe_forget_last(m);
    m->last_indices = fm_tensor_retain(gate->indices);
    m->last_counts = fm_tensor_retain(map->counts);
    FM_TRY_GOTO(fm_tensor_detach(ctx, &m->last_scores, gate->scores));
out:
    fm_host_release(ctx, offsets);
    return status;
}
