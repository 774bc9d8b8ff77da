/* Generation with a KV cache. */
#include "model/gpt.h"
#include "model/gpt_internal.h"
#include "parallel/agree.h"

#include <stdlib.h>
#include <string.h>

fm_status fm_kv_cache_new(fm_gpt *m, int64_t B, int64_t capacity, fm_kv_cache **out) {
    *out = NULL;
    fm_ctx *ctx = m->ctx;
    fm_kv_cache *c = calloc(1, sizeof *c);
    FM_CHECK(c, FM_ERR_OOM, "out of memory: a KV cache");
    fm_status status = FM_OK;
    int64_t n = m->config.n_layer, own_heads = m->config.n_kv_head / m->mesh->config.tp;
    int64_t width = own_heads * (m->config.d_model / m->config.n_head);
    c->B = B, c->capacity = capacity, c->n_layer = n;
    c->k = calloc((size_t)n, sizeof *c->k);
    c->v = calloc((size_t)n, sizeof *c->v);
    FM_CHECK_GOTO(c->k && c->v, FM_ERR_OOM, "out of memory: a KV cache");
    for (int64_t i = 0; i < n; i++) {
        FM_TRY_GOTO(FM_NEW(ctx, &c->k[i], m->config.dtype, B, capacity, width));
        FM_TRY_GOTO(FM_NEW(ctx, &c->v[i], m->config.dtype, B, capacity, width));
    }
    *out = c;
out:
    if (status != FM_OK) fm_kv_cache_free(c);
    return status;
}

void fm_kv_cache_free(fm_kv_cache *c) {
    if (!c) return;
    for (int64_t i = 0; i < c->n_layer; i++) {
        if (c->k) fm_tensor_free(c->k[i]);
        if (c->v) fm_tensor_free(c->v[i]);
    }
    free(c->k);
    free(c->v);
    free(c);
}

/* Columns [from, from + width) of the S new rows of each sequence go behind those in the cache. */
static fm_status append(fm_ctx *ctx, const fm_kv_cache *c, fm_tensor *into, const fm_tensor *qkv,
                        int64_t from, int64_t width) {
    int64_t S = qkv->shape[1], cols = qkv->shape[2];
    size_t size = fm_dtype_size(qkv->dtype);
    for (int64_t b = 0; b < c->B; b++) {
        char *dst = (char *)into->data + (size_t)((b * c->capacity + c->length) * width) * size;
        const char *src = (const char *)qkv->data + (size_t)(b * S * cols + from) * size;
        FM_TRY(FM_KERNEL(ctx, copy_2d, dst, (size_t)width * size, src, (size_t)cols * size,
                         (size_t)width * size, S));
    }
    return FM_OK;
}

fm_status fm_gpt_attend_cached(fm_gpt *m, int64_t layer, fm_tensor *qkv, fm_kv_cache *cache,
                               fm_tensor **y) {
    fm_ctx *ctx = m->ctx;
    const fm_gpt_config *c = &m->config;
    int64_t B = qkv->shape[0], S = qkv->shape[1], cols = qkv->shape[2];
    int64_t tp = m->mesh->config.tp, dh = c->d_model / c->n_head;
    int64_t H = c->n_head / tp, KV = c->n_kv_head / tp, width = KV * dh;
    FM_CHECK(B == cache->B && cache->length + S <= cache->capacity, FM_ERR_SHAPE,
             "KV cache: %lld sequences of %lld + %lld positions; it holds %lld of %lld",
             (long long)B, (long long)cache->length, (long long)S, (long long)cache->B,
             (long long)cache->capacity);
    FM_TRY(append(ctx, cache, cache->k[layer], qkv, H * dh, width));
    FM_TRY(append(ctx, cache, cache->v[layer], qkv, (H + KV) * dh, width));
    FM_TRY(FM_NEW(ctx, y, qkv->dtype, B, S, H * dh));
    fm_attention_args a = {
        .dt = qkv->dtype,
        .B = B,
        .Sq = S,
        .Skv = cache->length + S,
        .H = H,
        .KV = KV,
        .dh = dh,
        .q = qkv->data,
        .k = cache->k[layer]->data,
        .v = cache->v[layer]->data,
        .q_batch = S * cols,
        .q_row = cols,
        .k_batch = cache->capacity * width,
        .k_row = width,
        .v_batch = cache->capacity * width,
        .v_row = width,
        .scale = 1.0f / __builtin_sqrtf((float)dh),
        .causal = true,
        .o = (*y)->data,
    };
    fm_status status = FM_KERNEL(ctx, attention_forward, &a);
    if (status != FM_OK) fm_tensor_free(*y), *y = NULL;
    return status;
}

/* x [B, S, d] -> its last position [B, d] */
static fm_status last_position(fm_ctx *ctx, fm_tensor *x, fm_tensor **y) {
    int64_t B = x->shape[0], S = x->shape[1], d = x->shape[2];
    size_t size = fm_dtype_size(x->dtype), row = (size_t)d * size;
    FM_TRY(FM_NEW(ctx, y, x->dtype, B, d));
    fm_status status = FM_KERNEL(ctx, copy_2d, (*y)->data, row,
                                 (const char *)x->data + (size_t)(S - 1) * row, (size_t)S * row,
                                 row, B);
    if (status != FM_OK) fm_tensor_free(*y), *y = NULL;
    return status;
}

fm_status fm_gpt_extend(fm_gpt *m, fm_kv_cache *cache, fm_tensor *tokens, fm_tensor **logits) {
    fm_ctx *ctx = m->ctx;
    *logits = NULL;
    fm_tensor *x = NULL, *last = NULL, *n = NULL, *out[3] = {0};
    fm_status status = FM_OK;
    bool was = fm_grad_enable(ctx, false);
    FM_TRY_GOTO(fm_gpt_embed(m, tokens, cache, &x));
    for (int64_t i = 0; i < m->config.n_layer; i++) {
        FM_TRY_GOTO(fm_gpt_block(m, i, x, tokens, cache, out));
        fm_tensor_free(x);
        x = out[0];
        fm_tensor_free(out[1]);
        fm_tensor_free(out[2]);
        out[0] = out[1] = out[2] = NULL;
    }
    FM_TRY_GOTO(last_position(ctx, x, &last));
    FM_TRY_GOTO(fm_gpt_norm(m, &m->norm, last, &n));
    FM_TRY_GOTO(fm_gpt_head(m, n, logits));
    cache->length += fm_cols_of(tokens);
out:
    for (int i = 0; i < 3; i++) fm_tensor_free(out[i]);
    fm_tensor_free(x);
    fm_tensor_free(last);
    fm_tensor_free(n);
    fm_grad_enable(ctx, was);
    return status;
}

/* out[b, at-S .. at) -> logits, as fp32 on the host. */
static fm_status advance(fm_gpt *m, fm_kv_cache *cache, const int32_t *out, int64_t stride,
                         int64_t at, int64_t S, int32_t *staging, float *host_logits) {
    fm_ctx *ctx = m->ctx;
    fm_tensor *tokens = NULL, *logits = NULL, *wide = NULL;
    fm_status status = FM_OK;
    for (int64_t b = 0; b < cache->B; b++)
        memcpy(staging + b * S, out + b * stride + at - S, (size_t)S * sizeof *staging);
    int64_t shape[] = {cache->B, S};
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &tokens, FM_I32, 2, shape, staging));
    FM_TRY_GOTO(fm_gpt_extend(m, cache, tokens, &logits));
    FM_TRY_GOTO(fm_cast(ctx, &wide, logits, FM_F32));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, wide, host_logits, fm_nbytes(wide)));
out:
    fm_tensor_free(tokens);
    fm_tensor_free(logits);
    fm_tensor_free(wide);
    return status;
}

static void set_generating(fm_gpt *m, bool on) {
    for (int64_t i = 0; i < m->config.n_layer; i++)
        if (m->blocks[i].moe) m->blocks[i].moe->generating = on;
}

static fm_status check(fm_gpt *m, const int32_t *prompt, int64_t B, int64_t S, int64_t n,
                       const fm_sampling *s) {
    fm_ctx *ctx = m->ctx;
    FM_CHECK(B >= 1 && S >= 1, FM_ERR_SHAPE,
             "generate: tokens is [%lld, %lld]; at least one sequence of one token is needed",
             (long long)B, (long long)S);
    FM_CHECK(n >= 0, FM_ERR_VALUE, "max_new_tokens is %lld; it must not be negative", (long long)n);
    FM_CHECK(s->temperature >= 0, FM_ERR_VALUE, "temperature is %g; it must not be negative",
             s->temperature);
    FM_CHECK(s->top_k >= 0, FM_ERR_VALUE, "top_k is %lld; it must not be negative (0: all)",
             (long long)s->top_k);
    FM_CHECK(s->top_p > 0 && s->top_p <= 1, FM_ERR_VALUE, "top_p is %g; it must be in (0, 1]",
             s->top_p);
    for (int64_t i = 0; i < B * S; i++)
        FM_CHECK(prompt[i] >= 0 && prompt[i] < m->config.vocab_size, FM_ERR_RANGE,
                 "generate: token %d at [%lld, %lld]; allowed are 0 to %lld", prompt[i],
                 (long long)(i / S), (long long)(i % S), (long long)m->config.vocab_size - 1);
    for (int64_t i = 0; i < m->config.n_layer; i++) {
        const fm_moe *moe = m->blocks[i].moe;
        FM_CHECK(!moe || moe->gate->causal, FM_ERR_UNSUPPORTED,
                 "generate: gate '%s' looks at later tokens", moe->gate->name);
    }
    return FM_OK;
}

/* The ranks that generate together: those that share layers, and all where experts are shared out. */
static fm_comm *together(const fm_gpt *m) {
    bool exchange = m->n_moe > 0 && m->mesh->expert_comm->size > 1;
    return exchange ? m->mesh->stage_comm : m->mesh->tp_comm;
}

/* Whether any of them is to stop: they go on or end together. */
static fm_status agree_to_stop(fm_gpt *m, bool (*stop)(void), bool *stops) {
    double any = stop && stop();
    FM_TRY(fm_agree(together(m), m->ctx, (fm_reduce[]){FM_MAX}, &any, 1));
    *stops = any > 0;
    return FM_OK;
}

fm_status fm_gpt_generate(fm_gpt *m, const int32_t *prompt, int64_t B, int64_t S, int64_t n,
                          const fm_sampling *s, bool (*stop)(void), int32_t *out) {
    fm_ctx *ctx = m->ctx;
    FM_TRY(check(m, prompt, B, S, n, s));
    int64_t V = m->config.vocab_size, window = m->config.seq_len, total = S + n;
    fm_kv_cache *cache = NULL;
    fm_status status = FM_OK;
    int32_t *staging = malloc((size_t)(B * window) * sizeof *staging);
    float *logits = malloc((size_t)(B * V) * sizeof *logits);
    float *scratch = malloc((size_t)V * sizeof *scratch);
    bool was_training = m->training;
    fm_gpt_train(m, false);
    set_generating(m, true);
    FM_CHECK_GOTO(staging && logits && scratch, FM_ERR_OOM, "out of memory: generation's buffers");
    for (int64_t b = 0; b < B; b++)
        memcpy(out + b * total, prompt + b * S, (size_t)S * sizeof *out);
    FM_TRY_GOTO(fm_kv_cache_new(m, B, window, &cache));
    for (int64_t at = S; at < total; at++) {
        bool stops;
        FM_TRY_GOTO(agree_to_stop(m, stop, &stops));
        FM_CHECK_GOTO(!stops, FM_ERR_INTERRUPTED, "generate: stopped after %lld tokens",
                      (long long)(at - S));
        int64_t fresh = 1;
        if (at == S) {
            fresh = S < window ? S : window;
        } else if (cache->length == window) {
            cache->length = 0;
            fresh = window / 2 > 0 ? window / 2 : 1;
        }
        FM_TRY_GOTO(advance(m, cache, out, total, at, fresh, staging, logits));
        /* A draw is numbered by row and position: neither other rows nor n move it. */
        for (int64_t b = 0; b < B; b++)
            out[b * total + at] = fm_sample(logits + b * V, V, s, (uint64_t)b << 32 | (uint64_t)at,
                                            scratch);
    }
out:
    set_generating(m, false);
    fm_gpt_train(m, was_training);
    fm_kv_cache_free(cache);
    free(staging);
    free(logits);
    free(scratch);
    return status;
}
