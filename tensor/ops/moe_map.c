/* Where the choices of a routed layer go. Integers only; nothing is on the tape. */
#include "tensor/ops/check.h"

fm_status fm_moe_map_new(fm_ctx *ctx, fm_moe_map *map, fm_tensor *indices, int64_t E) {
    *map = (fm_moe_map){0};
    FM_CHECK(E >= 1, FM_ERR_VALUE, "moe_map: E is %" PRId64 "; it must be at least 1", E);
    FM_TRY(fm_check_index(ctx, "moe_map", "indices", indices, -1, E));
    FM_TRY(fm_check_ndim(ctx, "moe_map", "indices", indices, 2, 2));
    FM_CHECK(fm_numel(indices) <= INT32_MAX, FM_ERR_SHAPE,
             "moe_map: indices is %s; rows are counted in int32, so there may be "
             "at most %d choices",
             FM_TEXT(indices), INT32_MAX);
    fm_moe_map m = {.T = indices->shape[0], .k = indices->shape[1], .E = E};
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &m.counts, FM_I32, E));
    FM_TRY_GOTO(FM_NEW(ctx, &m.offsets, FM_I32, E + 1));
    FM_TRY_GOTO(FM_NEW(ctx, &m.slot, FM_I32, m.T, m.k));
    FM_TRY_GOTO(FM_NEW(ctx, &m.source, FM_I32, m.T * m.k));
    FM_TRY_GOTO(FM_KERNEL(ctx, moe_sort, m.counts->data, m.offsets->data, m.slot->data,
                          m.source->data, indices->data, m.T, m.k, E));
out:
    if (status == FM_OK) {
        *map = m;
    } else {
        fm_moe_map_free(&m);
    }
    return status;
}

void fm_moe_map_free(fm_moe_map *map) {
    fm_tensor_free(map->counts);
    fm_tensor_free(map->offsets);
    fm_tensor_free(map->slot);
    fm_tensor_free(map->source);
    *map = (fm_moe_map){0};
}
