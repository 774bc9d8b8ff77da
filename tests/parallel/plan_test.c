/* What plans are made of: a device that computes nothing, ranks that are not there; and a throttle's text. */
#include "parallel/mesh.h"
#include "parallel/planned.h"
#include "parallel/throttle.h"
#include "tensor/ops.h"
#include "tensor/plan.h"
#include "tests/tensor/runner.h"

#include <math.h>

static fm_status planning(fm_ctx **out) {
    FM_TRY(fm_ctx_new("cpu", NULL, NULL, 0, out));
    return fm_device_plans((*out)->dev) ? FM_ERR_STATE : fm_ctx_plan(*out);
}

/* A product of 16 GB operands is nothing, and reads as zeros; the allocator counts it. */
static void computes_nothing(test *t) {
    fm_ctx *ctx;
    EXPECT_OK(t, planning(&ctx));
    EXPECT(t, fm_device_plans(ctx->dev) && !fm_device_plans(t->ctx->dev), "which one plans");
    fm_tensor *x, *w, *y;
    int64_t n = (int64_t)1 << 16;
    EXPECT_OK(t, FM_NEW(ctx, &x, FM_F32, n, n));
    EXPECT_OK(t, FM_NEW(ctx, &w, FM_F32, n, n));
    EXPECT_OK(t, fm_linear(ctx, &y, x, w, NULL, FM_ACT_NONE));
    EXPECT(t, ((float *)y->data)[n * n - 1] == 0.0f, "zeros");
    size_t in_use = fm_alloc_get_stats(ctx->alloc).in_use;
    EXPECT(t, in_use >= 3 * (size_t)(n * n) * sizeof(float), "%zu bytes in use", in_use);
    fm_tensor_free(x);
    fm_tensor_free(w);
    fm_tensor_free(y);
    EXPECT(t, fm_alloc_get_stats(ctx->alloc).reserved == 0, "given back at once");
    fm_ctx_free(ctx);
}

/* Blocks are zero again when they come back, and zero() empties what was written. */
static void fresh_memory(test *t) {
    fm_ctx *ctx;
    EXPECT_OK(t, planning(&ctx));
    fm_tensor *x;
    int64_t n = 5000;
    for (int i = 0; i < 2; i++) {
        EXPECT_OK(t, FM_NEW(ctx, &x, FM_F32, n));
        float *v = x->data;
        bool zero = true;
        for (int64_t k = 0; k < n; k++) zero = zero && v[k] == 0.0f;
        EXPECT(t, zero, "round %d", i);
        for (int64_t k = 0; k < n; k++) v[k] = 1.0f;
        if (i == 1) {
            EXPECT_OK(t, fm_tensor_zero(ctx, x));
            for (int64_t k = 0; k < n; k++) zero = zero && v[k] == 0.0f;
            EXPECT(t, zero, "zeroed");
        }
        fm_tensor_free(x);
    }
    int32_t numbers[3] = {4, 5, 6}, back[3] = {0};
    EXPECT_OK(t, fm_tensor_from_host(ctx, &x, FM_I32, 1, (int64_t[]){3}, numbers));
    EXPECT_OK(t, fm_tensor_to_host(ctx, x, back, sizeof back));
    EXPECT(t, back[0] == 4 && back[2] == 6, "copies are copies");
    fm_tensor_free(x);
    fm_ctx_free(ctx);
}

static void routing_is_even(test *t) {
    fm_ctx *ctx;
    EXPECT_OK(t, planning(&ctx));
    fm_tensor *x, *values, *indices;
    EXPECT_OK(t, FM_NEW(ctx, &x, FM_F32, 6, 4));
    EXPECT_OK(t, fm_top_k(ctx, &values, &indices, x, 2));
    int32_t *index = indices->data, counts[4] = {0};
    for (int i = 0; i < 12; i++) counts[index[i]]++;
    for (int e = 0; e < 4; e++) EXPECT(t, counts[e] == 3, "expert %d: %d", e, counts[e]);
    fm_moe_map map = {0};
    EXPECT_OK(t, fm_moe_map_new(ctx, &map, indices, 4));
    int32_t *offsets = map.offsets->data, *slot = map.slot->data, *source = map.source->data;
    EXPECT(t, offsets[0] == 0 && offsets[1] == 3 && offsets[4] == 12, "offsets");
    for (int i = 0; i < 12; i++) EXPECT(t, source[slot[i]] == i, "choice %d", i);
    fm_moe_map_free(&map);
    fm_tensor_free(x);
    fm_tensor_free(values);
    fm_tensor_free(indices);
    fm_ctx_free(ctx);
}

/* Integers as if each rank were like this one. */
static void ranks_that_are_not_there(test *t) {
    fm_ctx *ctx;
    EXPECT_OK(t, planning(&ctx));
    fm_comm *c;
    EXPECT_OK(t, fm_comm_planned(ctx, 2, 3, &c));
    int64_t x[3] = {5, 6, 7}, y[9] = {0}, counts[3] = {1, 1, 1}, places[3] = {0, 1, 2};
    EXPECT_OK(t, fm_all_gather_now(c, ctx, FM_I64, y, x, 3));
    for (int i = 0; i < 9; i++) EXPECT(t, y[i] == x[i % 3], "gathered %d", i);
    EXPECT_OK(t, fm_all_reduce_now(c, ctx, FM_I64, y, 9, FM_SUM));
    EXPECT(t, y[0] == 15 && y[8] == 21, "summed");
    EXPECT_OK(t, fm_all_reduce_now(c, ctx, FM_I64, y, 9, FM_MAX));
    EXPECT(t, y[0] == 15, "the highest");
    fm_collective trade = {.kind = FM_ALL_TO_ALL_V,
                           .dt = FM_I64,
                           .y = y,
                           .x = x,
                           .recv_counts = counts,
                           .recv_displs = places,
                           .send_counts = counts,
                           .send_displs = places};
    EXPECT_OK(t, fm_comm_run(c, ctx, &trade));
    for (int r = 0; r < 3; r++) EXPECT(t, y[r] == 7, "from rank %d: %d", r, (int)y[r]);
    EXPECT(t, c->stats[FM_ALL_GATHER].bytes == 2 * 3 * 8, "counted");
    float f = 3;
    EXPECT_OK(t, fm_all_reduce_now(c, ctx, FM_F32, &f, 1, FM_SUM));
    EXPECT(t, f == 3.0f, "floats are left alone");
    fm_comm *part;
    EXPECT(t, fm_comm_split(c, ctx, 0, 0, &part) == FM_ERR_UNSUPPORTED, "they cannot be asked");
    EXPECT(t, fm_comm_planned(ctx, 3, 3, &part) == FM_ERR_VALUE, "rank 3 of 3");
    EXPECT_ERROR(t, fm_comm_planned(t->ctx, 0, 3, &part), FM_ERR_VALUE, "computes");
    fm_comm_free(c);
    fm_ctx_free(ctx);
}

static void any_rank_of_any_mesh(test *t) {
    fm_ctx *ctx;
    EXPECT_OK(t, planning(&ctx));
    fm_mesh_config config = {.tp = 2, .pp = 1, .ep = 8, .etp = 2, .zero = 1};
    for (int rank = 0; rank < 64; rank += 21) {
        fm_comm *world;
        fm_mesh *m;
        EXPECT_OK(t, fm_comm_planned(ctx, rank, 64, &world));
        EXPECT_OK(t, fm_mesh_new(ctx, &config, world, &m));
        EXPECT(t, m->tp_comm->size == 2 && m->tp_comm->rank == rank % 2, "tp");
        EXPECT(t, m->dp_comm->size == 32 && m->dp_comm->rank == rank / 2, "dp");
        EXPECT(t, m->expert_comm->size == 16 && m->expert_comm->rank == rank % 16, "experts");
        EXPECT(t, m->expert_replicas_comm->size == 8, "replicas");
        EXPECT(t, m->pp_comm->size == 1, "pp");
        fm_mesh_free(m);
        fm_comm_free(world);
    }
    fm_ctx_free(ctx);
}

static void throttles(test *t) {
    double latency, bandwidth;
    fm_error err = {0};
    EXPECT(t, fm_throttle_read(&err, "20,1.25", &latency, &bandwidth) == FM_OK, "%s", err.message);
    EXPECT(t, fabs(latency - 20e-6) < 1e-12 && fabs(bandwidth - 1.25e9) < 1, "values");
    EXPECT(t, fm_throttle_read(&err, "0, inf", &latency, &bandwidth) == FM_OK, "%s", err.message);
    EXPECT(t, latency == 0 && isinf(bandwidth), "no limit");
    static const char *const bad[] = {"", "20", "20,", "-1,2", "1,0", "1,2,3", "inf,1", "nan,1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        EXPECT(t, fm_throttle_read(&err, bad[i], &latency, &bandwidth) == FM_ERR_VALUE, "'%s'",
               bad[i]);
}

static const test_case cases[] = {{"computes_nothing", computes_nothing},
                                  {"fresh_memory", fresh_memory},
                                  {"routing_is_even", routing_is_even},
                                  {"ranks_that_are_not_there", ranks_that_are_not_there},
                                  {"any_rank_of_any_mesh", any_rank_of_any_mesh},
                                  {"throttles", throttles}};
TEST_PROGRAM(cases)
