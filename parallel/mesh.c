#include "parallel/mesh.h"

#include <stdlib.h>

fm_mesh_config fm_mesh_config_default(void) {
    return (fm_mesh_config){.tp = 1, .pp = 1, .ep = 1, .etp = 1, .zero = 1};
}

static fm_status check_sizes(fm_ctx *ctx, const fm_mesh_config *c, int world_size) {
    const struct {
        const char *name;
        int value;
    } sizes[] = {{"tp", c->tp}, {"pp", c->pp}, {"ep", c->ep}, {"etp", c->etp}};
    for (int i = 0; i < 4; i++)
        FM_CHECK(sizes[i].value >= 1, FM_ERR_VALUE, "mesh: %s is %d; it must be at least 1",
                 sizes[i].name, sizes[i].value);
    FM_CHECK(c->zero == 0 || c->zero == 1, FM_ERR_VALUE, "mesh: zero is %d; allowed are 0 and 1",
             c->zero);
    FM_CHECK(world_size >= 1, FM_ERR_VALUE, "mesh: world_size is %d; it must be at least 1",
             world_size);
    /* Products in 64 bits: 65536 times 65536 is 0 in an int. */
    FM_CHECK(world_size % ((int64_t)c->tp * c->pp) == 0, FM_ERR_VALUE,
             "mesh: tp %d times pp %d does not divide the %d ranks", c->tp, c->pp, world_size);
    FM_CHECK(world_size % ((int64_t)c->pp * c->etp) == 0, FM_ERR_VALUE,
             "mesh: pp %d times etp %d does not divide the %d ranks", c->pp, c->etp, world_size);
    int experts = world_size / (c->pp * c->etp);
    FM_CHECK(experts % c->ep == 0, FM_ERR_VALUE,
             "mesh: ep is %d; it must divide world_size/(pp*etp) = %d", c->ep, experts);
    return FM_OK;
}

fm_status fm_mesh_new(fm_ctx *ctx, const fm_mesh_config *config, int rank, int world_size,
                      fm_mesh **out) {
    *out = NULL;
    FM_TRY(check_sizes(ctx, config, world_size));
    FM_CHECK(world_size == 1, FM_ERR_UNSUPPORTED, "mesh: %d ranks; this version trains on one rank",
             world_size);
    FM_CHECK(rank == 0, FM_ERR_VALUE, "mesh: rank is %d of a world of one", rank);
    fm_mesh *m = calloc(1, sizeof *m);
    FM_CHECK(m, FM_ERR_OOM, "out of memory: a mesh");
    m->config = *config;
    m->world_size = m->dp = m->edp = 1;
    fm_comm **comms[] = {&m->world_comm, &m->tp_comm,  &m->dp_comm,
                         &m->ep_comm,    &m->etp_comm, &m->edp_comm};
    for (int i = 0; i < 6; i++) {
        fm_status status = fm_comm_self(ctx, comms[i]);
        if (status != FM_OK) {
            fm_mesh_free(m);
            return status;
        }
    }
    *out = m;
    return FM_OK;
}

void fm_mesh_free(fm_mesh *m) {
    if (!m) return;
    fm_comm_free(m->world_comm);
    fm_comm_free(m->tp_comm);
    fm_comm_free(m->dp_comm);
    fm_comm_free(m->ep_comm);
    fm_comm_free(m->etp_comm);
    fm_comm_free(m->edp_comm);
    free(m);
}
