/* MPI's start and end, and the thread that moves messages on while the ranks compute. */
#ifdef FM_HAVE_MPI
#include "parallel/mpi_internal.h"

#include "tensor/seconds.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

fm_status fm_mpi_check(fm_error *err, int code, const char *what) {
    if (code == MPI_SUCCESS) return FM_OK;
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return fm_fail(err, FM_ERR_COMM, "%s: MPI: %s", what, text);
}

/* MPI has no bfloat16: two bytes each, added in float32 and rounded at every addition. */
static void add_bf16(void *in, void *inout, int *n, MPI_Datatype *type) {
    (void)type;
    const fm_bf16 *x = in;
    fm_bf16 *y = inout;
    for (int i = 0; i < *n; i++) y[i] = fm_f32_to_bf16(fm_bf16_to_f32(x[i]) + fm_bf16_to_f32(y[i]));
}

static void max_bf16(void *in, void *inout, int *n, MPI_Datatype *type) {
    (void)type;
    const fm_bf16 *x = in;
    fm_bf16 *y = inout;
    for (int i = 0; i < *n; i++)
        if (fm_bf16_to_f32(x[i]) > fm_bf16_to_f32(y[i])) y[i] = x[i];
}

/* Any call moves everything on; this one looks for a message that nobody sends. */
static void *move_on(void *arg) {
    fm_mpi *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->stop) {
        if (m->under_way == 0) {
            pthread_cond_wait(&m->wake, &m->lock);
            continue;
        }
        int found;
        MPI_Iprobe(0, 0, MPI_COMM_SELF, &found, MPI_STATUS_IGNORE);
        pthread_mutex_unlock(&m->lock);
        nanosleep(&m->interval, NULL);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* In the order in which all ranks made them. */
static void free_groups(fm_mpi *m) {
    while (m->first) {
        fm_mpi_group *g = m->first;
        m->first = g->next;
        if (g->comm != m->world) MPI_Comm_free(&g->comm);
        free(g);
    }
    MPI_Comm_free(&m->node);
    MPI_Comm_free(&m->world);
}

/* Of MPI's own, and of m. */
static void release(fm_mpi *m) {
    if (m->bf16_sum != MPI_OP_NULL) MPI_Op_free(&m->bf16_sum);
    if (m->bf16_max != MPI_OP_NULL) MPI_Op_free(&m->bf16_max);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static fm_status start_mpi(fm_mpi *m, fm_error *err, int *provided) {
    FM_TRY(
        fm_mpi_check(err, MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, provided), "start"));
    /* Errors come back as values, from here on. */
    FM_TRY(fm_mpi_check(err, MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "start"));
    FM_TRY(fm_mpi_check(err, MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN), "start"));
    FM_TRY(fm_mpi_check(err, MPI_Op_create(add_bf16, 1, &m->bf16_sum), "start"));
    FM_TRY(fm_mpi_check(err, MPI_Op_create(max_bf16, 1, &m->bf16_max), "start"));
    return fm_mpi_look_around(m, err);
}

fm_status fm_mpi_start(const fm_mpi_config *config, fm_error *err, fm_mpi **out) {
    const double usual = 200e-6;
    *out = NULL;
    fm_mpi *m = calloc(1, sizeof *m);
    if (!m) return fm_fail(err, FM_ERR_OOM, "out of memory: MPI's state");
    m->count_limit = config->count_limit > 0 ? config->count_limit : (int64_t)1 << 30;
    double interval = config->progress > 0 ? config->progress : usual;
    m->interval.tv_sec = (time_t)interval;
    m->interval.tv_nsec = (long)(1e9 * (interval - (double)m->interval.tv_sec));
    int provided = MPI_THREAD_SINGLE;
    m->bf16_sum = m->bf16_max = MPI_OP_NULL;
    m->world = m->node = MPI_COMM_NULL;
    /* With default attributes neither can fail. */
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    /* Signals are the main thread's, Ctrl-C must reach the interpreter: neither our thread nor those that
     * MPI makes for itself take any. */
    sigset_t all, was;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    fm_status s = start_mpi(m, err, &provided);
    /* An MPI without threads works as well, with less overlap: waits move on what is under way. */
    m->can_thread = s == FM_OK && provided >= MPI_THREAD_SERIALIZED;
    m->threaded = m->can_thread && config->progress >= 0 &&
                  pthread_create(&m->thread, NULL, move_on, m) == 0;
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    if (s != FM_OK) {
        /* No MPI_Finalize: it waits for the other ranks, which go on and wait for this one. A rank that
         * ends without it takes them along. */
        release(m);
        return s;
    }
    *out = m;
    return FM_OK;
}

/* Not in MPI_Finalize, which would hold the lock: the watchdog answers until all are here. */
bool fm_mpi_meet(fm_mpi *m, double seconds) {
    enum { NAP_NS = 1000000 };
    double begin = fm_seconds();
    MPI_Request all;
    int here = 0;
    if (m->met) return true;
    pthread_mutex_lock(&m->lock);
    bool come = !fm_watch_fails_alone(m->watch);
    come = come && MPI_Ibarrier(m->world, &all) == MPI_SUCCESS;
    while (come && !here) {
        come = MPI_Test(&all, &here, MPI_STATUS_IGNORE) == MPI_SUCCESS;
        pthread_mutex_unlock(&m->lock);
        come = come && (seconds == 0 || here || fm_seconds() - begin < seconds);
        if (come && !here) nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    m->met = come;
    return come;
}

void fm_mpi_stop(fm_mpi *m) {
    if (!m) return;
    fm_mpi_meet(m, 0);
    fm_watch_stop(m->watch);
    if (m->threaded) {
        pthread_mutex_lock(&m->lock);
        m->stop = true;
        pthread_cond_signal(&m->wake);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    MPI_Op_free(&m->bf16_sum);
    MPI_Op_free(&m->bf16_max);
    free_groups(m);
    MPI_Finalize();
    release(m);
}

void fm_mpi_abort(fm_mpi *m, int status) {
    (void)m; /* whoever holds the lock may hang: this is the way out all the same */
    MPI_Abort(MPI_COMM_WORLD, status);
    abort();
}

const char *fm_mpi_library(void) {
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "unknown";
    text[strcspn(text, "\n")] = 0;
    return text;
}

#else
#include "parallel/mpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Built without MPI: one rank, and words for whoever asks for more. */

fm_status fm_mpi_start(const fm_mpi_config *config, fm_error *err, fm_mpi **out) {
    (void)config;
    *out = NULL;
    return fm_fail(err, FM_ERR_UNSUPPORTED,
                   "this program was built without MPI: install OpenMPI or MPICH with its headers "
                   "and build again");
}

void fm_mpi_stop(fm_mpi *m) { (void)m; }

void fm_mpi_abort(fm_mpi *m, int status) {
    (void)m;
    exit(status);
}

fm_status fm_mpi_watch(fm_mpi *m, const fm_standing *standing, fm_error *err) {
    (void)m, (void)standing, (void)err;
    return FM_OK;
}

void fm_mpi_report(fm_mpi *m, const char *text) {
    (void)m;
    fputs(text, stderr);
}

void fm_mpi_settle(fm_mpi *m) { (void)m; }

bool fm_mpi_meet(fm_mpi *m, double seconds) {
    (void)m, (void)seconds;
    return true;
}

fm_mpi_place fm_mpi_find_place(const fm_mpi *m) {
    (void)m;
    return (fm_mpi_place){0, 1, 0, 1};
}

fm_status fm_mpi_gather_node(fm_mpi *m, fm_error *err, const void *mine, size_t bytes, void *all) {
    (void)m, (void)err;
    memcpy(all, mine, bytes);
    return FM_OK;
}

fm_status fm_comm_mpi(fm_mpi *m, fm_ctx *ctx, fm_comm **out) {
    (void)m;
    *out = NULL;
    return fm_fail(&ctx->error, FM_ERR_UNSUPPORTED, "this program was built without MPI");
}

const char *fm_mpi_library(void) { return "none"; }
#endif
