#include "fmoe/moe.h"

#include "fmoe/census.h"
#include "fmoe/routing_log.h"
#include "parallel/tape_collectives.h"

#include <math.h>
#include <string.h>

void fm_moe_out_free(fm_moe_out *o) {
    fm_tensor_free(o->y);
    fm_tensor_free(o->balance);
    fm_tensor_free(o->z);
    *o = (fm_moe_out){0};
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

/* Router and gate: who goes where, and the losses of it. x is [T, d]. */
static fm_status route(fm_ctx *ctx, fm_moe *m, fm_tensor *x, fm_tensor *token_ids, int64_t B,
                       fm_gate_out *gate, fm_census *census, fm_moe_out *out) {
    fm_tensor *router_in = NULL, *logits = NULL;
    double balance = 0;
    fm_status status = FM_OK;
    const fm_moe_config *c = &m->config;
    fm_gate_in in = {.x = x, .token_ids = token_ids, .T = fm_rows_of(x), .B = B};
    if (!m->gate->own_router) {
        if (m->training && c->jitter > 0)
            FM_TRY_GOTO(jitter(ctx, m, x, &router_in));
        else
            router_in = fm_tensor_retain(x);
        FM_TRY_GOTO(fm_linear(ctx, &logits, router_in, m->gate_w, m->gate_b, FM_ACT_NONE));
        if (c->z_loss_weight > 0) FM_TRY_GOTO(fm_z_loss(ctx, &out->z, logits, 1.0f));
    }
    in.logits = logits;
    FM_TRY_GOTO(fm_routing_recall(ctx, m, in.T, &in.replayed));
    FM_TRY_GOTO(m->gate->forward(ctx, m, &in, gate));
    FM_TRY_GOTO(fm_routing_note(ctx, m, gate));
    FM_TRY_GOTO(check_scores(ctx, gate));
    FM_TRY_GOTO(fm_census_take(ctx, m, &in, gate, out->z, census, &out->balance));
    if (out->balance) FM_TRY_GOTO(fm_tensor_item(ctx, out->balance, &balance));
    FM_CHECK_GOTO(!isnan(balance), FM_ERR_NAN, "the gate's loss is NaN");
out:
    fm_tensor_free(router_in);
    fm_tensor_free(logits);
    fm_tensor_free(in.replayed);
    return status;
}

/* Capacity, then the scores' last touches. Replaces gate->indices and gate->scores. */
static fm_status settle(fm_ctx *ctx, const fm_moe *m, fm_gate_out *gate, int64_t B,
                        fm_census *census) {
    const fm_moe_config *c = &m->config;
    double factor = m->training ? c->capacity_factor : c->eval_capacity_factor;
    fm_tensor *next;
    if (factor > 0 && !m->generating) {
        FM_TRY(fm_copy_indices(ctx, &next, gate->indices));
        fm_tensor_free(gate->indices);
        gate->indices = next;
        FM_TRY(fm_moe_apply_capacity(ctx, m, gate, B, factor, census));
    }
    if (c->renormalize) {
        FM_TRY(fm_renormalize(ctx, &next, gate->scores, gate->indices));
        fm_tensor_free(gate->scores);
        gate->scores = next;
    }
    if (c->scale != 1.0) {
        FM_TRY(fm_scale(ctx, &next, gate->scores, (float)c->scale));
        fm_tensor_free(gate->scores);
        gate->scores = next;
    }
    return FM_OK;
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
 * Where this rank holds all experts there is nobody to exchange with, and nothing is copied. */
fm_status fm_moe_forward(fm_ctx *ctx, fm_moe *m, fm_tensor *x, fm_tensor *token_ids,
                         fm_moe_out *out) {
    *out = (fm_moe_out){0};
    FM_TRY(check_input(ctx, m, x, token_ids));
    fm_tensor *rows = NULL, *permuted = NULL, *expert_out = NULL, *y = NULL, *shared = NULL;
    fm_tensor *sum = NULL;
    fm_gate_out gate = {0};
    fm_moe_map map = {0};
    fm_census census = {0};
    fm_status status = FM_OK;
    int64_t B = x->ndim == 3 && fm_numel(x) > 0 ? x->shape[0] : 1; /* nothing: one empty sequence */

    FM_TRY_GOTO(fm_reshape(ctx, &rows, x, 2, (int64_t[]){-1, m->d_model}));
    FM_TRY_GOTO(route(ctx, m, rows, token_ids, B, &gate, &census, out));
    FM_TRY_GOTO(settle(ctx, m, &gate, B, &census));
    FM_TRY_GOTO(fm_moe_map_new(ctx, &map, gate.indices, m->config.num_experts));
    FM_TRY_GOTO(fm_moe_note(ctx, m, &gate, &census));

    FM_TRY_GOTO(fm_moe_permute(ctx, &permuted, rows, &map));
    FM_TRY_GOTO(fm_moe_run_experts(ctx, m, permuted, &map, &census, rows, &expert_out, &shared));
    FM_TRY_GOTO(fm_moe_unpermute(ctx, &y, expert_out, gate.scores, &map));
    if (shared)
        FM_TRY_GOTO(fm_add(ctx, &sum, y, shared));
    else
        sum = fm_tensor_retain(y);
    FM_TRY_GOTO(fm_reshape(ctx, &out->y, sum, x->ndim, x->shape));
out:
    if (status != FM_OK) {
        fm_fail_context(&ctx->error, status, "%s", m->name);
        fm_moe_out_free(out);
    }
    fm_gate_out_free(&gate);
    fm_moe_map_free(&map);
    fm_census_free(&census);
    fm_tensor *gone[] = {rows, permuted, expert_out, y, shared, sum};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) fm_tensor_free(gone[i]);
    return status;
}

fm_status fm_moe_aux_loss(fm_ctx *ctx, const fm_moe *m, const fm_moe_out *out, int64_t n_layers,
                          fm_tensor **loss) {
    *loss = NULL;
    fm_tensor *b = NULL, *z = NULL, *own = NULL;
    fm_status status = FM_OK;
    float n = (float)n_layers;
    if (out->balance)
        FM_TRY_GOTO(fm_scale(ctx, &b, out->balance, (float)m->config.aux_loss_weight / n));
    if (out->z) FM_TRY_GOTO(fm_scale(ctx, &z, out->z, (float)m->config.z_loss_weight / n));
    if (b && z)
        FM_TRY_GOTO(fm_add(ctx, &own, b, z));
    else
        own = fm_tensor_retain(b ? b : z);
    if (own) FM_TRY_GOTO(fm_rank_mean(ctx, m->mesh, loss, own));
out:
    fm_tensor_free(b);
    fm_tensor_free(z);
    fm_tensor_free(own);
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

/* Of a network of width h. */
static int64_t network(const fm_moe *m, int64_t h) {
    int64_t up = fm_act_is_glu(m->config.activation) ? 2 * h : h;
    return up * m->d_model + m->d_model * h + (m->config.bias ? up + m->d_model : 0);
}

static int64_t parameters(const fm_moe *m, int64_t experts) {
    const fm_moe_config *c = &m->config;
    int64_t router = m->gate_w ? fm_numel(m->gate_w) + (m->gate_b ? fm_numel(m->gate_b) : 0) : 0;
    int64_t s = c->num_shared_experts;
    return router + experts * network(m, c->d_hidden) + (s > 0 ? network(m, s * c->d_hidden) : 0);
}

int64_t fm_moe_num_parameters(const fm_moe *m) { return parameters(m, m->config.num_experts); }
int64_t fm_moe_num_active_parameters(const fm_moe *m) { return parameters(m, m->config.top_k); }
