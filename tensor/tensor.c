#include "tensor/tensor.h"

#include "tensor/ctx.h"
#include "tensor/tape.h"

#include <stdio.h>
#include <stdlib.h>

struct fm_storage {
    int refs;
    void *block;             /* from the context's allocator; NULL when wrapped */
    void (*release)(void *); /* wrapped memory's owner is told */
    void *owner;
};

int64_t fm_numel(const fm_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

size_t fm_nbytes(const fm_tensor *t) { return (size_t)fm_numel(t) * fm_dtype_size(t->dtype); }

bool fm_same_shape(const fm_tensor *a, const fm_tensor *b) {
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

int64_t fm_cols_of(const fm_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }

int64_t fm_rows_of(const fm_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t->ndim; i++) n *= t->shape[i];
    return n;
}

const char *fm_tensor_describe(const fm_tensor *t, char *buf, size_t n) {
    if (!t) {
        snprintf(buf, n, "none");
        return buf;
    }
    size_t at = 0;
    at += (size_t)snprintf(buf, n, "[");
    for (int i = 0; i < t->ndim && at < n; i++)
        at += (size_t)snprintf(buf + at, n - at, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (at < n) snprintf(buf + at, n - at, "] %s", fm_dtype_name(t->dtype));
    return buf;
}

/* Checks a shape and gives its bytes; the product must not overflow. */
static fm_status shape_bytes(fm_ctx *ctx, fm_dtype dtype, int ndim, const int64_t *shape,
                             size_t *bytes) {
    FM_CHECK(ndim >= 0 && ndim <= FM_MAX_DIMS, FM_ERR_SHAPE,
             "tensor: %d dimensions; allowed are 0 to %d", ndim, FM_MAX_DIMS);
    FM_CHECK(fm_dtype_size(dtype) > 0, FM_ERR_DTYPE, "tensor: dtype number %d does not exist",
             (int)dtype);
    size_t n = fm_dtype_size(dtype);
    for (int i = 0; i < ndim; i++) {
        FM_CHECK(shape[i] >= 0, FM_ERR_SHAPE,
                 "tensor: dimension %d is %lld; it must not be negative", i, (long long)shape[i]);
        FM_CHECK(!__builtin_mul_overflow(n, (size_t)shape[i], &n), FM_ERR_SHAPE,
                 "tensor: the product of the dimensions overflows");
    }
    *bytes = n;
    return FM_OK;
}

/* A tensor over a storage, whose reference it takes over, even when it fails. */
static fm_status make(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim, const int64_t *shape,
                      fm_storage *storage, void *data) {
    fm_tensor *t = calloc(1, sizeof *t);
    if (!t) return fm_fail(&ctx->error, FM_ERR_OOM, "out of memory: a tensor's record");
    t->ctx = ctx;
    t->refs = 1;
    t->dtype = dtype;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++) t->shape[i] = shape[i];
    t->storage = storage;
    t->data = data;
    ctx->live_tensors++;
    *out = t;
    return FM_OK;
}

static void storage_free(fm_ctx *ctx, fm_storage *s) {
    if (!s || --s->refs > 0) return;
    fm_dealloc(ctx->alloc, s->block);
    if (s->release) s->release(s->owner);
    free(s);
}

static fm_storage *storage_new(void) {
    fm_storage *s = calloc(1, sizeof *s);
    if (s) s->refs = 1;
    return s;
}

fm_status fm_tensor_new(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                        const int64_t *shape) {
    *out = NULL;
    size_t bytes;
    FM_TRY(shape_bytes(ctx, dtype, ndim, shape, &bytes));
    fm_storage *s = storage_new();
    FM_CHECK(s, FM_ERR_OOM, "out of memory: a tensor's record");
    fm_status status = fm_alloc(ctx->alloc, bytes, &s->block);
    if (status == FM_OK) status = make(ctx, out, dtype, ndim, shape, s, s->block);
    if (status != FM_OK) storage_free(ctx, s);
    return status;
}

fm_status fm_tensor_zeros(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                          const int64_t *shape) {
    FM_TRY(fm_tensor_new(ctx, out, dtype, ndim, shape));
    fm_status status = fm_tensor_zero(ctx, *out);
    if (status != FM_OK) {
        fm_tensor_free(*out);
        *out = NULL;
    }
    return status;
}

fm_status fm_tensor_from_host(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                              const int64_t *shape, const void *host) {
    FM_TRY(fm_tensor_new(ctx, out, dtype, ndim, shape));
    fm_status status = fm_tensor_set(ctx, *out, host, fm_nbytes(*out));
    if (status != FM_OK) {
        fm_tensor_free(*out);
        *out = NULL;
    }
    return status;
}

fm_status fm_tensor_wrap(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                         const int64_t *shape, void *data, void (*release)(void *), void *owner) {
    *out = NULL;
    size_t bytes;
    FM_TRY(shape_bytes(ctx, dtype, ndim, shape, &bytes));
    fm_storage *s = storage_new();
    FM_CHECK(s, FM_ERR_OOM, "out of memory: a tensor's record");
    fm_status status = make(ctx, out, dtype, ndim, shape, s, data);
    if (status != FM_OK) {
        storage_free(ctx, s); /* before the owner is known: the caller keeps what it has */
        return status;
    }
    s->release = release;
    s->owner = owner;
    return FM_OK;
}

fm_tensor *fm_tensor_retain(fm_tensor *t) {
    if (t) __atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
    return t;
}

void fm_tensor_free(fm_tensor *t) {
    if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    fm_ctx *ctx = t->ctx;
    fm_tensor_free(t->grad);
    fm_node_free(t->node);
    storage_free(ctx, t->storage);
    ctx->live_tensors--;
    free(t);
}

bool fm_tensor_exclusive(const fm_tensor *t) {
    return __atomic_load_n(&t->refs, __ATOMIC_RELAXED) == 1 && t->storage->refs == 1;
}

fm_status fm_tensor_view(fm_ctx *ctx, fm_tensor **out, fm_tensor *t, int ndim,
                         const int64_t *shape) {
    *out = NULL;
    size_t bytes;
    FM_TRY(shape_bytes(ctx, t->dtype, ndim, shape, &bytes));
    char buf[96];
    FM_CHECK(bytes == fm_nbytes(t), FM_ERR_SHAPE,
             "view: %s has %lld elements, the new shape %zu; they must be equal",
             fm_tensor_describe(t, buf, sizeof buf), (long long)fm_numel(t),
             bytes / fm_dtype_size(t->dtype));
    FM_TRY(make(ctx, out, t->dtype, ndim, shape, t->storage, t->data));
    t->storage->refs++;
    return FM_OK;
}

fm_status fm_tensor_shadow(fm_ctx *ctx, fm_tensor **out, const fm_tensor *t) {
    *out = NULL;
    FM_TRY(make(ctx, out, t->dtype, t->ndim, t->shape, NULL, NULL));
    (*out)->requires_grad = t->requires_grad;
    (*out)->node = t->node;
    (*out)->node_output = t->node_output;
    if (t->node) t->node->refs++;
    return FM_OK;
}

fm_status fm_tensor_rows(fm_ctx *ctx, fm_tensor **out, fm_tensor *t, int64_t start, int64_t stop) {
    *out = NULL;
    char buf[96];
    FM_CHECK(t->ndim >= 1, FM_ERR_SHAPE, "rows: a scalar has no rows");
    FM_CHECK(start >= 0 && start <= stop && stop <= t->shape[0], FM_ERR_RANGE,
             "rows: [%lld, %lld) is not inside the first dimension of %s", (long long)start,
             (long long)stop, fm_tensor_describe(t, buf, sizeof buf));
    int64_t shape[FM_MAX_DIMS], row = 1;
    for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
    for (int i = 1; i < t->ndim; i++) row *= t->shape[i];
    shape[0] = stop - start;
    char *data = (char *)t->data + (size_t)(start * row) * fm_dtype_size(t->dtype);
    FM_TRY(make(ctx, out, t->dtype, t->ndim, shape, t->storage, data));
    t->storage->refs++;
    return FM_OK;
}

fm_status fm_tensor_detach(fm_ctx *ctx, fm_tensor **out, fm_tensor *t) {
    return fm_tensor_view(ctx, out, t, t->ndim, t->shape);
}

fm_status fm_tensor_to_host(fm_ctx *ctx, const fm_tensor *t, void *host, size_t bytes) {
    char buf[96];
    FM_CHECK(bytes == fm_nbytes(t), FM_ERR_SHAPE, "copy: %s has %zu bytes, the host buffer %zu",
             fm_tensor_describe(t, buf, sizeof buf), fm_nbytes(t), bytes);
    return bytes ? FM_KERNEL(ctx, copy_out, host, t->data, bytes) : FM_OK;
}

fm_status fm_tensor_set(fm_ctx *ctx, fm_tensor *t, const void *host, size_t bytes) {
    char buf[96];
    FM_CHECK(bytes == fm_nbytes(t), FM_ERR_SHAPE, "copy: %s has %zu bytes, the host buffer %zu",
             fm_tensor_describe(t, buf, sizeof buf), fm_nbytes(t), bytes);
    return bytes ? FM_KERNEL(ctx, copy_in, t->data, host, bytes) : FM_OK;
}

fm_status fm_tensor_zero(fm_ctx *ctx, fm_tensor *t) {
    return FM_KERNEL(ctx, zero, t->data, fm_nbytes(t));
}

fm_status fm_tensor_item(fm_ctx *ctx, const fm_tensor *t, double *out) {
    char buf[96];
    FM_CHECK(fm_numel(t) == 1 && fm_dtype_is_float(t->dtype), FM_ERR_SHAPE,
             "item: %s is not one float", fm_tensor_describe(t, buf, sizeof buf));
    float f;
    fm_bf16 h;
    if (t->dtype == FM_F32) {
        FM_TRY(fm_tensor_to_host(ctx, t, &f, sizeof f));
    } else {
        FM_TRY(fm_tensor_to_host(ctx, t, &h, sizeof h));
        f = fm_bf16_to_f32(h);
    }
    *out = (double)f;
    return FM_OK;
}
