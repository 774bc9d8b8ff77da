/* A layer's parameters, and which part of each this rank holds. */
#include "fmoe/moe.h"

#include <math.h>
#include <stdio.h>

typedef struct maker {
    fm_moe *m;
    fm_param_set *params;
    fm_dtype dtype;
} maker;

static fm_param_spec spec_of(const maker *k, const char *suffix, int ndim, const int64_t *shape,
                             fm_dtype dtype, bool decay, float std) {
    char name[160];
    snprintf(name, sizeof name, "%s%s%s", k->m->name, *k->m->name ? "." : "", suffix);
    fm_init init = {.kind = std > 0 ? FM_INIT_NORMAL : FM_INIT_CONSTANT, .std = std};
    return fm_param_spec_whole(name, ndim, shape, dtype, decay, init);
}

/* Of a glu's up, an etp rank's rows lie in both halves: two boxes an expert. */
static fm_status split_halves(fm_ctx *ctx, const fm_mesh *mesh, fm_placement *p, int64_t n) {
    int64_t half = p->global_shape[1] / 2, width = half / mesh->config.etp;
    FM_CHECK(2 * n <= FM_MAX_BOXES, FM_ERR_UNSUPPORTED,
             "etp is %d, and %lld experts a rank with swiglu or geglu: at most %d are possible; a "
             "larger ep makes them fewer",
             mesh->config.etp, (long long)n, FM_MAX_BOXES / 2);
    fm_box whole = p->boxes[0];
    p->n_boxes = (int)(2 * n);
    for (int i = 0; i < p->n_boxes; i++) {
        fm_box *b = &p->boxes[i];
        *b = whole;
        b->start[0] = whole.start[0] + i / 2;
        b->stop[0] = b->start[0] + 1;
        b->start[1] = i % 2 * half + mesh->at.etp_rank * width;
        b->stop[1] = b->start[1] + width;
    }
    for (int d = 0; d < p->ndim; d++) p->local_shape[d] = p->global_shape[d];
    p->local_shape[0] = n;
    p->local_shape[1] = 2 * width;
    return FM_OK;
}

/* This rank's experts, and its part of dimension `split` of them (0: etp does not split it). */
static fm_status shard(fm_ctx *ctx, const fm_moe *m, fm_placement *p, int split, bool halves) {
    const fm_mesh *mesh = m->mesh;
    int64_t etp = mesh->config.etp, n = m->num_local_experts;
    p->replicas = etp > 1 && split == 0 ? FM_REPLICATED_EDP_ETP : FM_REPLICATED_EDP;
    p->boxes[0].start[0] = mesh->at.ep_rank * n;
    p->boxes[0].stop[0] = p->boxes[0].start[0] + n;
    if (etp == 1 || split == 0) return FM_OK;
    if (halves) return split_halves(ctx, mesh, p, n);
    int64_t width = p->global_shape[split] / etp;
    p->boxes[0].start[split] = mesh->at.etp_rank * width;
    p->boxes[0].stop[split] = p->boxes[0].start[split] + width;
    return FM_OK;
}

/* A weight and, where asked for, its bias, which starts at 0 and never decays. The weight of experts is split
 * along dimension `split`, and the bias with it where that is a dimension of its own. */
typedef struct layer {
    const char *name;
    int ndim;
    int64_t shape[3]; /* of the weight, on all ranks together; the bias lacks the last dimension */
    float std;
    bool experts, halves;
    int split;
} layer;

static fm_status add_layer(fm_ctx *ctx, const maker *k, const layer *l, bool bias, fm_tensor **w,
                           fm_tensor **b) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", l->name);
    fm_param_spec spec = spec_of(k, name, l->ndim, l->shape, k->dtype, true, l->std);
    if (l->experts) FM_TRY(shard(ctx, k->m, &spec.placement, l->split, l->halves));
    FM_TRY(fm_param_add(k->params, &spec, w));
    if (!bias) return FM_OK;
    snprintf(name, sizeof name, "%s.bias", l->name);
    spec = spec_of(k, name, l->ndim - 1, l->shape, k->dtype, false, 0);
    int split = l->split < l->ndim - 1 ? l->split : 0;
    if (l->experts) FM_TRY(shard(ctx, k->m, &spec.placement, split, l->halves));
    return fm_param_add(k->params, &spec, b);
}

/* n must be a multiple of by: the two that are nearest would do. */
static fm_status check_divides(fm_ctx *ctx, const char *what, int64_t n, const char *axis, int by) {
    int64_t below = n - n % by;
    if (below == 0) below = by;
    FM_CHECK(n % by == 0, FM_ERR_VALUE,
             "%s is %lld, which the mesh's %s, %d, does not divide; multiples of it are allowed: "
             "%lld or %lld, say",
             what, (long long)n, axis, by, (long long)below, (long long)(below + by));
    return FM_OK;
}

fm_status fm_moe_init(fm_ctx *ctx, fm_moe *m, const char *name, const fm_moe_config *config,
                      const fm_gate *gate, fm_mesh *mesh, int64_t d_model, fm_dtype dtype,
                      float std, float std_down, fm_param_set *params) {
    *m = (fm_moe){.config = *config,
                  .mesh = mesh,
                  .d_model = d_model,
                  .training = true,
                  .stats = {.balance = NAN, .z = NAN}};
    FM_TRY(fm_moe_config_check(ctx, &m->config, gate));
    const fm_moe_config *c = &m->config;
    FM_TRY(check_divides(ctx, "num_experts", c->num_experts, "ep", mesh->config.ep));
    FM_TRY(check_divides(ctx, "d_hidden", c->d_hidden, "etp", mesh->config.etp));
    snprintf(m->name, sizeof m->name, "%s", name);
    m->stream = fm_rng_stream(name);
    m->gate = gate ? gate : fm_gate_find(config->gate);
    m->num_local_experts = c->num_experts / mesh->config.ep;

    maker k = {m, params, dtype};
    int64_t E = c->num_experts, d = d_model, h = c->d_hidden, s = c->num_shared_experts;
    bool glu = fm_act_is_glu(c->activation);
    int64_t up = glu ? 2 * h : h;
    if (!m->gate->own_router) {
        int64_t shape[] = {E, d};
        fm_param_spec w = spec_of(&k, "gate.weight", 2, shape, FM_F32, true, std);
        fm_param_spec b = spec_of(&k, "gate.bias", 1, shape, FM_F32, false, 0);
        FM_TRY(fm_param_add(params, &w, &m->gate_w));
        if (c->gate_bias) FM_TRY(fm_param_add(params, &b, &m->gate_b));
    }
    layer experts_up = {"experts.up", 3, {E, up, d}, std, true, glu, 1};
    layer experts_down = {"experts.down", 3, {E, d, h}, std_down, true, false, 2};
    FM_TRY(add_layer(ctx, &k, &experts_up, c->bias, &m->up_w, &m->up_b));
    FM_TRY(add_layer(ctx, &k, &experts_down, c->bias, &m->down_w, &m->down_b));
    if (s == 0) return FM_OK;
    layer shared_up = {"shared.up", 2, {s * up, d}, std, false, false, 0};
    layer shared_down = {"shared.down", 2, {d, s * h}, std_down, false, false, 0};
    FM_TRY(add_layer(ctx, &k, &shared_up, c->bias, &m->shared_up_w, &m->shared_up_b));
    return add_layer(ctx, &k, &shared_down, c->bias, &m->shared_down_w, &m->shared_down_b);
}
