/* Optimisers and learning-rate schedules.
 *
 * An optimiser owns the moments of one or more parameter sets, as flat fp32 buffers of what this rank
 * updates (parallel/shards.h), so that a step is a linear pass per bucket.
 */
#ifndef FM_MODEL_OPTIM_H
#define FM_MODEL_OPTIM_H
#include "parallel/reduce.h"

typedef enum fm_schedule_kind {
    FM_CONSTANT,
    FM_LINEAR,
    FM_COSINE,
    FM_WSD,
    FM_INVERSE_SQRT
} fm_schedule_kind;

/* Factor on the base rate at step s, counted from 1:
 *   s <= warmup               s / warmup
 *   after it, with t = (s - w) / (total - w), w = warmup (offset) or 0:
 *   constant       1
 *   linear         1 + (final - 1) t
 *   cosine         final + (1 - final) (1 + cos πt) / 2
 *   wsd            1 until the last `decay` steps, then linear to final
 *   inverse_sqrt   sqrt(max(warmup, 1) / s)
 * and final (inverse_sqrt: the formula) beyond total. */
typedef struct fm_schedule {
    fm_schedule_kind kind;
    int64_t warmup, total, decay;
    double final;
    bool offset; /* the decay starts after the warmup; false: at step 0 */
} fm_schedule;
double fm_schedule_factor(const fm_schedule *s, int64_t step);
fm_status fm_schedule_check(fm_ctx *ctx, const fm_schedule *s);

typedef enum fm_optim_kind { FM_ADAMW, FM_SGD } fm_optim_kind;
typedef struct fm_optim_config {
    fm_optim_kind kind;
    double lr, beta1, beta2, eps, weight_decay; /* adamw */
    double momentum;                            /* sgd */
    bool nesterov;
    double clip_grad_norm; /* 0: no clipping; the norm is reported all the same */
    int64_t micro_batches;
    fm_schedule schedule;
} fm_optim_config;
fm_optim_config fm_optim_config_default(fm_optim_kind kind, double lr);

typedef struct fm_optim {
    fm_ctx *ctx;
    fm_optim_config config;
    fm_mesh *mesh; /* borrowed */
    int n_sets;
    fm_param_set **sets; /* borrowed */
    fm_tensor **m, **v;  /* per set, fp32 [state_numel]; v NULL for SGD, both without momentum */
    fm_reducer *reducer;
    int64_t step;      /* completed */
    int64_t backwards; /* since the last step */
    fm_tensor *loss;   /* [1]: mean of their lm_loss so far, kept on the device */
} fm_optim;

typedef struct fm_step_info {
    double loss;      /* mean over the micro-batches and dp ranks */
    double grad_norm; /* before clipping */
    double lr;
    bool skipped; /* the norm was not finite: nothing was updated */
    int stop;     /* the highest that a rank gave */
} fm_step_info;

/* Starts at step 0, with zero moments and no gradients; from now on it counts the sets' clocks. All ranks
 * together; FM_ERR_VALUE: their models differ (same_model.h), or the sets' meshes in dp. mesh: the sets'. */
fm_status fm_optim_new(fm_ctx *ctx, const fm_optim_config *config, fm_mesh *mesh,
                       fm_param_set **sets, int n_sets, fm_optim **out);
/* Bytes on this rank. */
typedef struct fm_optim_memory {
    size_t parameters; /* weights, and bf16 ones' masters */
    size_t gradients;  /* and their sums over the replicas, where those are apart */
    size_t moments;
} fm_optim_memory;
fm_optim_memory fm_optim_memory_of(const fm_optim *o);

void fm_optim_free(fm_optim *o);

/* Backward of one micro-batch: fm_backward of loss / (micro_batches · dp), counted; lm_loss, this rank's
 * part of which the dp ranks' mean is the global one, enters the mean that fm_optim_step reports. The
 * last one of a step starts the reduction over the replicas while it runs. FM_ERR_STATE beyond micro_batches. Any other error may leave
 * half of the gradients added, so it drops all of the step's: its first micro-batch is the next. */
fm_status fm_optim_backward(fm_optim *o, fm_tensor *loss, fm_tensor *lm_loss);
/* Stands at the beginning of the step behind `step` completed ones: gradients and losses since the last
 * step are forgotten, on all ranks; a reduction that is under way is waited for. */
void fm_optim_restart(fm_optim *o, int64_t step);
/* Finishes the reduction, clips, updates, forgets the gradients; all ranks together. stop: above 0
 * where this rank wants to stop, and why; all learn the highest. A frozen parameter (its weight's requires_grad is false) is
 * left alone: no decay, no moments, no part in the norm. One that no gradient reached has gradient 0,
 * as an expert without tokens has: it decays, and its moments fade. Whether a gradient reached it may
 * differ from rank to rank; what a step does must not.
 * FM_ERR_STATE unless exactly micro_batches backwards have run. */
fm_status fm_optim_step(fm_optim *o, int stop, fm_step_info *info);

#endif
