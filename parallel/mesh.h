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

/* One rank's place: sizes that follow, and its number along each axis. */
typedef struct fm_mesh_place {
    int rank, world_size;
    int dp, edp;
    int tp_rank, dp_rank, pp_rank, ep_rank, etp_rank, edp_rank;
} fm_mesh_place;

/* Divides the world, without communicating: any rank of any world. FM_ERR_VALUE names the number that does
 * not divide, and those that would. */
fm_status fm_mesh_find_place(fm_ctx *ctx, const fm_mesh_config *config, int rank, int world_size,
                             fm_mesh_place *out);

typedef struct fm_mesh {
    fm_mesh_config config;
    fm_mesh_place at;
    /* One communicator per axis; `self` where the axis has one rank. world_comm is borrowed. */
    fm_comm *world_comm, *tp_comm, *dp_comm, *pp_comm, *ep_comm, *etp_comm, *edp_comm;
    fm_comm *alone; /* the world where none was given; else NULL */
} fm_mesh;

fm_mesh_config fm_mesh_config_default(void); /* all 1, zero 1 */

/* All ranks of `world` (borrowed; NULL: this rank alone) call it together. As fm_mesh_find_place, and
 * FM_ERR_UNSUPPORTED for pp > 1: there is no pipeline parallelism yet, but its place. */
fm_status fm_mesh_new(fm_ctx *ctx, const fm_mesh_config *config, fm_comm *world, fm_mesh **out);
void fm_mesh_free(fm_mesh *m); /* NULL is legal; all ranks together */

#endif
