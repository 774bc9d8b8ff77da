/* The autograd tape.
 *
 * A differentiable operation computes its outputs and, when gradients are wanted,
 * records a node: its inputs, what it saved, and its backward function. Nodes carry
 * a rising number; fm_backward visits those that the loss depends on in falling
 * order, once, and frees each one's saved tensors as soon as it has run.
 *
 * An operation's backward asks for a place to write each input's gradient:
 *
 *     fm_grad g;
 *     FM_TRY(fm_grad_begin(ctx, x, FM_F32, &g));
 *     if (g.data) FM_TRY(FM_KERNEL(ctx, some_backward, g.data, ..., g.accumulate));
 *     FM_TRY(fm_grad_end(ctx, &g));
 *
 * so that weight gradients are added by the kernel itself where they belong (the
 * flat gradient buffer), and the first contribution overwrites: nothing is cleared
 * or copied in between. Gradients of leaves are fp32; of intermediates, their dtype.
 */
#ifndef FM_TENSOR_TAPE_H
#define FM_TENSOR_TAPE_H
#include "tensor/tensor.h"

enum { FM_NODE_MAX_INPUTS = 6, FM_NODE_MAX_SAVED = 8, FM_NODE_MAX_OUTPUTS = 4 };

/* `node->dout[i]` is the gradient of output i, or NULL: nothing depended on it (zero). */
typedef fm_status (*fm_backward_fn)(fm_ctx *ctx, fm_node *node);

struct fm_node {
    fm_ctx *ctx;
    int refs; /* one per living output, one while the tape works on it */
    uint64_t seq;
    uint64_t visited;    /* the last walk that met it */
    fm_node *next_dying; /* list of nodes to free, so that long chains need no recursion */
    const char *name;    /* static string: for messages, profiles, the watchdog */
    fm_backward_fn backward;
    int n_inputs, n_saved, n_outputs;
    fm_tensor *inputs[FM_NODE_MAX_INPUTS]; /* references held */
    fm_tensor *saved[FM_NODE_MAX_SAVED];   /* references held */
    fm_tensor *dout[FM_NODE_MAX_OUTPUTS];
    bool done;                       /* backward has run: a second one is an error */
    void *attrs;                     /* the operation's parameters; freed with the node */
    void (*free_attrs)(void *attrs); /* NULL: free() */
};

/* True where an operation with this input has to record itself. */
bool fm_needs_grad(const fm_ctx *ctx, const fm_tensor *t); /* NULL: false */

/* Records a node for `outputs` when gradients are enabled and any input needs one; else does
 * nothing (and `*node_out` is NULL). Lists end with their counts; NULL inputs are allowed and
 * skipped by fm_grad_begin. `attrs` (size bytes) is copied. On an error outputs are untouched. */
typedef struct fm_record {
    const char *name;
    fm_backward_fn backward;
    fm_tensor *inputs[FM_NODE_MAX_INPUTS];
    int n_inputs;
    fm_tensor *saved[FM_NODE_MAX_SAVED];
    int n_saved;
    fm_tensor *outputs[FM_NODE_MAX_OUTPUTS];
    int n_outputs;
    bool grads_only; /* backward reads no values of inputs: theirs need not be kept for it */
    bool always;     /* record though no input needs a gradient: parameters are inside */
    const void *attrs;
    size_t attrs_size;
    void (*free_attrs)(void *attrs);
} fm_record;
fm_status fm_tape_record(fm_ctx *ctx, const fm_record *r);

/* Where to put one input's gradient. data == NULL: that input needs none. */
typedef struct fm_grad {
    void *data;
    bool accumulate; /* add to data; else overwrite */
    bool present;    /* target holds a sum already */
    fm_tensor *input, *target, *scratch;
} fm_grad;
/* `dtype` is what the kernel will write; where the gradient is kept in another, a scratch tensor
 * stands in and fm_grad_end adds it. After an error between the two, the walk cleans up. */
fm_status fm_grad_begin(fm_ctx *ctx, fm_tensor *input, fm_dtype dtype, fm_grad *g);
fm_status fm_grad_end(fm_ctx *ctx, fm_grad *g);
/* Hands the tensor `dy` on as (a contribution to) the gradient of `input`: no copy where it is the
 * first. For operations that pass gradients through: add, reshape, all-reduce. */
fm_status fm_grad_pass(fm_ctx *ctx, fm_tensor *input, fm_tensor *dy);

/* Runs the tape from `loss`. `dloss` NULL means 1 and needs a one-element loss; else it has the
 * loss's shape. Leaf gradients accumulate over calls until fm_zero_grad.
 * FM_ERR_STATE: nothing to differentiate, or the graph was used already. */
fm_status fm_backward(fm_ctx *ctx, fm_tensor *loss, fm_tensor *dloss);
/* The same from several tensors at once; pairs with a NULL gradient are skipped. */
fm_status fm_backward_many(fm_ctx *ctx, fm_tensor **roots, fm_tensor **grads, int n);

/* The next gradient overwrites instead of adding. */
void fm_zero_grad(fm_tensor *leaf);

/* Activation recomputation: runs fn without recording, keeps only `inputs`; backward runs it again
 * with recording and differentiates that. fn must be a function of its inputs (and parameters)
 * alone; random numbers repeat by themselves, being counted. `user` (size bytes) is copied; `keep`
 * (NULL, or without functions: nothing) holds what `user` points to for as long as a backward may come.
 * Up to FM_NODE_MAX_OUTPUTS outputs. */
typedef struct fm_keep {
    void (*retain)(void *what), (*release)(void *what);
    void *what;
} fm_keep;
typedef fm_status (*fm_recompute_fn)(fm_ctx *ctx, void *user, fm_tensor **inputs,
                                     fm_tensor **outputs);
fm_status fm_recompute(fm_ctx *ctx, fm_recompute_fn fn, const void *user, size_t user_size,
                       const fm_keep *keep, fm_tensor **inputs, int n_inputs, fm_tensor **outputs,
                       int n_outputs);

/* Scoped no_grad: `bool was = fm_grad_enable(ctx, false); ...; fm_grad_enable(ctx, was);` */
bool fm_grad_enable(fm_ctx *ctx, bool on);

void fm_node_free(fm_node *n); /* drops one reference; NULL is legal */

#endif
