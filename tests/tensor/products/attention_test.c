/* attention_forward, attention_backward and rope against plain loops in double. */
#include "tests/tensor/products/each_isa.h"
#include "tests/tensor/reference.h"

#include <math.h>
#include <stdlib.h>

typedef struct shape {
    int64_t B, Sq, Skv, H, KV, dh;
    bool causal;
} shape;

static fm_status run_forward(fm_device *dev, void *arguments) {
    return dev->ops->attention_forward(dev, &((fm_attention_grad_args *)arguments)->fwd);
}
static fm_status run_backward(fm_device *dev, void *arguments) {
    return dev->ops->attention_backward(dev, arguments);
}

/* What one sequence and head need; p and ds are [Sq, Skv]. */
typedef struct head {
    const double *q, *k, *v, *d_o; /* element (i, c) at i*row + c */
    double *o, *lse, *dq, *dk, *dv;
    int64_t q_row, k_row, v_row, o_row;
} head;

static void reference_head(const shape *s, const head *h, double scale, bool bf16) {
    double *p = malloc((size_t)s->Skv * sizeof *p);
    if (!p) abort();
    for (int64_t i = 0; i < s->Sq; i++) {
        int64_t n = s->causal ? i + s->Skv - s->Sq + 1 : s->Skv;
        double most = -INFINITY, sum = 0, dot = 0;
        for (int64_t j = 0; j < n; j++) {
            p[j] = 0;
            for (int64_t c = 0; c < s->dh; c++)
                p[j] += scale * h->q[i * h->q_row + c] * h->k[j * h->k_row + c];
            most = fmax(most, p[j]);
        }
        for (int64_t j = 0; j < n; j++) sum += exp(p[j] - most);
        h->lse[i] = most + log(sum);
        for (int64_t c = 0; c < s->dh; c++) h->o[i * h->o_row + c] = 0;
        for (int64_t j = 0; j < n; j++) {
            p[j] = exp(p[j] - h->lse[i]);
            for (int64_t c = 0; c < s->dh; c++)
                h->o[i * h->o_row + c] += p[j] * h->v[j * h->v_row + c];
        }
        /* What the backward is given, whose sum over do o cancels against do v. */
        for (int64_t c = 0; c < s->dh && bf16; c++) {
            double *x = &h->o[i * h->o_row + c];
            *x = fm_bf16_to_f32(fm_f32_to_bf16((float)*x));
        }
        for (int64_t c = 0; c < s->dh; c++)
            dot += h->d_o[i * h->o_row + c] * h->o[i * h->o_row + c];
        for (int64_t j = 0; j < n; j++) {
            double dp = 0;
            for (int64_t c = 0; c < s->dh; c++) {
                dp += h->d_o[i * h->o_row + c] * h->v[j * h->v_row + c];
                h->dv[j * h->v_row + c] += p[j] * h->d_o[i * h->o_row + c];
            }
            double ds = scale * p[j] * (dp - dot);
            for (int64_t c = 0; c < s->dh; c++) {
                h->dq[i * h->q_row + c] += ds * h->k[j * h->k_row + c];
                h->dk[j * h->k_row + c] += ds * h->q[i * h->q_row + c];
            }
        }
    }
    free(p);
}

static void check_attention(cases *c, fm_dtype dt, const shape *s) {
    /* Rows longer than the heads need: what lies between them stays as it is. */
    int64_t q_row = s->H * s->dh + 3, k_row = s->KV * s->dh + 5, v_row = s->KV * s->dh + 2;
    int64_t o_row = s->H * s->dh;
    array q = array_new(dt, s->B * s->Sq * q_row, 1), k = array_new(dt, s->B * s->Skv * k_row, 2);
    array v = array_new(dt, s->B * s->Skv * v_row, 3), o = array_new(dt, s->B * s->Sq * o_row, 4);
    array d_o = array_new(dt, s->B * s->Sq * o_row, 5);
    array lse = array_new(FM_F32, s->B * s->H * s->Sq, 6);
    array dq = array_new(dt, q.n, 7), dk = array_new(dt, k.n, 8), dv = array_new(dt, v.n, 9);
    double *before[3];
    array *grads[3] = {&dq, &dk, &dv};
    int64_t rows[3] = {q_row, k_row, v_row}, used[3] = {o_row, s->KV * s->dh, s->KV * s->dh};
    for (int g = 0; g < 3; g++) {
        before[g] = malloc((size_t)(grads[g]->n + 1) * sizeof(double));
        if (!before[g]) abort();
        for (int64_t i = 0; i < grads[g]->n; i++) {
            bool gap = i % rows[g] >= used[g];
            before[g][i] = gap ? grads[g]->values[i] : 77;
            if (!gap) grads[g]->values[i] = 0;
        }
    }
    float scale = 1.5f / sqrtf((float)s->dh);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t h = 0; h < s->H; h++) {
            int64_t g = h / (s->H / s->KV) * s->dh, qa = b * s->Sq * q_row + h * s->dh;
            int64_t ka = b * s->Skv * k_row + g, va = b * s->Skv * v_row + g;
            int64_t oa = b * s->Sq * o_row + h * s->dh;
            head one = {q.values + qa,  k.values + ka,
                        v.values + va,  d_o.values + oa,
                        o.values + oa,  lse.values + (b * s->H + h) * s->Sq,
                        dq.values + qa, dk.values + ka,
                        dv.values + va, q_row,
                        k_row,          v_row,
                        o_row};
            reference_head(s, &one, scale, dt == FM_BF16);
        }
    fm_attention_grad_args a = {.fwd = {.dt = dt,
                                        .B = s->B,
                                        .Sq = s->Sq,
                                        .Skv = s->Skv,
                                        .H = s->H,
                                        .KV = s->KV,
                                        .dh = s->dh,
                                        .q = q.data,
                                        .k = k.data,
                                        .v = v.data,
                                        .q_batch = s->Sq * q_row,
                                        .k_batch = s->Skv * k_row,
                                        .v_batch = s->Skv * v_row,
                                        .q_row = q_row,
                                        .k_row = k_row,
                                        .v_row = v_row,
                                        .scale = scale,
                                        .causal = s->causal,
                                        .o = o.data,
                                        .lse = lse.data},
                                .d_o = d_o.data,
                                .dq = dq.data,
                                .dk = dk.data,
                                .dv = dv.data};
    product_case forward = {run_forward, &a, {&o, &lse}, {NULL}, {"o", "lse"}};
    run_on_each_isa(c, &forward);
    array_reset(&o);
    array_reset(&lse);
    product_case backward = {
        run_backward, &a, {&dq, &dk, &dv}, {before[0], before[1], before[2]}, {"dq", "dk", "dv"}};
    run_on_each_isa(c, &backward);
    array *all[] = {&q, &k, &v, &o, &d_o, &lse, &dq, &dk, &dv};
    for (int i = 0; i < 9; i++) array_free(all[i]);
    for (int g = 0; g < 3; g++) free(before[g]);
}

/* A NaN in key and value `at` reaches the queries that see it, and no other. */
static void check_nan(cases *c, fm_dtype dt, int64_t S, int64_t at) {
    enum { DH = 8 };
    array q = array_new(dt, S * DH, 1), k = array_new(dt, S * DH, 2), v = array_new(dt, S * DH, 3);
    array o = array_new(dt, S * DH, 4);
    array *poisoned[2] = {&k, &v};
    for (int i = 0; i < 2; i++) {
        for (int64_t e = at * DH; e < (at + 1) * DH; e++) poisoned[i]->values[e] = NAN;
        array_reset(poisoned[i]);
    }
    fm_attention_args a = {.dt = dt,
                           .B = 1,
                           .Sq = S,
                           .Skv = S,
                           .H = 1,
                           .KV = 1,
                           .dh = DH,
                           .q = q.data,
                           .k = k.data,
                           .v = v.data,
                           .q_batch = S * DH,
                           .k_batch = S * DH,
                           .v_batch = S * DH,
                           .q_row = DH,
                           .k_row = DH,
                           .v_row = DH,
                           .scale = 1,
                           .causal = true,
                           .o = o.data};
    const char *isas[FM_CPU_MAX_ISAS];
    int n = fm_cpu_isas(isas);
    for (int i = 0; i < n; i++) {
        fm_error error = {0};
        fm_device *dev;
        if (fm_cpu_open_isa(isas[i], &error, &dev) != FM_OK ||
            dev->ops->attention_forward(dev, &a) != FM_OK) {
            case_fail(c, "%s: %s", isas[i], error.message);
            break;
        }
        for (int64_t e = 0; e < S * DH; e++)
            if (isnan(array_get(&o, e)) != (e / DH >= at)) {
                case_fail(c, "%s: o of query %lld is %g", isas[i], (long long)(e / DH),
                          array_get(&o, e));
                break;
            }
        fm_cpu_close(dev);
    }
    array_free(&q), array_free(&k), array_free(&v), array_free(&o);
}

/* A NaN in do of query `at` reaches its own dq, and dk and dv of the keys it sees; no other. */
static void check_nan_backward(cases *c, fm_dtype dt, int64_t S, int64_t at) {
    enum { DH = 8 };
    array q = array_new(dt, S * DH, 1), k = array_new(dt, S * DH, 2), v = array_new(dt, S * DH, 3);
    array o = array_new(dt, S * DH, 4), d_o = array_new(dt, S * DH, 5);
    array lse = array_new(FM_F32, S, 6);
    array dq = array_new(dt, S * DH, 7), dk = array_new(dt, S * DH, 8);
    array dv = array_new(dt, S * DH, 9);
    for (int64_t e = at * DH; e < (at + 1) * DH; e++) d_o.values[e] = NAN;
    array_reset(&d_o);
    fm_attention_grad_args a = {.fwd = {.dt = dt,
                                        .B = 1,
                                        .Sq = S,
                                        .Skv = S,
                                        .H = 1,
                                        .KV = 1,
                                        .dh = DH,
                                        .q = q.data,
                                        .k = k.data,
                                        .v = v.data,
                                        .q_batch = S * DH,
                                        .k_batch = S * DH,
                                        .v_batch = S * DH,
                                        .q_row = DH,
                                        .k_row = DH,
                                        .v_row = DH,
                                        .scale = 1,
                                        .causal = true,
                                        .o = o.data,
                                        .lse = lse.data},
                                .d_o = d_o.data,
                                .dq = dq.data,
                                .dk = dk.data,
                                .dv = dv.data};
    const char *isas[FM_CPU_MAX_ISAS];
    int n = fm_cpu_isas(isas);
    for (int i = 0; i < n; i++) {
        fm_error error = {0};
        fm_device *dev;
        if (fm_cpu_open_isa(isas[i], &error, &dev) != FM_OK || run_forward(dev, &a) != FM_OK ||
            run_backward(dev, &a) != FM_OK) {
            case_fail(c, "%s: %s", isas[i], error.message);
            break;
        }
        for (int64_t e = 0; e < S * DH; e++) {
            int64_t row = e / DH;
            if (isnan(array_get(&dq, e)) != (row == at) ||
                isnan(array_get(&dk, e)) != (row <= at) ||
                isnan(array_get(&dv, e)) != (row <= at)) {
                case_fail(c, "%s: position %lld has dq %g, dk %g, dv %g", isas[i], (long long)row,
                          array_get(&dq, e), array_get(&dk, e), array_get(&dv, e));
                break;
            }
        }
        fm_cpu_close(dev);
    }
    array *all[] = {&q, &k, &v, &o, &d_o, &lse, &dq, &dk, &dv};
    for (int i = 0; i < 9; i++) array_free(all[i]);
}

typedef struct rope_case {
    fm_dtype dt;
    int64_t T, S, heads, dh, cols, pos0;
    void *y;
    const void *x;
    bool inverse;
} rope_case;

static fm_status run_rope(fm_device *dev, void *arguments) {
    rope_case *r = arguments;
    return dev->ops->rope(dev, r->dt, r->y, r->x, r->T, r->S, r->heads, r->dh, r->cols, 10000.0f,
                          r->pos0, r->inverse);
}

static void check_rope(cases *c, rope_case r) {
    array x = array_new(r.dt, r.T * r.cols, 1), y = array_new(r.dt, r.T * r.cols, 2);
    for (int64_t i = 0; i < y.n; i++) y.values[i] = x.values[i];
    for (int64_t t = 0; t < r.T; t++)
        for (int64_t h = 0; h < r.heads; h++)
            for (int64_t i = 0; i < r.dh / 2; i++) {
                int64_t at = t * r.cols + h * r.dh + i, to = at + r.dh / 2;
                double angle = (double)(r.pos0 + t % r.S) *
                               pow(10000, -2.0 * (double)i / (double)r.dh);
                double sine = r.inverse ? -sin(angle) : sin(angle), cosine = cos(angle);
                y.values[at] = x.values[at] * cosine - x.values[to] * sine;
                y.values[to] = x.values[to] * cosine + x.values[at] * sine;
            }
    r.x = x.data, r.y = y.data;
    product_case p = {run_rope, &r, {&y}, {NULL}, {"y"}};
    run_on_each_isa(c, &p);
    array_free(&x), array_free(&y);
}

static const shape shapes[] = {
    {1, 1, 1, 1, 1, 1, true},       {2, 5, 5, 3, 3, 5, true},       {1, 64, 64, 2, 2, 32, true},
    {1, 67, 67, 4, 2, 5, true},     {1, 130, 130, 2, 1, 64, true},  {1, 600, 600, 1, 1, 16, true},
    {2, 1, 70, 4, 2, 16, true},     {1, 3, 200, 2, 1, 8, true},     {1, 65, 129, 6, 2, 33, true},
    {2, 9, 4, 2, 2, 7, false},      {1, 70, 130, 2, 1, 16, false},  {1, 33, 33, 3, 1, 128, true},
    {1, 300, 300, 2, 1, 40, false}, {1, 1100, 1100, 1, 1, 8, true}, {1, 300, 300, 4, 2, 8, true},
};

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    for (int d = 0; d <= 1; d++) {
        fm_dtype dt = d ? FM_BF16 : FM_F32;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const shape *s = &shapes[i];
            if (!case_begin(
                    &c, "attention %s B=%lld Sq=%lld Skv=%lld H=%lld KV=%lld dh=%lld causal=%d",
                    d ? "bf16" : "fp32", (long long)s->B, (long long)s->Sq, (long long)s->Skv,
                    (long long)s->H, (long long)s->KV, (long long)s->dh, s->causal))
                continue;
            check_attention(&c, dt, s);
            case_end(&c);
        }
        for (int64_t at = 0; at < 150; at += 37) {
            if (!case_begin(&c, "attention %s NaN at=%lld", d ? "bf16" : "fp32", (long long)at))
                continue;
            check_nan(&c, dt, 150, at);
            case_end(&c);
        }
        for (int64_t at = 0; at < 600; at += 37) { /* 150: one part; 600: several */
            int64_t S = at < 150 ? 150 : 600;
            if (!case_begin(&c, "attention_backward %s S=%lld NaN at=%lld", d ? "bf16" : "fp32",
                            (long long)S, (long long)at))
                continue;
            check_nan_backward(&c, dt, S, at);
            case_end(&c);
        }
        static const int64_t ropes[][6] = {/* T, S, heads, dh, cols, pos0 */
                                           {10, 5, 3, 4, 12, 0},
                                           {7, 7, 2, 6, 17, 3},
                                           {1, 1, 1, 2, 2, 11},
                                           {300, 100, 4, 32, 128, 50}};
        for (int i = 0; i < 8; i++) {
            const int64_t *p = ropes[i / 2];
            rope_case r = {.dt = dt,
                           .T = p[0],
                           .S = p[1],
                           .heads = p[2],
                           .dh = p[3],
                           .cols = p[4],
                           .pos0 = p[5],
                           .inverse = i % 2};
            if (!case_begin(&c, "rope %s T=%lld S=%lld heads=%lld dh=%lld cols=%lld inverse=%d",
                            d ? "bf16" : "fp32", (long long)r.T, (long long)r.S, (long long)r.heads,
                            (long long)r.dh, (long long)r.cols, r.inverse))
                continue;
            check_rope(&c, r);
            case_end(&c);
        }
    }
    return cases_end(&c);
}
