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
        EXPECT(t, comms[i] && comms[i]->size == 1 && strcmp(comms[i]->transport, "self") == 0,
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
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, 0, 2, &m), FM_ERR_UNSUPPORTED, "2 ranks");
    EXPECT(t, !m, "a mesh after an error");
}

static void collectives(test *t) {
    fm_comm *c;
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y;
    const float host[] = {1, 2, 3, 4, 5};
    float got[5] = {0};
    EXPECT_OK(t, fm_comm_self(ctx, &c));
    EXPECT_OK(t, fm_tensor_from_host(ctx, &x, FM_F32, 1, (int64_t[]){5}, host));
    EXPECT_OK(t, c->all_reduce(c, ctx, FM_F32, x->data, 5, FM_SUM));
    EXPECT_OK(t, c->broadcast(c, ctx, FM_F32, x->data, 5, 0));
    EXPECT_OK(t, c->barrier(c, ctx));
    EXPECT_OK(t, fm_tensor_to_host(ctx, x, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "in place: the same");
    EXPECT_OK(t, fm_tensor_zeros(ctx, &y, FM_F32, 1, (int64_t[]){5}));
    EXPECT_OK(t, c->all_gather(c, ctx, FM_F32, y->data, x->data, 5));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "gathered");
    EXPECT_OK(t, fm_tensor_zero(ctx, y));
    EXPECT_OK(t, c->reduce_scatter(c, ctx, FM_F32, y->data, x->data, 5));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, memcmp(got, host, sizeof host) == 0, "scattered");
    EXPECT_OK(t, fm_tensor_zero(ctx, y));
    EXPECT_OK(t, c->all_to_all_v(c, ctx, FM_F32, y->data, (int64_t[]){3}, (int64_t[]){1}, x->data,
                                 (int64_t[]){3}, (int64_t[]){2}));
    EXPECT_OK(t, fm_tensor_to_host(ctx, y, got, sizeof got));
    EXPECT(t, got[0] == 0 && got[1] == 3 && got[3] == 5 && got[4] == 0, "displaced");
    EXPECT_ERROR(t,
                 c->all_to_all_v(c, ctx, FM_F32, y->data, (int64_t[]){3}, (int64_t[]){0}, x->data,
                                 (int64_t[]){2}, (int64_t[]){0}),
                 FM_ERR_COMM, "sends itself 2", "expects 3");
    EXPECT_ERROR(t, c->broadcast(c, ctx, FM_F32, x->data, 5, 1), FM_ERR_VALUE, "root is 1");
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_comm_free(c);
    fm_comm_free(NULL);
}

static const test_case cases[] = {
    {"defaults", defaults}, {"errors", errors}, {"collectives", collectives}};
TEST_PROGRAM(cases)
