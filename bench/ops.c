/* Each kernel against its floor: the time that its FLOPs take at the rate of a large matrix product,
 * or its bytes at that of a large copy, whichever is longer; both rates measured in the same run.
 *
 *     bazel run //bench:ops [-- NAME]      (those whose name begins with NAME)
 *
 * Shapes are those of model M (bench/peer_torch/shapes.py): 2048 tokens, d 512, h 2048, 8 heads of 64,
 * 16 experts with 2 choices a token. Arrays of a few MB stay in the cache, so that a kernel may be
 * several times faster than the memory's floor. Best of several runs; on a machine that does nothing
 * else. */
#include "tensor/ctx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { T = 2048, D = 512, H = 2048, B = 4, S = 512, HEADS = 8, DH = 64, E = 16, K = 2, N = T * K };
enum { ELEMENTS = 16 << 20 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench {
    fm_ctx *ctx;
    const char *only;
    double flops_per_s, bytes_per_s;
    float *a, *b, *c, *d; /* ELEMENTS each, small numbers */
    int32_t *index, *slot, *source, *offsets, *counts;
} bench;

typedef fm_status (*body)(bench *k);

/* Seconds of the fastest of several runs; leaves the program on an error. */
static double fastest(bench *k, body run) {
    double best = 1e9, end = now() + 0.3;
    for (int i = 0; i < 4 || now() < end; i++) {
        double t = now();
        if (run(k) != FM_OK || k->ctx->dev->ops->sync(k->ctx->dev) != FM_OK) {
            fprintf(stderr, "ops: %s\n", k->ctx->error.message);
            exit(1);
        }
        t = now() - t;
        if (t < best) best = t;
    }
    return best;
}

static void report(bench *k, const char *name, body run, double flops, double bytes) {
    if (strncmp(name, k->only, strlen(k->only)) != 0) return;
    double seconds = fastest(k, run), by_flops = flops / k->flops_per_s;
    double by_bytes = bytes / k->bytes_per_s, floor = by_flops > by_bytes ? by_flops : by_bytes;
    printf("%-26s %9.3f ms  floor %9.3f ms (%s)  %5.2f of it\n", name, 1e3 * seconds, 1e3 * floor,
           by_flops > by_bytes ? "FLOPs" : "bytes", floor / seconds);
}

/* ---- the kernels */

#define RUN(name, ...)                                                                             \
    static fm_status name(bench *k) {                                                              \
        fm_ctx *ctx = k->ctx;                                                                      \
        __VA_ARGS__                                                                                \
    }

RUN(copy, return FM_KERNEL(ctx, copy, k->a, k->b, (size_t)ELEMENTS * 4);)
RUN(product, fm_linear_args l =
                 {.dt = FM_F32, .T = T, .in = H, .out = H, .E = 1, .x = k->a, .w = k->b, .y = k->c};
    return FM_KERNEL(ctx, linear_forward, &l);)
RUN(add, return FM_KERNEL(ctx, add, FM_F32, k->a, k->b, k->c, ELEMENTS);)
RUN(gelu, return FM_KERNEL(ctx, act_forward, FM_F32, FM_ACT_GELU, k->a, k->b, T, H);)
RUN(gelu_backward,
    return FM_KERNEL(ctx, act_backward, FM_F32, FM_ACT_GELU, k->a, k->b, k->c, T, H, false);)
RUN(dropout, fm_rng_key key = fm_rng(ctx, 1);
    return FM_KERNEL(ctx, dropout, FM_F32, k->a, k->b, T, H, 0.1f, &key, false);)
RUN(layer_norm, return FM_KERNEL(ctx, layer_norm_forward, FM_F32, k->a, k->d, k->d + T, k->b, k->c,
                                 k->c, T, D, 1e-5f);)
RUN(layer_norm_backward,
    return FM_KERNEL(ctx, layer_norm_backward, FM_F32, k->a, false, k->d + 2 * T, false,
                     k->d + 3 * T, false, k->b, k->c, k->c, k->d, k->d + T, T, D);)
RUN(cross_entropy,
    return FM_KERNEL(ctx, cross_entropy_forward, FM_F32, k->d, k->d + T, k->a, k->index, T, H);)
RUN(softmax, return FM_KERNEL(ctx, softmax_forward, FM_F32, k->a, k->b, T, H);)
RUN(top_k, return FM_KERNEL(ctx, top_k, k->d, k->slot, k->b, T, E, K);)
RUN(moe_gather, return FM_KERNEL(ctx, moe_gather, FM_F32, k->a, k->b, NULL, k->source, N, K, D);)
RUN(moe_combine,
    return FM_KERNEL(ctx, moe_combine, FM_F32, k->a, k->b, k->c, k->slot, T, K, D, false);)
RUN(adamw, fm_adamw_args a = {.n = ELEMENTS,
                              .p = k->a,
                              .m = k->b,
                              .v = k->c,
                              .g = k->d,
                              .lr = 1e-6f,
                              .beta1 = 0.9f,
                              .beta2 = 0.95f,
                              .eps = 1e-8f,
                              .bias1 = 1,
                              .bias2 = 1,
                              .g_scale = 1};
    return FM_KERNEL(ctx, adamw, &a);)
RUN(sum_squares, double out; return FM_KERNEL(ctx, sum_squares, &out, k->a, ELEMENTS, false);)

static fm_linear_args up(const bench *k, int64_t experts) {
    return (fm_linear_args){.dt = FM_F32,
                            .T = experts > 1 ? N : T,
                            .in = D,
                            .out = H,
                            .E = experts,
                            .offsets = experts > 1 ? k->offsets : NULL,
                            .x = k->a,
                            .w = k->b,
                            .b = k->d,
                            .act = FM_ACT_GELU,
                            .y = k->c,
                            .pre = k->c + ELEMENTS / 2};
}
RUN(linear_forward, fm_linear_args l = up(k, 1); return FM_KERNEL(ctx, linear_forward, &l);)
RUN(linear_backward_input, fm_linear_args l = up(k, 1);
    return FM_KERNEL(ctx, linear_backward_input, &l, k->d, k->c, false);)
RUN(linear_backward_weight, fm_linear_args l = up(k, 1);
    return FM_KERNEL(ctx, linear_backward_weight, &l, k->d, false, k->b, false, k->c);)
RUN(experts_forward, fm_linear_args l = up(k, E); return FM_KERNEL(ctx, linear_forward, &l);)
RUN(experts_backward_input, fm_linear_args l = up(k, E);
    return FM_KERNEL(ctx, linear_backward_input, &l, k->d, k->c, false);)
RUN(experts_backward_weight, fm_linear_args l = up(k, E);
    return FM_KERNEL(ctx, linear_backward_weight, &l, k->d, false, NULL, false, k->c);)

static fm_attention_args attention_args(const bench *k) {
    enum { ROW = 3 * HEADS * DH };
    return (fm_attention_args){.dt = FM_F32,
                               .B = B,
                               .Sq = S,
                               .Skv = S,
                               .H = HEADS,
                               .KV = HEADS,
                               .dh = DH,
                               .q = k->a,
                               .k = k->a + (ptrdiff_t)HEADS * DH,
                               .v = k->a + (ptrdiff_t)2 * HEADS * DH,
                               .q_batch = (int64_t)S * ROW,
                               .k_batch = (int64_t)S * ROW,
                               .v_batch = (int64_t)S * ROW,
                               .q_row = ROW,
                               .k_row = ROW,
                               .v_row = ROW,
                               .scale = 0.125f,
                               .causal = true,
                               .o = k->b,
                               .lse = k->d};
}
RUN(attention_forward, fm_attention_args a = attention_args(k);
    return FM_KERNEL(ctx, attention_forward, &a);)
RUN(attention_backward, fm_attention_grad_args g = {.fwd = attention_args(k)}; g.d_o = k->b;
    g.dq = k->c; g.dk = k->c + (ptrdiff_t)HEADS * DH; g.dv = k->c + (ptrdiff_t)2 * HEADS * DH;
    return FM_KERNEL(ctx, attention_backward, &g);)

/* ---- */

static fm_status prepare(bench *k) {
    fm_ctx *ctx = k->ctx;
    float **floats[] = {&k->a, &k->b, &k->c, &k->d};
    int32_t **ints[] = {&k->index, &k->slot, &k->source, &k->offsets, &k->counts};
    for (int i = 0; i < 4; i++) {
        FM_TRY(fm_alloc(ctx->alloc, (size_t)ELEMENTS * 4, (void **)floats[i]));
        for (int64_t j = 0; j < ELEMENTS; j++)
            (*floats[i])[j] = (float)(fm_mix64((uint64_t)(j + i)) >> 40) * 1e-8f + 0.01f;
    }
    for (int i = 0; i < 5; i++) FM_TRY(fm_alloc(ctx->alloc, (size_t)N * 4 + 64, (void **)ints[i]));
    for (int i = 0; i < N; i++) /* two different experts a token */
        k->index[i] = (int32_t)((fm_mix64((uint64_t)(i / 2)) + 7 * (i % 2)) % E);
    return FM_KERNEL(ctx, moe_sort, k->counts, k->offsets, k->slot, k->source, k->index, T, K, E);
}

int main(int argc, char **argv) {
    bench k = {.only = argc > 1 ? argv[1] : ""};
    fm_error err = {0};
    if (fm_ctx_new("cpu", &err, NULL, 0, &k.ctx) != FM_OK || prepare(&k) != FM_OK) {
        fprintf(stderr, "ops: %s%s\n", err.message, k.ctx ? k.ctx->error.message : "");
        return 1;
    }
    k.bytes_per_s = 2.0 * ELEMENTS * 4 / fastest(&k, copy);
    k.flops_per_s = 2.0 * T * H * H / fastest(&k, product);
    printf("%s: %.0f GFLOP/s in a product, %.1f GB/s in a copy\n", k.ctx->dev->model,
           k.flops_per_s * 1e-9, k.bytes_per_s * 1e-9);

    const double f = 4, layer = 2.0 * T * D * H, pairs = (double)B * HEADS * S * (S + 1) / 2;
    const double td = (double)T * D * f, th = (double)T * H * f, nd = (double)N * D * f;
    report(&k, "linear_forward", linear_forward, layer, 0);
    report(&k, "linear_backward_input", linear_backward_input, layer, 0);
    report(&k, "linear_backward_weight", linear_backward_weight, layer, 0);
    report(&k, "experts_forward", experts_forward, K * layer, 0);
    report(&k, "experts_backward_input", experts_backward_input, K * layer, 0);
    report(&k, "experts_backward_weight", experts_backward_weight, K * layer, 0);
    report(&k, "attention_forward", attention_forward, pairs * 4 * DH, 4 * td);
    report(&k, "attention_backward", attention_backward, pairs * 10 * DH, 8 * td);
    report(&k, "add", add, 0, 3.0 * ELEMENTS * f);
    report(&k, "gelu", gelu, 0, 2 * th);
    report(&k, "gelu_backward", gelu_backward, 0, 3 * th);
    report(&k, "dropout", dropout, 0, 2 * th);
    report(&k, "layer_norm", layer_norm, 0, 2 * td);
    report(&k, "layer_norm_backward", layer_norm_backward, 0, 3 * td);
    report(&k, "softmax", softmax, 0, 2 * th);
    report(&k, "cross_entropy", cross_entropy, 0, th);
    report(&k, "top_k", top_k, 0, (double)T * E * f);
    report(&k, "moe_gather", moe_gather, 0, td + nd);
    report(&k, "moe_combine", moe_combine, 0, td + nd);
    report(&k, "adamw", adamw, 0, 7.0 * ELEMENTS * f);
    report(&k, "sum_squares", sum_squares, 0, ELEMENTS * f);
    void *all[] = {k.a, k.b, k.c, k.d, k.index, k.slot, k.source, k.offsets, k.counts};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fm_dealloc(k.ctx->alloc, all[i]);
    fm_ctx_free(k.ctx);
    return 0;
}
