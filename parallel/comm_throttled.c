#include "parallel/throttle.h"
#include "tensor/seconds.h"

#include <math.h>
#include <stdlib.h>

typedef struct link {
    fm_comm *inner;
    double latency, bandwidth;
    double busy_until; /* when the link is free again */
} link;

typedef struct pending {
    void *state;      /* of the transport below */
    fm_status failed; /* of the inner one: once it has, a wait that is repeated fails as well */
    double ready;     /* not complete before */
} pending;

static fm_status start(fm_comm *c, fm_ctx *ctx, const fm_collective *w, void **state) {
    link *l = c->impl;
    pending *p = calloc(1, sizeof *p);
    FM_CHECK(p, FM_ERR_OOM, "out of memory: %s", fm_collective_name(w->kind));
    l->inner->started = c->started;
    fm_status s = l->inner->transport->start(l->inner, ctx, w, &p->state);
    if (s != FM_OK) {
        free(p);
        return s;
    }
    double free_at = l->busy_until > fm_seconds() ? l->busy_until : fm_seconds();
    l->busy_until = free_at + (double)fm_collective_bytes(c, w) / l->bandwidth;
    p->ready = l->busy_until + l->latency;
    *state = p;
    return FM_OK;
}

static fm_status test(fm_comm *c, fm_ctx *ctx, void **state) {
    link *l = c->impl;
    pending *p = *state;
    if (p->failed != FM_OK) return p->failed;
    if (p->state) p->failed = l->inner->transport->test(l->inner, ctx, &p->state);
    if (p->failed != FM_OK) return p->failed;
    if (p->state || fm_seconds() < p->ready) return FM_OK;
    free(p);
    *state = NULL;
    return FM_OK;
}

static fm_status split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out) {
    const link *l = c->impl;
    fm_comm *part;
    *out = NULL;
    FM_TRY(l->inner->transport->split(l->inner, ctx, color, key, &part));
    return fm_comm_throttled(ctx, part, l->latency, l->bandwidth, out);
}

static void free_link(void *impl) {
    link *l = impl;
    fm_comm_free(l->inner);
    free(l);
}

static const fm_transport transport = {"throttled", start, test, split, free_link, NULL};

fm_status fm_comm_throttled(fm_ctx *ctx, fm_comm *inner, double latency, double bandwidth,
                            fm_comm **out) {
    *out = NULL;
    link *l = malloc(sizeof *l);
    if (!l || !(latency >= 0) || isinf(latency) || !(bandwidth > 0)) {
        fm_comm_free(inner);
        free(l);
        FM_CHECK(l, FM_ERR_OOM, "out of memory: a throttled communicator");
        return fm_fail(
            &ctx->error, FM_ERR_VALUE,
            "throttled: latency is %g s and bandwidth %g bytes/s; at least 0 and above 0 "
            "are allowed",
            latency, bandwidth);
    }
    *l = (link){inner, latency, bandwidth, 0};
    return fm_comm_new(ctx, &transport, l, inner->rank, inner->size, out);
}

fm_status fm_throttle_read(fm_error *err, const char *text, double *latency, double *bandwidth) {
    char *comma, *end = NULL;
    double us = strtod(text, &comma), gb = 0;
    bool two = comma != text && *comma == ',';
    if (two) gb = strtod(comma + 1, &end);
    if (!two || end == comma + 1 || *end != 0 || !(us >= 0) || isinf(us) || !(gb > 0))
        return fm_fail(
            err, FM_ERR_VALUE,
            "'%s' is no throttle: \"latency_us,GB_per_s\" is, with a latency of at least "
            "0 and a bandwidth above 0",
            text);
    *latency = us * 1e-6;
    *bandwidth = gb * 1e9;
    return FM_OK;
}
