/* GPT: counts, memory, generation, dropout, errors. Its values against PyTorch are tests/parity's. */
#include "model/gpt.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V = 31, L = 2, D = 24, HEADS = 4, WINDOW = 16, E = 5, H = 20 };

typedef struct setup {
    fm_mesh *mesh;
    fm_gpt *m;
} setup;

static fm_gpt_config config_of(bool moe) {
    fm_gpt_config c = fm_gpt_config_default(V, L, D, HEADS, WINDOW);
    c.has_moe = moe;
    c.moe = fm_moe_config_default(E, H);
    c.moe.random_second = false;
    return c;
}

static fm_status setup_new(fm_ctx *ctx, setup *s, const fm_gpt_config *c) {
    fm_mesh_config mesh = fm_mesh_config_default();
    FM_TRY(fm_mesh_new(ctx, &mesh, NULL, &s->mesh));
    FM_TRY(fm_gpt_new(ctx, c, s->mesh, &s->m));
    /* Weights of N(0, 0.02) leave all logits alike; ten times that makes every token count. */
    for (int i = 0; i < s->m->params->n; i++) {
        fm_param *p = s->m->params->items[i];
        float *w = (float *)s->m->params->masters->data + p->offset;
        for (int64_t k = 0; p->spec.decay && k < p->numel; k++) w[k] *= 10;
    }
    return FM_OK;
}

static void setup_free(setup *s) {
    fm_gpt_free(s->m);
    fm_mesh_free(s->mesh);
}

static fm_status tokens_new(fm_ctx *ctx, fm_tensor **x, int64_t B, int64_t S, int seed) {
    int32_t host[256];
    for (int64_t i = 0; i < B * S; i++)
        host[i] = (int32_t)(fm_mix64((uint64_t)(i * 31 + seed)) % V);
    return fm_tensor_from_host(ctx, x, FM_I32, 2, (int64_t[]){B, S}, host);
}

static fm_status loss_of(fm_ctx *ctx, fm_gpt *m, bool differentiate, double *loss) {
    fm_tensor *x = NULL, *y = NULL;
    fm_gpt_out out = {0};
    fm_status status = FM_OK;
    FM_TRY_GOTO(tokens_new(ctx, &x, 2, WINDOW, 1));
    FM_TRY_GOTO(tokens_new(ctx, &y, 2, WINDOW, 2));
    FM_TRY_GOTO(fm_gpt_forward(m, x, y, &out));
    FM_TRY_GOTO(fm_tensor_item(ctx, out.loss, loss));
    if (differentiate) FM_TRY_GOTO(fm_backward(ctx, out.loss, NULL));
out:
    fm_gpt_out_free(&out);
    fm_tensor_free(x);
    fm_tensor_free(y);
    return status;
}

static void counts(test *t) {
    setup s;
    fm_gpt_config c = config_of(true);
    EXPECT_OK(t, setup_new(t->ctx, &s, &c));
    int64_t attention = 3 * D * D + 3 * D + D * D + D, norms = 4 * D;
    int64_t mlp = 2 * D * 4 * D + 4 * D + D, expert = 2 * D * H + H + D;
    int64_t ends = V * D + WINDOW * D + 2 * D;
    int64_t all = ends + 2 * (attention + norms) + mlp + E * D + E * expert;
    EXPECT(t, fm_gpt_num_parameters(s.m) == all, "%d, not %d", (int)fm_gpt_num_parameters(s.m),
           (int)all);
    int64_t active = all - (E - 2) * expert;
    EXPECT(t, fm_gpt_num_active_parameters(s.m) == active, "%d, not %d",
           (int)fm_gpt_num_active_parameters(s.m), (int)active);
    double forward = 2.0 * V * D + 2 * (8.0 * D * D + 2.0 * (WINDOW + 1) * D) + 4.0 * D * 4 * D +
                     2 * 4.0 * D * H + 2.0 * D * E;
    EXPECT(t, fabs(fm_gpt_flops_per_token(s.m, WINDOW, false) - 3 * forward) < 1e-6, "%g, not %g",
           fm_gpt_flops_per_token(s.m, WINDOW, false), 3 * forward);
    setup_free(&s);
}

/* The plan against the allocator's peak, for shapes whose activations outweigh rounding. */
static void memory_plan(test *t) {
    for (int variant = 0; variant < 4; variant++) {
        setup s;
        double loss;
        fm_gpt_config c = config_of(variant & 1);
        c.seq_len = 128;
        c.d_model = 64;
        c.moe.d_hidden = 128;
        c.n_layer = 4;
        c.recompute = variant & 2;
        EXPECT_OK(t, setup_new(t->ctx, &s, &c));
        fm_tensor *x, *y;
        int32_t *host = calloc(8 * 128, sizeof *host);
        for (int i = 0; i < 8 * 128; i++) host[i] = (int32_t)(fm_mix64((uint64_t)i) % V);
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_I32, 2, (int64_t[]){8, 128}, host));
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &y, FM_I32, 2, (int64_t[]){8, 128}, host));
        free(host);
        size_t before = fm_alloc_get_stats(t->ctx->alloc).in_use;
        fm_alloc_reset_peak(t->ctx->alloc);
        fm_gpt_out out;
        EXPECT_OK(t, fm_gpt_forward(s.m, x, y, &out));
        EXPECT_OK(t, fm_tensor_item(t->ctx, out.loss, &loss));
        EXPECT_OK(t, fm_backward(t->ctx, out.loss, NULL));
        fm_gpt_out_free(&out);
        double used = (double)(fm_alloc_get_stats(t->ctx->alloc).peak_in_use - before);
        double planned = (double)fm_gpt_memory_plan(s.m, 8, 128).activations;
        EXPECT(t, used < 1.3 * planned && planned < 1.3 * used,
               "variant %d: activations %g MB, planned %g MB", variant, used * 1e-6,
               planned * 1e-6);
        fm_tensor_free(x);
        fm_tensor_free(y);
        setup_free(&s);
    }
}

/* Greedy generation against the logits of the whole text so far, beyond the window too. */
static void cached_equals_uncached(test *t, bool moe, fm_position position) {
    enum { B = 3, PROMPT = 5, NEW = 11 };
    setup s;
    fm_gpt_config c = config_of(moe);
    c.position = position;
    c.n_kv_head = 2;
    EXPECT_OK(t, setup_new(t->ctx, &s, &c));
    int32_t prompt[B * PROMPT], out[B * (PROMPT + NEW)];
    for (int i = 0; i < B * PROMPT; i++) prompt[i] = (int32_t)(fm_mix64((uint64_t)i) % V);
    fm_sampling greedy = {.temperature = 0, .top_p = 1};
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt, B, PROMPT, NEW, &greedy, NULL, out));
    EXPECT(t, s.m->training, "generate left training off");
    for (int b = 0; b < B; b++)
        for (int at = PROMPT; at < PROMPT + NEW; at++) {
            fm_tensor *x, *logits;
            EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_I32, 2, (int64_t[]){1, at},
                                             out + b * (PROMPT + NEW)));
            bool was = fm_grad_enable(t->ctx, false);
            EXPECT_OK(t, fm_gpt_logits(s.m, x, &logits));
            fm_grad_enable(t->ctx, was);
            const float *last = (const float *)logits->data + (at - 1) * V;
            int32_t got = out[b * (PROMPT + NEW) + at];
            for (int v = 0; v < V; v++)
                EXPECT(t, last[got] >= last[v] - 1e-4f, "row %d, position %d: token %d, not %d", b,
                       at, got, v);
            fm_tensor_free(x);
            fm_tensor_free(logits);
        }
    /* a row's text does not depend on the others */
    int32_t alone[PROMPT + NEW];
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt + PROMPT, 1, PROMPT, NEW, &greedy, NULL, alone));
    EXPECT(t, memcmp(alone, out + PROMPT + NEW, sizeof alone) == 0, "row 1 depends on the others");
    setup_free(&s);
}

static void generation_dense(test *t) { cached_equals_uncached(t, false, FM_POSITION_LEARNED); }
static void generation_moe(test *t) { cached_equals_uncached(t, true, FM_POSITION_LEARNED); }
static void generation_rope(test *t) { cached_equals_uncached(t, true, FM_POSITION_ROPE); }

static bool stop_now(void) { return true; }

static void generation_slides(test *t) {
    enum { NEW = 3 * WINDOW };
    setup s;
    fm_gpt_config c = config_of(true);
    EXPECT_OK(t, setup_new(t->ctx, &s, &c));
    int32_t prompt[2 * WINDOW] = {1, 2, 3}, out[2 * WINDOW + NEW], again[2 * WINDOW + NEW];
    fm_sampling warm = {.temperature = 1, .top_k = 8, .top_p = 0.9, .seed = 5};
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, NEW, &warm, NULL, out));
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, NEW, &warm, NULL, again));
    EXPECT(t, memcmp(out, again, sizeof out) == 0, "one seed, two texts");
    for (int i = 0; i < 2 * WINDOW + NEW; i++) EXPECT(t, out[i] >= 0 && out[i] < V, "%d", out[i]);
    warm.seed = 6;
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, NEW, &warm, NULL, again));
    EXPECT(t, memcmp(out, again, sizeof out) != 0, "two seeds, one text");
    prompt[4] = V;
    EXPECT_ERROR(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, 1, &warm, NULL, out), FM_ERR_RANGE,
                 "token 31", "0 to 30");
    prompt[4] = 0;
    warm.top_p = 0;
    EXPECT_ERROR(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, 1, &warm, NULL, out), FM_ERR_VALUE,
                 "top_p is 0");
    warm.top_p = 1;
    EXPECT_ERROR(t, fm_gpt_generate(s.m, prompt, 1, 2 * WINDOW, 1, &warm, stop_now, out),
                 FM_ERR_INTERRUPTED, "stopped");
    setup_free(&s);
}

/* A text of more tokens begins with the text of fewer, in every row; so does one with more rows. */
static void generation_draws(test *t) {
    enum { B = 3, PROMPT = 4, FEW = 5, MANY = 9 };
    setup s;
    fm_gpt_config c = config_of(true);
    EXPECT_OK(t, setup_new(t->ctx, &s, &c));
    int32_t prompt[B * PROMPT], few[B][PROMPT + FEW], many[B][PROMPT + MANY];
    for (int i = 0; i < B * PROMPT; i++) prompt[i] = i % PROMPT; /* the same in all rows */
    fm_sampling warm = {.temperature = 2, .top_p = 1, .seed = 5};
    EXPECT_OK(t, fm_gpt_generate(s.m, prompt, B, PROMPT, MANY, &warm, NULL, many[0]));
    for (int rows = 1; rows <= B; rows++) {
        EXPECT_OK(t, fm_gpt_generate(s.m, prompt, rows, PROMPT, FEW, &warm, NULL, few[0]));
        for (int b = 0; b < rows; b++)
            EXPECT(t, memcmp(few[b], many[b], sizeof few[b]) == 0, "row %d of %d", b, rows);
    }
    EXPECT(t, memcmp(many[0], many[1], sizeof many[0]) != 0, "two rows, one text");
    setup_free(&s);
}

/* Draws follow the softmax: chi-square over many; top_k, top_p and temperature 0 cut it. */
static void sampling(test *t) {
    enum { N = 20000, K = 6 };
    const float logits[K] = {1.0f, 0.2f, -0.5f, 2.0f, 0.0f, -3.0f};
    float scratch[K];
    double p[K], total = 0, chi = 0;
    int count[K] = {0};
    fm_sampling s = {.temperature = 1.5, .top_p = 1, .seed = 3};
    for (int v = 0; v < K; v++) total += p[v] = exp((double)logits[v] / s.temperature);
    for (uint64_t i = 0; i < N; i++) count[fm_sample(logits, K, &s, i, scratch)]++;
    for (int v = 0; v < K; v++) {
        double want = N * p[v] / total;
        chi += (count[v] - want) * (count[v] - want) / want;
    }
    EXPECT(t, chi < 20.5, "chi-square %g (5 degrees; 20.5 is 1 in 1000)", chi);
    s.top_k = 2;
    for (uint64_t i = 0; i < 500; i++) {
        int32_t v = fm_sample(logits, K, &s, i, scratch);
        EXPECT(t, v == 3 || v == 0, "top_k 2 drew %d", v);
    }
    s.top_k = 0, s.top_p = 0.5;
    for (uint64_t i = 0; i < 500; i++) {
        int32_t v = fm_sample(logits, K, &s, i, scratch);
        EXPECT(t, v == 3 || v == 0, "top_p 0.5 drew %d", v);
    }
    s.temperature = 0;
    EXPECT(t, fm_sample(logits, K, &s, 1, scratch) == 3, "the most likely");
}

/* Dropout repeats with its step and changes with the next; evaluation has none; recomputation draws
 * the same masks. */
static void dropout(test *t) {
    double loss[5], gradient[2] = {0};
    for (int recompute = 0; recompute < 2; recompute++) {
        setup s;
        fm_gpt_config c = config_of(true);
        c.dropout = 0.2;
        c.recompute = recompute;
        EXPECT_OK(t, setup_new(t->ctx, &s, &c));
        for (int run = 0; run < 4; run++) {
            s.m->params->clock.step = run == 2;
            fm_gpt_train(s.m, run != 3);
            EXPECT_OK(t, loss_of(t->ctx, s.m, run == 0, &loss[run]));
        }
        EXPECT(t, loss[0] == loss[1] && loss[0] != loss[2] && loss[0] != loss[3],
               "losses %g, %g, %g, %g", loss[0], loss[1], loss[2], loss[3]);
        const float *g = s.m->params->grads->data;
        for (int64_t i = 0; i < s.m->params->numel; i++) gradient[recompute] += fabs((double)g[i]);
        setup_free(&s);
    }
    EXPECT(t, gradient[0] > 0 && gradient[0] == gradient[1], "gradients %g and %g", gradient[0],
           gradient[1]);
}

/* Any parameter may be frozen: it gets no gradient, and the others' are the same bits. */
static void freezing(test *t) {
    for (int variant = 0; variant < 4; variant++) {
        setup s;
        double loss;
        fm_gpt_config c = config_of(true);
        c.recompute = variant & 1;
        c.tie_embeddings = c.bias = variant & 2;
        c.moe.num_shared_experts = 1;
        c.moe.gate_bias = true;
        EXPECT_OK(t, setup_new(t->ctx, &s, &c));
        fm_param_set *p = s.m->params;
        EXPECT_OK(t, loss_of(t->ctx, s.m, true, &loss));
        float *want = malloc((size_t)p->numel * sizeof *want);
        EXPECT_OK(t, fm_tensor_to_host(t->ctx, p->grads, want, fm_nbytes(p->grads)));
        for (int i = 0; i < p->n; i++) {
            fm_param_zero_grads(p);
            p->items[i]->weight->requires_grad = false;
            EXPECT_OK(t, loss_of(t->ctx, s.m, true, &loss));
            p->items[i]->weight->requires_grad = true;
            for (int k = 0; k < p->n; k++) {
                const fm_param *q = p->items[k];
                const float *got = (const float *)p->grads->data + q->offset;
                EXPECT(t, q->weight->grad_is_set == (k != i), "%s frozen: gradient of %s",
                       p->items[i]->spec.name, q->spec.name);
                EXPECT(t, k == i || !memcmp(got, want + q->offset, (size_t)q->numel * sizeof *got),
                       "%s frozen: another gradient of %s", p->items[i]->spec.name, q->spec.name);
            }
        }
        free(want);
        setup_free(&s);
    }
}

static void errors(test *t) {
    setup s = {0};
    fm_gpt_config c = config_of(false);
    c.n_head = 5;
    EXPECT_ERROR(t, setup_new(t->ctx, &s, &c), FM_ERR_VALUE, "n_head is 5", "d_model 24");
    fm_mesh_free(s.mesh);
    c = config_of(false);
    c.n_kv_head = 3;
    EXPECT_ERROR(t, setup_new(t->ctx, &s, &c), FM_ERR_VALUE, "n_kv_head is 3", "n_head 4");
    fm_mesh_free(s.mesh);
    c = config_of(false);
    c.d_model = 12, c.position = FM_POSITION_ROPE;
    EXPECT_ERROR(t, setup_new(t->ctx, &s, &c), FM_ERR_VALUE, "rope", "even");
    fm_mesh_free(s.mesh);
    c = config_of(true);
    EXPECT_OK(t, setup_new(t->ctx, &s, &c));
    fm_tensor *x, *logits;
    EXPECT_OK(t, tokens_new(t->ctx, &x, 1, WINDOW + 1, 1));
    EXPECT_ERROR(t, fm_gpt_logits(s.m, x, &logits), FM_ERR_SHAPE, "[1, 17]", "seq_len = 16");
    fm_tensor_free(x);
    setup_free(&s);
}

static const test_case cases[] = {{"counts", counts},
                                  {"memory_plan", memory_plan},
                                  {"generation_dense", generation_dense},
                                  {"generation_moe", generation_moe},
                                  {"generation_rope", generation_rope},
                                  {"generation_slides", generation_slides},
                                  {"generation_draws", generation_draws},
                                  {"sampling", sampling},
                                  {"dropout", dropout},
                                  {"freezing", freezing},
                                  {"errors", errors}};
TEST_PROGRAM(cases)
