/* What a layer measures: the gate's choices apart from capacity's, losses whatever their weight. */
#include "tests/fmoe/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { B = 4, S = 64, T = B * S, D = 6, E = 4, H = 8 };

static fm_moe_config config_of(const char *gate) {
    fm_moe_config c = fm_moe_config_default(E, H);
    snprintf(c.gate, sizeof c.gate, "%s", gate);
    return c;
}

static int64_t count_kept(const fm_moe *m) {
    int64_t n = 0;
    for (int64_t i = 0; i < fm_numel(m->last_indices); i++)
        n += ((const int32_t *)m->last_indices->data)[i] >= 0;
    return n;
}

/* Second choices that gshard does not draw are no drops; capacity drops of those it made. The draws
 * are the same with and without a capacity. */
static void gate_and_capacity_apart(test *t) {
    int64_t chosen = 0;
    for (int tight = 0; tight < 2; tight++) {
        layer l;
        fm_tensor *x;
        double loss;
        fm_moe_config c = config_of("gshard");
        c.capacity_factor = tight ? 0.5 : 0;
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
        const fm_moe_stats *s = &l.moe.stats;
        int64_t kept = count_kept(&l.moe);
        if (!tight) chosen = kept;
        double dropped = 1 - (double)kept / (double)chosen;
        EXPECT(t, s->choices == chosen && s->kept == kept, "%d of %d, not %d of %d", (int)s->kept,
               (int)s->choices, (int)kept, (int)chosen);
        EXPECT(t,
               fabs(s->not_taken - (1 - (double)chosen / (2.0 * T))) < 1e-12 && s->not_taken > 0.02,
               "not taken %g", s->not_taken);
        EXPECT(t, fabs(s->dropped - dropped) < 1e-12, "dropped %g, not %g", s->dropped, dropped);
        EXPECT(t, tight ? s->dropped > 0.1 : s->dropped == 0, "dropped %g", s->dropped);
        l.moe.training = false; /* takes both choices of every token */
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
        EXPECT(t, s->not_taken == 0 && s->dropped == 0 && s->choices == 2 * T, "evaluation");
        fm_tensor_free(x);
        layer_free(&l);
    }
}

/* FLOPs: of top_k experts as planned, of those that computed as measured. */
static void flops(test *t) {
    layer l;
    fm_tensor *x;
    double loss;
    fm_moe_config c = config_of("gshard");
    c.capacity_factor = 0.5;
    c.num_shared_experts = 1;
    double router = 2.0 * D * E, expert = 4.0 * D * H;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT(t, fm_moe_flops_per_token(&l.moe, true) == router + 3 * expert, "before a forward");
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    EXPECT(t, fm_moe_flops_per_token(&l.moe, false) == router + 3 * expert, "as planned");
    double got = fm_moe_flops_per_token(&l.moe, true);
    double want = router + ((double)count_kept(&l.moe) / T + 1) * expert;
    EXPECT(t, fabs(got - want) < 1e-9 * want && got < router + 2.1 * expert, "%g, not %g", got,
           want);
    fm_tensor_free(x);
    layer_free(&l);
}

/* A loss is the same number with a weight and without. */
static void losses_without_weight(test *t) {
    const char *gates[] = {"naive", "gshard", "switch"};
    for (int i = 0; i < 6; i++) {
        fm_moe_stats stats[2];
        for (int weighted = 0; weighted < 2; weighted++) {
            layer l;
            fm_tensor *x;
            double loss;
            fm_moe_config c = config_of(gates[i % 3]);
            c.aux_loss_weight = c.z_loss_weight = weighted ? 0.1 : 0;
            if (i >= 3) c.aux_loss_scope = FM_SCOPE_SEQUENCE;
            EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
            EXPECT(t, isnan(l.moe.stats.balance) && isnan(l.moe.stats.z), "before a forward");
            EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
            EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
            stats[weighted] = l.moe.stats;
            fm_tensor_free(x);
            layer_free(&l);
        }
        EXPECT(t, stats[0].z == stats[1].z && stats[0].z > 0, "%s: z %g and %g", gates[i % 3],
               stats[0].z, stats[1].z);
        EXPECT(t, stats[0].balance == stats[1].balance && stats[0].balance > 0,
               "%s: balance %g and %g", gates[i % 3], stats[0].balance, stats[1].balance);
    }
}

/* ---- a gate of one's own: all to expert 0, with what a test wants of it */

typedef struct own_gate {
    float score, loss; /* of token 5, choice 0; loss 0: none */
    int32_t first;     /* the choice of token 0 */
} own_gate;

static fm_status own_forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    const own_gate *own = m->gate->user;
    int32_t index[T];
    float score[T];
    for (int i = 0; i < T; i++) index[i] = i == 0 ? own->first : 0, score[i] = 1;
    score[5] = own->score;
    int64_t shape[] = {in->T, 1};
    FM_TRY(fm_tensor_from_host(ctx, &out->indices, FM_I32, 2, shape, index));
    FM_TRY(fm_tensor_from_host(ctx, &out->scores, FM_F32, 2, shape, score));
    if (own->loss == 0) return FM_OK;
    return fm_tensor_from_host(ctx, &out->balance, FM_F32, 1, (int64_t[]){1}, &own->loss);
}

static void gate_of_ones_own(test *t) {
    own_gate own = {.score = 1, .first = -1};
    const fm_gate gate = {.name = "own",
                          .default_top_k = 1,
                          .has_balance = true,
                          .own_router = true,
                          .user = &own,
                          .forward = own_forward};
    layer l = {0};
    fm_tensor *x;
    double loss;
    fm_moe_config c = config_of("naive");
    fm_mesh_config mesh = fm_mesh_config_default();
    EXPECT_OK(t, fm_mesh_new(t->ctx, &mesh, NULL, &l.mesh));
    EXPECT_OK(t, fm_param_set_new(t->ctx, l.mesh, &l.params));
    EXPECT_OK(
        t, fm_moe_init(t->ctx, &l.moe, "moe", &c, &gate, l.mesh, D, FM_F32, 0.3f, 0.3f, l.params));
    EXPECT_OK(t, fm_param_set_seal(l.params));
    EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
    const fm_moe_stats *s = &l.moe.stats;

    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    EXPECT(t, s->not_taken == 1.0 / T && s->dropped == 0, "not taken %g, dropped %g", s->not_taken,
           s->dropped);
    EXPECT(t, isnan(s->balance) && isnan(s->z), "balance %g, z %g", s->balance, s->z);
    own.loss = 1.5f;
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    EXPECT(t, s->balance == 1.5 && isnan(s->z), "balance %g, z %g", s->balance, s->z);

    own.score = NAN;
    EXPECT_ERROR(t, layer_step(t->ctx, &l, x, &loss), FM_ERR_NAN, "moe: ", "score", "token 5",
                 "choice 0");
    own.score = 1, own.loss = NAN;
    EXPECT_ERROR(t, layer_step(t->ctx, &l, x, &loss), FM_ERR_NAN, "moe: ", "loss is NaN");
    own.loss = 0;
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    fm_tensor_free(x);
    layer_free(&l);
}

/* An infinite logit has no probability. */
static void infinite_logits(test *t) {
    const char *gates[] = {"naive", "gshard", "switch"};
    for (int g = 0; g < 3; g++) {
        layer l;
        fm_tensor *x;
        double loss;
        fm_moe_config c = config_of(gates[g]);
        EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
        EXPECT_OK(t, layer_input(t->ctx, &x, B, S, D, 1));
        memset(l.moe.gate_w->data, 0, fm_nbytes(l.moe.gate_w));
        ((float *)l.moe.gate_w->data)[0] = 3e38f;
        ((float *)x->data)[7 * D] = 10;
        EXPECT_ERROR(t, layer_step(t->ctx, &l, x, &loss), FM_ERR_NAN, "moe: ", "score", "token 7");
        fm_tensor_free(x);
        layer_free(&l);
    }
}

static const test_case cases[] = {{"gate_and_capacity_apart", gate_and_capacity_apart},
                                  {"flops", flops},
                                  {"losses_without_weight", losses_without_weight},
                                  {"gate_of_ones_own", gate_of_ones_own},
                                  {"infinite_logits", infinite_logits}};
TEST_PROGRAM(cases)
