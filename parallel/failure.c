/* A rank that fails says why, once for all that fail alike. */
#ifdef FM_HAVE_MPI
#include "parallel/watchdog.h"

#include "tensor/seconds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds in which messages of ranks that fail at the same moment cross, and in which all of them
 * have printed. */
static const double CROSSING = 0.3, PRINTING = 0.7;
/* More than the watchdog takes from a late wait to the job's end. */
static const double SETTLING = 5;

static uint64_t hash_of(const char *text) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

/* Another rank that prints this text; -1: none. With `below`, one of a lower number only. */
static int other_with(const fm_watch *w, uint64_t hash, bool below) {
    const fm_mpi_place *at = &w->mpi->place;
    for (int r = 0; r < (below ? at->rank : at->size); r++) {
        const fm_heard *h = &w->heard[r];
        if (r != at->rank && h->failed && h->hash == hash && !h->left_to_another) return r;
    }
    return -1;
}

static void listen_for(fm_watch *w, double seconds) {
    enum { NAP_NS = 10000000 };
    for (double begin = fm_seconds(); fm_seconds() - begin < seconds;) {
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        pthread_mutex_lock(&w->mpi->lock);
        fm_watch_listen(w);
        pthread_mutex_unlock(&w->mpi->lock);
    }
}

/* "ValueError: ...": a traceback's last line. */
static const char *last_line(const char *text, char *buf, size_t n) {
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '\n') length--;
    size_t begin = length;
    while (begin > 0 && text[begin - 1] != '\n') begin--;
    snprintf(buf, n, "%.*s", (int)(length - begin), text + begin);
    return buf;
}

void fm_mpi_report(fm_mpi *m, const char *text) {
    fm_watch *w = m->watch;
    uint64_t hash = hash_of(text);
    if (!w) {
        fputs(text, stderr);
        return;
    }
    pthread_mutex_lock(&m->lock);
    fm_watch_listen(w);
    int printer = other_with(w, hash, false);
    fm_watch_tell(w, FM_FAILED, hash, printer >= 0);
    w->failed_at = fm_seconds();
    pthread_mutex_unlock(&m->lock);
    if (printer < 0) {
        /* Of those whose messages cross the lowest prints. */
        listen_for(w, CROSSING);
        printer = other_with(w, hash, true);
    }
    if (printer >= 0) {
        char line[512], same[640];
        snprintf(same, sizeof same, "the same as rank %d: %s\n", printer,
                 last_line(text, line, sizeof line));
        fm_watch_print(w, same);
    } else {
        fm_watch_print(w, text);
    }
    listen_for(w, PRINTING);
    fm_mpi_settle(m);
}

bool fm_watch_fails_alone(const fm_watch *w) {
    if (!w || w->failed_at == 0) return false;
    bool all = true;
    for (int r = 0; r < w->mpi->place.size; r++)
        all = all && (r == w->mpi->place.rank || w->heard[r].failed);
    return !all;
}

void fm_mpi_settle(fm_mpi *m) {
    fm_watch *w = m->watch;
    if (!w || !w->threaded) return;
    pthread_mutex_lock(&m->lock);
    fm_watch_listen(w);
    bool telling = w->spoke || fm_watch_late(w);
    pthread_mutex_unlock(&m->lock);
    if (telling) listen_for(w, SETTLING); /* the watchdog ends the job meanwhile */
}
#endif
