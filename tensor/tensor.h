/* Tensors: reference-counted, always contiguous and row-major, on the context's device.
 *
 * Views (reshape, slices of the first dimension) share storage and cost nothing.
 * A tensor belongs to one context and, like it, to one thread at a time.
 */
#ifndef FM_TENSOR_TENSOR_H
#define FM_TENSOR_TENSOR_H
#include "tensor/dtype.h"
#include "tensor/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FM_MAX_DIMS = 5 };

typedef struct fm_ctx fm_ctx;
typedef struct fm_node fm_node;
typedef struct fm_storage fm_storage;

typedef struct fm_tensor {
    fm_ctx *ctx;
    int refs; /* atomic: Python objects are made while another thread computes */
    fm_dtype dtype;
    int ndim;
    int64_t shape[FM_MAX_DIMS];
    void *data;          /* device memory: first element */
    fm_storage *storage; /* what holds it; shared by views */
    /* The tape's fields; see tape.h. */
    bool requires_grad;
    bool grad_is_set; /* leaf: grad holds a sum; else the next gradient overwrites it */
    struct fm_tensor
        *grad;     /* leaf: fp32 (float dtypes), same shape; NULL until the first backward */
    fm_node *node; /* what computed it; NULL for a leaf */
    int node_output;
    int pending; /* leaf: contributions to its gradient that the running backward has still to make */
    void *tag;   /* leaf: whose it is, for who made it (a parameter's record); views have none */
} fm_tensor;

/* New tensors start with one reference, owned by the caller. Contents are undefined. */
fm_status fm_tensor_new(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                        const int64_t *shape);
/* Shape inline: FM_NEW(ctx, &y, FM_F32, T, d) */
#define FM_NEW(ctx, out, dtype, ...)                                                               \
    fm_tensor_new(ctx, out, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),      \
                  (int64_t[]){__VA_ARGS__})
fm_status fm_tensor_zeros(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                          const int64_t *shape);
/* Copies `n` elements of host memory in; n must be the product of shape. */
fm_status fm_tensor_from_host(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                              const int64_t *shape, const void *host);
/* Wraps memory that somebody else owns and keeps alive (flat parameter buffers, NumPy arrays):
 * `release(owner)` is called when the last view goes; may be NULL. */
fm_status fm_tensor_wrap(fm_ctx *ctx, fm_tensor **out, fm_dtype dtype, int ndim,
                         const int64_t *shape, void *data, void (*release)(void *), void *owner);

fm_tensor *fm_tensor_retain(fm_tensor *t); /* returns t */
void fm_tensor_free(fm_tensor *t);         /* drops one reference; NULL is legal */

/* Nobody else can see a change of its data: the only reference to the only view of its storage. */
bool fm_tensor_exclusive(const fm_tensor *t);

/* Views; not on the tape (the differentiable ones are fm_reshape and fm_split in ops.h).
 * fm_tensor_view: same number of elements, another shape. fm_tensor_rows: [start, stop) of the
 * first dimension. */
fm_status fm_tensor_view(fm_ctx *ctx, fm_tensor **out, fm_tensor *t, int ndim,
                         const int64_t *shape);
fm_status fm_tensor_rows(fm_ctx *ctx, fm_tensor **out, fm_tensor *t, int64_t start, int64_t stop);

/* t's shape and place on the tape without its data (data is NULL): what a node keeps of an input
 * whose values its backward does not read. */
fm_status fm_tensor_shadow(fm_ctx *ctx, fm_tensor **out, const fm_tensor *t);

/* A tensor of the same data that the tape does not see. */
fm_status fm_tensor_detach(fm_ctx *ctx, fm_tensor **out, fm_tensor *t);

int64_t fm_numel(const fm_tensor *t);
size_t fm_nbytes(const fm_tensor *t);
bool fm_same_shape(const fm_tensor *a, const fm_tensor *b);
int64_t fm_rows_of(const fm_tensor *t); /* product of all dimensions but the last */
int64_t fm_cols_of(const fm_tensor *t); /* the last dimension (1 for a scalar) */
/* "[2, 3] float32", for messages; returns buf. */
const char *fm_tensor_describe(const fm_tensor *t, char *buf, size_t n);

/* Blocking copies between the tensor and host memory of the same dtype. */
fm_status fm_tensor_to_host(fm_ctx *ctx, const fm_tensor *t, void *host, size_t bytes);
fm_status fm_tensor_set(fm_ctx *ctx, fm_tensor *t, const void *host, size_t bytes);
fm_status fm_tensor_zero(fm_ctx *ctx, fm_tensor *t);
/* The value of a one-element float tensor; waits for the device. */
fm_status fm_tensor_item(fm_ctx *ctx, const fm_tensor *t, double *out);

#endif
