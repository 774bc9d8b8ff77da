#include "tests/tensor/guarded.h"

#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, PATTERN = 0xa5 };

void pack_values(fm_dtype dtype, void *to, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (dtype == FM_F32) ((float *)to)[i] = (float)from[i];
        if (dtype == FM_BF16) ((fm_bf16 *)to)[i] = fm_f32_to_bf16((float)from[i]);
        if (dtype == FM_I32) ((int32_t *)to)[i] = (int32_t)from[i];
        if (dtype == FM_I64) ((int64_t *)to)[i] = (int64_t)from[i];
    }
}

fm_status values_of(fm_ctx *ctx, const fm_tensor *t, double *to) {
    size_t bytes = fm_nbytes(t);
    char *host = malloc(bytes + 1);
    FM_CHECK(host, FM_ERR_OOM, "no host memory for %zu bytes", bytes);
    fm_status status = fm_tensor_to_host(ctx, t, host, bytes);
    for (int64_t i = 0; status == FM_OK && i < fm_numel(t); i++) {
        if (t->dtype == FM_F32) to[i] = (double)((float *)host)[i];
        if (t->dtype == FM_BF16) to[i] = (double)fm_bf16_to_f32(((fm_bf16 *)host)[i]);
        if (t->dtype == FM_I32) to[i] = (double)((int32_t *)host)[i];
        if (t->dtype == FM_I64) to[i] = (double)((int64_t *)host)[i];
    }
    free(host);
    return status;
}

fm_status guarded_new(fm_ctx *ctx, guarded *g, fm_dtype dtype, int ndim, const int64_t *shape,
                      const double *values) {
    *g = (guarded){0};
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    g->bytes = (size_t)n * fm_dtype_size(dtype);
    size_t all = GUARD + (g->bytes + 3) / 4 * 4 + GUARD;
    unsigned char *host = malloc(all);
    FM_CHECK(host, FM_ERR_OOM, "no host memory for %zu bytes", all);
    memset(host, PATTERN, all);
    memset(host + GUARD, 0xff, g->bytes);
    if (values) pack_values(dtype, host + GUARD, values, n);
    fm_status status = fm_tensor_from_host(ctx, &g->whole, FM_I32, 1,
                                           (int64_t[]){(int64_t)(all / 4)}, host);
    free(host);
    if (status == FM_OK) {
        status = fm_tensor_wrap(ctx, &g->t, dtype, ndim, shape, (char *)g->whole->data + GUARD,
                                NULL, NULL);
    }
    if (status != FM_OK) guarded_free(g);
    return status;
}

fm_status guarded_check(fm_ctx *ctx, const guarded *g, bool *whole) {
    size_t all = fm_nbytes(g->whole);
    unsigned char *host = malloc(all);
    FM_CHECK(host, FM_ERR_OOM, "no host memory for %zu bytes", all);
    fm_status status = fm_tensor_to_host(ctx, g->whole, host, all);
    *whole = true;
    for (size_t i = 0; status == FM_OK && i < all; i++)
        if (i < GUARD || i >= GUARD + g->bytes) *whole &= host[i] == PATTERN;
    free(host);
    return status;
}

void guarded_free(guarded *g) {
    fm_tensor_free(g->t);
    fm_tensor_free(g->whole);
    *g = (guarded){0};
}
