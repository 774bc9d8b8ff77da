/* The pieces of tensor parallelism, each beside the plain operation on the whole, which every rank
 * computes for itself: values, and gradients as exact shares. All ranks are one tp group. */
#include "parallel/sequence.h"
#include "parallel/tensor_parallel.h"
#include "parallel/vocab_parallel.h"
#include "tensor/ops.h"
#include "tests/parallel/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float number(int64_t i, int seed) {
    return fm_rng_uniform((uint32_t)(fm_mix64((uint64_t)i * 64 + (uint64_t)seed) >> 32)) - 0.5f;
}

/* Elements [from, from + own) of dimension `axis` of an array [.., n, ..] of counted numbers. */
static fm_status slice_of(fm_ctx *ctx, fm_tensor **out, fm_dtype dt, int ndim, const int64_t *shape,
                          int axis, int64_t from, int64_t own, int seed) {
    int64_t local[FM_MAX_DIMS], n = 1, inner = 1;
    memcpy(local, shape, (size_t)ndim * sizeof *shape);
    local[axis] = own;
    for (int i = 0; i < ndim; i++) n *= local[i];
    for (int i = axis + 1; i < ndim; i++) inner *= shape[i];
    float *host = malloc((size_t)(n + 1) * sizeof *host);
    for (int64_t i = 0; i < n; i++) {
        int64_t outer = i / (own * inner), in = i % (own * inner);
        host[i] = number((outer * shape[axis] + from) * inner + in, seed);
    }
    fm_tensor *wide = NULL;
    fm_status status;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &wide, FM_F32, ndim, local, host));
    FM_TRY_GOTO(fm_cast(ctx, out, wide, dt));
    (*out)->requires_grad = true;
out:
    fm_tensor_free(wide);
    free(host);
    return status;
}

static fm_status whole(fm_ctx *ctx, fm_tensor **out, fm_dtype dt, int ndim, const int64_t *shape,
                       int seed) {
    return slice_of(ctx, out, dt, ndim, shape, 0, 0, shape[0], seed);
}

static float element(const fm_tensor *t, int64_t i) {
    return t->dtype == FM_BF16 ? fm_bf16_to_f32(((const fm_bf16 *)t->data)[i])
                               : ((const float *)t->data)[i];
}

/* `got` must be elements [from, ..) of dimension `axis` of `want`, to `tolerance` of want's largest. */
static void compare(test *t, const char *what, const fm_tensor *got, const fm_tensor *want,
                    int axis, int64_t from, double tolerance) {
    int64_t inner = 1, own = got->shape[axis];
    double largest = 0;
    EXPECT(t, got->ndim == want->ndim, "%s: %d dimensions", what, got->ndim);
    for (int i = axis + 1; i < got->ndim; i++) inner *= got->shape[i];
    for (int64_t i = 0; i < fm_numel(want); i++)
        largest = fmax(largest, fabs((double)element(want, i)));
    for (int64_t i = 0; i < fm_numel(got); i++) {
        int64_t outer = i / (own * inner), in = i % (own * inner);
        double w = (double)element(want, (outer * want->shape[axis] + from) * inner + in);
        double g = (double)element(got, i);
        EXPECT(t, fabs(g - w) <= tolerance * largest, "%s, element %d: %g, not %g", what, (int)i, g,
               w);
    }
}

/* A gradient of which each rank has a term: their sum. */
static void compare_sum(test *t, const char *what, fm_tensor *got, const fm_tensor *want,
                        double tolerance) {
    EXPECT_OK(t,
              fm_all_reduce_now(ranks_world(), t->ctx, FM_F32, got->data, fm_numel(got), FM_SUM));
    compare(t, what, got, want, 0, 0, tolerance);
}

/* ---- sequences. Sums of a few small integers are exact, in bf16 too. */

static float counted(int64_t b, int64_t s, int64_t c, int64_t rank) {
    return (float)((b * 5 + s * 3 + c) % 7 * (rank + 1));
}

static fm_status counted_of(fm_ctx *ctx, fm_tensor **out, fm_dtype dt, int64_t B, int64_t from,
                            int64_t S, int64_t d, int64_t rank) {
    fm_tensor *wide;
    FM_TRY(FM_NEW(ctx, &wide, FM_F32, B, S, d));
    float *x = wide->data;
    for (int64_t i = 0; i < B * S * d; i++)
        x[i] = counted(i / (S * d), from + i / d % S, i % d, rank);
    fm_status status = fm_cast(ctx, out, wide, dt);
    fm_tensor_free(wide);
    if (status == FM_OK) (*out)->requires_grad = true;
    return status;
}

/* Positions from `from` on of the sum of what all ranks, or rank 0 alone, hold. */
static void check_counted(test *t, const char *what, const fm_tensor *x, int64_t from, bool sum) {
    int64_t S = x->shape[1], d = x->shape[2], n = ranks_world()->size;
    int64_t times = sum ? n * (n + 1) / 2 : 1;
    for (int64_t i = 0; i < fm_numel(x); i++) {
        float want = (float)times * counted(i / (S * d), from + i / d % S, i % d, 0);
        EXPECT(t, element(x, i) == want, "%s: element %d is %g, not %g", what, (int)i,
               (double)element(x, i), (double)want);
    }
}

static void sequences_of(test *t, fm_dtype dt, int64_t B, int64_t d) {
    fm_comm *tp = ranks_world();
    int64_t s = 3, S = s * tp->size, from = s * tp->rank;
    fm_tensor *x, *y, *dy;
    EXPECT_OK(t, counted_of(t->ctx, &x, dt, B, from, s, d, 0));
    EXPECT_OK(t, fm_gather_sequence(t->ctx, tp, &y, x));
    EXPECT(t, y->shape[0] == B && y->shape[1] == S && y->shape[2] == d, "%d", (int)y->shape[1]);
    EXPECT(t, tp->size > 1 || y == x, "one rank copies");
    check_counted(t, "gathered", y, 0, false);
    EXPECT_OK(t, counted_of(t->ctx, &dy, dt, B, 0, S, d, tp->rank));
    if (tp->size > 1) {
        EXPECT_OK(t, fm_backward(t->ctx, y, dy));
        check_counted(t, "gradient of gather", x->grad, from, true);
    }
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_tensor_free(dy);

    EXPECT_OK(t, counted_of(t->ctx, &x, dt, B, 0, S, d, tp->rank));
    EXPECT_OK(t, fm_scatter_sum_sequence(t->ctx, tp, &y, x));
    EXPECT(t, y->shape[0] == B && y->shape[1] == s && y->shape[2] == d, "%d", (int)y->shape[1]);
    EXPECT(t, tp->size > 1 || y == x, "one rank copies");
    check_counted(t, "summed", y, from, true);
    EXPECT_OK(t, counted_of(t->ctx, &dy, dt, B, from, s, d, 0));
    if (tp->size > 1) {
        EXPECT_OK(t, fm_backward(t->ctx, y, dy));
        check_counted(t, "gradient of scatter_sum", x->grad, 0, false);
    }
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_tensor_free(dy);
}

static void sequences(test *t) {
    for (int64_t B = 1; B <= 3; B += 2) {
        sequences_of(t, FM_F32, B, 5);
        sequences_of(t, FM_BF16, B, 4);
    }
}

static void sequence_errors(test *t) {
    fm_tensor *x, *y;
    EXPECT_OK(t, FM_NEW(t->ctx, &x, FM_F32, 4, 6));
    EXPECT_ERROR(t, fm_gather_sequence(t->ctx, ranks_world(), &y, x), FM_ERR_SHAPE, "x is [4, 6]",
                 "3 dimensions");
    fm_tensor_free(x);
    int64_t S = ranks_world()->size + 1;
    EXPECT_OK(t, FM_NEW(t->ctx, &x, FM_F32, 2, S, 4));
    if (ranks_world()->size > 1)
        EXPECT_ERROR(t, fm_scatter_sum_sequence(t->ctx, ranks_world(), &y, x), FM_ERR_SHAPE,
                     "multiple", "tensor-parallel ranks");
    fm_tensor_free(x);
}

/* ---- layers: y = row(gelu(column(x))), the gradient of Σ y g */

typedef struct layer_run {
    fm_tensor *x, *up_w, *up_b, *down_w, *down_b, *h, *y, *g;
} layer_run;

static void layer_free(layer_run *r) {
    fm_tensor *const all[] = {r->x, r->up_w, r->up_b, r->down_w, r->down_b, r->h, r->y, r->g};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fm_tensor_free(all[i]);
}

/* On `tp`, with a share of everything; the group of one has it all. */
static fm_status layer_run_on(fm_ctx *ctx, fm_comm *tp, fm_dtype dt, int64_t B, bool bias,
                              fm_act act, layer_run *r) {
    enum { D = 6, POSITIONS = 4, HIDDEN = 5 };
    int64_t n = ranks_world()->size, share = n / tp->size, at = tp->rank * share;
    int64_t x[] = {B, POSITIONS * n, D}, up[] = {HIDDEN * n, D}, down[] = {D, HIDDEN * n};
    int64_t s = POSITIONS * share, h = HIDDEN * share;
    *r = (layer_run){0};
    FM_TRY(slice_of(ctx, &r->x, dt, 3, x, 1, at * POSITIONS, s, 1));
    FM_TRY(slice_of(ctx, &r->up_w, dt, 2, up, 0, at * HIDDEN, h, 2));
    FM_TRY(slice_of(ctx, &r->down_w, dt, 2, down, 1, at * HIDDEN, h, 3));
    if (bias) FM_TRY(slice_of(ctx, &r->up_b, dt, 1, up, 0, at * HIDDEN, h, 4));
    if (bias) FM_TRY(whole(ctx, &r->down_b, dt, 1, down, 5));
    FM_TRY(fm_column_linear(ctx, tp, &r->h, r->x, r->up_w, r->up_b, act));
    FM_TRY(fm_row_linear(ctx, tp, &r->y, r->h, r->down_w, r->down_b));
    FM_TRY(slice_of(ctx, &r->g, dt, 3, x, 1, at * POSITIONS, s, 6));
    return fm_backward(ctx, r->y, r->g);
}

static void layers_of(test *t, fm_dtype dt, int64_t B, bool bias, fm_act act) {
    fm_comm *tp = ranks_world(), *self;
    double tolerance = dt == FM_BF16 ? 0.05 : 1e-5;
    layer_run got, want;
    EXPECT_OK(t, fm_comm_self(t->ctx, &self));
    EXPECT_OK(t, layer_run_on(t->ctx, self, dt, B, bias, act, &want));
    EXPECT_OK(t, layer_run_on(t->ctx, tp, dt, B, bias, act, &got));
    int64_t at = tp->rank * got.y->shape[1], hidden = tp->rank * got.up_w->shape[0];
    compare(t, "y", got.y, want.y, 1, at, tolerance);
    compare(t, "dx", got.x->grad, want.x->grad, 1, at, tolerance);
    compare(t, "up", got.up_w->grad, want.up_w->grad, 0, hidden, tolerance);
    compare(t, "down", got.down_w->grad, want.down_w->grad, 1, hidden, tolerance);
    if (bias) {
        compare(t, "up.bias", got.up_b->grad, want.up_b->grad, 0, hidden, tolerance);
        compare_sum(t, "down.bias", got.down_b->grad, want.down_b->grad, tolerance);
    }
    layer_free(&got);
    layer_free(&want);
    fm_comm_free(self);
}

static void layers(test *t) {
    layers_of(t, FM_F32, 1, true, FM_ACT_GELU);
    layers_of(t, FM_F32, 3, false, FM_ACT_NONE);
    layers_of(t, FM_F32, 2, true, FM_ACT_NONE);
    layers_of(t, FM_BF16, 2, true, FM_ACT_GELU);
}

/* What is frozen gets no gradient, the rest the same. */
static void frozen_layers(test *t) {
    fm_comm *tp = ranks_world();
    for (int which = 0; which < 2; which++) {
        int64_t shape[] = {2, 3, 4}, w_shape[] = {5, 4}, g_shape[] = {2, 3L * tp->size, 5};
        fm_tensor *x, *w, *y, *g;
        EXPECT_OK(t, whole(t->ctx, &x, FM_F32, 3, shape, 1));
        EXPECT_OK(t, whole(t->ctx, &w, FM_F32, 2, w_shape, 2));
        EXPECT_OK(t, whole(t->ctx, &g, FM_F32, 3, g_shape, 3));
        x->requires_grad = which == 0;
        w->requires_grad = which == 1;
        EXPECT_OK(t, fm_column_linear(t->ctx, tp, &y, x, w, NULL, FM_ACT_RELU));
        EXPECT_OK(t, fm_backward(t->ctx, y, g));
        EXPECT(t, (x->grad != NULL) == (which == 0) && (w->grad != NULL) == (which == 1), "%d",
               which);
        fm_tensor_free(x);
        fm_tensor_free(w);
        fm_tensor_free(y);
        fm_tensor_free(g);
    }
}

/* ---- vocabulary: tokens -> embedding -> head -> loss, all of one table, and the logits */

typedef struct vocab_run {
    fm_tensor *table, *e, *x, *all, *loss, *losses, *own, *logits, *g;
} vocab_run;

static void vocab_free(vocab_run *r) {
    fm_tensor *const every[] = {r->table,  r->e,   r->x,      r->all, r->loss,
                                r->losses, r->own, r->logits, r->g};
    for (size_t i = 0; i < sizeof every / sizeof *every; i++) fm_tensor_free(every[i]);
}

static fm_status vocab_run_on(fm_ctx *ctx, fm_comm *tp, int64_t V, fm_tensor *ids,
                              fm_tensor *target, vocab_run *r) {
    enum { D = 6 };
    int64_t width = (V + tp->size - 1) / tp->size, from = tp->rank * width;
    int64_t own = V - from < width ? V - from : width, shape[] = {V, D};
    float third = 1.0f / 3;
    *r = (vocab_run){0};
    FM_TRY(slice_of(ctx, &r->table, FM_F32, 2, shape, 0, from, own, 1));
    FM_TRY(fm_vocab_embedding(ctx, tp, &r->e, r->table, ids, V));
    FM_TRY(fm_scatter_sum_sequence(ctx, tp, &r->x, r->e));
    FM_TRY(fm_gather_sequence(ctx, tp, &r->all, r->x));
    FM_TRY(fm_vocab_cross_entropy(ctx, tp, &r->loss, &r->losses, r->all, r->table, target, V, 0));
    FM_TRY(fm_tensor_from_host(ctx, &r->g, FM_F32, 1, (int64_t[]){1}, &third));
    FM_TRY(fm_linear(ctx, &r->own, r->all, r->table, NULL, FM_ACT_NONE));
    FM_TRY(fm_gather_vocab(ctx, tp, &r->logits, r->own, V));
    return fm_backward(ctx, r->loss, r->g);
}

/* budget: bytes of logits; 1 for the smallest chunks. */
static void vocabulary_of(test *t, int64_t V, size_t budget) {
    enum { B = 2, S = 60 }; /* of the ranks, 1 to 6, each divides S */
    fm_comm *tp = ranks_world(), *self;
    fm_tensor *ids, *target;
    int32_t host[B * S];
    vocab_run got, want;
    size_t was = t->ctx->logits_budget;
    for (int i = 0; i < B * S; i++) host[i] = (int32_t)(fm_mix64((uint64_t)i) % (uint64_t)V);
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &ids, FM_I32, 2, (int64_t[]){B, S}, host));
    for (int i = 0; i < B * S; i++) host[i] = i % 7 == 2 ? -1 : (host[i] + i) % (int32_t)V;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &target, FM_I32, 2, (int64_t[]){B, S}, host));
    EXPECT_OK(t, fm_comm_self(t->ctx, &self));
    EXPECT_OK(t, vocab_run_on(t->ctx, self, V, ids, target, &want));
    t->ctx->logits_budget = budget;
    fm_status status = vocab_run_on(t->ctx, tp, V, ids, target, &got);
    t->ctx->logits_budget = was;
    EXPECT_OK(t, status);
    int64_t from = tp->rank * ((V + tp->size - 1) / tp->size);
    compare(t, "x", got.all, want.all, 0, 0, 0);
    compare(t, "loss", got.loss, want.loss, 0, 0, 1e-6);
    compare(t, "losses", got.losses, want.losses, 0, 0, 1e-5);
    compare(t, "logits", got.logits, want.logits, 0, 0, 1e-6);
    compare(t, "table", got.table->grad, want.table->grad, 0, from, 1e-5);
    fm_tensor_free(ids);
    fm_tensor_free(target);
    vocab_free(&got);
    vocab_free(&want);
    fm_comm_free(self);
}

static void vocabulary(test *t) {
    vocabulary_of(t, 101, (size_t)1 << 30);
    vocabulary_of(t, 257, 1);
    vocabulary_of(t, 64, 1);
    vocabulary_of(t, ranks_world()->size, (size_t)1 << 30);
}

/* The gradient of logits that every rank has: own columns of it. */
static void logits_gradient(test *t) {
    fm_comm *tp = ranks_world();
    int64_t V = 3 * tp->size - (tp->size > 1), width = (V + tp->size - 1) / tp->size;
    int64_t from = tp->rank * width, own = V - from < width ? V - from : width, shape[] = {2, V};
    fm_tensor *x, *y, *g, *want;
    EXPECT_OK(t, slice_of(t->ctx, &x, FM_F32, 2, shape, 1, from, own, 1));
    EXPECT_OK(t, fm_gather_vocab(t->ctx, tp, &y, x, V));
    EXPECT_OK(t, whole(t->ctx, &want, FM_F32, 2, shape, 1));
    compare(t, "y", y, want, 0, 0, 0);
    EXPECT_OK(t, whole(t->ctx, &g, FM_F32, 2, shape, 2));
    if (tp->size > 1) {
        EXPECT_OK(t, fm_backward(t->ctx, y, g));
        compare(t, "dx", x->grad, g, 1, from, 0);
    }
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_tensor_free(g);
    fm_tensor_free(want);
}

/* ---- placements */

/* Every element of the global array is on exactly one tp rank. */
static void check_tiles(test *t, const fm_param_spec *spec) {
    enum { MOST = 4096 };
    static int32_t times[MOST];
    const fm_placement *p = &spec->placement;
    int64_t n = fm_placement_global_numel(p), own = fm_placement_numel(p);
    memset(times, 0, sizeof times);
    for (int64_t i = 0; i < own; i++) times[fm_placement_global_index(p, i)]++;
    EXPECT_OK(t, fm_all_reduce_now(ranks_world(), t->ctx, FM_I32, times, n, FM_SUM));
    for (int64_t i = 0; i < n; i++)
        EXPECT(t, times[i] == 1, "%s: element %d %d times", spec->name, (int)i, (int)times[i]);
    bool split = ranks_world()->size > 1;
    EXPECT(t, p->replicas == (split ? FM_REPLICATED_DP : FM_REPLICATED_STAGE), "%s", spec->name);
}

static fm_param_spec spec_of(const char *name, int64_t rows, int64_t columns) {
    return fm_param_spec_whole(name, 2, (int64_t[]){rows, columns}, FM_F32, true, (fm_init){0});
}

static void placements(test *t) {
    int64_t n = ranks_world()->size;
    fm_mesh_config c = fm_mesh_config_default();
    fm_mesh *m;
    c.tp = (int)n;
    EXPECT_OK(t, fm_mesh_new(t->ctx, &c, ranks_world(), &m));
    fm_param_spec qkv = spec_of("qkv", 8 * n, 3), out = spec_of("out", 5, 2 * n);
    fm_param_spec vocab = spec_of("vocab", 5 * n - (n > 1), 3), bad = spec_of("bad", 2 * n + 1, n);
    EXPECT_OK(t, fm_split_rows(t->ctx, m, &qkv, 3, (int64_t[]){4 * n, 2 * n, 2 * n}));
    EXPECT_OK(t, fm_split_columns(t->ctx, m, &out));
    EXPECT_OK(t, fm_split_vocab(t->ctx, m, &vocab));
    check_tiles(t, &qkv);
    check_tiles(t, &out);
    check_tiles(t, &vocab);
    if (n > 1) {
        EXPECT(t, qkv.placement.n_boxes == 3, "%d boxes", qkv.placement.n_boxes);
        EXPECT_ERROR(t, fm_split_rows(t->ctx, m, &bad, 1, (int64_t[]){2 * n + 1}), FM_ERR_VALUE,
                     "bad", "tp must divide");
        fm_param_spec few = spec_of("few", n - 1, 3);
        EXPECT_ERROR(t, fm_split_vocab(t->ctx, m, &few), FM_ERR_VALUE, "few", "vocab_size is",
                     "smaller tp");
    }
    fm_mesh_free(m);
}

static const test_case cases[] = {{"sequences", sequences},   {"sequence_errors", sequence_errors},
                                  {"layers", layers},         {"frozen_layers", frozen_layers},
                                  {"vocabulary", vocabulary}, {"logits_gradient", logits_gradient},
                                  {"placements", placements}};
RANKS_PROGRAM(cases)
