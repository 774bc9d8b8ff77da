/* matmul, linear, the router's linear, grouped_linear */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

#include <string.h>

/* batch 0: two dimensions */
static void setup_matmul(op_run *r) {
    int64_t m = r->p[1], n = r->p[2], k = r->p[3];
    int64_t a[3] = {r->p[0], m, k}, y[3] = {r->p[0], m, n};
    int64_t b[3] = {r->p[0], r->p[4] ? n : k, r->p[4] ? k : n};
    int flat = r->p[0] == 0;
    op_in(r, r->dt, 1, 3 - flat, a + flat);
    op_in(r, r->dt, 1, 3 - flat, b + flat);
    op_out(r, r->dt, 3 - flat, y + flat);
}
static fm_status apply_matmul(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_matmul(ctx, out, in[0], in[1], r->p[4] != 0);
}
static void reference_matmul(const op_run *r, double *const *in, double **out) {
    int64_t m = r->p[1], n = r->p[2], k = r->p[3];
    for (int64_t b = 0; b < (r->p[0] ? r->p[0] : 1); b++)
        ref_matmul(out[0] + b * m * n, in[0] + b * m * k, in[1] + b * k * n, m, n, k, r->p[4] != 0);
}
static const int64_t matmul_sizes[][OP_MAX_PARAMS] = {
    {0, 1, 1, 1, 0}, {0, 5, 7, 3, 0},   {0, 5, 7, 3, 1},       {0, 32, 64, 16, 0},
    {3, 5, 7, 3, 0}, {3, 5, 7, 3, 1},   {2, 16, 32, 16, 1},    {0, 1, 33, 65, 1},
    {0, 0, 7, 3, 0}, {0, 65, 1, 33, 0}, {0, 130, 140, 150, 0}, {0, 130, 140, 150, 1}};
static const op_test matmul = {.name = "matmul",
                               .params = {"batch", "m", "n", "k", "trans_b"},
                               .tolerance = OP_PRODUCTS,
                               .setup = setup_matmul,
                               .apply = apply_matmul,
                               .reference = reference_matmul,
                               OP_SIZES(matmul_sizes)};

static fm_status apply_linear(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_linear(ctx, out, in[0], in[1], r->p[3] ? in[2] : NULL, (fm_act)r->p[4]);
}
static void linear_inputs(op_run *r, fm_dtype x, fm_dtype w) {
    int64_t T = r->p[0], in = r->p[1], out = r->p[2];
    double spread = 1 / sqrt((double)(in > 0 ? in : 1));
    if (T % 2 == 0)
        op_in(r, x, 1, OP_SHAPE(2, T / 2, in));
    else
        op_in(r, x, 1, OP_SHAPE(T, in));
    op_in(r, w, spread, OP_SHAPE(out, in));
    if (r->p[3]) op_in(r, w, 0.5, OP_SHAPE(out));
    if (T % 2 == 0)
        op_out(r, w, OP_SHAPE(2, T / 2, out));
    else
        op_out(r, w, OP_SHAPE(T, out));
}
static void setup_linear(op_run *r) { linear_inputs(r, r->dt, r->dt); }
static void reference_linear(const op_run *r, double *const *in, double **out) {
    ref_linear(out[0], in[0], in[1], r->p[3] ? in[2] : NULL, r->p[0], r->p[1], r->p[2],
               (fm_act)r->p[4]);
}
static const int64_t linear_sizes[][OP_MAX_PARAMS] = {
    {1, 1, 1, 0, FM_ACT_NONE},      {5, 7, 3, 0, FM_ACT_NONE},     {5, 7, 3, 1, FM_ACT_NONE},
    {6, 16, 32, 1, FM_ACT_GELU},    {5, 7, 3, 1, FM_ACT_RELU},     {5, 7, 3, 0, FM_ACT_SILU},
    {24, 7, 3, 1, FM_ACT_RELU2},    {5, 7, 3, 1, FM_ACT_GELU_ERF}, {64, 128, 64, 1, FM_ACT_GELU},
    {1, 65, 33, 1, FM_ACT_NONE},    {0, 7, 3, 1, FM_ACT_NONE},     {67, 33, 17, 0, FM_ACT_NONE},
    {300, 40, 150, 1, FM_ACT_GELU}, {9, 20, 1100, 0, FM_ACT_NONE}, {3, 1100, 9, 0, FM_ACT_NONE}};
static const op_test linear = {.name = "linear",
                               .params = {"T", "in", "out", "bias", "act"},
                               .tolerance = OP_PRODUCTS,
                               .setup = setup_linear,
                               .apply = apply_linear,
                               .reference = reference_linear,
                               OP_SIZES(linear_sizes)};

/* x bf16, w fp32 */
static void setup_router(op_run *r) { linear_inputs(r, FM_BF16, FM_F32); }
static const int64_t router_sizes[][OP_MAX_PARAMS] = {
    {5, 7, 3, 0, FM_ACT_NONE}, {5, 7, 3, 1, FM_ACT_NONE}, {32, 64, 8, 0, FM_ACT_NONE}};
static const op_test router = {.name = "linear_router",
                               .params = {"T", "in", "out", "bias", "act"},
                               .dtypes = OP_BF16,
                               .tolerance = OP_PRODUCTS,
                               .setup = setup_router,
                               .apply = apply_linear,
                               .reference = reference_linear,
                               OP_SIZES(router_sizes)};

/* How many rows each expert has. */
enum { PATTERN_RANDOM, PATTERN_ALL_ON_FIRST, PATTERN_ALL_ON_LAST, PATTERN_EVEN, PATTERN_NONE };
static void make_offsets(op_run *r, double *offsets, int64_t N, int64_t E, int64_t pattern) {
    offsets[0] = 0;
    for (int64_t e = 0; e < E; e++) {
        double left = (double)N - offsets[e], n = 0;
        if (pattern == PATTERN_RANDOM) /* every third expert is empty */
            n = e % 3 == 1 ? 0 : floor(left * op_uniform(r) * 0.7);
        if (pattern == PATTERN_ALL_ON_FIRST) n = e == 0 ? left : 0;
        if (pattern == PATTERN_ALL_ON_LAST) n = e == E - 1 ? left : 0;
        if (pattern == PATTERN_EVEN) n = floor((double)N / (double)E);
        offsets[e + 1] = offsets[e] + n;
    }
}
static void setup_grouped(op_run *r) {
    int64_t N = r->p[0], in = r->p[1], out = r->p[2], E = r->p[3];
    op_array *offsets = op_in_int(r, 0, 1, OP_SHAPE(E + 1));
    make_offsets(r, offsets->v, N, E, r->p[6]);
    int64_t used = (int64_t)offsets->v[E];
    op_in(r, r->dt, 1, OP_SHAPE(N, in))->grad_n = used * in;
    op_in(r, r->dt, 1 / sqrt((double)in), OP_SHAPE(E, out, in));
    if (r->p[4]) op_in(r, r->dt, 0.5, OP_SHAPE(E, out));
    op_out(r, r->dt, OP_SHAPE(N, out));
}
static fm_status apply_grouped(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_grouped_linear(ctx, out, in[1], in[2], r->p[4] ? in[3] : NULL, in[0],
                             (fm_act)r->p[5]);
}
static void reference_grouped(const op_run *r, double *const *x, double **out) {
    int64_t N = r->p[0], in = r->p[1], o = r->p[2], E = r->p[3];
    for (int64_t e = 0; e < E; e++) {
        int64_t at = (int64_t)x[0][e], rows = (int64_t)x[0][e + 1] - at;
        ref_linear(out[0] + at * o, x[1] + at * in, x[2] + e * o * in,
                   r->p[4] ? x[3] + e * o : NULL, rows, in, o, (fm_act)r->p[5]);
    }
    for (int64_t i = (int64_t)x[0][E] * o; i < N * o; i++) out[0][i] = OP_UNDEFINED;
}
static const int64_t grouped_sizes[][OP_MAX_PARAMS] = {
    {11, 7, 3, 4, 0, FM_ACT_NONE, PATTERN_RANDOM},
    {11, 7, 3, 4, 1, FM_ACT_GELU, PATTERN_RANDOM},
    {32, 16, 32, 4, 1, FM_ACT_RELU, PATTERN_EVEN},
    {13, 7, 5, 3, 1, FM_ACT_SILU, PATTERN_ALL_ON_FIRST},
    {13, 7, 5, 3, 0, FM_ACT_NONE, PATTERN_ALL_ON_LAST},
    {4, 7, 5, 3, 1, FM_ACT_NONE, PATTERN_NONE},
    {1, 5, 3, 8, 1, FM_ACT_RELU2, PATTERN_ALL_ON_LAST},
    {70, 33, 17, 9, 0, FM_ACT_GELU, PATTERN_RANDOM},
    {600, 20, 40, 3, 1, FM_ACT_SILU, PATTERN_EVEN}};
static const op_test grouped = {.name = "grouped_linear",
                                .params = {"N", "in", "out", "E", "bias", "act", "pattern"},
                                .tolerance = OP_PRODUCTS,
                                .setup = setup_grouped,
                                .apply = apply_grouped,
                                .reference = reference_grouped,
                                OP_SIZES(grouped_sizes)};

const op_test *const cases_products[] = {&matmul, &linear, &router, &grouped, NULL};
