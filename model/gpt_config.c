#include "model/gpt.h"

fm_gpt_config fm_gpt_config_default(int64_t vocab_size, int64_t n_layer, int64_t d_model,
                                    int64_t n_head, int64_t seq_len) {
    return (fm_gpt_config){
        .vocab_size = vocab_size,
        .n_layer = n_layer,
        .d_model = d_model,
        .n_head = n_head,
        .seq_len = seq_len,
        .activation = FM_ACT_GELU,
        .norm = FM_NORM_LAYER,
        .norm_eps = 1e-5,
        .position = FM_POSITION_LEARNED,
        .rope_theta = 10000.0,
        .bias = true,
        .tie_embeddings = true,
        .dtype = FM_F32,
        .moe_every = 2,
    };
}

bool fm_gpt_is_moe_layer(const fm_gpt_config *c, int64_t layer) {
    if (!c->has_moe) return false;
    if (c->moe_every > 0) return (layer + 1) % c->moe_every == 0;
    for (int i = 0; i < c->n_moe_layers; i++)
        if (c->moe_layers[i] == layer) return true;
    return false;
}

static fm_status check_moe_layers(fm_ctx *ctx, const fm_gpt_config *c) {
    FM_CHECK(c->moe_every >= 0, FM_ERR_VALUE, "every is %lld; it must be at least 1",
             (long long)c->moe_every);
    for (int i = 0; c->moe_every == 0 && i < c->n_moe_layers; i++)
        FM_CHECK(c->moe_layers[i] >= 0 && c->moe_layers[i] < c->n_layer, FM_ERR_VALUE,
                 "every names layer %lld; with n_layer = %lld allowed are 0 to %lld",
                 (long long)c->moe_layers[i], (long long)c->n_layer, (long long)c->n_layer - 1);
    FM_CHECK(
        c->moe_every > 0 ? c->moe_every <= c->n_layer : c->n_moe_layers > 0, FM_ERR_VALUE,
        "moe is given, and every = %lld makes none of n_layer = %lld layers MoE; allowed are 1 to "
        "%lld, or a list of layers (or no moe)",
        (long long)c->moe_every, (long long)c->n_layer, (long long)c->n_layer);
    return FM_OK;
}

fm_status fm_gpt_config_check(fm_ctx *ctx, fm_gpt_config *c) {
    if (c->d_hidden == 0) c->d_hidden = 4 * c->d_model;
    if (c->n_kv_head == 0) c->n_kv_head = c->n_head;
    const struct {
        const char *name;
        int64_t value;
    } positive[] = {{"vocab_size", c->vocab_size}, {"n_layer", c->n_layer},
                    {"d_model", c->d_model},       {"n_head", c->n_head},
                    {"seq_len", c->seq_len},       {"d_hidden", c->d_hidden},
                    {"n_kv_head", c->n_kv_head}};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        FM_CHECK(positive[i].value >= 1 && positive[i].value <= INT32_MAX, FM_ERR_VALUE,
                 "%s is %lld; it must be from 1 to %d", positive[i].name,
                 (long long)positive[i].value, INT32_MAX);
    FM_CHECK(c->d_model % c->n_head == 0, FM_ERR_VALUE,
             "n_head is %lld and d_model %lld; n_head must divide d_model", (long long)c->n_head,
             (long long)c->d_model);
    FM_CHECK(c->n_head % c->n_kv_head == 0, FM_ERR_VALUE,
             "n_kv_head is %lld and n_head %lld; n_kv_head must divide n_head",
             (long long)c->n_kv_head, (long long)c->n_head);
    FM_CHECK(c->position != FM_POSITION_ROPE || c->d_model / c->n_head % 2 == 0, FM_ERR_VALUE,
             "position is 'rope' and d_model/n_head %lld; rope needs an even head width",
             (long long)(c->d_model / c->n_head));
    FM_CHECK(c->dropout >= 0 && c->dropout < 1, FM_ERR_VALUE, "dropout is %g; it must be in [0, 1)",
             c->dropout);
    FM_CHECK(c->norm_eps > 0, FM_ERR_VALUE, "norm_eps is %g; it must be positive", c->norm_eps);
    FM_CHECK(c->rope_theta > 0, FM_ERR_VALUE, "rope_theta is %g; it must be positive",
             c->rope_theta);
    FM_CHECK(fm_dtype_is_float(c->dtype), FM_ERR_DTYPE,
             "dtype is %s; allowed are float32 and bfloat16", fm_dtype_name(c->dtype));
    if (!c->has_moe) return FM_OK;
    FM_TRY(check_moe_layers(ctx, c));
    c->moe.bias = c->bias;
    return fm_moe_config_check(ctx, &c->moe, c->gate);
}

fm_status fm_gpt_config_check_mesh(fm_ctx *ctx, const fm_gpt_config *c,
                                   const fm_mesh_config *mesh) {
    char would[256];
    bool dense = false;
    for (int64_t i = 0; i < c->n_layer; i++) dense |= !fm_gpt_is_moe_layer(c, i);
    const struct {
        const char *name;
        int64_t value;
        bool split;
    } sizes[] = {{"n_head", c->n_head, true},
                 {"n_kv_head", c->n_kv_head, true},
                 {"d_hidden", c->d_hidden, dense}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        FM_CHECK(!sizes[i].split || sizes[i].value % mesh->tp == 0, FM_ERR_VALUE,
                 "%s is %lld and tp %d; tp must divide it, as %s would", sizes[i].name,
                 (long long)sizes[i].value, mesh->tp,
                 fm_divisors(sizes[i].value, would, sizeof would));
    return FM_OK;
}
