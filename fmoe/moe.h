/* The Mixture-of-Experts layer.
 *
 *   y_t = Σ_j score[t,j] · expert_{index[t,j]}(x_t)  (+ shared experts(x_t))
 *
 * gate -> indices, scores; permute; exchange; experts; exchange; weighted unpermute.
 * The mathematics is in docs/moe.md; gates are in gate.h and gate_<name>.c.
 */
#ifndef FM_FMOE_MOE_H
#define FM_FMOE_MOE_H
#include "fmoe/gate.h"
#include "parallel/param.h"
#include "tensor/ops.h"

typedef enum fm_drop_policy { FM_DROP_POSITION, FM_DROP_SCORE } fm_drop_policy;
typedef enum fm_scope { FM_SCOPE_GLOBAL, FM_SCOPE_SEQUENCE, FM_SCOPE_RANK } fm_scope;

typedef struct fm_moe_config {
    int64_t num_experts; /* E, over all ranks */
    int64_t top_k;       /* 0: the gate's own */
    int64_t d_hidden;    /* h, each expert's width */
    char gate[32];
    fm_act activation;
    bool bias;                   /* the experts' biases */
    double capacity_factor;      /* 0: dropless */
    double eval_capacity_factor; /* 0: dropless */
    fm_drop_policy drop_policy;
    fm_scope capacity_scope, aux_loss_scope;
    double aux_loss_weight, z_loss_weight;
    bool gate_bias;
    double scale; /* multiplies every score */
    int64_t num_shared_experts;
    bool renormalize;   /* survivors' scores are divided by their sum after drops */
    double jitter;      /* switch: inputs of the router times U[1-jitter, 1+jitter] in training */
    bool random_second; /* gshard: second choice kept with probability min(1, 2·score) */
} fm_moe_config;

/* Needs what has no sensible default. */
fm_moe_config fm_moe_config_default(int64_t num_experts, int64_t d_hidden);
/* Every field in its range, and fields that exclude each other; names both. Resolves top_k 0.
 * gate: NULL means the registry's c->gate. */
fm_status fm_moe_config_check(fm_ctx *ctx, fm_moe_config *c, const fm_gate *gate);

/* Statistics of the last forward, on the host: of the micro-batch on all its ranks (dp x tp), the same on
 * each. Of T·k places the gate takes `choices` (gshard draws
 * its second ones; a gate may write -1 itself), and capacity leaves `kept` of these. */
typedef struct fm_moe_stats {
    int64_t tokens;            /* T */
    int64_t choices;           /* that the gate made */
    int64_t kept;              /* that experts computed */
    double load_max_over_mean; /* busiest expert over the mean, before drops */
    double load_cv;            /* coefficient of variation of tokens per expert */
    double not_taken;          /* 1 - choices / (T·k): the gate's doing */
    double dropped;            /* 1 - kept / choices: capacity's doing */
    double entropy;            /* of the experts' shares of the choices, nats, in [0, ln E] */
    /* Losses, unweighted, whatever their weight; NaN where not measured: before the first forward,
     * z of a gate with its own router, balance of such a gate if it gives none. */
    double balance, z;
} fm_moe_stats;

/* What a forward gives. The losses are unweighted, [1] fp32, on the tape where their weight is not
 * 0; NULL where the gate has none or nothing asks for it. They are this rank's parts: fm_rank_mean of them
 * is the micro-batch's loss (where the ranks have equally many tokens). */
typedef struct fm_moe_out {
    fm_tensor *y;
    fm_tensor *balance, *z;
} fm_moe_out;
void fm_moe_out_free(fm_moe_out *o); /* safe on a zeroed one */

typedef struct fm_moe {
    fm_moe_config config;
    fm_mesh *mesh; /* borrowed */
    int64_t d_model, num_local_experts;
    char name[64];
    uint64_t stream; /* of its random numbers */
    bool training;
    bool generating; /* nothing is dropped, and statistics stay those of the last step */
    /* parameters, owned by the set they were added to */
    fm_tensor *gate_w, *gate_b; /* [E, d], [E], fp32 */
    fm_tensor *up_w, *up_b; /* [E_local, h or 2h, d], [E_local, ..]; h: this rank's part, 1/etp */
    fm_tensor *down_w, *down_b; /* [E_local, d, h], [E_local, d]; etp rank 0 adds down_b */
    fm_tensor *shared_up_w, *shared_up_b, *shared_down_w, *shared_down_b;
    const fm_gate *gate;
    /* of the last forward, for statistics and fmoe.MoELayer.routing; NULL before it */
    fm_tensor *last_indices, *last_scores; /* int32 [T, k], -1 = none; fp32 [T, k] */
    fm_tensor *last_counts;                /* int32 [E], after drops, of all ranks */
    fm_moe_stats stats;
    /* routing_log.h: what it records into or replays from (borrowed; NULL: neither), as which layer; the clock of
     * its last forward, and how many it had by it before that one */
    struct fm_routing_log *log;
    int log_layer, log_pass;
    fm_clock log_clock;
} fm_moe;

/* Experts are sharded: ep rank r holds [r·E/ep, (r+1)·E/ep) of them, and of each, etp rank q the q-th 1/etp of its
 * width. FM_ERR_VALUE where that does not divide.
 * Adds the layer's parameters under `name` ("layers.1.moe") to `params`; `m` must not move until
 * fm_moe_free. gate: NULL means the registry's config->gate. std_down: the initial deviation of the projection into the residual stream. */
fm_status fm_moe_init(fm_ctx *ctx, fm_moe *m, const char *name, const fm_moe_config *config,
                      const fm_gate *gate, fm_mesh *mesh, int64_t d_model, fm_dtype dtype,
                      float std, float std_down, fm_param_set *params);
void fm_moe_free(fm_moe *m); /* drops what it holds; safe on a zeroed one */

/* x [B, S, d], or [T, d] as one sequence: this rank's tokens (with tp > 1 its part of each sequence). All ranks of
 * the stage call it together, unless `generating` with expert_comm of one rank. Scopes "global" take the ranks'
 * tokens for those of one micro-batch in the order of the ranks; the number of tokens may differ from rank
 * to rank, but the losses are then means of the ranks' means. token_ids int32 of the same leading shape, or NULL (only
 * gates that look at them need it). FM_ERR_NAN names the layer. */
fm_status fm_moe_forward(fm_ctx *ctx, fm_moe *m, fm_tensor *x, fm_tensor *token_ids,
                         fm_moe_out *out);

struct fm_census;
/* Statistics, called by fm_moe_forward: what the gate asked for, and what the experts got; keeps the routing of
 * the last forward. */
fm_status fm_moe_note(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate,
                      const struct fm_census *census);
void fm_moe_forget_last(fm_moe *m); /* the last forward's routing */

/* aux_loss_weight · balance + z_loss_weight · z, over n_layers, as means over the stage's ranks; NULL where
 * neither is there. */
fm_status fm_moe_aux_loss(fm_ctx *ctx, const fm_moe *m, const fm_moe_out *out, int64_t n_layers,
                          fm_tensor **loss);

/* FLOPs of one token through router, its experts and the shared ones, forward: of top_k experts,
 * or, measured, of as many as computed it in the last forward on average. */
double fm_moe_flops_per_token(const fm_moe *m, bool measured);
/* Parameters on all ranks together, each counted once; and those that one token uses. */
int64_t fm_moe_num_parameters(const fm_moe *m);
int64_t fm_moe_num_active_parameters(const fm_moe *m);

#endif
