/* embedding, cross_entropy, linear_cross_entropy */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

static void setup_embedding(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[2], r->p[1]));
    op_in_int(r, 0, r->p[3] ? 1 : r->p[2], OP_SHAPE(1, r->p[0]));
    op_out(r, r->dt, OP_SHAPE(1, r->p[0], r->p[1]));
}
static fm_status apply_embedding(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_embedding(ctx, out, in[0], in[1]);
}
static void reference_embedding(const op_run *r, double *const *in, double **out) {
    int64_t d = r->p[1];
    for (int64_t i = 0; i < r->p[0] * d; i++) out[0][i] = in[0][(int64_t)in[1][i / d] * d + i % d];
}
static const int64_t embedding_sizes[][OP_MAX_PARAMS] = {
    {1, 1, 1, 0}, {5, 7, 11, 0}, {64, 32, 16, 0}, {9, 7, 5, 1}, {0, 7, 5, 0}};
static const op_test embedding = {.name = "embedding",
                                  .params = {"T", "d", "V", "one_id"},
                                  .tolerance = OP_SUMS,
                                  .setup = setup_embedding,
                                  .apply = apply_embedding,
                                  .reference = reference_embedding,
                                  OP_SIZES(embedding_sizes)};

/* ignored: every how-many-th target is -1; 0 none, 1 all. denominator 0: the valid ones. */
static void make_targets(op_run *r, int64_t T, int64_t V, int64_t ignored) {
    op_array *target = op_in_int(r, 0, V, OP_SHAPE(T));
    for (int64_t t = 0; ignored && t < T; t += ignored) target->v[t] = -1;
}
static void loss_outputs(op_run *r) {
    op_out(r, FM_F32, OP_SHAPE(1));
    op_out(r, FM_F32, OP_SHAPE(r->p[0]))->grad = false;
}

static void setup_cross_entropy(op_run *r) {
    op_in(r, r->dt, (double)r->p[4], OP_SHAPE(r->p[0], r->p[1]));
    make_targets(r, r->p[0], r->p[1], r->p[2]);
    loss_outputs(r);
}
static fm_status apply_cross_entropy(const op_run *r, fm_ctx *ctx, fm_tensor **in,
                                     fm_tensor **out) {
    return fm_cross_entropy(ctx, &out[0], &out[1], in[0], in[1], (double)r->p[3]);
}
static void reference_cross_entropy(const op_run *r, double *const *in, double **out) {
    out[0][0] = ref_cross_entropy(out[1], in[0], in[1], r->p[0], r->p[1], (double)r->p[3]);
}
static const int64_t cross_entropy_sizes[][OP_MAX_PARAMS] = {
    {5, 7, 0, 0, 2},    {5, 7, 2, 0, 2}, {32, 64, 0, 100, 2}, {1, 1031, 0, 0, 2}, {4, 7, 1, 0, 2},
    {67, 33, 3, 17, 2}, {3, 1, 0, 0, 2}, {5, 7, 0, 0, 1000},  {3, 67, 2, 0, 100}};
static const op_test cross_entropy = {.name = "cross_entropy",
                                      .params = {"T", "V", "ignored", "denominator", "spread"},
                                      .tolerance = OP_SUMS,
                                      .setup = setup_cross_entropy,
                                      .apply = apply_cross_entropy,
                                      .reference = reference_cross_entropy,
                                      OP_SIZES(cross_entropy_sizes)};

static void setup_lce(op_run *r) {
    int64_t T = r->p[0], V = r->p[1], d = r->p[2];
    op_in(r, r->dt, 1, OP_SHAPE(T, d));
    op_in(r, r->dt, 2 / sqrt((double)d), OP_SHAPE(V, d));
    make_targets(r, T, V, r->p[4]);
    if (r->p[3]) op_in(r, r->dt, 1, OP_SHAPE(V));
    loss_outputs(r);
}
static fm_status apply_lce(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    size_t was = ctx->logits_budget;
    if (r->p[5]) ctx->logits_budget = 1; /* smallest chunks */
    fm_status status = fm_linear_cross_entropy(ctx, &out[0], &out[1], in[0], in[1],
                                               r->p[3] ? in[3] : NULL, in[2], (double)r->p[6]);
    ctx->logits_budget = was;
    return status;
}
static void reference_lce(const op_run *r, double *const *in, double **out) {
    enum { MOST = 1 << 14 };
    static double logits[MOST];
    ref_linear(logits, in[0], in[1], r->p[3] ? in[3] : NULL, r->p[0], r->p[2], r->p[1],
               FM_ACT_NONE);
    out[0][0] = ref_cross_entropy(out[1], logits, in[2], r->p[0], r->p[1], (double)r->p[6]);
}
static const int64_t lce_sizes[][OP_MAX_PARAMS] = {
    {5, 7, 3, 0, 0, 0, 0},   {5, 7, 3, 1, 2, 0, 0},    {32, 64, 16, 1, 0, 0, 50},
    {67, 11, 7, 1, 3, 1, 0}, {96, 33, 16, 0, 0, 1, 0}, {1, 33, 5, 1, 0, 1, 0},
    {70, 13, 7, 1, 1, 1, 0}};
static const op_test lce = {.name = "linear_cross_entropy",
                            .params = {"T", "V", "d", "bias", "ignored", "chunks", "denominator"},
                            .tolerance = OP_PRODUCTS,
                            .setup = setup_lce,
                            .apply = apply_lce,
                            .reference = reference_lce,
                            OP_SIZES(lce_sizes)};

const op_test *const cases_loss[] = {&embedding, &cross_entropy, &lce, NULL};
