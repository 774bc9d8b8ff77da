/* Tokens into the order of their experts, and the experts' rows back into tokens. Each is, but for
 * the scores, the other's adjoint. */
#include "tensor/ops/check.h"

typedef struct moe_attrs {
    int64_t T, k;
} moe_attrs;

static fm_status check_map(fm_ctx *ctx, const char *op, const fm_moe_map *map) {
    FM_CHECK(map && map->slot && map->source, FM_ERR_VALUE,
             "%s: map is %s; it must come from fm_moe_map_new", op, map ? "empty" : "NULL");
    return fm_check_tensor(ctx, op, "map", map->slot);
}

/* ---- permute: y[r] = x[source[r] / k] */

/* dx[t] = Σ_j dy[slot[t, j]]. Saved: slot */
static fm_status permute_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *slot = node->saved[0], *dy = node->dout[0];
    if (!dy) return FM_OK;
    const moe_attrs *m = node->attrs;
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (dx.data) {
        FM_TRY(FM_KERNEL(ctx, moe_combine, x->dtype, dx.data, dy->data, NULL, slot->data, m->T,
                         m->k, fm_cols_of(x), dx.accumulate));
    }
    return fm_grad_end(ctx, &dx);
}

fm_status fm_moe_permute(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, const fm_moe_map *map) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "moe_permute", "x", x));
    FM_TRY(fm_check_ndim(ctx, "moe_permute", "x", x, 2, 2));
    FM_TRY(check_map(ctx, "moe_permute", map));
    FM_CHECK(x->shape[0] == map->T, FM_ERR_SHAPE,
             "moe_permute: x is %s; its first dimension must be the map's "
             "tokens, %" PRId64,
             FM_TEXT(x), map->T);
    int64_t N = map->T * map->k, d = x->shape[1];
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &made, x->dtype, N, d));
    FM_TRY_GOTO(FM_KERNEL(ctx, moe_gather, x->dtype, made->data, x->data, NULL, map->source->data,
                          N, map->k, d));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "moe_permute",
                                                 .grads_only = true,
                                                 .backward = permute_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .saved = {map->slot},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &(moe_attrs){map->T, map->k},
                                                 .attrs_size = sizeof(moe_attrs)}));
out:
    return fm_op_end(status, y, made);
}

/* ---- unpermute: y[t] = Σ_j scores[t, j] z[slot[t, j]] */

/* dz[r] = scores[source[r]] dy[source[r] / k];  dscores[t, j] = dy[t] · z[slot[t, j]].
 * Inputs z, scores (may be NULL); saved: slot, source */
static fm_status unpermute_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *z = node->inputs[0], *scores = node->inputs[1], *dy = node->dout[0], *dz = NULL;
    if (!dy) return FM_OK;
    fm_tensor *slot = node->saved[0], *source = node->saved[1];
    const moe_attrs *m = node->attrs;
    int64_t d = fm_cols_of(z);
    fm_grad dscores;
    fm_status status;
    FM_TRY_GOTO(fm_grad_begin(ctx, scores, FM_F32, &dscores));
    if (dscores.data) {
        FM_TRY_GOTO(FM_KERNEL(ctx, moe_combine_weight, z->dtype, dscores.data, dy->data, z->data,
                              slot->data, m->T, m->k, d, dscores.accumulate));
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dscores));
    if (z->requires_grad) {
        FM_TRY_GOTO(FM_NEW(ctx, &dz, z->dtype, z->shape[0], d));
        FM_TRY_GOTO(FM_KERNEL(ctx, moe_gather, z->dtype, dz->data, dy->data,
                              scores ? scores->data : NULL, source->data, z->shape[0], m->k, d));
        FM_TRY_GOTO(fm_grad_pass(ctx, z, dz));
    }
out:
    fm_tensor_free(dz);
    return status;
}

fm_status fm_moe_unpermute(fm_ctx *ctx, fm_tensor **y, fm_tensor *z, fm_tensor *scores,
                           const fm_moe_map *map) {
    static const char op[] = "moe_unpermute";
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "z", z));
    FM_TRY(fm_check_ndim(ctx, op, "z", z, 2, 2));
    FM_TRY(check_map(ctx, op, map));
    FM_CHECK(z->shape[0] == map->T * map->k, FM_ERR_SHAPE,
             "moe_unpermute: z is %s; its first dimension must be the map's "
             "choices, %" PRId64 " (%" PRId64 " tokens, k is %" PRId64 ")",
             FM_TEXT(z), map->T * map->k, map->T, map->k);
    if (scores) {
        FM_TRY(fm_check_dtype(ctx, op, "scores", scores, FM_F32));
        FM_TRY(fm_check_same_shape(ctx, op, "scores", scores, "the map's slot", map->slot));
    }
    int64_t d = z->shape[1];
    fm_tensor *made = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &made, z->dtype, map->T, d));
    FM_TRY_GOTO(FM_KERNEL(ctx, moe_combine, z->dtype, made->data, z->data,
                          scores ? scores->data : NULL, map->slot->data, map->T, map->k, d, false));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .backward = unpermute_backward,
                                                 .inputs = {z, scores},
                                                 .n_inputs = 2,
                                                 .saved = {map->slot, map->source},
                                                 .n_saved = 2,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &(moe_attrs){map->T, map->k},
                                                 .attrs_size = sizeof(moe_attrs)}));
out:
    return fm_op_end(status, y, made);
}
