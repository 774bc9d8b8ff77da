#include "fmoe/census.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One rank's message, in words of 32 bits: tokens, two doubles, then counts [E], first choices [E], and, as
 * floats, sums of probabilities [E]. */
enum { TOKENS, BALANCE, Z = BALANCE + 2, HEAD = Z + 2 };

void fm_census_free(fm_census *c) {
    free(c->counts);
    if (c->kept != c->counts) free(c->kept);
    free(c->first);
    *c = (fm_census){0};
}

static int64_t *numbers(int64_t n) { return calloc((size_t)n, sizeof(int64_t)); }

int64_t fm_census_sum(const fm_census *c, const int64_t *counts, int64_t *per_expert) {
    int64_t total = 0;
    for (int64_t e = 0; e < c->E; e++) {
        per_expert[e] = 0;
        for (int r = 0; r < c->ranks; r++) per_expert[e] += counts[r * c->E + e];
        total += per_expert[e];
    }
    return total;
}

/* all [ranks, n] = every rank's row [n]; host memory. */
static fm_status gather(fm_ctx *ctx, const fm_mesh *mesh, int ranks, int64_t n, const int32_t *row,
                        int32_t *all) {
    fm_tensor *own = NULL, *rows = NULL;
    fm_status status = FM_OK;
    if (ranks == 1) {
        memcpy(all, row, (size_t)n * sizeof *row);
        return FM_OK;
    }
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &own, FM_I32, 1, &n, row));
    FM_TRY_GOTO(FM_NEW(ctx, &rows, FM_I32, ranks, n));
    FM_TRY_GOTO(fm_all_gather_now(mesh->stage_comm, ctx, FM_I32, rows->data, own->data, n));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, rows, all, fm_nbytes(rows)));
out:
    fm_tensor_free(own);
    fm_tensor_free(rows);
    return status;
}

/* While text is generated nothing is measured, and ranks that hold all experts are by themselves. */
static int ranks_of(const fm_moe *m) {
    return m->generating && m->mesh->expert_comm->size == 1 ? 1 : m->mesh->stage_comm->size;
}

/* Σ_t probs[t, e], without the tape. */
static fm_status sum_probs(fm_ctx *ctx, const fm_tensor *probs, float *sums) {
    fm_tensor *s = NULL;
    int64_t E = fm_cols_of(probs);
    FM_TRY(fm_tensor_zeros(ctx, &s, FM_F32, 1, &E));
    fm_status status = FM_KERNEL(ctx, sum_rows, FM_F32, s->data, probs->data, fm_rows_of(probs), E,
                                 1, false);
    if (status == FM_OK) status = fm_tensor_to_host(ctx, s, sums, fm_nbytes(s));
    fm_tensor_free(s);
    return status;
}

/* This rank's loss, where its definition needs no other rank's counts but tp's. */
static fm_status local_balance(fm_ctx *ctx, const fm_moe *m, const int32_t *indices, int64_t B,
                               const int32_t *first, fm_tensor *probs, fm_tensor **loss) {
    if (m->config.aux_loss_scope == FM_SCOPE_SEQUENCE)
        return fm_balance_of_sequences(ctx, m->mesh, loss, probs, indices, m->config.top_k, B);
    int64_t E = fm_cols_of(probs), *wide = numbers(E);
    FM_CHECK(wide, FM_ERR_OOM, "out of memory: the experts' shares");
    for (int64_t e = 0; e < E; e++) wide[e] = first[e];
    fm_status s = fm_balance_of_shares(ctx, loss, probs, wide, fm_rows_of(probs));
    free(wide);
    return s;
}

/* What losses are asked for. */
typedef struct wanted {
    bool measured; /* this forward counts in the statistics */
    bool global;   /* the balance loss needs all ranks' counts */
    bool trained;  /* the balance loss is on the tape */
} wanted;

/* This rank's losses into its message; `loss`: those that are known now and belong on the tape. */
static fm_status own_losses(fm_ctx *ctx, const fm_moe *m, const fm_gate_in *in,
                            const fm_gate_out *gate, fm_tensor *z, const int32_t *indices, wanted w,
                            int32_t *row, fm_tensor **loss) {
    int64_t E = m->config.num_experts;
    double balance = NAN, z_value = NAN;
    fm_tensor *probs = fm_tensor_retain(gate->probs), *found = NULL, *z_of_logits = NULL;
    fm_status status = FM_OK;
    if (w.trained && !w.global)
        FM_TRY_GOTO(local_balance(ctx, m, indices, in->B, row + HEAD + E, probs, loss));
    bool was = fm_grad_enable(ctx, false);
    if (w.measured) {
        if (!probs && !gate->balance && in->logits) status = fm_softmax(ctx, &probs, in->logits);
        if (status == FM_OK && probs && w.global)
            status = sum_probs(ctx, probs, (float *)(row + HEAD + 2 * E));
        if (status == FM_OK && probs && !w.global && !*loss)
            status = local_balance(ctx, m, indices, in->B, row + HEAD + E, probs, &found);
        if (status == FM_OK && !z && in->logits)
            status = fm_z_loss(ctx, &z_of_logits, in->logits, 1.0f);
    }
    fm_grad_enable(ctx, was);
    if (status != FM_OK || !w.measured) goto out;
    const fm_tensor *b = gate->balance ? gate->balance : *loss ? *loss : found;
    if (probs && w.global) balance = 0; /* made of the sums */
    if (b) FM_TRY_GOTO(fm_tensor_item(ctx, b, &balance));
    if (!z) z = z_of_logits;
    if (z) FM_TRY_GOTO(fm_tensor_item(ctx, z, &z_value));
out:
    memcpy(row + BALANCE, &balance, sizeof balance);
    memcpy(row + Z, &z_value, sizeof z_value);
    fm_tensor_free(probs);
    fm_tensor_free(found);
    fm_tensor_free(z_of_logits);
    return status;
}

/* The message of all ranks, as numbers. */
static void read_all(fm_census *c, const int32_t *all, bool sums) {
    int64_t E = c->E, width = HEAD + 3 * E;
    double balance = 0, z = 0, value;
    for (int r = 0; r < c->ranks; r++) c->tokens += all[r * width + TOKENS];
    double tokens = c->tokens > 0 ? (double)c->tokens : 1;
    for (int r = 0; r < c->ranks; r++) {
        const int32_t *row = all + r * width;
        memcpy(&value, row + BALANCE, sizeof value);
        balance += value * (row[TOKENS] / tokens);
        memcpy(&value, row + Z, sizeof value);
        z += value * (row[TOKENS] / tokens);
        for (int64_t e = 0; e < E; e++) {
            c->counts[r * E + e] = row[HEAD + e];
            c->first[e] += row[HEAD + E + e];
        }
    }
    for (int64_t e = 0; sums && e < E; e++) {
        double sum = 0;
        float part;
        for (int r = 0; r < c->ranks; r++) {
            memcpy(&part, all + r * width + HEAD + 2 * E + e, sizeof part);
            sum += (double)part;
        }
        balance += (double)E * ((double)c->first[e] / tokens) * (sum / tokens);
    }
    c->balance = balance;
    c->z = z;
}

fm_status fm_census_take(fm_ctx *ctx, const fm_moe *m, const fm_gate_in *in,
                         const fm_gate_out *gate, fm_tensor *z, fm_census *c, fm_tensor **balance) {
    int64_t E = m->config.num_experts, k = m->config.top_k, width = HEAD + 3 * E;
    int32_t *index = NULL;
    *balance = NULL;
    *c = (fm_census){.ranks = ranks_of(m), .E = E, .balance = NAN, .z = NAN};
    c->me = c->ranks > 1 ? m->mesh->stage_comm->rank : 0;
    wanted w = {.measured = !ctx->recomputing && !m->generating,
                .global = m->config.aux_loss_scope == FM_SCOPE_GLOBAL && !gate->balance,
                .trained = m->config.aux_loss_weight > 0 && gate->probs && !m->generating};
    fm_status status = FM_OK;
    int32_t *all = calloc((size_t)(width * (c->ranks + 1)), sizeof *all);
    int32_t *row = all ? all + width * c->ranks : NULL;
    c->kept = c->counts = numbers(c->ranks * E);
    c->first = numbers(E);
    FM_CHECK_GOTO(all && c->counts && c->first, FM_ERR_OOM,
                  "out of memory: counts of %lld experts on %d ranks", (long long)E, c->ranks);
    FM_TRY_GOTO(fm_host_view(ctx, gate->indices, (void **)&index));
    row[TOKENS] = (int32_t)in->T;
    for (int64_t i = 0; i < in->T * k; i++) {
        if (index[i] < 0) continue;
        row[HEAD + index[i]]++;
        if (i % k == 0) row[HEAD + E + index[i]]++;
    }
    FM_TRY_GOTO(own_losses(ctx, m, in, gate, z, index, w, row, balance));
    FM_TRY_GOTO(gather(ctx, m->mesh, c->ranks, width, row, all));
    read_all(c, all, w.measured && w.global);
    if (w.trained && w.global)
        FM_TRY_GOTO(fm_balance_of_shares(ctx, balance, gate->probs, c->first, c->tokens));
    if (gate->balance && m->config.aux_loss_weight > 0) *balance = fm_tensor_retain(gate->balance);
out:
    free(all);
    fm_host_release(ctx, index);
    if (status != FM_OK) {
        fm_census_free(c);
        fm_tensor_free(*balance);
        *balance = NULL;
    }
    return status;
}

fm_status fm_census_recount(fm_ctx *ctx, const fm_moe *m, const fm_tensor *indices, fm_census *c) {
    int64_t E = c->E, n = fm_numel(indices);
    int32_t *index = NULL, *all = calloc((size_t)(E * (c->ranks + 1)), sizeof *all);
    int64_t *kept = numbers(c->ranks * E);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(all && kept, FM_ERR_OOM, "out of memory: counts of %lld experts on %d ranks",
                  (long long)E, c->ranks);
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    int32_t *row = all + c->ranks * E;
    for (int64_t i = 0; i < n; i++)
        if (index[i] >= 0) row[index[i]]++;
    FM_TRY_GOTO(gather(ctx, m->mesh, c->ranks, E, row, all));
    for (int64_t i = 0; i < c->ranks * E; i++) kept[i] = all[i];
    c->kept = kept;
    kept = NULL;
out:
    free(all);
    free(kept);
    fm_host_release(ctx, index);
    return status;
}
