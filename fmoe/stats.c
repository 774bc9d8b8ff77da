/* Statistics of a layer's routing: cheap sums over [E] and [T, k], on the host. */
#include "fmoe/moe.h"

#include <math.h>

/* Before drops: the load that the gate asked for. */
fm_status fm_moe_note_routing(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate, const fm_tensor *z) {
    if (ctx->recomputing || m->generating) return FM_OK; /* a recomputed block was counted */
    fm_moe_stats *s = &m->stats;
    int64_t E = m->config.num_experts, T = fm_rows_of(gate->indices);
    fm_moe_map map = {0};
    int32_t *count = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_moe_map_new(ctx, &map, gate->indices, E));
    FM_TRY_GOTO(fm_host_view(ctx, map.counts, (void **)&count));
    double total = 0, squares = 0, most = 0, entropy = 0;
    for (int64_t e = 0; e < E; e++) {
        total += count[e];
        squares += (double)count[e] * count[e];
        if (count[e] > most) most = count[e];
    }
    double mean = total / (double)E;
    for (int64_t e = 0; e < E; e++)
        if (count[e] > 0) entropy -= count[e] / total * log(count[e] / total);
    *s = (fm_moe_stats){.tokens = T, .entropy = entropy};
    s->load_max_over_mean = mean > 0 ? most / mean : 0;
    s->load_cv = mean > 0 ? sqrt(fmax(0, squares / (double)E - mean * mean)) / mean : 0;
    if (gate->balance) FM_TRY_GOTO(fm_tensor_item(ctx, gate->balance, &s->balance));
    if (z) FM_TRY_GOTO(fm_tensor_item(ctx, z, &s->z));
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
    double all = (double)(map->T * map->k);
    m->stats.dropped = all > 0 ? 1.0 - offsets[map->E] / all : 0;
    fm_moe_forget_last(m);
    m->last_indices = fm_tensor_retain(gate->indices);
    m->last_counts = fm_tensor_retain(map->counts);
    FM_TRY_GOTO(fm_tensor_detach(ctx, &m->last_scores, gate->scores));
out:
    fm_host_release(ctx, offsets);
    return status;
}
