/* Wrong arguments: the right status, a message with the argument and both values, outputs NULL. */
#include "tensor/ops.h"
#include "tests/tensor/runner.h"

#include <math.h>

/* Tensors to be wrong with. */
static struct {
    fm_tensor *f35, *f53, *f47, *f7, *f5, *f4, *f234, *f547, *b35, *b7, *b74, *h35, *i3, *i35;
    fm_tensor *f36, *i32, *scalar, *f1_1_8, *f1_2_8, *f2_1_8;
} x;

static fm_tensor **const all_of_x = (fm_tensor **)&x;
enum { N_X = sizeof x / sizeof(fm_tensor *) };

static void make(test *t) {
    fm_ctx *c = t->ctx;
    const struct {
        fm_tensor **x;
        fm_dtype dtype;
        int ndim;
        int64_t shape[3];
    } list[] = {
        {&x.f35, FM_F32, 2, {3, 5}},       {&x.f53, FM_F32, 2, {5, 3}},
        {&x.f47, FM_F32, 2, {4, 7}},       {&x.f7, FM_F32, 1, {7}},
        {&x.f5, FM_F32, 1, {5}},           {&x.f4, FM_F32, 1, {4}},
        {&x.f234, FM_F32, 3, {2, 3, 4}},   {&x.f547, FM_F32, 3, {5, 4, 7}},
        {&x.b35, FM_BF16, 2, {3, 5}},      {&x.b7, FM_BF16, 1, {7}},
        {&x.b74, FM_BF16, 2, {7, 4}},      {&x.h35, FM_I64, 2, {3, 5}},
        {&x.i3, FM_I32, 1, {3}},           {&x.i35, FM_I32, 2, {3, 5}},
        {&x.f36, FM_F32, 2, {3, 6}},       {&x.i32, FM_I32, 2, {3, 2}},
        {&x.scalar, FM_F32, 0, {0}},       {&x.f1_1_8, FM_F32, 3, {1, 1, 8}},
        {&x.f1_2_8, FM_F32, 3, {1, 2, 8}}, {&x.f2_1_8, FM_F32, 3, {2, 1, 8}},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        EXPECT_OK(t, fm_tensor_zeros(c, list[i].x, list[i].dtype, list[i].ndim, list[i].shape));
}

/* The call must fail, say why, and leave NULL in y. */
#define BAD(call, code, ...)                                                                       \
    do {                                                                                           \
        y = (fm_tensor *)t;                                                                        \
        EXPECT_ERROR(t, call, code, __VA_ARGS__);                                                  \
        EXPECT(t, y == NULL, "the output is not NULL after %s", #call);                            \
    } while (0)
#define CTX                                                                                        \
    fm_ctx *c = t->ctx;                                                                            \
    fm_tensor *y

static void elementwise(test *t) {
    CTX;
    BAD(fm_add(c, &y, NULL, x.f35), FM_ERR_VALUE, "add: a is NULL");
    BAD(fm_add(c, &y, x.f35, NULL), FM_ERR_VALUE, "add: b is NULL");
    BAD(fm_add(c, &y, x.f35, x.f47), FM_ERR_SHAPE, "add: b is [4, 7]", "[3, 5]");
    BAD(fm_add(c, &y, x.f35, x.b35), FM_ERR_DTYPE, "b is [3, 5] bfloat16", "float32");
    BAD(fm_add(c, &y, x.i3, x.i3), FM_ERR_DTYPE, "a is [3] int32", "bfloat16");
    BAD(fm_mul(c, &y, x.f35, x.f53), FM_ERR_SHAPE, "mul: b is [5, 3]", "[3, 5]");
    BAD(fm_mul(c, &y, x.i3, x.i3), FM_ERR_DTYPE, "mul: a is [3] int32");
    BAD(fm_scale(c, &y, x.i3, 2), FM_ERR_DTYPE, "scale: x is [3] int32");
    BAD(fm_cast(c, &y, x.f35, FM_I32), FM_ERR_DTYPE, "cast: x is [3, 5] float32", "int32");
    BAD(fm_cast(c, &y, x.i3, FM_F32), FM_ERR_DTYPE, "cast: x is [3] int32", "float32");
    BAD(fm_cast(c, &y, x.f35, (fm_dtype)17), FM_ERR_DTYPE, "17");
    BAD(fm_add_rows(c, &y, x.f35, x.f7), FM_ERR_SHAPE, "b is [7]", "a is [3, 5]");
    BAD(fm_add_rows(c, &y, x.f5, x.f35), FM_ERR_SHAPE, "a is [5]", "2 to 5");
    BAD(fm_add_rows(c, &y, x.f234, x.f234), FM_ERR_SHAPE, "b is [2, 3, 4]", "1 to 2");
    BAD(fm_add_rows(c, &y, x.b35, x.f5), FM_ERR_DTYPE, "b is [5] float32", "bfloat16");
    BAD(fm_activation(c, &y, x.f35, FM_ACT_SWIGLU), FM_ERR_SHAPE, "[3, 5]", "even for swiglu");
    BAD(fm_activation(c, &y, x.f35, (fm_act)99), FM_ERR_VALUE, "act is number 99", "0 to 7");
    BAD(fm_activation(c, &y, x.scalar, FM_ACT_GEGLU), FM_ERR_SHAPE, "x is []");
    BAD(fm_dropout(c, &y, x.f35, 1, NULL), FM_ERR_VALUE, "p is 1", "[0, 1)");
    BAD(fm_dropout(c, &y, x.f35, -0.5f, NULL), FM_ERR_VALUE, "p is -0.5");
    BAD(fm_dropout(c, &y, x.f35, NAN, NULL), FM_ERR_VALUE, "p is nan");
    BAD(fm_dropout(c, &y, x.f35, 0.5f, NULL), FM_ERR_VALUE, "key is NULL", "0.5");
    BAD(fm_sum(c, &y, x.b35, 1), FM_ERR_DTYPE, "sum: x is [3, 5] bfloat16", "float32");
}

static void shapes(test *t) {
    CTX;
    BAD(fm_reshape(c, &y, x.f35, 2, (int64_t[]){4, 4}), FM_ERR_SHAPE, "[3, 5]", "15", "16");
    BAD(fm_reshape(c, &y, x.f35, 2, (int64_t[]){-1, 4}), FM_ERR_SHAPE, "15", "multiple", "4");
    BAD(fm_reshape(c, &y, x.f35, 2, (int64_t[]){-1, -1}), FM_ERR_SHAPE, "shape[0]", "shape[1]");
    BAD(fm_reshape(c, &y, x.f35, 2, (int64_t[]){-2, 4}), FM_ERR_SHAPE, "shape[0] is -2");
    BAD(fm_reshape(c, &y, x.f35, 6, (int64_t[6]){0}), FM_ERR_SHAPE, "6 dimensions", "5");
    BAD(fm_reshape(c, &y, x.f35, 2, (int64_t[]){INT64_MAX, 4}), FM_ERR_SHAPE, "overflows");
    BAD(fm_reshape(c, &y, NULL, 1, (int64_t[]){-1}), FM_ERR_VALUE, "x is NULL");
    BAD(fm_split(c, &y, x.f35, 2, 0, 1), FM_ERR_RANGE, "axis is 2", "[0, 2)", "[3, 5]");
    BAD(fm_split(c, &y, x.f35, -1, 0, 1), FM_ERR_RANGE, "axis is -1");
    BAD(fm_split(c, &y, x.f35, 1, 2, 6), FM_ERR_RANGE, "start is 2", "stop 6", "5");
    BAD(fm_split(c, &y, x.f35, 1, 3, 2), FM_ERR_RANGE, "start is 3", "stop 2");
    BAD(fm_split(c, &y, x.f35, 0, -1, 2), FM_ERR_RANGE, "start is -1");
    BAD(fm_split(c, &y, x.scalar, 0, 0, 0), FM_ERR_SHAPE, "x is []");
    BAD(fm_cat(c, &y, (fm_tensor *[]){x.f35, x.f47}, 2, 0), FM_ERR_SHAPE, "x[1] is [4, 7]",
        "axis 0", "[3, 5]");
    BAD(fm_cat(c, &y, (fm_tensor *[]){x.f35, x.b35}, 2, 0), FM_ERR_DTYPE, "x[1]", "bfloat16");
    BAD(fm_cat(c, &y, (fm_tensor *[]){x.f35, x.f5}, 2, 0), FM_ERR_SHAPE, "x[1] is [5]", "2");
    BAD(fm_cat(c, &y, (fm_tensor *[]){x.f35, NULL}, 2, 0), FM_ERR_VALUE, "x[1] is NULL");
    BAD(fm_cat(c, &y, (fm_tensor *[]){x.f35}, 1, 2), FM_ERR_RANGE, "axis is 2", "[0, 2)");
    BAD(fm_cat(c, &y, NULL, 0, 0), FM_ERR_VALUE, "0 tensors", "at least one");
}

static void products(test *t) {
    CTX;
    BAD(fm_matmul(c, &y, x.f35, x.f47, false), FM_ERR_SHAPE, "b is [4, 7]", "5", "[3, 5]");
    BAD(fm_matmul(c, &y, x.f35, x.f53, true), FM_ERR_SHAPE, "b is [5, 3]", "last", "5");
    BAD(fm_matmul(c, &y, x.f35, x.f5, false), FM_ERR_SHAPE, "b is [5]", "2 dimensions");
    BAD(fm_matmul(c, &y, x.f5, x.f5, false), FM_ERR_SHAPE, "a is [5]", "2 to 3");
    BAD(fm_matmul(c, &y, x.f234, x.f547, false), FM_ERR_SHAPE, "[5, 4, 7]", "first", "2");
    BAD(fm_matmul(c, &y, x.f35, x.b35, true), FM_ERR_DTYPE, "b is [3, 5] bfloat16", "float32");
    BAD(fm_linear(c, &y, x.f35, x.f47, NULL, FM_ACT_NONE), FM_ERR_SHAPE, "linear: x is [3, 5]",
        "w's second, 7", "[4, 7]");
    BAD(fm_linear(c, &y, x.f7, x.f47, x.f7, FM_ACT_NONE), FM_ERR_SHAPE, "b is [7]", "[4]");
    BAD(fm_linear(c, &y, x.f7, x.f47, x.f47, FM_ACT_NONE), FM_ERR_SHAPE, "b is [4, 7]", "[4]");
    BAD(fm_linear(c, &y, x.f7, x.f5, NULL, FM_ACT_NONE), FM_ERR_SHAPE, "w is [5]", "2 dimensions");
    BAD(fm_linear(c, &y, x.f7, x.f47, x.f4, FM_ACT_GEGLU), FM_ERR_VALUE, "act is geglu", "glu");
    BAD(fm_linear(c, &y, x.f7, x.f47, NULL, (fm_act)50), FM_ERR_VALUE, "act is number 50");
    BAD(fm_linear(c, &y, x.f35, x.b35, NULL, FM_ACT_NONE), FM_ERR_DTYPE, "w is", "float32");
    BAD(fm_linear(c, &y, x.b7, x.f47, x.b7, FM_ACT_NONE), FM_ERR_DTYPE, "b is", "float32");
    BAD(fm_linear(c, &y, x.f35, NULL, NULL, FM_ACT_NONE), FM_ERR_VALUE, "w is NULL");
    BAD(fm_linear(c, &y, x.scalar, x.f47, NULL, FM_ACT_NONE), FM_ERR_SHAPE, "x is []");
}

/* int32 offsets of 5 experts */
static fm_status offsets(test *t, fm_tensor **o, const int32_t *v) {
    return fm_tensor_from_host(t->ctx, o, FM_I32, 1, (int64_t[]){6}, v);
}

static void grouped(test *t) {
    CTX;
    fm_tensor *good, *late, *falls, *far, *b;
    EXPECT_OK(t, offsets(t, &good, (int32_t[]){0, 1, 1, 2, 3, 4}));
    EXPECT_OK(t, offsets(t, &late, (int32_t[]){1, 1, 1, 2, 3, 4}));
    EXPECT_OK(t, offsets(t, &falls, (int32_t[]){0, 1, 3, 2, 3, 4}));
    EXPECT_OK(t, offsets(t, &far, (int32_t[]){0, 1, 1, 2, 3, 5}));
    EXPECT_OK(t, fm_tensor_zeros(c, &b, FM_F32, 2, (int64_t[]){5, 7}));
    fm_tensor *w = x.f547;
    BAD(fm_grouped_linear(c, &y, x.f35, w, NULL, good, FM_ACT_NONE), FM_ERR_SHAPE, "x is [3, 5]",
        "w's third, 7");
    BAD(fm_grouped_linear(c, &y, x.f47, x.f47, NULL, good, FM_ACT_NONE), FM_ERR_SHAPE,
        "w is [4, 7]", "3 dimensions");
    BAD(fm_grouped_linear(c, &y, x.f47, w, b, good, FM_ACT_NONE), FM_ERR_SHAPE, "b is [5, 7]",
        "[5, 4]");
    BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, x.i3, FM_ACT_NONE), FM_ERR_SHAPE, "offsets is [3]",
        "[6]");
    BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, x.f4, FM_ACT_NONE), FM_ERR_DTYPE,
        "offsets is [4] float32", "int32");
    BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, NULL, FM_ACT_NONE), FM_ERR_VALUE,
        "offsets is NULL");
    BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, good, FM_ACT_SWIGLU), FM_ERR_VALUE, "swiglu");
    if (c->dev->on_host) {
        BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, late, FM_ACT_NONE), FM_ERR_VALUE,
            "offsets[0] is 1", "0");
        BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, falls, FM_ACT_NONE), FM_ERR_VALUE,
            "offsets[2] is 3", "offsets[3] is 2");
        BAD(fm_grouped_linear(c, &y, x.f47, w, NULL, far, FM_ACT_NONE), FM_ERR_RANGE,
            "offsets[5] is 5", "[0, 5)");
    }
    fm_tensor *made[] = {good, late, falls, far, b};
    for (int i = 0; i < 5; i++) fm_tensor_free(made[i]);
}

static void norms(test *t) {
    CTX;
    BAD(fm_layer_norm(c, &y, x.f35, x.f7, NULL, 1e-5f), FM_ERR_SHAPE, "w is [7]", "[5]", "[3, 5]");
    BAD(fm_layer_norm(c, &y, x.f35, x.f5, x.f4, 1e-5f), FM_ERR_SHAPE, "b is [4]", "[5]");
    BAD(fm_layer_norm(c, &y, x.f35, x.f5, x.f5, 1e-5f), FM_ERR_VALUE, "same tensor");
    BAD(fm_layer_norm(c, &y, x.b35, x.f5, NULL, 1e-5f), FM_ERR_DTYPE, "w is [5] float32",
        "bfloat16");
    BAD(fm_layer_norm(c, &y, x.i35, x.f5, NULL, 1e-5f), FM_ERR_DTYPE, "x is [3, 5] int32");
    BAD(fm_layer_norm(c, &y, x.f35, x.f5, NULL, -1), FM_ERR_VALUE, "eps is -1", "at least 0");
    BAD(fm_rms_norm(c, &y, x.f35, x.f5, NAN), FM_ERR_VALUE, "rms_norm: eps is nan");
    BAD(fm_rms_norm(c, &y, x.f35, x.f47, 0), FM_ERR_SHAPE, "w is [4, 7]", "[5]");
    BAD(fm_rms_norm(c, &y, x.f5, x.f5, 0), FM_ERR_VALUE, "same tensor");
    BAD(fm_rms_norm(c, &y, x.f35, NULL, 0), FM_ERR_VALUE, "w is NULL");
    BAD(fm_softmax(c, &y, x.i3), FM_ERR_DTYPE, "softmax: x is [3] int32");
    BAD(fm_softmax(c, &y, x.scalar), FM_ERR_SHAPE, "x is []");
}

static void attention(test *t) {
    CTX;
    fm_tensor *q = x.f1_2_8, *k = x.f1_1_8;
    BAD(fm_attention_qkv(c, &y, x.f35, 1, 1, true, 0), FM_ERR_SHAPE, "qkv is [3, 5]", "3 dim");
    BAD(fm_attention_qkv(c, &y, x.f234, 0, 1, true, 0), FM_ERR_VALUE, "n_head is 0", "at least 1");
    BAD(fm_attention_qkv(c, &y, x.f234, 3, 2, true, 0), FM_ERR_VALUE, "n_kv_head is 2", "3");
    BAD(fm_attention_qkv(c, &y, x.f234, 3, 0, true, 0), FM_ERR_VALUE, "n_kv_head is 0");
    BAD(fm_attention_qkv(c, &y, x.f234, 1, 1, true, 0), FM_ERR_SHAPE, "[2, 3, 4]", "the 3 heads");
    BAD(fm_attention_qkv(c, &y, x.f234, 2, 1, true, NAN), FM_ERR_VALUE, "scale is nan");
    BAD(fm_attention(c, &y, q, k, k, 2, 2, true, 0), FM_ERR_SHAPE, "q is [1, 2, 8]", "[1, 1, 8]");
    BAD(fm_attention(c, &y, q, x.f2_1_8, x.f2_1_8, 2, 2, false, 0), FM_ERR_SHAPE, "k is [2, 1, 8]",
        "[1, Skv, 8]");
    BAD(fm_attention(c, &y, q, q, k, 2, 2, true, 0), FM_ERR_SHAPE, "v is [1, 1, 8]", "[1, 2, 8]");
    BAD(fm_attention(c, &y, q, q, q, 2, 1, true, 0), FM_ERR_SHAPE, "k is [1, 2, 8]", "[1, Skv, 4]");
    BAD(fm_attention(c, &y, q, q, q, 3, 3, true, 0), FM_ERR_SHAPE, "q is [1, 2, 8]", "n_head, 3");
    BAD(fm_attention(c, &y, q, NULL, q, 2, 2, true, 0), FM_ERR_VALUE, "k is NULL");
    BAD(fm_rope(c, &y, x.f35, 1, 2, 1e4f, 0), FM_ERR_SHAPE, "x is [3, 5]", "3 dimensions");
    BAD(fm_rope(c, &y, x.f234, 1, 3, 1e4f, 0), FM_ERR_VALUE, "dh is 3", "even");
    BAD(fm_rope(c, &y, x.f234, 3, 2, 1e4f, 0), FM_ERR_VALUE, "heads is 3", "[0, 2]");
    BAD(fm_rope(c, &y, x.f234, 1, 2, 0, 0), FM_ERR_VALUE, "theta is 0");
    BAD(fm_rope(c, &y, x.f234, 1, 2, 1e4f, -1), FM_ERR_VALUE, "pos0 is -1");
}

static void losses(test *t) {
    CTX;
    fm_tensor *bad, *l;
    EXPECT_OK(t, fm_tensor_from_host(c, &bad, FM_I32, 1, (int64_t[]){3}, (int32_t[]){0, 2, 5}));
    BAD(fm_embedding(c, &y, x.f35, x.f4), FM_ERR_DTYPE, "ids is [4] float32", "int32");
    BAD(fm_embedding(c, &y, x.f5, x.i3), FM_ERR_SHAPE, "table is [5]", "2 dimensions");
    BAD(fm_embedding(c, &y, x.i35, x.i3), FM_ERR_DTYPE, "table is [3, 5] int32");
    BAD(fm_cross_entropy(c, &y, NULL, x.f47, x.i3, 0), FM_ERR_SHAPE, "target is [3]", "4 rows");
    BAD(fm_cross_entropy(c, &y, NULL, x.f35, x.f5, 0), FM_ERR_DTYPE, "target is [5] float32");
    BAD(fm_cross_entropy(c, &y, NULL, x.f35, x.i3, -2), FM_ERR_VALUE, "denominator is -2");
    BAD(fm_cross_entropy(c, &y, NULL, x.f35, x.i3, (double)NAN), FM_ERR_VALUE, "nan");
    BAD(fm_cross_entropy(c, &y, NULL, x.i35, x.i3, 0), FM_ERR_DTYPE, "logits is [3, 5] int32");
    /* counted targets are looked at wherever they are */
    BAD(fm_cross_entropy(c, &y, NULL, x.f35, bad, 0), FM_ERR_RANGE, "target[2] is 5", "[-1, 5)");
    l = (fm_tensor *)t;
    BAD(fm_cross_entropy(c, &y, &l, x.f35, bad, 0), FM_ERR_RANGE, "target[2] is 5");
    EXPECT(t, l == NULL, "losses is not NULL");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f35, x.f47, NULL, x.i3, 0), FM_ERR_SHAPE,
        "x is [3, 5]", "w's second, 7");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f35, x.f5, NULL, x.i3, 0), FM_ERR_SHAPE, "w is [5]");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f35, x.b35, NULL, x.i3, 0), FM_ERR_DTYPE, "w is");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f47, x.f47, NULL, x.i3, 0), FM_ERR_VALUE,
        "same tensor");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f7, x.f47, x.f7, x.i3, 0), FM_ERR_SHAPE, "b is [7]",
        "[4]");
    BAD(fm_linear_cross_entropy(c, &y, NULL, x.f7, x.f47, x.f4, x.i3, 0), FM_ERR_SHAPE,
        "target is [3]", "1 rows");
    if (c->dev->on_host) {
        BAD(fm_embedding(c, &y, x.f35, bad), FM_ERR_RANGE, "ids[2] is 5", "[0, 3)");
        BAD(fm_cross_entropy(c, &y, NULL, x.f35, bad, 7), FM_ERR_RANGE, "target[2] is 5");
    }
    fm_tensor_free(bad);
}

static void routing(test *t) {
    CTX;
    fm_tensor *i, *minus, *five;
    fm_moe_map map = {0}, empty = {0};
    EXPECT_OK(t,
              fm_tensor_from_host(c, &minus, FM_I32, 2, (int64_t[]){3, 1}, (int32_t[]){0, -2, 1}));
    EXPECT_OK(t, fm_tensor_from_host(c, &five, FM_I32, 2, (int64_t[]){3, 1}, (int32_t[]){0, 5, 1}));
    i = (fm_tensor *)t;
    BAD(fm_top_k(c, &y, &i, x.f35, 6), FM_ERR_VALUE, "k is 6", "[1, 5]");
    EXPECT(t, i == NULL, "indices is not NULL");
    BAD(fm_top_k(c, &y, &i, x.f35, 0), FM_ERR_VALUE, "k is 0");
    BAD(fm_top_k(c, &y, &i, x.b35, 1), FM_ERR_DTYPE, "x is [3, 5] bfloat16", "float32");
    BAD(fm_gather_cols(c, &y, x.f35, x.f35), FM_ERR_DTYPE, "idx is", "int32");
    BAD(fm_gather_cols(c, &y, x.f47, x.i32), FM_ERR_SHAPE, "idx is [3, 2]", "[4, 7]");
    BAD(fm_gather_cols(c, &y, x.f35, x.i3), FM_ERR_SHAPE, "idx is [3]", "2 dimensions");
    EXPECT_ERROR(t, fm_moe_map_new(c, &map, x.i32, 0), FM_ERR_VALUE, "E is 0", "at least 1");
    EXPECT_ERROR(t, fm_moe_map_new(c, &map, x.i3, 4), FM_ERR_SHAPE, "indices is [3]", "2 dim");
    EXPECT_ERROR(t, fm_moe_map_new(c, &map, x.f35, 4), FM_ERR_DTYPE, "indices is", "int32");
    if (c->dev->on_host) {
        BAD(fm_gather_cols(c, &y, x.f35, five), FM_ERR_RANGE, "idx[1] is 5", "[-1, 5)");
        BAD(fm_gather_cols(c, &y, x.f35, minus), FM_ERR_RANGE, "idx[1] is -2");
        EXPECT_ERROR(t, fm_moe_map_new(c, &map, five, 4), FM_ERR_RANGE, "indices[1] is 5",
                     "[-1, 4)");
    }
    EXPECT(t, !map.slot && !map.counts, "the map is not empty after an error");
    fm_moe_map_free(&map);                           /* safe */
    EXPECT_OK(t, fm_moe_map_new(c, &map, x.i32, 4)); /* 3 tokens, k = 2 */
    BAD(fm_moe_permute(c, &y, x.f47, &map), FM_ERR_SHAPE, "x is [4, 7]", "tokens, 3");
    BAD(fm_moe_permute(c, &y, x.f5, &map), FM_ERR_SHAPE, "x is [5]", "2 dimensions");
    BAD(fm_moe_permute(c, &y, x.i35, &map), FM_ERR_DTYPE, "x is [3, 5] int32");
    BAD(fm_moe_permute(c, &y, x.f35, NULL), FM_ERR_VALUE, "map is NULL");
    BAD(fm_moe_permute(c, &y, x.f35, &empty), FM_ERR_VALUE, "map is empty");
    BAD(fm_moe_unpermute(c, &y, x.f35, NULL, &map), FM_ERR_SHAPE, "z is [3, 5]", "choices, 6");
    fm_tensor *z;
    EXPECT_OK(t, fm_tensor_zeros(c, &z, FM_F32, 2, (int64_t[]){6, 5}));
    BAD(fm_moe_unpermute(c, &y, z, x.f35, &map), FM_ERR_SHAPE, "scores is [3, 5]", "[3, 2]");
    BAD(fm_moe_unpermute(c, &y, z, x.b35, &map), FM_ERR_DTYPE, "scores is", "float32");
    BAD(fm_balance_loss(c, &y, x.f35, x.f7, 1), FM_ERR_SHAPE, "f is [7]", "[5]");
    BAD(fm_balance_loss(c, &y, x.b35, x.f5, 1), FM_ERR_DTYPE, "probs is", "float32");
    BAD(fm_balance_loss(c, &y, x.f35, x.b7, 1), FM_ERR_DTYPE, "f is", "float32");
    BAD(fm_z_loss(c, &y, x.b35, 1), FM_ERR_DTYPE, "logits is", "float32");
    fm_tensor_free(z);
    fm_moe_map_free(&map);
    fm_tensor_free(minus);
    fm_tensor_free(five);
}

static void other_context(test *t) {
    CTX;
    fm_ctx *other;
    fm_error err = {0};
    EXPECT(t, test_open(t, t->isa, &err, &other) == FM_OK, "%s", err.message);
    fm_tensor *foreign;
    EXPECT(t, FM_NEW(other, &foreign, FM_F32, 3, 5) == FM_OK, "%s", other->error.message);
    BAD(fm_add(c, &y, x.f35, foreign), FM_ERR_VALUE, "b is a tensor of another context");
    fm_tensor_free(foreign);
    fm_ctx_free(other);
}

static const test_case cases[] = {
    {"elementwise", elementwise}, {"shapes", shapes},   {"products", products},
    {"grouped", grouped},         {"norms", norms},     {"attention", attention},
    {"losses", losses},           {"routing", routing}, {"other_context", other_context}};

static void all(test *t) {
    make(t);
    test_run(t, cases, sizeof cases / sizeof *cases);
    for (int i = 0; i < N_X; i++) fm_tensor_free(all_of_x[i]), all_of_x[i] = NULL;
}

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
