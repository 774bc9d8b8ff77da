#include "fmoe/moe.h"

#include "fmoe/feed_forward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void fm_moe_out_free(fm_moe_out *o) {
    fm_tensor_free(o->y);
    fm_tensor_free(o->balance);
    fm_tensor_free(o->z);
    *o = (fm_moe_out){0};
}

/* ---- parameters */

typedef struct maker {
    fm_moe *m;
    fm_param_set *params;
    fm_dtype dtype;
} maker;

static fm_status add(const maker *k, const char *suffix, int ndim, const int64_t *shape,
                     fm_dtype dtype, bool decay, float std, bool expert, fm_tensor **out) {
    char name[96];
    snprintf(name, sizeof name, "%s%s%s", k->m->name, *k->m->name ? "." : "", suffix);
    fm_init init = {.kind = std > 0 ? FM_INIT_NORMAL : FM_INIT_CONSTANT, .std = std};
    fm_param_spec spec = fm_param_spec_whole(name, ndim, shape, dtype, decay, init);
    if (expert) spec.placement.replicas = FM_REPLICATED_EDP;
    return fm_param_add(k->params, &spec, out);
}

/* Biases exist only where asked for; they start at 0 and never decay. */
static fm_status add_pair(const maker *k, const char *layer, int ndim, const int64_t *w_shape,
                          float std, bool expert, bool bias, fm_tensor **w, fm_tensor **b) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", layer);
    FM_TRY(add(k, name, ndim, w_shape, k->dtype, true, std, expert, w));
    if (!bias) return FM_OK;
    snprintf(name, sizeof name, "%s.bias", layer);
    return add(k, name, ndim - 1, w_shape, k->dtype, false, 0, expert, b);
}

fm_status fm_moe_init(fm_ctx *ctx, fm_moe *m, const char *name, const fm_moe_config *config,
                      const fm_gate *gate, fm_mesh *mesh, int64_t d_model, fm_dtype dtype,
                      float std, float std_down, fm_param_set *params) {
    *m = (fm_moe){.config = *config,
                  .mesh = mesh,
                  .d_model = d_model,
                  .training = true,
                  .stats = {.balance = NAN, .z = NAN}};
    FM_TRY(fm_moe_config_check(ctx, &m->config, gate));
    snprintf(m->name, sizeof m->name, "%s", name);
    m->stream = fm_rng_stream(name);
    m->gate = gate ? gate : fm_gate_find(config->gate);
    m->num_local_experts = m->config.num_experts / mesh->config.ep;

    const fm_moe_config *c = &m->config;
    maker k = {m, params, dtype};
    int64_t E = m->num_local_experts, d = d_model, h = c->d_hidden;
    int64_t up = fm_act_is_glu(c->activation) ? 2 * h : h;
    if (!m->gate->own_router) {
        int64_t gate_shape[] = {c->num_experts, d};
        FM_TRY(add(&k, "gate.weight", 2, gate_shape, FM_F32, true, std, false, &m->gate_w));
        if (c->gate_bias)
            FM_TRY(add(&k, "gate.bias", 1, gate_shape, FM_F32, false, 0, false, &m->gate_b));
    }
    FM_TRY(add_pair(&k, "experts.up", 3, (int64_t[]){E, up, d}, std, true, c->bias, &m->up_w,
                    &m->up_b));
    FM_TRY(add_pair(&k, "experts.down", 3, (int64_t[]){E, d, h}, std_down, true, c->bias,
                    &m->down_w, &m->down_b));
    if (c->num_shared_experts == 0) return FM_OK;
    int64_t s = c->num_shared_experts;
    FM_TRY(add_pair(&k, "shared.up", 2, (int64_t[]){s * up, d}, std, false, c->bias,
                    &m->shared_up_w, &m->shared_up_b));
    return add_pair(&k, "shared.down", 2, (int64_t[]){d, s * h}, std_down, false, c->bias,
                    &m->shared_down_w, &m->shared_down_b);
}

void fm_moe_free(fm_moe *m) { fm_moe_forget_last(m); }

/* ---- forward */

/* x · U[1-ε, 1+ε], by global element index. */
static fm_status jitter(fm_ctx *ctx, const fm_moe *m, fm_tensor *x, fm_tensor **y) {
    fm_tensor *noise = NULL, *wide = NULL;
    float *u = NULL;
    fm_status status = FM_OK;
    int64_t T = fm_rows_of(x), d = fm_cols_of(x);
    fm_rng_key key = fm_rng(ctx, fm_mix64(m->stream + 2));
    float eps = (float)m->config.jitter;
    FM_TRY_GOTO(FM_NEW(ctx, &noise, FM_F32, T, d));
    FM_TRY_GOTO(fm_host_view(ctx, noise, (void **)&u));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < d; c++) {
            uint64_t element = (uint64_t)(fm_rng_row(&key, t) * d + c);
            u[t * d + c] = 1.0f - eps + 2.0f * eps * fm_rng_uniform(fm_rng_bits(&key, element));
        }
    FM_TRY_GOTO(fm_host_commit(ctx, noise, u));
    FM_TRY_GOTO(fm_cast(ctx, &wide, x, FM_F32));
    FM_TRY_GOTO(fm_mul(ctx, y, wide, noise));
out:
    fm_host_release(ctx, u);
    fm_tensor_free(wide);
    fm_tensor_free(noise);
    return status;
}

/* NaN has no place in an order of scores, and would reach every parameter by the backward pass. It
 * comes from a gate that is not ours, or from infinite logits. */
static fm_status check_scores(fm_ctx *ctx, const fm_gate_out *out) {
    float *score = NULL;
    double balance = 0;
    fm_status status = FM_OK;
    int64_t n = fm_numel(out->scores), k = fm_cols_of(out->scores), bad = 0;
    FM_TRY_GOTO(fm_host_view(ctx, out->scores, (void **)&score));
    while (bad < n && !isnan(score[bad])) bad++;
    FM_CHECK_GOTO(bad == n, FM_ERR_NAN, "the gate's score of token %lld, choice %lld is NaN",
                  (long long)(bad / k), (long long)(bad % k));
    if (out->balance) FM_TRY_GOTO(fm_tensor_item(ctx, out->balance, &balance));
    FM_CHECK_GOTO(!isnan(balance), FM_ERR_NAN, "the gate's loss is NaN");
out:
    fm_host_release(ctx, score);
    return status;
}

/* Router and gate: who goes where. x is [T, d]. */
static fm_status route(fm_ctx *ctx, fm_moe *m, fm_tensor *x, fm_tensor *token_ids, int64_t B,
                       fm_gate_out *out, fm_tensor **z) {
    fm_tensor *router_in = NULL, *logits = NULL;
    fm_status status = FM_OK;
    const fm_moe_config *c = &m->config;
    if (!m->gate->own_router) {
        if (m->training && c->jitter > 0)
            FM_TRY_GOTO(jitter(ctx, m, x, &router_in));
        else
            router_in = fm_tensor_retain(x);
        FM_TRY_GOTO(fm_linear(ctx, &logits, router_in, m->gate_w, m->gate_b, FM_ACT_NONE));
        if (c->z_loss_weight > 0) FM_TRY_GOTO(fm_z_loss(ctx, z, logits, 1.0f));
    }
    fm_gate_in in = {.x = x, .logits = logits, .token_ids = token_ids, .T = fm_rows_of(x), .B = B};
    FM_TRY_GOTO(m->gate->forward(ctx, m, &in, out));
    FM_TRY_GOTO(check_scores(ctx, out));
    FM_TRY_GOTO(fm_moe_note_routing(ctx, m, &in, out, *z));
out:
    fm_tensor_free(router_in);
    fm_tensor_free(logits);
    return status;
}

/* Capacity, then the scores' last touches. Replaces out->scores. */
static fm_status settle(fm_ctx *ctx, const fm_moe *m, fm_gate_out *out, int64_t B) {
    const fm_moe_config *c = &m->config;
    double factor = m->training ? c->capacity_factor : c->eval_capacity_factor;
    fm_tensor *next;
    if (factor > 0 && !m->generating) {
        FM_TRY(fm_copy_indices(ctx, &next, out->indices));
        fm_tensor_free(out->indices);
        out->indices = next;
        FM_TRY(fm_capacity_drop(ctx, next, out->scores, c->num_experts, B, factor,
                                c->capacity_scope == FM_SCOPE_SEQUENCE,
                                c->drop_policy == FM_DROP_SCORE));
    }
    if (c->renormalize) {
        FM_TRY(fm_renormalize(ctx, &next, out->scores, out->indices));
        fm_tensor_free(out->scores);
        out->scores = next;
    }
    if (c->scale != 1.0) {
        FM_TRY(fm_scale(ctx, &next, out->scores, (float)c->scale));
        fm_tensor_free(out->scores);
        out->scores = next;
    }
    return FM_OK;
}

/* Adds what the shared experts make of every token to *y. */
static fm_status shared_experts(fm_ctx *ctx, const fm_moe *m, fm_tensor *x, fm_tensor **y) {
    fm_tensor *s = NULL, *sum = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_feed_forward(ctx, &s, x, NULL, m->shared_up_w, m->shared_up_b, m->shared_down_w,
                                m->shared_down_b, m->config.activation));
    FM_TRY_GOTO(fm_add(ctx, &sum, *y, s));
    fm_tensor_free(*y);
    *y = sum;
out:
    fm_tensor_free(s);
    return status;
}

static fm_status check_input(fm_ctx *ctx, const fm_moe *m, const fm_tensor *x,
                             const fm_tensor *token_ids) {
    char buf[96], ids[96];
    FM_CHECK((x->ndim == 2 || x->ndim == 3) && fm_cols_of(x) == m->d_model, FM_ERR_SHAPE,
             "%s: x is %s; allowed are [T, %lld] and [B, S, %lld]", m->name,
             fm_tensor_describe(x, buf, sizeof buf), (long long)m->d_model, (long long)m->d_model);
    FM_CHECK(!token_ids || (token_ids->dtype == FM_I32 && fm_numel(token_ids) == fm_rows_of(x)),
             FM_ERR_SHAPE, "%s: token_ids is %s; x is %s, so int32 with one id a token is needed",
             m->name, fm_tensor_describe(token_ids, ids, sizeof ids),
             fm_tensor_describe(x, buf, sizeof buf));
    return FM_OK;
}

/* gate -> permute -> (exchange) -> experts -> (exchange) -> weighted unpermute.
 * With ep = 1 there is nobody to exchange with, and nothing is copied. */
fm_status fm_moe_forward(fm_ctx *ctx, fm_moe *m, fm_tensor *x, fm_tensor *token_ids,
                         fm_moe_out *out) {
    *out = (fm_moe_out){0};
    FM_TRY(check_input(ctx, m, x, token_ids));
    fm_tensor *rows = NULL, *permuted = NULL, *expert_out = NULL, *y = NULL;
    fm_gate_out gate = {0};
    fm_moe_map map = {0};
    fm_status status = FM_OK;
    int64_t B = x->ndim == 3 && fm_numel(x) > 0 ? x->shape[0] : 1; /* nothing: one empty sequence */

    FM_TRY_GOTO(fm_reshape(ctx, &rows, x, 2, (int64_t[]){-1, m->d_model}));
    FM_TRY_GOTO(route(ctx, m, rows, token_ids, B, &gate, &out->z));
    FM_TRY_GOTO(settle(ctx, m, &gate, B));
    FM_TRY_GOTO(fm_moe_map_new(ctx, &map, gate.indices, m->config.num_experts));
    FM_TRY_GOTO(fm_moe_note_dispatch(ctx, m, &gate, &map));

    FM_TRY_GOTO(fm_moe_permute(ctx, &permuted, rows, &map));
    FM_TRY_GOTO(fm_feed_forward(ctx, &expert_out, permuted, map.offsets, m->up_w, m->up_b,
                                m->down_w, m->down_b, m->config.activation));
    FM_TRY_GOTO(fm_moe_unpermute(ctx, &y, expert_out, gate.scores, &map));
    if (m->config.num_shared_experts > 0) FM_TRY_GOTO(shared_experts(ctx, m, rows, &y));
    FM_TRY_GOTO(fm_reshape(ctx, &out->y, y, x->ndim, x->shape));
    if (m->config.aux_loss_weight > 0) out->balance = fm_tensor_retain(gate.balance);
out:
    if (status != FM_OK) {
        fm_fail_context(&ctx->error, status, "%s", m->name);
        fm_moe_out_free(out);
    }
    fm_gate_out_free(&gate);
    fm_moe_map_free(&map);
    fm_tensor_free(rows);
    fm_tensor_free(permuted);
    fm_tensor_free(expert_out);
    fm_tensor_free(y);
    return status;
}

fm_status fm_moe_aux_loss(fm_ctx *ctx, const fm_moe *m, const fm_moe_out *out, int64_t n_layers,
                          fm_tensor **loss) {
    *loss = NULL;
    fm_tensor *b = NULL, *z = NULL;
    fm_status status = FM_OK;
    float n = (float)n_layers;
    if (out->balance)
        FM_TRY_GOTO(fm_scale(ctx, &b, out->balance, (float)m->config.aux_loss_weight / n));
    if (out->z) FM_TRY_GOTO(fm_scale(ctx, &z, out->z, (float)m->config.z_loss_weight / n));
    if (b && z)
        FM_TRY_GOTO(fm_add(ctx, loss, b, z));
    else
        *loss = fm_tensor_retain(b ? b : z);
out:
    fm_tensor_free(b);
    fm_tensor_free(z);
    return status;
}

double fm_moe_flops_per_token(const fm_moe *m, bool measured) {
    const fm_moe_config *c = &m->config;
    const fm_moe_stats *s = &m->stats;
    double experts = (double)c->top_k;
    if (measured && s->tokens > 0) experts = (double)s->kept / (double)s->tokens;
    double up = fm_act_is_glu(c->activation) ? 2 : 1, d = (double)m->d_model;
    double expert = 2.0 * d * (double)c->d_hidden * (up + 1);
    double router = m->gate->own_router ? 0 : 2.0 * d * (double)c->num_experts;
    return router + expert * (experts + (double)c->num_shared_experts);
}

int64_t fm_moe_num_active_parameters(const fm_moe *m) {
    const fm_moe_config *c = &m->config;
    int64_t up = fm_act_is_glu(c->activation) ? 2 * c->d_hidden : c->d_hidden;
    int64_t expert = up * m->d_model + m->d_model * c->d_hidden;
    int64_t shared = expert * c->num_shared_experts;
    if (c->bias) {
        expert += up + m->d_model;
        if (shared) shared += up * c->num_shared_experts + m->d_model;
    }
    int64_t router = m->gate_w ? fm_numel(m->gate_w) + (m->gate_b ? fm_numel(m->gate_b) : 0) : 0;
    return router + c->top_k * expert + shared;
}
