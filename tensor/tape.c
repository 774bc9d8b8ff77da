#include "tensor/tape.h"

#include "tensor/ctx.h"

#include <stdlib.h>
#include <string.h>

bool fm_needs_grad(const fm_ctx *ctx, const fm_tensor *t) {
    return t && ctx->grad_enabled && t->requires_grad;
}

bool fm_grad_enable(fm_ctx *ctx, bool on) {
    bool was = ctx->grad_enabled;
    ctx->grad_enabled = on;
    return was;
}

/* ---- nodes */

/* Drops what a node holds; it keeps its place in the graph. */
static void release_contents(fm_node *n) {
    for (int i = 0; i < n->n_saved; i++) fm_tensor_free(n->saved[i]), n->saved[i] = NULL;
    for (int i = 0; i < n->n_inputs; i++) fm_tensor_free(n->inputs[i]), n->inputs[i] = NULL;
    for (int i = 0; i < n->n_outputs; i++) fm_tensor_free(n->dout[i]), n->dout[i] = NULL;
}

void fm_node_free(fm_node *n) {
    if (!n || --n->refs > 0) return;
    fm_ctx *ctx = n->ctx;
    n->next_dying = ctx->dying;
    ctx->dying = n;
    if (ctx->draining) return;
    ctx->draining = true;
    while (ctx->dying) {
        fm_node *dead = ctx->dying;
        ctx->dying = dead->next_dying;
        release_contents(dead); /* may put more nodes on the list */
        if (dead->free_attrs)
            dead->free_attrs(dead->attrs);
        else
            free(dead->attrs);
        free(dead);
        ctx->live_nodes--;
    }
    ctx->draining = false;
}

/* What the node keeps of an input. A leaf that wants a gradient has it itself, and its memory is
 * somebody's anyway. */
static fm_status keep_input(fm_ctx *ctx, fm_tensor **kept, fm_tensor *t, bool grads_only) {
    if (t && grads_only && (t->node || !t->requires_grad)) return fm_tensor_shadow(ctx, kept, t);
    *kept = fm_tensor_retain(t);
    return FM_OK;
}

fm_status fm_tape_record(fm_ctx *ctx, const fm_record *r) {
    bool wanted = r->always && ctx->grad_enabled;
    for (int i = 0; i < r->n_inputs; i++) wanted |= fm_needs_grad(ctx, r->inputs[i]);
    if (!wanted) return FM_OK;
    fm_node *n = calloc(1, sizeof *n);
    FM_CHECK(n, FM_ERR_OOM, "out of memory: a node of the tape");
    if (r->attrs_size) {
        n->attrs = malloc(r->attrs_size);
        if (!n->attrs) {
            free(n);
            return fm_fail(&ctx->error, FM_ERR_OOM, "out of memory: a node of the tape");
        }
        memcpy(n->attrs, r->attrs, r->attrs_size);
    }
    n->ctx = ctx;
    n->seq = ++ctx->next_seq;
    n->name = r->name;
    n->backward = r->backward;
    n->free_attrs = r->free_attrs;
    n->n_inputs = r->n_inputs, n->n_saved = r->n_saved, n->n_outputs = r->n_outputs;
    for (int i = 0; i < r->n_inputs; i++) {
        fm_status status = keep_input(ctx, &n->inputs[i], r->inputs[i], r->grads_only);
        if (status == FM_OK) continue;
        release_contents(n);
        free(n->attrs);
        free(n);
        return status;
    }
    for (int i = 0; i < r->n_saved; i++) n->saved[i] = fm_tensor_retain(r->saved[i]);
    for (int i = 0; i < r->n_outputs; i++) {
        fm_tensor *y = r->outputs[i];
        if (!y) continue;
        y->node = n;
        y->node_output = i;
        y->requires_grad = true;
        n->refs++;
    }
    ctx->live_nodes++;
    return FM_OK;
}

/* ---- gradients of inputs */

/* Where the gradient of a tensor is kept: its leaf grad, or its node's dout. */
static fm_tensor **grad_place(fm_tensor *t) {
    return t->node ? &t->node->dout[t->node_output] : &t->grad;
}

static bool grad_present(const fm_tensor *t) {
    return t->node ? t->node->dout[t->node_output] != NULL : t->grad && t->grad_is_set;
}

/* Makes the kept gradient a tensor that may be written: there, and seen by nobody else. */
static fm_status own_grad(fm_ctx *ctx, fm_tensor *t) {
    fm_tensor **place = grad_place(t);
    if (!*place) {
        fm_dtype dtype = t->node ? t->dtype : FM_F32;
        return fm_tensor_new(ctx, place, dtype, t->ndim, t->shape);
    }
    /* A leaf's gradient is written where it stands, in its flat buffer. */
    if (!t->node || fm_tensor_exclusive(*place)) return FM_OK;
    fm_tensor *copy;
    FM_TRY(fm_tensor_new(ctx, &copy, (*place)->dtype, t->ndim, t->shape));
    fm_status status = FM_KERNEL(ctx, copy, copy->data, (*place)->data, fm_nbytes(copy));
    if (status != FM_OK) {
        fm_tensor_free(copy);
        return status;
    }
    fm_tensor_free(*place);
    *place = copy;
    return FM_OK;
}

fm_status fm_grad_begin(fm_ctx *ctx, fm_tensor *input, fm_dtype dtype, fm_grad *g) {
    *g = (fm_grad){0};
    if (!input || !input->requires_grad) return FM_OK;
    g->input = input;
    g->present = grad_present(input);
    FM_TRY(own_grad(ctx, input));
    g->target = *grad_place(input);
    if (g->target->dtype == dtype) {
        g->data = g->target->data;
        g->accumulate = g->present;
        return FM_OK;
    }
    FM_CHECK(ctx->n_scratch < FM_NODE_MAX_INPUTS, FM_ERR_STATE,
             "backward: more than %d gradients begun and not ended", FM_NODE_MAX_INPUTS);
    FM_TRY(fm_tensor_new(ctx, &g->scratch, dtype, input->ndim, input->shape));
    ctx->scratch[ctx->n_scratch++] = g->scratch; /* found there if the operation fails */
    g->data = g->scratch->data;
    return FM_OK;
}

fm_status fm_grad_end(fm_ctx *ctx, fm_grad *g) {
    if (!g->data) return FM_OK;
    fm_status status = FM_OK;
    fm_tensor *t = g->input;
    if (g->scratch)
        status = FM_KERNEL(ctx, scale, g->target->dtype, g->target->data, g->scratch->dtype,
                           g->scratch->data, 1.0f, fm_numel(g->target), g->present);
    if (!t->node) t->grad_is_set = true;
    g->data = NULL;
    return status;
}

fm_status fm_grad_pass(fm_ctx *ctx, fm_tensor *input, fm_tensor *dy) {
    if (!input || !input->requires_grad || !dy) return FM_OK;
    if (input->node && !grad_present(input) && dy->dtype == input->dtype) {
        fm_tensor *same;
        FM_TRY(fm_tensor_view(ctx, &same, dy, input->ndim, input->shape));
        *grad_place(input) = same;
        return FM_OK;
    }
    bool present = grad_present(input);
    FM_TRY(own_grad(ctx, input));
    fm_tensor *target = *grad_place(input);
    FM_TRY(FM_KERNEL(ctx, scale, target->dtype, target->data, dy->dtype, dy->data, 1.0f,
                     fm_numel(target), present));
    if (!input->node) input->grad_is_set = true;
    return FM_OK;
}

void fm_zero_grad(fm_tensor *leaf) { leaf->grad_is_set = false; }

/* ---- the walk */

typedef struct node_list {
    fm_node **items;
    int64_t n, room;
} node_list;

static bool is_leaf(const fm_tensor *t) { return t && !t->node; }

static void expect_leaves(fm_node *n) {
    for (int i = 0; i < n->n_inputs; i++)
        if (is_leaf(n->inputs[i])) n->inputs[i]->pending++;
}

/* The node has made its contributions to them, or never will. */
static fm_status leave_leaves(fm_ctx *ctx, fm_node *n, bool tell) {
    fm_status status = FM_OK;
    for (int i = 0; i < n->n_inputs; i++) {
        fm_tensor *leaf = n->inputs[i];
        if (!is_leaf(leaf) || --leaf->pending > 0) continue;
        if (tell && status == FM_OK && ctx->on_leaf.fn && leaf->requires_grad)
            status = ctx->on_leaf.fn(ctx->on_leaf.user, leaf);
    }
    return status;
}

/* Adds a node once per walk, with a reference, and the nodes behind it later. */
static fm_status meet(fm_ctx *ctx, node_list *list, fm_node *n) {
    if (!n || n->visited == ctx->walks) return FM_OK;
    FM_CHECK(!n->done, FM_ERR_STATE,
             "backward: the graph was used already (at operation %s); run the forward again",
             n->name);
    if (list->n == list->room) {
        int64_t room = list->room ? 2 * list->room : 256;
        fm_node **items = realloc(list->items, (size_t)room * sizeof *items);
        FM_CHECK(items, FM_ERR_OOM, "out of memory: the tape's list of nodes");
        list->items = items;
        list->room = room;
    }
    n->visited = ctx->walks;
    n->refs++;
    list->items[list->n++] = n;
    expect_leaves(n);
    return FM_OK;
}

static int newest_first(const void *a, const void *b) {
    uint64_t x = (*(fm_node *const *)a)->seq, y = (*(fm_node *const *)b)->seq;
    return x < y ? 1 : x > y ? -1 : 0;
}

static fm_status run_node(fm_ctx *ctx, fm_node *n) {
    bool wanted = false;
    for (int i = 0; i < n->n_outputs; i++) wanted |= n->dout[i] != NULL;
    fm_status status = FM_OK;
    if (wanted) {
        status = n->backward(ctx, n);
        if (status != FM_OK) fm_fail_context(&ctx->error, status, "backward of %s", n->name);
    }
    n->done = true;
    fm_status told = leave_leaves(ctx, n, status == FM_OK);
    if (status == FM_OK) status = told;
    while (ctx->n_scratch > 0) fm_tensor_free(ctx->scratch[--ctx->n_scratch]);
    release_contents(n); /* activations go as soon as they are used */
    return status;
}

static fm_status start(fm_ctx *ctx, fm_tensor *root, fm_tensor *grad) {
    char a[96], b[96];
    FM_CHECK(root->requires_grad, FM_ERR_STATE,
             "backward: %s does not depend on anything that requires a gradient",
             fm_tensor_describe(root, a, sizeof a));
    FM_CHECK(fm_same_shape(root, grad), FM_ERR_SHAPE,
             "backward: the gradient is %s; it must have the shape of what is differentiated, %s",
             fm_tensor_describe(grad, a, sizeof a), fm_tensor_describe(root, b, sizeof b));
    return fm_grad_pass(ctx, root, grad);
}

fm_status fm_backward_many(fm_ctx *ctx, fm_tensor **roots, fm_tensor **grads, int n) {
    node_list list = {0};
    fm_status status = FM_OK;
    /* Operations called by a backward must not record themselves. */
    bool was = fm_grad_enable(ctx, false);
    ctx->walks++;
    for (int i = 0; i < n; i++)
        if (grads[i]) FM_TRY_GOTO(meet(ctx, &list, roots[i]->node));
    for (int64_t i = 0; i < list.n; i++) {
        fm_node *node = list.items[i];
        for (int j = 0; j < node->n_inputs; j++)
            if (node->inputs[j]) FM_TRY_GOTO(meet(ctx, &list, node->inputs[j]->node));
    }
    for (int i = 0; i < n; i++)
        if (grads[i]) FM_TRY_GOTO(start(ctx, roots[i], grads[i]));
    /* An input is always older than what was computed from it. */
    if (list.n) qsort(list.items, (size_t)list.n, sizeof *list.items, newest_first);
    for (int64_t i = 0; i < list.n; i++) {
        FM_TRY_GOTO(run_node(ctx, list.items[i]));
        fm_node_free(list.items[i]);
        list.items[i] = NULL;
    }
out:
    for (int64_t i = 0; i < list.n; i++) {
        fm_node *node = list.items[i];
        if (!node) continue;
        if (!node->done) (void)leave_leaves(ctx, node, false);
        for (int j = 0; j < node->n_outputs; j++)
            fm_tensor_free(node->dout[j]), node->dout[j] = NULL;
        fm_node_free(node);
    }
    free(list.items);
    fm_grad_enable(ctx, was);
    return status;
}

fm_status fm_backward(fm_ctx *ctx, fm_tensor *loss, fm_tensor *dloss) {
    char buf[96];
    if (dloss) return fm_backward_many(ctx, &loss, &dloss, 1);
    FM_CHECK(fm_numel(loss) == 1, FM_ERR_SHAPE, "backward: %s is not one number; give its gradient",
             fm_tensor_describe(loss, buf, sizeof buf));
    fm_tensor *one;
    FM_TRY(fm_tensor_new(ctx, &one, loss->dtype, loss->ndim, loss->shape));
    fm_status status = FM_KERNEL(ctx, fill, loss->dtype, one->data, 1.0f, fm_numel(one));
    if (status == FM_OK) status = fm_backward_many(ctx, &loss, &one, 1);
    fm_tensor_free(one);
    return status;
}
