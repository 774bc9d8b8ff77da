/* A collective as MPI's messages, cut where it is longer than one message may be.
 *
 * MPI counts with int; the limit is a parameter, so that tests cut at 7 elements. Sums go through
 * MPI's own reductions, piece by piece. A gather that is too long for one call, and every
 * all_to_all_v, is messages between pairs of ranks: they need no displacement that fits an int.
 */
#ifdef FM_HAVE_MPI
#include "parallel/mpi_internal.h"

#include <stdlib.h>
#include <string.h>

static MPI_Datatype type_of(fm_dtype dt) {
    switch (dt) {
    case FM_F32:
        return MPI_FLOAT;
    case FM_BF16:
        return MPI_UINT16_T;
    case FM_I32:
        return MPI_INT32_T;
    default:
        return MPI_INT64_T;
    }
}

typedef struct post {
    fm_ctx *ctx;
    const fm_comm *c;
    const fm_collective *w;
    fm_mpi_group *g;
    fm_mpi_state *s;
    MPI_Datatype type;
    MPI_Op op;
    size_t size; /* bytes of an element */
    int tag;     /* of messages between pairs */
} post;

/* Room for one more request. */
static fm_status room(post *p, MPI_Request **r) {
    fm_ctx *ctx = p->ctx;
    fm_mpi_state *s = p->s;
    if (s->n == s->size) {
        int size = s->size ? 2 * s->size : 4;
        MPI_Request *more = realloc(s->requests, (size_t)size * sizeof *more);
        FM_CHECK(more, FM_ERR_OOM, "out of memory: %d messages", size);
        s->requests = more;
        s->size = size;
    }
    *r = &s->requests[s->n];
    return FM_OK;
}

static fm_status posted(post *p, int code) {
    FM_TRY(fm_mpi_check(&p->ctx->error, code, fm_collective_name(p->w->kind)));
    p->s->n++;
    return FM_OK;
}

/* One call for the elements [at, at + n) of a cut collective. */
typedef fm_status (*piece_fn)(post *p, char *y, const char *x, int n, int peer);

static fm_status pieces(post *p, piece_fn piece, void *y, const void *x, int64_t n, int peer) {
    int64_t limit = p->g->mpi->count_limit;
    for (int64_t at = 0; at < n; at += limit) {
        int64_t left = n - at;
        char *to = y ? (char *)y + (size_t)at * p->size : NULL;
        const char *from = x ? (const char *)x + (size_t)at * p->size : NULL;
        FM_TRY(piece(p, to, from, (int)(left < limit ? left : limit), peer));
    }
    return FM_OK;
}

static fm_status send_piece(post *p, char *y, const char *x, int n, int peer) {
    (void)y;
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Isend(x, n, p->type, peer, p->tag, p->g->comm, r));
}

static fm_status recv_piece(post *p, char *y, const char *x, int n, int peer) {
    (void)x;
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Irecv(y, n, p->type, peer, p->tag, p->g->comm, r));
}

static fm_status sum_piece(post *p, char *y, const char *x, int n, int peer) {
    (void)x, (void)peer;
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Iallreduce(MPI_IN_PLACE, y, n, p->type, p->op, p->g->comm, r));
}

static fm_status sum_piece_to(post *p, char *y, const char *x, int n, int root) {
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Ireduce(x, y, n, p->type, p->op, root, p->g->comm, r));
}

static fm_status broadcast_piece(post *p, char *y, const char *x, int n, int root) {
    (void)x;
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Ibcast(y, n, p->type, root, p->g->comm, r));
}

/* ---- by kind */

/* Begins with the next rank, so that not all send to the same one at once. */
static fm_status exchange(post *p, const int64_t *recv_counts, const int64_t *recv_displs,
                          const int64_t *send_counts, const int64_t *send_displs) {
    const fm_collective *w = p->w;
    int size = p->c->size, rank = p->c->rank;
    for (int i = 1; i < size; i++) {
        int from = (rank + size - i) % size;
        FM_TRY(pieces(p, recv_piece, (char *)w->y + (size_t)recv_displs[from] * p->size, NULL,
                      recv_counts[from], from));
    }
    for (int i = 1; i < size; i++) {
        int to = (rank + i) % size;
        FM_TRY(pieces(p, send_piece, NULL, (const char *)w->x + (size_t)send_displs[to] * p->size,
                      send_counts[to], to));
    }
    memmove((char *)w->y + (size_t)recv_displs[rank] * p->size,
            (const char *)w->x + (size_t)send_displs[rank] * p->size,
            (size_t)send_counts[rank] * p->size);
    return FM_OK;
}

static fm_status gather(post *p) {
    const fm_collective *w = p->w;
    int size = p->c->size;
    char *own = (char *)w->y + (size_t)p->c->rank * (size_t)w->n * p->size;
    if (w->n * size <= p->g->mpi->count_limit) {
        MPI_Request *r;
        FM_TRY(room(p, &r));
        int n = (int)w->n;
        const void *x = w->x == own ? MPI_IN_PLACE : w->x;
        return posted(p, MPI_Iallgather(x, n, p->type, w->y, n, p->type, p->g->comm, r));
    }
    for (int i = 1; i < size; i++) {
        int from = (p->c->rank + size - i) % size;
        FM_TRY(pieces(p, recv_piece, (char *)w->y + (size_t)from * (size_t)w->n * p->size, NULL,
                      w->n, from));
    }
    for (int i = 1; i < size; i++)
        FM_TRY(pieces(p, send_piece, NULL, w->x, w->n, (p->c->rank + i) % size));
    if (w->x != own) memmove(own, w->x, (size_t)w->n * p->size);
    return FM_OK;
}

static fm_status scatter_sum(post *p) {
    const fm_collective *w = p->w;
    if (w->n * p->c->size <= p->g->mpi->count_limit) {
        MPI_Request *r;
        FM_TRY(room(p, &r));
        return posted(
            p, MPI_Ireduce_scatter_block(w->x, w->y, (int)w->n, p->type, p->op, p->g->comm, r));
    }
    for (int root = 0; root < p->c->size; root++)
        FM_TRY(pieces(p, sum_piece_to, w->y,
                      (const char *)w->x + (size_t)root * (size_t)w->n * p->size, w->n, root));
    return FM_OK;
}

static fm_status barrier(post *p) {
    MPI_Request *r;
    FM_TRY(room(p, &r));
    return posted(p, MPI_Ibarrier(p->g->comm, r));
}

fm_status fm_mpi_post(fm_comm *c, fm_ctx *ctx, const fm_collective *w, fm_mpi_state *s) {
    fm_mpi_group *g = c->impl;
    bool bf16 = w->dt == FM_BF16;
    MPI_Op op = w->op == FM_SUM ? (bf16 ? g->mpi->bf16_sum : MPI_SUM)
                                : (bf16 ? g->mpi->bf16_max : MPI_MAX);
    post p = {ctx, c, w, g, s, type_of(w->dt), op, fm_dtype_size(w->dt), 0};
    /* Messages of one collective do not meet those of the next, nor a script's. */
    p.tag = w->kind == FM_SEND || w->kind == FM_RECV
                ? w->tag
                : FM_TAG_MAX + 1 + (int)(c->started % (FM_TAG_MAX + 1));
    switch (w->kind) {
    case FM_ALL_REDUCE:
        return pieces(&p, sum_piece, w->y, NULL, w->n, 0);
    case FM_ALL_GATHER:
        return w->n > 0 ? gather(&p) : FM_OK;
    case FM_REDUCE_SCATTER:
        return w->n > 0 ? scatter_sum(&p) : FM_OK;
    case FM_ALL_TO_ALL_V:
        return exchange(&p, w->recv_counts, w->recv_displs, w->send_counts, w->send_displs);
    case FM_BROADCAST:
        return pieces(&p, broadcast_piece, w->y, NULL, w->n, w->peer);
    case FM_SEND:
        return pieces(&p, send_piece, NULL, w->x, w->n, w->peer);
    case FM_RECV:
        return pieces(&p, recv_piece, w->y, NULL, w->n, w->peer);
    case FM_BARRIER:
    case FM_COLLECTIVE_KINDS:
        break;
    }
    return barrier(&p);
}
#endif
