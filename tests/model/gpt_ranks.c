/* GPT on a mesh beside the same GPT on one rank, which every rank computes for itself: weights, losses,
 * logits, and the gradients, summed over each parameter's replicas. */
#include "model/gpt.h"
#include "tests/parallel/ranks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L = 2, D = 32, HEADS = 8, S = 12, B = 2, MAX_DP = 4, MAX_TOKENS = MAX_DP * B * S };

typedef struct variant {
    int64_t V, kv, hidden;
    fm_norm norm;
    fm_position position;
    fm_act act;
    bool untied, no_bias, ignore, recompute, moe;
    double dropout;
    fm_dtype dtype;
    double tolerance; /* 0: that of fp32 */
} variant;

static fm_gpt_config config_of(const variant *v) {
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
    if (v->moe) {
        c.has_moe = true;
        c.moe = fm_moe_config_default(5, 20);
        snprintf(c.moe.gate, sizeof c.moe.gate, "naive");
        c.moe.num_shared_experts = 1;
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

typedef struct run {
    fm_mesh *mesh;
    fm_gpt *m;
    fm_tensor *tokens, *targets;
    fm_gpt_out out;
} run;

static void run_free(run *r) {
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

/* world NULL: this rank alone, on the batch of all; `dp` is the mesh's beside it. */
static fm_status run_new(fm_ctx *ctx, run *r, const variant *v, fm_comm *world, int tp, int dp) {
    fm_mesh_config mesh = fm_mesh_config_default();
    fm_gpt_config c = config_of(v);
    *r = (run){0};
    mesh.tp = tp;
    mesh.zero = 0; /* every rank has all masters */
    FM_TRY(fm_mesh_new(ctx, &mesh, world, &r->mesh));
    FM_TRY(fm_gpt_new(ctx, &c, r->mesh, &r->m));
    FM_TRY(enlarge(r->m));
    return batch_new(ctx, r, v, world ? r->mesh->at.dp_rank * B : 0, world ? B : dp * B);
}

static fm_status differentiate(fm_ctx *ctx, run *r) {
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

static void compare_on(test *t, const variant *v, int tp) {
    run got, want;
    double tolerance = v->tolerance > 0 ? v->tolerance : 1e-5;
    int dp = ranks_world()->size / tp;
    EXPECT_OK(t, run_new(t->ctx, &want, v, NULL, 1, dp));
    EXPECT_OK(t, run_new(t->ctx, &got, v, ranks_world(), tp, dp));
    EXPECT_OK(t, differentiate(t->ctx, &want));
    EXPECT_OK(t, differentiate(t->ctx, &got));
    check_loss(t, "loss", &got, got.out.loss, want.out.loss, tolerance);
    check_loss(t, "lm_loss", &got, got.out.lm_part, want.out.lm_loss, tolerance);
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

/* Every tp that divides the world, 4 at most: so has the mesh tp, and tp beside dp. */
static void compare_all(test *t, const variant *v) {
    int n = ranks_world()->size;
    for (int tp = 1; tp <= n && tp <= 4; tp++)
        if (n % tp == 0) compare_on(t, v, tp);
}

#define VARIANTS(X)                                                                                \
    X(gelu, .V = 64)                                                                               \
    X(odd_vocabulary, .V = 101, .ignore = true)                                                    \
    X(untied, .V = 257, .untied = true, .no_bias = true)                                           \
    X(rope, .position = FM_POSITION_ROPE, .norm = FM_NORM_RMS, .act = FM_ACT_SWIGLU)               \
    X(few_kv_heads, .kv = 4, .position = FM_POSITION_ROPE, .act = FM_ACT_GEGLU, .hidden = 20)      \
    X(dropout, .dropout = 0.2, .ignore = true)                                                     \
    X(recompute, .dropout = 0.2, .recompute = true, .untied = true)                                \
    X(moe, .moe = true)                                                                            \
    X(moe_recompute, .moe = true, .recompute = true, .dropout = 0.1, .no_bias = true)              \
    X(bf16, .dtype = FM_BF16, .tolerance = 0.1, .kv = 4, .act = FM_ACT_SWIGLU)
#define VARIANT_CASE(name, ...)                                                                    \
    static void name(test *t) { compare_all(t, &(variant){__VA_ARGS__}); }
VARIANTS(VARIANT_CASE)

/* The plan against the allocator's peak, for shapes whose activations outweigh rounding. */
static void memory_plan(test *t) {
    for (int variant_number = 0; variant_number < 8; variant_number++) {
        enum { LONG = 96, MANY = 8 };
        fm_mesh_config mesh_config = fm_mesh_config_default();
        fm_mesh *mesh;
        fm_gpt *m;
        fm_gpt_out out;
        fm_tensor *x;
        mesh_config.tp = ranks_world()->size;
        fm_gpt_config c = fm_gpt_config_default(variant_number & 4 ? 700 : 32, 4, 64, HEADS, LONG);
        c.recompute = variant_number & 1;
        int64_t n = variant_number & 2 ? 1 : MANY;
        EXPECT_OK(t, fm_mesh_new(t->ctx, &mesh_config, ranks_world(), &mesh));
        EXPECT_OK(t, fm_gpt_new(t->ctx, &c, mesh, &m));
        EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_I32, 2, (int64_t[]){n, LONG}));
        size_t before = fm_alloc_get_stats(t->ctx->alloc).in_use;
        fm_alloc_reset_peak(t->ctx->alloc);
        EXPECT_OK(t, fm_gpt_forward(m, x, x, &out));
        EXPECT_OK(t, fm_backward(t->ctx, out.loss, NULL));
        fm_gpt_out_free(&out);
        double used = (double)(fm_alloc_get_stats(t->ctx->alloc).peak_in_use - before);
        int64_t heads = HEADS / ranks_world()->size; /* their scratch is not the allocator's */
        double planned = (double)(fm_gpt_memory_plan(m, n, LONG).activations -
                                  fm_attention_scratch(t->ctx, n, LONG, heads, heads, 64 / HEADS));
        EXPECT(t, used < 1.1 * planned && planned < 1.1 * used,
               "variant %d: activations %g MB, planned %g MB", variant_number, used * 1e-6,
               planned * 1e-6);
        fm_tensor_free(x);
        fm_gpt_free(m);
        fm_mesh_free(mesh);
    }
}

/* What docs/parallelism.md says that a step sends over tp. */
static void traffic(test *t) {
    for (int recompute = 0; recompute < 2; recompute++) {
        run r;
        EXPECT_OK(t, run_new(t->ctx, &r, &(variant){.recompute = recompute}, ranks_world(),
                             ranks_world()->size, 1));
        fm_comm_stats *sent = r.mesh->tp_comm->stats;
        memset(sent, 0, FM_COLLECTIVE_KINDS * sizeof *sent);
        EXPECT_OK(t, differentiate(t->ctx, &r));
        int64_t tp = ranks_world()->size, once = (tp - 1) * (B * S / tp) * D * 4;
        int64_t gathers = (recompute ? 8 : 6) * L + 2, sums = (recompute ? 6 : 4) * L + 2;
        int64_t loss = (tp - 1) * 2 * B * S * 4;
        EXPECT(t, sent[FM_ALL_GATHER].bytes == gathers * once + loss, "gathered: %d bytes",
               (int)sent[FM_ALL_GATHER].bytes);
        EXPECT(t, sent[FM_REDUCE_SCATTER].bytes == sums * once, "scattered: %d bytes",
               (int)sent[FM_REDUCE_SCATTER].bytes);
        EXPECT(t, sent[FM_ALL_REDUCE].calls == 0, "%d sums", (int)sent[FM_ALL_REDUCE].calls);
        run_free(&r);
    }
}

/* ---- generation: whole sequences on every rank, own heads in the cache */

static fm_status extend(fm_ctx *ctx, run *r, fm_kv_cache *cache, int64_t at, int64_t n,
                        fm_tensor **logits) {
    int32_t tokens[B * S];
    fm_tensor *x;
    for (int64_t i = 0; i < B * n; i++)
        tokens[i] = (int32_t)(fm_mix64((uint64_t)(i / n * S + at + i % n)) % 64);
    FM_TRY(fm_tensor_from_host(ctx, &x, FM_I32, 2, (int64_t[]){B, n}, tokens));
    fm_status status = fm_gpt_extend(r->m, cache, x, logits);
    fm_tensor_free(x);
    return status;
}

/* A prompt of a length that tp does not divide, then single tokens. */
static void check_extended(test *t, run *got, run *want) {
    enum { PROMPT = 5 };
    fm_kv_cache *mine, *other;
    EXPECT_OK(t, fm_kv_cache_new(got->m, B, S, &mine));
    EXPECT_OK(t, fm_kv_cache_new(want->m, B, S, &other));
    for (int64_t at = 0; at < S; at += at ? 1 : PROMPT) {
        fm_tensor *a, *b;
        EXPECT_OK(t, extend(t->ctx, got, mine, at, at ? 1 : PROMPT, &a));
        EXPECT_OK(t, extend(t->ctx, want, other, at, at ? 1 : PROMPT, &b));
        EXPECT(t, fm_same_shape(a, b), "logits have another shape");
        const float *x = a->data, *y = b->data;
        for (int64_t i = 0; i < fm_numel(a); i++)
            EXPECT(t, fabs((double)(x[i] - y[i])) <= 1e-4, "position %d, logit %d: %g, not %g",
                   (int)at, (int)i, (double)x[i], (double)y[i]);
        fm_tensor_free(a);
        fm_tensor_free(b);
    }
    fm_kv_cache_free(mine);
    fm_kv_cache_free(other);
}

static int stop_countdown;
static bool stop_later(void) { return stop_countdown-- == 0; }

/* Beyond the window, too. All ranks have the same text; one that is to stop stops all. */
static void check_text(test *t, run *r) {
    enum { PROMPT = 5, NEW = 2 * S, ALL = PROMPT + NEW };
    const int32_t prompt[PROMPT] = {1, 2, 3, 4, 5};
    int32_t out[ALL], all[8 * ALL];
    fm_sampling warm = {.temperature = 1, .top_k = 20, .top_p = 0.9, .seed = 5};
    EXPECT_OK(t, fm_gpt_generate(r->m, prompt, 1, PROMPT, NEW, &warm, NULL, out));
    EXPECT_OK(t, fm_all_gather_now(ranks_world(), t->ctx, FM_I32, all, out, ALL));
    for (int i = 0; i < ranks_world()->size; i++)
        EXPECT(t, memcmp(all + (ptrdiff_t)i * ALL, out, sizeof out) == 0, "rank %d: another text",
               i);
    stop_countdown = ranks_world()->rank == ranks_world()->size - 1 ? 3 : -1;
    EXPECT_ERROR(t, fm_gpt_generate(r->m, prompt, 1, PROMPT, NEW, &warm, stop_later, out),
                 FM_ERR_INTERRUPTED, "after 3 tokens");
}

static void generation_of(test *t, const variant *v) {
    run got, want;
    EXPECT_OK(t, run_new(t->ctx, &want, v, NULL, 1, 1));
    EXPECT_OK(t, run_new(t->ctx, &got, v, ranks_world(), ranks_world()->size, 1));
    fm_gpt_train(got.m, false);
    fm_gpt_train(want.m, false);
    check_extended(t, &got, &want);
    check_text(t, &got);
    run_free(&got);
    run_free(&want);
}

static void generation(test *t) {
    generation_of(t, &(variant){.V = 101, .untied = true});
    generation_of(t, &(variant){.kv = 4, .position = FM_POSITION_ROPE, .act = FM_ACT_SWIGLU});
    generation_of(t, &(variant){.moe = true, .no_bias = true});
}

/* ---- what tp does not divide */

static void refused(test *t, fm_mesh *mesh, const fm_gpt_config *c, const char *what,
                    const char *would) {
    fm_gpt *m;
    char tp[32];
    snprintf(tp, sizeof tp, "tp %d", mesh->config.tp);
    EXPECT_ERROR(t, fm_gpt_new(t->ctx, c, mesh, &m), FM_ERR_VALUE, what, tp, would);
}

static void errors(test *t) {
    run r;
    fm_tensor *x, *logits;
    if (ranks_world()->size == 1) {
        test_skip(t, "one rank divides everything");
        return;
    }
    EXPECT_OK(t, run_new(t->ctx, &r, &(variant){0}, ranks_world(), ranks_world()->size, 1));
    fm_gpt_config heads = config_of(&(variant){0}), hidden = heads, vocab = heads, kv = heads;
    heads.n_head = 1;
    kv.n_kv_head = 1;
    hidden.d_hidden = 9;
    vocab.vocab_size = 1;
    refused(t, r.mesh, &heads, "n_head is 1", "as 1 would");
    refused(t, r.mesh, &kv, "n_kv_head is 1", "as 1 would");
    refused(t, r.mesh, &hidden, "d_hidden is 9", "as 1, 3 and 9 would");
    refused(t, r.mesh, &vocab, "vocab_size is 1", "embed.token");
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_I32, 2, (int64_t[]){2, S - 1}));
    EXPECT_ERROR(t, fm_gpt_logits(r.m, x, &logits), FM_ERR_VALUE, "[2, 11]", "S = 11", "multiple");
    fm_tensor_free(x);
    run_free(&r);
}

#define VARIANT_ENTRY(name, ...) {#name, name},
static const test_case cases[] = {VARIANTS(VARIANT_ENTRY){"memory_plan", memory_plan},
                                  {"traffic", traffic},
                                  {"generation", generation},
                                  {"errors", errors}};
RANKS_PROGRAM(cases)
