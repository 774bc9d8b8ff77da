/* Who chose what, over all ranks of the micro-batch: what balance losses, capacity, statistics and the
 * exchange of tokens are made from.
 *
 * One all-gather of 3E + 5 words over the stage (dp x tp) per forward, and one more of E words where capacity
 * drops; on one rank none. Ranks are numbered as in mesh->stage_comm.
 */
#ifndef FM_FMOE_CENSUS_H
#define FM_FMOE_CENSUS_H
#include "fmoe/moe.h"

typedef struct fm_census {
    int ranks, me;     /* of the stage; 1, 0 where nothing had to be sent */
    int64_t E, tokens; /* tokens: of all ranks */
    int64_t *counts;   /* [ranks, E] choices that the gate made */
    int64_t *kept;     /* [ranks, E] choices that capacity left */
    int64_t *first;    /* [E] first choices, of all ranks */
    double balance, z; /* unweighted, over all tokens; NaN: not measured */
} fm_census;
void fm_census_free(fm_census *c); /* safe on a zeroed one */

/* After the gate: counts, and its losses. *balance gets this rank's part of the balance loss, on the tape, where
 * config.aux_loss_weight > 0 and there is one: fm_rank_mean of it is the loss of the micro-batch. z: the z loss
 * where training asked for it, or NULL. A loss that training has not asked for is computed off the tape. */
fm_status fm_census_take(fm_ctx *ctx, const fm_moe *m, const fm_gate_in *in,
                         const fm_gate_out *gate, fm_tensor *z, fm_census *c, fm_tensor **balance);
/* After drops: what is left of each rank's choices. All ranks. */
fm_status fm_census_recount(fm_ctx *ctx, const fm_moe *m, const fm_tensor *indices, fm_census *c);

/* Σ over ranks of counts [ranks, E], and its sum. */
int64_t fm_census_sum(const fm_census *c, const int64_t *counts, int64_t *per_expert);

/* ---- balance.c: the E·Σ f_e·P_e losses; perfect balance gives 1 */

/* f_e of first choices [E] among `tokens`, P_e the mean of probs' rows. */
fm_status fm_balance_of_shares(fm_ctx *ctx, fm_tensor **loss, fm_tensor *probs,
                               const int64_t *first, int64_t tokens);
/* The mean over B sequences of their own losses; with tp > 1 f_e is of whole sequences. */
fm_status fm_balance_of_sequences(fm_ctx *ctx, const fm_mesh *mesh, fm_tensor **loss,
                                  fm_tensor *probs, const int32_t *indices, int64_t k, int64_t B);

/* ---- capacity.c: drops the choices that find no place, by the layer's scopes; then recounts */
fm_status fm_moe_apply_capacity(fm_ctx *ctx, const fm_moe *m, const fm_gate_out *gate, int64_t B,
                                double factor, fm_census *c);

/* ---- experts.c: the experts' part of a forward */

/* y [n, d] = the experts' results of permuted [n, d], whose rows are in expert order as map has them. Where the
 * experts are spread over ranks the rows travel. shared: what the shared experts make of x [T, d]; NULL
 * without them. */
fm_status fm_moe_run_experts(fm_ctx *ctx, const fm_moe *m, fm_tensor *permuted,
                             const fm_moe_map *map, const fm_census *c, fm_tensor *x, fm_tensor **y,
                             fm_tensor **shared);

#endif
