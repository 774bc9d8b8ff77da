/* top_k, gather_cols, moe_permute, moe_unpermute, balance_loss, z_loss */
#include "tests/tensor/cases.h"
#include "tests/tensor/reference.h"

#include <stdlib.h>

static void setup_top_k(op_run *r) {
    op_array *x = op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    if (r->p[3]) { /* few different values: ties, which have no derivative */
        x->grad = false;
        for (int64_t i = 0; i < x->n; i++) x->v[i] = floor(x->v[i]);
    }
    op_out(r, FM_F32, OP_SHAPE(r->p[0], r->p[2]))->grad = !r->p[3];
    op_out(r, FM_I32, OP_SHAPE(r->p[0], r->p[2]));
}
static fm_status apply_top_k(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_top_k(ctx, &out[0], &out[1], in[0], r->p[2]);
}
static void reference_top_k(const op_run *r, double *const *in, double **out) {
    int64_t n = r->p[1], k = r->p[2];
    for (int64_t t = 0; t < r->p[0]; t++)
        ref_top_k(out[0] + t * k, out[1] + t * k, in[0] + t * n, n, k);
}
static const int64_t top_k_sizes[][OP_MAX_PARAMS] = {{1, 1, 1, 0}, {5, 7, 2, 0},    {64, 16, 4, 0},
                                                     {3, 8, 8, 0}, {33, 129, 1, 0}, {65, 9, 4, 1}};
static const op_test top_k = {.name = "top_k",
                              .params = {"T", "n", "k", "ties"},
                              .dtypes = OP_F32,
                              .tolerance = OP_EXACT,
                              .nan_is_error = true,
                              .setup = setup_top_k,
                              .apply = apply_top_k,
                              .reference = reference_top_k,
                              OP_SIZES(top_k_sizes)};

/* Indices from -1 (dropped) to n - 1, repeated in a row as chance has it. */
static void setup_gather_cols(op_run *r) {
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_in_int(r, -1, r->p[1], OP_SHAPE(r->p[0], r->p[2]));
    op_out(r, FM_F32, OP_SHAPE(r->p[0], r->p[2]));
}
static fm_status apply_gather_cols(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_gather_cols(ctx, out, in[0], in[1]);
}
static void reference_gather_cols(const op_run *r, double *const *in, double **out) {
    int64_t n = r->p[1], k = r->p[2];
    for (int64_t i = 0; i < r->p[0] * k; i++) {
        int64_t c = (int64_t)in[1][i];
        out[0][i] = c < 0 ? 0 : in[0][i / k * n + c];
    }
}
static const int64_t gather_sizes[][OP_MAX_PARAMS] = {
    {1, 1, 1}, {5, 7, 2}, {64, 16, 4}, {3, 4, 9}, {33, 129, 1}};
static const op_test gather_cols = {.name = "gather_cols",
                                    .params = {"T", "n", "k"},
                                    .dtypes = OP_F32,
                                    .tolerance = OP_ROUNDS,
                                    .setup = setup_gather_cols,
                                    .apply = apply_gather_cols,
                                    .reference = reference_gather_cols,
                                    OP_SIZES(gather_sizes)};

/* ---- the permutation; parameters T, k, E, d, pattern */

enum { ROUTE_RANDOM, ROUTE_DROPS, ROUTE_ONE_EXPERT, ROUTE_ALL_DROPPED };
static void make_indices(op_run *r) {
    int64_t T = r->p[0], k = r->p[1], E = r->p[2], pattern = r->p[4];
    op_array *a = op_in_int(r, 0, E, OP_SHAPE(T, k));
    for (int64_t i = 0; i < a->n; i++) {
        if (pattern == ROUTE_DROPS && op_uniform(r) < 0.4) a->v[i] = -1;
        if (pattern == ROUTE_ONE_EXPERT) a->v[i] = (double)(E - 1);
        if (pattern == ROUTE_ALL_DROPPED) a->v[i] = -1;
    }
}
/* slot[t, j], by counting: choices of lower experts, and earlier ones of the same */
static int64_t *slots(const op_run *r, const double *indices) {
    int64_t n = r->p[0] * r->p[1];
    int64_t *slot = malloc(((size_t)n + 1) * sizeof *slot);
    if (!slot) abort();
    for (int64_t i = 0; i < n; i++) {
        slot[i] = indices[i] < 0 ? -1 : 0;
        for (int64_t j = 0; slot[i] >= 0 && j < n; j++)
            slot[i] += indices[j] >= 0 &&
                       (indices[j] < indices[i] || (indices[j] == indices[i] && j < i));
    }
    return slot;
}
static const int64_t route_sizes[][OP_MAX_PARAMS] = {
    {5, 2, 4, 7, ROUTE_RANDOM},      {5, 2, 4, 7, ROUTE_DROPS},   {1, 1, 1, 1, ROUTE_RANDOM},
    {32, 2, 8, 16, ROUTE_RANDOM},    {9, 3, 3, 5, ROUTE_RANDOM},  {9, 2, 4, 5, ROUTE_ONE_EXPERT},
    {5, 2, 4, 7, ROUTE_ALL_DROPPED}, {67, 3, 16, 5, ROUTE_DROPS}, {0, 2, 4, 7, ROUTE_RANDOM}};

/* ---- the map itself: counts, offsets, slot, source */

static void setup_map(op_run *r) {
    int64_t T = r->p[0], k = r->p[1], E = r->p[2];
    make_indices(r);
    op_out(r, FM_I32, OP_SHAPE(E));
    op_out(r, FM_I32, OP_SHAPE(E + 1));
    op_out(r, FM_I32, OP_SHAPE(T, k));
    op_out(r, FM_I32, OP_SHAPE(T * k));
}
static fm_status apply_map(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    fm_moe_map map;
    FM_TRY(fm_moe_map_new(ctx, &map, in[0], r->p[2]));
    out[0] = map.counts, out[1] = map.offsets, out[2] = map.slot, out[3] = map.source;
    return FM_OK;
}
static void reference_map(const op_run *r, double *const *in, double **out) {
    int64_t n = r->p[0] * r->p[1], E = r->p[2], *slot = slots(r, in[0]);
    for (int64_t i = 0; i < n; i++) out[3][i] = -1;
    for (int64_t i = 0; i < n; i++) {
        out[2][i] = (double)slot[i];
        if (slot[i] < 0) continue;
        out[3][slot[i]] = (double)i;
        out[0][(int64_t)in[0][i]]++;
    }
    for (int64_t e = 0; e < E; e++) out[1][e + 1] = out[1][e] + out[0][e];
    free(slot);
}
static const op_test moe_map = {.name = "moe_map",
                                .params = {"T", "k", "E", "d", "pattern"},
                                .dtypes = OP_F32,
                                .tolerance = OP_EXACT,
                                .setup = setup_map,
                                .apply = apply_map,
                                .reference = reference_map,
                                OP_SIZES(route_sizes)};

static void setup_permute(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0], r->p[3]));
    make_indices(r);
    op_out(r, r->dt, OP_SHAPE(r->p[0] * r->p[1], r->p[3]));
}
static fm_status apply_permute(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    fm_moe_map map;
    FM_TRY(fm_moe_map_new(ctx, &map, in[1], r->p[2]));
    fm_status status = fm_moe_permute(ctx, out, in[0], &map);
    fm_moe_map_free(&map);
    return status;
}
static void reference_permute(const op_run *r, double *const *in, double **out) {
    int64_t k = r->p[1], d = r->p[3], *slot = slots(r, in[1]);
    for (int64_t i = 0; i < r->p[0] * k; i++)
        for (int64_t c = 0; slot[i] >= 0 && c < d; c++)
            out[0][slot[i] * d + c] = in[0][i / k * d + c];
    free(slot);
}
static const op_test permute = {.name = "moe_permute",
                                .params = {"T", "k", "E", "d", "pattern"},
                                .tolerance = OP_ROUNDS,
                                .setup = setup_permute,
                                .apply = apply_permute,
                                .reference = reference_permute,
                                OP_SIZES(route_sizes)};

/* with scores, and without */
static void setup_unpermute(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0] * r->p[1], r->p[3]));
    make_indices(r);
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[3]));
}
static void setup_unpermute_plain(op_run *r) {
    op_in(r, r->dt, 1, OP_SHAPE(r->p[0] * r->p[1], r->p[3]));
    make_indices(r);
    op_out(r, r->dt, OP_SHAPE(r->p[0], r->p[3]));
}
static fm_status apply_unpermute(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    fm_moe_map map;
    FM_TRY(fm_moe_map_new(ctx, &map, in[1], r->p[2]));
    fm_status status = fm_moe_unpermute(ctx, out, in[0], r->n_in == 3 ? in[2] : NULL, &map);
    fm_moe_map_free(&map);
    return status;
}
static void reference_unpermute(const op_run *r, double *const *in, double **out) {
    int64_t k = r->p[1], d = r->p[3], *slot = slots(r, in[1]);
    for (int64_t i = 0; i < r->p[0] * k; i++)
        for (int64_t c = 0; slot[i] >= 0 && c < d; c++)
            out[0][i / k * d + c] += (r->n_in == 3 ? in[2][i] : 1) * in[0][slot[i] * d + c];
    free(slot);
}
static const op_test unpermute = {.name = "moe_unpermute",
                                  .params = {"T", "k", "E", "d", "pattern"},
                                  .tolerance = OP_SUMS,
                                  .setup = setup_unpermute,
                                  .apply = apply_unpermute,
                                  .reference = reference_unpermute,
                                  OP_SIZES(route_sizes)};
static const op_test unpermute_plain = {.name = "moe_unpermute_plain",
                                        .params = {"T", "k", "E", "d", "pattern"},
                                        .tolerance = OP_SUMS,
                                        .setup = setup_unpermute_plain,
                                        .apply = apply_unpermute,
                                        .reference = reference_unpermute,
                                        OP_SIZES(route_sizes)};

/* ---- the router's losses */

static void setup_balance(op_run *r) {
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[0], r->p[1]));
    op_in(r, FM_F32, 1, OP_SHAPE(r->p[1]))->grad = false;
    op_out(r, FM_F32, OP_SHAPE(1));
}
static fm_status apply_balance(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    return fm_balance_loss(ctx, out, in[0], in[1], (float)r->p[1]);
}
static void reference_balance(const op_run *r, double *const *in, double **out) {
    int64_t T = r->p[0], E = r->p[1];
    for (int64_t i = 0; i < T * E; i++)
        out[0][0] += (double)E / (double)T * in[1][i % E] * in[0][i];
}
static const int64_t router_sizes[][OP_MAX_PARAMS] = {{1, 1}, {5, 7}, {64, 16}, {67, 33}};
static const op_test balance = {.name = "balance_loss",
                                .params = {"T", "E"},
                                .dtypes = OP_F32,
                                .tolerance = OP_SUMS,
                                .setup = setup_balance,
                                .apply = apply_balance,
                                .reference = reference_balance,
                                OP_SIZES(router_sizes)};

static void setup_z(op_run *r) {
    op_in(r, FM_F32, r->p[0] % 2 ? 2 : 100, OP_SHAPE(r->p[0], r->p[1]));
    op_out(r, FM_F32, OP_SHAPE(1));
}
static fm_status apply_z(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out) {
    (void)r;
    return fm_z_loss(ctx, out, in[0], 0.5f);
}
static void reference_z(const op_run *r, double *const *in, double **out) {
    for (int64_t t = 0; t < r->p[0]; t++)
        out[0][0] += 0.5 / (double)r->p[0] * pow(ref_logsumexp(in[0] + t * r->p[1], r->p[1]), 2);
}
static const op_test z = {.name = "z_loss",
                          .params = {"T", "E"},
                          .dtypes = OP_F32,
                          .tolerance = OP_SUMS,
                          .setup = setup_z,
                          .apply = apply_z,
                          .reference = reference_z,
                          OP_SIZES(router_sizes)};

const op_test *const cases_moe[] = {&top_k,           &gather_cols, &moe_map, &permute, &unpermute,
                                    &unpermute_plain, &balance,     &z,       NULL};
