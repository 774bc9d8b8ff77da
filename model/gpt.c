/* GPT's forward pass; the backward is the tape's. */
#include "model/gpt.h"

#include "model/gpt_internal.h"
#include "model/target_share.h"
#include "parallel/sequence.h"
#include "parallel/tape_collectives.h"
#include "parallel/tensor_parallel.h"
#include "parallel/vocab_parallel.h"

fm_status fm_gpt_norm(fm_gpt *m, const fm_norm_params *p, fm_tensor *x, fm_tensor **y) {
    float eps = (float)m->config.norm_eps;
    return m->config.norm == FM_NORM_RMS ? fm_rms_norm(m->ctx, y, x, p->weight, eps)
                                         : fm_layer_norm(m->ctx, y, x, p->weight, p->bias, eps);
}

/* y = x + dropout(f), f [B, S, d] */
static fm_status residual(fm_gpt *m, fm_tensor *x, fm_tensor *f, uint64_t stream, fm_tensor **y) {
    float p = m->training ? (float)m->config.dropout : 0.0f;
    if (p == 0.0f) return fm_add(m->ctx, y, x, f);
    fm_rng_key key = fm_rng(m->ctx, stream);
    fm_tensor *dropped;
    FM_TRY(fm_dropout(m->ctx, &dropped, f, p, &key));
    fm_status status = fm_add(m->ctx, y, x, dropped);
    fm_tensor_free(dropped);
    return status;
}

/* ---- where the tp ranks meet; with one rank: the plain operation. See gpt_internal.h for the two ways. */

static fm_status sum_over_ranks(fm_gpt *m, const fm_kv_cache *cache, fm_tensor **y, fm_tensor *x) {
    fm_comm *tp = m->mesh->tp_comm;
    return cache && tp->size > 1 ? fm_all_reduce(m->ctx, tp, y, x)
                                 : fm_scatter_sum_sequence(m->ctx, tp, y, x);
}

static fm_status column_linear(fm_gpt *m, const fm_kv_cache *cache, fm_tensor **y, fm_tensor *x,
                               fm_tensor *w, fm_tensor *b, fm_act act) {
    return cache ? fm_linear(m->ctx, y, x, w, b, act)
                 : fm_column_linear(m->ctx, m->mesh->tp_comm, y, x, w, b, act);
}

static fm_status row_linear(fm_gpt *m, const fm_kv_cache *cache, fm_tensor **y, fm_tensor *x,
                            fm_tensor *w, fm_tensor *b) {
    fm_comm *tp = m->mesh->tp_comm;
    return cache ? fm_row_linear_whole(m->ctx, tp, y, x, w, b)
                 : fm_row_linear(m->ctx, tp, y, x, w, b);
}

/* ---- the layers */

fm_status fm_gpt_embed(fm_gpt *m, fm_tensor *tokens, const fm_kv_cache *cache, fm_tensor **x) {
    fm_ctx *ctx = m->ctx;
    const fm_gpt_config *c = &m->config;
    const fm_mesh *mesh = m->mesh;
    fm_tensor *e = NULL, *own = NULL, *pos = NULL, *sum = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_vocab_embedding(ctx, mesh->tp_comm, &e, m->embed_token, tokens, c->vocab_size));
    FM_TRY_GOTO(sum_over_ranks(m, cache, &own, e));
    if (c->position == FM_POSITION_LEARNED) {
        int64_t S = own->shape[1], from = cache ? cache->length : mesh->at.tp_rank * S;
        FM_TRY_GOTO(fm_split(ctx, &pos, m->embed_position, 0, from, from + S)); /* [S, d] */
        FM_TRY_GOTO(fm_add_rows(ctx, &sum, own, pos));
    } else {
        sum = fm_tensor_retain(own);
    }
    if (m->training && c->dropout > 0) {
        fm_rng_key key = fm_rng(ctx, m->dropout_embed);
        FM_TRY_GOTO(fm_dropout(ctx, x, sum, (float)c->dropout, &key));
    } else {
        *x = fm_tensor_retain(sum);
    }
out:
    fm_tensor_free(e);
    fm_tensor_free(own);
    fm_tensor_free(pos);
    fm_tensor_free(sum);
    return status;
}

/* x -> attention(norm1(x)), causal; all positions, own heads */
static fm_status attention(fm_gpt *m, int64_t layer, fm_tensor *x, fm_kv_cache *cache,
                           fm_tensor **y) {
    fm_ctx *ctx = m->ctx;
    const fm_gpt_config *c = &m->config;
    const fm_block *b = &m->blocks[layer];
    fm_tensor *n = NULL, *qkv = NULL, *rotated = NULL, *a = NULL;
    fm_status status = FM_OK;
    int64_t tp = m->mesh->config.tp, dh = c->d_model / c->n_head;
    int64_t H = c->n_head / tp, KV = c->n_kv_head / tp;
    FM_TRY_GOTO(fm_gpt_norm(m, &b->norm1, x, &n));
    FM_TRY_GOTO(column_linear(m, cache, &qkv, n, b->qkv_w, b->qkv_b, FM_ACT_NONE));
    if (c->position == FM_POSITION_ROPE)
        FM_TRY_GOTO(fm_rope(ctx, &rotated, qkv, H + KV, dh, (float)c->rope_theta,
                            cache ? cache->length : 0));
    else
        rotated = fm_tensor_retain(qkv);
    if (cache)
        FM_TRY_GOTO(fm_gpt_attend_cached(m, layer, rotated, cache, &a));
    else
        FM_TRY_GOTO(fm_attention_qkv(ctx, &a, rotated, H, KV, true, 0)); /* [B, S, H dh] */
    FM_TRY_GOTO(row_linear(m, cache, y, a, b->out_w, b->out_b));
out:
    fm_tensor_free(n);
    fm_tensor_free(qkv);
    fm_tensor_free(rotated);
    fm_tensor_free(a);
    return status;
}

/* x -> down(act(up(x))); all positions, own hidden units */
static fm_status mlp(fm_gpt *m, const fm_block *b, fm_tensor *x, const fm_kv_cache *cache,
                     fm_tensor **y) {
    fm_act act = m->config.activation;
    bool glu = fm_act_is_glu(act); /* an operation of its own: it halves the width */
    fm_tensor *h = NULL, *a = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(column_linear(m, cache, &h, x, b->up_w, b->up_b, glu ? FM_ACT_NONE : act));
    if (glu)
        FM_TRY_GOTO(fm_activation(m->ctx, &a, h, act));
    else
        a = fm_tensor_retain(h);
    FM_TRY_GOTO(row_linear(m, cache, y, a, b->down_w, b->down_b));
out:
    fm_tensor_free(h);
    fm_tensor_free(a);
    return status;
}

/* x += attention(norm1(x));  x += ffn(norm2(x)) */
fm_status fm_gpt_block(fm_gpt *m, int64_t layer, fm_tensor *x, fm_tensor *tokens,
                       fm_kv_cache *cache, fm_tensor **out) {
    fm_block *b = &m->blocks[layer];
    fm_tensor *a = NULL, *mid = NULL, *n = NULL, *f = NULL;
    fm_moe_out moe = {0};
    fm_status status = FM_OK;
    FM_TRY_GOTO(attention(m, layer, x, cache, &a));
    FM_TRY_GOTO(residual(m, x, a, b->dropout_attn, &mid));
    FM_TRY_GOTO(fm_gpt_norm(m, &b->norm2, mid, &n));
    if (b->moe) {
        FM_TRY_GOTO(fm_moe_forward(m->ctx, b->moe, n, tokens, &moe));
        f = fm_tensor_retain(moe.y);
    } else {
        FM_TRY_GOTO(mlp(m, b, n, cache, &f));
    }
    FM_TRY_GOTO(residual(m, mid, f, b->dropout_ffn, &out[0]));
    out[1] = fm_tensor_retain(moe.balance);
    out[2] = fm_tensor_retain(moe.z);
out:
    fm_moe_out_free(&moe);
    fm_tensor_free(a);
    fm_tensor_free(mid);
    fm_tensor_free(n);
    fm_tensor_free(f);
    if (status != FM_OK) fm_fail_context(&m->ctx->error, status, "layer %lld", (long long)layer);
    return status;
}

typedef struct block_call {
    fm_gpt *m;
    int64_t layer;
    bool training; /* of the first pass, whatever was set since */
} block_call;

static fm_status recomputed_block(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    (void)ctx;
    const block_call *call = user;
    bool was = call->m->training;
    fm_gpt_train(call->m, call->training);
    fm_status status = fm_gpt_block(call->m, call->layer, in[0], in[1], NULL, out);
    fm_gpt_train(call->m, was);
    return status;
}

/* A parameter of the block that is not frozen; NULL: all are. Recomputation hides what is inside, and who
 * walks the tape to see what a loss was computed from (an optimiser's owner) shall meet one. */
static fm_tensor *trained(const fm_gpt *m, int64_t layer) {
    for (int i = m->blocks[layer].first_param; i < m->blocks[layer].end_param; i++)
        if (m->params->items[i]->weight->requires_grad) return m->params->items[i]->weight;
    return NULL;
}

/* *sum += weight · x, where x is there */
static fm_status add_loss(fm_ctx *ctx, fm_tensor **sum, fm_tensor *x, double weight) {
    if (!x || weight == 0) return FM_OK;
    fm_tensor *scaled = NULL, *next = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_scale(ctx, &scaled, x, (float)weight));
    if (*sum) {
        FM_TRY_GOTO(fm_add(ctx, &next, *sum, scaled));
        fm_tensor_free(*sum);
        *sum = next;
    } else {
        *sum = fm_tensor_retain(scaled);
    }
out:
    fm_tensor_free(scaled);
    return status;
}

/* This rank's positions of tokens [B, S] -> [B, S/tp] */
static fm_status own_positions(fm_gpt *m, fm_tensor *tokens, fm_tensor **own) {
    int64_t S = tokens->shape[1] / m->mesh->config.tp, from = m->mesh->at.tp_rank * S;
    return fm_split(m->ctx, own, tokens, 1, from, from + S);
}

/* tokens -> norm(x) [B, S, d], all positions on each tp rank, and the layers' weighted losses into
 * `losses` (may be NULL) */
static fm_status trunk(fm_gpt *m, fm_tensor *tokens, fm_tensor **y, fm_gpt_out *losses) {
    fm_ctx *ctx = m->ctx;
    const fm_moe_config *moe = &m->config.moe;
    fm_tensor *x = NULL, *own = NULL, *n = NULL, *out[3] = {0};
    fm_status status = FM_OK;
    const fm_clock *clock = fm_clock_enter(ctx, &m->params->clock);
    fm_rows rows = fm_rows_enter(ctx, fm_mesh_rows(m->mesh, tokens->shape[0], tokens->shape[1]));
    FM_TRY_GOTO(own_positions(m, tokens, &own));
    FM_TRY_GOTO(fm_gpt_embed(m, tokens, NULL, &x));
    for (int64_t i = 0; i < m->config.n_layer; i++) {
        if (m->config.recompute) {
            block_call call = {m, i, m->training};
            FM_TRY_GOTO(fm_recompute(ctx, recomputed_block, &call, sizeof call, &m->keep,
                                     (fm_tensor *[]){x, own, trained(m, i)}, 3, out, 3));
        } else {
            FM_TRY_GOTO(fm_gpt_block(m, i, x, own, NULL, out));
        }
        fm_tensor_free(x);
        x = out[0];
        out[0] = NULL;
        if (losses) {
            double layers = (double)m->n_moe;
            FM_TRY_GOTO(
                add_loss(ctx, &losses->balance_loss, out[1], moe->aux_loss_weight / layers));
            FM_TRY_GOTO(add_loss(ctx, &losses->z_loss, out[2], moe->z_loss_weight / layers));
        }
        fm_tensor_free(out[1]);
        fm_tensor_free(out[2]);
        out[1] = out[2] = NULL;
    }
    FM_TRY_GOTO(fm_gpt_norm(m, &m->norm, x, &n));
    FM_TRY_GOTO(fm_gather_sequence(ctx, m->mesh->tp_comm, y, n));
out:
    ctx->clock = clock;
    ctx->rows = rows;
    for (int i = 0; i < 3; i++) fm_tensor_free(out[i]);
    fm_tensor_free(x);
    fm_tensor_free(own);
    fm_tensor_free(n);
    return status;
}

static fm_status check_tokens(fm_gpt *m, const fm_tensor *tokens, const fm_tensor *targets) {
    fm_ctx *ctx = m->ctx;
    char a[96], b[96];
    FM_CHECK(tokens->ndim == 2 && tokens->dtype == FM_I32 && tokens->shape[0] >= 1 &&
                 tokens->shape[1] >= 1 && tokens->shape[1] <= m->config.seq_len,
             FM_ERR_SHAPE, "tokens is %s; it must be int32 [B, S] with S from 1 to seq_len = %lld",
             fm_tensor_describe(tokens, a, sizeof a), (long long)m->config.seq_len);
    FM_CHECK(!targets || (targets->dtype == FM_I32 && fm_same_shape(tokens, targets)), FM_ERR_SHAPE,
             "targets is %s; it must be like tokens, %s", fm_tensor_describe(targets, a, sizeof a),
             fm_tensor_describe(tokens, b, sizeof b));
    FM_CHECK(tokens->shape[1] % m->mesh->config.tp == 0, FM_ERR_VALUE,
             "tokens is %s and tp %d; tp ranks share the S = %lld positions equally: S must be a "
             "multiple of %d",
             fm_tensor_describe(tokens, a, sizeof a), m->mesh->config.tp,
             (long long)tokens->shape[1], m->mesh->config.tp);
    return FM_OK;
}

void fm_gpt_out_free(fm_gpt_out *o) {
    fm_tensor_free(o->loss);
    fm_tensor_free(o->lm_loss);
    fm_tensor_free(o->balance_loss);
    fm_tensor_free(o->z_loss);
    fm_tensor_free(o->lm_part);
    *o = (fm_gpt_out){0};
}

/* A loss of the routers over all ranks, from this rank's part of it. */
static fm_status over_ranks(fm_gpt *m, fm_tensor **loss) {
    if (!*loss) return FM_OK;
    fm_tensor *mean;
    FM_TRY(fm_rank_mean(m->ctx, m->mesh, &mean, *loss));
    fm_tensor_free(*loss);
    *loss = mean;
    return FM_OK;
}

/* loss = lm_loss's part of the global mean + the routers' losses */
static fm_status add_up(fm_gpt *m, float weight, fm_gpt_out *out) {
    fm_ctx *ctx = m->ctx;
    FM_TRY(over_ranks(m, &out->balance_loss));
    FM_TRY(over_ranks(m, &out->z_loss));
    if (weight == 1.0f)
        out->lm_part = fm_tensor_retain(out->lm_loss);
    else
        FM_TRY(fm_scale(ctx, &out->lm_part, out->lm_loss, weight));
    out->loss = fm_tensor_retain(out->lm_part);
    FM_TRY(add_loss(ctx, &out->loss, out->balance_loss, 1));
    return add_loss(ctx, &out->loss, out->z_loss, 1);
}

fm_status fm_gpt_forward(fm_gpt *m, fm_tensor *tokens, fm_tensor *targets, fm_gpt_out *out) {
    fm_ctx *ctx = m->ctx;
    *out = (fm_gpt_out){0};
    FM_TRY(check_tokens(m, tokens, targets));
    fm_tensor *x = NULL;
    fm_target_share share;
    float weight = 1;
    FM_TRY(fm_target_share_begin(ctx, m->mesh, targets, m->config.vocab_size, &share));
    out->num_targets = share.valid;
    fm_status status = trunk(m, tokens, &x, out);
    double n = share.valid > 0 ? (double)share.valid : 1;
    if (status == FM_OK)
        status = fm_vocab_cross_entropy(ctx, m->mesh->tp_comm, &out->lm_loss, NULL, x, m->head_w,
                                        targets, m->config.vocab_size, n);
    fm_status ended = fm_target_share_end(ctx, &share, &weight);
    if (status == FM_OK) status = ended;
    if (status == FM_OK) status = add_up(m, weight, out);
    fm_tensor_free(x);
    if (status != FM_OK) fm_gpt_out_free(out);
    return status;
}

fm_status fm_gpt_head(fm_gpt *m, fm_tensor *x, fm_tensor **logits) {
    fm_tensor *own;
    *logits = NULL;
    FM_TRY(fm_linear(m->ctx, &own, x, m->head_w, NULL, FM_ACT_NONE));
    fm_status status = fm_gather_vocab(m->ctx, m->mesh->tp_comm, logits, own, m->config.vocab_size);
    fm_tensor_free(own);
    return status;
}

fm_status fm_gpt_logits(fm_gpt *m, fm_tensor *tokens, fm_tensor **logits) {
    *logits = NULL;
    FM_TRY(check_tokens(m, tokens, NULL));
    fm_tensor *x = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(trunk(m, tokens, &x, NULL));
    FM_TRY_GOTO(fm_gpt_head(m, x, logits));
out:
    fm_tensor_free(x);
    return status;
}
