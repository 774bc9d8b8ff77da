/* The MPI transport: groups, and the life of what is under way. */
#ifdef FM_HAVE_MPI
#include "parallel/mpi_internal.h"

#include <stdlib.h>

static void free_state(fm_mpi_state *s) {
    free(s->requests);
    free(s);
}

static fm_status start(fm_comm *c, fm_ctx *ctx, const fm_collective *w, void **state) {
    fm_mpi *m = ((fm_mpi_group *)c->impl)->mpi;
    fm_mpi_state *s = calloc(1, sizeof *s);
    FM_CHECK(s, FM_ERR_OOM, "out of memory: %s", fm_collective_name(w->kind));
    pthread_mutex_lock(&m->lock);
    fm_status status = fm_mpi_post(c, ctx, w, s);
    if (s->n > 0 && status == FM_OK && m->under_way++ == 0) pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    if (s->n == 0) { /* no message at all: empty, or a failure */
        free_state(s);
        return status;
    }
    /* After an error the rest stays with MPI, which may still write: better a leak. */
    if (status == FM_OK) *state = s;
    return status;
}

/* The first message's own error, where there is one: MPI_Testall says only that there is. */
static int test_all(fm_mpi_state *s, int *done) {
    *done = 1;
    for (int i = 0; i < s->n; i++) {
        int complete = 0, code = MPI_SUCCESS;
        if (s->requests[i] == MPI_REQUEST_NULL) continue;
        code = MPI_Test(&s->requests[i], &complete, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) return code;
        if (!complete) *done = 0;
    }
    return MPI_SUCCESS;
}

static fm_status test(fm_comm *c, fm_ctx *ctx, void **state) {
    fm_mpi *m = ((fm_mpi_group *)c->impl)->mpi;
    fm_mpi_state *s = *state;
    int done = 0;
    pthread_mutex_lock(&m->lock);
    int code = test_all(s, &done);
    if (code != MPI_SUCCESS || done) m->under_way--;
    pthread_mutex_unlock(&m->lock);
    if (code != MPI_SUCCESS) {
        *state = NULL;
        return fm_mpi_check(&ctx->error, code, "wait");
    }
    if (!done) return FM_OK;
    free_state(s);
    *state = NULL;
    return FM_OK;
}

/* The group is MPI's until fm_mpi_stop: see struct fm_mpi. */
static void free_group(void *impl) { (void)impl; }

static fm_status split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out);
static const fm_transport transport = {"mpi", start, test, split, free_group, NULL};

/* Takes `comm`, whose errors come back as values from here on. */
static fm_status wrap(fm_mpi *m, fm_ctx *ctx, MPI_Comm comm, fm_comm **out) {
    int rank = 0, size = 0;
    fm_mpi_group *g = malloc(sizeof *g);
    FM_CHECK(g, FM_ERR_OOM, "out of memory: a group of ranks"); /* the job ends: MPI keeps comm */
    pthread_mutex_lock(&m->lock);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    *g = (fm_mpi_group){m, comm, NULL};
    if (m->last)
        m->last->next = g;
    else
        m->first = g;
    m->last = g;
    pthread_mutex_unlock(&m->lock);
    return fm_comm_new(ctx, &transport, g, rank, size, out);
}

static fm_status split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out) {
    fm_mpi_group *g = c->impl;
    MPI_Comm part;
    int size = 0;
    *out = NULL;
    FM_CHECK(color >= 0, FM_ERR_VALUE, "split: color is %d; at least 0 is allowed", color);
    pthread_mutex_lock(&g->mpi->lock);
    int code = MPI_Comm_split(g->comm, color, key, &part);
    if (code == MPI_SUCCESS) MPI_Comm_size(part, &size);
    if (size == 1) MPI_Comm_free(&part); /* nobody to wait for */
    pthread_mutex_unlock(&g->mpi->lock);
    FM_TRY(fm_mpi_check(&ctx->error, code, "split"));
    return size == 1 ? fm_comm_self(ctx, out) : wrap(g->mpi, ctx, part, out);
}

fm_status fm_comm_mpi(fm_mpi *m, fm_ctx *ctx, fm_comm **out) {
    *out = NULL;
    FM_CHECK(!ctx->plugin, FM_ERR_UNSUPPORTED,
             "MPI carries host memory, and the device is %s: NCCL, which carries a GPU's, is not "
             "there yet; use --device cpu",
             ctx->dev->name);
    return wrap(m, ctx, m->world, out);
}
#endif
