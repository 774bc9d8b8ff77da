/* Communicators: groups of ranks and the collectives among them.
 *
 * A communicator is one group over one transport: `self` (the group of one, always there), `mpi`, and
 * `throttled`, which slows another one down. Every message is described by one record, fm_collective,
 * which is begun by fm_comm_start and ended by fm_comm_wait; between the two the ranks compute. The
 * short forms below (fm_all_reduce_now and its likes) do both.
 *
 * Counts are elements of `dt`, never bytes. Buffers are device memory of ctx, and belong to the
 * collective until it is waited for. All ranks of a group begin the same collectives in the same
 * order. For one transport, mesh and size the result has the same bits from run to run.
 *
 * Errors: FM_ERR_VALUE names the argument; FM_ERR_COMM: the transport's words, a wait beyond the
 * time limit, or (checked) another rank that began something else. After FM_ERR_COMM the
 * communicator is of no further use. What is begun and waited for is noted in ctx->standing.
 */
#ifndef FM_PARALLEL_COMM_H
#define FM_PARALLEL_COMM_H
#include "tensor/ctx.h"

typedef enum fm_reduce { FM_SUM, FM_MAX } fm_reduce;

/* kind, name */
#define FM_COLLECTIVE_MAP(X)                                                                       \
    X(FM_ALL_REDUCE, "all_reduce") /* y[n] = Σ or max over ranks of y, in place */                \
    X(FM_ALL_GATHER, "all_gather") /* y[size*n], x[n]: y's own part on all ranks or on none */     \
    X(FM_REDUCE_SCATTER, "reduce_scatter") /* y[n] = this rank's part of Σ or max of x[size*n] */ \
    X(FM_ALL_TO_ALL_V, "all_to_all_v")     /* x's parts go to each rank, y's come from each */     \
    X(FM_BROADCAST, "broadcast")           /* y[n] of rank `peer` on all */                        \
    X(FM_SEND, "send")                     /* x[n] to rank `peer` */                               \
    X(FM_RECV, "recv")                     /* y[n] from rank `peer` */                             \
    X(FM_BARRIER, "barrier")               /* until all are here */

typedef enum fm_collective_kind {
#define FM_COLLECTIVE_ENUM(kind, name) kind,
    FM_COLLECTIVE_MAP(FM_COLLECTIVE_ENUM)
#undef FM_COLLECTIVE_ENUM
        FM_COLLECTIVE_KINDS
} fm_collective_kind;

const char *fm_collective_name(fm_collective_kind kind);

typedef struct fm_collective {
    fm_collective_kind kind;
    fm_dtype dt;
    fm_reduce op; /* of all_reduce and reduce_scatter */
    void *y;
    const void *x;
    int64_t n;
    int peer; /* root of a broadcast, other end of send and recv */
    int tag;  /* of send and recv: 0 to FM_TAG_MAX; messages of one tag keep their order */
    /* all_to_all_v: per rank, host memory, borrowed until it is waited for */
    const int64_t *recv_counts, *recv_displs, *send_counts, *send_displs;
} fm_collective;

enum { FM_TAG_MAX = 16383 };

typedef struct fm_comm fm_comm;

/* What a way of carrying messages has to do. `state` is what is under way; NULL: nothing is left. */
typedef struct fm_transport {
    const char *name;
    fm_status (*start)(fm_comm *c, fm_ctx *ctx, const fm_collective *what, void **state);
    /* Moves on what is under way. Sets *state to NULL, and frees it, when it is complete. */
    fm_status (*test)(fm_comm *c, fm_ctx *ctx, void **state);
    /* The ranks that give the same `color`, in the order of `key`. */
    fm_status (*split)(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out);
    void (*free)(void *impl);
    /* optional: NULL = it has to be split. A subgroup of `size` ranks in which this one is number `rank`,
     * where nobody has to be asked who the others are. */
    fm_status (*divide)(fm_comm *c, fm_ctx *ctx, int rank, int size, fm_comm **out);
} fm_transport;

typedef struct fm_comm_stats {
    int64_t calls, bytes; /* bytes that this rank sent, see fm_collective_bytes */
    double waited;        /* seconds inside fm_comm_wait */
} fm_comm_stats;

struct fm_comm {
    const fm_transport *transport;
    void *impl;
    int rank, size;
    const char *name; /* "world", "dp": for messages; a constant */
    /* Collectives so far: the number of the last one. send and recv are not counted: the ranks that take
     * no part must agree on the next number. */
    uint64_t started;
    double time_limit; /* seconds that a wait may take; 0: for ever */
    bool checked;      /* each start compares with what the other ranks start: for debugging */
    fm_comm_stats stats[FM_COLLECTIVE_KINDS];
};

/* A collective under way. */
typedef struct fm_request {
    fm_comm *comm;
    fm_collective what;
    uint64_t number;
    void *state;
} fm_request;

/* The group of this rank alone. */
fm_status fm_comm_self(fm_ctx *ctx, fm_comm **out);
/* For transports: takes `impl`, also on an error. */
fm_status fm_comm_new(fm_ctx *ctx, const fm_transport *transport, void *impl, int rank, int size,
                      fm_comm **out);
/* A subgroup: the ranks that give the same color, in the order of key (equal keys: of rank). Called by
 * all ranks, after a barrier of c: who comes late is waited for within its limit. A group of one is
 * `self`. time_limit, checked and the name are handed on. */
fm_status fm_comm_split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out);
/* The same where this rank knows that it will be number `key` of `size`. FM_ERR_COMM: it is not. */
fm_status fm_comm_split_known(fm_comm *c, fm_ctx *ctx, int color, int key, int size, fm_comm **out);
/* Does not communicate: each rank frees when it is done, in any order, or never. What a transport holds
 * of it may live until the transport ends (fm_mpi_stop). NULL is legal. */
void fm_comm_free(fm_comm *c);

fm_status fm_comm_start(fm_comm *c, fm_ctx *ctx, const fm_collective *what, fm_request *r);
/* True: complete. Does not block. */
fm_status fm_comm_test(fm_request *r, fm_ctx *ctx, bool *done);
/* Blocks; gives the processor away while it waits. After an error nothing may be assumed of the buffers;
 * a wait that reached its time limit may be repeated. */
fm_status fm_comm_wait(fm_request *r, fm_ctx *ctx);
/* Start and wait. After a wait that reached its time limit the buffers are still the transport's: they
 * may be written until the program ends. */
fm_status fm_comm_run(fm_comm *c, fm_ctx *ctx, const fm_collective *what);

/* Bytes that this rank sends: what the docs' formulas count. A ring's figures: all_reduce
 * 2 (size-1)/size · n, all_gather and reduce_scatter (size-1) · n, broadcast n on all but the last. */
int64_t fm_collective_bytes(const fm_comm *c, const fm_collective *what);

static inline fm_status fm_all_reduce_now(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n,
                                          fm_reduce op) {
    fm_collective w = {.kind = FM_ALL_REDUCE, .dt = dt, .op = op, .y = x, .n = n};
    return fm_comm_run(c, ctx, &w);
}
static inline fm_status fm_all_gather_now(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y,
                                          const void *x, int64_t n) {
    fm_collective w = {.kind = FM_ALL_GATHER, .dt = dt, .y = y, .x = x, .n = n};
    return fm_comm_run(c, ctx, &w);
}
static inline fm_status fm_reduce_scatter_now(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *y,
                                              const void *x, int64_t n) {
    fm_collective w = {.kind = FM_REDUCE_SCATTER, .dt = dt, .op = FM_SUM, .y = y, .x = x, .n = n};
    return fm_comm_run(c, ctx, &w);
}
static inline fm_status fm_broadcast_now(fm_comm *c, fm_ctx *ctx, fm_dtype dt, void *x, int64_t n,
                                         int root) {
    fm_collective w = {.kind = FM_BROADCAST, .dt = dt, .y = x, .n = n, .peer = root};
    return fm_comm_run(c, ctx, &w);
}
static inline fm_status fm_barrier_now(fm_comm *c, fm_ctx *ctx) {
    fm_collective w = {.kind = FM_BARRIER};
    return fm_comm_run(c, ctx, &w);
}

#endif
