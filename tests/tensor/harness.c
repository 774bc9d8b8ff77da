/* Cases of operations: labels, inputs, the reference and its differences; see harness.h. */
#include "tests/tensor/harness.h"

#include "tests/tensor/check_op.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double op_uniform(op_run *r) {
    uint64_t bits = fm_mix64(fm_mix64(r->seed) + r->drawn++);
    return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

double op_normal(op_run *r) {
    double u = op_uniform(r), v = op_uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

double op_round(fm_dtype dt, double x) {
    if (dt == FM_F32) return (double)(float)x;
    if (dt == FM_BF16) return (double)fm_bf16_to_f32(fm_f32_to_bf16((float)x));
    return x;
}

static op_array array(fm_dtype dt, int ndim, const int64_t *shape) {
    op_array a = {.dtype = dt, .ndim = ndim, .n = 1, .grad = fm_dtype_is_float(dt)};
    for (int i = 0; i < ndim; i++) a.n *= a.shape[i] = shape[i];
    a.grad_n = a.n;
    a.v = calloc((size_t)a.n + 1, sizeof *a.v);
    a.dv = calloc((size_t)a.n + 1, sizeof *a.dv);
    a.scratch = calloc((size_t)a.n + 1, sizeof *a.scratch);
    if (!a.v || !a.dv || !a.scratch) abort();
    return a;
}

op_array *op_in(op_run *r, fm_dtype dt, double scale, int ndim, const int64_t *shape) {
    op_array *a = &r->in[r->n_in++];
    *a = array(dt, ndim, shape);
    for (int64_t i = 0; i < a->n; i++) a->v[i] = op_round(dt, scale * op_normal(r));
    return a;
}

op_array *op_in_int(op_run *r, int64_t low, int64_t high, int ndim, const int64_t *shape) {
    op_array *a = &r->in[r->n_in++];
    *a = array(FM_I32, ndim, shape);
    for (int64_t i = 0; i < a->n; i++)
        a->v[i] = (double)(low + (int64_t)(op_uniform(r) * (double)(high - low)));
    return a;
}

op_array *op_out(op_run *r, fm_dtype dt, int ndim, const int64_t *shape) {
    op_array *a = &r->out[r->n_out++];
    *a = array(dt, ndim, shape);
    return a;
}

/* ---- the reference */

/* Into each output's v, or its scratch. */
static void evaluate(op_run *r, bool scratch) {
    double *in[OP_MAX_INPUTS], *out[OP_MAX_OUTPUTS];
    for (int i = 0; i < r->n_in; i++) in[i] = r->in[i].v;
    for (int i = 0; i < r->n_out; i++) {
        out[i] = scratch ? r->out[i].scratch : r->out[i].v;
        memset(out[i], 0, (size_t)r->out[i].n * sizeof *out[i]);
    }
    r->test->reference(r, in, out);
}

void op_reference(op_run *r) { evaluate(r, false); }

/* L = Σ dL/dv · v over the differentiable outputs */
static double loss_of(op_run *r) {
    evaluate(r, true);
    double loss = 0;
    for (int i = 0; i < r->n_out; i++) {
        const op_array *a = &r->out[i];
        for (int64_t j = 0; a->grad && j < a->n; j++)
            if (a->scratch[j] != OP_UNDEFINED) loss += a->dv[j] * a->scratch[j];
    }
    return loss;
}

/* Elements of each input that are differentiated; few where the reference takes long. */
enum { SAMPLES = 40, FEW_SAMPLES = 8, LARGE_OUTPUT = 4096 };

static void differentiate(op_run *r) {
    for (int i = 0; i < r->n_in; i++) {
        op_array *a = &r->in[i];
        for (int64_t j = 0; j < a->n; j++) a->dv[j] = NAN;
        if (!a->grad) continue;
        int64_t most = r->out[0].n > LARGE_OUTPUT ? FEW_SAMPLES : SAMPLES;
        int64_t samples = a->grad_n < most ? a->grad_n : most;
        for (int64_t s = 0; s < samples; s++) {
            int64_t j = a->grad_n <= most ? s : (int64_t)(op_uniform(r) * (double)a->grad_n);
            double x = a->v[j], h = 1e-5 * fmax(1, fabs(x));
            a->v[j] = x + h;
            double above = loss_of(r);
            a->v[j] = x - h;
            double below = loss_of(r);
            a->v[j] = x;
            a->dv[j] = (above - below) / (2 * h);
        }
    }
}

static void prepare(op_run *r) {
    r->test->setup(r);
    for (int i = 0; i < r->n_out; i++) {
        op_array *a = &r->out[i];
        for (int64_t j = 0; j < a->n; j++) a->dv[j] = op_round(a->dtype, op_normal(r));
    }
    evaluate(r, false);
    differentiate(r);
    /* What is undefined must not be read in the backward either. */
    for (int i = 0; i < r->n_out; i++) {
        op_array *a = &r->out[i];
        for (int64_t j = 0; j < a->n; j++)
            if (a->v[j] == OP_UNDEFINED) a->dv[j] = NAN;
    }
}

static void drop(op_array *a) {
    free(a->v);
    free(a->dv);
    free(a->scratch);
}

static void forget(op_run *r) {
    for (int i = 0; i < r->n_in; i++) drop(&r->in[i]);
    for (int i = 0; i < r->n_out; i++) drop(&r->out[i]);
}

/* ---- cases */

static void label_of(const op_run *r, char *label, size_t n) {
    int at = snprintf(label, n, "%s(%s", r->test->name, r->dt == FM_F32 ? "fp32" : "bf16");
    for (int i = 0; i < OP_MAX_PARAMS && r->test->params[i]; i++)
        at += snprintf(label + at, n - (size_t)at, ",%s=%" PRId64, r->test->params[i], r->p[i]);
    snprintf(label + at, n - (size_t)at, ",seed=%" PRIu64 ")", r->seed);
}

void op_tests_run(test *t, const op_test *const *tests) {
    for (; *tests; tests++) {
        const op_test *o = *tests;
        int dtypes = o->dtypes ? o->dtypes : OP_F32 | OP_BF16;
        for (int bf16 = 0; bf16 < 2; bf16++) {
            for (int i = 0; i < o->n_sizes; i++) {
                if (!(dtypes & (bf16 ? OP_BF16 : OP_F32))) continue;
                op_run r = {.test = o, .dt = bf16 ? FM_BF16 : FM_F32};
                memcpy(r.p, o->sizes[i], sizeof r.p);
                r.seed = t->has_seed ? t->seed : (uint64_t)i + 1;
                char label[256];
                label_of(&r, label, sizeof label);
                if (!test_begin(t, label)) continue;
                prepare(&r);
                op_check(t, &r);
                forget(&r);
                test_end(t);
            }
        }
    }
}
