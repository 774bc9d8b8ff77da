/* Communicators: groups of ranks and the collectives among them.
 *
 * A communicator is a struct of function pointers over one transport. `self`, the
 * group of one rank, is complete and always there: every collective on it is a copy.
 * Counts are in elements of `dt`, never bytes. Buffers are device memory of ctx.
 */
#ifndef FM_PARALLEL_COMM_H
#define FM_PARALLEL_COMM_H
#include "tensor/ctx.h"

typedef enum fm_reduce { FM_SUM, FM_MAX } fm_reduce;

typedef struct fm_comm fm_comm;
struct fm_comm {
    const char *transport; /* "self", later "mpi", "nccl" */
    int rank, size;
    void *impl;
    /* in place */
    fm_status (*all_reduce)(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n, fm_reduce op);
    /* y [size*n], x [n] */
    fm_status (*all_gather)(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y, const void *x,
                            int64_t n);
    /* y [n] = this rank's part of the sum of x [size*n] */
    fm_status (*reduce_scatter)(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y, const void *x,
                                int64_t n);
    /* counts and displacements per peer, host memory, in elements */
    fm_status (*all_to_all_v)(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y,
                              const int64_t *recv_counts, const int64_t *recv_displs, const void *x,
                              const int64_t *send_counts, const int64_t *send_displs);
    fm_status (*broadcast)(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n, int root);
    fm_status (*barrier)(fm_comm *c, fm_ctx *ctx);
    void (*free)(fm_comm *c);
};

/* The group of this rank alone. */
fm_status fm_comm_self(fm_ctx *ctx, fm_comm **out);
void fm_comm_free(fm_comm *c); /* NULL is legal */

#endif
