/* GPT with tensor parallelism beside one rank; generation, memory, traffic, errors. */
#include "tests/model/gpt_beside.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static fm_mesh_config tp_mesh(int tp) {
    fm_mesh_config c = fm_mesh_config_default();
    c.tp = tp;
    return c;
}

/* Every tp that divides the world, 4 at most: so has the mesh tp, and tp beside dp. */
static void compare_all(test *t, const variant *v) {
    int n = ranks_world()->size;
    for (int tp = 1; tp <= n && tp <= 4; tp++)
        if (n % tp == 0) compare_on(t, v, (fm_mesh_config[]){tp_mesh(tp)});
}

#define VARIANTS(X)                                                                                \
    X(gelu, .V = 64)                                                                               \
    X(odd_vocabulary, .V = 101, .ignore = true)                                                    \
    X(untied, .V = 257, .untied = true, .no_bias = true)                                           \
    X(rope, .position = FM_POSITION_ROPE, .norm = FM_NORM_RMS, .act = FM_ACT_SWIGLU)               \
    X(few_kv_heads, .kv = 4, .position = FM_POSITION_ROPE, .act = FM_ACT_GEGLU, .hidden = 20)      \
    X(dropout, .dropout = 0.2, .ignore = true)                                                     \
    X(recompute, .dropout = 0.2, .recompute = true, .untied = true)                                \
    X(moe, .gate = "naive")                                                                        \
    X(moe_recompute, .gate = "naive", .recompute = true, .dropout = 0.1, .no_bias = true)          \
    X(bf16, .dtype = FM_BF16, .tolerance = 0.1, .kv = 4, .act = FM_ACT_SWIGLU)
#define VARIANT_CASE(name, ...)                                                                    \
    static void name(test *t) { compare_all(t, &(variant){__VA_ARGS__}); }
VARIANTS(VARIANT_CASE)

/* The plan against the allocator's peak, for shapes whose activations outweigh rounding. */
static void memory_plan(test *t) {
    for (int variant_number = 0; variant_number < 16; variant_number++) {
        enum { LONG = 96, MANY = 8 };
        fm_mesh_config mesh_config = tp_mesh(ranks_world()->size);
        fm_mesh *mesh;
        fm_gpt *m;
        fm_gpt_out out;
        fm_tensor *x;
        fm_gpt_config c = fm_gpt_config_default(variant_number & 4 ? 700 : 32, 4, 64, HEADS, LONG);
        c.recompute = variant_number & 1;
        if (variant_number & 8) {
            c.has_moe = true;
            c.moe = fm_moe_config_default(4, 128);
            mesh_config.ep = mesh_config.tp;
        }
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
        double off = c.has_moe ? 1.3 : 1.1; /* ranks get more tokens than others, or fewer */
        EXPECT(t, used < off * planned && planned < off * used,
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
        const fm_mesh_config mesh = tp_mesh(ranks_world()->size);
        EXPECT_OK(t,
                  run_new(t->ctx, &r, &(variant){.recompute = recompute}, ranks_world(), &mesh, 1));
        fm_comm_stats *sent = r.mesh->tp_comm->stats;
        memset(sent, 0, FM_COLLECTIVE_KINDS * sizeof *sent);
        EXPECT_OK(t, run_differentiate(t->ctx, &r));
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

static void generation_of(test *t, const variant *v, int tp, int ep) {
    run got, want;
    const fm_mesh_config one = tp_mesh(1);
    fm_mesh_config mesh = tp_mesh(tp);
    mesh.ep = ep;
    EXPECT_OK(t, run_new(t->ctx, &want, v, NULL, &one, 1));
    EXPECT_OK(t, run_new(t->ctx, &got, v, ranks_world(), &mesh, 1));
    fm_gpt_train(got.m, false);
    fm_gpt_train(want.m, false);
    check_extended(t, &got, &want);
    check_text(t, &got);
    run_free(&got);
    run_free(&want);
}

static void generation(test *t) {
    int n = ranks_world()->size;
    const variant moe = {.gate = "naive", .no_bias = true};
    generation_of(t, &(variant){.V = 101, .untied = true}, n, 1);
    generation_of(t, &(variant){.kv = 4, .position = FM_POSITION_ROPE, .act = FM_ACT_SWIGLU}, n, 1);
    generation_of(t, &moe, n, 1);
    generation_of(t, &moe, n, n);
    generation_of(t, &moe, 1, n);
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
    const fm_mesh_config mesh = tp_mesh(ranks_world()->size);
    EXPECT_OK(t, run_new(t->ctx, &r, &(variant){0}, ranks_world(), &mesh, 1));
    fm_gpt_config heads = gpt_config_of(&(variant){0}), hidden = heads, vocab = heads, kv = heads;
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
