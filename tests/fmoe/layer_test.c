/* The MoE layer: gradients, identities, statistics, errors, memory. Its values against PyTorch are
 * tests/parity's. */
#include "tests/fmoe/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { B = 2, S = 7, D = 6, E = 5, H = 9 };

static fm_moe_config config_of(const char *gate) {
    fm_moe_config c = fm_moe_config_default(E, H);
    snprintf(c.gate, sizeof c.gate, "%s", gate);
    c.random_second = strcmp(gate, "gshard") != 0; /* the others do not know it */
    c.aux_loss_weight = 0.3;
    c.z_loss_weight = 0.1;
    return c;
}

/* Analytic gradients of x and of every parameter against central differences in a direction. Steps
 * small enough that no choice flips; sums in float limit the agreement to about 1e-3. */
static void check_gradients(test *t, const fm_moe_config *config) {
    layer l;
    fm_tensor *x;
    double loss, up, down;
    EXPECT_OK(t, layer_new(t->ctx, &l, config, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    for (int k = 0; k <= l.params->n; k++) {
        fm_tensor *w = k < l.params->n ? l.params->items[k]->weight : x;
        float *v = w->data, *g = w->grad->data;
        int64_t n = fm_numel(w);
        double norm = 0;
        for (int64_t i = 0; i < n; i++) norm += (double)g[i] * g[i];
        norm = sqrt(norm);
        if (norm < 1e-4) continue; /* an expert's bias without tokens, say */
        float kept[1024], direction[1024];
        EXPECT(t, n <= 1024, "parameter %d is too large for the test", k);
        memcpy(kept, v, (size_t)n * sizeof *v);
        const double h = 2e-3;
        for (int64_t i = 0; i < n; i++) direction[i] = (float)(g[i] / norm);
        for (int64_t i = 0; i < n; i++) v[i] = kept[i] + (float)h * direction[i];
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &up));
        for (int64_t i = 0; i < n; i++) v[i] = kept[i] - (float)h * direction[i];
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &down));
        memcpy(v, kept, (size_t)n * sizeof *v);
        double slope = (up - down) / (2 * h);
        EXPECT(t, fabs(slope - norm) < 5e-3 * norm + 2e-3, "%s: slope %g, gradient %g",
               k < l.params->n ? l.params->items[k]->spec.name : "x", slope, norm);
        /* the differences added to the gradients: begin anew */
        fm_param_zero_grads(l.params);
        fm_zero_grad(x);
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    }
    fm_tensor_free(x);
    layer_free(&l);
}

static void gradients_naive(test *t) {
    fm_moe_config c = config_of("naive");
    check_gradients(t, &c);
}
static void gradients_switch(test *t) {
    fm_moe_config c = config_of("switch");
    c.gate_bias = true;
    c.aux_loss_scope = FM_SCOPE_SEQUENCE;
    check_gradients(t, &c);
}
static void gradients_gshard(test *t) {
    fm_moe_config c = config_of("gshard");
    c.num_shared_experts = 1;
    c.activation = FM_ACT_SWIGLU;
    check_gradients(t, &c);
}
static void gradients_renormalized(test *t) {
    fm_moe_config c = config_of("naive");
    c.top_k = 3;
    c.capacity_factor = 0.8;
    c.renormalize = true;
    c.scale = 1.5;
    check_gradients(t, &c);
}

/* Permute and combine with scores 1/k give x back, exactly for k = 2. */
static void combine_inverts_dispatch(test *t) {
    fm_tensor *x, *rows, *indices, *scores, *permuted, *y;
    fm_moe_map map = {0};
    const int32_t chosen[] = {4, 0, 1, 2, 0, 4, 2, 1, 3, 0, 4, 1, 2, 3};
    const float half[] = {.5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f};
    EXPECT_OK(t, layer_input(t->ctx, &x, 1, S, D, 3));
    EXPECT_OK(t, fm_reshape(t->ctx, &rows, x, 2, (int64_t[]){S, D}));
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &indices, FM_I32, 2, (int64_t[]){S, 2}, chosen));
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &scores, FM_F32, 2, (int64_t[]){S, 2}, half));
    EXPECT_OK(t, fm_moe_map_new(t->ctx, &map, indices, E));
    EXPECT_OK(t, fm_moe_permute(t->ctx, &permuted, rows, &map));
    EXPECT_OK(t, fm_moe_unpermute(t->ctx, &y, permuted, scores, &map));
    EXPECT(t, memcmp(y->data, x->data, fm_nbytes(y)) == 0, "not the identity");
    fm_moe_map_free(&map);
    fm_tensor *gone[] = {x, rows, indices, scores, permuted, y};
    for (int i = 0; i < 6; i++) fm_tensor_free(gone[i]);
}

static void statistics(test *t) {
    layer l;
    fm_tensor *x;
    double loss;
    fm_moe_config c = config_of("naive");
    c.capacity_factor = 0.5;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 4));
    l.moe.training = false; /* dropless: the counts before drops */
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    const int32_t *index = l.moe.last_indices->data;
    double count[E] = {0}, most = 0, squares = 0, entropy = 0, n = B * S * 2;
    for (int i = 0; i < B * S * 2; i++) count[index[i]]++;
    for (int e = 0; e < E; e++) {
        if (count[e] > most) most = count[e];
        squares += count[e] * count[e];
        if (count[e] > 0) entropy -= count[e] / n * log(count[e] / n);
    }
    double mean = n / E, cv = sqrt(squares / E - mean * mean) / mean;
    const fm_moe_stats *s = &l.moe.stats;
    EXPECT(t, s->tokens == B * S && s->dropped == 0, "%d tokens", (int)s->tokens);
    EXPECT(t, fabs(s->load_max_over_mean - most / mean) < 1e-12, "%g", s->load_max_over_mean);
    EXPECT(t, fabs(s->load_cv - cv) < 1e-12, "%g, not %g", s->load_cv, cv);
    EXPECT(t, fabs(s->entropy - entropy) < 1e-12, "%g, not %g", s->entropy, entropy);
    l.moe.training = true;
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    double kept = 0;
    const int32_t *counts = l.moe.last_counts->data;
    index = l.moe.last_indices->data;
    for (int i = 0; i < B * S * 2; i++) kept += index[i] >= 0;
    EXPECT(t, fabs(s->dropped - (1 - kept / n)) < 1e-12, "dropped %g", s->dropped);
    EXPECT(t, s->dropped > 0.1, "the capacity drops nothing");
    EXPECT(t, fabs(s->load_max_over_mean - most / mean) < 1e-12, "the load is that before drops");
    for (int e = 0; e < E; e++)
        EXPECT(t, counts[e] <= fm_capacity(0.5, 2, B * S, E), "expert %d has %d", e, counts[e]);
    fm_tensor_free(x);
    layer_free(&l);
}

static void nan_names_the_layer(test *t) {
    layer l;
    fm_tensor *x;
    double loss;
    fm_moe_config c = config_of("naive");
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 4));
    ((float *)x->data)[9] = NAN;
    EXPECT_ERROR(t, layer_step(t->ctx, &l, x, &loss), FM_ERR_NAN, "moe:");
    fm_tensor_free(x);
    layer_free(&l);
}

static void corners(test *t) {
    const struct { int64_t experts, k, T; } sizes[] = {{1, 1, 3}, {4, 4, 5}, {8, 2, 1}, {3, 1, 1}};
    for (size_t i = 0; i < 4; i++) {
        layer l;
        fm_tensor *x;
        double loss;
        fm_moe_config c = config_of("naive");
        c.num_experts = sizes[i].experts;
        c.top_k = sizes[i].k;
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, 1, sizes[i].T, D, 5));
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
        EXPECT(t, isfinite(loss) && loss > 0, "E %d, k %d: loss %g", (int)c.num_experts,
               (int)c.top_k, loss);
        fm_tensor_free(x);
        layer_free(&l);
    }
}

/* The n-th allocation of a forward and backward fails, n = 0, 1, 2 ... */
static void out_of_memory(test *t) {
    layer l;
    fm_tensor *x;
    double loss;
    fm_moe_config c = config_of("gshard");
    c.capacity_factor = 0.9;
    c.renormalize = true;
    c.num_shared_experts = 1;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 6));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    fm_moe_free(&l.moe);
    int64_t tensors = t->ctx->live_tensors, nodes = t->ctx->live_nodes;
    for (int n = 0;; n++) {
        EXPECT(t, n < 1000, "never succeeds");
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status status = layer_step(t->ctx, &l, x, &loss);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        fm_moe_free(&l.moe);
        EXPECT(t, t->ctx->live_tensors == tensors && t->ctx->live_nodes == nodes,
               "call %d leaks %d tensors, %d nodes", n, (int)(t->ctx->live_tensors - tensors),
               (int)(t->ctx->live_nodes - nodes));
        if (status == FM_OK) {
            EXPECT(t, n > 40, "only %d allocations", n);
            break;
        }
        EXPECT(t, status == FM_ERR_OOM, "call %d: %s", n, fm_status_name(status));
        fm_error_clear(&t->ctx->error);
    }
    fm_tensor_free(x);
    layer_free(&l);
}

static void config_errors(test *t) {
    fm_moe_config c = config_of("nave");
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, "'nave'", "naive");
    c = config_of("switch");
    c.top_k = 2;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, "top_k is 2", "switch");
    c = config_of("naive");
    c.top_k = 6;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, "top_k is 6",
                 "num_experts, 5");
    c = config_of("naive");
    c.drop_policy = FM_DROP_SCORE;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, "drop_policy",
                 "capacity_scope");
    c = config_of("naive");
    c.capacity_factor = -1;
    EXPECT_ERROR(t, fm_moe_config_check(t->ctx, &c, NULL), FM_ERR_VALUE, "capacity_factor is -1");
    c = config_of("gshard");
    c.top_k = 0;
    EXPECT_OK(t, fm_moe_config_check(t->ctx, &c, NULL));
    EXPECT(t, c.top_k == 2, "gshard's own k is 2");
}

static const test_case cases[] = {{"gradients_naive", gradients_naive},
                                  {"gradients_switch", gradients_switch},
                                  {"gradients_gshard", gradients_gshard},
                                  {"gradients_renormalized", gradients_renormalized},
                                  {"combine_inverts_dispatch", combine_inverts_dispatch},
                                  {"statistics", statistics},
                                  {"nan_names_the_layer", nan_names_the_layer},
                                  {"corners", corners},
                                  {"out_of_memory", out_of_memory},
                                  {"config_errors", config_errors}};
TEST_PROGRAM(cases)
