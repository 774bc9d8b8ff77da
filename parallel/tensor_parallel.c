#include "parallel/tensor_parallel.h"

#include "parallel/sequence.h"
#include "parallel/tape_collectives.h"
#include "tensor/ops/check.h"

/* ---- split by outputs */

typedef struct column_attrs {
    fm_comm *tp;
    fm_act act;
} column_attrs;

static fm_linear_args arguments(const fm_tensor *w, int64_t rows) {
    return (fm_linear_args){
        .dt = w->dtype, .T = rows, .in = w->shape[1], .out = w->shape[0], .E = 1, .w = w->data};
}

/* Inputs x, w, b; saved: pre (NULL: no activation). X = gather(x):
 *   dpre = dy act'(pre);  dx = scatter_sum(dpre w);  dw = dpreᵀ X;  db = Σ dpre
 * X is gathered while dpre w is computed, and dx summed up while dw is. */
static fm_status column_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *w = node->inputs[1], *b = node->inputs[2];
    fm_tensor *pre = node->saved[0], *dy = node->dout[0], *dpre = NULL, *whole = NULL;
    fm_tensor *dwhole = NULL, *dx = NULL;
    if (!dy) return FM_OK;
    const column_attrs *at = node->attrs;
    fm_linear_args args = arguments(w, fm_rows_of(dy));
    bool to_x = x->requires_grad, to_layer = w->requires_grad || (b && b->requires_grad);
    fm_sequence_move gather = {0}, sum = {0};
    fm_status status;
    if (to_layer) FM_TRY_GOTO(fm_sequence_gather_start(ctx, at->tp, x, &gather));
    if (at->act == FM_ACT_NONE) {
        dpre = fm_tensor_retain(dy);
    } else {
        FM_TRY_GOTO(fm_tensor_new(ctx, &dpre, dy->dtype, dy->ndim, dy->shape));
        FM_TRY_GOTO(FM_KERNEL(ctx, act_backward, dy->dtype, at->act, dpre->data, pre->data,
                              dy->data, args.T, args.out, false));
    }
    if (to_x) {
        FM_TRY_GOTO(FM_NEW(ctx, &dwhole, dy->dtype, dy->shape[0], dy->shape[1], args.in));
        FM_TRY_GOTO(FM_KERNEL(ctx, linear_backward_input, &args, dwhole->data, dpre->data, false));
    }
    if (to_layer) FM_TRY_GOTO(fm_sequence_gather_end(ctx, &gather, &whole));
    if (to_x) FM_TRY_GOTO(fm_sequence_sum_start(ctx, at->tp, dwhole, &sum));
    fm_tensor_free(dwhole); /* `sum` holds what it needs */
    dwhole = NULL;
    if (to_layer) {
        fm_grad dw, db;
        FM_TRY_GOTO(fm_grad_begin(ctx, w, FM_F32, &dw));
        FM_TRY_GOTO(fm_grad_begin(ctx, b, FM_F32, &db));
        args.x = whole->data;
        FM_TRY_GOTO(FM_KERNEL(ctx, linear_backward_weight, &args, dw.data, dw.accumulate, db.data,
                              db.accumulate, dpre->data));
        FM_TRY_GOTO(fm_grad_end(ctx, &dw));
        FM_TRY_GOTO(fm_grad_end(ctx, &db));
    }
    if (to_x) {
        FM_TRY_GOTO(fm_sequence_sum_end(ctx, &sum, &dx));
        FM_TRY_GOTO(fm_grad_pass(ctx, x, dx));
    }
out:
    fm_sequence_drop(ctx, &gather);
    fm_sequence_drop(ctx, &sum);
    fm_tensor_free(dpre);
    fm_tensor_free(whole);
    fm_tensor_free(dwhole);
    fm_tensor_free(dx);
    return status;
}

static fm_status check_layer(fm_ctx *ctx, const char *op, fm_tensor *x, fm_tensor *w,
                             fm_tensor *b) {
    FM_TRY(fm_check_float(ctx, op, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "x", x, 3, 3));
    FM_TRY(fm_check_same_dtype(ctx, op, "w", w, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "w", w, 2, 2));
    FM_CHECK(fm_cols_of(x) == w->shape[1], FM_ERR_SHAPE,
             "%s: x is %s; its last dimension must be w's second, %" PRId64 " (w is %s)", op,
             FM_TEXT(x), w->shape[1], FM_TEXT(w));
    return b ? fm_check_vector(ctx, op, "b", b, w->shape[0], "w", w) : FM_OK;
}

fm_status fm_column_linear(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                           fm_tensor *b, fm_act act) {
    static const char op[] = "column_linear";
    if (tp->size == 1) return fm_linear(ctx, y, x, w, b, act);
    *y = NULL;
    FM_TRY(check_layer(ctx, op, x, w, b));
    FM_CHECK(!fm_act_is_glu(act), FM_ERR_VALUE,
             "%s: act is %s; it may not be a glu (use activation behind it)", op, fm_act_name(act));
    bool recorded = fm_needs_grad(ctx, x) || fm_needs_grad(ctx, w) || fm_needs_grad(ctx, b);
    fm_tensor *made = NULL, *pre = NULL, *whole = NULL;
    fm_sequence_move gather = {0};
    column_attrs attrs = {tp, act};
    fm_status status;
    FM_TRY_GOTO(fm_sequence_gather_start(ctx, tp, x, &gather));
    FM_TRY_GOTO(fm_sequence_gather_end(ctx, &gather, &whole));
    int64_t shape[] = {whole->shape[0], whole->shape[1], w->shape[0]};
    fm_linear_args args = arguments(w, fm_rows_of(whole));
    FM_TRY_GOTO(fm_tensor_new(ctx, &made, x->dtype, 3, shape));
    if (act != FM_ACT_NONE && recorded) FM_TRY_GOTO(fm_tensor_new(ctx, &pre, x->dtype, 3, shape));
    args.x = whole->data;
    args.b = b ? b->data : NULL;
    args.act = act;
    args.y = made->data;
    args.pre = pre ? pre->data : NULL;
    FM_TRY_GOTO(FM_KERNEL(ctx, linear_forward, &args));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .backward = column_backward,
                                                 .inputs = {x, w, b},
                                                 .n_inputs = 3,
                                                 .saved = {pre},
                                                 .n_saved = 1,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &attrs,
                                                 .attrs_size = sizeof attrs}));
out:
    fm_sequence_drop(ctx, &gather);
    fm_tensor_free(pre);
    fm_tensor_free(whole);
    return fm_op_end(status, y, made);
}

/* ---- split by inputs */

typedef fm_status (*sum_fn)(fm_ctx *ctx, fm_comm *comm, fm_tensor **y, fm_tensor *x);

static fm_status row_linear(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                            fm_tensor *b, sum_fn add_up) {
    if (tp->size == 1) return fm_linear(ctx, y, x, w, b, FM_ACT_NONE);
    *y = NULL;
    FM_TRY(check_layer(ctx, "row_linear", x, w, b));
    fm_tensor *term = NULL, *sum = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_linear(ctx, &term, x, w, NULL, FM_ACT_NONE));
    FM_TRY_GOTO(add_up(ctx, tp, &sum, term));
    if (b)
        FM_TRY_GOTO(fm_add_rows(ctx, y, sum, b));
    else
        *y = fm_tensor_retain(sum);
out:
    fm_tensor_free(term);
    fm_tensor_free(sum);
    return status;
}

fm_status fm_row_linear(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                        fm_tensor *b) {
    return row_linear(ctx, tp, y, x, w, b, fm_scatter_sum_sequence);
}

fm_status fm_row_linear_whole(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x, fm_tensor *w,
                              fm_tensor *b) {
    return row_linear(ctx, tp, y, x, w, b, fm_all_reduce);
}

/* ---- placements */

static fm_status check_piece(fm_ctx *ctx, const fm_mesh *m, const fm_param_spec *spec,
                             const char *what, int64_t size) {
    FM_CHECK(size % m->config.tp == 0, FM_ERR_VALUE,
             "parameter %s: %s is %lld and tp %d; tp must divide it", spec->name, what,
             (long long)size, m->config.tp);
    return FM_OK;
}

fm_status fm_split_rows(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec, int n,
                        const int64_t *sizes) {
    int64_t tp = m->config.tp, from = 0;
    fm_placement *p = &spec->placement;
    if (tp == 1) return FM_OK;
    for (int i = 0; i < n; i++) {
        FM_TRY(check_piece(ctx, m, spec, "a part of dimension 0", sizes[i]));
        int64_t own = sizes[i] / tp;
        p->boxes[i] = p->boxes[0]; /* the other dimensions are whole */
        p->boxes[i].start[0] = from + m->at.tp_rank * own;
        p->boxes[i].stop[0] = p->boxes[i].start[0] + own;
        from += sizes[i];
    }
    p->n_boxes = n;
    p->replicas = FM_REPLICATED_DP;
    return FM_OK;
}

fm_status fm_split_columns(fm_ctx *ctx, const fm_mesh *m, fm_param_spec *spec) {
    int64_t tp = m->config.tp;
    fm_placement *p = &spec->placement;
    if (tp == 1) return FM_OK;
    FM_TRY(check_piece(ctx, m, spec, "dimension 1", p->global_shape[1]));
    int64_t own = p->global_shape[1] / tp;
    p->boxes[0].start[1] = m->at.tp_rank * own;
    p->boxes[0].stop[1] = p->boxes[0].start[1] + own;
    p->replicas = FM_REPLICATED_DP;
    return FM_OK;
}
