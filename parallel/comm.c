#include "parallel/comm.h"
#include "tensor/seconds.h"
#include "tensor/standing.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *fm_collective_name(fm_collective_kind kind) {
    static const char *const names[] = {
#define FM_COLLECTIVE_NAME(kind, name) name,
        FM_COLLECTIVE_MAP(FM_COLLECTIVE_NAME)
#undef FM_COLLECTIVE_NAME
    };
    return names[kind];
}

fm_status fm_comm_new(fm_ctx *ctx, const fm_transport *transport, void *impl, int rank, int size,
                      fm_comm **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) {
        transport->free(impl);
        return fm_fail(&ctx->error, FM_ERR_OOM, "out of memory: a communicator");
    }
    (*out)->transport = transport;
    (*out)->impl = impl;
    (*out)->rank = rank;
    (*out)->size = size;
    (*out)->name = size > 1 ? "world" : "self";
    return FM_OK;
}

void fm_comm_free(fm_comm *c) {
    if (!c) return;
    c->transport->free(c->impl);
    free(c);
}

/* ---- what is asked for */

static fm_status check_parts(const fm_comm *c, fm_ctx *ctx, const fm_collective *w) {
    for (int i = 0; i < c->size; i++)
        FM_CHECK(w->recv_counts[i] >= 0 && w->send_counts[i] >= 0, FM_ERR_VALUE,
                 "all_to_all_v: counts of rank %d are %lld sent and %lld received; at least 0 are "
                 "allowed",
                 i, (long long)w->send_counts[i], (long long)w->recv_counts[i]);
    FM_CHECK(w->recv_counts[c->rank] == w->send_counts[c->rank], FM_ERR_VALUE,
             "all_to_all_v: rank %d sends itself %lld elements and expects %lld", c->rank,
             (long long)w->send_counts[c->rank], (long long)w->recv_counts[c->rank]);
    return FM_OK;
}

static fm_status check(const fm_comm *c, fm_ctx *ctx, const fm_collective *w) {
    const char *name = fm_collective_name(w->kind);
    bool paired = w->kind == FM_SEND || w->kind == FM_RECV;
    FM_CHECK(w->n >= 0, FM_ERR_VALUE, "%s: n is %lld; at least 0 is allowed", name,
             (long long)w->n);
    if (w->kind == FM_BROADCAST || paired)
        FM_CHECK(w->peer >= 0 && w->peer < c->size, FM_ERR_VALUE,
                 "%s: %s is %d; the group's ranks are 0 to %d", name, paired ? "peer" : "root",
                 w->peer, c->size - 1);
    if (paired) {
        FM_CHECK(w->peer != c->rank, FM_ERR_VALUE, "%s: peer is %d, the rank itself", name,
                 w->peer);
        FM_CHECK(w->tag >= 0 && w->tag <= FM_TAG_MAX, FM_ERR_VALUE,
                 "%s: tag is %d; 0 to %d are allowed", name, w->tag, FM_TAG_MAX);
    }
    return w->kind == FM_ALL_TO_ALL_V ? check_parts(c, ctx, w) : FM_OK;
}

int64_t fm_collective_bytes(const fm_comm *c, const fm_collective *w) {
    int64_t others = c->size - 1, elements = 0;
    switch (w->kind) {
    case FM_ALL_REDUCE:
        elements = 2 * w->n * others / c->size;
        break;
    case FM_ALL_GATHER:
    case FM_REDUCE_SCATTER:
        elements = w->n * others;
        break;
    case FM_ALL_TO_ALL_V:
        for (int i = 0; i < c->size; i++) elements += i == c->rank ? 0 : w->send_counts[i];
        break;
    case FM_BROADCAST:
        elements = others > 0 && c->rank != (w->peer + c->size - 1) % c->size ? w->n : 0;
        break;
    case FM_SEND:
        elements = w->n;
        break;
    case FM_RECV:
    case FM_BARRIER:
    case FM_COLLECTIVE_KINDS:
        break;
    }
    return elements * (int64_t)fm_dtype_size(w->dt);
}

/* ---- waiting */

/* First gives the processor to whoever wants it, then sleeps: on a machine with as many ranks as cores
 * a rank that spins takes the time of the one it waits for. */
static void rest(int turn) {
    enum { YIELDS = 100, SHORT_NS = 10000, LONG_NS = 200000 };
    if (turn < YIELDS) {
        sched_yield();
        return;
    }
    long ns = (long)SHORT_NS * (1 + (turn - YIELDS) / 10);
    nanosleep(&(struct timespec){.tv_nsec = ns < LONG_NS ? ns : LONG_NS}, NULL);
}

static void note(fm_standing_at *at, const fm_comm *c, const fm_collective *what, uint64_t number) {
    FM_STAND(at, what, fm_collective_name(what->kind));
    FM_STAND(at, group, c->name);
    FM_STAND(at, number, number);
    FM_STAND(at, ranks, c->size);
}

static void note_wait(fm_standing *s, const fm_comm *c, bool waiting, double now) {
    FM_STAND(s, limit, c->time_limit);
    FM_STAND(s, since, now);
    FM_STAND(s, waiting, waiting);
}

static fm_status complete(fm_comm *c, fm_ctx *ctx, const fm_collective *what, uint64_t number,
                          void **state) {
    double started = fm_seconds();
    if (ctx->standing) note(&ctx->standing->waited, c, what, number);
    note_wait(ctx->standing, c, true, started);
    for (int turn = 0; *state; turn++) {
        fm_status s = c->transport->test(c, ctx, state);
        if (s != FM_OK)
            return fm_fail_context(&ctx->error, s, "%s number %llu", fm_collective_name(what->kind),
                                   (unsigned long long)number);
        if (!*state) break;
        double waited = fm_seconds() - started;
        FM_CHECK(c->time_limit <= 0 || waited <= c->time_limit, FM_ERR_COMM,
                 "%s number %llu of %s (%d ranks) is not complete after %g s, the time limit",
                 fm_collective_name(what->kind), (unsigned long long)number, c->name, c->size,
                 c->time_limit);
        rest(turn);
    }
    double now = fm_seconds();
    c->stats[what->kind].waited += now - started;
    note_wait(ctx->standing, c, false, now);
    return FM_OK;
}

/* Where it fails the buffers, wherever they are in use, are the transport's from then on. */
static fm_status finish(fm_comm *c, fm_ctx *ctx, const fm_collective *what, uint64_t number,
                        void **state) {
    fm_status s = complete(c, ctx, what, number, state);
    if (s != FM_OK) fm_alloc_keep_all(ctx->alloc);
    return s;
}

/* ---- the same on every rank? */

enum { SIGNATURE = 6 };

static void sign(const fm_comm *c, const fm_collective *w, int64_t *s) {
    s[0] = w->kind, s[1] = w->dt, s[2] = w->op;
    s[3] = w->kind == FM_ALL_TO_ALL_V ? 0 : w->n; /* there the ranks differ by right */
    s[4] = (int64_t)c->started;
    s[5] = w->kind == FM_BROADCAST ? w->peer : 0;
}

static const char *describe(const int64_t *s, char *buf, size_t n) {
    snprintf(buf, n, "%s number %lld of %lld %s", fm_collective_name((fm_collective_kind)s[0]),
             (long long)s[4], (long long)s[3], fm_dtype_name((fm_dtype)s[1]));
    return buf;
}

/* Everybody tells everybody what he is about to do. */
static fm_status compare(fm_comm *c, fm_ctx *ctx, const fm_collective *w) {
    int64_t *all = malloc(SIGNATURE * sizeof *all * (size_t)(c->size + 1));
    FM_CHECK(all, FM_ERR_OOM, "out of memory: comparing %d ranks", c->size);
    int64_t *mine = all + SIGNATURE * c->size;
    sign(c, w, mine);
    fm_collective gather = {
        .kind = FM_ALL_GATHER, .dt = FM_I64, .y = all, .x = mine, .n = SIGNATURE};
    void *state = NULL;
    fm_status status = c->transport->start(c, ctx, &gather, &state);
    if (status == FM_OK) status = finish(c, ctx, w, c->started, &state);
    /* The same words on all ranks: those of rank 0 and of the first that differs. */
    for (int r = 1; status == FM_OK && r < c->size; r++) {
        const int64_t *s = all + r * SIGNATURE;
        if (memcmp(s, all, SIGNATURE * sizeof *s) == 0) continue;
        char words[2][128];
        status = fm_fail(&ctx->error, FM_ERR_COMM,
                         "rank 0 of %s starts %s, rank %d of it starts %s: all ranks must start "
                         "the same",
                         c->name, describe(all, words[0], sizeof words[0]), r,
                         describe(s, words[1], sizeof words[1]));
    }
    if (!state) free(all); /* else messages may still be written there: better a leak */
    return status;
}

/* ---- the three calls */

fm_status fm_comm_start(fm_comm *c, fm_ctx *ctx, const fm_collective *what, fm_request *r) {
    FM_TRY(check(c, ctx, what));
    bool paired = what->kind == FM_SEND || what->kind == FM_RECV;
    if (!paired) c->started++;
    *r = (fm_request){c, *what, c->started, NULL};
    if (ctx->standing) note(&ctx->standing->began, c, what, c->started);
    if (c->checked && c->size > 1 && !paired) FM_TRY(compare(c, ctx, what));
    c->stats[what->kind].calls++;
    c->stats[what->kind].bytes += fm_collective_bytes(c, what);
    return c->transport->start(c, ctx, what, &r->state);
}

fm_status fm_comm_test(fm_request *r, fm_ctx *ctx, bool *done) {
    *done = true;
    if (r->state) FM_TRY(r->comm->transport->test(r->comm, ctx, &r->state));
    *done = !r->state;
    return FM_OK;
}

fm_status fm_comm_wait(fm_request *r, fm_ctx *ctx) {
    return r->state ? finish(r->comm, ctx, &r->what, r->number, &r->state) : FM_OK;
}

fm_status fm_comm_run(fm_comm *c, fm_ctx *ctx, const fm_collective *what) {
    fm_request r;
    FM_TRY(fm_comm_start(c, ctx, what, &r));
    return fm_comm_wait(&r, ctx);
}

/* ---- subgroups */

/* A barrier that is no message of the script's: comm->stats count those. */
static fm_status meet(fm_comm *c, fm_ctx *ctx) {
    if (c->size == 1) return FM_OK;
    fm_comm_stats was = c->stats[FM_BARRIER];
    FM_TRY(fm_barrier_now(c, ctx));
    c->stats[FM_BARRIER] = was;
    return FM_OK;
}

fm_status fm_comm_split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out) {
    *out = NULL;
    FM_TRY(meet(c, ctx));
    FM_TRY(c->transport->split(c, ctx, color, key, out));
    (*out)->time_limit = c->time_limit;
    (*out)->checked = c->checked;
    (*out)->name = c->name;
    return FM_OK;
}

fm_status fm_comm_split_known(fm_comm *c, fm_ctx *ctx, int color, int key, int size,
                              fm_comm **out) {
    if (c->transport->divide) return c->transport->divide(c, ctx, key, size, out);
    FM_TRY(fm_comm_split(c, ctx, color, key, out));
    if ((*out)->rank == key && (*out)->size == size) return FM_OK;
    fm_status s = fm_fail(&ctx->error, FM_ERR_COMM,
                          "a group of %d ranks was wanted, with this one as number %d; it has %d, "
                          "with this one as number %d",
                          size, key, (*out)->size, (*out)->rank);
    fm_comm_free(*out);
    *out = NULL;
    return s;
}
