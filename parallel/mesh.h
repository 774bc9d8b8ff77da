/* The mesh: how the ranks of a job are folded over data, tensor, pipeline and expert parallelism.
 *
 *   world = tp * pp * dp            dense parameters
 *   world = pp * ep * etp * edp     experts, folded over the same ranks
 *
 * Rank order: tp fastest, then dp, then pp. Experts: etp fastest, then ep, then edp,
 * inside one pipeline stage.
 */
#ifndef FM_PARALLEL_MESH_H
#define FM_PARALLEL_MESH_H
#include "parallel/comm.h"

typedef struct fm_mesh_config {
    int tp, pp, ep, etp; /* at least 1 */
    int zero;            /* 0 or 1 */
} fm_mesh_config;

typedef struct fm_mesh {
    fm_mesh_config config;
    int rank, world_size;
    int dp, edp;
    int tp_rank, dp_rank, pp_rank, ep_rank, etp_rank, edp_rank;
    /* One communicator per axis; `self` where the axis has one rank. */
    fm_comm *world_comm, *tp_comm, *dp_comm, *ep_comm, *etp_comm, *edp_comm;
} fm_mesh;

fm_mesh_config fm_mesh_config_default(void); /* all 1, zero 1 */

/* Divides the world. FM_ERR_VALUE names the number that does not divide and what would.
 * This version runs one rank; a larger world is FM_ERR_UNSUPPORTED. */
fm_status fm_mesh_new(fm_ctx *ctx, const fm_mesh_config *config, int rank, int world_size,
                      fm_mesh **out);
void fm_mesh_free(fm_mesh *m);

#endif
