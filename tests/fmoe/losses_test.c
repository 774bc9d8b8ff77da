/* Balance and z losses, capacities without bound, shared experts, recomputation: by brute force. */
#include "tests/fmoe/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { B = 3, S = 5, T = B * S, D = 6, E = 4, H = 8 };

static fm_moe_config config_of(const char *gate) {
    fm_moe_config c = fm_moe_config_default(E, H);
    snprintf(c.gate, sizeof c.gate, "%s", gate);
    c.z_loss_weight = 0.1;
    return c;
}

/* Softmax probabilities of x · gate_wᵀ in double; returns logsumexp. */
static double probabilities(const float *x, const float *w, double *p) {
    double top = -INFINITY, sum = 0;
    for (int e = 0; e < E; e++) {
        p[e] = 0;
        for (int c = 0; c < D; c++) p[e] += (double)x[c] * (double)w[e * D + c];
        top = fmax(top, p[e]);
    }
    for (int e = 0; e < E; e++) sum += p[e] = exp(p[e] - top);
    for (int e = 0; e < E; e++) p[e] /= sum;
    return top + log(sum);
}

/* E Σ f P over `rows` tokens. */
static double balance_of(double p[][E], int rows) {
    double f[E] = {0}, mean[E] = {0}, loss = 0;
    for (int i = 0; i < rows; i++) {
        int best = 0;
        for (int e = 0; e < E; e++) {
            mean[e] += p[i][e] / rows;
            if (p[i][e] > p[i][best]) best = e;
        }
        f[best] += 1.0 / rows;
    }
    for (int e = 0; e < E; e++) loss += E * f[e] * mean[e];
    return loss;
}

static void check_losses(test *t, const char *gate, fm_scope scope) {
    layer l;
    fm_tensor *x;
    double loss, p[T][E], z = 0, balance = 0;
    fm_moe_config c = config_of(gate);
    c.aux_loss_scope = scope;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 11));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    for (int i = 0; i < T; i++) {
        double lse = probabilities((float *)x->data + i * D, l.moe.gate_w->data, p[i]);
        z += lse * lse / T;
    }
    if (scope == FM_SCOPE_SEQUENCE)
        for (int b = 0; b < B; b++) balance += balance_of(p + b * S, S) / B;
    else
        balance = balance_of(p, T);
    EXPECT(t, fabs(l.moe.stats.z - z) < 1e-5 * (1 + z), "z %g, not %g", l.moe.stats.z, z);
    EXPECT(t, fabs(l.moe.stats.balance - balance) < 1e-5, "%s: balance %g, not %g", gate,
           l.moe.stats.balance, balance);
    fm_tensor_free(x);
    layer_free(&l);
}

static void losses(test *t) {
    const char *gates[] = {"switch", "gshard", "naive"};
    for (int g = 0; g < 3; g++) {
        check_losses(t, gates[g], FM_SCOPE_GLOBAL);
        check_losses(t, gates[g], FM_SCOPE_SEQUENCE);
    }
}

/* No loss is asked for: none is there, and none weighs in. */
static void no_losses(test *t) {
    layer l;
    fm_tensor *x, *aux;
    fm_moe_out out;
    fm_moe_config c = config_of("switch");
    c.aux_loss_weight = c.z_loss_weight = 0;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 11));
    EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, x, NULL, &out));
    EXPECT(t, !out.balance && !out.z, "a loss of weight 0");
    EXPECT_OK(t, fm_moe_aux_loss(t->ctx, &l.moe, &out, 2, &aux));
    EXPECT(t, !aux, "an auxiliary loss of nothing");
    EXPECT(t, l.moe.stats.balance > 0 && l.moe.stats.z > 0, "they are measured all the same");
    fm_moe_out_free(&out);
    fm_tensor_free(x);
    layer_free(&l);
}

/* A capacity without bound is one that drops nothing. */
static void boundless_capacity(test *t) {
    const double factors[] = {1e3, 1e18, 1e300, INFINITY};
    for (int i = 0; i < 4; i++) {
        layer l;
        fm_tensor *x;
        double loss;
        fm_moe_config c = config_of("naive");
        c.capacity_factor = factors[i];
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 11));
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
        EXPECT(t, l.moe.stats.dropped == 0, "capacity_factor %g drops %g", factors[i],
               l.moe.stats.dropped);
        fm_tensor_free(x);
        layer_free(&l);
    }
}

/* Survivors whose scores rounded to 0 have nothing to divide by: they stay 0, and so do gradients. */
static void renormalize_of_zeros(test *t) {
    const float score[] = {1.0f, 0.0f, 1.0f, 1e-42f, 0.75f, 0.25f};
    const int32_t index[] = {-1, 2, -1, 1, 0, 1};
    fm_tensor *scores, *indices, *y, *sum;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &scores, FM_F32, 2, (int64_t[]){3, 2}, score));
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &indices, FM_I32, 2, (int64_t[]){3, 2}, index));
    scores->requires_grad = true;
    EXPECT_OK(t, fm_renormalize(t->ctx, &y, scores, indices));
    const float *got = y->data;
    for (int i = 0; i < 4; i++) EXPECT(t, got[i] == 0, "element %d: %g", i, (double)got[i]);
    EXPECT(t, got[4] == 0.75f && got[5] == 0.25f, "the others");
    EXPECT_OK(t, fm_sum(t->ctx, &sum, y, 1));
    EXPECT_OK(t, fm_backward(t->ctx, sum, NULL));
    const float *g = scores->grad->data;
    for (int i = 0; i < 6; i++) EXPECT(t, fabsf(g[i]) < 1e-6f, "gradient %d: %g", i, (double)g[i]);
    fm_tensor *gone[] = {scores, indices, y, sum};
    for (int i = 0; i < 4; i++) fm_tensor_free(gone[i]);
}

/* What shared experts add is a dense layer of their weights. */
static void shared_experts(test *t) {
    layer l[2];
    fm_tensor *x;
    fm_moe_out out[2];
    enum { N = 2 };
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 12));
    for (int k = 0; k < 2; k++) {
        fm_moe_config c = config_of("naive");
        c.activation = FM_ACT_RELU;
        c.num_shared_experts = k * N;
        EXPECT_OK(t, layer_new(t->ctx, &l[k], &c, D));
        EXPECT_OK(t, fm_moe_forward(t->ctx, &l[k].moe, x, NULL, &out[k]));
    }
    const float *up = l[1].moe.shared_up_w->data, *down = l[1].moe.shared_down_w->data;
    const float *in = x->data, *without = out[0].y->data, *with = out[1].y->data;
    for (int i = 0; i < T; i++)
        for (int o = 0; o < D; o++) {
            double want = (double)without[i * D + o];
            for (int j = 0; j < N * H; j++) {
                double h = 0;
                for (int c = 0; c < D; c++) h += (double)in[i * D + c] * (double)up[j * D + c];
                want += fmax(h, 0) * (double)down[o * N * H + j];
            }
            EXPECT(t, fabs((double)with[i * D + o] - want) < 1e-5,
                   "token %d, column %d: %g, not %g", i, o, (double)with[i * D + o], want);
        }
    for (int k = 0; k < 2; k++) {
        fm_moe_out_free(&out[k]);
        layer_free(&l[k]);
    }
    fm_tensor_free(x);
}

/* ---- recomputation */

static fm_status recomputed(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    fm_moe_out o;
    FM_TRY(fm_moe_forward(ctx, *(fm_moe **)user, in[0], NULL, &o));
    out[0] = o.y, out[1] = o.balance, out[2] = o.z;
    return FM_OK;
}

/* The same bits with and without, noise and drops included; what was measured is measured once. */
static void recompute(test *t, const char *gate) {
    enum { MAX = 4096 };
    static float kept[MAX];
    fm_moe_stats stats = {0};
    for (int again = 0; again < 2; again++) {
        layer l;
        fm_tensor *x, *out[3], *square, *main, *aux, *total;
        fm_moe_config c = config_of(gate);
        c.capacity_factor = 0.9;
        if (strcmp(gate, "switch") == 0) c.jitter = 0.1;
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 13));
        fm_moe *m = &l.moe;
        if (again)
            EXPECT_OK(t,
                      fm_recompute(t->ctx, recomputed, &m, sizeof(fm_moe *), NULL, &x, 1, out, 3));
        else
            EXPECT_OK(t, recomputed(t->ctx, &m, &x, out));
        if (again) EXPECT(t, memcmp(&stats, &m->stats, sizeof stats) == 0, "statistics differ");
        fm_tensor *indices = m->last_indices;
        stats = m->stats;
        EXPECT_OK(t, fm_mul(t->ctx, &square, out[0], out[0]));
        EXPECT_OK(t, fm_sum(t->ctx, &main, square, 0.5f));
        fm_moe_out o = {.balance = out[1], .z = out[2]};
        EXPECT_OK(t, fm_moe_aux_loss(t->ctx, m, &o, 1, &aux));
        EXPECT_OK(t, fm_add(t->ctx, &total, main, aux));
        EXPECT_OK(t, fm_backward(t->ctx, total, NULL));
        EXPECT(t, m->last_indices == indices && memcmp(&stats, &m->stats, sizeof stats) == 0,
               "%s: the second pass was measured", gate);
        int64_t n = l.params->numel, nx = fm_numel(x);
        EXPECT(t, n + nx <= MAX, "%d numbers", (int)(n + nx));
        const float *g = l.params->grads->data, *gx = x->grad->data;
        if (again) {
            EXPECT(t, memcmp(kept, g, (size_t)n * sizeof *g) == 0, "%s: weights", gate);
            EXPECT(t, memcmp(kept + n, gx, (size_t)nx * sizeof *g) == 0, "%s: inputs", gate);
        }
        memcpy(kept, g, (size_t)n * sizeof *g);
        memcpy(kept + n, gx, (size_t)nx * sizeof *g);
        fm_tensor *gone[] = {x, out[0], out[1], out[2], square, main, aux, total};
        for (int i = 0; i < 8; i++) fm_tensor_free(gone[i]);
        layer_free(&l);
    }
}
static void recompute_gshard(test *t) { recompute(t, "gshard"); }
static void recompute_switch(test *t) { recompute(t, "switch"); }

static const test_case cases[] = {{"losses", losses},
                                  {"no_losses", no_losses},
                                  {"boundless_capacity", boundless_capacity},
                                  {"renormalize_of_zeros", renormalize_of_zeros},
                                  {"shared_experts", shared_experts},
                                  {"recompute_gshard", recompute_gshard},
                                  {"recompute_switch", recompute_switch}};
TEST_PROGRAM(cases)
