#include "parallel/tape_collectives.h"

#include "tensor/tape.h"

#include <stdlib.h>
#include <string.h>

/* Elements of one row: of all dimensions but the first. */
static int64_t row_width(const fm_tensor *x) {
    int64_t n = 1;
    for (int i = 1; i < x->ndim; i++) n *= x->shape[i];
    return n;
}

static fm_status record(fm_ctx *ctx, const char *name, fm_backward_fn backward, fm_tensor *x,
                        fm_tensor *y, const void *attrs, size_t size) {
    if (!fm_dtype_is_float(x->dtype)) return FM_OK;
    fm_record r = {.name = name,
                   .backward = backward,
                   .inputs = {x},
                   .n_inputs = 1,
                   .outputs = {y},
                   .n_outputs = 1,
                   .attrs = attrs,
                   .attrs_size = size};
    return fm_tape_record(ctx, &r);
}

static fm_status sum_over_ranks(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, const fm_tensor *x) {
    FM_TRY(fm_tensor_new(ctx, y, x->dtype, x->ndim, x->shape));
    fm_status s = FM_KERNEL(ctx, copy, (*y)->data, x->data, fm_nbytes(x));
    if (s == FM_OK) s = fm_all_reduce_now(comm, ctx, x->dtype, (*y)->data, fm_numel(x), FM_SUM);
    if (s != FM_OK) {
        fm_tensor_free(*y);
        *y = NULL;
    }
    return s;
}

static fm_status all_reduce_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *sum;
    if (!node->dout[0]) return FM_OK;
    FM_TRY(sum_over_ranks(ctx, *(fm_comm **)node->attrs, &sum, node->dout[0]));
    fm_status s = fm_grad_pass(ctx, node->inputs[0], sum);
    fm_tensor_free(sum);
    return s;
}

fm_status fm_all_reduce(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x) {
    FM_TRY(sum_over_ranks(ctx, comm, y, x));
    fm_status s = record(ctx, "all_reduce", all_reduce_backward, x, *y, &comm, sizeof comm);
    if (s == FM_OK) return FM_OK;
    fm_tensor_free(*y);
    *y = NULL;
    return s;
}

/* Attribute: 1 / tp. */
static fm_status rank_mean_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0];
    fm_grad dx;
    if (!dy) return FM_OK;
    FM_TRY(fm_grad_begin(ctx, x, FM_F32, &dx));
    if (dx.data)
        FM_TRY(FM_KERNEL(ctx, scale, FM_F32, dx.data, FM_F32, dy->data, *(const float *)node->attrs,
                         fm_numel(x), dx.accumulate));
    return fm_grad_end(ctx, &dx);
}

fm_status fm_rank_mean(fm_ctx *ctx, const fm_mesh *m, fm_tensor **y, fm_tensor *x) {
    fm_comm *stage = m->stage_comm;
    fm_tensor *sum = NULL, *made = NULL;
    fm_status status = FM_OK;
    float part = 1.0f / (float)m->config.tp;
    *y = NULL;
    if (stage->size == 1) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    FM_TRY_GOTO(sum_over_ranks(ctx, stage, &sum, x));
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, FM_F32, x->ndim, x->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, FM_F32, made->data, FM_F32, sum->data,
                          1.0f / (float)stage->size, fm_numel(x), false));
    FM_TRY_GOTO(record(ctx, "rank_mean", rank_mean_backward, x, made, &part, sizeof part));
    *y = fm_tensor_retain(made);
out:
    fm_tensor_free(sum);
    fm_tensor_free(made);
    return status;
}

static fm_status all_gather_backward(fm_ctx *ctx, fm_node *node) {
    fm_comm *comm = *(fm_comm **)node->attrs;
    fm_tensor *x = node->inputs[0], *dy = node->dout[0], *dx;
    if (!dy) return FM_OK;
    FM_TRY(fm_tensor_new(ctx, &dx, dy->dtype, x->ndim, x->shape));
    fm_status s = fm_reduce_scatter_now(comm, ctx, dy->dtype, dx->data, dy->data, fm_numel(x));
    if (s == FM_OK) s = fm_grad_pass(ctx, x, dx);
    fm_tensor_free(dx);
    return s;
}

fm_status fm_all_gather(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x) {
    *y = NULL;
    FM_CHECK(x->ndim >= 1, FM_ERR_SHAPE, "all_gather: x has no dimension to gather along");
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] *= comm->size;
    FM_TRY(fm_tensor_new(ctx, y, x->dtype, x->ndim, shape));
    fm_status s = fm_all_gather_now(comm, ctx, x->dtype, (*y)->data, x->data, fm_numel(x));
    if (s == FM_OK) s = record(ctx, "all_gather", all_gather_backward, x, *y, &comm, sizeof comm);
    if (s == FM_OK) return FM_OK;
    fm_tensor_free(*y);
    *y = NULL;
    return s;
}

/* Followed by send[size] and received[size], in rows. */
typedef struct exchange {
    fm_comm *comm;
    int64_t rows[];
} exchange;

/* Rows -> element counts and displacements: to[0..size) and to[size..2 size). */
static void lay_out(const int64_t *rows, int size, int64_t width, int64_t *to) {
    int64_t at = 0;
    for (int i = 0; i < size; i++) {
        to[i] = rows[i] * width;
        to[size + i] = at;
        at += to[i];
    }
}

static fm_status send_rows(fm_ctx *ctx, fm_comm *comm, fm_tensor *y, const int64_t *received,
                           const fm_tensor *x, const int64_t *send) {
    int n = comm->size;
    int64_t *plan = malloc((size_t)n * 4 * sizeof *plan);
    FM_CHECK(plan, FM_ERR_OOM, "out of memory: an all_to_all of %d ranks", n);
    lay_out(received, n, row_width(x), plan);
    lay_out(send, n, row_width(x), plan + 2 * n);
    fm_collective what = {.kind = FM_ALL_TO_ALL_V,
                          .dt = x->dtype,
                          .y = y->data,
                          .x = x->data,
                          .recv_counts = plan,
                          .recv_displs = plan + n,
                          .send_counts = plan + 2 * n,
                          .send_displs = plan + 3 * n};
    fm_status s = fm_comm_run(comm, ctx, &what);
    free(plan);
    return s;
}

static fm_status all_to_all_backward(fm_ctx *ctx, fm_node *node) {
    const exchange *e = node->attrs;
    fm_tensor *x = node->inputs[0], *dy = node->dout[0], *dx;
    if (!dy) return FM_OK;
    FM_TRY(fm_tensor_new(ctx, &dx, dy->dtype, x->ndim, x->shape));
    fm_status s = send_rows(ctx, e->comm, dx, e->rows, dy, e->rows + e->comm->size);
    if (s == FM_OK) s = fm_grad_pass(ctx, x, dx);
    fm_tensor_free(dx);
    return s;
}

/* Each rank tells each other one how many rows come: an all_to_all of one number per pair. */
static fm_status exchange_counts(fm_ctx *ctx, fm_comm *comm, const int64_t *send,
                                 int64_t *received) {
    fm_tensor *out = NULL, *in = NULL;
    int64_t n = comm->size, *ones = malloc((size_t)n * sizeof *ones);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(ones, FM_ERR_OOM, "out of memory: an all_to_all of %lld ranks", (long long)n);
    for (int64_t i = 0; i < n; i++) ones[i] = 1;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &out, FM_I64, 1, &n, send));
    FM_TRY_GOTO(fm_tensor_new(ctx, &in, FM_I64, 1, &n));
    FM_TRY_GOTO(send_rows(ctx, comm, in, ones, out, ones));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, in, received, (size_t)n * sizeof *received));
out:
    fm_tensor_free(out);
    fm_tensor_free(in);
    free(ones);
    return status;
}

fm_status fm_all_to_all(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x, int count,
                        const int64_t *send, int64_t *received) {
    *y = NULL;
    int64_t sum = 0, rows = 0, shape[FM_MAX_DIMS];
    for (int i = 0; i < count; i++) sum += send[i];
    FM_CHECK(x->ndim >= 1 && count == comm->size && sum == x->shape[0], FM_ERR_VALUE,
             "all_to_all: counts are %d numbers of the sum %lld: one for each of %d ranks, and the "
             "sum %lld are wanted",
             count, (long long)sum, comm->size, x->ndim ? (long long)x->shape[0] : 0LL);
    FM_TRY(exchange_counts(ctx, comm, send, received));
    size_t bytes = (size_t)count * sizeof *send, size = sizeof(exchange) + 2 * bytes;
    exchange *e = malloc(size);
    FM_CHECK(e, FM_ERR_OOM, "out of memory: an all_to_all of %d ranks", count);
    e->comm = comm;
    memcpy(e->rows, send, bytes);
    memcpy(e->rows + count, received, bytes);
    for (int i = 0; i < count; i++) rows += received[i];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = rows;
    fm_status s = fm_tensor_new(ctx, y, x->dtype, x->ndim, shape);
    if (s == FM_OK) s = send_rows(ctx, comm, *y, received, x, send);
    if (s == FM_OK) s = record(ctx, "all_to_all", all_to_all_backward, x, *y, e, size);
    free(e);
    if (s != FM_OK) {
        fm_tensor_free(*y);
        *y = NULL;
    }
    return s;
}
