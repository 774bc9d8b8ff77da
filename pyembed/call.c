/* The way from Python into the framework and back: locks, and freeing from any thread. */
#include "pyembed/module.h"

#include <omp.h>

fm_ctx *fm_py_ctx(void) {
    fm_host *h = &fm_the_host;
    if (h->ctx) return h->ctx;
    fm_error err = {0};
    PyThreadState *thread = PyEval_SaveThread();
    pthread_mutex_lock(&h->lock);
    fm_status s = fm_host_open(&err);
    pthread_mutex_unlock(&h->lock);
    PyEval_RestoreThread(thread);
    if (s != FM_OK) {
        fm_raise(&err, s);
        return NULL;
    }
    return h->ctx;
}

bool fm_call_begin(fm_call *c) {
    c->ctx = fm_py_ctx();
    if (!c->ctx) return false;
    fm_the_host.calls++;
    c->thread = PyEval_SaveThread();
    pthread_mutex_lock(&fm_the_host.lock);
    fm_the_host.standing.inside++;
    /* OpenMP's setting is per thread, and Python's own threads have never seen ours. */
    omp_set_num_threads(fm_the_host.threads);
    return true;
}

/* With both locks held. In order of arrival: an optimiser goes before the parameters that it lists.
 * What is freed may free more, by way of here. */
static void free_late(fm_host *h) {
    while (h->first_late < h->n_late) {
        struct fm_late next = h->late[h->first_late++];
        next.free(next.what);
    }
    h->first_late = h->n_late = 0;
}

bool fm_call_end(fm_call *c, fm_status s) {
    fm_error err = {0};
    if (s != FM_OK) err = c->ctx->error;
    fm_error_clear(&c->ctx->error);
    fm_the_host.standing.inside--;
    pthread_mutex_unlock(&fm_the_host.lock);
    PyEval_RestoreThread(c->thread);
    if (fm_the_host.n_late > 0 && pthread_mutex_trylock(&fm_the_host.lock) == 0) {
        free_late(&fm_the_host);
        pthread_mutex_unlock(&fm_the_host.lock);
    }
    if (s == FM_OK) return true;
    fm_raise(&err, s);
    return false;
}

void fm_py_free(void (*free_it)(void *), void *what) {
    fm_host *h = &fm_the_host;
    if (!what) return;
    /* Waiting here, with the interpreter's lock held, could be for ever: the thread that computes
     * may be about to call a Python gate. */
    if (pthread_mutex_trylock(&h->lock) == 0) {
        free_late(h);
        free_it(what);
        pthread_mutex_unlock(&h->lock);
        return;
    }
    if (h->n_late == h->late_size) {
        int64_t size = h->late_size ? 2 * h->late_size : 64;
        struct fm_late *late = realloc(h->late, (size_t)size * sizeof *late);
        if (!late) return; /* a leak of one object is the lesser evil */
        h->late = late;
        h->late_size = size;
    }
    h->late[h->n_late++] = (struct fm_late){free_it, what};
}

static void free_tensor(void *t) { fm_tensor_free(t); }

void fm_py_tensor_free(fm_tensor *t) { fm_py_free(free_tensor, t); }
