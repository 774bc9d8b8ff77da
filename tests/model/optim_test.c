/* Schedules by hand-computed values; AdamW and SGD against a plain loop in double. */
#include "model/optim.h"
#include "tensor/ops.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <string.h>

static void schedules(test *t) {
    const struct {
        fm_schedule s;
        int64_t step;
        double want;
    } cases[] = {
        {{.kind = FM_CONSTANT}, 1, 1},
        {{.kind = FM_CONSTANT, .warmup = 4}, 1, 0.25},
        {{.kind = FM_CONSTANT, .warmup = 4}, 4, 1},
        {{.kind = FM_LINEAR, .warmup = 10, .total = 110, .final = 0.2, .offset = true}, 10, 1},
        {{.kind = FM_LINEAR, .warmup = 10, .total = 110, .final = 0.2, .offset = true}, 60, 0.6},
        {{.kind = FM_LINEAR, .warmup = 10, .total = 110, .final = 0.2, .offset = true}, 110, 0.2},
        {{.kind = FM_LINEAR, .warmup = 10, .total = 110, .final = 0.2, .offset = true}, 999, 0.2},
        {{.kind = FM_LINEAR, .warmup = 10, .total = 100, .final = 0, .offset = false}, 60, 0.4},
        {{.kind = FM_COSINE, .warmup = 10, .total = 110, .final = 0.1, .offset = true}, 60, 0.55},
        {{.kind = FM_COSINE, .warmup = 10, .total = 110, .final = 0.1, .offset = true}, 110, 0.1},
        {{.kind = FM_COSINE, .warmup = 0, .total = 3, .final = 0, .offset = true}, 1, 0.75},
        {{.kind = FM_WSD, .warmup = 2, .total = 100, .decay = 20, .final = 0, .offset = true},
         80,
         1},
        {{.kind = FM_WSD, .warmup = 2, .total = 100, .decay = 20, .final = 0, .offset = true},
         90,
         0.5},
        {{.kind = FM_WSD, .warmup = 2, .total = 100, .decay = 0, .final = 0.5, .offset = true},
         101,
         0.5},
        {{.kind = FM_INVERSE_SQRT, .warmup = 100}, 400, 0.5},
        {{.kind = FM_INVERSE_SQRT}, 4, 0.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double got = fm_schedule_factor(&cases[i].s, cases[i].step);
        EXPECT(t, fabs(got - cases[i].want) < 1e-12, "case %zu: %g, not %g", i, got, cases[i].want);
        EXPECT_OK(t, fm_schedule_check(t->ctx, &cases[i].s));
    }
    fm_schedule s = {.kind = FM_COSINE, .warmup = 10, .total = 5};
    EXPECT_ERROR(t, fm_schedule_check(t->ctx, &s), FM_ERR_VALUE, "total is 5", "warmup 10");
    s = (fm_schedule){.kind = FM_WSD, .warmup = 10, .total = 20, .decay = 11};
    EXPECT_ERROR(t, fm_schedule_check(t->ctx, &s), FM_ERR_VALUE, "decay is 11", "10");
}

enum { N = 5 }; /* elements of each of two parameters, w (decays) and b (does not) */

typedef struct model {
    fm_mesh *mesh;
    fm_param_set *params;
    fm_tensor *w, *b;
} model;

static fm_status model_new(fm_ctx *ctx, model *m, fm_dtype dtype) {
    fm_mesh_config c = fm_mesh_config_default();
    fm_init init = {.kind = FM_INIT_NORMAL, .std = 1};
    int64_t n = N;
    FM_TRY(fm_mesh_new(ctx, &c, NULL, &m->mesh));
    FM_TRY(fm_param_set_new(ctx, m->mesh, &m->params));
    fm_param_spec w = fm_param_spec_whole("w", 1, &n, dtype, true, init);
    fm_param_spec b = fm_param_spec_whole("b", 1, &n, dtype, false, init);
    FM_TRY(fm_param_add(m->params, &w, &m->w));
    FM_TRY(fm_param_add(m->params, &b, &m->b));
    return fm_param_set_seal(m->params);
}

static void model_free(model *m) {
    fm_param_set_free(m->params);
    fm_mesh_free(m->mesh);
}

/* loss = Σ factor (w·w + b): gradients 2·factor·w and factor; one micro-batch of an optimiser. */
static fm_status backward(fm_ctx *ctx, const model *m, fm_optim *o, float factor) {
    fm_tensor *square = NULL, *sum = NULL, *wide = NULL, *loss = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_mul(ctx, &square, m->w, m->w));
    FM_TRY_GOTO(fm_add(ctx, &sum, square, m->b));
    FM_TRY_GOTO(fm_cast(ctx, &wide, sum, FM_F32));
    FM_TRY_GOTO(fm_sum(ctx, &loss, wide, factor));
    FM_TRY_GOTO(fm_optim_backward(o, loss, loss));
out:
    fm_tensor_free(square);
    fm_tensor_free(sum);
    fm_tensor_free(wide);
    fm_tensor_free(loss);
    return status;
}

/* The same in double. */
static void reference(const fm_optim_config *c, double *p, double *m, double *v, int step,
                      float factor) {
    double g[2 * N], squares = 0, lr = c->lr * fm_schedule_factor(&c->schedule, step);
    for (int i = 0; i < 2 * N; i++) {
        g[i] = i < N ? 2 * (double)factor * p[i] : (double)factor;
        squares += g[i] * g[i];
    }
    double clip = c->clip_grad_norm / (sqrt(squares) + 1e-6);
    for (int i = 0; i < 2 * N; i++) {
        double wd = i < N ? c->weight_decay : 0, s = c->clip_grad_norm > 0 && clip < 1 ? clip : 1;
        g[i] *= s;
        if (c->kind == FM_ADAMW) {
            m[i] = c->beta1 * m[i] + (1 - c->beta1) * g[i];
            v[i] = c->beta2 * v[i] + (1 - c->beta2) * g[i] * g[i];
            p[i] -= lr * wd * p[i];
            p[i] -= lr * m[i] / (1 - pow(c->beta1, step)) /
                    (sqrt(v[i] / (1 - pow(c->beta2, step))) + c->eps);
        } else {
            g[i] += wd * p[i];
            m[i] = step == 1 ? g[i] : c->momentum * m[i] + g[i];
            p[i] -= lr * (c->momentum == 0 ? g[i] : c->nesterov ? g[i] + c->momentum * m[i] : m[i]);
        }
    }
}

static void check_steps(test *t, const fm_optim_config *c) {
    model m;
    fm_optim *o;
    fm_step_info info;
    double p[2 * N], mom[2 * N] = {0}, v[2 * N] = {0};
    float values[N];
    EXPECT_OK(t, model_new(t->ctx, &m, FM_F32));
    for (int k = 0; k < 2; k++) {
        EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[k], values, N));
        for (int i = 0; i < N; i++) p[k * N + i] = (double)values[i];
    }
    EXPECT_OK(t, fm_optim_new(t->ctx, c, m.mesh, &m.params, 1, &o));
    for (int step = 1; step <= 12; step++) {
        float factor = step % 3 == 0 ? 0.01f : 1.5f; /* with and without clipping */
        EXPECT_OK(t, backward(t->ctx, &m, o, factor));
        EXPECT_OK(t, fm_optim_step(o, 0, &info));
        reference(c, p, mom, v, step, factor);
        EXPECT(t, fabs(info.lr - c->lr * fm_schedule_factor(&c->schedule, step)) < 1e-12, "lr");
        for (int k = 0; k < 2; k++) {
            EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[k], values, N));
            for (int i = 0; i < N; i++)
                EXPECT(t, fabs((double)values[i] - p[k * N + i]) < 2e-6 * (1 + fabs(p[k * N + i])),
                       "step %d, parameter %d, element %d: %g, not %g", step, k, i,
                       (double)values[i], p[k * N + i]);
        }
    }
    fm_optim_free(o);
    model_free(&m);
}

static void adamw(test *t) {
    fm_optim_config c = fm_optim_config_default(FM_ADAMW, 0.05);
    c.schedule = (fm_schedule){FM_COSINE, .warmup = 3, .total = 12, .final = 0.1, .offset = true};
    check_steps(t, &c);
    c.clip_grad_norm = 0;
    check_steps(t, &c);
}

static void sgd(test *t) {
    fm_optim_config c = fm_optim_config_default(FM_SGD, 0.05);
    check_steps(t, &c);
    c.momentum = 0.9;
    c.weight_decay = 0.1;
    check_steps(t, &c);
    c.nesterov = true;
    check_steps(t, &c);
}

/* Two micro-batches of factors 1 and 3 are one of factor 2. */
static void micro_batches(test *t) {
    float values[2][N];
    double losses[2];
    for (int split = 0; split < 2; split++) {
        model m;
        fm_optim *o;
        fm_step_info info;
        fm_optim_config c = fm_optim_config_default(FM_ADAMW, 0.05);
        c.micro_batches = split ? 2 : 1;
        EXPECT_OK(t, model_new(t->ctx, &m, FM_F32));
        EXPECT_OK(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o));
        EXPECT_OK(t, backward(t->ctx, &m, o, split ? 1 : 2));
        if (split) {
            EXPECT(t, m.params->clock.micro == 1, "the model's clock counts micro-batches");
            EXPECT_ERROR(t, fm_optim_step(o, 0, &info), FM_ERR_STATE, "1 backwards",
                         "micro_batches is 2");
            EXPECT_OK(t, backward(t->ctx, &m, o, 3));
        }
        EXPECT_ERROR(t, backward(t->ctx, &m, o, 1), FM_ERR_STATE, "call step first");
        EXPECT_OK(t, fm_optim_step(o, 0, &info));
        EXPECT(t, m.params->clock.micro == 0 && m.params->clock.step == 1, "and steps");
        losses[split] = info.loss;
        EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], values[split], N));
        fm_optim_free(o);
        model_free(&m);
    }
    EXPECT(t, fabs(losses[0] - losses[1]) < 1e-5, "%g and %g", losses[0], losses[1]);
    for (int i = 0; i < N; i++)
        EXPECT(t, fabsf(values[0][i] - values[1][i]) < 1e-6f, "element %d", i);
}

/* A norm that is not finite: nothing moves, not even the schedule; the next step works. */
static void skipped(test *t) {
    model m;
    fm_optim *o;
    fm_step_info info;
    float before[N], after[N];
    fm_optim_config c = fm_optim_config_default(FM_ADAMW, 0.05);
    EXPECT_OK(t, model_new(t->ctx, &m, FM_BF16));
    EXPECT_OK(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o));
    EXPECT_OK(t, backward(t->ctx, &m, o, 1));
    EXPECT_OK(t, fm_optim_step(o, 0, &info));
    EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], before, N));
    EXPECT_OK(t, backward(t->ctx, &m, o, INFINITY));
    EXPECT_OK(t, fm_optim_step(o, 0, &info));
    EXPECT(t, info.skipped && o->step == 1, "step %d, skipped %d", (int)o->step, info.skipped);
    EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], after, N));
    EXPECT(t, memcmp(before, after, sizeof before) == 0, "a skipped step moved a weight");
    EXPECT_OK(t, backward(t->ctx, &m, o, 1));
    EXPECT_OK(t, fm_optim_step(o, 0, &info));
    EXPECT(t, !info.skipped && o->step == 2, "the step after");
    EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], after, N));
    EXPECT(t, memcmp(before, after, sizeof before) != 0, "nothing moves any more");
    const fm_bf16 *copy = m.w->data;
    for (int i = 0; i < N; i++)
        EXPECT(t, copy[i].bits == fm_f32_to_bf16(after[i]).bits, "the bf16 copy of element %d", i);
    fm_optim_free(o);
    model_free(&m);
}

/* A frozen parameter keeps its value and its moments, through decay and old momentum, and its gradient
 * is no part of the norm; the other one moves as it would beside a gradient of 0. */
static void frozen(test *t) {
    const fm_optim_kind kinds[] = {FM_ADAMW, FM_SGD};
    for (int k = 0; k < 2; k++)
        for (int which = 0; which < 2; which++) {
            model m;
            fm_optim *o;
            fm_step_info info;
            float value[N], value2[N], moment[2 * 16], moment2[2 * 16];
            fm_optim_config c = fm_optim_config_default(kinds[k], 0.05);
            c.weight_decay = 0.1;
            if (kinds[k] == FM_SGD) c.momentum = 0.9;
            EXPECT_OK(t, model_new(t->ctx, &m, FM_F32));
            EXPECT_OK(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o));
            EXPECT_OK(t, backward(t->ctx, &m, o, 1));
            EXPECT_OK(t, fm_optim_step(o, 0, &info));
            fm_param *p = m.params->items[which], *other = m.params->items[!which];
            size_t at = (size_t)p->offset;
            for (int step = 0; step < 3; step++) {
                bool late = step == 2; /* frozen between backward and step */
                p->weight->requires_grad = late;
                EXPECT_OK(t, fm_param_get_values(m.params, p, value, N));
                EXPECT_OK(t, fm_tensor_to_host(t->ctx, o->m[0], moment, sizeof moment));
                EXPECT_OK(t, backward(t->ctx, &m, o, 1.5f));
                p->weight->requires_grad = false;
                double squares = 0;
                EXPECT_OK(t, fm_param_get_values(m.params, other, value2, N));
                for (int i = 0; i < N; i++) {
                    double g = which == 1 ? 3 * (double)value2[i] : 1.5;
                    squares += g * g;
                }
                EXPECT_OK(t, fm_optim_step(o, 0, &info));
                EXPECT(t, fabs(info.grad_norm - sqrt(squares)) < 1e-5 * info.grad_norm,
                       "norm %g, without the frozen one %g", info.grad_norm, sqrt(squares));
                EXPECT_OK(t, fm_param_get_values(m.params, p, value2, N));
                EXPECT(t, memcmp(value, value2, sizeof value) == 0, "step %d: '%s' moved", step,
                       p->spec.name);
                EXPECT_OK(t, fm_tensor_to_host(t->ctx, o->m[0], moment2, sizeof moment2));
                EXPECT(t, memcmp(moment + at, moment2 + at, sizeof value) == 0,
                       "step %d: moments of '%s'", step, p->spec.name);
                at = (size_t)other->offset;
                EXPECT(t, memcmp(moment + at, moment2 + at, sizeof value) != 0,
                       "step %d: '%s' stays as well", step, other->spec.name);
                at = (size_t)p->offset;
            }
            p->weight->requires_grad = true; /* thawed, it goes on */
            EXPECT_OK(t, backward(t->ctx, &m, o, 1));
            EXPECT_OK(t, fm_optim_step(o, 0, &info));
            EXPECT_OK(t, fm_param_get_values(m.params, p, value2, N));
            EXPECT(t, memcmp(value, value2, sizeof value) != 0, "'%s' stays frozen", p->spec.name);
            fm_optim_free(o);
            model_free(&m);
        }
}

/* No gradient is a gradient of 0: decay goes on. */
static void no_gradient(test *t) {
    model m;
    fm_optim *o;
    fm_step_info info;
    float before[N], after[N];
    fm_tensor *loss;
    fm_optim_config c = fm_optim_config_default(FM_SGD, 0.5);
    c.weight_decay = 0.1;
    EXPECT_OK(t, model_new(t->ctx, &m, FM_F32));
    EXPECT_OK(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o));
    EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], before, N));
    EXPECT_OK(t, fm_sum(t->ctx, &loss, m.b, 1));
    EXPECT_OK(t, fm_optim_backward(o, loss, loss));
    fm_tensor_free(loss);
    EXPECT_OK(t, fm_optim_step(o, 0, &info));
    EXPECT(t, fabs(info.grad_norm - sqrt(N)) < 1e-6, "norm %g", info.grad_norm);
    EXPECT_OK(t, fm_param_get_values(m.params, m.params->items[0], after, N));
    for (int i = 0; i < N; i++)
        EXPECT(t, fabs(after[i] - 0.95 * before[i]) < 1e-6, "element %d: %g of %g", i,
               (double)after[i], (double)before[i]);
    fm_optim_free(o);
    model_free(&m);
}

static void errors(test *t) {
    model m;
    fm_optim *o;
    EXPECT_OK(t, model_new(t->ctx, &m, FM_F32));
    fm_optim_config c = fm_optim_config_default(FM_ADAMW, -1);
    EXPECT_ERROR(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o), FM_ERR_VALUE, "lr is -1");
    c = fm_optim_config_default(FM_ADAMW, 1);
    c.beta2 = 1;
    EXPECT_ERROR(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o), FM_ERR_VALUE, "betas", "1");
    c = fm_optim_config_default(FM_SGD, 1);
    c.nesterov = true;
    EXPECT_ERROR(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o), FM_ERR_VALUE, "nesterov",
                 "momentum 0");
    c = fm_optim_config_default(FM_SGD, 1);
    c.micro_batches = 0;
    EXPECT_ERROR(t, fm_optim_new(t->ctx, &c, m.mesh, &m.params, 1, &o), FM_ERR_VALUE,
                 "micro_batches is 0");
    model_free(&m);
}

static const test_case cases[] = {
    {"schedules", schedules},         {"adamw", adamw},     {"sgd", sgd},
    {"micro_batches", micro_batches}, {"skipped", skipped}, {"frozen", frozen},
    {"no_gradient", no_gradient},     {"errors", errors}};
TEST_PROGRAM(cases)
