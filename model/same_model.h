/* Do all ranks train the same? What differs from rank to rank is found by nothing else: replicas would
 * drift apart, or messages of other sizes meet. */
#ifndef FM_MODEL_SAME_MODEL_H
#define FM_MODEL_SAME_MODEL_H
#include "parallel/param.h"

/* When an optimiser is made, all ranks together: names, global shapes, dtypes, decay and replicas of the
 * parameters, in their order; zero; the seed. FM_ERR_VALUE names the first that differs, on all ranks. */
fm_status fm_check_same_model(fm_ctx *ctx, const fm_mesh *mesh, fm_param_set **sets, int n);
/* Which parameters are trained (requires_grad), as a number that a double holds exactly. */
double fm_trained_parameters(fm_param_set **sets, int n);

#endif
