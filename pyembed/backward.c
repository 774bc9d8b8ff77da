/* Whose backward is it: the tape's alone, or an optimiser's next micro-batch. */
#include "pyembed/optim_type.h"
#include "pyembed/tensor_type.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

#include <stdlib.h>

typedef struct stack {
    fm_node **items;
    int64_t n, size;
} stack;

static fm_status push(fm_ctx *ctx, stack *s, fm_node *node) {
    if (!node || node->visited == ctx->walks) return FM_OK;
    node->visited = ctx->walks;
    if (s->n == s->size) {
        int64_t size = s->size ? 2 * s->size : 256;
        fm_node **items = realloc(s->items, (size_t)size * sizeof *items);
        FM_CHECK(items, FM_ERR_OOM, "out of memory: a walk over %lld operations", (long long)size);
        s->items = items;
        s->size = size;
    }
    s->items[s->n++] = node;
    return FM_OK;
}

/* The optimiser whose parameters `loss` was computed from; NULL: none. */
static fm_status find_optim(fm_ctx *ctx, fm_tensor *loss, fm_optim **out) {
    stack todo = {0};
    fm_status status = FM_OK;
    *out = NULL;
    ctx->walks++;
    FM_TRY_GOTO(push(ctx, &todo, loss->node));
    while (todo.n > 0) {
        fm_node *node = todo.items[--todo.n];
        for (int i = 0; i < node->n_inputs; i++) {
            fm_tensor *x = node->inputs[i];
            if (!x) continue;
            FM_TRY_GOTO(push(ctx, &todo, x->node));
            if (x->node || !x->requires_grad) continue;
            fm_optim *o = fm_optim_of_storage(x->storage);
            FM_CHECK_GOTO(!o || !*out || o == *out, FM_ERR_UNSUPPORTED,
                          "backward: the loss reaches the parameters of two optimisers; one "
                          "optimiser over a Module of both is what works");
            if (o) *out = o;
        }
    }
out:
    free(todo.items);
    return status;
}

/* Σ y·dy: differentiating it is differentiating y with dy, and it counts as a loss. */
static fm_status weigh(fm_ctx *ctx, fm_tensor *y, fm_tensor *dy, fm_tensor **loss) {
    fm_tensor *product = NULL, *wide = NULL;
    fm_status status = FM_OK;
    *loss = NULL;
    FM_TRY_GOTO(fm_mul(ctx, &product, y, dy));
    FM_TRY_GOTO(fm_cast(ctx, &wide, product, FM_F32));
    FM_TRY_GOTO(fm_sum(ctx, loss, wide, 1.0f));
out:
    fm_tensor_free(product);
    fm_tensor_free(wide);
    return status;
}

fm_status fm_py_backward(fm_ctx *ctx, fm_tensor *loss, fm_tensor *dloss, fm_tensor *lm_loss) {
    fm_optim *o;
    FM_TRY(find_optim(ctx, loss, &o));
    if (!o) return fm_backward(ctx, loss, dloss);
    if (!dloss) {
        FM_CHECK(fm_numel(loss) == 1, FM_ERR_SHAPE,
                 "backward: a loss of %lld elements needs grad, of its shape",
                 (long long)fm_numel(loss));
        return fm_optim_backward(o, loss, lm_loss ? lm_loss : loss);
    }
    fm_tensor *weighed;
    FM_TRY(weigh(ctx, loss, dloss, &weighed));
    fm_status s = fm_optim_backward(o, weighed, weighed);
    fm_tensor_free(weighed);
    return s;
}
