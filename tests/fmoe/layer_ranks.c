/* A layer on many ranks against the same layer on one: outputs, gradients, routing, statistics. */
#include "fmoe/moe.h"
#include "parallel/tape_collectives.h"
#include "tests/parallel/ranks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All sizes divide by 1, 2, 3 and 4. */
enum { B = 12, S = 12, T = B * S, D = 8, E = 12, H = 12 };

typedef struct layer {
    fm_mesh *mesh;
    fm_param_set *params;
    fm_moe moe;
} layer;

/* What a case varies. */
typedef struct setup {
    fm_moe_config c;
    fm_dtype dtype;
    bool evaluate, recompute;
    bool hot;     /* all first choices are expert 7's */
    bool by_rank; /* a scope is "rank": compared with a layer of the rank's tokens alone */
} setup;

static fm_mesh_config mesh; /* of the case that runs, for messages */
#define ON_MESH "tp %d ep %d etp %d: "
#define MESH mesh.tp, mesh.ep, mesh.etp

static fm_status layer_new(fm_ctx *ctx, layer *l, const setup *s, const fm_mesh_config *c,
                           fm_comm *world) {
    *l = (layer){0};
    FM_TRY(fm_mesh_new(ctx, c, world, &l->mesh));
    FM_TRY(fm_param_set_new(ctx, l->mesh, &l->params));
    FM_TRY(
        fm_moe_init(ctx, &l->moe, "moe", &s->c, NULL, l->mesh, D, s->dtype, 0.3f, 0.3f, l->params));
    FM_TRY(fm_param_set_seal(l->params));
    l->moe.training = !s->evaluate;
    /* Biases that are not 0, so that adding one twice shows. */
    for (int i = 0; i < l->params->n; i++) {
        fm_param *p = l->params->items[i];
        if (p->spec.init.std > 0) continue;
        float *values = malloc((size_t)p->numel * sizeof *values);
        FM_CHECK(values, FM_ERR_OOM, "out of memory: a test's biases");
        for (int64_t j = 0; j < p->numel; j++) {
            int64_t g = fm_placement_global_index(&p->spec.placement, j);
            values[j] = 0.1f * (float)(g % 7 - 3);
            if (s->hot && strstr(p->spec.name, "gate.bias")) values[j] = g == 7 ? 50 : 0;
        }
        fm_status status = fm_param_set_values(l->params, p, values, p->numel);
        free(values);
        FM_TRY(status);
    }
    return FM_OK;
}

static void layer_free(layer *l) {
    fm_moe_free(&l->moe);
    fm_param_set_free(l->params);
    fm_mesh_free(l->mesh);
}

/* Rows of the global input, as `rows` numbers them. */
static fm_status input(fm_ctx *ctx, fm_rows rows, int64_t b, int64_t s, fm_dtype dtype,
                       fm_tensor **x) {
    static float host[T * D];
    fm_tensor *wide;
    fm_rng_key key = {
        .row_offset = rows.offset, .row_block = rows.block, .row_stride = rows.stride};
    for (int64_t t = 0; t < b * s; t++)
        for (int64_t c = 0; c < D; c++) {
            uint64_t i = (uint64_t)(fm_rng_row(&key, t) * D + c);
            host[t * D + c] = (float)((double)(fm_mix64(i * 7919 + 1) >> 11) * 0x1p-52 - 1.0);
        }
    FM_TRY(fm_tensor_from_host(ctx, &wide, FM_F32, 3, (int64_t[]){b, s, D}, host));
    fm_status status = fm_cast(ctx, x, wide, dtype);
    fm_tensor_free(wide);
    if (status == FM_OK) (*x)->requires_grad = true;
    return status;
}

static fm_status forward(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    fm_moe_out o;
    FM_TRY(fm_moe_forward(ctx, *(fm_moe **)user, in[0], NULL, &o));
    out[0] = o.y, out[1] = o.balance, out[2] = o.z;
    return FM_OK;
}

/* Global loss = Σ over all rows of y·y/2 + aux; each dp rank is seeded with 1/dp, as a model's loss is. */
static fm_status step(fm_ctx *ctx, layer *l, const setup *s, fm_tensor *x, fm_tensor **y,
                      double *loss, double *aux_loss) {
    fm_tensor *out[3] = {0}, *wide = NULL, *square = NULL, *main = NULL, *aux = NULL;
    fm_tensor *total = NULL, *seed = NULL;
    fm_moe *m = &l->moe;
    float dp = (float)l->mesh->at.dp, dloss = 1 / dp;
    fm_status status = FM_OK;
    *y = NULL;
    if (s->recompute)
        FM_TRY_GOTO(fm_recompute(ctx, forward, &m, sizeof(fm_moe *), NULL, &x, 1, out, 3));
    else
        FM_TRY_GOTO(forward(ctx, &m, &x, out));
    fm_moe_out o = {.balance = out[1], .z = out[2]};
    FM_TRY_GOTO(fm_cast(ctx, &wide, out[0], FM_F32));
    FM_TRY_GOTO(fm_mul(ctx, &square, wide, wide));
    FM_TRY_GOTO(fm_sum(ctx, &main, square, 0.5f * dp));
    FM_TRY_GOTO(fm_moe_aux_loss(ctx, m, &o, 1, &aux));
    if (aux)
        FM_TRY_GOTO(fm_add(ctx, &total, main, aux));
    else
        total = fm_tensor_retain(main);
    *aux_loss = 0;
    if (aux) FM_TRY_GOTO(fm_tensor_item(ctx, aux, aux_loss));
    FM_TRY_GOTO(fm_tensor_item(ctx, main, loss));
    *loss /= (double)dp;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &seed, FM_F32, 1, (int64_t[]){1}, &dloss));
    FM_TRY_GOTO(fm_backward(ctx, total, seed));
    *y = fm_tensor_retain(out[0]);
out:;
    fm_tensor *gone[] = {out[0], out[1], out[2], wide, square, main, aux, total, seed};
    for (int i = 0; i < 9; i++) fm_tensor_free(gone[i]);
    return status;
}

/* ---- comparing */

static float number(const fm_tensor *t, int64_t i) {
    if (t->dtype == FM_F32) return ((const float *)t->data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)t->data)[i] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* |a - b| against |b|, the sums of squares of which are given; NaN fails. */
static void check_distance(test *t, double difference, double size, double tolerance,
                           const char *what) {
    EXPECT(t, sqrt(difference) <= tolerance * sqrt(size) + 1e-9,
           ON_MESH "%s: off by %g, of norm %g", MESH, what, sqrt(difference), sqrt(size));
}

/* This rank's rows of `part` against those of the whole. */
static void compare_rows(test *t, const fm_tensor *part, const fm_tensor *whole, fm_rows rows,
                         double tolerance, const char *what) {
    double difference = 0, size = 0;
    fm_rng_key key = {
        .row_offset = rows.offset, .row_block = rows.block, .row_stride = rows.stride};
    for (int64_t r = 0; r < fm_rows_of(part); r++)
        for (int64_t c = 0; c < D; c++) {
            double a = (double)number(part, r * D + c);
            double b = (double)number(whole, fm_rng_row(&key, r) * D + c);
            difference += (a - b) * (a - b), size += b * b;
        }
    check_distance(t, difference, size, tolerance, what);
}

static void compare_routing(test *t, const fm_moe *m, const fm_moe *one, fm_rows rows) {
    int64_t k = one->config.top_k;
    fm_rng_key key = {
        .row_offset = rows.offset, .row_block = rows.block, .row_stride = rows.stride};
    const int32_t *got = m->last_indices->data, *want = one->last_indices->data;
    for (int64_t r = 0; r < m->last_indices->shape[0]; r++)
        for (int64_t j = 0; j < k; j++) {
            int32_t e = want[fm_rng_row(&key, r) * k + j];
            EXPECT(t, got[r * k + j] == e, ON_MESH "row %d, choice %d: expert %d, not %d", MESH,
                   (int)r, (int)j, got[r * k + j], e);
        }
}

static bool near(double a, double b) {
    return (isnan(a) && isnan(b)) || fabs(a - b) < 1e-6 * (1 + fabs(b));
}

static void compare_statistics(test *t, const fm_moe *m, const fm_moe *one) {
    const fm_moe_stats *a = &m->stats, *b = &one->stats;
    EXPECT(t, a->tokens == b->tokens && a->choices == b->choices && a->kept == b->kept,
           ON_MESH "%d tokens, %d choices, %d kept; not %d, %d, %d", MESH, (int)a->tokens,
           (int)a->choices, (int)a->kept, (int)b->tokens, (int)b->choices, (int)b->kept);
    EXPECT(t, memcmp(m->last_counts->data, one->last_counts->data, E * sizeof(int32_t)) == 0,
           ON_MESH "counts differ", MESH);
    EXPECT(t, a->load_max_over_mean == b->load_max_over_mean && a->load_cv == b->load_cv, ON_MESH,
           MESH);
    EXPECT(t, a->not_taken == b->not_taken && a->dropped == b->dropped, ON_MESH, MESH);
    EXPECT(t, a->entropy == b->entropy, ON_MESH, MESH);
    EXPECT(t, near(a->balance, b->balance), ON_MESH "balance %g, not %g", MESH, a->balance,
           b->balance);
    EXPECT(t, near(a->z, b->z), ON_MESH "z %g, not %g", MESH, a->z, b->z);
}

/* Initial values to the last bit; gradients summed over the replicas. */
static void compare_parameters(test *t, layer *l, layer *one, double tolerance) {
    for (int i = 0; i < l->params->n; i++) {
        fm_param *p = l->params->items[i], *q = one->params->items[i];
        fm_placement *place = &p->spec.placement;
        fm_comm *replicas = fm_mesh_replicas(l->mesh, place->replicas);
        double difference = 0, size = 0;
        float sums[2];
        EXPECT(t, p->weight->grad_is_set, ON_MESH "%s has no gradient", MESH, p->spec.name);
        EXPECT_OK(t, fm_all_reduce_now(replicas, t->ctx, FM_F32, p->weight->grad->data, p->numel,
                                       FM_SUM));
        for (int64_t j = 0; j < p->numel; j++) {
            int64_t g = fm_placement_global_index(place, j);
            EXPECT(t, number(p->weight, j) == number(q->weight, g), ON_MESH "%s[%d]", MESH,
                   p->spec.name, (int)j);
            double a = (double)number(p->weight->grad, j), b = (double)number(q->weight->grad, g);
            difference += (a - b) * (a - b), size += b * b;
        }
        sums[0] = (float)difference, sums[1] = (float)size; /* of a rank alone it may be 0 */
        EXPECT_OK(t, fm_all_reduce_now(l->mesh->stage_comm, t->ctx, FM_F32, sums, 2, FM_SUM));
        check_distance(t, (double)sums[0], (double)sums[1], tolerance, p->spec.name);
        EXPECT(t,
               place->replicas == FM_REPLICATED_STAGE ||
                   p->numel * l->mesh->at.world_size / replicas->size ==
                       fm_placement_global_numel(place),
               ON_MESH "%s: %d here", MESH, p->spec.name, (int)p->numel);
    }
}

static void on_mesh(test *t, const setup *s) {
    layer one, l;
    fm_tensor *x, *whole, *y, *want;
    double loss, aux, wanted, wanted_aux, tolerance = s->dtype == FM_F32 ? 1e-5 : 2e-2;
    fm_mesh_config alone = fm_mesh_config_default();
    EXPECT_OK(t, layer_new(t->ctx, &one, s, &alone, NULL));
    EXPECT_OK(t, layer_new(t->ctx, &l, s, &mesh, ranks_world()));
    int64_t b = B / l.mesh->at.dp, seq = S / mesh.tp;
    fm_rows rows = fm_mesh_rows(l.mesh, b, S), none = {0};
    EXPECT_OK(t, input(t->ctx, none, B, S, s->dtype, &whole));
    EXPECT_OK(t, input(t->ctx, rows, b, seq, s->dtype, &x));
    fm_rows outer = fm_rows_enter(t->ctx, rows);
    EXPECT_OK(t, step(t->ctx, &l, s, x, &y, &loss, &aux));
    if (s->by_rank) {
        fm_tensor_free(whole);
        whole = fm_tensor_retain(x);
        rows = none;
        fm_zero_grad(x);
    } else {
        t->ctx->rows = outer;
    }
    EXPECT_OK(t, step(t->ctx, &one, s, whole, &want, &wanted, &wanted_aux));
    t->ctx->rows = outer;
    float sum = (float)loss;
    EXPECT_OK(t, fm_all_reduce_now(l.mesh->stage_comm, t->ctx, FM_F32, &sum, 1, FM_SUM));
    loss = (double)sum;
    compare_routing(t, &l.moe, &one.moe, rows);
    compare_rows(t, y, want, rows, tolerance, "y");
    if (!s->by_rank) {
        EXPECT(t, fabs(loss - wanted) < tolerance * wanted, ON_MESH "loss %.9g, not %.9g", MESH,
               loss, wanted);
        EXPECT(t, fabs(aux - wanted_aux) < 1e-6, ON_MESH "aux %.9g, not %.9g", MESH, aux,
               wanted_aux);
        compare_rows(t, x->grad, whole->grad, rows, tolerance, "dx");
        compare_statistics(t, &l.moe, &one.moe);
        compare_parameters(t, &l, &one, tolerance);
    }
    fm_tensor *gone[] = {x, whole, y, want};
    for (int i = 0; i < 4; i++) fm_tensor_free(gone[i]);
    layer_free(&l);
    layer_free(&one);
}

static void on_all_meshes(test *t, const setup *s) {
    int world = ranks_world()->size;
    for (int tp = 1; tp <= world; tp++)
        for (int ep = 1; ep <= world; ep++)
            for (int etp = 1; ep * etp <= world; etp++) {
                if (world % tp || world % (ep * etp)) continue;
                mesh = fm_mesh_config_default();
                mesh.tp = tp, mesh.ep = ep, mesh.etp = etp;
                on_mesh(t, s);
            }
}

static setup setup_of(const char *gate) {
    setup s = {.c = fm_moe_config_default(E, H), .dtype = FM_F32};
    snprintf(s.c.gate, sizeof s.c.gate, "%s", gate);
    s.c.aux_loss_weight = 0.3;
    return s;
}

/* ---- the cases */

static void naive(test *t) {
    setup s = setup_of("naive");
    s.c.activation = FM_ACT_SILU;
    on_all_meshes(t, &s);
}
static void gshard(test *t) {
    setup s = setup_of("gshard");
    s.c.z_loss_weight = 0.1;
    on_all_meshes(t, &s);
}
static void switch_jitter(test *t) {
    setup s = setup_of("switch");
    s.c.jitter = 0.2;
    s.c.gate_bias = true;
    on_all_meshes(t, &s);
}
static void capacity_global(test *t) {
    setup s = setup_of("naive");
    s.c.top_k = 3;
    s.c.capacity_factor = 0.6;
    s.c.renormalize = true;
    s.c.scale = 1.5;
    on_all_meshes(t, &s);
}
static void capacity_global_gshard(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 0.5;
    s.c.aux_loss_scope = FM_SCOPE_SEQUENCE;
    on_all_meshes(t, &s);
}
static void capacity_sequence(test *t) {
    setup s = setup_of("switch");
    s.c.capacity_factor = 0.7;
    s.c.capacity_scope = FM_SCOPE_SEQUENCE;
    s.c.aux_loss_scope = FM_SCOPE_SEQUENCE;
    on_all_meshes(t, &s);
}
static void capacity_by_score(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 0.7;
    s.c.capacity_scope = FM_SCOPE_SEQUENCE;
    s.c.drop_policy = FM_DROP_SCORE;
    s.c.random_second = false;
    on_all_meshes(t, &s);
}
static void capacity_in_evaluation(test *t) {
    setup s = setup_of("gshard");
    s.c.eval_capacity_factor = 0.5;
    s.evaluate = true;
    on_all_meshes(t, &s);
}
static void scopes_of_the_rank(test *t) {
    setup s = setup_of("naive");
    s.c.capacity_factor = 0.6;
    s.c.capacity_scope = s.c.aux_loss_scope = FM_SCOPE_RANK;
    s.by_rank = true;
    on_all_meshes(t, &s);
    s.c.drop_policy = FM_DROP_SCORE;
    on_all_meshes(t, &s);
}
static void swiglu_shared(test *t) {
    setup s = setup_of("gshard");
    s.c.activation = FM_ACT_SWIGLU;
    s.c.num_shared_experts = 2;
    on_all_meshes(t, &s);
}
static void geglu_without_biases(test *t) {
    setup s = setup_of("naive");
    s.c.activation = FM_ACT_GEGLU;
    s.c.bias = false;
    on_all_meshes(t, &s);
}
/* One expert has all tokens, the others none. */
static void all_to_one(test *t) {
    setup s = setup_of("switch");
    s.c.gate_bias = s.hot = true;
    on_all_meshes(t, &s);
    s.c.capacity_factor = 2;
    on_all_meshes(t, &s);
}
static void recomputed(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 0.8;
    s.c.num_shared_experts = 1;
    s.recompute = true;
    on_all_meshes(t, &s);
}
static void bfloat16(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 1;
    s.c.num_shared_experts = 1;
    s.c.activation = FM_ACT_SWIGLU;
    s.dtype = FM_BF16;
    on_all_meshes(t, &s);
}

/* Rank r has 5r tokens: rank 0 none. */
static void unequal(test *t) {
    setup s = setup_of("naive");
    s.c.aux_loss_weight = 0;
    s.c.capacity_factor = 0.7;
    int world = ranks_world()->size, rank = ranks_world()->rank, all = 5 * world * (world - 1) / 2;
    for (int etp = 1; etp <= world; etp++) {
        if (world % etp) continue;
        layer one, l;
        fm_tensor *x, *whole, *y, *want;
        double loss, aux;
        fm_mesh_config alone = fm_mesh_config_default();
        mesh = alone;
        mesh.ep = world / etp, mesh.etp = etp;
        EXPECT_OK(t, layer_new(t->ctx, &one, &s, &alone, NULL));
        EXPECT_OK(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()));
        fm_rows rows = {.offset = 5 * rank * (rank - 1) / 2}, none = {0};
        EXPECT_OK(t, input(t->ctx, none, 1, all, FM_F32, &whole));
        EXPECT_OK(t, input(t->ctx, rows, 1, 5 * rank, FM_F32, &x));
        EXPECT_OK(t, step(t->ctx, &l, &s, x, &y, &loss, &aux));
        EXPECT_OK(t, step(t->ctx, &one, &s, whole, &want, &loss, &aux));
        compare_rows(t, y, want, rows, 1e-5, "y");
        compare_rows(t, x->grad, whole->grad, rows, 1e-5, "dx");
        compare_statistics(t, &l.moe, &one.moe);
        compare_parameters(t, &l, &one, 1e-5);
        fm_tensor *gone[] = {x, whole, y, want};
        for (int i = 0; i < 4; i++) fm_tensor_free(gone[i]);
        layer_free(&l);
        layer_free(&one);
    }
}

/* Who holds all experts generates alone; the others must all come. */
static void generation(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 0.5;
    mesh = fm_mesh_config_default();
    layer l;
    fm_tensor *x;
    fm_moe_out out;
    EXPECT_OK(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()));
    l.moe.generating = true;
    if (ranks_world()->rank == 0) {
        EXPECT_OK(t, input(t->ctx, (fm_rows){0}, 1, 3, FM_F32, &x));
        EXPECT_OK(t, fm_moe_forward(t->ctx, &l.moe, x, NULL, &out));
        EXPECT(t, !out.balance && !l.moe.last_indices, "generation is measured");
        fm_moe_out_free(&out);
        fm_tensor_free(x);
    }
    layer_free(&l);
}

/* The n-th allocation fails, on all ranks alike. */
static void out_of_memory(test *t) {
    setup s = setup_of("gshard");
    s.c.capacity_factor = 0.8;
    s.c.num_shared_experts = 1;
    layer l;
    fm_tensor *x, *y;
    double loss, aux;
    mesh = fm_mesh_config_default();
    mesh.ep = ranks_world()->size;
    EXPECT_OK(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()));
    fm_rows rows = fm_mesh_rows(l.mesh, 1, S);
    EXPECT_OK(t, input(t->ctx, rows, 1, S, FM_F32, &x));
    EXPECT_OK(t, step(t->ctx, &l, &s, x, &y, &loss, &aux));
    fm_tensor_free(y);
    fm_moe_free(&l.moe);
    int64_t tensors = t->ctx->live_tensors, nodes = t->ctx->live_nodes;
    fm_status status = FM_ERR_OOM;
    for (int n = 0; status != FM_OK; n++) {
        EXPECT(t, n < 1000, "never succeeds");
        fm_alloc_fail_at(t->ctx->alloc, n);
        status = step(t->ctx, &l, &s, x, &y, &loss, &aux);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        fm_tensor_free(y);
        fm_moe_free(&l.moe);
        EXPECT(t, status == FM_OK ? n > 40 : status == FM_ERR_OOM, "call %d: %s", n,
               fm_status_name(status));
        EXPECT(t, t->ctx->live_tensors == tensors && t->ctx->live_nodes == nodes,
               "call %d leaks %d tensors, %d nodes", n, (int)(t->ctx->live_tensors - tensors),
               (int)(t->ctx->live_nodes - nodes));
        fm_error_clear(&t->ctx->error);
    }
    fm_tensor_free(x);
    layer_free(&l);
}

static void sizes_that_do_not_divide(test *t) {
    int n = ranks_world()->size;
    if (n == 1) return;
    layer l;
    setup s = setup_of("naive");
    mesh = fm_mesh_config_default();
    mesh.ep = n;
    s.c.num_experts = 2 * n + 1;
    EXPECT_ERROR(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()), FM_ERR_VALUE, "num_experts is",
                 "ep", "multiples");
    layer_free(&l);
    s = setup_of("naive");
    mesh.ep = 1, mesh.etp = n;
    s.c.d_hidden = n + 1;
    EXPECT_ERROR(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()), FM_ERR_VALUE, "d_hidden is",
                 "etp");
    layer_free(&l);
    s = setup_of("naive");
    s.c.activation = FM_ACT_SWIGLU;
    s.c.num_experts = FM_MAX_BOXES / 2 + 1;
    EXPECT_ERROR(t, layer_new(t->ctx, &l, &s, &mesh, ranks_world()), FM_ERR_UNSUPPORTED, "etp is",
                 "swiglu", "larger ep");
    layer_free(&l);
}

static const test_case cases[] = {
    {"naive", naive},
    {"gshard", gshard},
    {"switch_jitter", switch_jitter},
    {"capacity_global", capacity_global},
    {"capacity_global_gshard", capacity_global_gshard},
    {"capacity_sequence", capacity_sequence},
    {"capacity_by_score", capacity_by_score},
    {"capacity_in_evaluation", capacity_in_evaluation},
    {"scopes_of_the_rank", scopes_of_the_rank},
    {"swiglu_shared", swiglu_shared},
    {"geglu_without_biases", geglu_without_biases},
    {"all_to_one", all_to_one},
    {"recomputed", recomputed},
    {"bfloat16", bfloat16},
    {"unequal", unequal},
    {"generation", generation},
    {"out_of_memory", out_of_memory},
    {"sizes_that_do_not_divide", sizes_that_do_not_divide},
};
RANKS_PROGRAM(cases)
