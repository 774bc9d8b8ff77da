/* Which choices find a place at their expert. */
#include "fmoe/census.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t fm_capacity(double factor, int64_t k, int64_t rows, int64_t E) {
    /* The factor is meant as written: 1.1 · 10 is 11, though it is 11.000000000000002 in binary. */
    double c = factor * (double)(k * rows) / (double)E;
    /* As much as any number of rows; an infinite factor too means that nothing is dropped. */
    return c < 0x1p62 ? (int64_t)ceil(c - 1e-9 * c) : INT64_MAX;
}

typedef struct candidate {
    float score;
    int32_t token, choice;
} candidate;

/* Highest score first; ties to the earlier token. NaN cannot occur: the layer refuses it. */
static int better_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Drops choices of rows [start, stop): the first of each expert in order stay, until `capacity` of its places
 * are used. */
static void drop_by_position(int32_t *index, int64_t *used, int64_t k, int64_t start, int64_t stop,
                             int64_t capacity) {
    for (int64_t i = start * k; i < stop * k; i++)
        if (index[i] >= 0 && used[index[i]]++ >= capacity) index[i] = -1;
}

static void drop_by_score(int32_t *index, const float *score, candidate *queue, int64_t E,
                          int64_t k, int64_t start, int64_t stop, int64_t capacity) {
    for (int32_t e = 0; e < E; e++) {
        size_t n = 0;
        for (int64_t i = start * k; i < stop * k; i++)
            if (index[i] == e)
                queue[n++] = (candidate){score[i], (int32_t)(i / k), (int32_t)(i % k)};
        if ((int64_t)n <= capacity) continue;
        qsort(queue, n, sizeof *queue, better_first);
        for (size_t j = (size_t)capacity; j < n; j++)
            index[queue[j].token * k + queue[j].choice] = -1;
    }
}

fm_status fm_capacity_drop(fm_ctx *ctx, fm_tensor *indices, const fm_tensor *scores, int64_t E,
                           int64_t B, int64_t capacity, bool per_sequence, bool by_score,
                           const int64_t *before) {
    int64_t T = fm_rows_of(indices), k = fm_cols_of(indices);
    int64_t groups = per_sequence ? B : 1, rows = T / groups;
    int32_t *index = NULL;
    float *score = NULL;
    int64_t *used = NULL;
    candidate *queue = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, scores, (void **)&score));
    used = malloc((size_t)E * sizeof *used);
    queue = malloc((size_t)(rows * k) * sizeof *queue + 1);
    FM_CHECK_GOTO(used && queue, FM_ERR_OOM, "out of memory: capacity of %lld experts",
                  (long long)E);
    for (int64_t g = 0; g < groups; g++) {
        int64_t start = g * rows, stop = start + rows;
        for (int64_t e = 0; e < E; e++) used[e] = before ? before[e] : 0;
        if (by_score)
            drop_by_score(index, score, queue, E, k, start, stop, capacity);
        else
            drop_by_position(index, used, k, start, stop, capacity);
    }
    FM_TRY_GOTO(fm_host_commit(ctx, indices, index));
out:
    free(queue);
    free(used);
    fm_host_release(ctx, score);
    fm_host_release(ctx, index);
    return status;
}

/* ---- of a layer, whose sequences may be spread over tp ranks */

/* The parts [B, S/tp, k] of every tp rank as the whole [B, S, k]; words of 32 bits. */
static fm_status whole_sequences(fm_ctx *ctx, fm_comm *tp, const fm_tensor *part, int64_t B,
                                 fm_tensor **out) {
    int64_t k = fm_cols_of(part), n = fm_numel(part), block = B > 0 ? n / B : 0;
    fm_tensor *parts = NULL;
    int32_t *from = NULL, *to = malloc((size_t)(n * tp->size) * sizeof *to + 1);
    fm_status status = FM_OK;
    *out = NULL;
    FM_CHECK_GOTO(to, FM_ERR_OOM, "out of memory: the routing of whole sequences");
    FM_TRY_GOTO(FM_NEW(ctx, &parts, part->dtype, tp->size, n));
    FM_TRY_GOTO(fm_all_gather_now(tp, ctx, part->dtype, parts->data, part->data, n));
    FM_TRY_GOTO(fm_host_view(ctx, parts, (void **)&from));
    for (int64_t r = 0; r < tp->size; r++)
        for (int64_t b = 0; b < B; b++)
            memcpy(to + (b * tp->size + r) * block, from + r * n + b * block,
                   (size_t)block * sizeof *to);
    FM_TRY_GOTO(
        fm_tensor_from_host(ctx, out, part->dtype, 2, (int64_t[]){tp->size * n / k, k}, to));
out:
    free(to);
    fm_host_release(ctx, from);
    fm_tensor_free(parts);
    return status;
}

/* This rank's part of the whole [B, S, k] into `part`. */
static fm_status take_part(fm_ctx *ctx, const fm_comm *tp, const fm_tensor *whole, int64_t B,
                           fm_tensor *part) {
    int64_t n = fm_numel(part), block = B > 0 ? n / B : 0;
    size_t bytes = (size_t)block * sizeof(int32_t);
    return FM_KERNEL(ctx, copy_2d, part->data, bytes,
                     (const int32_t *)whole->data + tp->rank * block, bytes * (size_t)tp->size,
                     bytes, B);
}

/* Of the ranks that hold earlier sequences: the places that their choices take. */
static int64_t *taken_before(const fm_moe *m, const fm_census *c) {
    int64_t *taken = calloc((size_t)c->E, sizeof *taken);
    int first = c->ranks > 1 ? m->mesh->at.dp_rank * m->mesh->config.tp : 0;
    for (int r = 0; taken && r < first; r++)
        for (int64_t e = 0; e < c->E; e++) taken[e] += c->counts[r * c->E + e];
    return taken;
}

fm_status fm_moe_apply_capacity(fm_ctx *ctx, const fm_moe *m, const fm_gate_out *gate, int64_t B,
                                double factor, fm_census *c) {
    const fm_moe_config *o = &m->config;
    fm_comm *tp = m->mesh->tp_comm;
    bool spread = tp->size > 1 && o->capacity_scope != FM_SCOPE_RANK;
    bool by_score = o->drop_policy == FM_DROP_SCORE;
    bool per_sequence = o->capacity_scope == FM_SCOPE_SEQUENCE;
    fm_tensor *indices = NULL, *scores = NULL;
    int64_t *before = NULL;
    fm_status status = FM_OK;
    if (spread) {
        FM_TRY_GOTO(whole_sequences(ctx, tp, gate->indices, B, &indices));
        if (by_score) FM_TRY_GOTO(whole_sequences(ctx, tp, gate->scores, B, &scores));
    } else {
        indices = fm_tensor_retain(gate->indices);
    }
    if (!scores) scores = fm_tensor_retain(gate->scores);
    int64_t rows = fm_rows_of(indices);
    if (per_sequence) rows /= B;
    if (o->capacity_scope == FM_SCOPE_GLOBAL) {
        rows = c->tokens;
        before = taken_before(m, c);
        FM_CHECK_GOTO(before, FM_ERR_OOM, "out of memory: capacity of %lld experts",
                      (long long)c->E);
    }
    FM_TRY_GOTO(fm_capacity_drop(ctx, indices, scores, c->E, B,
                                 fm_capacity(factor, o->top_k, rows, c->E), per_sequence, by_score,
                                 before));
    if (spread) FM_TRY_GOTO(take_part(ctx, tp, indices, B, gate->indices));
    FM_TRY_GOTO(fm_census_recount(ctx, m, gate->indices, c));
out:
    free(before);
    fm_tensor_free(indices);
    fm_tensor_free(scores);
    return status;
}
