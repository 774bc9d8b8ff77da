/* Training, evaluation, generation; what is drawn when; memory that runs out; odd sizes. */
#include "tests/fmoe/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { B = 2, S = 32, T = B * S, D = 6, E = 4, H = 8 };

static fm_moe_config config_of(const char *gate) {
    fm_moe_config c = fm_moe_config_default(E, H);
    snprintf(c.gate, sizeof c.gate, "%s", gate);
    return c;
}

/* Evaluation draws nothing: it neither depends on the step nor on whether there is noise. */
static void evaluation_draws_nothing(test *t) {
    const char *gates[] = {"gshard", "switch"};
    for (int g = 0; g < 2; g++) {
        double loss[4];
        for (int run = 0; run < 4; run++) {
            layer l;
            fm_tensor *x;
            fm_moe_config c = config_of(gates[g]);
            if (run < 3 && g == 1) c.jitter = 0.3;
            if (run == 3 && g == 0) c.random_second = false;
            EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
            EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 3));
            l.moe.training = false;
            t->ctx->own_clock.step = run == 1, t->ctx->own_clock.micro = run == 2;
            EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss[run]));
            t->ctx->own_clock.step = t->ctx->own_clock.micro = 0;
            fm_tensor_free(x);
            layer_free(&l);
        }
        for (int run = 1; run < 4; run++)
            EXPECT(t, loss[run] == loss[0], "%s, run %d: %.9g, not %.9g", gates[g], run, loss[run],
                   loss[0]);
    }
}

/* What training draws depends on seed, step and micro-batch, and on nothing else. */
static void training_draws(test *t) {
    const char *gates[] = {"gshard", "switch"};
    for (int g = 0; g < 2; g++) {
        layer l;
        fm_tensor *x;
        double loss[5];
        fm_moe_config c = config_of(gates[g]);
        c.jitter = g == 1 ? 0.3 : 0;
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 3));
        uint64_t seed = t->ctx->seed;
        for (int run = 0; run < 5; run++) {
            t->ctx->seed = seed + (run == 1), t->ctx->own_clock.step = run == 2,
            t->ctx->own_clock.micro = run == 3;
            EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss[run]));
        }
        t->ctx->seed = seed, t->ctx->own_clock.step = t->ctx->own_clock.micro = 0;
        EXPECT(t, loss[4] == loss[0], "%s: not repeatable", gates[g]);
        for (int run = 1; run < 4; run++)
            EXPECT(t, loss[run] != loss[0], "%s: run %d draws the same", gates[g], run);
        fm_tensor_free(x);
        layer_free(&l);
    }
}

/* The jitter's factors are in [1-ε, 1+ε], and reach near both ends: with one expert's weight 1 and the
 * other's 0, the router's input comes back out of the score, σ(u·x) = s. */
static void jitter_range(test *t) {
    enum { N = 4000 };
    const double eps = 0.25;
    layer l;
    fm_tensor *x;
    double loss, low = 2, high = 0, sum = 0;
    static float ones[N];
    fm_moe_config c = config_of("switch");
    c.num_experts = 2;
    c.jitter = eps;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, 1));
    for (int i = 0; i < N; i++) ones[i] = 1;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_F32, 3, (int64_t[]){1, N, 1}, ones));
    const float weights[] = {1, 0};
    EXPECT_OK(t, fm_tensor_set(t->ctx, l.moe.gate_w, weights, sizeof weights));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    const float *score = l.moe.last_scores->data;
    for (int i = 0; i < N; i++) {
        double u = log((double)score[i] / (1 - (double)score[i]));
        low = fmin(low, u), high = fmax(high, u), sum += u;
    }
    EXPECT(t, low > 1 - eps - 1e-5 && low < 1 - eps + 0.005, "lowest %g", low);
    EXPECT(t, high < 1 + eps + 1e-5 && high > 1 + eps - 0.005, "highest %g", high);
    /* five standard errors of a uniform mean */
    EXPECT(t, fabs(sum / N - 1) < 5 * eps / sqrt(3.0 * N), "mean %g", sum / N);
    fm_tensor_free(x);
    layer_free(&l);
}

/* While generating nothing is dropped, and the last step's statistics stay. */
static void generating(test *t) {
    layer l;
    fm_tensor *x, *other;
    double loss;
    fm_moe_out out[2];
    fm_moe_config c = config_of("naive");
    c.capacity_factor = c.eval_capacity_factor = 0.5;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 3));
    EXPECT_OK(t, layer_input(t->ctx, &other, 1, S, D, 4));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    fm_moe_stats stats = l.moe.stats;
    EXPECT(t, stats.dropped > 0.1, "the capacity drops nothing");
    l.moe.training = false;
    l.moe.generating = true;
    EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, other, NULL, &out[0]));
    EXPECT(t, memcmp(&stats, &l.moe.stats, sizeof stats) == 0, "statistics of a generated token");
    l.moe.generating = false;
    l.moe.config.eval_capacity_factor = 0;
    EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, other, NULL, &out[1]));
    EXPECT(t, l.moe.stats.dropped == 0 && l.moe.stats.tokens == S, "dropless evaluation");
    EXPECT(t, memcmp(out[0].y->data, out[1].y->data, fm_nbytes(out[0].y)) == 0,
           "generating is not dropless");
    l.moe.config.eval_capacity_factor = 0.5;
    fm_moe_out_free(&out[1]);
    EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, other, NULL, &out[1]));
    EXPECT(t, l.moe.stats.dropped > 0.1, "evaluation's own capacity");
    for (int i = 0; i < 2; i++) fm_moe_out_free(&out[i]);
    fm_tensor_free(x);
    fm_tensor_free(other);
    layer_free(&l);
}

/* No sequence, or sequences of no token: nothing comes out, and nothing divides by them. */
static void no_tokens(test *t) {
    const int64_t shapes[][3] = {{0, 4, D}, {2, 0, D}};
    const char *gates[] = {"naive", "gshard", "switch"};
    for (int i = 0; i < 12; i++) {
        layer l;
        fm_tensor *x;
        fm_moe_out out;
        fm_moe_config c = config_of(gates[i % 3]);
        c.capacity_factor = 1;
        c.z_loss_weight = 0.1;
        if (i >= 6) c.capacity_scope = c.aux_loss_scope = FM_SCOPE_SEQUENCE;
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_F32, 3, shapes[i / 3 % 2]));
        EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, x, NULL, &out));
        EXPECT(t, fm_numel(out.y) == 0 && out.y->ndim == 3, "y");
        EXPECT(t,
               isfinite(l.moe.stats.balance) && isfinite(l.moe.stats.z) &&
                   l.moe.stats.dropped == 0 && l.moe.stats.tokens == 0,
               "%s: balance %g, z %g, dropped %g", gates[i % 3], l.moe.stats.balance, l.moe.stats.z,
               l.moe.stats.dropped);
        fm_moe_out_free(&out);
        fm_tensor_free(x);
        layer_free(&l);
    }
}

/* The n-th allocation fails, n = 0, 1, 2 ...: nothing leaks, and what succeeds at last is what
 * succeeded before. */
static void staircase(test *t, const fm_moe_config *c) {
    layer l;
    fm_tensor *x;
    double want, loss;
    EXPECT_OK(t, layer_new(t->ctx, &l, c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, 4, D, 6));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &want));
    fm_moe_free(&l.moe);
    int64_t tensors = t->ctx->live_tensors, nodes = t->ctx->live_nodes;
    size_t bytes = fm_alloc_get_stats(t->ctx->alloc).in_use;
    for (int n = 0;; n++) {
        EXPECT(t, n < 1000, "never succeeds");
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status status = layer_step(t->ctx, &l, x, &loss);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        fm_moe_free(&l.moe);
        EXPECT(t,
               t->ctx->live_tensors == tensors && t->ctx->live_nodes == nodes &&
                   fm_alloc_get_stats(t->ctx->alloc).in_use == bytes,
               "call %d leaks", n);
        if (status == FM_OK) {
            EXPECT(t, n > 30 && loss == want, "%d allocations, loss %g, not %g", n, loss, want);
            break;
        }
        EXPECT(t, status == FM_ERR_OOM, "call %d: %s", n, fm_status_name(status));
        fm_error_clear(&t->ctx->error);
    }
    fm_tensor_free(x);
    layer_free(&l);
}
static void out_of_memory_switch(test *t) {
    fm_moe_config c = config_of("switch");
    c.jitter = 0.1;
    c.aux_loss_scope = FM_SCOPE_SEQUENCE;
    c.z_loss_weight = 0.1;
    c.scale = 2;
    c.activation = FM_ACT_SWIGLU;
    staircase(t, &c);
}
static void out_of_memory_naive(test *t) {
    fm_moe_config c = config_of("naive");
    c.capacity_factor = 0.7;
    c.capacity_scope = FM_SCOPE_SEQUENCE;
    c.drop_policy = FM_DROP_SCORE;
    c.renormalize = true;
    staircase(t, &c);
}

/* Every field's range. */
static void ranges(test *t) {
    fm_moe_config c = config_of("naive");
#define REFUSED(field, value, ...)                                                                 \
    do {                                                                                           \
        c = config_of("naive");                                                                    \
        c.field = value;                                                                           \
        EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, __VA_ARGS__);         \
    } while (0)
    REFUSED(num_experts, 0, "num_experts is 0", "at least 1");
    REFUSED(d_hidden, 0, "d_hidden is 0", "at least 1");
    REFUSED(top_k, -1, "top_k is -1", "num_experts, 4");
    REFUSED(eval_capacity_factor, -0.5, "eval_capacity_factor is -0.5");
    REFUSED(capacity_factor, NAN, "capacity_factor is");
    REFUSED(aux_loss_weight, -1, "aux_loss_weight is -1");
    REFUSED(z_loss_weight, -1, "z_loss_weight is -1");
    REFUSED(num_shared_experts, -2, "num_shared_experts is -2");
    REFUSED(jitter, 1, "jitter is 1", "[0, 1)");
    REFUSED(scale, 0, "scale is 0", "positive");
    REFUSED(jitter, 0.1, "jitter is 0.1", "'naive'", "'switch'");
    REFUSED(random_second, false, "second_policy is 'all'", "'naive'", "'gshard'");
#undef REFUSED
    /* what a gate does not know, and the defaults, which every gate bears */
    const char *gates[] = {"naive", "gshard", "switch"};
    for (int g = 0; g < 3; g++) {
        for (int what = 0; what < 3; what++) {
            c = config_of(gates[g]);
            c.jitter = what == 1 ? 0.1 : 0;
            c.random_second = what != 2;
            bool known = what == 0 || what == 3 - g;
            fm_status status = fm_moe_config_check(t->ctx, &c, NULL);
            EXPECT(t, status == (known ? FM_OK : FM_ERR_VALUE), "%s, %d: %s", gates[g], what,
                   fm_status_name(status));
            fm_error_clear(&t->ctx->error);
        }
    }
    const fm_gate own = {.name = "own", .default_top_k = 1, .own_router = true};
    c = config_of("naive");
    EXPECT_OK(t, fm_moe_config_check(t->ctx, &c, &own));
    c.z_loss_weight = 0.1;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, &own), FM_ERR_VALUE, "z_loss_weight", "'own'");
    c.z_loss_weight = 0, c.gate_bias = true;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, &own), FM_ERR_VALUE, "gate_bias", "'own'");
    layer l;
    fm_tensor *x;
    fm_moe_out out;
    c = config_of("naive");
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_F32, 2, (int64_t[]){3, D + 1}));
    EXPECT_ERROR(t, fm_moe_forward(t->ctx, &l.moe, x, NULL, &out), FM_ERR_SHAPE, "moe: ", "[3, 7]",
                 "[T, 6]");
    EXPECT(t, !out.y, "an output after an error");
    fm_tensor_free(x);
    layer_free(&l);
}

static const test_case cases[] = {{"evaluation_draws_nothing", evaluation_draws_nothing},
                                  {"training_draws", training_draws},
                                  {"jitter_range", jitter_range},
                                  {"generating", generating},
                                  {"no_tokens", no_tokens},
                                  {"out_of_memory_switch", out_of_memory_switch},
                                  {"out_of_memory_naive", out_of_memory_naive},
                                  {"ranges", ranges}};
TEST_PROGRAM(cases)
