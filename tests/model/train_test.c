/* Training steps of a whole GPT: micro-batches, two contexts, memory that runs out, leaks. */
#include "model/gpt.h"
#include "model/optim.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <string.h>

enum { V = 19, L = 2, D = 16, HEADS = 2, S = 8, E = 4, H = 12, BATCH = 4 };

typedef struct trainer {
    fm_mesh *mesh;
    fm_gpt *m;
    fm_optim *o;
    int64_t fail_backward; /* n > 0: the n-th allocation of the next backward fails */
} trainer;

static fm_gpt_config config_of(void) {
    fm_gpt_config c = fm_gpt_config_default(V, L, D, HEADS, S);
    c.has_moe = true;
    c.moe = fm_moe_config_default(E, H);
    return c;
}

static void trainer_free(trainer *r) {
    fm_optim_free(r->o);
    fm_gpt_free(r->m);
    fm_mesh_free(r->mesh);
    *r = (trainer){0};
}

static fm_status trainer_new(fm_ctx *ctx, trainer *r, const fm_gpt_config *c, int64_t micro) {
    *r = (trainer){0};
    fm_mesh_config mesh = fm_mesh_config_default();
    fm_optim_config oc = fm_optim_config_default(FM_ADAMW, 1e-2);
    oc.micro_batches = micro;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_mesh_new(ctx, &mesh, NULL, &r->mesh));
    FM_TRY_GOTO(fm_gpt_new(ctx, c, r->mesh, &r->m));
    FM_TRY_GOTO(fm_optim_new(ctx, &oc, r->mesh, &r->m->params, 1, &r->o));
out:
    if (status != FM_OK) trainer_free(r);
    return status;
}

/* Sequences [first, first + n) of a fixed text through forward and backward. */
static fm_status micro_batch(fm_ctx *ctx, trainer *r, int64_t first, int64_t n) {
    fm_tensor *x = NULL, *y = NULL;
    fm_gpt_out out = {0};
    int32_t text[BATCH * S + 1];
    fm_status status = FM_OK;
    for (int i = 0; i <= BATCH * S; i++) text[i] = (int32_t)(fm_mix64((uint64_t)i) % V);
    FM_TRY_GOTO(
        fm_tensor_from_host(ctx, &x, FM_I32, 2, (int64_t[]){n, S}, text + (size_t)first * S));
    FM_TRY_GOTO(
        fm_tensor_from_host(ctx, &y, FM_I32, 2, (int64_t[]){n, S}, text + (size_t)first * S + 1));
    FM_TRY_GOTO(fm_gpt_forward(r->m, x, y, &out));
    if (r->fail_backward > 0) fm_alloc_fail_at(ctx->alloc, r->fail_backward - 1);
    FM_TRY_GOTO(fm_optim_backward(r->o, out.loss, out.lm_loss));
out:
    fm_gpt_out_free(&out);
    fm_tensor_free(x);
    fm_tensor_free(y);
    return status;
}

static fm_status train_step(fm_ctx *ctx, trainer *r, fm_step_info *info) {
    int64_t n = r->o->config.micro_batches, each = BATCH / n;
    for (int64_t i = 0; i < n; i++) FM_TRY(micro_batch(ctx, r, i * each, each));
    return fm_optim_step(r->o, 0, info);
}

/* 1, 2 and 4 micro-batches of one batch take the same steps, to rounding. */
static void micro_batches(test *t) {
    const int64_t micros[] = {1, 2, 4};
    double loss[3][4], norm[3][4];
    for (int k = 0; k < 3; k++) {
        trainer r;
        fm_step_info info;
        fm_gpt_config c = config_of();
        c.moe.random_second = false; /* draws differ by micro-batch */
        c.moe.aux_loss_weight = 0;   /* balance is a micro-batch's own */
        EXPECT_OK(t, trainer_new(t->ctx, &r, &c, micros[k]));
        for (int step = 0; step < 4; step++) {
            EXPECT_OK(t, train_step(t->ctx, &r, &info));
            loss[k][step] = info.loss, norm[k][step] = info.grad_norm;
        }
        trainer_free(&r);
    }
    EXPECT(t, loss[0][3] < loss[0][0] - 0.05, "it learns: %g to %g", loss[0][0], loss[0][3]);
    for (int k = 1; k < 3; k++)
        for (int step = 0; step < 4; step++)
            EXPECT(t,
                   fabs(loss[k][step] - loss[0][step]) < 1e-4 * loss[0][step] &&
                       fabs(norm[k][step] - norm[0][step]) < 1e-3 * norm[0][step],
                   "%d micro-batches, step %d: loss %g and %g, norm %g and %g", (int)micros[k],
                   step, loss[k][step], loss[0][step], norm[k][step], norm[0][step]);
}

/* Two contexts take turns in one process; neither notices the other. */
static void two_contexts(test *t) {
    enum { STEPS = 3 };
    double alone[STEPS], loss[2][STEPS];
    trainer r[2];
    fm_step_info info;
    fm_error err = {0};
    fm_ctx *ctx[2] = {t->ctx, NULL};
    fm_gpt_config c = config_of();
    c.dropout = 0.1;
    EXPECT_OK(t, trainer_new(t->ctx, &r[0], &c, 2));
    for (int i = 0; i < STEPS; i++) {
        EXPECT_OK(t, train_step(t->ctx, &r[0], &info));
        alone[i] = info.loss;
    }
    trainer_free(&r[0]);
    EXPECT(t, test_open(t, t->isa, &err, &ctx[1]) == FM_OK, "%s", err.message);
    ctx[1]->seed = t->ctx->seed + 1;
    for (int k = 0; k < 2; k++)
        EXPECT(t, trainer_new(ctx[k], &r[k], &c, 2) == FM_OK, "%s", ctx[k]->error.message);
    for (int i = 0; i < STEPS; i++)
        for (int k = 0; k < 2; k++) {
            EXPECT(t, train_step(ctx[k], &r[k], &info) == FM_OK, "%s", ctx[k]->error.message);
            loss[k][i] = info.loss;
        }
    for (int i = 0; i < STEPS; i++) {
        EXPECT(t, loss[0][i] == alone[i], "step %d: %.9g, alone %.9g", i, loss[0][i], alone[i]);
        EXPECT(t, loss[1][i] != alone[i], "step %d: two seeds, one loss", i);
    }
    for (int k = 0; k < 2; k++) trainer_free(&r[k]);
    EXPECT(t,
           !ctx[1]->live_tensors && !ctx[1]->live_nodes &&
               !fm_alloc_get_stats(ctx[1]->alloc).in_use,
           "the second context leaks");
    fm_ctx_free(ctx[1]);
}

/* Two models in one context, trained in turns and at other paces: what the one draws depends on its own
 * steps only. Nor does it matter when the other's optimiser is made. */
static void two_models(test *t) {
    enum { STEPS = 4 };
    double alone[STEPS];
    for (int together = 0; together < 2; together++) {
        trainer r[2] = {0};
        fm_step_info info;
        fm_gpt_config c = config_of();
        c.dropout = 0.3;
        c.recompute = true;
        EXPECT_OK(t, trainer_new(t->ctx, &r[0], &c, 2));
        for (int i = 0; i < STEPS; i++) {
            EXPECT_OK(t, micro_batch(t->ctx, &r[0], 0, 2));
            if (together && i == 2) EXPECT_OK(t, trainer_new(t->ctx, &r[1], &c, 1));
            for (int k = 0; together && i >= 2 && k < 3; k++)
                EXPECT_OK(t, train_step(t->ctx, &r[1], &info));
            t->ctx->own_clock = (fm_clock){(uint32_t)(together * 7), (uint32_t)together};
            EXPECT_OK(t, micro_batch(t->ctx, &r[0], 2, 2));
            EXPECT_OK(t, fm_optim_step(r[0].o, 0, &info));
            if (!together) alone[i] = info.loss;
            EXPECT(t, info.loss == alone[i], "step %d: loss %.9g, alone %.9g", i, info.loss,
                   alone[i]);
        }
        t->ctx->own_clock = (fm_clock){0};
        for (int k = 0; k < 2; k++) trainer_free(&r[k]);
    }
}

/* A recomputed block draws what its forward drew, though the model's clock has moved on since. */
static void replay(test *t) {
    double norm[2];
    for (int moved = 0; moved < 2; moved++) {
        trainer r;
        fm_tensor *x, *y;
        fm_gpt_out out;
        fm_step_info info;
        fm_gpt_config c = config_of();
        c.dropout = 0.3;
        c.recompute = true;
        EXPECT_OK(t, trainer_new(t->ctx, &r, &c, 1));
        EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_I32, 2, (int64_t[]){BATCH, S}));
        EXPECT_OK(t, fm_tensor_zeros(t->ctx, &y, FM_I32, 2, (int64_t[]){BATCH, S}));
        EXPECT_OK(t, fm_gpt_forward(r.m, x, y, &out));
        if (moved) fm_optim_restart(r.o, 5);
        EXPECT_OK(t, fm_optim_backward(r.o, out.loss, out.lm_loss));
        EXPECT_OK(t, fm_optim_step(r.o, 0, &info));
        norm[moved] = info.grad_norm;
        fm_gpt_out_free(&out);
        fm_tensor_free(x);
        fm_tensor_free(y);
        trainer_free(&r);
    }
    EXPECT(t, norm[0] == norm[1], "gradient norms %.9g and %.9g", norm[0], norm[1]);
}

/* Losses of the same seed are the same bits from one run to the next; bf16 and recomputation learn
 * as well. */
static void variants_learn(test *t) {
    for (int variant = 0; variant < 4; variant++) {
        double loss[2][6];
        for (int run = 0; run < 2; run++) {
            trainer r;
            fm_step_info info;
            fm_gpt_config c = config_of();
            c.dtype = variant & 1 ? FM_BF16 : FM_F32;
            c.recompute = variant & 2;
            EXPECT_OK(t, trainer_new(t->ctx, &r, &c, 1));
            for (int step = 0; step < 6; step++) {
                EXPECT_OK(t, train_step(t->ctx, &r, &info));
                EXPECT(t, !info.skipped, "step %d is skipped", step);
                loss[run][step] = info.loss;
            }
            trainer_free(&r);
        }
        EXPECT(t, memcmp(loss[0], loss[1], sizeof loss[0]) == 0, "variant %d: not repeatable",
               variant);
        EXPECT(t, fabs(loss[0][0] - log(V)) < 0.1, "variant %d starts at %g", variant, loss[0][0]);
        EXPECT(t, loss[0][5] < loss[0][0] - 0.1, "variant %d: %g to %g", variant, loss[0][0],
               loss[0][5]);
    }
}

/* ---- memory */

typedef struct level {
    int64_t tensors, nodes;
    size_t bytes;
} level;

static level level_of(const fm_ctx *ctx) {
    return (level){ctx->live_tensors, ctx->live_nodes, fm_alloc_get_stats(ctx->alloc).in_use};
}

static bool same_level(level a, level b) {
    return a.tensors == b.tensors && a.nodes == b.nodes && a.bytes == b.bytes;
}

/* Model, optimiser, one step, three tokens: everything that allocates, made and freed. */
static fm_status life(fm_ctx *ctx, const fm_gpt_config *c, double *loss, int32_t *text) {
    trainer r = {0};
    fm_step_info info;
    const int32_t prompt[] = {1, 2};
    fm_sampling greedy = {.temperature = 0, .top_p = 1};
    fm_status status = FM_OK;
    FM_TRY_GOTO(trainer_new(ctx, &r, c, 1));
    FM_TRY_GOTO(train_step(ctx, &r, &info));
    FM_TRY_GOTO(fm_gpt_generate(r.m, prompt, 1, 2, 3, &greedy, NULL, text));
    *loss = info.loss;
out:
    trainer_free(&r);
    return status;
}

/* The n-th allocation fails, n = 0, 1, 2 ... */
static void staircase(test *t, fm_dtype dtype, bool recompute) {
    double want, loss;
    int32_t text[5], again[5];
    fm_gpt_config c = config_of();
    c.dtype = dtype;
    c.recompute = recompute;
    c.dropout = 0.1;
    c.moe.capacity_factor = 1.1;
    c.moe.z_loss_weight = 0.01;
    EXPECT_OK(t, life(t->ctx, &c, &want, text));
    level base = level_of(t->ctx);
    for (int n = 0;; n++) {
        EXPECT(t, n < 3000, "never succeeds");
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status status = life(t->ctx, &c, &loss, again);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        level now = level_of(t->ctx);
        EXPECT(t, same_level(now, base), "call %d leaks %d tensors, %d nodes, %d bytes", n,
               (int)(now.tensors - base.tensors), (int)(now.nodes - base.nodes),
               (int)(now.bytes - base.bytes));
        EXPECT(t, t->ctx->grad_enabled && !t->ctx->recomputing && !t->ctx->n_scratch,
               "call %d leaves the tape switched", n);
        if (status == FM_OK) {
            EXPECT(t, n > 150, "only %d allocations", n);
            break;
        }
        EXPECT(t, status == FM_ERR_OOM, "call %d: %s: %s", n, fm_status_name(status),
               t->ctx->error.message);
        fm_error_clear(&t->ctx->error);
    }
    EXPECT(t, loss == want && memcmp(text, again, sizeof text) == 0, "the context has changed");
}
static void out_of_memory(test *t) { staircase(t, FM_F32, false); }
static void out_of_memory_bf16_recompute(test *t) { staircase(t, FM_BF16, true); }

/* A backward that fails half-way, in the first or the second micro-batch, takes the step's gradients
 * and losses with it: the step, repeated, is that of a run in which nothing failed. */
static void failed_backward(test *t, bool recompute) {
    enum { MICRO = 2 };
    fm_step_info want[2], info;
    fm_gpt_config c = config_of();
    c.recompute = recompute;
    c.dropout = 0.1;
    trainer r;
    EXPECT_OK(t, trainer_new(t->ctx, &r, &c, MICRO));
    for (int i = 0; i < 2; i++) EXPECT_OK(t, train_step(t->ctx, &r, &want[i]));
    trainer_free(&r);
    for (int n = 1, failures = 0, at = 0;; n++) {
        EXPECT(t, n < 1000, "never succeeds");
        EXPECT_OK(t, trainer_new(t->ctx, &r, &c, MICRO));
        EXPECT_OK(t, train_step(t->ctx, &r, &info));
        if (at == 1) EXPECT_OK(t, micro_batch(t->ctx, &r, 0, BATCH / MICRO));
        r.fail_backward = n;
        fm_status status = micro_batch(t->ctx, &r, at * BATCH / MICRO, BATCH / MICRO);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        r.fail_backward = 0;
        if (status == FM_OK) {
            EXPECT(t, failures > 30, "only %d allocations", failures);
        } else {
            failures++;
            EXPECT_ERROR(t, status, FM_ERR_OOM, "the step's gradients are dropped");
            EXPECT(t, r.o->backwards == 0 && r.o->step == 1, "%d backwards of step %d",
                   (int)r.o->backwards, (int)r.o->step);
            EXPECT_OK(t, train_step(t->ctx, &r, &info));
            EXPECT(t, info.loss == want[1].loss && info.grad_norm == want[1].grad_norm,
                   "call %d of micro-batch %d: loss %.9g, norm %.9g; without a failure %.9g, %.9g",
                   n, at, info.loss, info.grad_norm, want[1].loss, want[1].grad_norm);
        }
        trainer_free(&r);
        if (status == FM_OK && at++ == 1) break;
        if (status == FM_OK) n = failures = 0;
    }
}
static void failed_backward_plain(test *t) { failed_backward(t, false); }
static void failed_backward_recompute(test *t) { failed_backward(t, true); }

/* Weights, gradients and moments are what the plan says; steps keep no memory. */
static void plan_and_steady_state(test *t) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        trainer r;
        fm_step_info info;
        fm_gpt_config c = config_of();
        c.d_model = 64, c.moe.d_hidden = 128; /* so that rounding to size classes weighs little */
        c.dtype = bf16 ? FM_BF16 : FM_F32;
        level base = level_of(t->ctx);
        EXPECT_OK(t, trainer_new(t->ctx, &r, &c, 2));
        fm_memory_plan plan = fm_gpt_memory_plan(r.m, 1, S);
        double want = (double)(plan.parameters + plan.gradients + plan.moments);
        double got = (double)(level_of(t->ctx).bytes - base.bytes);
        EXPECT(t, got > want / 1.3 && got < want * 1.3, "%g bytes, planned %g", got, want);
        EXPECT_OK(t, train_step(t->ctx, &r, &info));
        level first = level_of(t->ctx);
        for (int i = 0; i < 5; i++) {
            EXPECT_OK(t, train_step(t->ctx, &r, &info));
            EXPECT(t, same_level(level_of(t->ctx), first), "step %d keeps memory", i);
        }
        trainer_free(&r);
        EXPECT(t, same_level(level_of(t->ctx), base), "freed: something stays");
    }
}

static const test_case cases[] = {{"micro_batches", micro_batches},
                                  {"two_contexts", two_contexts},
                                  {"two_models", two_models},
                                  {"replay", replay},
                                  {"variants_learn", variants_learn},
                                  {"out_of_memory", out_of_memory},
                                  {"out_of_memory_bf16_recompute", out_of_memory_bf16_recompute},
                                  {"failed_backward_plain", failed_backward_plain},
                                  {"failed_backward_recompute", failed_backward_recompute},
                                  {"plan_and_steady_state", plan_and_steady_state}};
TEST_PROGRAM(cases)
