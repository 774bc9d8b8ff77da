/* Placements and parameter sets. */
#include "parallel/param.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fm_init NORMAL = {.kind = FM_INIT_NORMAL, .mean = 0.5f, .std = 0.1f};

static fm_placement boxes(int ndim, const int64_t *shape, int n, const int64_t *numbers) {
    fm_placement p = {.ndim = ndim, .n_boxes = n};
    memcpy(p.global_shape, shape, (size_t)ndim * sizeof *shape);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < ndim; d++) {
            p.boxes[i].start[d] = numbers[(ptrdiff_t)(2 * i) * ndim + d];
            p.boxes[i].stop[d] = numbers[(ptrdiff_t)(2 * i + 1) * ndim + d];
        }
    return p;
}

/* Elements box by box, row by row, counted out. */
static void global_index(test *t) {
    const int64_t shape[] = {12, 6};
    const fm_placement placements[] = {
        boxes(2, shape, 1, (int64_t[]){0, 0, 12, 6}),
        boxes(2, shape, 3, (int64_t[]){2, 0, 4, 6, 6, 0, 8, 6, 10, 0, 12, 6}),
        boxes(2, shape, 2, (int64_t[]){5, 3, 6, 6, 6, 0, 9, 6}),
        boxes(2, shape, 2, (int64_t[]){1, 2, 3, 5, 0, 5, 1, 6})};
    for (size_t k = 0; k < 4; k++) {
        const fm_placement *p = &placements[k];
        int64_t i = 0;
        for (int b = 0; b < p->n_boxes; b++)
            for (int64_t r = p->boxes[b].start[0]; r < p->boxes[b].stop[0]; r++)
                for (int64_t c = p->boxes[b].start[1]; c < p->boxes[b].stop[1]; c++, i++)
                    EXPECT(t, fm_placement_global_index(p, i) == r * 6 + c,
                           "placement %zu, element %d: %d", k, (int)i,
                           (int)fm_placement_global_index(p, i));
        EXPECT(t, fm_placement_numel(p) == i, "placement %zu has %d elements", k, (int)i);
        EXPECT(t, fm_placement_global_numel(p) == 72, "placement %zu", k);
    }
}

/* A fragment of three dimensions, and of one. */
static void global_index_of_other_ranks(test *t) {
    const int64_t shape[] = {4, 3, 5};
    const fm_placement cube = boxes(3, shape, 2, (int64_t[]){1, 1, 2, 2, 3, 5, 2, 0, 0, 4, 3, 5});
    int64_t i = 0;
    for (int b = 0; b < 2; b++) {
        const fm_box *box = &cube.boxes[b];
        for (int64_t x = box->start[0]; x < box->stop[0]; x++)
            for (int64_t y = box->start[1]; y < box->stop[1]; y++)
                for (int64_t z = box->start[2]; z < box->stop[2]; z++, i++)
                    EXPECT(t, fm_placement_global_index(&cube, i) == (x * 3 + y) * 5 + z,
                           "element %d: %d", (int)i, (int)fm_placement_global_index(&cube, i));
    }
    EXPECT(t, fm_placement_numel(&cube) == i && i == 36, "%d elements", (int)i);
    EXPECT(t, fm_placement_global_numel(&cube) == 60, "the whole");
    const fm_placement flat = boxes(1, (int64_t[]){9}, 1, (int64_t[]){4, 7});
    for (i = 0; i < 3; i++)
        EXPECT(t, fm_placement_global_index(&flat, i) == 4 + i, "element %d", (int)i);
}

/* On a mesh of its own, of this rank alone. */
static fm_status set_new(fm_ctx *ctx, fm_param_set **out) {
    fm_mesh_config c = fm_mesh_config_default();
    fm_mesh *mesh;
    FM_TRY(fm_mesh_new(ctx, &c, NULL, &mesh));
    return fm_param_set_new(ctx, mesh, out);
}

static void set_free(fm_param_set *s) {
    fm_mesh *mesh = s->mesh;
    fm_param_set_free(s);
    fm_mesh_free(mesh);
}

/* Values differ by name and seed; constants are constant; slices start at multiples of 16. */
static void seeds_names_and_offsets(test *t) {
    float x[2][2][5];
    for (int seed = 0; seed < 2; seed++) {
        fm_param_set *s;
        fm_tensor *w;
        fm_param_spec spec = fm_param_spec_whole("a", 1, (int64_t[]){5}, FM_F32, true, NORMAL);
        t->ctx->seed = (uint64_t)seed;
        EXPECT_OK(t, set_new(t->ctx, &s));
        EXPECT_OK(t, fm_param_add(s, &spec, &w));
        strcpy(spec.name, "b");
        EXPECT_OK(t, fm_param_add(s, &spec, &w));
        strcpy(spec.name, "c");
        spec.init = (fm_init){.kind = FM_INIT_CONSTANT, .mean = 1.5f};
        EXPECT_OK(t, fm_param_add(s, &spec, &w));
        EXPECT_OK(t, fm_param_set_seal(s));
        for (int k = 0; k < 3; k++)
            EXPECT(t, s->items[k]->offset == 16 * k && s->items[k]->numel == 5, "slice %d", k);
        EXPECT(t, s->numel == 48 && !s->models, "%d elements", (int)s->numel);
        const float *c = w->data;
        for (int i = 0; i < 5; i++) EXPECT(t, c[i] == 1.5f, "constant %g", (double)c[i]);
        const float *all = s->masters->data;
        for (int i = 5; i < 16; i++) EXPECT(t, all[i] == 0, "padding %g", (double)all[i]);
        for (int k = 0; k < 2; k++)
            EXPECT_OK(t, fm_param_get_values(s, s->items[k], x[seed][k], 5));
        set_free(s);
    }
    t->ctx->seed = 0;
    EXPECT(t, memcmp(x[0][0], x[0][1], sizeof x[0][0]) != 0, "two names, one parameter");
    EXPECT(t, memcmp(x[0][0], x[1][0], sizeof x[0][0]) != 0, "two seeds, one parameter");
}

static void add_errors(test *t) {
    fm_param_set *s;
    fm_tensor *w, *v;
    fm_param_spec spec = fm_param_spec_whole("w", 2, (int64_t[]){3, 5}, FM_F32, true, NORMAL);
    EXPECT_OK(t, set_new(t->ctx, &s));
    EXPECT_OK(t, fm_param_add(s, &spec, &w));
    EXPECT_ERROR(t, fm_param_add(s, &spec, &v), FM_ERR_VALUE, "parameter w exists");
    fm_param_spec other = spec;
    strcpy(other.name, "ids");
    other.dtype = FM_I32;
    EXPECT_ERROR(t, fm_param_add(s, &other, &v), FM_ERR_DTYPE, "ids", "int32");
    other.dtype = FM_F32;
    other.placement.n_boxes = 0;
    EXPECT_ERROR(t, fm_param_add(s, &other, &v), FM_ERR_VALUE, "ids has no placement");
    EXPECT_OK(t, fm_param_set_seal(s));
    EXPECT_ERROR(t, fm_param_add(s, &spec, &v), FM_ERR_STATE, "sealed");
    EXPECT_ERROR(t, fm_param_set_seal(s), FM_ERR_STATE, "sealed");
    EXPECT(t, fm_param_find(s, "w") && !fm_param_find(s, "ww"), "names");
    float x[15];
    EXPECT_ERROR(t, fm_param_set_values(s, fm_param_find(s, "w"), x, 14), FM_ERR_SHAPE, "15", "14");
    set_free(s);
}

/* Every name is found, and none twice, in a set as large as the deepest model's. */
static void many_names(test *t) {
    enum { MANY = 200000 };
    fm_param_set *s;
    fm_tensor *w;
    fm_param_spec spec = fm_param_spec_whole("", 1, (int64_t[]){1}, FM_F32, false,
                                             (fm_init){.kind = FM_INIT_CONSTANT});
    EXPECT_OK(t, set_new(t->ctx, &s));
    for (int i = 0; i < MANY; i++) {
        snprintf(spec.name, sizeof spec.name, "layers.%d.attn.qkv.weight", i);
        EXPECT(t, !fm_param_find(s, spec.name), "%s is found too early", spec.name);
        EXPECT_OK(t, fm_param_add(s, &spec, &w));
    }
    for (int i = 0; i < MANY; i += 97) {
        snprintf(spec.name, sizeof spec.name, "layers.%d.attn.qkv.weight", i);
        EXPECT(t, fm_param_find(s, spec.name) == s->items[i], "%s is another", spec.name);
        EXPECT_ERROR(t, fm_param_add(s, &spec, &w), FM_ERR_VALUE, "exists already");
    }
    set_free(s);
}

/* A rank that holds a part draws the values that one rank has there. */
static void values_do_not_depend_on_layout(test *t) {
    const int64_t shape[] = {12, 6};
    fm_placement parts[] = {boxes(2, shape, 3, (int64_t[]){2, 0, 4, 6, 6, 0, 8, 6, 10, 0, 12, 6}),
                            boxes(2, shape, 1, (int64_t[]){0, 0, 3, 6})};
    fm_param_set *whole, *part;
    fm_tensor *w, *v;
    float all[72], some[72];
    fm_param_spec spec = fm_param_spec_whole("w", 2, shape, FM_F32, true, NORMAL);
    t->ctx->seed = 7;
    EXPECT_OK(t, set_new(t->ctx, &whole));
    EXPECT_OK(t, fm_param_add(whole, &spec, &w));
    EXPECT_OK(t, fm_param_set_seal(whole));
    EXPECT_OK(t, fm_param_get_values(whole, whole->items[0], all, 72));
    t->ctx->own_clock.step = 5; /* nor on when the model is made */
    for (int k = 0; k < 2; k++) {
        spec.placement = parts[k];
        int64_t n = fm_placement_numel(&parts[k]);
        EXPECT_OK(t, set_new(t->ctx, &part));
        EXPECT_OK(t, fm_param_add(part, &spec, &v));
        EXPECT_OK(t, fm_param_set_seal(part));
        EXPECT_OK(t, fm_param_get_values(part, part->items[0], some, n));
        for (int64_t i = 0; i < n; i++)
            EXPECT(t, some[i] == all[fm_placement_global_index(&parts[k], i)], "element %d",
                   (int)i);
        set_free(part);
    }
    t->ctx->own_clock.step = 0;
    set_free(whole);
}

static void normal_values(test *t) {
    enum { N = 40000 };
    fm_param_set *s;
    fm_tensor *w;
    float *x = malloc(N * sizeof *x);
    int64_t n = N;
    fm_param_spec spec = fm_param_spec_whole("big", 1, &n, FM_F32, true, NORMAL);
    EXPECT_OK(t, set_new(t->ctx, &s));
    EXPECT_OK(t, fm_param_add(s, &spec, &w));
    EXPECT_OK(t, fm_param_set_seal(s));
    EXPECT_OK(t, fm_param_get_values(s, s->items[0], x, N));
    double sum = 0, squares = 0, beyond = 0;
    for (int i = 0; i < N; i++) {
        double z = ((double)x[i] - 0.5) / 0.1;
        sum += z, squares += z * z, beyond += fabs(z) > 1.959964;
    }
    /* five standard errors of each */
    EXPECT(t, fabs(sum / N) < 5 / sqrt(N), "mean %g", sum / N);
    EXPECT(t, fabs(squares / N - 1) < 5 * sqrt(2.0 / N), "variance %g", squares / N);
    EXPECT(t, fabs(beyond / N - 0.05) < 5 * sqrt(0.05 * 0.95 / N), "tails %g", beyond / N);
    free(x);
    set_free(s);
}

static void bf16_follows_its_master(test *t) {
    fm_param_set *s;
    fm_tensor *w, *router;
    fm_param_spec spec = fm_param_spec_whole("w", 1, (int64_t[]){5}, FM_BF16, true, NORMAL);
    fm_param_spec wide = fm_param_spec_whole("gate", 1, (int64_t[]){3}, FM_F32, true, NORMAL);
    EXPECT_OK(t, set_new(t->ctx, &s));
    EXPECT_OK(t, fm_param_add(s, &spec, &w));
    EXPECT_OK(t, fm_param_add(s, &wide, &router));
    EXPECT_OK(t, fm_param_set_seal(s));
    EXPECT(t, w->dtype == FM_BF16 && router->dtype == FM_F32, "dtypes");
    EXPECT(t, w->grad->dtype == FM_F32, "gradients are fp32");
    const float values[] = {1.0f, 1.00390625f, -3.14159f, 0.0f, 1e30f};
    fm_bf16 got[5];
    float master[5];
    EXPECT_OK(t, fm_param_set_values(s, s->items[0], values, 5));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, w, got, sizeof got));
    EXPECT_OK(t, fm_param_get_values(s, s->items[0], master, 5));
    for (int i = 0; i < 5; i++) {
        EXPECT(t, master[i] == values[i], "master %d", i);
        EXPECT(t, got[i].bits == fm_f32_to_bf16(values[i]).bits, "copy %d", i);
    }
    set_free(s);
}

static void gradients(test *t) {
    fm_param_set *s;
    fm_tensor *a, *b;
    fm_param_spec spec = fm_param_spec_whole("a", 1, (int64_t[]){3}, FM_F32, true, NORMAL);
    EXPECT_OK(t, set_new(t->ctx, &s));
    EXPECT_OK(t, fm_param_add(s, &spec, &a));
    strcpy(spec.name, "b");
    EXPECT_OK(t, fm_param_add(s, &spec, &b));
    EXPECT_OK(t, fm_param_set_seal(s));
    const float ones[] = {1, 1, 1};
    EXPECT_OK(t, fm_tensor_set(t->ctx, a->grad, ones, sizeof ones));
    EXPECT_OK(t, fm_tensor_set(t->ctx, b->grad, ones, sizeof ones));
    a->grad_is_set = true; /* as a backward leaves it; b got none */
    EXPECT_OK(t, fm_param_complete_grads(s));
    float got[3];
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, b->grad, got, sizeof got));
    EXPECT(t, got[0] == 0 && got[2] == 0, "a gradient left from before");
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, a->grad, got, sizeof got));
    EXPECT(t, got[0] == 1, "a gradient lost");
    fm_param_zero_grads(s);
    EXPECT(t, !a->grad_is_set && !b->grad_is_set, "flags");
    set_free(s);
}

/* The n-th allocation fails, n = 0, 1, 2 ... */
static void out_of_memory(test *t) {
    fm_param_spec spec = fm_param_spec_whole("w", 1, (int64_t[]){5}, FM_BF16, true, NORMAL);
    int64_t base = t->ctx->live_tensors;
    for (int n = 0;; n++) {
        EXPECT(t, n < 50, "never succeeds");
        fm_param_set *s;
        fm_tensor *w;
        EXPECT_OK(t, set_new(t->ctx, &s));
        EXPECT_OK(t, fm_param_add(s, &spec, &w));
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status status = fm_param_set_seal(s);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        set_free(s);
        EXPECT(t, t->ctx->live_tensors == base, "call %d leaks", n);
        if (status == FM_OK) {
            EXPECT(t, n >= 3, "only %d allocations", n);
            return;
        }
        EXPECT(t, status == FM_ERR_OOM, "call %d: %s", n, fm_status_name(status));
        fm_error_clear(&t->ctx->error);
    }
}

static const test_case cases[] = {
    {"global_index", global_index},
    {"global_index_of_other_ranks", global_index_of_other_ranks},
    {"seeds_names_and_offsets", seeds_names_and_offsets},
    {"add_errors", add_errors},
    {"many_names", many_names},
    {"values_do_not_depend_on_layout", values_do_not_depend_on_layout},
    {"normal_values", normal_values},
    {"bf16_follows_its_master", bf16_follows_its_master},
    {"gradients", gradients},
    {"out_of_memory", out_of_memory}};
TEST_PROGRAM(cases)
