/* The experts' part of a layer: on this rank, or wherever they are. */
#include "fmoe/census.h"
#include "fmoe/feed_forward.h"
#include "parallel/row_exchange.h"

#include <stdlib.h>

/* With etp > 1 the results are partial, and summed: only one of them has the bias. The others add 0 times theirs,
 * so that it has a gradient on every rank (0 there), and in time for the reduction. */
static fm_status experts(fm_ctx *ctx, const fm_moe *m, fm_tensor *x, const fm_moe_map *map,
                         fm_tensor **y) {
    fm_tensor *down_b = fm_tensor_retain(m->down_b);
    fm_status status = FM_OK;
    if (down_b && m->mesh->at.etp_rank > 0) {
        fm_tensor_free(down_b);
        FM_TRY(fm_scale(ctx, &down_b, m->down_b, 0.0f));
    }
    status = fm_feed_forward(ctx, y, x, map->offsets, m->up_w, m->up_b, m->down_w, down_b,
                             m->config.activation);
    fm_tensor_free(down_b);
    return status;
}

/* What the shared experts make of every token. */
static fm_status shared_experts(fm_ctx *ctx, const fm_moe *m, fm_tensor *x, fm_tensor **y) {
    if (m->config.num_shared_experts == 0) return FM_OK;
    return fm_feed_forward(ctx, y, x, NULL, m->shared_up_w, m->shared_up_b, m->shared_down_w,
                           m->shared_down_b, m->config.activation);
}

/* Rank r of expert_comm's counts of this rank's first expert: it is number edp_rank·size + r of the stage. */
static const int64_t *counts_of(const fm_moe *m, const fm_census *c, int r) {
    return c->kept + (m->mesh->at.edp_rank * m->mesh->expert_comm->size + r) * c->E;
}

/* Permuted rows are in the order of the experts, and so of the ranks that hold them. */
static fm_status plan_of(fm_ctx *ctx, const fm_moe *m, const fm_census *c, fm_row_plan **plan) {
    fm_comm *comm = m->mesh->expert_comm;
    int copies = m->mesh->config.etp, groups = comm->size / copies;
    int64_t n = m->num_local_experts, first = m->mesh->at.ep_rank * n;
    int64_t *send = calloc((size_t)(groups + comm->size), sizeof *send);
    FM_CHECK(send, FM_ERR_OOM, "out of memory: an exchange of %d ranks", comm->size);
    int64_t *received = send + groups;
    for (int64_t e = 0; e < c->E; e++) send[e / n] += counts_of(m, c, comm->rank)[e];
    for (int r = 0; r < comm->size; r++)
        for (int64_t e = first; e < first + n; e++) received[r] += counts_of(m, c, r)[e];
    fm_status s = fm_row_plan_new(ctx, comm, copies, send, received, plan);
    free(send);
    return s;
}

/* Where the rows that arrived go: each rank's are in the order of the experts; all together shall be, and of one
 * expert in the order of the ranks. */
static fm_status local_order(fm_ctx *ctx, const fm_moe *m, const fm_census *c, int64_t arriving,
                             fm_moe_map *map) {
    int64_t n = m->num_local_experts, first = m->mesh->at.ep_rank * n, row = 0;
    fm_tensor *indices = NULL;
    fm_status status = FM_OK;
    int32_t *expert = malloc((size_t)arriving * sizeof *expert + 1);
    FM_CHECK_GOTO(expert, FM_ERR_OOM, "out of memory: the order of %lld rows", (long long)arriving);
    for (int r = 0; r < m->mesh->expert_comm->size; r++)
        for (int64_t e = 0; e < n; e++)
            for (int64_t i = counts_of(m, c, r)[first + e]; i > 0; i--) expert[row++] = (int32_t)e;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &indices, FM_I32, 2, (int64_t[]){arriving, 1}, expert));
    FM_TRY_GOTO(fm_moe_map_new(ctx, map, indices, n));
out:
    free(expert);
    fm_tensor_free(indices);
    return status;
}

/* Rows to their experts' ranks, through the experts, and home. The shared experts work while the rows travel. */
static fm_status abroad(fm_ctx *ctx, const fm_moe *m, fm_tensor *permuted, const fm_census *c,
                        fm_tensor *x, fm_tensor **y, fm_tensor **shared) {
    fm_row_plan *plan = NULL;
    fm_row_flight out = {0};
    fm_tensor *arrived = NULL, *sorted = NULL, *made = NULL, *back = NULL;
    fm_moe_map map = {0};
    fm_status status = FM_OK;
    bool one = m->num_local_experts == 1; /* nothing to sort */
    FM_TRY_GOTO(plan_of(ctx, m, c, &plan));
    FM_TRY_GOTO(fm_row_dispatch_start(ctx, &out, permuted, plan));
    FM_TRY_GOTO(shared_experts(ctx, m, x, shared));
    FM_TRY_GOTO(local_order(ctx, m, c, plan->arriving, &map));
    FM_TRY_GOTO(fm_row_flight_land(ctx, &out, &arrived));
    if (one)
        sorted = fm_tensor_retain(arrived);
    else
        FM_TRY_GOTO(fm_moe_permute(ctx, &sorted, arrived, &map));
    FM_TRY_GOTO(experts(ctx, m, sorted, &map, &made));
    if (one)
        back = fm_tensor_retain(made);
    else
        FM_TRY_GOTO(fm_moe_unpermute(ctx, &back, made, NULL, &map));
    FM_TRY_GOTO(fm_row_collect(ctx, y, back, plan, permuted->shape[0]));
out:
    fm_row_flight_drop(ctx, &out);
    fm_row_plan_free(plan);
    fm_moe_map_free(&map);
    fm_tensor_free(arrived);
    fm_tensor_free(sorted);
    fm_tensor_free(made);
    fm_tensor_free(back);
    return status;
}

fm_status fm_moe_run_experts(fm_ctx *ctx, const fm_moe *m, fm_tensor *permuted,
                             const fm_moe_map *map, const fm_census *c, fm_tensor *x, fm_tensor **y,
                             fm_tensor **shared) {
    *y = *shared = NULL;
    if (m->mesh->expert_comm->size > 1) return abroad(ctx, m, permuted, c, x, y, shared);
    FM_TRY(experts(ctx, m, permuted, map, y));
    return shared_experts(ctx, m, x, shared);
}
