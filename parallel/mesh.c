#include "parallel/mesh.h"

#include <stdio.h>
#include <stdlib.h>

fm_mesh_config fm_mesh_config_default(void) {
    return (fm_mesh_config){.tp = 1, .pp = 1, .ep = 1, .etp = 1, .zero = 1};
}

const char *fm_divisors(int64_t n, char *buf, size_t size) {
    size_t used = 0;
    buf[0] = 0;
    for (int64_t d = 1; d <= n && used < size; d++)
        if (n % d == 0)
            used += (size_t)snprintf(buf + used, size - used, "%s%lld",
                                     d == 1   ? ""
                                     : d == n ? " and "
                                              : ", ",
                                     (long long)d);
    return buf;
}

static fm_status check(fm_ctx *ctx, const fm_mesh_config *c, int rank, int world_size) {
    const struct {
        const char *name;
        int value;
    } sizes[] = {{"tp", c->tp}, {"pp", c->pp}, {"ep", c->ep}, {"etp", c->etp}};
    char would[256];
    for (int i = 0; i < 4; i++)
        FM_CHECK(sizes[i].value >= 1, FM_ERR_VALUE, "mesh: %s is %d; it must be at least 1",
                 sizes[i].name, sizes[i].value);
    FM_CHECK(c->zero == 0 || c->zero == 1, FM_ERR_VALUE, "mesh: zero is %d; allowed are 0 and 1",
             c->zero);
    FM_CHECK(world_size >= 1, FM_ERR_VALUE, "mesh: world_size is %d; it must be at least 1",
             world_size);
    FM_CHECK(rank >= 0 && rank < world_size, FM_ERR_VALUE,
             "mesh: rank is %d; the %d ranks are 0 to %d", rank, world_size, world_size - 1);
    FM_CHECK(world_size % c->pp == 0, FM_ERR_VALUE,
             "mesh: pp is %d; what divides the %d ranks is allowed: %s", c->pp, world_size,
             fm_divisors(world_size, would, sizeof would));
    int stage = world_size / c->pp;
    FM_CHECK(stage % c->tp == 0, FM_ERR_VALUE,
             "mesh: tp is %d; what divides world_size / pp = %d is allowed: %s", c->tp, stage,
             fm_divisors(stage, would, sizeof would));
    FM_CHECK(stage % c->etp == 0, FM_ERR_VALUE,
             "mesh: etp is %d; what divides world_size / pp = %d is allowed: %s", c->etp, stage,
             fm_divisors(stage, would, sizeof would));
    int experts = stage / c->etp;
    FM_CHECK(experts % c->ep == 0, FM_ERR_VALUE,
             "mesh: ep is %d; what divides world_size / (pp * etp) = %d is allowed: %s", c->ep,
             experts, fm_divisors(experts, would, sizeof would));
    return FM_OK;
}

fm_status fm_mesh_find_place(fm_ctx *ctx, const fm_mesh_config *c, int rank, int world_size,
                             fm_mesh_place *out) {
    FM_TRY(check(ctx, c, rank, world_size));
    int stage = world_size / c->pp, in_stage = rank % stage;
    *out = (fm_mesh_place){
        .rank = rank,
        .world_size = world_size,
        .dp = stage / c->tp,
        .edp = stage / (c->ep * c->etp),
        .tp_rank = in_stage % c->tp,
        .dp_rank = in_stage / c->tp,
        .pp_rank = rank / stage,
        .etp_rank = in_stage % c->etp,
        .ep_rank = in_stage / c->etp % c->ep,
        .edp_rank = in_stage / (c->etp * c->ep),
    };
    return FM_OK;
}

/* The ranks that differ from this one along one axis only have `color` in common. */
static fm_status make_groups(fm_ctx *ctx, fm_mesh *m) {
    const fm_mesh_place *p = &m->at;
    const fm_mesh_config *c = &m->config;
    int stage = p->world_size / c->pp, first = p->pp_rank * stage, in_stage = p->rank - first;
    const struct {
        const char *name;
        fm_comm **comm;
        int color, key, size;
    } axes[] = {
        {"tp", &m->tp_comm, first + p->dp_rank, p->tp_rank, c->tp},
        {"dp", &m->dp_comm, first + p->tp_rank, p->dp_rank, p->dp},
        {"pp", &m->pp_comm, in_stage, p->pp_rank, c->pp},
        {"etp", &m->etp_comm, first + p->edp_rank * c->ep + p->ep_rank, p->etp_rank, c->etp},
        {"ep", &m->ep_comm, first + p->edp_rank * c->etp + p->etp_rank, p->ep_rank, c->ep},
        {"edp", &m->edp_comm, first + p->ep_rank * c->etp + p->etp_rank, p->edp_rank, p->edp},
        {"stage", &m->stage_comm, p->pp_rank, in_stage, stage},
        {"expert", &m->expert_comm, first + p->edp_rank, p->ep_rank * c->etp + p->etp_rank,
         c->ep * c->etp},
        {"expert_replicas", &m->expert_replicas_comm, first + p->ep_rank,
         p->edp_rank * c->etp + p->etp_rank, p->edp * c->etp},
    };
    for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
        FM_TRY(fm_comm_split_known(m->world_comm, ctx, axes[i].color, axes[i].key, axes[i].size,
                                   axes[i].comm));
        if ((*axes[i].comm)->size > 1) (*axes[i].comm)->name = axes[i].name;
    }
    return FM_OK;
}

fm_status fm_mesh_new(fm_ctx *ctx, const fm_mesh_config *config, fm_comm *world, fm_mesh **out) {
    *out = NULL;
    fm_mesh_place place;
    FM_TRY(
        fm_mesh_find_place(ctx, config, world ? world->rank : 0, world ? world->size : 1, &place));
    FM_CHECK(config->pp == 1, FM_ERR_UNSUPPORTED,
             "mesh: pp is %d; there is no pipeline parallelism yet: 1 is what works", config->pp);
    fm_mesh *m = calloc(1, sizeof *m);
    FM_CHECK(m, FM_ERR_OOM, "out of memory: a mesh");
    m->config = *config;
    m->bucket_elements = FM_BUCKET_ELEMENTS;
    m->at = place;
    fm_status s = world ? FM_OK : fm_comm_self(ctx, &m->alone);
    m->world_comm = world ? world : m->alone;
    if (s == FM_OK) s = make_groups(ctx, m);
    if (s != FM_OK) {
        fm_mesh_free(m);
        return s;
    }
    *out = m;
    return FM_OK;
}

fm_comm *fm_mesh_replicas(const fm_mesh *m, fm_replicas kind) {
    fm_comm *const comms[] = {m->dp_comm, m->stage_comm, m->edp_comm, m->expert_replicas_comm};
    return comms[kind];
}

const char *fm_replicas_name(fm_replicas kind) {
    static const char *const names[] = {"dp", "dp*tp", "edp", "edp*etp"};
    return names[kind];
}

fm_rows fm_mesh_rows(const fm_mesh *m, int64_t B, int64_t S) {
    int64_t tp = m->config.tp, own = S / tp;
    return (fm_rows){.offset = m->at.dp_rank * B * S + m->at.tp_rank * own,
                     .block = tp > 1 ? own : 0,
                     .stride = S};
}

void fm_mesh_free(fm_mesh *m) {
    if (!m) return;
    fm_comm *const groups[] = {m->tp_comm,    m->dp_comm,     m->pp_comm,
                               m->etp_comm,   m->ep_comm,     m->edp_comm,
                               m->stage_comm, m->expert_comm, m->expert_replicas_comm,
                               m->alone};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) fm_comm_free(groups[i]);
    free(m);
}
