/* layer_norm, rms_norm, softmax */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

static const float eps = 1e-5f;

static void setup_norm(op_run *r) {
    int64_t d = r->p[1];
    op_in(r, r->dt, 1.5, OP_SHAPE(r->p[0], d));
    op_in(r, r->dt, 1, OP_SHAPE(d));
    if (r->p[2]) op_in(r, r->dt, 1, OP_SHAPE(d));
    op_out(r, r->dt, OP_SHAPE(r->p[0], d));
}
static fm_status apply_layer_norm(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_layer_norm(ctx, out, in[0], in[1], r->p[2] ? in[2] : NULL, eps);
}
static void reference_layer_norm(const op_run *r, double *const *in, double **out) {
    ref_layer_norm(out[0], in[0], in[1], r->p[2] ? in[2] : NULL, r->p[0], r->p[1], (double)eps);
}
static const int64_t layer_norm_sizes[][OP_MAX_PARAMS] = {{5, 7, 1},   {5, 7, 0},   {32, 64, 1},
                                                          {1, 129, 1}, {67, 33, 1}, {0, 7, 1}};
static const op_test layer_norm = {.name = "layer_norm",
                                   .params = {"T", "d", "bias"},
                                   .tolerance = OP_SUMS,
                                   .setup = setup_norm,
                                   .apply = apply_layer_norm,
                                   .reference = reference_layer_norm,
                                   OP_SIZES(layer_norm_sizes)};

static fm_status apply_rms_norm(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_rms_norm(ctx, out, in[0], in[1], eps);
}
static void reference_rms_norm(const op_run *r, double *const *in, double **out) {
    ref_rms_norm(out[0], in[0], in[1], r->p[0], r->p[1], (double)eps);
}
static const int64_t rms_norm_sizes[][OP_MAX_PARAMS] = {{5, 7}, {32, 64}, {1, 129}, {67, 33}};
static const op_test rms_norm = {.name = "rms_norm",
                                 .params = {"T", "d"},
                                 .tolerance = OP_SUMS,
                                 .setup = setup_norm,
                                 .apply = apply_rms_norm,
                                 .reference = reference_rms_norm,
                                 OP_SIZES(rms_norm_sizes)};

/* spread: how large logits are; masked: every third is as good as minus infinity. The backward
 * reads y: where that is bf16 and all but 1, nothing is left of p (1 - p). */
static void setup_softmax(op_run *r) {
    op_array *x = op_in(r, r->dt, (double)r->p[2], OP_SHAPE(r->p[0], r->p[1]));
    x->grad = r->dt == FM_F32 || r->p[2] < 100;
    for (int64_t i = 0; r->p[3] && i < x->n; i += 3) x->v[i] = op_round(r->dt, -1e30);
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1]))->grad = x->grad;
}
static fm_status apply_softmax(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_softmax(ctx, out, in[0]);
}
static void reference_softmax(const op_run *r, double *const *in, double **out) {
    ref_softmax(out[0], in[0], r->p[0], r->p[1]);
}
static const int64_t softmax_sizes[][OP_MAX_PARAMS] = {
    {5, 7, 2, 0},    {3, 1, 2, 0}, {32, 64, 2, 0}, {1, 1031, 2, 0},
    {5, 7, 1000, 0}, {0, 7, 2, 0}, {5, 7, 2, 1},   {3, 67, 100, 1}};
static const op_test softmax = {.name = "softmax",
                                .params = {"T", "d", "spread", "masked"},
                                .tolerance = OP_PRODUCTS,
                                .setup = setup_softmax,
                                .apply = apply_softmax,
                                .reference = reference_softmax,
                                OP_SIZES(softmax_sizes)};

const op_test *const cases_norm[] = {&layer_norm, &rms_norm, &softmax, NULL};
