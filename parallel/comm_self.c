#include "parallel/comm.h"

#include <stdlib.h>

/* The group of one rank: sums and gathers are copies, and in place nothing at all. */

static fm_status self_all_reduce(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n,
                                 fm_reduce op) {
    (void)c, (void)ctx, (void)dt, (void)x, (void)n, (void)op;
    return FM_OK;
}

static fm_status self_copy(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y, const void *x,
                           int64_t n) {
    (void)c;
    if (y == x || n == 0) return FM_OK;
    return FM_KERNEL(ctx, copy, y, x, (size_t)n * fm_dtype_size(dt));
}

static fm_status self_all_to_all_v(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y,
                                   const int64_t *recv_counts, const int64_t *recv_displs,
                                   const void *x, const int64_t *send_counts,
                                   const int64_t *send_displs) {
    FM_CHECK(recv_counts[0] == send_counts[0], FM_ERR_COMM,
             "all_to_all_v: rank 0 sends itself %lld elements and expects %lld",
             (long long)send_counts[0], (long long)recv_counts[0]);
    size_t size = fm_dtype_size(dt);
    return self_copy(c, ctx, dt, (char *)y + (size_t)recv_displs[0] * size,
                     (const char *)x + (size_t)send_displs[0] * size, send_counts[0]);
}

static fm_status self_broadcast(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n,
                                int root) {
    (void)c, (void)dt, (void)x, (void)n;
    FM_CHECK(root == 0, FM_ERR_VALUE, "broadcast: root is %d; the group has one rank, 0", root);
    return FM_OK;
}

static fm_status self_barrier(fm_comm *c, fm_ctx *ctx) {
    (void)c, (void)ctx;
    return FM_OK;
}

static void self_free(fm_comm *c) { free(c); }

fm_status fm_comm_self(fm_ctx *ctx, fm_comm **out) {
    *out = malloc(sizeof **out);
    FM_CHECK(*out, FM_ERR_OOM, "out of memory: a communicator");
    **out = (fm_comm){
        .transport = "self",
        .rank = 0,
        .size = 1,
        .all_reduce = self_all_reduce,
        .all_gather = self_copy,
        .reduce_scatter = self_copy,
        .all_to_all_v = self_all_to_all_v,
        .broadcast = self_broadcast,
        .barrier = self_barrier,
        .free = self_free,
    };
    return FM_OK;
}

void fm_comm_free(fm_comm *c) {
    if (c) c->free(c);
}
