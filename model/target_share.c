#include "model/target_share.h"

#include "tensor/ops.h"

fm_status fm_target_share_begin(fm_ctx *ctx, const fm_mesh *mesh, const fm_tensor *targets,
                                int64_t V, fm_target_share *s) {
    *s = (fm_target_share){.dp = mesh->at.dp};
    FM_TRY(fm_count_targets(ctx, targets, V, &s->valid));
    if (s->dp == 1) return FM_OK;
    FM_TRY(fm_tensor_from_host(ctx, &s->total, FM_I64, 1, (int64_t[]){1}, &s->valid));
    fm_collective sum = {
        .kind = FM_ALL_REDUCE, .dt = FM_I64, .op = FM_SUM, .y = s->total->data, .n = 1};
    fm_status status = fm_comm_start(mesh->dp_comm, ctx, &sum, &s->request);
    if (status != FM_OK) fm_tensor_free(s->total);
    return status;
}

fm_status fm_target_share_end(fm_ctx *ctx, fm_target_share *s, float *weight) {
    if (weight) *weight = 1.0f;
    if (!s->total) return FM_OK;
    int64_t all = 0;
    fm_status status = fm_comm_wait(&s->request, ctx);
    if (status != FM_OK) return status; /* the transport may still write there: better a leak */
    status = fm_tensor_to_host(ctx, s->total, &all, sizeof all);
    fm_tensor_free(s->total);
    s->total = NULL;
    if (weight && all > 0) *weight = (float)((double)s->valid * s->dp / (double)all);
    return status;
}
