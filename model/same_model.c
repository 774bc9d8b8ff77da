#include "model/same_model.h"

#include "parallel/agree.h"

#include <string.h>

/* A double holds integers of so many bits. */
static double as_double(uint64_t hash) { return (double)(hash >> 12); }

static uint64_t mix(uint64_t hash, uint64_t x) { return fm_mix64(hash ^ fm_mix64(x)); }

static uint64_t hash_of(const fm_param *p) {
    const fm_placement *at = &p->spec.placement;
    uint64_t h = fm_rng_stream(p->spec.name);
    h = mix(h, (uint64_t)at->ndim);
    for (int d = 0; d < at->ndim; d++) h = mix(h, (uint64_t)at->global_shape[d]);
    h = mix(h, (uint64_t)at->replicas);
    h = mix(h, (uint64_t)p->spec.dtype);
    return mix(h, p->spec.decay);
}

static const fm_param *param_at(fm_param_set **sets, int n, int64_t i) {
    for (int k = 0; k < n; k++) {
        if (i < sets[k]->n) return sets[k]->items[i];
        i -= sets[k]->n;
    }
    return NULL;
}

/* Whether x is the same on all ranks. */
static fm_status same(fm_ctx *ctx, const fm_mesh *mesh, double x, bool *yes) {
    static const fm_reduce ops[] = {FM_MAX, FM_MAX};
    double range[] = {x, -x};
    FM_TRY(fm_agree(mesh->world_comm, ctx, ops, range, 2));
    *yes = range[0] == -range[1];
    return FM_OK;
}

/* All ranks look at the same number of parameters, and stop at the same one. */
static fm_status first_other(fm_ctx *ctx, const fm_mesh *mesh, fm_param_set **sets, int n,
                             int64_t count) {
    static const fm_reduce ops[] = {FM_MAX};
    double least = -(double)count;
    bool yes = true;
    FM_TRY(fm_agree(mesh->world_comm, ctx, ops, &least, 1));
    for (int64_t i = 0; i < (int64_t)-least; i++) {
        const fm_param *p = param_at(sets, n, i);
        FM_TRY(same(ctx, mesh, as_double(hash_of(p)), &yes));
        FM_CHECK(
            yes, FM_ERR_VALUE,
            "the ranks' models differ: parameter number %lld is %s on rank %d, and another, or of "
            "another shape or dtype, on another rank; all ranks have to make the same model",
            (long long)i, p->spec.name, mesh->at.rank);
    }
    return fm_fail(
        &ctx->error, FM_ERR_VALUE,
        "the ranks' models differ: rank %d has %lld parameters, another rank %lld; or zero "
        "of their meshes differs (here %d)",
        mesh->at.rank, (long long)count, (long long)-least, mesh->config.zero);
}

fm_status fm_check_same_model(fm_ctx *ctx, const fm_mesh *mesh, fm_param_set **sets, int n) {
    if (mesh->world_comm->size == 1) return FM_OK;
    uint64_t all = 0;
    int64_t count = 0;
    bool yes;
    for (int k = 0; k < n; k++) {
        all = mix(all, (uint64_t)sets[k]->mesh->config.zero);
        all = mix(all, (uint64_t)sets[k]->mesh->bucket_elements);
        for (int i = 0; i < sets[k]->n; i++) all = mix(all, hash_of(sets[k]->items[i]));
        count += sets[k]->n;
    }
    FM_TRY(same(ctx, mesh, as_double(all), &yes));
    if (!yes) return first_other(ctx, mesh, sets, n, count);
    FM_TRY(same(ctx, mesh, as_double(fm_mix64(ctx->seed)), &yes));
    FM_CHECK(
        yes, FM_ERR_VALUE,
        "the ranks' seeds differ: it is %llu on rank %d; all ranks have to give manual_seed the "
        "same (noise is drawn by global position, not by rank)",
        (unsigned long long)ctx->seed, mesh->at.rank);
    return FM_OK;
}

double fm_trained_parameters(fm_param_set **sets, int n) {
    uint64_t hash = 0;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < sets[k]->n; i++)
            hash = mix(hash, sets[k]->items[i]->weight->requires_grad);
    return as_double(hash);
}
