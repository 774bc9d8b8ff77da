/* Argument checks of the operations; see check.h. */
#include "tensor/ops/check.h"

fm_status fm_check_tensor(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t) {
    FM_CHECK(t, FM_ERR_VALUE, "%s: %s is NULL; it must be a tensor", op, name);
    FM_CHECK(t->ctx == ctx, FM_ERR_VALUE,
             "%s: %s is a tensor of another context (device %s); it must be of "
             "this one (%s)",
             op, name, t->ctx->dev->name, ctx->dev->name);
    return FM_OK;
}

fm_status fm_check_float(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t) {
    FM_TRY(fm_check_tensor(ctx, op, name, t));
    FM_CHECK(fm_dtype_is_float(t->dtype), FM_ERR_DTYPE,
             "%s: %s is %s; it must be float32 or bfloat16", op, name, FM_TEXT(t));
    return FM_OK;
}

fm_status fm_check_dtype(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                         fm_dtype dtype) {
    FM_TRY(fm_check_tensor(ctx, op, name, t));
    FM_CHECK(t->dtype == dtype, FM_ERR_DTYPE, "%s: %s is %s; it must be %s", op, name, FM_TEXT(t),
             fm_dtype_name(dtype));
    return FM_OK;
}

fm_status fm_check_same_dtype(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                              const char *other_name, const fm_tensor *other) {
    FM_TRY(fm_check_tensor(ctx, op, name, t));
    FM_CHECK(t->dtype == other->dtype, FM_ERR_DTYPE, "%s: %s is %s; it must be %s like %s (%s)", op,
             name, FM_TEXT(t), fm_dtype_name(other->dtype), other_name, FM_TEXT(other));
    return FM_OK;
}

fm_status fm_check_same_shape(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                              const char *other_name, const fm_tensor *other) {
    FM_TRY(fm_check_tensor(ctx, op, name, t));
    FM_CHECK(fm_same_shape(t, other), FM_ERR_SHAPE, "%s: %s is %s; its shape must be %s's (%s)", op,
             name, FM_TEXT(t), other_name, FM_TEXT(other));
    return FM_OK;
}

fm_status fm_check_ndim(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t, int min,
                        int max) {
    FM_TRY(fm_check_tensor(ctx, op, name, t));
    if (min == max) {
        FM_CHECK(t->ndim == min, FM_ERR_SHAPE, "%s: %s is %s; it must have %d dimension%s", op,
                 name, FM_TEXT(t), min, min == 1 ? "" : "s");
    }
    FM_CHECK(t->ndim >= min && t->ndim <= max, FM_ERR_SHAPE,
             "%s: %s is %s; it must have %d to %d dimensions", op, name, FM_TEXT(t), min, max);
    return FM_OK;
}

fm_status fm_check_vector(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                          int64_t n, const char *other_name, const fm_tensor *other) {
    FM_TRY(fm_check_same_dtype(ctx, op, name, t, other_name, other));
    FM_CHECK(t->ndim == 1 && t->shape[0] == n, FM_ERR_SHAPE,
             "%s: %s is %s; its shape must be [%" PRId64 "] (%s is %s)", op, name, FM_TEXT(t), n,
             other_name, FM_TEXT(other));
    return FM_OK;
}

fm_status fm_check_index(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                         int64_t low, int64_t n) {
    FM_TRY(fm_check_dtype(ctx, op, name, t, FM_I32));
    if (!ctx->dev->on_host) return FM_OK;
    const int32_t *v = t->data;
    int64_t count = fm_numel(t);
    for (int64_t i = 0; i < count; i++) {
        FM_CHECK(v[i] >= low && v[i] < n, FM_ERR_RANGE,
                 "%s: %s[%" PRId64 "] is %d; it must be in [%" PRId64 ", %" PRId64 ")", op, name, i,
                 v[i], low, n);
    }
    return FM_OK;
}

fm_status fm_op_end(fm_status status, fm_tensor **y, fm_tensor *made) {
    if (status == FM_OK) {
        *y = made;
    } else {
        fm_tensor_free(made);
        *y = NULL;
    }
    return status;
}

fm_dtype fm_grad_dtype(const fm_tensor *x) { return x->node ? x->dtype : FM_F32; }

fm_status fm_fill_from(fm_ctx *ctx, float *dx, const float *dy, float factor, int64_t n,
                       bool accumulate) {
    fm_tensor *value = NULL;
    fm_status status;
    FM_TRY(FM_NEW(ctx, &value, FM_F32, 1));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, FM_F32, value->data, FM_F32, dy, factor, 1, false));
    if (!accumulate) FM_TRY_GOTO(FM_KERNEL(ctx, zero, dx, (size_t)n * sizeof *dx));
    FM_TRY_GOTO(FM_KERNEL(ctx, add_rows, FM_F32, dx, dx, value->data, n, 1, 1));
out:
    fm_tensor_free(value);
    return status;
}
