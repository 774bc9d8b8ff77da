/* gemm and the linear slots against plain loops in double. */
#include "tests/tensor/products/each_isa.h"
#include "tests/tensor/reference.h"

#include <math.h>
#include <stdlib.h>

static const char *dt_name(fm_dtype dt) { return dt == FM_BF16 ? "bf16" : "fp32"; }

static double *copy_of(const double *x, int64_t n) {
    double *y = malloc((size_t)(n + 1) * sizeof *y);
    if (!y) abort();
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

/* ---- linear */

/* How the T rows fall on E experts. DENSE: offsets NULL. */
enum { DENSE, EVEN, ALL_ON_ONE, WITH_EMPTY };
static const char *const split_names[] = {"dense", "even", "all_on_one", "with_empty"};

static void split_rows(int kind, int64_t T, int64_t E, int32_t *offsets) {
    offsets[0] = 0;
    for (int64_t e = 0; e < E; e++) {
        int64_t rows = (e + 1) * T / E - e * T / E;
        if (kind == ALL_ON_ONE) rows = e == E / 2 ? T : 0;
        if (kind == WITH_EMPTY) rows = e % 2 ? (e == E - 1 || e == E - 2 ? T : e) : 0;
        if (offsets[e] + rows > T) rows = T - offsets[e];
        offsets[e + 1] = offsets[e] + (int32_t)rows;
    }
}

typedef struct linear_case {
    fm_linear_args args;
    const void *dy;
    void *dx;
    float *dw, *db;
    bool accumulate;
} linear_case;

static fm_status run_forward(fm_device *dev, void *arguments) {
    return dev->ops->linear_forward(dev, &((linear_case *)arguments)->args);
}

static fm_status run_backward(fm_device *dev, void *arguments) {
    linear_case *l = arguments;
    FM_TRY(dev->ops->linear_backward_input(dev, &l->args, l->dx, l->dy, l->accumulate));
    return dev->ops->linear_backward_weight(dev, &l->args, l->dw, l->accumulate, l->db,
                                            l->accumulate, l->dy);
}

static void reference_rows(const linear_case *l, const int32_t *offsets, const array *x,
                           const array *w, const array *b, const array *dy, array *y, array *pre,
                           array *dx, array *dw, array *db) {
    int64_t in = l->args.in, out = l->args.out;
    if (!l->accumulate) {
        for (int64_t i = 0; i < dx->n; i++) dx->values[i] = 0;
        for (int64_t i = 0; i < dw->n; i++) dw->values[i] = 0;
        for (int64_t i = 0; i < db->n; i++) db->values[i] = 0;
    }
    for (int64_t e = 0; e < l->args.E; e++)
        for (int64_t t = offsets[e]; t < offsets[e + 1]; t++)
            for (int64_t o = 0; o < out; o++) {
                double sum = b->values[e * out + o], g = dy->values[t * out + o];
                for (int64_t i = 0; i < in; i++) {
                    int64_t at = (e * out + o) * in + i;
                    sum += x->values[t * in + i] * w->values[at];
                    dx->values[t * in + i] += g * w->values[at];
                    dw->values[at] += g * x->values[t * in + i];
                }
                db->values[e * out + o] += g;
                pre->values[t * out + o] = sum;
                y->values[t * out + o] = ref_act(l->args.act, sum);
            }
}

static void check_linear(cases *c, fm_dtype dt, int64_t T, int64_t in, int64_t out, int64_t E,
                         int split, fm_act act, bool accumulate) {
    int32_t offsets[17];
    split_rows(split, T, E, offsets);
    array x = array_new(dt, T * in, 1), w = array_new(dt, E * out * in, 2);
    array b = array_new(dt, E * out, 3), dy = array_new(dt, T * out, 4);
    array y = array_new(dt, T * out, 5), pre = array_new(dt, T * out, 6);
    array dx = array_new(dt, T * in, 7), dw = array_new(FM_F32, E * out * in, 8);
    array db = array_new(FM_F32, E * out, 9);
    double *dx0 = copy_of(dx.values, dx.n), *dw0 = copy_of(dw.values, dw.n);
    double *db0 = copy_of(db.values, db.n);
    linear_case l = {.args = {.dt = dt,
                              .T = T,
                              .in = in,
                              .out = out,
                              .E = E,
                              .offsets = split == DENSE ? NULL : offsets,
                              .x = x.data,
                              .w = w.data,
                              .b = b.data,
                              .act = act,
                              .y = y.data,
                              .pre = pre.data},
                     .dy = dy.data,
                     .dx = dx.data,
                     .dw = dw.data,
                     .db = db.data,
                     .accumulate = accumulate};
    reference_rows(&l, offsets, &x, &w, &b, &dy, &y, &pre, &dx, &dw, &db);
    product_case forward = {run_forward, &l, {&y, &pre}, {NULL}, {"y", "pre"}};
    run_on_each_isa(c, &forward);
    product_case backward = {
        run_backward,
        &l,
        {&dx, &dw, &db},
        {accumulate ? dx0 : NULL, accumulate ? dw0 : NULL, accumulate ? db0 : NULL},
        {"dx", "dw", "db"}};
    run_on_each_isa(c, &backward);
    array *all[] = {&x, &w, &b, &dy, &y, &pre, &dx, &dw, &db};
    for (int i = 0; i < 9; i++) array_free(all[i]);
    free(dx0), free(dw0), free(db0);
}

static const struct {
    int64_t T, in, out, E;
    int split;
} linears[] = {
    {0, 7, 3, 1, DENSE},          {1, 7, 3, 1, DENSE},         {5, 1, 1, 1, DENSE},
    {15, 17, 33, 1, DENSE},       {16, 32, 64, 1, DENSE},      {300, 40, 130, 1, DENSE},
    {531, 20, 9, 1, DENSE},       {20, 530, 12, 1, DENSE},     {20, 12, 1030, 1, DENSE},
    {0, 7, 3, 4, EVEN},           {1, 7, 3, 4, ALL_ON_ONE},    {64, 16, 32, 4, EVEN},
    {61, 17, 33, 7, EVEN},        {300, 17, 140, 3, EVEN},     {61, 17, 33, 5, ALL_ON_ONE},
    {301, 9, 20, 2, ALL_ON_ONE},  {61, 17, 33, 8, WITH_EMPTY}, {90, 8, 16, 16, WITH_EMPTY},
    {600, 24, 24, 4, WITH_EMPTY},
};

/* ---- gemm */

static fm_status run_gemm(fm_device *dev, void *arguments) {
    return dev->ops->gemm(dev, arguments);
}

static void check_gemm(cases *c, fm_gemm_args g) {
    /* Rows 3 elements, matrices 5 elements longer than need be. */
    int64_t a_rows = g.trans_a ? g.k : g.m, b_rows = g.trans_b ? g.n : g.k;
    g.lda = (g.trans_a ? g.m : g.k) + 3, g.ldb = (g.trans_b ? g.k : g.n) + 3, g.ldc = g.n + 3;
    g.batch_a = a_rows * g.lda + 5, g.batch_b = b_rows * g.ldb + 5, g.batch_c = g.m * g.ldc + 5;
    array a = array_new(g.dt, g.batch * g.batch_a, 1), b = array_new(g.dt, g.batch * g.batch_b, 2);
    array y = array_new(g.c_dt, g.batch * g.batch_c, 3);
    double *before = copy_of(y.values, y.n); /* what lies between rows stays */
    for (int64_t s = 0; s < g.batch; s++)
        for (int64_t i = 0; i < g.m; i++)
            for (int64_t j = 0; j < g.n; j++) {
                double sum = 0;
                for (int64_t p = 0; p < g.k; p++)
                    sum += a.values[s * g.batch_a + (g.trans_a ? p * g.lda + i : i * g.lda + p)] *
                           b.values[s * g.batch_b + (g.trans_b ? j * g.ldb + p : p * g.ldb + j)];
                double *to = &y.values[s * g.batch_c + i * g.ldc + j];
                *to = g.accumulate ? *to + sum : sum;
            }
    g.a = a.data, g.b = b.data, g.c = y.data;
    product_case p = {run_gemm, &g, {&y}, {before}, {"c"}};
    run_on_each_isa(c, &p);
    array_free(&a), array_free(&b), array_free(&y);
    free(before);
}

static const int64_t gemms[][4] = {/* m, n, k, batch */
                                   {1, 1, 1, 1},   {5, 7, 3, 1},    {16, 32, 64, 2},
                                   {0, 7, 3, 1},   {5, 7, 0, 2},    {5, 7, 3, 0},
                                   {300, 9, 5, 2}, {9, 1050, 5, 1}, {3, 5, 700, 3}};

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    for (int dt = 0; dt <= 1; dt++)
        for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
            for (int add = 0; add <= 1; add++) {
                fm_act act = (fm_act)((i + (size_t)dt) % FM_ACT_SWIGLU);
                fm_dtype t = dt ? FM_BF16 : FM_F32;
                if (!case_begin(&c, "linear %s T=%lld in=%lld out=%lld E=%lld %s %s accumulate=%d",
                                dt_name(t), (long long)linears[i].T, (long long)linears[i].in,
                                (long long)linears[i].out, (long long)linears[i].E,
                                split_names[linears[i].split], fm_act_name(act), add))
                    continue;
                check_linear(&c, t, linears[i].T, linears[i].in, linears[i].out, linears[i].E,
                             linears[i].split, act, add);
                case_end(&c);
            }
    for (int kind = 0; kind < 32; kind++)
        for (size_t i = 0; i < sizeof gemms / sizeof *gemms; i++) {
            fm_gemm_args g = {.dt = kind & 1 ? FM_BF16 : FM_F32,
                              .trans_a = kind & 2,
                              .trans_b = kind & 4,
                              .accumulate = kind & 8,
                              .m = gemms[i][0],
                              .n = gemms[i][1],
                              .k = gemms[i][2],
                              .batch = gemms[i][3]};
            g.c_dt = kind & 16 ? FM_F32 : g.dt;
            if (kind & 16 && g.dt == FM_F32) continue; /* said already */
            if (!case_begin(&c, "gemm %s to %s m=%lld n=%lld k=%lld batch=%lld %c%c accumulate=%d",
                            dt_name(g.dt), dt_name(g.c_dt), (long long)g.m, (long long)g.n,
                            (long long)g.k, (long long)g.batch, g.trans_a ? 'T' : 'N',
                            g.trans_b ? 'T' : 'N', g.accumulate))
                continue;
            check_gemm(&c, g);
            case_end(&c);
        }
    return cases_end(&c);
}
