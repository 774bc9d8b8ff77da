/* The mesh's arithmetic and errors, and the group of one rank. */
#include "parallel/mesh.h"
#include "tests/tensor/runner.h"

#include <string.h>

static void defaults(test *t) {
    fm_mesh *m;
    fm_mesh_config c = fm_mesh_config_default();
    EXPECT_OK(t, fm_mesh_new(t->ctx, &c, NULL, &m));
    EXPECT(t, m->at.world_size == 1 && m->at.dp == 1 && m->at.edp == 1, "sizes");
    EXPECT(t, !m->at.rank && !m->at.dp_rank && !m->at.tp_rank && !m->at.ep_rank, "ranks");
    fm_comm *comms[] = {m->world_comm, m->tp_comm,  m->dp_comm, m->pp_comm,
                        m->ep_comm,    m->etp_comm, m->edp_comm};
    for (int i = 0; i < 7; i++)
        EXPECT(t, comms[i] && comms[i]->size == 1 && strcmp(comms[i]->transport->name, "self") == 0,
               "communicator %d", i);
    fm_mesh_free(m);
    fm_mesh_free(NULL);
}

/* The order of ranks, and that each place is one rank's: by counting up with the innermost axis first. */
static void places(test *t) {
    static const struct {
        int world, tp, pp, ep, etp;
    } meshes[] = {{1, 1, 1, 1, 1}, {8, 1, 1, 1, 1},  {8, 2, 1, 4, 1},  {8, 2, 2, 2, 2},
                  {8, 1, 1, 8, 1}, {12, 3, 2, 2, 1}, {64, 4, 2, 8, 2}, {6, 2, 1, 3, 2}};
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        fm_mesh_config c = {meshes[i].tp, meshes[i].pp, meshes[i].ep, meshes[i].etp, 1};
        int world = meshes[i].world, rank = 0, stage = world / c.pp;
        for (int pp = 0; pp < c.pp; pp++)
            for (int dp = 0; dp < stage / c.tp; dp++)
                for (int tp = 0; tp < c.tp; tp++, rank++) {
                    fm_mesh_place p;
                    EXPECT_OK(t, fm_mesh_find_place(t->ctx, &c, rank, world, &p));
                    EXPECT(t, p.tp_rank == tp && p.dp_rank == dp && p.pp_rank == pp,
                           "mesh %zu, rank %d: tp %d dp %d pp %d", i, rank, p.tp_rank, p.dp_rank,
                           p.pp_rank);
                    EXPECT(t, c.tp * c.pp * p.dp == world && c.pp * c.ep * c.etp * p.edp == world,
                           "mesh %zu: dp %d, edp %d", i, p.dp, p.edp);
                }
        rank = 0;
        for (int pp = 0; pp < c.pp; pp++)
            for (int edp = 0; edp < stage / (c.ep * c.etp); edp++)
                for (int ep = 0; ep < c.ep; ep++)
                    for (int etp = 0; etp < c.etp; etp++, rank++) {
                        fm_mesh_place p;
                        EXPECT_OK(t, fm_mesh_find_place(t->ctx, &c, rank, world, &p));
                        EXPECT(t, p.etp_rank == etp && p.ep_rank == ep && p.edp_rank == edp,
                               "mesh %zu, rank %d: etp %d ep %d edp %d", i, rank, p.etp_rank,
                               p.ep_rank, p.edp_rank);
                    }
    }
}

static void errors(test *t) {
    fm_mesh_place p;
    fm_mesh_config c = fm_mesh_config_default();
    c.tp = 0;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 1, &p), FM_ERR_VALUE, "tp is 0");
    c.tp = 5;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 12, &p), FM_ERR_VALUE, "tp is 5", "= 12",
                 "1, 2, 3, 4, 6 and 12");
    c = fm_mesh_config_default();
    c.ep = 3;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 4, &p), FM_ERR_VALUE, "ep is 3", "= 4",
                 "1, 2 and 4");
    c.ep = 2, c.etp = 2;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 2, &p), FM_ERR_VALUE, "ep is 2", "= 1",
                 "allowed: 1");
    c = fm_mesh_config_default();
    c.zero = 2;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 1, &p), FM_ERR_VALUE, "zero is 2", "0 and 1");
    c = fm_mesh_config_default();
    c.pp = 2, c.etp = 3;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 4, &p), FM_ERR_VALUE, "etp is 3", "= 2");
    c.pp = 3;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 4, &p), FM_ERR_VALUE, "pp is 3", "4 ranks");
    c = fm_mesh_config_default();
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 0, &p), FM_ERR_VALUE, "world_size is 0");
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 1, 1, &p), FM_ERR_VALUE, "rank is 1");
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, -1, 1, &p), FM_ERR_VALUE, "rank is -1");
    /* no product of the sizes may overflow */
    c.tp = c.pp = 65536;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 1, &p), FM_ERR_VALUE, "pp is 65536");
    c.tp = c.pp = 1;
    c.etp = c.ep = 65536;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 1, &p), FM_ERR_VALUE, "etp is 65536");
    c.etp = 1, c.pp = c.tp = -2147483647 - 1;
    EXPECT_ERROR(t, fm_mesh_find_place(t->ctx, &c, 0, 1, &p), FM_ERR_VALUE, "tp is -2147483648");
}

/* Of the one rank: `sent` elements of x from `from` on become `received` ones of y from `to` on. */
static fm_status exchange(fm_comm *c, fm_ctx *ctx, fm_dtype dt, fm_tensor *y, int64_t received,
                          int64_t to, fm_tensor *x, int64_t sent, int64_t from) {
    fm_collective w = {.kind = FM_ALL_TO_ALL_V,
                       .dt = dt,
                       .y = y->data,
                       .x = x->data,
                       .recv_counts = &received,
                       .recv_displs = &to,
                       .send_counts = &sent,
                       .send_displs = &from};
    return fm_comm_run(c, ctx, &w);
}

/* Counts are elements: two bytes each here; the maximum over one rank is its own. */
static void counts_are_elements(test *t) {
    fm_comm *c;
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y;
    fm_bf16 host[6], got[6];
    for (int i = 0; i < 6; i++) host[i] = fm_f32_to_bf16((float)i + 1);
    EXPECT_OK(t, fm_comm_self(ctx, &c));
    EXPECT_OK(t, fm_tensor_from_host(ctx, &x, FM_BF16, 1, (int64_t[]){6}, host));
    EXPECT_OK(t, fm_tensor_zeros(ctx, &y, FM_BF16, 1, (int64_t[]){6}));
    EXPECT_OK(t, fm_all_reduce_now(c, ctx, FM_BF16, x->data, 6, FM_MAX));
    EXPECT_OK(t, fm_all_gather_now(c, ctx, FM_BF16, y->data, x->data, 4));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, memcmp(got, host, 4 * sizeof *got) == 0 && !got[4].bits, "4 elements of 2 bytes");
    EXPECT_OK(t, exchange(c, ctx, FM_BF16, y, 2, 4, x, 2, 1));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t,
           got[3].bits == host[3].bits && got[4].bits == host[1].bits &&
               got[5].bits == host[2].bits,
           "displacements of 2 bytes an element");
    /* nothing at all, and a gather in place */
    EXPECT_OK(t, fm_reduce_scatter_now(c, ctx, FM_BF16, y->data, x->data, 0));
    EXPECT_OK(t, fm_all_gather_now(c, ctx, FM_BF16, x->data, x->data, 6));
    EXPECT_OK(t, fm_tensor_to_host(ctx, x, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "in place");
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_comm_free(c);
}

static void collectives(test *t) {
    fm_comm *c;
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y;
    const float host[] = {1, 2, 3, 4, 5};
    float got[5] = {0};
    EXPECT_OK(t, fm_comm_self(ctx, &c));
    EXPECT_OK(t, fm_tensor_from_host(ctx, &x, FM_F32, 1, (int64_t[]){5}, host));
    EXPECT_OK(t, fm_all_reduce_now(c, ctx, FM_F32, x->data, 5, FM_SUM));
    EXPECT_OK(t, fm_broadcast_now(c, ctx, FM_F32, x->data, 5, 0));
    EXPECT_OK(t, fm_barrier_now(c, ctx));
    EXPECT_OK(t, fm_tensor_to_host(ctx, x, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "in place: the same");
    EXPECT_OK(t, fm_tensor_zeros(ctx, &y, FM_F32, 1, (int64_t[]){5}));
    EXPECT_OK(t, fm_all_gather_now(c, ctx, FM_F32, y->data, x->data, 5));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "gathered");
    EXPECT_OK(t, fm_tensor_zero(ctx, y));
    EXPECT_OK(t, fm_reduce_scatter_now(c, ctx, FM_F32, y->data, x->data, 5));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "scattered");
    EXPECT_OK(t, fm_tensor_zero(ctx, y));
    EXPECT_OK(t, exchange(c, ctx, FM_F32, y, 3, 1, x, 3, 2));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, got[0] == 0 && got[1] == 3 && got[3] == 5 && got[4] == 0, "displaced");
    EXPECT_ERROR(t, exchange(c, ctx, FM_F32, y, 3, 0, x, 2, 0), FM_ERR_VALUE, "sends itself 2",
                 "expects 3");
    EXPECT_ERROR(t, fm_broadcast_now(c, ctx, FM_F32, x->data, 5, 1), FM_ERR_VALUE, "root is 1");
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_comm_free(c);
    fm_comm_free(NULL);
}

static const test_case cases[] = {{"defaults", defaults},
                                  {"errors", errors},
                                  {"places", places},
                                  {"collectives", collectives},
                                  {"counts_are_elements", counts_are_elements}};
TEST_PROGRAM(cases)
