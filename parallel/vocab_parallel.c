#include "parallel/vocab_parallel.h"

#include "tensor/ops/loss.h"

#include <string.h>

/* Rows of all ranks but the last. */
static int64_t width_of(int64_t V, int tp) { return (V + tp - 1) / tp; }

fm_status fm_split_vocab(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec) {
    fm_placement *p = &spec->placement;
    int64_t V = p->global_shape[0], tp = m->config.tp, width = width_of(V, m->config.tp);
    if (tp == 1) return FM_OK;
    FM_CHECK(width * (tp - 1) < V, FM_ERR_VALUE,
             "parameter %s: vocab_size is %lld and tp %lld: with %lld rows on a rank the last has "
             "none; a smaller tp is wanted",
             spec->name, (long long)V, (long long)tp, (long long)width);
    fm_box *box = &p->boxes[0];
    box->start[0] = m->at.tp_rank * width;
    box->stop[0] = box->start[0] + width < V ? box->start[0] + width : V;
    p->replicas = FM_REPLICATED_DP;
    return FM_OK;
}

/* `own` rows or columns must be those of this rank. */
static fm_status check_own(fm_ctx *ctx, const char *op, const char *name, const fm_tensor *t,
                           int64_t own, const fm_comm *tp, int64_t V) {
    int64_t width = width_of(V, tp->size), left = V - tp->rank * width;
    FM_CHECK(own == (left < width ? left : width), FM_ERR_SHAPE,
             "%s: %s is %s; rank %d of %d has %" PRId64 " of the %" PRId64 " classes", op, name,
             FM_TEXT(t), tp->rank, tp->size, left < width ? left : width, V);
    return FM_OK;
}

/* ---- embedding */

/* Saved: ids as this rank numbers them. */
static fm_status embedding_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *table = node->inputs[0], *ids = node->saved[0], *dy = node->dout[0];
    fm_grad dtable;
    if (!dy) return FM_OK;
    FM_TRY(fm_grad_begin(ctx, table, FM_F32, &dtable));
    if (dtable.data)
        FM_TRY(FM_KERNEL(ctx, embedding_backward, dy->dtype, dtable.data, dy->data, ids->data,
                         fm_numel(ids), table->shape[1], table->shape[0], dtable.accumulate));
    return fm_grad_end(ctx, &dtable);
}

fm_status fm_vocab_embedding(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *table,
                             fm_tensor *ids, int64_t V) {
    static const char op[] = "vocab_embedding";
    if (tp->size == 1) return fm_embedding(ctx, y, table, ids);
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "table", table));
    FM_TRY(fm_check_ndim(ctx, op, "table", table, 2, 2));
    FM_TRY(check_own(ctx, op, "table", table, table->shape[0], tp, V));
    FM_TRY(fm_check_index(ctx, op, "ids", ids, 0, V));
    FM_TRY(fm_check_ndim(ctx, op, "ids", ids, 0, FM_MAX_DIMS - 1));
    int64_t d = table->shape[1], T = fm_numel(ids), shape[FM_MAX_DIMS] = {0};
    memcpy(shape, ids->shape, (size_t)ids->ndim * sizeof *shape);
    shape[ids->ndim] = d;
    fm_tensor *made = NULL, *local = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &local, FM_I32, T));
    FM_TRY_GOTO(FM_KERNEL(ctx, local_ids, local->data, ids->data, tp->rank * width_of(V, tp->size),
                          table->shape[0], T));
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, table->dtype, ids->ndim + 1, shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, embedding_forward, table->dtype, made->data, table->data,
                          local->data, T, d));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .grads_only = true,
                                                 .backward = embedding_backward,
                                                 .inputs = {table},
                                                 .n_inputs = 1,
                                                 .saved = {local},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1}));
out:
    fm_tensor_free(local);
    return fm_op_end(status, y, made);
}

/* ---- loss */

static fm_status gather_terms(fm_ctx *ctx, void *tp, float *all, const float *own, int64_t n) {
    return fm_all_gather_now(tp, ctx, FM_F32, all, own, n);
}

fm_status fm_vocab_cross_entropy(fm_ctx *ctx, fm_comm *tp, fm_tensor **loss, fm_tensor **losses,
                                 fm_tensor *x, fm_tensor *w, fm_tensor *target, int64_t V,
                                 double denominator) {
    if (tp->size == 1)
        return fm_linear_cross_entropy(ctx, loss, losses, x, w, NULL, target, denominator);
    *loss = NULL;
    FM_TRY(fm_check_ndim(ctx, "vocab_cross_entropy", "w", w, 2, 2));
    FM_TRY(check_own(ctx, "vocab_cross_entropy", "w", w, w->shape[0], tp, V));
    int64_t width = width_of(V, tp->size);
    fm_vocab_part part = {.V = V,
                          .first = tp->rank * width,
                          .width = width,
                          .n_parts = tp->size,
                          .gather = gather_terms,
                          .user = tp};
    return fm_linear_cross_entropy_part(ctx, loss, losses, x, w, NULL, target, denominator, &part);
}

/* ---- logits */

/* Attribute: the first own column. */
static fm_status gather_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *dy = node->dout[0], *dx;
    if (!dy) return FM_OK;
    size_t size = fm_dtype_size(x->dtype), width = (size_t)fm_cols_of(x) * size;
    FM_TRY(fm_tensor_new(ctx, &dx, x->dtype, x->ndim, x->shape));
    fm_status s = FM_KERNEL(ctx, copy_2d, dx->data, width,
                            (const char *)dy->data + (size_t) * (const int64_t *)node->attrs * size,
                            (size_t)fm_cols_of(dy) * size, width, fm_rows_of(x));
    if (s == FM_OK) s = fm_grad_pass(ctx, x, dx);
    fm_tensor_free(dx);
    return s;
}

fm_status fm_gather_vocab(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, int64_t V) {
    static const char op[] = "gather_vocab";
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "x", x, 1, FM_MAX_DIMS));
    FM_TRY(check_own(ctx, op, "x", x, fm_cols_of(x), tp, V));
    if (tp->size == 1) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    int64_t T = fm_rows_of(x), width = width_of(V, tp->size), first = tp->rank * width;
    size_t size = fm_dtype_size(x->dtype), row = (size_t)width * size;
    int64_t shape[FM_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = V;
    fm_tensor *all = NULL, *made = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &all, x->dtype, tp->size, T, width));
    FM_TRY_GOTO(fm_tensor_zero(ctx, all)); /* what the last rank lacks is sent, and not read */
    char *own = (char *)all->data + (size_t)(tp->rank * T) * row;
    size_t used = (size_t)fm_cols_of(x) * size;
    FM_TRY_GOTO(FM_KERNEL(ctx, copy_2d, own, row, x->data, used, used, T));
    FM_TRY_GOTO(fm_all_gather_now(tp, ctx, x->dtype, all->data, own, T * width));
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, x->ndim, shape));
    for (int64_t r = 0; r < tp->size; r++) {
        int64_t n = V - r * width < width ? V - r * width : width;
        FM_TRY_GOTO(FM_KERNEL(ctx, copy_2d, (char *)made->data + (size_t)(r * width) * size,
                              (size_t)V * size, (const char *)all->data + (size_t)(r * T) * row,
                              row, (size_t)n * size, T));
    }
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .grads_only = true,
                                                 .backward = gather_backward,
                                                 .inputs = {x},
                                                 .n_inputs = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &first,
                                                 .attrs_size = sizeof first}));
out:
    fm_tensor_free(all);
    return fm_op_end(status, y, made);
}
