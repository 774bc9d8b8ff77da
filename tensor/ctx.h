/* The context: what every call needs and nothing global holds.
 *
 * Device, memory, random numbers, the tape's switches, and the last error. Two
 * contexts may live in one process; one context is used by one thread at a time.
 */
#ifndef FM_TENSOR_CTX_H
#define FM_TENSOR_CTX_H
#include "tensor/alloc.h"
#include "tensor/backend.h"
#include "tensor/tape.h"

typedef struct fm_profile fm_profile;
typedef struct fm_standing fm_standing; /* standing.h */

struct fm_ctx {
    fm_error error;
    fm_device *dev;
    fm_allocator *alloc;
    void *plugin; /* dlopen handle; NULL for the CPU */
    void (*close_device)(fm_device *);

    /* Random numbers: see rng.h. */
    uint64_t seed;
    const fm_clock *clock; /* of the model that computes; &own_clock: none does */
    fm_clock own_clock;
    fm_rows rows; /* of the global micro-batch, that this rank holds in the forward that runs */

    /* Called by a backward when a leaf has its whole gradient of it; what that runs inside
     * fm_recompute counts as well, and what is inside must be used nowhere else. fn NULL: nobody asks. */
    struct {
        fm_status (*fn)(void *user, fm_tensor *leaf);
        void *user;
    } on_leaf;

    bool grad_enabled; /* operations record themselves */
    uint64_t next_seq; /* number of the next node */
    uint64_t walks;    /* backward walks so far */
    fm_tensor
        *scratch[FM_NODE_MAX_INPUTS]; /* of the gradients that the running backward has begun */
    int n_scratch;
    fm_node *dying; /* see fm_node_free */
    bool draining;
    int64_t live_tensors, live_nodes;
    bool recomputing;     /* inside the second pass of fm_recompute */
    size_t logits_budget; /* bytes: larger logits are recomputed in backward, in chunks */

    fm_profile *profile;   /* NULL: off */
    const char *op;        /* the kernel that runs now, for error messages */
    fm_standing *standing; /* borrowed: what watchdogs look at. NULL: nobody does */
    void *user;            /* the room above that needs one (pyembed) */
};

/* device: "auto", "cpu" or "cuda[:n]". auto takes the CUDA plugin when a driver, the plugin and a
 * GPU are there, else the CPU; `why` (may be NULL, n bytes) then says why not CUDA.
 * On an error *out is NULL and `err` (may be NULL) has the message. */
fm_status fm_ctx_new(const char *device, fm_error *err, char *why, size_t n, fm_ctx **out);
void fm_ctx_free(fm_ctx *ctx); /* all tensors must be gone; NULL is legal */

/* Key for one use of random numbers: `stream` names it ("layers.3.attn.dropout"). */
fm_rng_key fm_rng(const fm_ctx *ctx, uint64_t stream);
/* A model's forward begins: random numbers are its clock's until the context's clock is set to what this
 * returns. Inside another model's (a layer in a gate) the outer one's stay. */
const fm_clock *fm_clock_enter(fm_ctx *ctx, const fm_clock *clock);
/* The same for the rows that a model's forward works on; an inner one has its own. */
fm_rows fm_rows_enter(fm_ctx *ctx, fm_rows rows);

/* Calls a slot of the operation table: FM_TRY(FM_KERNEL(ctx, add, dt, y, a, b, n)). */
#define FM_KERNEL(ctx, slot, ...)                                                                  \
    fm_kernel_end(ctx, fm_kernel_begin(ctx, #slot, (ctx)->dev->ops->slot != NULL)                  \
                           ? (ctx)->dev->ops->slot((ctx)->dev, __VA_ARGS__)                        \
                           : FM_ERR_UNSUPPORTED)
bool fm_kernel_begin(fm_ctx *ctx, const char *slot, bool there);
fm_status fm_kernel_end(fm_ctx *ctx, fm_status s);

/* Time per operation. Waits for the device around each call, so totals are larger than a plain
 * run's on a GPU; on the CPU they are the same. */
typedef struct fm_profile_entry {
    const char *slot;
    int64_t calls;
    double seconds;
} fm_profile_entry;
fm_status fm_profile_start(fm_ctx *ctx);
/* Sorted by time, falling; returns how many there are (may exceed max). */
int fm_profile_get(const fm_ctx *ctx, fm_profile_entry *out, int max);
void fm_profile_stop(fm_ctx *ctx);

#endif
