/* How many of the global micro-batch's targets are this rank's: the weight of its mean loss.
 *
 * The loss of a micro-batch is the mean over its valid targets, N over all dp ranks, n here. As the ranks'
 * losses are averaged, this rank's mean enters with n · dp / N: 1 where all have equally many.
 */
#ifndef FM_MODEL_TARGET_SHARE_H
#define FM_MODEL_TARGET_SHARE_H
#include "parallel/mesh.h"
#include "tensor/tensor.h"

typedef struct fm_target_share {
    int64_t valid; /* here; known after begin */
    int dp;
    fm_tensor *total;
    fm_request request;
} fm_target_share;

/* targets int32, -1 is none; below V. Starts one all-reduce of one number over dp, which runs while the
 * forward does. */
fm_status fm_target_share_begin(fm_ctx *ctx, const fm_mesh *mesh, const fm_tensor *targets,
                                int64_t V, fm_target_share *s);
/* Must follow each begin that succeeded, also after an error between the two. weight may be NULL. */
fm_status fm_target_share_end(fm_ctx *ctx, fm_target_share *s, float *weight);

#endif
