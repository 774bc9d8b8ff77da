/* Activation recomputation (Chen et al. 2016): memory for a second forward. */
#include "tensor/ctx.h"
#include "tensor/tape.h"

#include <stdlib.h>
#include <string.h>

typedef struct recompute_attrs {
    fm_recompute_fn fn;
    void *user;
    fm_keep keep;
    fm_clock clock; /* by which the first pass drew random numbers */
    fm_rows rows;
} recompute_attrs;

static void free_attrs(void *p) {
    recompute_attrs *a = p;
    if (a && a->keep.release) a->keep.release(a->keep.what);
    if (a) free(a->user);
    free(a);
}

static void free_all(fm_tensor **t, int n) {
    for (int i = 0; i < n; i++) fm_tensor_free(t[i]), t[i] = NULL;
}

static fm_status recompute_backward(fm_ctx *ctx, fm_node *node) {
    const recompute_attrs *a = node->attrs;
    fm_tensor *inputs[FM_NODE_MAX_INPUTS] = {0}, *outputs[FM_NODE_MAX_OUTPUTS] = {0};
    fm_status status = FM_OK;
    bool was_recomputing = ctx->recomputing;
    const fm_clock *clock = ctx->clock;
    for (int i = 0; i < node->n_inputs; i++) {
        if (!node->inputs[i]) continue;
        FM_TRY_GOTO(fm_tensor_detach(ctx, &inputs[i], node->inputs[i]));
        inputs[i]->requires_grad = node->inputs[i]->requires_grad;
    }
    ctx->recomputing = true;
    ctx->clock = &a->clock;
    fm_rows rows = fm_rows_enter(ctx, a->rows);
    bool was = fm_grad_enable(ctx, true);
    status = a->fn(ctx, a->user, inputs, outputs);
    fm_grad_enable(ctx, was);
    ctx->recomputing = was_recomputing;
    ctx->clock = clock;
    ctx->rows = rows;
    if (status != FM_OK) goto out;

    fm_tensor *grads[FM_NODE_MAX_OUTPUTS] = {0};
    for (int i = 0; i < node->n_outputs; i++)
        if (outputs[i] && outputs[i]->requires_grad) grads[i] = node->dout[i];
    FM_TRY_GOTO(fm_backward_many(ctx, outputs, grads, node->n_outputs));
    for (int i = 0; i < node->n_inputs; i++)
        if (inputs[i] && inputs[i]->grad_is_set)
            FM_TRY_GOTO(fm_grad_pass(ctx, node->inputs[i], inputs[i]->grad));
out:
    free_all(outputs, node->n_outputs);
    free_all(inputs, node->n_inputs);
    return status;
}

fm_status fm_recompute(fm_ctx *ctx, fm_recompute_fn fn, const void *user, size_t user_size,
                       const fm_keep *keep, fm_tensor **inputs, int n_inputs, fm_tensor **outputs,
                       int n_outputs) {
    FM_CHECK(n_inputs <= FM_NODE_MAX_INPUTS && n_outputs <= FM_NODE_MAX_OUTPUTS, FM_ERR_VALUE,
             "recompute: %d inputs and %d outputs; at most %d and %d", n_inputs, n_outputs,
             FM_NODE_MAX_INPUTS, FM_NODE_MAX_OUTPUTS);
    memset(outputs, 0, (size_t)n_outputs * sizeof *outputs);
    if (!ctx->grad_enabled) return fn(ctx, (void *)(uintptr_t)user, inputs, outputs);

    recompute_attrs a = {.fn = fn,
                         .user = malloc(user_size ? user_size : 1),
                         .clock = *ctx->clock,
                         .rows = ctx->rows};
    FM_CHECK(a.user, FM_ERR_OOM, "out of memory: a recomputed block's arguments");
    memcpy(a.user, user, user_size);
    fm_grad_enable(ctx, false);
    fm_status status = fn(ctx, a.user, inputs, outputs);
    fm_grad_enable(ctx, true);
    /* fn may hand an input or a parameter on; recording changes only tensors of our own. */
    for (int i = 0; i < n_outputs && status == FM_OK; i++) {
        fm_tensor *made = outputs[i];
        if (!made) continue;
        status = fm_tensor_detach(ctx, &outputs[i], made);
        fm_tensor_free(made);
    }
    if (status == FM_OK) {
        if (keep && keep->retain) {
            keep->retain(keep->what);
            a.keep = *keep;
        }
        fm_record r = {.name = "recompute",
                       .backward = recompute_backward,
                       .n_inputs = n_inputs,
                       .n_outputs = n_outputs,
                       .always = true, /* the parameters are inside */
                       .attrs = &a,
                       .attrs_size = sizeof a,
                       .free_attrs = free_attrs};
        for (int i = 0; i < n_inputs; i++) r.inputs[i] = inputs[i];
        for (int i = 0; i < n_outputs; i++) r.outputs[i] = outputs[i];
        status = fm_tape_record(ctx, &r);
    }
    if (status != FM_OK) {
        if (a.keep.release) a.keep.release(a.keep.what);
        free(a.user);
        free_all(outputs, n_outputs);
    }
    return status;
}
