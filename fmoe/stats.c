/* Statistics of a layer's routing: sums over what all ranks counted. */
#include "fmoe/census.h"

#include <math.h>
#include <stdlib.h>

/* The part of `whole` that is missing in `part`; of nothing, nothing is missing. */
static double missing(int64_t part, int64_t whole) {
    return whole > 0 ? (double)(whole - part) / (double)whole : 0;
}

/* Before drops: the load that the gate asked for. */
static void note_load(fm_moe *m, const fm_census *c, const int64_t *count, int64_t total) {
    double squares = 0, most = 0, entropy = 0, all = (double)total, mean = all / (double)c->E;
    for (int64_t e = 0; e < c->E; e++) {
        double n = (double)count[e];
        squares += n * n;
        if (n > most) most = n;
        if (n > 0) entropy -= n / all * log(n / all);
    }
    m->stats = (fm_moe_stats){
        .tokens = c->tokens,
        .choices = total,
        .entropy = entropy,
        .balance = c->balance,
        .z = c->z,
        .not_taken = missing(total, c->tokens * m->config.top_k),
        .load_max_over_mean = mean > 0 ? most / mean : 0,
        .load_cv = mean > 0 ? sqrt(fmax(0, squares / (double)c->E - mean * mean)) / mean : 0};
}

void fm_moe_forget_last(fm_moe *m) {
    fm_tensor_free(m->last_indices);
    fm_tensor_free(m->last_scores);
    fm_tensor_free(m->last_counts);
    m->last_indices = m->last_scores = m->last_counts = NULL;
}

fm_status fm_moe_note(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate, const fm_census *c) {
    if (ctx->recomputing || m->generating) return FM_OK; /* a recomputed block was counted */
    int64_t *sums = malloc((size_t)c->E * sizeof *sums);
    int32_t *kept = malloc((size_t)c->E * sizeof *kept);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(sums && kept, FM_ERR_OOM, "out of memory: statistics of %lld experts",
                  (long long)c->E);
    note_load(m, c, sums, fm_census_sum(c, c->counts, sums));
    m->stats.kept = fm_census_sum(c, c->kept, sums);
    m->stats.dropped = missing(m->stats.kept, m->stats.choices);
    for (int64_t e = 0; e < c->E; e++) kept[e] = (int32_t)sums[e];
    fm_moe_forget_last(m);
    m->last_indices = fm_tensor_retain(gate->indices);
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &m->last_counts, FM_I32, 1, &c->E, kept));
    FM_TRY_GOTO(fm_tensor_detach(ctx, &m->last_scores, gate->scores));
out:
    free(sums);
    free(kept);
    return status;
}
