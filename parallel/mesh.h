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
    fm_comm *stage_comm;  /* tp x dp: one pipeline stage; rank in it: dp_rank * tp + tp_rank */
    fm_comm *expert_comm; /* ep x etp: who has all experts together; ep_rank * etp + etp_rank */
    fm_comm *expert_replicas_comm; /* edp x etp; edp_rank * etp + etp_rank */
    fm_comm *alone;                /* the world where none was given; else NULL */
    /* Gradients that one collective reduces, about, at most; for the sets that are made from now on. */
    int64_t bucket_elements;
} fm_mesh;

/* The ranks that hold the same values of a parameter: they start equal, gradients are summed over
 * them, and what optimisers keep is shared out among them. */
typedef enum fm_replicas {
    FM_REPLICATED_DP, /* slices of dense layers: dp */
    FM_REPLICATED_STAGE, /* what tp does not split (norms, routers): dp x tp, each of which sees its own
                             part of the sequence there */
    FM_REPLICATED_EDP,    /* experts' slices: edp */
    FM_REPLICATED_EDP_ETP /* what etp does not split of experts: edp x etp */
} fm_replicas;
enum { FM_REPLICAS_KINDS = FM_REPLICATED_EDP_ETP + 1 };
fm_comm *fm_mesh_replicas(const fm_mesh *m, fm_replicas kind); /* borrowed */
const char *fm_replicas_name(fm_replicas kind);                /* "dp", "dp*tp", "edp", "edp*etp" */

/* "1, 2, 4 and 8": what divides n, for messages; returns buf. */
const char *fm_divisors(int64_t n, char *buf, size_t size);

/* Which rows of the global micro-batch this rank holds where each dp rank has B sequences of S positions,
 * and its tp ranks S/tp of each: for fm_rows_enter. */
fm_rows fm_mesh_rows(const fm_mesh *m, int64_t B, int64_t S);

enum { FM_BUCKET_ELEMENTS = 1 << 22 }; /* 16 MB: long enough that latency is nothing beside it */
fm_mesh_config fm_mesh_config_default(void); /* all 1, zero 1 */

/* All ranks of `world` (borrowed; NULL: this rank alone) call it together. As fm_mesh_find_place, and
 * FM_ERR_UNSUPPORTED for pp > 1: there is no pipeline parallelism yet, but its place. */
fm_status fm_mesh_new(fm_ctx *ctx, const fm_mesh_config *config, fm_comm *world, fm_mesh **out);
void fm_mesh_free(fm_mesh *m); /* NULL is legal; does not communicate, see fm_comm_free */

#endif
