#include "tests/tensor/check_op.h"

#include "tests/tensor/guarded.h"
#include "tests/tensor/tolerances.h"

#include <stdlib.h>
#include <string.h>

/* One case set up on the device. */
typedef struct bench {
    test *t;
    op_run *r;
    fm_ctx *ctx;
    guarded in[OP_MAX_INPUTS], grad[OP_MAX_INPUTS];
    fm_tensor *x[OP_MAX_INPUTS];     /* the inputs, borrowed */
    fm_tensor *out[OP_MAX_OUTPUTS];  /* of the last forward */
    fm_tensor *dout[OP_MAX_OUTPUTS]; /* NULL: not differentiable */
} bench;

#define BENCH_OK(b, what, call)                                                                    \
    do {                                                                                           \
        fm_status bench_ok_ = (call);                                                              \
        if (bench_ok_ != FM_OK) {                                                                  \
            test_fail((b)->t, "%s: %s: %s", what, fm_status_name(bench_ok_),                       \
                      (b)->ctx->error.message);                                                    \
            fm_error_clear(&(b)->ctx->error);                                                      \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

static bool bench_open(bench *b, test *t, op_run *r) {
    *b = (bench){.t = t, .r = r, .ctx = t->ctx};
    for (int i = 0; i < r->n_in; i++) {
        const op_array *a = &r->in[i];
        BENCH_OK(b, "inputs", guarded_new(b->ctx, &b->in[i], a->dtype, a->ndim, a->shape, a->v));
        b->x[i] = b->in[i].t;
        if (!a->grad) continue;
        BENCH_OK(b, "inputs", guarded_new(b->ctx, &b->grad[i], FM_F32, a->ndim, a->shape, NULL));
        b->x[i]->requires_grad = true;
        b->x[i]->grad = fm_tensor_retain(b->grad[i].t);
    }
    for (int i = 0; i < r->n_out; i++) {
        const op_array *a = &r->out[i];
        if (!a->grad) continue;
        BENCH_OK(b, "inputs", fm_tensor_new(b->ctx, &b->dout[i], a->dtype, a->ndim, a->shape));
        char *host = malloc(fm_nbytes(b->dout[i]) + 1);
        if (!host) abort();
        pack_values(a->dtype, host, a->dv, a->n);
        fm_status s = fm_tensor_set(b->ctx, b->dout[i], host, fm_nbytes(b->dout[i]));
        free(host);
        BENCH_OK(b, "inputs", s);
    }
    return true;
}

static void drop_outputs(bench *b) {
    for (int i = 0; i < OP_MAX_OUTPUTS; i++) fm_tensor_free(b->out[i]), b->out[i] = NULL;
}

static void bench_close(bench *b) {
    drop_outputs(b);
    for (int i = 0; i < b->r->n_in; i++) {
        bool whole = true;
        for (int g = 0; g < 2; g++) {
            const guarded *one = g ? &b->grad[i] : &b->in[i];
            if (one->t && (guarded_check(b->ctx, one, &whole) != FM_OK || !whole))
                test_fail(b->t, "guards: memory around %s %d was written",
                          g ? "the gradient of input" : "input", i);
        }
        guarded_free(&b->in[i]);
        guarded_free(&b->grad[i]);
    }
    for (int i = 0; i < b->r->n_out; i++) fm_tensor_free(b->dout[i]);
}

/* ---- running */

static fm_status forward(bench *b) { return b->r->test->apply(b->r, b->ctx, b->x, b->out); }

static fm_status backward(bench *b) {
    return fm_backward_many(b->ctx, b->out, b->dout, b->r->n_out);
}

static void clear_grads(bench *b) {
    for (int i = 0; i < b->r->n_in; i++) fm_zero_grad(b->x[i]);
}

static void only_grad(bench *b, int only) {
    for (int i = 0; i < b->r->n_in; i++)
        b->x[i]->requires_grad = b->r->in[i].grad && (only < 0 || i == only);
}

/* Inputs pass through an operation and are used twice. */
static fm_status forward_twice(bench *b, fm_tensor **second) {
    fm_tensor *x[OP_MAX_INPUTS] = {0};
    fm_status status = FM_OK;
    for (int i = 0; i < b->r->n_in; i++) {
        if (b->r->in[i].grad)
            FM_TRY_GOTO(fm_scale(b->ctx, &x[i], b->x[i], 1.0f));
        else
            x[i] = fm_tensor_retain(b->x[i]);
    }
    FM_TRY_GOTO(b->r->test->apply(b->r, b->ctx, x, b->out));
    FM_TRY_GOTO(b->r->test->apply(b->r, b->ctx, x, second));
out:
    for (int i = 0; i < b->r->n_in; i++) fm_tensor_free(x[i]);
    return status;
}

static fm_status run_twice(bench *b) {
    fm_tensor *second[OP_MAX_OUTPUTS] = {0}, *roots[2 * OP_MAX_OUTPUTS] = {0};
    fm_tensor *douts[2 * OP_MAX_OUTPUTS] = {0};
    int n = b->r->n_out;
    fm_status status = forward_twice(b, second);
    for (int i = 0; i < n; i++) {
        roots[i] = b->out[i], roots[n + i] = second[i];
        douts[i] = douts[n + i] = b->dout[i];
    }
    if (status == FM_OK) status = fm_backward_many(b->ctx, roots, douts, 2 * n);
    for (int i = 0; i < n; i++) fm_tensor_free(second[i]);
    drop_outputs(b);
    return status;
}

/* ---- comparing */

/* want NaN: not compared in gradients (not sampled); must be NaN in outputs. */
static bool compare(bench *b, const char *phase, const char *what, int index, const double *got,
                    const double *want, int64_t n, double factor, bool gradient) {
    double tolerance = tolerances[b->r->test->tolerance][b->r->dt == FM_BF16];
    double sum = 0;
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        if (want[i] == OP_UNDEFINED || isnan(want[i])) continue;
        sum += factor * factor * want[i] * want[i];
        counted++;
    }
    double rms = counted ? sqrt(sum / (double)counted) : 0;
    for (int64_t i = 0; i < n; i++) {
        double w = factor * want[i];
        if (want[i] == OP_UNDEFINED || (gradient && isnan(w))) continue;
        double allowed = tolerance * (fabs(w) + rms) + (gradient ? gradient_floor : 0);
        bool ok = isnan(w) ? isnan(got[i]) : fabs(got[i] - w) <= allowed;
        if (ok) continue;
        test_fail(b->t, "%s: %s %d, element %lld is %.9g; the reference has %.9g (allowed %.2g)",
                  phase, what, index, (long long)i, got[i], w, allowed);
        return false;
    }
    return true;
}

static double *host_values(bench *b, const fm_tensor *t) {
    double *v = malloc(((size_t)fm_numel(t) + 1) * sizeof *v);
    if (!v || values_of(b->ctx, t, v) != FM_OK) abort();
    return v;
}

static bool compare_outputs(bench *b, const char *phase) {
    bool ok = true;
    for (int i = 0; i < b->r->n_out && ok; i++) {
        const op_array *a = &b->r->out[i];
        fm_tensor *t = b->out[i];
        bool same = t->dtype == a->dtype && t->ndim == a->ndim &&
                    memcmp(t->shape, a->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
        if (!same) {
            char text[96];
            test_fail(b->t, "%s: output %d is %s: not the shape or dtype wanted", phase, i,
                      fm_tensor_describe(t, text, sizeof text));
            return false;
        }
        double *got = host_values(b, t);
        ok = compare(b, phase, "output", i, got, a->v, a->n, 1, false);
        free(got);
    }
    return ok;
}

static bool compare_grads(bench *b, const char *phase, double factor) {
    bool ok = true;
    for (int i = 0; i < b->r->n_in && ok; i++) {
        const op_array *a = &b->r->in[i];
        if (!b->x[i]->requires_grad) continue;
        if (!b->x[i]->grad_is_set) {
            test_fail(b->t, "%s: input %d got no gradient", phase, i);
            return false;
        }
        double *got = host_values(b, b->x[i]->grad);
        ok = compare(b, phase, "gradient of input", i, got, a->dv, a->grad_n, factor, true);
        free(got);
    }
    return ok;
}

/* Bits of the defined outputs and of the gradients, one after the other. */
static double *snapshot(bench *b, bool grads, int64_t *n) {
    double *all = NULL;
    *n = 0;
    for (int i = 0; i < b->r->n_out + b->r->n_in; i++) {
        int j = i - b->r->n_out;
        const fm_tensor *t = j < 0 ? b->out[i] : grads ? b->x[j]->grad : NULL;
        if (!t) continue;
        int64_t count = j < 0 ? b->r->out[i].n : b->r->in[j].grad_n;
        all = realloc(all, (size_t)(*n + count + 1) * sizeof *all);
        double *v = host_values(b, t);
        if (!all) abort();
        for (int64_t e = 0; e < count; e++)
            if (j >= 0 || b->r->out[i].v[e] != OP_UNDEFINED) all[(*n)++] = v[e];
        free(v);
    }
    return all;
}

static bool same_bits(bench *b, const char *phase, const double *was, int64_t n, bool grads) {
    int64_t now_n;
    double *now = snapshot(b, grads, &now_n);
    bool same = now_n == n && memcmp(was, now, (size_t)n * sizeof *was) == 0;
    free(now);
    if (!same) test_fail(b->t, "%s: other bits than the first time", phase);
    return same;
}

/* ---- phases */

static bool check_no_grad(bench *b) {
    bool was = fm_grad_enable(b->ctx, false);
    int64_t nodes = b->ctx->live_nodes;
    fm_status status = forward(b);
    fm_grad_enable(b->ctx, was);
    BENCH_OK(b, "no_grad", status);
    for (int i = 0; i < b->r->n_out; i++) {
        bool is_input = false; /* operations that hand an input on */
        for (int j = 0; j < b->r->n_in; j++) is_input |= b->out[i] == b->x[j];
        if (b->out[i]->node || (b->out[i]->requires_grad && !is_input) ||
            b->ctx->live_nodes != nodes) {
            test_fail(b->t, "no_grad: output %d was recorded", i);
            return false;
        }
    }
    bool ok = compare_outputs(b, "no_grad");
    drop_outputs(b);
    return ok;
}

static bool check_inputs_unchanged(bench *b) {
    for (int i = 0; i < b->r->n_in; i++) {
        double *v = host_values(b, b->x[i]);
        bool same = memcmp(v, b->r->in[i].v, (size_t)b->r->in[i].n * sizeof *v) == 0;
        free(v);
        if (!same) {
            test_fail(b->t, "backward: input %d was changed", i);
            return false;
        }
    }
    return true;
}

static bool check_again(bench *b, const double *bits, int64_t n) {
    BENCH_OK(b, "again", forward(b));
    if (!same_bits(b, "again", bits, n, false)) return false;
    BENCH_OK(b, "again", backward(b));
    bool ok = compare_grads(b, "again", 2);
    drop_outputs(b);
    clear_grads(b);
    return ok;
}

static bool check_alone(bench *b) {
    bool ok = true;
    for (int i = 0; i < b->r->n_in && ok; i++) {
        if (!b->r->in[i].grad) continue;
        only_grad(b, i);
        BENCH_OK(b, "alone", forward(b));
        BENCH_OK(b, "alone", backward(b));
        ok = compare_outputs(b, "alone") && compare_grads(b, "alone", 1);
        drop_outputs(b);
        clear_grads(b);
    }
    only_grad(b, -1);
    return ok;
}

static fm_status again(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    const op_run *r = *(op_run **)user;
    return r->test->apply(r, ctx, in, out);
}

static bool check_recompute(bench *b, const double *bits, int64_t n) {
    BENCH_OK(b, "recompute",
             fm_recompute(b->ctx, again, &b->r, sizeof b->r, NULL, b->x, b->r->n_in, b->out,
                          b->r->n_out));
    BENCH_OK(b, "recompute", backward(b));
    bool ok = same_bits(b, "recompute", bits, n, true);
    drop_outputs(b);
    clear_grads(b);
    return ok;
}

static bool check_twice(bench *b) {
    BENCH_OK(b, "twice", run_twice(b));
    bool ok = compare_grads(b, "twice", 2);
    clear_grads(b);
    return ok;
}

static bool check_nan(test *t, op_run *r) {
    bool ok = true;
    for (int i = 0; i < r->n_in && ok; i++) {
        op_array *a = &r->in[i];
        if (!fm_dtype_is_float(a->dtype) || a->grad_n == 0) continue;
        double was = a->v[a->grad_n / 2];
        a->v[a->grad_n / 2] = NAN;
        op_reference(r);
        bench b;
        ok = bench_open(&b, t, r);
        if (ok) {
            fm_status status = forward(&b);
            if (r->test->nan_is_error) {
                ok = status == FM_ERR_NAN;
                if (!ok) test_fail(t, "nan: %s instead of FM_ERR_NAN", fm_status_name(status));
                fm_error_clear(&t->ctx->error);
            } else if (status != FM_OK) {
                test_fail(t, "nan: %s", t->ctx->error.message);
                ok = false;
            } else {
                ok = compare_outputs(&b, "nan");
            }
        }
        bench_close(&b);
        a->v[a->grad_n / 2] = was;
    }
    op_reference(r);
    return ok;
}

static bool check_oom(bench *b) {
    enum { MOST = 1000 };
    size_t in_use = fm_alloc_get_stats(b->ctx->alloc).in_use;
    int64_t tensors = b->ctx->live_tensors, nodes = b->ctx->live_nodes;
    for (int n = 0; n < MOST; n++) {
        fm_alloc_fail_at(b->ctx->alloc, n);
        fm_status status = run_twice(b);
        fm_alloc_fail_at(b->ctx->alloc, -1);
        bool named = strlen(b->ctx->error.message) > 0;
        fm_error_clear(&b->ctx->error);
        size_t now = fm_alloc_get_stats(b->ctx->alloc).in_use;
        if (now != in_use || b->ctx->live_tensors != tensors || b->ctx->live_nodes != nodes) {
            test_fail(b->t, "oom: allocation %d failed: %lld bytes, %lld tensors, %lld nodes leak",
                      n, (long long)(now - in_use), (long long)(b->ctx->live_tensors - tensors),
                      (long long)(b->ctx->live_nodes - nodes));
            return false;
        }
        if (status == FM_OK) {
            bool ok = compare_grads(b, "oom, afterwards", 2);
            clear_grads(b);
            return ok;
        }
        clear_grads(b);
        if (status != FM_ERR_OOM || !named) {
            test_fail(b->t, "oom: allocation %d failed: %s, %s message", n, fm_status_name(status),
                      named ? "a" : "no");
            return false;
        }
    }
    test_fail(b->t, "oom: more than %d allocations", MOST);
    return false;
}

/* A slot that the backend has not: the case is skipped. */
static bool there(bench *b) {
    fm_status status = forward(b);
    if (status == FM_OK) status = backward(b);
    if (status != FM_ERR_UNSUPPORTED) {
        BENCH_OK(b, "forward and backward", status);
        return true;
    }
    test_lack(b->t, b->ctx->op, b->ctx->error.message);
    fm_error_clear(&b->ctx->error);
    return false;
}

void op_check(test *t, op_run *r) {
    bench b;
    double *bits = NULL;
    int64_t n = 0, n_forward = 0;
    for (int i = 0; i < r->n_out; i++)
        for (int64_t j = 0; j < r->out[i].n; j++) n_forward += r->out[i].v[j] != OP_UNDEFINED;
    bool ok = bench_open(&b, t, r) && there(&b) && compare_outputs(&b, "forward") &&
              compare_grads(&b, "backward", 1) && check_inputs_unchanged(&b);
    if (ok) bits = snapshot(&b, true, &n);
    drop_outputs(&b);
    ok = ok && check_again(&b, bits, n_forward) && check_recompute(&b, bits, n) &&
         check_no_grad(&b) && check_alone(&b) && check_twice(&b) && check_oom(&b);
    bench_close(&b);
    free(bits);
    if (ok) check_nan(t, r);
}
