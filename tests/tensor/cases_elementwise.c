/* add, mul, scale, cast, add_rows, activation, dropout, sum */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

static const int64_t planes[][OP_MAX_PARAMS] = {{1, 1}, {5, 7}, {64, 128}, {3, 1031}, {0, 4}};

static void setup_binary(op_run *r) {
    for (int i = 0; i < 2; i++) op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1]));
}

static void setup_unary(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1]));
}

static fm_status apply_add(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_add(ctx, out, in[0], in[1]);
}
static void reference_add(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->out[0].n; i++) out[0][i] = in[0][i] + in[1][i];
}
static const op_test add = {.name = "add",
                            .params = {"T", "d"},
                            .tolerance = OP_ROUNDS,
                            .setup = setup_binary,
                            .apply = apply_add,
                            .reference = reference_add,
                            OP_SIZES(planes)};

static fm_status apply_mul(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_mul(ctx, out, in[0], in[1]);
}
static void reference_mul(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->out[0].n; i++) out[0][i] = in[0][i] * in[1][i];
}
static const op_test mul = {.name = "mul",
                            .params = {"T", "d"},
                            .tolerance = OP_ROUNDS,
                            .setup = setup_binary,
                            .apply = apply_mul,
                            .reference = reference_mul,
                            OP_SIZES(planes)};

static fm_status apply_scale(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_scale(ctx, out, in[0], -1.75f);
}
static void reference_scale(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->out[0].n; i++) out[0][i] = -1.75 * in[0][i];
}
static const op_test scale = {.name = "scale",
                              .params = {"T", "d"},
                              .tolerance = OP_ROUNDS,
                              .setup = setup_unary,
                              .apply = apply_scale,
                              .reference = reference_scale,
                              OP_SIZES(planes)};

/* to the other float dtype, or to the same */
static fm_dtype cast_to(const op_run *r) {
    return r->p[2] ? r->dt : r->dt == FM_F32 ? FM_BF16 : FM_F32;
}
static void setup_cast(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, cast_to(r), OP_SHAPE(r->p[0], r->p[1]));
}
static fm_status apply_cast(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_cast(ctx, out, in[0], cast_to(r));
}
static void reference_copy(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->out[0].n; i++) out[0][i] = in[0][i];
}
static const int64_t cast_sizes[][OP_MAX_PARAMS] = {{5, 7, 0}, {64, 128, 0}, {5, 7, 1}};
/* "fp32 to bf16" rounds like bf16, so the tolerance of the narrower one: given as a bf16 test of
 * both directions (the parameter says which). */
static void setup_narrow(op_run *r) {
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, FM_BF16, OP_SHAPE(r->p[0], r->p[1]));
}
static fm_status apply_narrow(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_cast(ctx, out, in[0], FM_BF16);
}
static const op_test narrow = {.name = "cast_from_fp32",
                               .params = {"T", "d"},
                               .dtypes = OP_BF16,
                               .tolerance = OP_ROUNDS,
                               .setup = setup_narrow,
                               .apply = apply_narrow,
                               .reference = reference_copy,
                               OP_SIZES(planes)};
static const op_test widen = {.name = "cast",
                              .params = {"T", "d", "same"},
                              .dtypes = OP_BF16,
                              .tolerance = OP_ROUNDS,
                              .setup = setup_cast,
                              .apply = apply_cast,
                              .reference = reference_copy,
                              OP_SIZES(cast_sizes)};

/* int32 to int64 and back; the parameter says which is the input */
static void setup_cast_int(op_run *r) {
    op_array *x = op_in_int(r, -1000000, 1000000, OP_SHAPE(r->p[0]));
    if (r->p[1]) x->dtype = FM_I64;
    op_out(r, r->p[1] ? FM_I32 : FM_I64, OP_SHAPE(r->p[0]));
}
static fm_status apply_cast_int(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_cast(ctx, out, in[0], r->out[0].dtype);
}
static const int64_t int_sizes[][OP_MAX_PARAMS] = {{1, 0}, {67, 0}, {67, 1}};
static const op_test cast_int = {.name = "cast_int",
                                 .params = {"n", "from_int64"},
                                 .dtypes = OP_F32,
                                 .tolerance = OP_EXACT,
                                 .setup = setup_cast_int,
                                 .apply = apply_cast_int,
                                 .reference = reference_copy,
                                 OP_SIZES(int_sizes)};

/* a [B, S, d]; b [S, d], or [d] */
static void setup_add_rows(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[1], r->p[2]));
    if (r->p[3])
        op_in(r, r->dt, 1, OP_SHAPE(r->p[2]));
    else
        op_in(r, r->dt, 1, OP_SHAPE(r->p[1], r->p[2]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1], r->p[2]));
}
static fm_status apply_add_rows(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_add_rows(ctx, out, in[0], in[1]);
}
static void reference_add_rows(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->in[0].n; i++) out[0][i] = in[0][i] + in[1][i % r->in[1].n];
}
static const int64_t row_sizes[][OP_MAX_PARAMS] = {
    {1, 1, 1, 0}, {3, 5, 7, 0}, {4, 16, 64, 0}, {3, 5, 7, 1}, {2, 64, 33, 1}};
static const op_test add_rows = {.name = "add_rows",
                                 .params = {"B", "S", "d", "vector"},
                                 .tolerance = OP_ROUNDS,
                                 .setup = setup_add_rows,
                                 .apply = apply_add_rows,
                                 .reference = reference_add_rows,
                                 OP_SIZES(row_sizes)};

static void setup_activation(op_run *r) {
    int64_t wide = fm_act_is_glu((fm_act)r->p[2]) ? 2 : 1;
    op_in(r, r->dt, 2, OP_SHAPE(r->p[0], wide * r->p[1]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[1]));
}
static fm_status apply_activation(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_activation(ctx, out, in[0], (fm_act)r->p[2]);
}
static void reference_activation(const op_run *r, double *const *in, double **out) {
    fm_act act = (fm_act)r->p[2];
    int64_t h = r->p[1];
    for (int64_t t = 0; t < r->p[0]; t++)
        for (int64_t c = 0; c < h; c++) {
            if (fm_act_is_glu(act)) {
                fm_act gate = act == FM_ACT_SWIGLU ? FM_ACT_SILU : FM_ACT_GELU;
                out[0][t * h + c] = ref_act(gate, in[0][t * 2 * h + c]) * in[0][t * 2 * h + h + c];
            } else {
                out[0][t * h + c] = ref_act(act, in[0][t * h + c]);
            }
        }
}
static const int64_t activation_sizes[][OP_MAX_PARAMS] = {
    {5, 7, FM_ACT_NONE},     {5, 7, FM_ACT_GELU},   {5, 7, FM_ACT_GELU_ERF},
    {5, 7, FM_ACT_RELU},     {5, 7, FM_ACT_RELU2},  {5, 7, FM_ACT_SILU},
    {5, 7, FM_ACT_SWIGLU},   {5, 7, FM_ACT_GEGLU},  {32, 64, FM_ACT_GELU},
    {32, 64, FM_ACT_SWIGLU}, {1, 1, FM_ACT_SWIGLU}, {3, 1031, FM_ACT_SILU}};
static const op_test activation = {.name = "activation",
                                   .params = {"T", "d", "act"},
                                   .tolerance = OP_SUMS,
                                   .setup = setup_activation,
                                   .apply = apply_activation,
                                   .reference = reference_activation,
                                   OP_SIZES(activation_sizes)};

static fm_rng_key dropout_key(const op_run *r) {
    fm_rng_key key = {.key = fm_mix64(r->seed), .step = 3, .micro = 1};
    if (r->p[3]) key.row_offset = 5, key.row_block = 2, key.row_stride = 6;
    return key;
}
static fm_status apply_dropout(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    fm_rng_key key = dropout_key(r);
    return fm_dropout(ctx, out, in[0], (float)r->p[2] / 100.0f, &key);
}
/* The mask that tensor/rng.h defines, element by element. */
static void reference_dropout(const op_run *r, double *const *in, double **out) {
    fm_rng_key key = dropout_key(r);
    float p = (float)r->p[2] / 100.0f;
    int64_t cols = r->p[1];
    for (int64_t i = 0; i < r->in[0].n; i++) {
        uint64_t element = (uint64_t)(fm_rng_row(&key, i / cols) * cols + i % cols);
        bool kept = fm_rng_uniform(fm_rng_bits(&key, element)) >= p;
        out[0][i] = in[0][i] * (kept ? 1.0 / (1.0 - (double)p) : 0);
    }
}
static const int64_t dropout_sizes[][OP_MAX_PARAMS] = {
    {5, 7, 10, 0}, {64, 128, 50, 0}, {7, 5, 30, 1}, {5, 7, 0, 0}, {1, 1031, 10, 1}};
static const op_test dropout = {.name = "dropout",
                                .params = {"T", "d", "percent", "rows_mapped"},
                                .tolerance = OP_ROUNDS,
                                .setup = setup_unary,
                                .apply = apply_dropout,
                                .reference = reference_dropout,
                                OP_SIZES(dropout_sizes)};

static void setup_sum(op_run *r) {
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, FM_F32, OP_SHAPE(1));
}
static fm_status apply_sum(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_sum(ctx, out, in[0], 0.375f);
}
static void reference_sum(const op_run *r, double *const *in, double **out) {
    for (int64_t i = 0; i < r->in[0].n; i++) out[0][0] += 0.375 * in[0][i];
}
static const op_test sum = {.name = "sum",
                            .params = {"T", "d"},
                            .dtypes = OP_F32,
                            .tolerance = OP_SUMS,
                            .setup = setup_sum,
                            .apply = apply_sum,
                            .reference = reference_sum,
                            OP_SIZES(planes)};

const op_test *const cases_elementwise[] = {
    &add, &mul, &scale, &narrow, &widen, &add_rows, &activation, &dropout, &sum, &cast_int, NULL};
