#include "io/loader.h"
#include "tensor/rng.h"

#include <stdlib.h>
#include <string.h>

struct fm_loader {
    const fm_dataset *data;
    fm_loader_config c;
    int64_t first_token; /* of the split */
    int64_t samples;
    int64_t micro_batch; /* samples, over all ranks */
    int64_t rows;        /* of them, this rank's */
    int64_t position;
    bool ended;      /* without shuffling: the epoch is over and the caller was not told yet */
    int32_t *window; /* [seq_len + 1] */
};

static fm_status check(fm_ctx *ctx, const fm_loader_config *c) {
    const struct {
        const char *name;
        int64_t value;
    } counts[] = {{"batch_size", c->batch_size},
                  {"micro_batches", c->micro_batches},
                  {"seq_len", c->seq_len},
                  {"dp", c->dp}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        FM_CHECK(counts[i].value >= 1, FM_ERR_VALUE, "loader: %s is %lld; it must be at least 1",
                 counts[i].name, (long long)counts[i].value);
    FM_CHECK(c->seq_len <= INT32_MAX, FM_ERR_VALUE,
             "loader: seq_len is %lld; it must be below 2^31", (long long)c->seq_len);
    FM_CHECK(c->dp_rank >= 0 && c->dp_rank < c->dp, FM_ERR_VALUE,
             "loader: dp_rank is %d; it must be in [0, dp = %d)", c->dp_rank, c->dp);
    FM_CHECK(c->split_start >= 0 && c->split_start < c->split_stop && c->split_stop <= 1,
             FM_ERR_VALUE, "loader: the split is [%g, %g); it must satisfy 0 <= start < stop <= 1",
             c->split_start, c->split_stop);
    int64_t parts;
    FM_CHECK(!__builtin_mul_overflow((int64_t)c->dp, c->micro_batches, &parts) &&
                 c->batch_size % parts == 0,
             FM_ERR_VALUE,
             "loader: batch_size is %lld; it must divide by dp x micro_batches = %d x %lld",
             (long long)c->batch_size, c->dp, (long long)c->micro_batches);
    return FM_OK;
}

fm_status fm_loader_new(fm_ctx *ctx, const fm_dataset *d, const fm_loader_config *c,
                        fm_loader **out) {
    *out = NULL;
    FM_TRY(check(ctx, c));
    int64_t tokens = fm_dataset_tokens(d);
    int64_t first = (int64_t)(c->split_start * (double)tokens);
    int64_t stop = c->split_stop == 1 ? tokens : (int64_t)(c->split_stop * (double)tokens);
    /* The last token of a window is only a target, and the next window's first input. */
    int64_t samples = (stop - first - 1) / c->seq_len;
    FM_CHECK(stop - first >= 1 && samples >= 1, FM_ERR_VALUE,
             "loader: the split [%g, %g) of %lld tokens holds %lld; one sample needs seq_len + 1 = "
             "%lld",
             c->split_start, c->split_stop, (long long)tokens, (long long)(stop - first),
             (long long)c->seq_len + 1);
    fm_loader *l = calloc(1, sizeof *l);
    int32_t *window = malloc(((size_t)c->seq_len + 1) * sizeof *window);
    if (!l || !window) {
        free(l), free(window);
        return fm_fail(&ctx->error, FM_ERR_OOM, "loader: no memory for a window of %lld tokens",
                       (long long)c->seq_len + 1);
    }
    *l = (fm_loader){.data = d,
                     .c = *c,
                     .first_token = first,
                     .samples = samples,
                     .micro_batch = c->batch_size / c->micro_batches,
                     .rows = c->batch_size / c->micro_batches / c->dp,
                     .window = window};
    *out = l;
    return FM_OK;
}

void fm_loader_free(fm_loader *l) {
    if (!l) return;
    free(l->window);
    free(l);
}

int64_t fm_loader_rows(const fm_loader *l) { return l->rows; }
int64_t fm_loader_samples(const fm_loader *l) { return l->samples; }
int64_t fm_loader_position(const fm_loader *l) { return l->position; }
int64_t fm_loader_epoch(const fm_loader *l) { return l->position / l->samples; }

void fm_loader_reset(fm_loader *l) {
    l->position = 0;
    l->ended = false;
}

fm_status fm_loader_seek(fm_ctx *ctx, fm_loader *l, int64_t position) {
    FM_CHECK(position >= 0 && position <= INT64_MAX / 2, FM_ERR_RANGE,
             "loader: position is %lld; it must be in [0, 2^62)", (long long)position);
    l->position = position;
    l->ended = false;
    return FM_OK;
}

/* Sample number `position` of all epochs into one row. */
static fm_status read_row(fm_ctx *ctx, fm_loader *l, int64_t position, int32_t *tokens,
                          int32_t *targets) {
    int64_t epoch = position / l->samples, sample = position % l->samples;
    if (l->c.shuffle) {
        uint64_t key = fm_mix64(l->c.seed ^ fm_mix64((uint64_t)epoch));
        sample = fm_permute_index(key, l->samples, sample);
    }
    int64_t S = l->c.seq_len;
    FM_TRY(fm_dataset_read(ctx, l->data, l->first_token + sample * S, S + 1, l->window));
    memcpy(tokens, l->window, (size_t)S * sizeof *tokens);
    memcpy(targets, l->window + 1, (size_t)S * sizeof *targets);
    return FM_OK;
}

fm_status fm_loader_next(fm_ctx *ctx, fm_loader *l, int32_t *tokens, int32_t *targets,
                         int64_t *valid) {
    int64_t there = l->micro_batch;
    if (l->ended) {
        there = 0;
    } else if (!l->c.shuffle) {
        int64_t left = l->samples - l->position % l->samples;
        if (left < there) there = left;
    }
    int64_t S = l->c.seq_len;
    for (int64_t r = 0; r < l->rows; r++) {
        int64_t i = l->c.dp_rank * l->rows + r;
        int32_t *row_tokens = tokens + r * S, *row_targets = targets + r * S;
        if (i < there) {
            FM_TRY(read_row(ctx, l, l->position + i, row_tokens, row_targets));
        } else {
            for (int64_t s = 0; s < S; s++) row_tokens[s] = 0, row_targets[s] = -1;
        }
    }
    l->position += there;
    l->ended = !l->c.shuffle && there > 0 && l->position % l->samples == 0;
    if (valid) *valid = there;
    return FM_OK;
}
