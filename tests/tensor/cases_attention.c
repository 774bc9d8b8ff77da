/* attention over a packed projection, attention over three tensors, rope */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

static double scale_of(int64_t percent, int64_t dh) {
    return percent ? (double)((float)percent / 100.0f) : 1 / sqrt((double)dh);
}

static void setup_qkv(op_run *r) {
    int64_t B = r->p[0], S = r->p[1], H = r->p[2], KV = r->p[3], dh = r->p[4];
    op_in(r, r->dt, 1, OP_SHAPE(B, S, (H + 2 * KV) * dh));
    op_out(r, r->dt, OP_SHAPE(B, S, H * dh));
}
static fm_status apply_qkv(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_attention_qkv(ctx, out, in[0], r->p[2], r->p[3], r->p[5] != 0,
                            (float)r->p[6] / 100.0f);
}
static void reference_qkv(const op_run *r, double *const *in, double **out) {
    int64_t B = r->p[0], S = r->p[1], H = r->p[2], KV = r->p[3], dh = r->p[4];
    int64_t row = (H + 2 * KV) * dh;
    ref_attention(out[0], in[0], in[0] + H * dh, in[0] + (H + KV) * dh, B, S, S, H, KV, dh, row,
                  row, r->p[5] != 0, scale_of(r->p[6], dh));
}
static const int64_t qkv_sizes[][OP_MAX_PARAMS] = {
    {1, 1, 1, 1, 2, 1, 0},  {2, 5, 3, 3, 4, 1, 0},    {2, 7, 4, 2, 3, 1, 0},
    {1, 9, 4, 1, 5, 0, 0},  {1, 32, 2, 2, 8, 1, 0},   {2, 6, 2, 1, 8, 1, 40},
    {1, 67, 2, 1, 8, 1, 0}, {1, 150, 4, 2, 16, 1, 0}, {1, 130, 2, 2, 64, 1, 0}};
static const op_test qkv = {.name = "attention_qkv",
                            .params = {"B", "S", "H", "KV", "dh", "causal", "scale_percent"},
                            .tolerance = OP_PRODUCTS,
                            .setup = setup_qkv,
                            .apply = apply_qkv,
                            .reference = reference_qkv,
                            OP_SIZES(qkv_sizes)};

static void setup_attention(op_run *r) {
    int64_t B = r->p[0], Sq = r->p[1], Skv = r->p[2], H = r->p[3], KV = r->p[4], dh = r->p[5];
    op_in(r, r->dt, 1, OP_SHAPE(B, Sq, H * dh));
    op_in(r, r->dt, 1, OP_SHAPE(B, Skv, KV * dh));
    op_in(r, r->dt, 1, OP_SHAPE(B, Skv, KV * dh));
    op_out(r, r->dt, OP_SHAPE(B, Sq, H * dh));
}
static fm_status apply_attention(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_attention(ctx, out, in[0], in[1], in[2], r->p[3], r->p[4], r->p[6] != 0, 0);
}
static void reference_attention(const op_run *r, double *const *in, double **out) {
    int64_t H = r->p[3], KV = r->p[4], dh = r->p[5];
    ref_attention(out[0], in[0], in[1], in[2], r->p[0], r->p[1], r->p[2], H, KV, dh, H * dh,
                  KV * dh, r->p[6] != 0, scale_of(0, dh));
}
static const int64_t attention_sizes[][OP_MAX_PARAMS] = {
    {2, 5, 5, 3, 3, 4, 1},    {2, 3, 7, 4, 2, 3, 1},   {1, 1, 9, 2, 1, 8, 1},
    {2, 5, 3, 2, 2, 4, 0},    {1, 16, 32, 2, 1, 8, 0}, {1, 70, 70, 1, 1, 4, 1},
    {1, 66, 200, 2, 1, 32, 1}};
static const op_test attention = {.name = "attention",
                                  .params = {"B", "Sq", "Skv", "H", "KV", "dh", "causal"},
                                  .tolerance = OP_PRODUCTS,
                                  .setup = setup_attention,
                                  .apply = apply_attention,
                                  .reference = reference_attention,
                                  OP_SIZES(attention_sizes)};

static void setup_rope(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1], r->p[4]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1], r->p[4]));
}
static fm_status apply_rope(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_rope(ctx, out, in[0], r->p[2], r->p[3], 10000.0f, r->p[5]);
}
static void reference_rope(const op_run *r, double *const *in, double **out) {
    ref_rope(out[0], in[0], r->p[0] * r->p[1], r->p[1], r->p[2], r->p[3], r->p[4], 10000, r->p[5]);
}
static const int64_t rope_sizes[][OP_MAX_PARAMS] = {
    {2, 5, 3, 4, 12, 0}, {2, 5, 2, 6, 17, 0}, {1, 1, 1, 2, 2, 11}, {2, 16, 4, 16, 128, 100}};
/* fp32 angles of some hundreds: their rounding is the error */
static const op_test rope = {.name = "rope",
                             .params = {"B", "S", "heads", "dh", "cols", "pos0"},
                             .tolerance = OP_PRODUCTS,
                             .setup = setup_rope,
                             .apply = apply_rope,
                             .reference = reference_rope,
                             OP_SIZES(rope_sizes)};

const op_test *const cases_attention[] = {&qkv, &attention, &rope, NULL};
