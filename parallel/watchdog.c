/* The thread that looks whether a collective waits too long, and makes every rank say where it stands.
 *
 * Its messages have a communicator of their own, so that they pass by whatever the ranks hang in. A
 * rank whose wait is late tells all; each that hears of it prints its line and answers; after
 * LISTEN seconds the lowest of the late ones names those that did not, and ends the job.
 */
#ifdef FM_HAVE_MPI
#include "parallel/watchdog.h"

#include "tensor/seconds.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double LISTEN = 2, OTHERS_TURN = 1; /* seconds */
enum { LOOK_NS = 250000000, LOCK_S = 2, MESSAGE = 3, TAG = 0 };

void fm_watch_print(const fm_watch *w, const char *text) {
    char *line;
    int rank = w->mpi->place.rank;
    int n = asprintf(&line, "[rank %d %s] %s", rank, w->hosts[rank], text);
    if (n < 0) return;
    for (ssize_t at = 0, wrote; at < n; at += wrote)
        if ((wrote = write(STDERR_FILENO, line + at, (size_t)(n - at))) <= 0) break;
    free(line);
}

/* ---- messages */

static void send_to(fm_watch *w, int rank, const int64_t *message) {
    MPI_Request r;
    /* Nobody waits for it: the job ends, or the other side has it at its next look. The buffer
     * is MPI's until then, so it stays. */
    int64_t *copy = malloc(MESSAGE * sizeof *copy);
    if (!copy) return;
    memcpy(copy, message, MESSAGE * sizeof *copy);
    if (MPI_Isend(copy, MESSAGE, MPI_INT64_T, rank, TAG, w->comm, &r) == MPI_SUCCESS)
        MPI_Request_free(&r);
} /* NOLINT(clang-analyzer-optin.mpi.MPI-Checker): it does not know that MPI_Request_free ends it */

void fm_watch_tell(fm_watch *w, fm_word word, uint64_t hash, bool left_to_another) {
    const fm_mpi_place *at = &w->mpi->place;
    int64_t message[MESSAGE] = {word, (int64_t)hash, left_to_another};
    for (int i = 1; i < at->size; i++) send_to(w, (at->rank + i) % at->size, message);
}

/* ---- where this rank stands */

static int describe(char *text, size_t n, const fm_standing_at *at) {
    return snprintf(text, n, "%s number %llu of %s (%d ranks)", FM_STANDS(at, what),
                    (unsigned long long)FM_STANDS(at, number), FM_STANDS(at, group),
                    FM_STANDS(at, ranks));
}

static void speak(fm_watch *w) {
    const fm_standing *s = w->standing;
    char text[512], at[128] = "", where[192] = "";
    long long step = FM_STANDS(s, step);
    const char *op = FM_STANDS(s, op);
    if (step >= 0) snprintf(where, sizeof where, "in step %lld, ", step + 1);
    size_t used = strlen(where);
    double seconds = fm_seconds() - FM_STANDS(s, since);
    if (FM_STANDS(s, waiting)) {
        describe(at, sizeof at, &s->waited);
        snprintf(text, sizeof text, "%swaits for %s: %.1f s so far\n", where, at, seconds);
    } else {
        if (FM_STANDS(s, ended))
            snprintf(where + used, sizeof where - used, "the script has ended");
        else if (FM_STANDS(s, inside) > 0)
            snprintf(where + used, sizeof where - used, "in no collective; computes%s%s",
                     op ? ", since or after operation " : "", op ? op : "");
        else
            snprintf(where + used, sizeof where - used,
                     "in no collective; in the script's own code");
        if (FM_STANDS(&s->began, what)) describe(at, sizeof at, &s->began);
        snprintf(text, sizeof text, "%s, %.1f s after the last wait; began last: %s\n", where,
                 seconds, at[0] ? at : "none");
    }
    fm_watch_print(w, text);
    w->spoke = w->heard[w->mpi->place.rank].spoke = true;
}

void fm_watch_listen(fm_watch *w) {
    const int64_t answer[MESSAGE] = {FM_SPOKE};
    for (;;) {
        int found = 0;
        int64_t message[MESSAGE];
        MPI_Status from;
        if (MPI_Iprobe(MPI_ANY_SOURCE, TAG, w->comm, &found, &from) != MPI_SUCCESS || !found)
            return;
        if (MPI_Recv(message, MESSAGE, MPI_INT64_T, from.MPI_SOURCE, TAG, w->comm,
                     MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return;
        fm_heard *heard = &w->heard[from.MPI_SOURCE];
        if (message[0] == FM_FAILED) {
            heard->failed = true;
            heard->hash = (uint64_t)message[1];
            heard->left_to_another = message[2] != 0;
            continue;
        }
        heard->spoke = true; /* who is late says so before he asks */
        if (message[0] != FM_LATE) continue;
        heard->late = true;
        if (!w->spoke) speak(w);
        send_to(w, from.MPI_SOURCE, answer);
    }
}

/* ---- what follows */

bool fm_watch_late(const fm_watch *w) {
    const fm_standing *s = w->standing;
    double limit = FM_STANDS(s, limit);
    return FM_STANDS(s, waiting) && limit > 0 && fm_seconds() - FM_STANDS(s, since) >= limit;
}

static void name_the_silent(const fm_watch *w) {
    int silent = 0;
    for (int r = 0; r < w->mpi->place.size; r++) {
        if (w->heard[r].spoke) continue;
        char text[FM_HOST_NAME + 128];
        snprintf(text, sizeof text,
                 "rank %d on %s does not answer: it is stopped, dead, or cut off\n", r,
                 w->hosts[r]);
        fm_watch_print(w, text);
        silent++;
    }
    if (silent == 0) fm_watch_print(w, "all ranks answered; the job is ended\n");
}

static void judge(fm_watch *w) {
    double now = fm_seconds();
    if (w->failed_at > 0 && now - w->failed_at > 1 + FM_MPI_GRACE) fm_mpi_abort(w->mpi, 1);
    if (!w->spoke && fm_watch_late(w)) {
        w->late_at = now;
        speak(w);
        w->heard[w->mpi->place.rank].late = true;
        fm_watch_tell(w, FM_LATE, 0, false);
    }
    if (w->late_at == 0 || now - w->late_at < LISTEN) return;
    bool first = true;
    for (int r = 0; r < w->mpi->place.rank; r++) first = first && !w->heard[r].late;
    if (!first && now - w->late_at < LISTEN + OTHERS_TURN) return;
    name_the_silent(w);
    fm_mpi_abort(w->mpi, 1);
}

/* Whoever holds the lock may hang in MPI: then no messages, but a word and an end. */
static bool lock(fm_watch *w) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOCK_S;
    if (pthread_mutex_timedlock(&w->mpi->lock, &until) == 0) return true;
    if (fm_watch_late(w)) {
        speak(w);
        fm_mpi_abort(w->mpi, 1);
    }
    return false;
}

static void *watch(void *arg) {
    fm_watch *w = arg;
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += LOOK_NS;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        if (sem_timedwait(&w->stop, &until) == 0) return NULL;
        if (!lock(w)) continue;
        fm_watch_listen(w);
        judge(w);
        pthread_mutex_unlock(&w->mpi->lock);
    }
}

/* ---- start and end */

static void release(fm_watch *w) {
    if (w->comm != MPI_COMM_NULL) MPI_Comm_free(&w->comm);
    sem_destroy(&w->stop);
    free(w->hosts);
    free(w->heard);
    free(w);
}

static fm_status learn_hosts(fm_watch *w, fm_error *err) {
    char own[FM_HOST_NAME] = "?";
    if (gethostname(own, sizeof own - 1) != 0) snprintf(own, sizeof own, "?");
    return fm_mpi_check(
        err, MPI_Allgather(own, FM_HOST_NAME, MPI_CHAR, w->hosts, FM_HOST_NAME, MPI_CHAR, w->comm),
        "start");
}

static bool start_thread(fm_watch *w) {
    sigset_t all, was; /* signals are the main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    bool started = pthread_create(&w->thread, NULL, watch, w) == 0;
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    return started;
}

fm_status fm_mpi_watch(fm_mpi *m, const fm_standing *standing, fm_error *err) {
    fm_watch *w = calloc(1, sizeof *w);
    size_t size = (size_t)m->place.size;
    if (w) w->hosts = calloc(size, sizeof *w->hosts), w->heard = calloc(size, sizeof *w->heard);
    if (!w || !w->hosts || !w->heard) {
        if (w) free(w->hosts), free(w->heard);
        free(w);
        return fm_fail(err, FM_ERR_OOM, "out of memory: the watchdog of %d ranks", m->place.size);
    }
    w->mpi = m;
    w->standing = standing;
    w->comm = MPI_COMM_NULL;
    sem_init(&w->stop, 0, 0);
    pthread_mutex_lock(&m->lock);
    fm_status s = fm_mpi_check(err, MPI_Comm_dup(MPI_COMM_WORLD, &w->comm), "start");
    if (s == FM_OK) s = learn_hosts(w, err);
    pthread_mutex_unlock(&m->lock);
    if (s != FM_OK) {
        release(w);
        return s;
    }
    m->watch = w;
    w->threaded = m->can_thread && start_thread(w);
    return FM_OK;
}

void fm_watch_stop(fm_watch *w) {
    if (!w) return;
    if (w->threaded) {
        sem_post(&w->stop);
        pthread_join(w->thread, NULL);
    }
    release(w);
}
#endif
