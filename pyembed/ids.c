/* Integers that are numbers of something: tokens, targets, experts, rows. */
#include "pyembed/ops.h"

#include <stdlib.h>

bool fm_tokens_read(PyObject *o, const char *what, int64_t low, int64_t vocab, bool one_dim,
                    fm_values *v) {
    if (!fm_values_read(o, what, v)) return false;
    if (!fm_values_convert(v, FM_I32, what)) goto fail;
    if (v->ndim == 1 && one_dim) {
        v->shape[1] = v->shape[0];
        v->shape[0] = 1;
        v->ndim = 2;
    }
    if (v->ndim != 2 || v->n == 0) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions and %lld elements: [B, S] is wanted",
                     what, v->ndim, (long long)v->n);
        goto fail;
    }
    for (int64_t i = 0; i < v->n; i++) {
        int32_t x = ((int32_t *)v->data)[i];
        if (x >= low && x < vocab) continue;
        PyErr_Format(PyExc_ValueError, "%s[%lld, %lld]=%d is not allowed: %lld to %lld is", what,
                     (long long)(i / v->shape[1]), (long long)(i % v->shape[1]), (int)x,
                     (long long)low, (long long)vocab - 1);
        goto fail;
    }
    return true;
fail:
    fm_values_free(v);
    return false;
}

static fm_status narrow(fm_ctx *ctx, const int64_t *wide, const fm_tensor *t, const char *what,
                        int32_t *ids, fm_tensor **out) {
    for (int64_t i = 0; i < fm_numel(t); i++) {
        FM_CHECK(wide[i] == (int32_t)wide[i], FM_ERR_RANGE,
                 "%s: element %lld is %lld: integers of 32 bits are allowed", what, (long long)i,
                 (long long)wide[i]);
        ids[i] = (int32_t)wide[i];
    }
    return fm_tensor_from_host(ctx, out, FM_I32, t->ndim, t->shape, ids);
}

fm_status fm_as_int32(fm_ctx *ctx, fm_tensor *t, const char *what, fm_tensor **out) {
    if (t->dtype != FM_I64) {
        *out = fm_tensor_retain(t);
        return FM_OK;
    }
    size_t n = (size_t)fm_numel(t);
    int64_t *wide = malloc(n * sizeof *wide + 1);
    int32_t *ids = malloc(n * sizeof *ids + 1);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(wide && ids, FM_ERR_OOM, "%s: out of memory: %zu integers", what, n);
    FM_TRY_GOTO(fm_tensor_to_host(ctx, t, wide, n * sizeof *wide));
    FM_TRY_GOTO(narrow(ctx, wide, t, what, ids, out));
out:
    free(wide);
    free(ids);
    return status;
}
