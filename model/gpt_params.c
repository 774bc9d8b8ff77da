/* GPT's parameters: names, shapes, initial values. The table of names is docs/checkpoint-format.md's. */
#include "model/gpt.h"
#include "parallel/tensor_parallel.h"
#include "parallel/vocab_parallel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const float STD = 0.02f; /* GPT-2's; the projections into the residual stream are smaller */

typedef struct maker {
    fm_gpt *m;
    char prefix[48]; /* "layers.3." */
} maker;

/* How tensor parallelism divides a parameter: zeros, and it is whole on every rank. */
typedef struct division {
    int n;           /* by outputs: dimension 0 is n parts */
    int64_t rows[3]; /* of these sizes, each of which is divided */
    bool columns;    /* by inputs */
    bool vocab;
} division;

static fm_status add(const maker *k, const char *suffix, int ndim, const int64_t *shape, bool decay,
                     fm_init init, const division *by, fm_tensor **out) {
    fm_ctx *ctx = k->m->ctx;
    char name[96];
    snprintf(name, sizeof name, "%s%s", k->prefix, suffix);
    fm_param_spec spec = fm_param_spec_whole(name, ndim, shape, k->m->config.dtype, decay, init);
    if (by->n > 0) FM_TRY(fm_split_rows(ctx, k->m->mesh, &spec, by->n, by->rows));
    if (by->columns) FM_TRY(fm_split_columns(ctx, k->m->mesh, &spec));
    if (by->vocab) FM_TRY(fm_split_vocab(ctx, k->m->mesh, &spec));
    return fm_param_add(k->m->params, &spec, out);
}

static const division WHOLE = {0};

/* Divided by inputs its bias is whole: it is added to the sum. */
static fm_status add_linear(const maker *k, const char *layer, int64_t out_dim, int64_t in_dim,
                            float std, const division *by, fm_tensor **w, fm_tensor **b) {
    char name[48];
    snprintf(name, sizeof name, "%s.weight", layer);
    FM_TRY(add(k, name, 2, (int64_t[]){out_dim, in_dim}, true,
               (fm_init){.kind = FM_INIT_NORMAL, .std = std}, by, w));
    if (!k->m->config.bias) return FM_OK;
    snprintf(name, sizeof name, "%s.bias", layer);
    return add(k, name, 1, &out_dim, false, (fm_init){.kind = FM_INIT_CONSTANT},
               by->columns ? &WHOLE : by, b);
}

static fm_status add_norm(const maker *k, const char *norm, fm_norm_params *p) {
    const fm_gpt_config *c = &k->m->config;
    char name[48];
    snprintf(name, sizeof name, "%s.weight", norm);
    FM_TRY(add(k, name, 1, &c->d_model, false, (fm_init){.kind = FM_INIT_CONSTANT, .mean = 1},
               &WHOLE, &p->weight));
    if (!c->bias || c->norm == FM_NORM_RMS) return FM_OK;
    snprintf(name, sizeof name, "%s.bias", norm);
    return add(k, name, 1, &c->d_model, false, (fm_init){.kind = FM_INIT_CONSTANT}, &WHOLE,
               &p->bias);
}

static fm_status add_parts(fm_gpt *m, int64_t layer, float std_residual) {
    const fm_gpt_config *c = &m->config;
    fm_block *b = &m->blocks[layer];
    maker k = {.m = m};
    char name[64];
    snprintf(k.prefix, sizeof k.prefix, "layers.%lld.", (long long)layer);
    snprintf(name, sizeof name, "%sattn.dropout", k.prefix);
    b->dropout_attn = fm_rng_stream(name);
    snprintf(name, sizeof name, "%sffn.dropout", k.prefix);
    b->dropout_ffn = fm_rng_stream(name);

    int64_t d = c->d_model, dh = d / c->n_head, kv = c->n_kv_head * dh, h = c->d_hidden;
    const division heads = {.n = 3, .rows = {d, kv, kv}}, inputs = {.columns = true};
    FM_TRY(add_norm(&k, "norm1", &b->norm1));
    FM_TRY(add_linear(&k, "attn.qkv", d + 2 * kv, d, STD, &heads, &b->qkv_w, &b->qkv_b));
    FM_TRY(add_linear(&k, "attn.out", d, d, std_residual, &inputs, &b->out_w, &b->out_b));
    FM_TRY(add_norm(&k, "norm2", &b->norm2));
    if (fm_gpt_is_moe_layer(c, layer)) {
        fm_ctx *ctx = m->ctx;
        b->moe = calloc(1, sizeof *b->moe);
        FM_CHECK(b->moe, FM_ERR_OOM, "out of memory: a MoE layer");
        m->n_moe++;
        snprintf(name, sizeof name, "%smoe", k.prefix);
        return fm_moe_init(ctx, b->moe, name, &c->moe, c->gate, m->mesh, d, c->dtype, STD,
                           std_residual, m->params);
    }
    const division hidden = {.n = fm_act_is_glu(c->activation) ? 2 : 1, .rows = {h, h}};
    FM_TRY(add_linear(&k, "mlp.up", hidden.n * h, d, STD, &hidden, &b->up_w, &b->up_b));
    return add_linear(&k, "mlp.down", d, h, std_residual, &inputs, &b->down_w, &b->down_b);
}

static fm_status add_block(fm_gpt *m, int64_t layer, float std_residual) {
    fm_block *b = &m->blocks[layer];
    b->first_param = m->params->n;
    FM_TRY(add_parts(m, layer, std_residual));
    b->end_param = m->params->n;
    return FM_OK;
}

static fm_status add_all(fm_gpt *m) {
    const fm_gpt_config *c = &m->config;
    const fm_init normal = {.kind = FM_INIT_NORMAL, .std = STD};
    float std_residual = STD / sqrtf(2.0f * (float)c->n_layer);
    const division vocab = {.vocab = true};
    maker k = {.m = m};
    FM_TRY(add(&k, "embed.token", 2, (int64_t[]){c->vocab_size, c->d_model}, true, normal, &vocab,
               &m->embed_token));
    if (c->position == FM_POSITION_LEARNED)
        FM_TRY(add(&k, "embed.position", 2, (int64_t[]){c->seq_len, c->d_model}, true, normal,
                   &WHOLE, &m->embed_position));
    for (int64_t i = 0; i < c->n_layer; i++) FM_TRY(add_block(m, i, std_residual));
    FM_TRY(add_norm(&k, "norm", &m->norm));
    if (!c->tie_embeddings)
        FM_TRY(add(&k, "head.weight", 2, (int64_t[]){c->vocab_size, c->d_model}, true, normal,
                   &vocab, &m->head_w));
    return FM_OK;
}

fm_status fm_gpt_new(fm_ctx *ctx, const fm_gpt_config *config, fm_mesh *mesh, fm_gpt **out) {
    *out = NULL;
    fm_gpt *m = calloc(1, sizeof *m);
    FM_CHECK(m, FM_ERR_OOM, "out of memory: a model");
    fm_status status = FM_OK;
    m->ctx = ctx;
    m->config = *config;
    m->mesh = mesh;
    m->dropout_embed = fm_rng_stream("embed.dropout");
    FM_TRY_GOTO(fm_gpt_config_check(ctx, &m->config));
    FM_TRY_GOTO(fm_gpt_config_check_mesh(ctx, &m->config, &mesh->config));
    m->blocks = calloc((size_t)m->config.n_layer, sizeof *m->blocks);
    FM_CHECK_GOTO(m->blocks, FM_ERR_OOM, "out of memory: %lld blocks",
                  (long long)m->config.n_layer);
    FM_TRY_GOTO(fm_param_set_new(ctx, mesh, &m->params));
    FM_TRY_GOTO(add_all(m));
    FM_TRY_GOTO(fm_param_set_seal(m->params));
    if (m->config.tie_embeddings) m->head_w = m->embed_token;
    m->config.moe_layers = NULL; /* was borrowed; m->blocks says which layers are MoE */
    m->config.n_moe_layers = 0;
    fm_gpt_train(m, true);
    *out = m;
out:
    if (status != FM_OK) fm_gpt_free(m);
    return status;
}

void fm_gpt_free(fm_gpt *m) {
    if (!m) return;
    for (int64_t i = 0; m->blocks && i < m->config.n_layer; i++) {
        if (m->blocks[i].moe) fm_moe_free(m->blocks[i].moe);
        free(m->blocks[i].moe);
    }
    free(m->blocks);
    fm_param_set_free(m->params);
    free(m);
}

void fm_gpt_train(fm_gpt *m, bool training) {
    m->training = training;
    for (int64_t i = 0; i < m->config.n_layer; i++)
        if (m->blocks[i].moe) m->blocks[i].moe->training = training;
}
