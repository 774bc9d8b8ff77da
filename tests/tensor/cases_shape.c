/* reshape, split, cat */
#include "tests/tensor/cases.h"

static void copy(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->in[0].n; i++) out[0][i] = in[0][i];
}

static void setup_reshape(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1], r->p[2]));
    op_out(r, r->dt, OP_SHAPE(r->p[0] * r->p[1], r->p[2]));
}
static fm_status apply_reshape(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_reshape(ctx, out, in[0], OP_SHAPE(-1, r->p[2]));
}
static const int64_t reshape_sizes[][OP_MAX_PARAMS] = {{1, 1, 1}, {3, 5, 7}, {4, 8, 16}};
static const op_test reshape = {.name = "reshape",
                                .params = {"B", "S", "d"},
                                .tolerance = OP_EXACT,
                                .setup = setup_reshape,
                                .apply = apply_reshape,
                                .reference = copy,
                                OP_SIZES(reshape_sizes)};

/* x [A, B, C], axis, start, stop */
static void setup_split(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1], r->p[2]));
    int64_t shape[3] = {r->p[0], r->p[1], r->p[2]};
    shape[r->p[3]] = r->p[5] - r->p[4];
    op_out(r, r->dt, 3, shape);
}
static fm_status apply_split(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_split(ctx, out, in[0], (int)r->p[3], r->p[4], r->p[5]);
}
static void reference_split(const op_run *r, double *const *in, double **out) {
    const int64_t *s = r->in[0].shape, *o = r->out[0].shape;
    int64_t at[3] = {0};
    at[r->p[3]] = r->p[4];
    for (int64_t a = 0; a < o[0]; a++)
        for (int64_t b = 0; b < o[1]; b++)
            for (int64_t c = 0; c < o[2]; c++)
                out[0][(a * o[1] + b) * o[2] + c] =
                    in[0][((a + at[0]) * s[1] + b + at[1]) * s[2] + c + at[2]];
}
static const int64_t split_sizes[][OP_MAX_PARAMS] = {
    {3, 5, 7, 0, 1, 3},   {3, 5, 7, 1, 0, 2}, {3, 5, 7, 2, 4, 7}, {1, 5, 7, 1, 1, 4},
    {4, 8, 16, 2, 8, 16}, {3, 5, 7, 2, 0, 7}, {3, 5, 7, 1, 2, 2}};
static const op_test split = {.name = "split",
                              .params = {"A", "B", "C", "axis", "start", "stop"},
                              .tolerance = OP_EXACT,
                              .setup = setup_split,
                              .apply = apply_split,
                              .reference = reference_split,
                              OP_SIZES(split_sizes)};

/* n tensors [A, B + i, C] along axis 1, or [A + i, B, C] along axis 0. Six go through one node; the
 * n-th input more often than once (as input i % 6) makes it more. */
static void setup_cat(op_run *r) {
    int64_t n = r->p[4], axis = r->p[3], total = 0, shape[3] = {r->p[0], r->p[1], r->p[2]};
    for (int64_t i = 0; i < n; i++) {
        if (i < OP_MAX_INPUTS) {
            shape[axis] = r->p[axis] + i;
            op_in(r, r->dt, 1, 3, shape);
        }
        total += r->p[axis] + i % OP_MAX_INPUTS;
    }
    shape[axis] = total;
    op_out(r, r->dt, 3, shape);
}
static fm_status apply_cat(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    fm_tensor *x[64];
    for (int i = 0; i < (int)r->p[4]; i++) x[i] = in[i % OP_MAX_INPUTS];
    return fm_cat(ctx, out, x, (int)r->p[4], (int)r->p[3]);
}
static void reference_cat(const op_run *r, double *const *in, double **out) {
    int64_t axis = r->p[3], outer = 1, inner = 1, width = r->out[0].shape[axis], at = 0;
    for (int64_t i = 0; i < axis; i++) outer *= r->out[0].shape[i];
    for (int64_t i = axis + 1; i < 3; i++) inner *= r->out[0].shape[i];
    for (int64_t i = 0; i < r->p[4]; i++) {
        const op_array *a = &r->in[i % OP_MAX_INPUTS];
        int64_t own = a->shape[axis];
        for (int64_t o = 0; o < outer; o++)
            for (int64_t e = 0; e < own * inner; e++)
                out[0][(o * width + at) * inner + e] = in[i % OP_MAX_INPUTS][o * own * inner + e];
        at += own;
    }
}
static const int64_t cat_sizes[][OP_MAX_PARAMS] = {
    {3, 5, 7, 1, 2}, {2, 3, 4, 0, 3}, {2, 3, 5, 2, 4},  {2, 1, 3, 1, 1},
    {3, 0, 7, 1, 3}, {2, 2, 3, 1, 6}, {1, 2, 3, 1, 13}, {2, 1, 1, 0, 40}};
/* Inputs that occur in it more than once add up their gradients, in bf16 with a rounding. */
static const op_test cat = {.name = "cat",
                            .params = {"A", "B", "C", "axis", "n"},
                            .tolerance = OP_SUMS,
                            .setup = setup_cat,
                            .apply = apply_cat,
                            .reference = reference_cat,
                            OP_SIZES(cat_sizes)};

const op_test *const cases_shape[] = {&reshape, &split, &cat, NULL};
