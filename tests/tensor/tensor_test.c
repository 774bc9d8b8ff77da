/* Tensors: references, views, copies, wrapped memory, descriptions. */
#include "tests/tensor/runner.h"

#include <string.h>

static int64_t in_use(const test *t) { return (int64_t)fm_alloc_get_stats(t->ctx->alloc).in_use; }

static void references(test *t) {
    fm_tensor *x;
    int64_t base = in_use(t);
    EXPECT_OK(t, FM_NEW(t->ctx, &x, FM_F32, 3, 5));
    EXPECT(t, x->refs == 1 && x->ndim == 2 && !x->requires_grad && !x->grad && !x->node, "fresh");
    EXPECT(t, fm_numel(x) == 15 && fm_nbytes(x) == 60, "%d elements", (int)fm_numel(x));
    EXPECT(t, fm_rows_of(x) == 3 && fm_cols_of(x) == 5, "rows and columns");
    EXPECT(t, fm_tensor_retain(x) == x && x->refs == 2, "%d references", x->refs);
    fm_tensor_free(x);
    EXPECT(t, in_use(t) > base, "freed although referred to");
    fm_tensor_free(x);
    fm_tensor_free(NULL);
    EXPECT(t, in_use(t) == base, "%d bytes leak", (int)(in_use(t) - base));
}

static void views(test *t) {
    float host[12];
    for (int i = 0; i < 12; i++) host[i] = (float)i;
    fm_tensor *x, *rows, *flat, *same;
    int64_t base = in_use(t);
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_F32, 2, (int64_t[]){4, 3}, host));
    EXPECT(t, fm_tensor_exclusive(x), "alone, but not exclusive");
    EXPECT_OK(t, fm_tensor_rows(t->ctx, &rows, x, 1, 3));
    EXPECT_OK(t, fm_tensor_view(t->ctx, &flat, x, 1, (int64_t[]){12}));
    EXPECT_OK(t, fm_tensor_detach(t->ctx, &same, x));
    EXPECT(t, !fm_tensor_exclusive(x), "shared, but exclusive");
    EXPECT(t, rows->data == (char *)x->data + 12 && flat->data == x->data, "no views");
    EXPECT(t, fm_same_shape(x, same) && !fm_same_shape(x, rows), "shapes");
    fm_tensor_free(x); /* the views keep the memory */
    float got[6];
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, rows, got, sizeof got));
    EXPECT(t, memcmp(got, host + 3, sizeof got) == 0, "rows 1 and 2 are [%g, ...]", (double)got[0]);
    EXPECT_ERROR(t, fm_tensor_rows(t->ctx, &x, rows, 1, 3), FM_ERR_RANGE, "[1, 3)", "[2, 3]");
    EXPECT(t, x == NULL, "not NULL after an error");
    EXPECT_ERROR(t, fm_tensor_view(t->ctx, &x, flat, 1, (int64_t[]){11}), FM_ERR_SHAPE, "[12]",
                 "11");
    fm_tensor_free(rows);
    fm_tensor_free(flat);
    EXPECT(t, in_use(t) > base, "the last view lost its memory");
    fm_tensor_free(same);
    EXPECT(t, in_use(t) == base, "%d bytes leak", (int)(in_use(t) - base));
}

static void scalars_and_empty(test *t) {
    fm_tensor *s, *e;
    double value;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &s, FM_F32, 0, NULL, &(float){2.5f}));
    EXPECT(t, fm_numel(s) == 1 && fm_rows_of(s) == 1 && fm_cols_of(s) == 1, "a scalar is 1 x 1");
    EXPECT_OK(t, fm_tensor_item(t->ctx, s, &value));
    EXPECT(t, value == 2.5, "%g", value);
    fm_tensor_free(s);
    fm_bf16 half = fm_f32_to_bf16(0.5f);
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &s, FM_BF16, 1, (int64_t[]){1}, &half));
    EXPECT_OK(t, fm_tensor_item(t->ctx, s, &value));
    EXPECT(t, value == 0.5, "%g", value);
    fm_tensor_free(s);
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &e, FM_F32, 2, (int64_t[]){0, 4}));
    EXPECT(t, fm_numel(e) == 0 && fm_rows_of(e) == 0 && e->data, "an empty tensor");
    EXPECT_ERROR(t, fm_tensor_item(t->ctx, e, &value), FM_ERR_SHAPE, "[0, 4]");
    fm_tensor_free(e);
}

static void copies(test *t) {
    int32_t host[3] = {1, -2, 3}, got[3];
    fm_tensor *x;
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_I32, 1, (int64_t[]){3}));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, x, got, sizeof got));
    EXPECT(t, got[0] == 0 && got[1] == 0 && got[2] == 0, "not zero");
    EXPECT_OK(t, fm_tensor_set(t->ctx, x, host, sizeof host));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, x, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof got) == 0, "not what was set");
    EXPECT_ERROR(t, fm_tensor_set(t->ctx, x, host, 8), FM_ERR_SHAPE, "12 bytes", "8");
    EXPECT_ERROR(t, fm_tensor_to_host(t->ctx, x, got, 16), FM_ERR_SHAPE, "12 bytes", "16");
    EXPECT_OK(t, fm_tensor_zero(t->ctx, x));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, x, got, sizeof got));
    EXPECT(t, got[1] == 0, "not zeroed");
    fm_tensor_free(x);
}

static void count(void *owner) { ++*(int *)owner; }

static void wrapped(test *t) {
    int released = 0;
    fm_tensor *memory, *x, *view;
    EXPECT_OK(t, FM_NEW(t->ctx, &memory, FM_F32, 8));
    EXPECT_OK(
        t, fm_tensor_wrap(t->ctx, &x, FM_F32, 1, (int64_t[]){8}, memory->data, count, &released));
    EXPECT_OK(t, fm_tensor_rows(t->ctx, &view, x, 2, 4));
    fm_tensor_free(x);
    EXPECT(t, released == 0, "released while a view lives");
    fm_tensor_free(view);
    EXPECT(t, released == 1, "released %d times", released);
    fm_tensor_free(memory);
}

static void bad_shapes(test *t) {
    fm_tensor *x;
    int64_t six[6] = {1, 1, 1, 1, 1, 1};
    EXPECT_ERROR(t, fm_tensor_new(t->ctx, &x, FM_F32, 6, six), FM_ERR_SHAPE, "6 dimensions", "5");
    EXPECT(t, x == NULL, "not NULL after an error");
    EXPECT_ERROR(t, FM_NEW(t->ctx, &x, FM_F32, 3, -1), FM_ERR_SHAPE, "dimension 1 is -1");
    EXPECT_ERROR(t, FM_NEW(t->ctx, &x, FM_F32, INT64_MAX, 2), FM_ERR_SHAPE, "overflows");
    EXPECT_ERROR(t, FM_NEW(t->ctx, &x, (fm_dtype)9, 2), FM_ERR_DTYPE, "9");
}

static void describe(test *t) {
    char text[64];
    fm_tensor x = {.dtype = FM_BF16, .ndim = 3, .shape = {2, 3, 4}};
    EXPECT(t, strcmp(fm_tensor_describe(&x, text, sizeof text), "[2, 3, 4] bfloat16") == 0, "%s",
           text);
    x.ndim = 0;
    EXPECT(t, strcmp(fm_tensor_describe(&x, text, sizeof text), "[] bfloat16") == 0, "%s", text);
    char small[6];
    x.ndim = 3;
    EXPECT(t, strlen(fm_tensor_describe(&x, small, sizeof small)) < sizeof small, "overrun");
}

/* Constructors with the n-th allocation failing. */
static void staircase(test *t) {
    float host[4] = {1, 2, 3, 4};
    for (int n = 0; n < 2; n++) {
        fm_tensor *x = NULL, *y = NULL;
        int64_t base = in_use(t), tensors = t->ctx->live_tensors;
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status a = fm_tensor_from_host(t->ctx, &x, FM_F32, 1, (int64_t[]){4}, host);
        fm_status b = a == FM_OK ? fm_tensor_zeros(t->ctx, &y, FM_F32, 1, (int64_t[]){4}) : FM_OK;
        fm_alloc_fail_at(t->ctx->alloc, -1);
        fm_error_clear(&t->ctx->error);
        EXPECT(t, (n == 0 ? a : b) == FM_ERR_OOM, "allocation %d did not fail", n);
        EXPECT(t, n == 0 ? !x : !y, "something was returned");
        fm_tensor_free(x);
        fm_tensor_free(y);
        EXPECT(t, in_use(t) == base && t->ctx->live_tensors == tensors, "leak");
    }
}

/* Two contexts in one process do not know of each other. */
static void two_contexts(test *t) {
    fm_ctx *other;
    fm_error err = {0};
    EXPECT(t, test_open(t, t->isa, &err, &other) == FM_OK, "%s", err.message);
    fm_tensor *x, *y;
    EXPECT_OK(t, FM_NEW(t->ctx, &x, FM_F32, 4));
    int64_t base = in_use(t);
    EXPECT(t, FM_NEW(other, &y, FM_F32, 1000) == FM_OK, "%s", other->error.message);
    EXPECT(t, in_use(t) == base && other->live_tensors == 1, "memory is shared");
    EXPECT(t, fm_tensor_set(other, y, &base, 3) == FM_ERR_SHAPE, "no error");
    EXPECT(t, t->ctx->error.status == FM_OK && other->error.status == FM_ERR_SHAPE, "errors mix");
    fm_tensor_free(y);
    fm_tensor_free(x);
    fm_ctx_free(other);
}

static void devices(test *t) {
    fm_ctx *ctx = (fm_ctx *)t;
    fm_error err = {0};
    EXPECT(t, fm_ctx_new("tpu", &err, NULL, 0, &ctx) == FM_ERR_VALUE && !ctx, "taken");
    EXPECT(t, strstr(err.message, "tpu") && strstr(err.message, "cuda"), "%s", err.message);
    char why[256];
    fm_error_clear(&err);
    EXPECT(t, fm_ctx_new("auto", &err, why, sizeof why, &ctx) == FM_OK, "%s", err.message);
    EXPECT(t, ctx->dev->on_host ? strlen(why) > 0 : strlen(why) == 0, "on %s the reason is '%s'",
           ctx->dev->name, why);
    fm_ctx_free(ctx);
    fm_ctx_free(NULL);
}

static const test_case cases[] = {
    {"references", references}, {"views", views},         {"scalars_and_empty", scalars_and_empty},
    {"copies", copies},         {"wrapped", wrapped},     {"bad_shapes", bad_shapes},
    {"describe", describe},     {"staircase", staircase}, {"two_contexts", two_contexts},
    {"devices", devices}};

static void all(test *t) { test_run(t, cases, sizeof cases / sizeof *cases); }

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
