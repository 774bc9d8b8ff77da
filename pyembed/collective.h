/* Collectives on the tape: each one's backward is its conjugate.
 *
 * x [n, ...] of any dtype; floats are differentiable. Outputs have one reference, the caller's; NULL
 * after an error. The communicator must live as long as the tape.
 */
#ifndef FM_PYEMBED_COLLECTIVE_H
#define FM_PYEMBED_COLLECTIVE_H
#include "parallel/comm.h"
#include "tensor/tensor.h"

/* y = Σ over ranks of x; dx = Σ over ranks of dy */
fm_status fm_all_reduce(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x);
/* y [size*n, ...]; dx = this rank's rows of Σ dy */
fm_status fm_all_gather(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x);
/* send[r] rows go to rank r, received[r] came from it; dx travels back. `count` must be the size of
 * the communicator and Σ send the rows of x: else FM_ERR_VALUE. */
fm_status fm_all_to_all(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x, int count,
                        const int64_t *send, int64_t *received);

#endif
