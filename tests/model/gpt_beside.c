#include "tests/model/gpt_beside.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fm_gpt_config gpt_config_of(const variant *v) {
    fm_gpt_config c = fm_gpt_config_default(v->V ? v->V : 64, L, D, HEADS, S);
    c.n_kv_head = v->kv;
    c.d_hidden = v->hidden;
    c.norm = v->norm;
    c.position = v->position;
    c.activation = v->act ? v->act : FM_ACT_GELU;
    c.tie_embeddings = !v->untied;
    c.bias = !v->no_bias;
    c.dropout = v->dropout;
    c.recompute = v->recompute;
    c.dtype = v->dtype;
    if (v->gate) {
        c.has_moe = true;
        c.moe = fm_moe_config_default(4, 20);
        snprintf(c.moe.gate, sizeof c.moe.gate, "%s", v->gate);
        c.moe.num_shared_experts = 1;
        c.moe.top_k = v->top_k;
        c.moe.capacity_factor = v->capacity;
        c.moe.z_loss_weight = v->z;
    }
    return c;
}

/* Ten times what is drawn: weights of N(0, 0.02) leave all logits alike. Biases get numbers too, by their
 * global index. */
static fm_status enlarge(fm_gpt *m) {
    fm_ctx *ctx = m->ctx;
    for (int i = 0; i < m->params->n; i++) {
        fm_param *p = m->params->items[i];
        float *w = malloc((size_t)(p->numel + 1) * sizeof *w);
        FM_CHECK(w, FM_ERR_OOM, "out of memory");
        fm_status status = fm_param_get_values(m->params, p, w, p->numel);
        for (int64_t k = 0; k < p->numel; k++) {
            int64_t at = fm_placement_global_index(&p->spec.placement, k);
            float small = fm_rng_uniform((uint32_t)(fm_mix64((uint64_t)(at + i)) >> 32)) - 0.5f;
            w[k] = p->spec.decay ? 10 * w[k] : w[k] + 0.1f * small;
        }
        if (status == FM_OK) status = fm_param_set_values(m->params, p, w, p->numel);
        free(w);
        FM_TRY(status);
    }
    return FM_OK;
}

void run_free(run *r) {
    fm_gpt_out_free(&r->out);
    fm_tensor_free(r->tokens);
    fm_tensor_free(r->targets);
    fm_gpt_free(r->m);
    fm_mesh_free(r->mesh);
}

/* Sequences [first, first + n) of a counted batch. */
static fm_status batch_new(fm_ctx *ctx, run *r, const variant *v, int64_t first, int64_t n) {
    int32_t tokens[MAX_TOKENS], targets[MAX_TOKENS];
    int64_t V = r->m->config.vocab_size, shape[] = {n, S};
    for (int64_t i = 0; i < n * S; i++) {
        uint64_t at = (uint64_t)(first * S + i);
        tokens[i] = (int32_t)(fm_mix64(at) % (uint64_t)V);
        targets[i] = (int32_t)(fm_mix64(at + 1000) % (uint64_t)V);
        if (v->ignore && fm_mix64(at + 2000) % (at < B * S ? 5 : 3) == 0) targets[i] = -1;
    }
    FM_TRY(fm_tensor_from_host(ctx, &r->tokens, FM_I32, 2, shape, tokens));
    return fm_tensor_from_host(ctx, &r->targets, FM_I32, 2, shape, targets);
}

fm_status run_new(fm_ctx *ctx, run *r, const variant *v, fm_comm *world, const fm_mesh_config *mesh,
                  int dp) {
    fm_mesh_config config = *mesh;
    fm_gpt_config c = gpt_config_of(v);
    *r = (run){0};
    config.zero = 0; /* every rank has all masters */
    FM_TRY(fm_mesh_new(ctx, &config, world, &r->mesh));
    FM_TRY(fm_gpt_new(ctx, &c, r->mesh, &r->m));
    FM_TRY(enlarge(r->m));
    return batch_new(ctx, r, v, world ? r->mesh->at.dp_rank * B : 0, world ? B : dp * B);
}

fm_status run_differentiate(fm_ctx *ctx, run *r) {
    float seed = 1.0f / (float)r->mesh->at.dp;
    fm_tensor *dloss;
    FM_TRY(fm_gpt_forward(r->m, r->tokens, r->targets, &r->out));
    FM_TRY(fm_tensor_from_host(ctx, &dloss, FM_F32, 1, (int64_t[]){1}, &seed));
    fm_status status = fm_backward(ctx, r->out.loss, dloss);
    fm_tensor_free(dloss);
    return status == FM_OK ? fm_param_complete_grads(r->m->params) : status;
}

static bool close_to(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance * fabs(b);
}

/* The mean over all ranks is one rank's; the ranks that differ in tp only have the same bits. */
static void check_loss(test *t, const char *what, const run *got, fm_tensor *x, fm_tensor *want,
                       double tolerance) {
    double mean, expected;
    float own, all[8];
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, x, &own, sizeof own));
    EXPECT_OK(t, fm_all_gather_now(got->mesh->tp_comm, t->ctx, FM_F32, all, &own, 1));
    for (int i = 0; i < got->mesh->config.tp; i++)
        EXPECT(t, all[i] == own, "%s: %.9g here, %.9g on tp rank %d", what, (double)own,
               (double)all[i], i);
    EXPECT_OK(t, fm_all_gather_now(ranks_world(), t->ctx, FM_F32, all, &own, 1));
    mean = 0;
    for (int i = 0; i < ranks_world()->size; i++) mean += (double)all[i] / ranks_world()->size;
    EXPECT_OK(t, fm_tensor_item(t->ctx, want, &expected));
    EXPECT(t, close_to(mean, expected, tolerance), "%s: %.9g, not %.9g", what, mean, expected);
}

/* This rank's slice of a parameter and of its summed gradient. */
static void check_param(test *t, const run *got, const run *want, int i, double tolerance) {
    fm_param *p = got->m->params->items[i], *q = want->m->params->items[i];
    EXPECT(t, strcmp(p->spec.name, q->spec.name) == 0, "%s, not %s", p->spec.name, q->spec.name);
    fm_comm *replicas = fm_mesh_replicas(got->mesh, p->spec.placement.replicas);
    float *g = p->weight->grad->data, *w = malloc((size_t)(p->numel + q->numel) * sizeof *w);
    const float *r = q->weight->grad->data;
    EXPECT_OK(t, fm_param_get_values(got->m->params, p, w, p->numel));
    EXPECT_OK(t, fm_param_get_values(want->m->params, q, w + p->numel, q->numel));
    EXPECT_OK(t, fm_all_reduce_now(replicas, t->ctx, FM_F32, g, p->numel, FM_SUM));
    double largest = 0, worst = 0;
    for (int64_t k = 0; k < q->numel; k++) largest = fmax(largest, fabs((double)r[k]));
    for (int64_t k = 0; k < p->numel; k++) {
        int64_t at = fm_placement_global_index(&p->spec.placement, k);
        EXPECT(t, w[k] == w[p->numel + at], "%s: weight %d is %g, not %g", p->spec.name, (int)at,
               (double)w[k], (double)w[p->numel + at]);
        double off = fabs((double)(g[k] - r[at]));
        worst = off > worst || isnan(off) ? off : worst;
    }
    EXPECT(t, worst <= tolerance * largest, "gradient of %s: off by %g of %g", p->spec.name, worst,
           largest);
    free(w);
}

static void check_logits(test *t, const run *got, const run *want, double tolerance) {
    fm_tensor *a, *b, *wide[2];
    bool was = fm_grad_enable(t->ctx, false);
    EXPECT_OK(t, fm_gpt_logits(got->m, got->tokens, &a));
    EXPECT_OK(t, fm_gpt_logits(want->m, got->tokens, &b));
    EXPECT_OK(t, fm_cast(t->ctx, &wide[0], a, FM_F32));
    EXPECT_OK(t, fm_cast(t->ctx, &wide[1], b, FM_F32));
    fm_grad_enable(t->ctx, was);
    EXPECT(t, fm_same_shape(a, b), "logits have another shape");
    const float *x = wide[0]->data, *y = wide[1]->data;
    for (int64_t i = 0; i < fm_numel(a); i++)
        EXPECT(t, fabs((double)(x[i] - y[i])) <= tolerance * (1 + fabs((double)y[i])),
               "logit %d: %g, not %g", (int)i, (double)x[i], (double)y[i]);
    fm_tensor_free(a);
    fm_tensor_free(b);
    fm_tensor_free(wide[0]);
    fm_tensor_free(wide[1]);
}

void compare_on(test *t, const variant *v, const fm_mesh_config *mesh) {
    run got, want;
    const fm_mesh_config one = fm_mesh_config_default();
    double tolerance = v->tolerance > 0 ? v->tolerance : 1e-5;
    int dp = ranks_world()->size / mesh->tp;
    EXPECT_OK(t, run_new(t->ctx, &want, v, NULL, &one, dp));
    EXPECT_OK(t, run_new(t->ctx, &got, v, ranks_world(), mesh, dp));
    EXPECT_OK(t, run_differentiate(t->ctx, &want));
    EXPECT_OK(t, run_differentiate(t->ctx, &got));
    check_loss(t, "loss", &got, got.out.loss, want.out.loss, tolerance);
    check_loss(t, "lm_loss", &got, got.out.lm_part, want.out.lm_loss, tolerance);
    if (want.out.balance_loss)
        check_loss(t, "balance", &got, got.out.balance_loss, want.out.balance_loss, tolerance);
    if (want.out.z_loss) check_loss(t, "z", &got, got.out.z_loss, want.out.z_loss, tolerance);
    for (int i = 0; i < want.m->params->n; i++) check_param(t, &got, &want, i, tolerance);
    fm_gpt_train(got.m, false);
    fm_gpt_train(want.m, false);
    check_logits(t, &got, &want, tolerance);
    EXPECT(t, fm_gpt_num_parameters(got.m) == fm_gpt_num_parameters(want.m), "%d parameters",
           (int)fm_gpt_num_parameters(got.m));
    EXPECT(t, fm_gpt_num_active_parameters(got.m) == fm_gpt_num_active_parameters(want.m), "%d",
           (int)fm_gpt_num_active_parameters(got.m));
    double flops = fm_gpt_flops_per_token(got.m, S, false);
    EXPECT(t, flops == fm_gpt_flops_per_token(want.m, S, false), "%g FLOPs", flops);
    run_free(&got);
    run_free(&want);
}
