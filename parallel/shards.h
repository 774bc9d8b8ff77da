/* How a parameter set's flat buffers are cut for reduction, and what of them is this rank's.
 *
 * Parameters with the same replicas and dtype lie side by side: a segment. A segment is cut into buckets,
 * each of which is reduced by one collective over its replicas, R ranks. Rank i of them owns the i-th of
 * R equal pieces of each bucket: norms count it there, and with zero = 1 its optimiser state is there
 * and nowhere else.
 *
 *   segment   | bucket                     | bucket                     |
 *             | rank 0 | rank 1 | rank 2   | rank 0 | rank 1 | rank 2   |
 *
 * What a rank keeps of optimiser state is the concatenation of what it updates: its pieces where state is
 * sharded, else all buckets.
 */
#ifndef FM_PARALLEL_SHARDS_H
#define FM_PARALLEL_SHARDS_H
#include "parallel/mesh.h"
#include "tensor/dtype.h"

/* Elements [start, start + n) of the flat buffers. */
typedef struct fm_span {
    int64_t start, n;
} fm_span;

typedef struct fm_bucket {
    fm_comm *comm; /* the replicas; borrowed */
    fm_dtype dtype;
    bool sharded;     /* optimiser state (and bf16 weights' masters) only of `own` */
    fm_span all, own; /* own: this rank's piece */
    fm_span update;   /* what this rank's optimiser updates: own where sharded, else all */
    int64_t state;    /* where update begins in the optimiser's buffers */
    int64_t master;   /* where it begins in the masters */
    int first, end;   /* parameters with elements in it: numbers in the order of offsets */
} fm_bucket;

/* Every piece and parameter starts at a multiple of 16 elements: 64 bytes, a cache line and a vector. */
enum { FM_ALIGN = 16 };

/* Cuts a segment of n elements, a multiple of FM_ALIGN * comm->size, into buckets of at most about
 * `elements`; returns how many, writes them where out is not NULL. Fills in all but state, master,
 * first and end. */
int fm_cut_segment(fm_comm *comm, fm_dtype dtype, bool sharded, fm_span segment, int64_t elements,
                   fm_bucket *out);

#endif
