/* Tensors between guard words. */
#ifndef FM_TESTS_TENSOR_GUARDED_H
#define FM_TESTS_TENSOR_GUARDED_H
#include "tensor/ctx.h"

typedef struct guarded {
    fm_tensor *t;     /* owned */
    fm_tensor *whole; /* the memory, guards and all; owned */
    size_t bytes;
} guarded;

/* values NULL: the contents are NaN patterns */
fm_status guarded_new(fm_ctx *ctx, guarded *g, fm_dtype dtype, int ndim, const int64_t *shape,
                      const double *values);
/* Are the guards whole? */
fm_status guarded_check(fm_ctx *ctx, const guarded *g, bool *whole);
void guarded_free(guarded *g);

/* Between host doubles and a tensor. */
void pack_values(fm_dtype dtype, void *to, const double *from, int64_t n);
fm_status values_of(fm_ctx *ctx, const fm_tensor *t, double *to);

#endif
