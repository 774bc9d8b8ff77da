/* Reshape, cat and split: data moves or is seen otherwise, nothing is computed. */
#include "tensor/ops/check.h"

#include <stdio.h>
#include <string.h>

/* Along `axis` a contiguous tensor is `outer` rows of shape[axis] * inner elements. */
typedef struct rows {
    int64_t outer, inner;
} rows;

static rows rows_along(const fm_tensor *t, int axis) {
    rows r = {1, 1};
    for (int i = 0; i < axis; i++) r.outer *= t->shape[i];
    for (int i = axis + 1; i < t->ndim; i++) r.inner *= t->shape[i];
    return r;
}

/* ---- reshape */

static fm_status reshape_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0], *dx = NULL;
    if (!dy) return FM_OK;
    FM_TRY(fm_tensor_view(ctx, &dx, dy, x->ndim, x->shape));
    fm_status status = fm_grad_pass(ctx, x, dx);
    fm_tensor_free(dx);
    return status;
}

fm_status fm_reshape(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int ndim, const int64_t *shape) {
    *y = NULL;
    FM_TRY(fm_check_tensor(ctx, "reshape", "x", x));
    FM_CHECK(ndim >= 0 && ndim <= FM_MAX_DIMS, FM_ERR_SHAPE,
             "reshape: shape has %d dimensions; at most %d are possible", ndim, FM_MAX_DIMS);
    int64_t full[FM_MAX_DIMS] = {0}, known = 1;
    int open = -1;
    for (int i = 0; i < ndim; i++) {
        full[i] = shape[i];
        if (shape[i] == -1) {
            FM_CHECK(open < 0, FM_ERR_SHAPE,
                     "reshape: shape[%d] and shape[%d] are -1; at most one may be", open, i);
            open = i;
        } else {
            FM_CHECK(shape[i] >= 0, FM_ERR_SHAPE,
                     "reshape: shape[%d] is %" PRId64 "; it must be -1 or at least 0", i, shape[i]);
            FM_CHECK(!__builtin_mul_overflow(known, shape[i], &known), FM_ERR_SHAPE,
                     "reshape: shape[%d] is %" PRId64 "; the number of elements overflows", i,
                     shape[i]);
        }
    }
    int64_t n = fm_numel(x);
    if (open >= 0) {
        FM_CHECK(known > 0 && n % known == 0, FM_ERR_SHAPE,
                 "reshape: x is %s with %" PRId64 " elements; they must be a multiple of the "
                 "%" PRId64 " that shape names besides its -1",
                 FM_TEXT(x), n, known);
        full[open] = n / known;
    } else {
        FM_CHECK(known == n, FM_ERR_SHAPE,
                 "reshape: x is %s with %" PRId64 " elements; shape has %" PRId64, FM_TEXT(x), n,
                 known);
    }
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_view(ctx, &made, x, ndim, full));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "reshape",
                                                 .grads_only = true,
                                                 .backward = reshape_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    return fm_op_end(status, y, made);
}

/* ---- split */

typedef struct split_attrs {
    int axis;
    int64_t start, stop;
} split_attrs;

/* x[.., start:stop, ..], off the tape: a view where the part is contiguous, else a copy. */
static fm_status take(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, const split_attrs *s) {
    if (s->axis == 0) return fm_tensor_rows(ctx, y, x, s->start, s->stop);
    rows r = rows_along(x, s->axis);
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[s->axis] = s->stop - s->start;
    FM_TRY(fm_tensor_new(ctx, y, x->dtype, x->ndim, shape));
    size_t unit = (size_t)r.inner * fm_dtype_size(x->dtype);
    size_t width = (size_t)shape[s->axis] * unit;
    fm_status status = FM_KERNEL(ctx, copy_2d, (*y)->data, width,
                                 (const char *)x->data + (size_t)s->start * unit,
                                 (size_t)x->shape[s->axis] * unit, width, r.outer);
    return fm_op_end(status, y, *y);
}

/* dx[.., start:stop, ..] += dy. Only the part is read and written: the heads of a packed projection
 * come back one after the other. */
static fm_status add_part(fm_ctx *ctx, char *dx, const fm_tensor *x, const fm_tensor *dy,
                          const split_attrs *s) {
    rows r = rows_along(x, s->axis);
    size_t unit = (size_t)r.inner * fm_dtype_size(x->dtype);
    size_t width = (size_t)(s->stop - s->start) * unit;
    size_t stride = (size_t)x->shape[s->axis] * unit;
    char *part = dx + (size_t)s->start * unit;
    if (r.outer == 1) {
        return FM_KERNEL(ctx, add, x->dtype, part, part, dy->data, fm_numel(dy));
    }
    fm_tensor *sum = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &sum, dy->dtype, dy->ndim, dy->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, copy_2d, sum->data, width, part, stride, width, r.outer));
    FM_TRY_GOTO(FM_KERNEL(ctx, add, x->dtype, sum->data, sum->data, dy->data, fm_numel(dy)));
    FM_TRY_GOTO(FM_KERNEL(ctx, copy_2d, part, stride, sum->data, width, width, r.outer));
out:
    fm_tensor_free(sum);
    return status;
}

static fm_status split_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    const split_attrs *s = node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (dx.data && dx.accumulate) {
        FM_TRY(add_part(ctx, dx.data, x, dy, s));
    } else if (dx.data) {
        rows r = rows_along(x, s->axis);
        size_t unit = (size_t)r.inner * fm_dtype_size(x->dtype);
        size_t width = (size_t)(s->stop - s->start) * unit;
        FM_TRY(FM_KERNEL(ctx, zero, dx.data, fm_nbytes(x)));
        FM_TRY(FM_KERNEL(ctx, copy_2d, (char *)dx.data + (size_t)s->start * unit,
                         (size_t)x->shape[s->axis] * unit, dy->data, width, width, r.outer));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_split(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, int axis, int64_t start,
                   int64_t stop) {
    *y = NULL;
    FM_TRY(fm_check_ndim(ctx, "split", "x", x, 1, FM_MAX_DIMS));
    FM_CHECK(axis >= 0 && axis < x->ndim, FM_ERR_RANGE,
             "split: axis is %d; it must be in [0, %d) (x is %s)", axis, x->ndim, FM_TEXT(x));
    FM_CHECK(0 <= start && start <= stop && stop <= x->shape[axis], FM_ERR_RANGE,
             "split: start is %" PRId64 " and stop %" PRId64 "; they must be 0 <= start <= stop <= "
             "%" PRId64 " (x is %s, axis %d)",
             start, stop, x->shape[axis], FM_TEXT(x), axis);
    split_attrs attrs = {axis, start, stop};
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(take(ctx, &made, x, &attrs));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "split",
                                                 .grads_only = true,
                                                 .backward = split_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &attrs,
                                                 .attrs_size = sizeof attrs}));
out:
    return fm_op_end(status, y, made);
}

/* ---- cat */

static fm_status cat_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *dy = node->dout[0];
    if (!dy) return FM_OK;
    split_attrs part = {*(const int *)node->attrs, 0, 0};
    for (int i = 0; i < node->n_inputs; i++, part.start = part.stop) {
        fm_tensor *x = node->inputs[i], *dx = NULL;
        part.stop = part.start + x->shape[part.axis];
        if (!x->requires_grad) continue;
        FM_TRY(take(ctx, &dx, dy, &part));
        fm_status status = fm_grad_pass(ctx, x, dx);
        fm_tensor_free(dx);
        FM_TRY(status);
    }
    return FM_OK;
}

/* Up to FM_NODE_MAX_INPUTS tensors that fit together. */
static fm_status cat_few(fm_ctx *ctx, fm_tensor **y, fm_tensor **x, int n, int axis) {
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x[0]->shape, sizeof shape);
    for (int i = 1; i < n; i++) shape[axis] += x[i]->shape[axis];
    fm_record record = {.name = "cat",
                        .grads_only = true,
                        .backward = cat_backward,
                        .n_inputs = n,
                        .n_outputs = 1,
                        .attrs = &axis,
                        .attrs_size = sizeof axis};
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x[0]->dtype, x[0]->ndim, shape));
    rows r = rows_along(made, axis);
    size_t unit = (size_t)r.inner * fm_dtype_size(made->dtype);
    char *to = made->data;
    for (int i = 0; i < n; i++) {
        size_t width = (size_t)x[i]->shape[axis] * unit;
        FM_TRY_GOTO(FM_KERNEL(ctx, copy_2d, to, (size_t)shape[axis] * unit, x[i]->data, width,
                              width, r.outer));
        to += width;
        record.inputs[i] = x[i];
    }
    record.outputs[0] = made;
    FM_TRY_GOTO(fm_tape_record(ctx, &record));
out:
    return fm_op_end(status, y, made);
}

/* More of them than a node has inputs: groups first, and then the groups. */
static fm_status cat_many(fm_ctx *ctx, fm_tensor **y, fm_tensor **x, int n, int axis) {
    if (n <= FM_NODE_MAX_INPUTS) return cat_few(ctx, y, x, n, axis);
    fm_tensor *groups[FM_NODE_MAX_INPUTS] = {0};
    int size = (n + FM_NODE_MAX_INPUTS - 1) / FM_NODE_MAX_INPUTS, n_groups = 0;
    fm_status status;
    for (int at = 0; at < n; at += size, n_groups++) {
        FM_TRY_GOTO(cat_many(ctx, &groups[n_groups], x + at, n - at < size ? n - at : size, axis));
    }
    FM_TRY_GOTO(cat_few(ctx, y, groups, n_groups, axis));
out:
    for (int i = 0; i < FM_NODE_MAX_INPUTS; i++) fm_tensor_free(groups[i]);
    return status;
}

fm_status fm_cat(fm_ctx *ctx, fm_tensor **y, fm_tensor **x, int n, int axis) {
    *y = NULL;
    FM_CHECK(x && n > 0, FM_ERR_VALUE, "cat: there are %d tensors; there must be at least one",
             x ? n : 0);
    for (int i = 0; i < n; i++) {
        char name[24];
        snprintf(name, sizeof name, "x[%d]", i);
        FM_TRY(fm_check_ndim(ctx, "cat", name, x[i], i == 0 ? 1 : x[0]->ndim,
                             i == 0 ? FM_MAX_DIMS : x[0]->ndim));
        FM_TRY(fm_check_same_dtype(ctx, "cat", name, x[i], "x[0]", x[0]));
        FM_CHECK(axis >= 0 && axis < x[0]->ndim, FM_ERR_RANGE,
                 "cat: axis is %d; it must be in [0, %d) (x[0] is %s)", axis, x[0]->ndim,
                 FM_TEXT(x[0]));
        for (int a = 0; a < x[0]->ndim; a++) {
            FM_CHECK(a == axis || x[i]->shape[a] == x[0]->shape[a], FM_ERR_SHAPE,
                     "cat: %s is %s; but for axis %d its shape must be x[0]'s (%s)", name,
                     FM_TEXT(x[i]), axis, FM_TEXT(x[0]));
        }
    }
    return cat_many(ctx, y, x, n, axis);
}
