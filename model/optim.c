#include "model/optim.h"

#include "model/same_model.h"
#include "parallel/agree.h"
#include "tensor/tape.h"

#include <math.h>
#include <stdlib.h>

fm_optim_config fm_optim_config_default(fm_optim_kind kind, double lr) {
    return (fm_optim_config){.kind = kind,
                             .lr = lr,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .eps = 1e-8,
                             .weight_decay = kind == FM_ADAMW ? 0.1 : 0.0,
                             .clip_grad_norm = 1.0,
                             .micro_batches = 1,
                             .schedule = {.kind = FM_CONSTANT, .offset = true}};
}

static fm_status check(fm_ctx *ctx, const fm_optim_config *c) {
    FM_CHECK(c->lr >= 0 && isfinite(c->lr), FM_ERR_VALUE, "lr is %g; it must not be negative",
             c->lr);
    FM_CHECK(c->beta1 >= 0 && c->beta1 < 1 && c->beta2 >= 0 && c->beta2 < 1, FM_ERR_VALUE,
             "betas are %g and %g; each must be in [0, 1)", c->beta1, c->beta2);
    FM_CHECK(c->eps > 0, FM_ERR_VALUE, "eps is %g; it must be positive", c->eps);
    FM_CHECK(c->weight_decay >= 0, FM_ERR_VALUE, "weight_decay is %g; it must not be negative",
             c->weight_decay);
    FM_CHECK(c->momentum >= 0 && c->momentum < 1, FM_ERR_VALUE,
             "momentum is %g; it must be in [0, 1)", c->momentum);
    FM_CHECK(!c->nesterov || c->momentum > 0, FM_ERR_VALUE,
             "nesterov is true and momentum 0; it needs a momentum");
    FM_CHECK(c->clip_grad_norm >= 0, FM_ERR_VALUE, "clip_grad_norm is %g; it must not be negative",
             c->clip_grad_norm);
    FM_CHECK(c->micro_batches >= 1, FM_ERR_VALUE, "micro_batches is %lld; it must be at least 1",
             (long long)c->micro_batches);
    return fm_schedule_check(ctx, &c->schedule);
}

/* Losses of all parameters are averaged over the same dp ranks. */
static fm_status check_meshes(fm_ctx *ctx, const fm_mesh *mesh, fm_param_set **sets, int n) {
    for (int i = 0; i < n; i++)
        FM_CHECK(sets[i]->mesh->at.dp == mesh->at.dp, FM_ERR_VALUE,
                 "optimiser: %s is on a mesh of tp %d (dp %d), %s on one of tp %d (dp %d): one "
                 "optimiser's parameters need the same (those that are made by hand have tp 1)",
                 sets[0]->items[0]->spec.name, mesh->config.tp, mesh->at.dp,
                 sets[i]->items[0]->spec.name, sets[i]->mesh->config.tp, sets[i]->mesh->at.dp);
    return FM_OK;
}

fm_status fm_optim_new(fm_ctx *ctx, const fm_optim_config *config, fm_mesh *mesh,
                       fm_param_set **sets, int n_sets, fm_optim **out) {
    *out = NULL;
    FM_TRY(check(ctx, config));
    FM_TRY(check_meshes(ctx, mesh, sets, n_sets));
    FM_TRY(fm_check_same_model(ctx, mesh, sets, n_sets));
    fm_optim *o = calloc(1, sizeof *o);
    FM_CHECK(o, FM_ERR_OOM, "out of memory: an optimiser");
    fm_status status = FM_OK;
    size_t n = (size_t)n_sets;
    o->ctx = ctx;
    o->config = *config;
    o->mesh = mesh;
    o->sets = calloc(n, sizeof *o->sets);
    o->m = calloc(n, sizeof *o->m);
    o->v = calloc(n, sizeof *o->v);
    FM_CHECK_GOTO(o->sets && o->m && o->v, FM_ERR_OOM, "out of memory: an optimiser");
    o->n_sets = n_sets;
    FM_TRY_GOTO(FM_NEW(ctx, &o->loss, FM_F32, 1));
    for (int i = 0; i < n_sets; i++) {
        o->sets[i] = sets[i];
        int64_t numel = sets[i]->state_numel;
        if (config->kind == FM_ADAMW || config->momentum > 0)
            FM_TRY_GOTO(fm_tensor_zeros(ctx, &o->m[i], FM_F32, 1, &numel));
        if (config->kind == FM_ADAMW)
            FM_TRY_GOTO(fm_tensor_zeros(ctx, &o->v[i], FM_F32, 1, &numel));
    }
    FM_TRY_GOTO(fm_reducer_new(ctx, sets, n_sets, &o->reducer));
    fm_optim_restart(o, 0);
    *out = o;
out:
    if (status != FM_OK) fm_optim_free(o);
    return status;
}

void fm_optim_free(fm_optim *o) {
    if (!o) return;
    for (int i = 0; i < o->n_sets; i++) {
        fm_tensor_free(o->m[i]);
        fm_tensor_free(o->v[i]);
    }
    fm_reducer_free(o->reducer);
    fm_tensor_free(o->loss);
    free(o->sets);
    free(o->m);
    free(o->v);
    free(o);
}

static size_t bytes_of(const fm_tensor *t) { return t ? fm_nbytes(t) : 0; }

fm_optim_memory fm_optim_memory_of(const fm_optim *o) {
    fm_optim_memory m = {.gradients = fm_reducer_bytes(o->reducer)};
    for (int i = 0; i < o->n_sets; i++) {
        const fm_param_set *s = o->sets[i];
        m.parameters += bytes_of(s->masters) + bytes_of(s->models);
        m.gradients += bytes_of(s->grads);
        m.moments += bytes_of(o->m[i]) + bytes_of(o->v[i]);
    }
    return m;
}

/* The models' random numbers are drawn by what their optimiser counts. */
static void set_clocks(fm_optim *o) {
    for (int i = 0; i < o->n_sets; i++)
        o->sets[i]->clock = (fm_clock){(uint32_t)o->step, (uint32_t)o->backwards};
}

void fm_optim_restart(fm_optim *o, int64_t step) {
    if (o->reducer) fm_reducer_settle(o->reducer);
    o->step = step;
    o->backwards = 0;
    for (int i = 0; i < o->n_sets; i++) fm_param_zero_grads(o->sets[i]);
    set_clocks(o);
}

/* The last backward of a step reduces gradients as they are complete. */
static fm_status run_backward(fm_optim *o, fm_tensor *loss, fm_tensor *dloss, bool last) {
    if (!last) return fm_backward(o->ctx, loss, dloss);
    FM_TRY(fm_reducer_begin(o->reducer));
    fm_status s = fm_backward(o->ctx, loss, dloss);
    if (s == FM_OK) s = fm_reducer_flush(o->reducer);
    if (s != FM_OK) fm_reducer_abandon(o->reducer);
    return s;
}

fm_status fm_optim_backward(fm_optim *o, fm_tensor *loss, fm_tensor *lm_loss) {
    fm_ctx *ctx = o->ctx;
    FM_CHECK(o->backwards < o->config.micro_batches, FM_ERR_STATE,
             "backward: micro_batches is %lld and as many have run; call step first",
             (long long)o->config.micro_batches);
    /* The ranks' gradients are summed, and their losses are of equal weight. */
    float share = 1.0f / ((float)o->config.micro_batches * (float)o->mesh->at.dp);
    fm_tensor *dloss = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_tensor_new(ctx, &dloss, loss->dtype, loss->ndim, loss->shape));
    FM_TRY_GOTO(FM_KERNEL(ctx, fill, loss->dtype, dloss->data, share, fm_numel(dloss)));
    FM_TRY_GOTO(run_backward(o, loss, dloss, o->backwards + 1 == o->config.micro_batches));
    FM_TRY_GOTO(FM_KERNEL(ctx, scale, FM_F32, o->loss->data, lm_loss->dtype, lm_loss->data, share,
                          1, o->backwards > 0));
    o->backwards++;
    set_clocks(o);
out:
    fm_tensor_free(dloss);
    if (status != FM_OK) {
        /* Some gradients have this micro-batch in, some have not: none is of use. */
        fm_fail_context(&ctx->error, status, "the step's gradients are dropped");
        fm_optim_restart(o, o->step);
    }
    return status;
}

/* Elements of a bucket's parameters that are treated alike. */
static fm_status update(fm_optim *o, const fm_reduced *r, const fm_run *run, double lr,
                        double g_scale) {
    fm_ctx *ctx = o->ctx;
    const fm_optim_config *c = &o->config;
    const fm_bucket *b = r->bucket;
    int64_t in = run->span.start - b->update.start, n = run->span.n;
    fm_tensor *mom = o->m[r->set_index], *second = o->v[r->set_index];
    float *p = (float *)r->set->masters->data + b->master + in;
    const float *g = r->grad + in;
    float *m = mom ? (float *)mom->data + b->state + in : NULL;
    float *v = second ? (float *)second->data + b->state + in : NULL;
    void *model = b->dtype == FM_BF16 ? (fm_bf16 *)r->set->models->data + run->span.start : NULL;
    float decay = run->first->spec.decay ? (float)c->weight_decay : 0.0f;
    double t = (double)o->step + 1;
    if (c->kind == FM_SGD) {
        fm_sgd_args a = {.n = n,
                         .p = p,
                         .mom = m,
                         .g = g,
                         .model = model,
                         .model_dt = FM_BF16,
                         .lr = (float)lr,
                         .momentum = (float)c->momentum,
                         .weight_decay = decay,
                         .g_scale = (float)g_scale,
                         .nesterov = c->nesterov,
                         .first = o->step == 0};
        return FM_KERNEL(ctx, sgd, &a);
    }
    fm_adamw_args a = {.n = n,
                       .p = p,
                       .m = m,
                       .v = v,
                       .g = g,
                       .model = model,
                       .model_dt = FM_BF16,
                       .lr = (float)lr,
                       .beta1 = (float)c->beta1,
                       .beta2 = (float)c->beta2,
                       .eps = (float)c->eps,
                       .weight_decay = decay,
                       .bias1 = (float)(1 - pow(c->beta1, t)),
                       .bias2 = (float)(1 - pow(c->beta2, t)),
                       .g_scale = (float)g_scale};
    return FM_KERNEL(ctx, adamw, &a);
}

/* Frozen parameters (requires_grad false) stay as they are, and so do their moments. While one bucket
 * is updated, the weights of those before are gathered. */
static fm_status update_all(fm_optim *o, double lr, double g_scale) {
    for (int i = 0; i < fm_reducer_count(o->reducer); i++) {
        fm_reduced r = fm_reducer_at(o->reducer, i);
        fm_run run;
        for (int64_t at = r.bucket->update.start;
             fm_bucket_next_run(r.set, r.bucket, r.bucket->update, &at, &run);)
            FM_TRY(update(o, &r, &run, lr, g_scale));
        FM_TRY(fm_reducer_gather(o->reducer, i));
    }
    return fm_reducer_gathered(o->reducer);
}

/* What the ranks know together: the norm, each parameter counted once; the loss, each dp rank's once;
 * whether somebody wants to stop. */
static fm_status agree(fm_optim *o, int stop, fm_step_info *info) {
    fm_ctx *ctx = o->ctx;
    enum { SQUARES, LOSS, STOP, TRAINED, NOT_TRAINED, NUMBERS };
    static const fm_reduce ops[NUMBERS] = {
        [STOP] = FM_MAX, [TRAINED] = FM_MAX, [NOT_TRAINED] = FM_MAX};
    double trained = fm_trained_parameters(o->sets, o->n_sets);
    double x[NUMBERS] = {[STOP] = stop, [TRAINED] = trained, [NOT_TRAINED] = -trained};
    FM_TRY(fm_reducer_own_squares(o->reducer, &x[SQUARES]));
    FM_TRY(fm_tensor_item(ctx, o->loss, &x[LOSS]));
    x[LOSS] *= (double)o->mesh->at.dp / (double)o->mesh->at.world_size;
    FM_TRY(fm_agree(o->mesh->world_comm, ctx, ops, x, NUMBERS));
    FM_CHECK(
        x[TRAINED] == -x[NOT_TRAINED], FM_ERR_VALUE,
        "step: the ranks do not train the same parameters: requires_grad has to be set alike on "
        "all of them");
    info->grad_norm = sqrt(x[SQUARES]);
    info->loss = x[LOSS];
    info->stop = (int)x[STOP];
    return FM_OK;
}

fm_status fm_optim_step(fm_optim *o, int stop, fm_step_info *info) {
    fm_ctx *ctx = o->ctx;
    const fm_optim_config *c = &o->config;
    FM_CHECK(o->backwards == c->micro_batches, FM_ERR_STATE,
             "step: %lld backwards have run; micro_batches is %lld", (long long)o->backwards,
             (long long)c->micro_batches);
    *info = (fm_step_info){.lr = c->lr * fm_schedule_factor(&c->schedule, o->step + 1)};
    FM_TRY(fm_reducer_finish(o->reducer));
    FM_TRY(agree(o, stop, info));
    info->skipped = !isfinite(info->grad_norm);
    if (!info->skipped) {
        double clip = c->clip_grad_norm / (info->grad_norm + 1e-6);
        FM_TRY(update_all(o, info->lr, c->clip_grad_norm > 0 && clip < 1 ? clip : 1));
    }
    fm_optim_restart(o, o->step + !info->skipped);
    return FM_OK;
}
