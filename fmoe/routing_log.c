#include "fmoe/routing_log.h"

#include <stdlib.h>
#include <string.h>

fm_status fm_routing_log_add(fm_ctx *ctx, fm_routing_log *log, const fm_routing_entry *entry) {
    if (log->n == log->room) {
        int room = log->room ? 2 * log->room : 64;
        fm_routing_entry *more = realloc(log->entries, (size_t)room * sizeof *more);
        FM_CHECK(more, FM_ERR_OOM, "out of memory: a recording of %d forwards", room);
        log->entries = more;
        log->room = room;
    }
    size_t bytes = (size_t)(entry->T * entry->k) * sizeof(int32_t);
    int32_t *copy = malloc(bytes + 1);
    FM_CHECK(copy, FM_ERR_OOM, "out of memory: a recording of %zu bytes", bytes);
    memcpy(copy, entry->choices, bytes);
    log->entries[log->n] = *entry;
    log->entries[log->n++].choices = copy;
    return FM_OK;
}

void fm_routing_log_clear(fm_routing_log *log) {
    for (int i = 0; i < log->n; i++) free(log->entries[i].choices);
    free(log->entries);
    *log = (fm_routing_log){.replay = log->replay};
}

void fm_routing_log_attach(fm_moe *m, fm_routing_log *log, int layer) {
    m->log = log;
    m->log_layer = layer;
    m->log_pass = -1;
}

/* Which forward this is; a block that is computed again is the last one's. */
static fm_routing_key key_of(const fm_ctx *ctx, fm_moe *m) {
    const fm_clock *c = ctx->clock;
    if (!ctx->recomputing) {
        bool same = m->log_pass >= 0 && m->log_clock.step == c->step &&
                    m->log_clock.micro == c->micro;
        m->log_pass = same ? m->log_pass + 1 : 0;
        m->log_clock = *c;
    }
    return (fm_routing_key){m->log_layer, c->step, c->micro, m->log_pass};
}

static bool same_key(fm_routing_key a, fm_routing_key b) {
    return a.layer == b.layer && a.step == b.step && a.micro == b.micro && a.pass == b.pass;
}

static fm_rng_key numbering(fm_rows r) {
    return (fm_rng_key){.row_offset = r.offset, .row_block = r.block, .row_stride = r.stride};
}

fm_status fm_routing_recall(fm_ctx *ctx, fm_moe *m, int64_t T, fm_tensor **choices) {
    *choices = NULL;
    if (!m->log || !m->log->replay || !m->training || m->generating) return FM_OK;
    FM_CHECK(!m->gate->own_router, FM_ERR_UNSUPPORTED,
             "gate '%s' has a router of its own: its choices can be recorded, not replayed",
             m->gate->name);
    fm_routing_key key = key_of(ctx, m);
    const fm_routing_entry *found = NULL;
    for (int i = 0; !found && i < m->log->n; i++)
        if (same_key(m->log->entries[i].key, key)) found = &m->log->entries[i];
    FM_CHECK(found, FM_ERR_VALUE,
             "replay: nothing is recorded of step %u, micro-batch %u, forward %d of the layer",
             key.step, key.micro, key.pass);
    int64_t k = m->config.top_k;
    FM_CHECK(found->k == k, FM_ERR_VALUE,
             "replay: %lld choices a token are recorded; top_k is %lld", (long long)found->k,
             (long long)k);
    fm_rng_key number = numbering(ctx->rows);
    int32_t *rows = malloc((size_t)(T * k) * sizeof *rows + 1);
    FM_CHECK(rows, FM_ERR_OOM, "out of memory: the routing of %lld tokens", (long long)T);
    fm_status status = FM_OK;
    for (int64_t t = 0; status == FM_OK && t < T; t++) {
        int64_t row = fm_rng_row(&number, t);
        if (row >= found->T)
            status = fm_fail(
                &ctx->error, FM_ERR_VALUE,
                "replay: %lld tokens are recorded; the micro-batch here has number %lld",
                (long long)found->T, (long long)row);
        else
            memcpy(rows + t * k, found->choices + row * k, (size_t)k * sizeof *rows);
    }
    if (status == FM_OK)
        status = fm_tensor_from_host(ctx, choices, FM_I32, 2, (int64_t[]){T, k}, rows);
    free(rows);
    return status;
}

fm_status fm_routing_note(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate) {
    if (!m->log || m->log->replay || !m->training || m->generating || ctx->recomputing)
        return FM_OK;
    int64_t T = fm_rows_of(gate->indices), k = fm_cols_of(gate->indices);
    int32_t *taken = NULL, *chosen = NULL, *choices = malloc((size_t)(T * k) * sizeof *choices + 1);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(choices, FM_ERR_OOM, "out of memory: a recording of %lld tokens", (long long)T);
    FM_TRY_GOTO(fm_host_view(ctx, gate->indices, (void **)&taken));
    FM_TRY_GOTO(fm_host_view(ctx, gate->chosen ? gate->chosen : gate->indices, (void **)&chosen));
    for (int64_t i = 0; i < T * k; i++)
        choices[i] = taken[i] >= 0 || chosen[i] < 0 ? taken[i] : -2 - chosen[i];
    fm_routing_entry e = {
        .key = key_of(ctx, m), .rows = ctx->rows, .T = T, .k = k, .choices = choices};
    FM_TRY_GOTO(fm_routing_log_add(ctx, m->log, &e));
out:
    free(choices);
    fm_host_release(ctx, taken);
    fm_host_release(ctx, chosen);
    return status;
}
