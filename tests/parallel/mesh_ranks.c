/* The mesh's groups: who is in them, in which order, and that no two of them mix. */
#include "parallel/tape_collectives.h"
#include "tests/parallel/ranks.h"

enum { MAX_RANKS = 8 };

/* The group's ranks must be those that agree with this one in everything but `axis`, in its order. */
static void check_group(test *t, const fm_mesh_config *c, fm_comm *group, const char *axis,
                        int (*number)(const fm_mesh_place *), const int *others,
                        const fm_mesh_place *places) {
    int32_t members[MAX_RANKS], me = ranks_world()->rank;
    EXPECT_OK(t, fm_all_gather_now(group, t->ctx, FM_I32, members, &me, 1));
    int found = 0;
    for (int r = 0; r < ranks_world()->size; r++) {
        if (others[r] != others[me]) continue;
        int at = number(&places[r]);
        EXPECT(t, at < group->size && members[at] == r, "tp %d ep %d etp %d: %s of rank %d: [%d]",
               c->tp, c->ep, c->etp, axis, (int)me, at);
        found++;
    }
    EXPECT(t, found == group->size, "%s of rank %d: %d ranks, not %d", axis, (int)me, group->size,
           found);
}

#define NUMBER(axis)                                                                               \
    static int axis(const fm_mesh_place *p) { return p->axis##_rank; }
NUMBER(tp)
NUMBER(dp)
NUMBER(ep)
NUMBER(etp)
NUMBER(edp)
static int in_stage(const fm_mesh_place *p) { return p->rank; }
static int among_experts(const fm_mesh_place *p) {
    return p->rank - p->edp_rank * (p->world_size / p->edp);
}

static int replica_etp; /* of the mesh that is checked */
static int among_replicas(const fm_mesh_place *p) {
    return p->edp_rank * replica_etp + p->etp_rank;
}

static void groups(test *t) {
    static const fm_mesh_config meshes[] = {
        {1, 1, 1, 1, 0}, {2, 1, 1, 1, 1}, {1, 1, 2, 1, 1}, {1, 1, 1, 2, 1},
        {2, 1, 2, 1, 1}, {1, 1, 2, 2, 1}, {4, 1, 4, 1, 1}, {2, 1, 1, 4, 1},
    };
    int world = ranks_world()->size;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        const fm_mesh_config *c = &meshes[i];
        if (world % c->tp || world % (c->ep * c->etp)) continue;
        fm_mesh *m;
        fm_mesh_place p[MAX_RANKS];
        EXPECT_OK(t, fm_mesh_new(t->ctx, c, ranks_world(), &m));
        int others[8][MAX_RANKS];
        for (int r = 0; r < world; r++) {
            EXPECT_OK(t, fm_mesh_find_place(t->ctx, c, r, world, &p[r]));
            others[0][r] = p[r].dp_rank;
            others[1][r] = p[r].tp_rank;
            others[2][r] = p[r].etp_rank * 100 + p[r].edp_rank;
            others[3][r] = p[r].ep_rank * 100 + p[r].edp_rank;
            others[4][r] = p[r].ep_rank * 100 + p[r].etp_rank;
            others[5][r] = 0;
            others[6][r] = p[r].edp_rank;
            others[7][r] = p[r].ep_rank;
        }
        check_group(t, c, m->tp_comm, "tp", tp, others[0], p);
        check_group(t, c, m->dp_comm, "dp", dp, others[1], p);
        check_group(t, c, m->ep_comm, "ep", ep, others[2], p);
        check_group(t, c, m->etp_comm, "etp", etp, others[3], p);
        check_group(t, c, m->edp_comm, "edp", edp, others[4], p);
        check_group(t, c, m->stage_comm, "stage", in_stage, others[5], p);
        check_group(t, c, m->expert_comm, "experts", among_experts, others[6], p);
        replica_etp = c->etp;
        check_group(t, c, m->expert_replicas_comm, "edp*etp", among_replicas, others[7], p);
        fm_mesh_free(m);
    }
}

/* Ranks 0 .. n-1 have 1 .. n; the loss is the mean of 3 y over dp. */
static void mean_over_ranks(test *t) {
    int n = ranks_world()->size;
    for (int tp = 1; tp <= n; tp++) {
        if (n % tp != 0) continue;
        fm_mesh_config c = fm_mesh_config_default();
        fm_mesh *m;
        fm_tensor *x, *y, *dy;
        double value;
        float own = (float)(ranks_world()->rank + 1), seed = 3.0f * (float)tp / (float)n;
        c.tp = tp;
        EXPECT_OK(t, fm_mesh_new(t->ctx, &c, ranks_world(), &m));
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_F32, 1, (int64_t[]){1}, &own));
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &dy, FM_F32, 1, (int64_t[]){1}, &seed));
        x->requires_grad = true;
        EXPECT_OK(t, fm_rank_mean(t->ctx, m, &y, x));
        EXPECT_OK(t, fm_tensor_item(t->ctx, y, &value));
        EXPECT(t, value == (n + 1) / 2.0, "tp %d: the mean is %g", tp, value);
        if (n > 1) {
            EXPECT_OK(t, fm_backward(t->ctx, y, dy));
            EXPECT_OK(t, fm_tensor_item(t->ctx, x->grad, &value));
            EXPECT(t, value > 2.999999 / n && value < 3.000001 / n, "tp %d: dx is %g", tp, value);
        }
        fm_tensor_free(dy);
        fm_tensor_free(y);
        fm_tensor_free(x);
        fm_mesh_free(m);
    }
}

static void no_pipeline_yet(test *t) {
    fm_mesh *m;
    fm_mesh_config c = fm_mesh_config_default();
    c.pp = ranks_world()->size;
    if (c.pp == 1) return;
    EXPECT_ERROR(t, fm_mesh_new(t->ctx, &c, ranks_world(), &m), FM_ERR_UNSUPPORTED, "pp is",
                 "pipeline");
}

static const test_case cases[] = {
    {"groups", groups}, {"mean_over_ranks", mean_over_ranks}, {"no_pipeline_yet", no_pipeline_yet}};
RANKS_PROGRAM(cases)
