/* The head and the loss as one: loss = factor Σ_t nll_t of logits = x wᵀ + b.
 *
 * Logits are the largest tensor of a language model's step. Where they fit into the budget they are
 * kept, and backward turns them into their own gradient where they lie. Else they exist only as a
 * chunk of rows at a time, and backward computes each chunk again. */
#include "tensor/ops/loss.h"

/* Chunks are not made smaller than this, whatever the budget: w is read once per chunk. */
#ifdef FM_HOSTILE
enum { MIN_CHUNK = 3 };
#else
enum { MIN_CHUNK = 32 };
#endif

typedef struct lce_attrs {
    float factor;
    int64_t chunk; /* rows */
} lce_attrs;

/* `width` classes, the same on all ranks that have a part: so are the chunks, and what is kept. */
static int64_t chunk_rows(const fm_ctx *ctx, const fm_tensor *w, int64_t width, int64_t T) {
    size_t row = (size_t)width * fm_dtype_size(w->dtype);
    size_t rows = row > 0 ? ctx->logits_budget / row : (size_t)T;
    if (rows >= (size_t)T) return T;
    return rows < MIN_CHUNK ? (T < MIN_CHUNK ? T : MIN_CHUNK) : (int64_t)rows;
}

/* `rows` rows of the layer from row `at` on. */
static fm_linear_args layer(const fm_tensor *x, const fm_tensor *w, const fm_tensor *b, int64_t at,
                            int64_t rows) {
    size_t bytes = (size_t)(at * fm_cols_of(x)) * fm_dtype_size(x->dtype);
    return (fm_linear_args){.dt = x->dtype,
                            .T = rows,
                            .in = w->shape[1],
                            .out = w->shape[0],
                            .E = 1,
                            .x = (const char *)x->data + bytes,
                            .w = w->data,
                            .b = b ? b->data : NULL};
}

/* Inputs x, w, b; saved: target (of a part: its local_ids), lse, logits (NULL: to be computed again) */
static fm_status lce_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *x = node->inputs[0], *w = node->inputs[1], *b = node->inputs[2];
    const int32_t *target = node->saved[0]->data;
    const float *lse = node->saved[1]->data;
    fm_tensor *logits = fm_tensor_retain(node->saved[2]), *dloss = node->dout[0];
    const lce_attrs *attrs = node->attrs;
    int64_t T = fm_rows_of(x), V = w->shape[0];
    size_t x_row = (size_t)w->shape[1] * fm_dtype_size(x->dtype);
    bool kept = logits != NULL;
    fm_status status = FM_OK;
    if (!dloss) goto out;
    fm_grad dx, dw, db;
    FM_TRY_GOTO(fm_grad_begin(ctx, w, FM_F32, &dw));
    FM_TRY_GOTO(fm_grad_begin(ctx, b, FM_F32, &db));
    FM_TRY_GOTO(fm_grad_begin(ctx, x, x->dtype, &dx));
    if (!kept) FM_TRY_GOTO(FM_NEW(ctx, &logits, x->dtype, attrs->chunk, V));
    for (int64_t at = 0; at < T || at == 0; at += attrs->chunk) {
        int64_t rows = T - at < attrs->chunk ? T - at : attrs->chunk;
        fm_linear_args args = layer(x, w, b, at, rows);
        args.y = logits->data;
        if (!kept) FM_TRY_GOTO(FM_KERNEL(ctx, linear_forward, &args));
        FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_backward, x->dtype, logits->data, logits->data,
                              lse + at, target + at, dloss->data, attrs->factor, rows, V));
        if (dw.data || db.data) {
            FM_TRY_GOTO(FM_KERNEL(ctx, linear_backward_weight, &args, dw.data,
                                  dw.accumulate || at > 0, db.data, db.accumulate || at > 0,
                                  logits->data));
        }
        if (dx.data) {
            FM_TRY_GOTO(FM_KERNEL(ctx, linear_backward_input, &args,
                                  (char *)dx.data + (size_t)at * x_row, logits->data,
                                  dx.accumulate));
        }
        if (attrs->chunk == 0) break;
    }
    FM_TRY_GOTO(fm_grad_end(ctx, &dw));
    FM_TRY_GOTO(fm_grad_end(ctx, &db));
    FM_TRY_GOTO(fm_grad_end(ctx, &dx));
out:
    fm_tensor_free(logits);
    return status;
}

static fm_status lce_check(fm_ctx *ctx, fm_tensor *x, fm_tensor *w, fm_tensor *b) {
    static const char op[] = "linear_cross_entropy";
    FM_TRY(fm_check_float(ctx, op, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "x", x, 1, FM_MAX_DIMS));
    FM_TRY(fm_check_same_dtype(ctx, op, "w", w, "x", x));
    FM_TRY(fm_check_ndim(ctx, op, "w", w, 2, 2));
    FM_CHECK(fm_cols_of(x) == w->shape[1], FM_ERR_SHAPE,
             "%s: x is %s; its last dimension must be w's second, %" PRId64 " (w is %s)", op,
             FM_TEXT(x), w->shape[1], FM_TEXT(w));
    FM_CHECK(x != w, FM_ERR_VALUE, "%s: w is the same tensor as x; they must be two", op);
    if (b) FM_TRY(fm_check_vector(ctx, op, "b", b, w->shape[0], "w", w));
    FM_CHECK(x != b, FM_ERR_VALUE, "%s: b is the same tensor as x; they must be two", op);
    return FM_OK;
}

/* What the ranks' parts make together. own [2, T]: lse and loss of this one. */
static fm_status merge(fm_ctx *ctx, const fm_vocab_part *part, float *terms, float *lse,
                       const fm_tensor *own, const int32_t *target) {
    int64_t n = fm_numel(own);
    fm_tensor *all = NULL;
    fm_status status;
    FM_TRY_GOTO(FM_NEW(ctx, &all, FM_F32, part->n_parts, n));
    FM_TRY_GOTO(part->gather(ctx, part->user, all->data, own->data, n));
    FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_merge, terms, lse, all->data, target, part->width,
                          part->n_parts, n / 2));
out:
    fm_tensor_free(all);
    return status;
}

fm_status fm_linear_cross_entropy_part(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses,
                                       fm_tensor *x, fm_tensor *w, fm_tensor *b, fm_tensor *target,
                                       double denominator, const fm_vocab_part *part) {
    *loss = NULL;
    if (losses) *losses = NULL;
    lce_attrs attrs;
    FM_TRY(lce_check(ctx, x, w, b));
    int64_t T = fm_rows_of(x), V = w->shape[0];
    FM_TRY(fm_check_target(ctx, "linear_cross_entropy", target, "x", x, part ? part->V : V,
                           denominator, &attrs.factor));
    attrs.chunk = chunk_rows(ctx, w, part ? part->width : V, T);
    bool record = fm_needs_grad(ctx, x) || fm_needs_grad(ctx, w) || fm_needs_grad(ctx, b);
    fm_tensor *made = NULL, *terms = NULL, *lse = NULL, *logits = NULL, *own = NULL, *ids = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_new(ctx, &terms, FM_F32, target->ndim, target->shape));
    FM_TRY_GOTO(FM_NEW(ctx, &lse, FM_F32, T));
    FM_TRY_GOTO(FM_NEW(ctx, &logits, x->dtype, attrs.chunk, V));
    float *to_lse = lse->data, *to_terms = terms->data;
    if (part) {
        FM_TRY_GOTO(FM_NEW(ctx, &own, FM_F32, 2, T));
        FM_TRY_GOTO(FM_NEW(ctx, &ids, FM_I32, T));
        FM_TRY_GOTO(FM_KERNEL(ctx, local_ids, ids->data, target->data, part->first, V, T));
        to_lse = own->data;
        to_terms = to_lse + T;
    } else {
        ids = fm_tensor_retain(target);
    }
    for (int64_t at = 0; at < T; at += attrs.chunk) {
        int64_t rows = T - at < attrs.chunk ? T - at : attrs.chunk;
        fm_linear_args args = layer(x, w, b, at, rows);
        args.y = logits->data;
        FM_TRY_GOTO(FM_KERNEL(ctx, linear_forward, &args));
        FM_TRY_GOTO(FM_KERNEL(ctx, cross_entropy_forward, x->dtype, to_terms + at, to_lse + at,
                              logits->data, (const int32_t *)ids->data + at, rows, V));
    }
    if (part) FM_TRY_GOTO(merge(ctx, part, terms->data, lse->data, own, target->data));
    FM_TRY_GOTO(fm_sum_losses(ctx, &made, terms, attrs.factor));
    bool keep = record && attrs.chunk == T;
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "linear_cross_entropy",
                                                 .backward = lce_backward,
                                                 .inputs = {x, w, b},
                                                 .n_inputs = 3,
                                                 .saved = {ids, lse, keep ? logits : NULL},
                                                 .n_saved = 3,
                                                 .outputs = {made},
                                                 .n_outputs = 1,
                                                 .attrs = &attrs,
                                                 .attrs_size = sizeof attrs}));
    if (losses) *losses = fm_tensor_retain(terms);
out:
    fm_tensor_free(logits);
    fm_tensor_free(terms);
    fm_tensor_free(lse);
    fm_tensor_free(own);
    fm_tensor_free(ids);
    return fm_op_end(status, loss, made);
}

fm_status fm_linear_cross_entropy(fm_ctx *ctx, fm_tensor **loss, fm_tensor **losses, fm_tensor *x,
                                  fm_tensor *w, fm_tensor *b, fm_tensor *target,
                                  double denominator) {
    return fm_linear_cross_entropy_part(ctx, loss, losses, x, w, b, target, denominator, NULL);
}
