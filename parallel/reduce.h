/* The reduction of gradients over replicas, bucket by bucket, while backward still runs.
 *
 *   fm_reducer_begin    before the last backward of a step
 *   fm_backward         ... starts a bucket when the gradients in it are complete
 *   fm_reducer_flush    after it: starts what is left (parameters that no gradient reached have zeros)
 *   fm_reducer_finish   until all are there
 *
 * Every rank starts the buckets in the same order, that of the parameters' definition from the last one
 * on: a bucket that is complete early waits for those before it.
 *
 * Bytes that a rank sends, for a bucket of n elements over R replicas: 4 n (R-1)/R where it is sharded
 * (reduce-scatter), else twice that (all-reduce); and for the updated weights, sharded, the same again
 * in the weights' dtype (all-gather).
 */
#ifndef FM_PARALLEL_REDUCE_H
#define FM_PARALLEL_REDUCE_H
#include "parallel/param.h"

typedef struct fm_reducer fm_reducer;

/* Sets are borrowed, sealed. */
fm_status fm_reducer_new(fm_ctx *ctx, fm_param_set **sets, int n_sets, fm_reducer **out);
/* Waits for what is under way. Where a step failed midway, messages may still be written into the sets'
 * buffers: the program must end then. NULL is legal. */
void fm_reducer_free(fm_reducer *r);

/* FM_ERR_STATE: a step before failed midway. */
fm_status fm_reducer_begin(fm_reducer *r);
fm_status fm_reducer_flush(fm_reducer *r);
fm_status fm_reducer_finish(fm_reducer *r);
/* Waits for what is under way, whose sums are not wanted: before the buffers are used for something else,
 * or freed. All ranks do it, sooner or later. After a wait that failed: as fm_reducer_abandon. */
void fm_reducer_settle(fm_reducer *r);
/* The backward between begin and flush failed: gradients are of no use. Where some were on their way
 * already, nothing can be reduced any more: FM_ERR_COMM from now on. */
void fm_reducer_abandon(fm_reducer *r);

/* Buckets over all sets, in the order of their reduction. */
typedef struct fm_reduced {
    fm_param_set *set;
    int set_index;
    const fm_bucket *bucket;
    const float *grad; /* after finish: of bucket->update, summed over the replicas */
} fm_reduced;
size_t fm_reducer_bytes(const fm_reducer *r); /* of sums that lie apart from the gradients */
int fm_reducer_count(const fm_reducer *r);
fm_reduced fm_reducer_at(const fm_reducer *r, int i);

/* Σ g² over what this rank owns of the trained parameters (after finish); over all ranks it is the
 * squared norm, each parameter counted once. */
fm_status fm_reducer_own_squares(fm_reducer *r, double *sum);

/* bucket->update has new weights: gathers those of all replicas. Finished by fm_reducer_gathered. Does
 * nothing where the bucket is not sharded. */
fm_status fm_reducer_gather(fm_reducer *r, int i);
fm_status fm_reducer_gathered(fm_reducer *r);

/* Trained parameters of a bucket that lie side by side inside `within` and are alike. */
typedef struct fm_run {
    fm_span span;          /* of the flat buffers */
    const fm_param *first; /* whose flags are those of all */
} fm_run;
/* The next run from element *at on, which becomes its end; frozen parameters are passed over. Begin with
 * within.start; false: there is none left. */
bool fm_bucket_next_run(const fm_param_set *s, const fm_bucket *b, fm_span within, int64_t *at,
                        fm_run *out);

#endif
