/* What ranks have to agree on: a few numbers, now and then. */
#ifndef FM_PARALLEL_AGREE_H
#define FM_PARALLEL_AGREE_H
#include "parallel/comm.h"

enum { FM_AGREE_MAX = 8 };

/* x[i] = Σ over the ranks, or their maximum, as ops[i] says, for n <= FM_AGREE_MAX doubles of host memory.
 * Every rank adds them in the order of ranks: the same bits everywhere. A NaN of any rank stays. Blocks; a
 * group of one does nothing. */
fm_status fm_agree(fm_comm *c, fm_ctx *ctx, const fm_reduce *ops, double *x, int n);

#endif
