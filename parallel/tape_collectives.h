/* Collectives on the tape: each one's backward is its conjugate.
 *
 * x [n, ...] of any dtype; floats are differentiable. Outputs have one reference, the caller's; NULL
 * after an error. The communicator must live as long as the tape.
 */
#ifndef FM_PARALLEL_TAPE_COLLECTIVES_H
#define FM_PARALLEL_TAPE_COLLECTIVES_H
#include "parallel/mesh.h"
#include "tensor/tensor.h"

/* y = Σ over ranks of x; dx = Σ over ranks of dy */
fm_status fm_all_reduce(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x);
/* y [size*n, ...]; dx = this rank's rows of Σ dy */
fm_status fm_all_gather(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x);
/* send[r] rows go to rank r, received[r] came from it; dx travels back. `count` must be the size of
 * the communicator and Σ send the rows of x: else FM_ERR_VALUE. */
fm_status fm_all_to_all(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x, int count,
                        const int64_t *send, int64_t *received);
/* A loss that each rank of the stage has its part of: y [n] = the mean of x [n] over the ranks of
 * m->stage_comm, fp32. What is minimised is the mean over dp of a loss that its tp ranks have in
 * common, so dx = dy / tp, and nothing is sent. x itself where the stage has one rank. */
fm_status fm_rank_mean(fm_ctx *ctx, const fm_mesh *m, fm_tensor **y, fm_tensor *x);

#endif
