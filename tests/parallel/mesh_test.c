/* The mesh's arithmetic and errors, and the group of one rank. */
#include "parallel/mesh.h"
#include "tests/tensor/runner.h"

#include <string.h>

static void defaults(test *t) {
    fm_mesh *m;
    fm_mesh_config c = fm_mesh_config_default();
    EXPECT_OK(t, fm_mesh_new(t->ctx, &c, 0, 1, &m));
    EXPECT(t, m->world_size == 1 && m->dp == 1 && m->edp == 1, "sizes");
    EXPECT(t, !m->rank && !m->dp_rank && !m->tp_rank && !m->ep_rank, "ranks");
    fm_comm *comms[] = {m->world_comm, m->tp_comm,  m->dp_comm,
                        m->ep_comm,    m->etp_comm, m->edp_comm};
    for (int i = 0; i < 6; i++)
        EXPECT(t, comms[i] && comms[i]->size == 1 && strcmp(comms[i]->transport->name, "self") == 0,
               "communicator %d", i);
    fm_mesh_free(m);
    fm_mesh_free(NULL);
}

static void errors(test *t) {
    fm_mesh *m;
    fm_mesh_config c = fm_mesh_config_default();
    c.tp = 0;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 1, &m), FM_ERR_VALUE, "tp is 0");
    c = fm_mesh_config_default();
    c.tp = 2;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 3, &m), FM_ERR_VALUE, "tp 2", "3 ranks");
    c = fm_mesh_config_default();
    c.ep = 3;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 4, &m), FM_ERR_VALUE, "ep is 3", "= 4");
    c = fm_mesh_config_default();
    c.zero = 2;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 1, &m), FM_ERR_VALUE, "zero is 2", "0 and 1");
    c = fm_mesh_config_default();
    c.pp = 2, c.etp = 3;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 4, &m), FM_ERR_VALUE, "pp 2", "etp 3", "4 ranks");
    c = fm_mesh_config_default();
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 0, &m), FM_ERR_VALUE, "world_size is 0");
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 1, 1, &m), FM_ERR_VALUE, "rank is 1");
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 2, &m), FM_ERR_UNSUPPORTED, "2 ranks");
    EXPECT(t, !m, "a mesh after an error");
}

/* 65536 times 65536 is 0 in an int. */
static void products_that_overflow(test *t) {
    fm_mesh *m;
    fm_mesh_config c = fm_mesh_config_default();
    c.tp = c.pp = 65536;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 1, &m), FM_ERR_VALUE, "tp 65536", "pp 65536",
                 "1 ranks");
    c.tp = 1, c.pp = 1;
    c.etp = c.ep = 65536;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 1, &m), FM_ERR_VALUE, "etp 65536", "1 ranks");
    c.etp = 1, c.pp = c.tp = -2147483647 - 1;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 1, &m), FM_ERR_VALUE, "tp is -2147483648");
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
                                  {"products_that_overflow", products_that_overflow},
                                  {"collectives", collectives},
                                  {"counts_are_elements", counts_are_elements}};
TEST_PROGRAM(cases)
