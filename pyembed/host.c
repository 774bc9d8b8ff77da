#include "pyembed/host.h"
#include "parallel/planned.h"
#include "parallel/throttle.h"
#include "pyembed/mesh_type.h"
#include "pyembed/optim_type.h"
#include "tensor/plan.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fm_host fm_the_host = {.world_size = 1, .threads = 1, .seed = 0};

int fm_host_start(const char *device) {
    fm_host *h = &fm_the_host;
    if (snprintf(h->device, sizeof h->device, "%s", device) >= (int)sizeof h->device) {
        fprintf(stderr, "train: --device %s is not allowed: auto, cpu, cuda and cuda:N are\n",
                device);
        return 2;
    }
    pthread_mutexattr_t attr;
    if (pthread_mutexattr_init(&attr) != 0 ||
        pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE) != 0 ||
        pthread_mutex_init(&h->lock, &attr) != 0) {
        fprintf(stderr, "train: cannot make a lock\n");
        return 1;
    }
    pthread_mutexattr_destroy(&attr);
    return fm_launch(h);
}

/* FMOE_THROTTLE="latency_us,GB_per_s": a slower network than there is, for measuring. */
static fm_status throttle_world(fm_host *h) {
    const char *text = getenv("FMOE_THROTTLE");
    double latency, bandwidth;
    if (!text || !*text || h->world_size == 1 || h->dry_run) return FM_OK;
    fm_status s = fm_throttle_read(&h->ctx->error, text, &latency, &bandwidth);
    if (s != FM_OK) return fm_fail_context(&h->ctx->error, s, "FMOE_THROTTLE");
    fm_comm *world = h->world;
    return fm_comm_throttled(h->ctx, world, latency, bandwidth, &h->world);
}

static fm_status make_world(fm_host *h) {
    if (h->mpi) return fm_comm_mpi(h->mpi, h->ctx, &h->world);
    if (!h->dry_run) return fm_comm_self(h->ctx, &h->world);
    FM_TRY(fm_ctx_plan(h->ctx));
    return fm_comm_planned(h->ctx, h->rank, h->world_size, &h->world);
}

fm_status fm_host_open(fm_error *err) {
    fm_host *h = &fm_the_host;
    if (h->ctx) return FM_OK;
    /* The libraries' pools are sized at first use. */
    omp_set_num_threads(h->threads);
    fm_host_shield_workers();
    FM_TRY(fm_ctx_new(h->dry_run ? "cpu" : h->device, err, h->why, sizeof h->why, &h->ctx));
    h->ctx->seed = h->seed;
    fm_status s = make_world(h);
    if (s == FM_OK) s = throttle_world(h);
    if (s != FM_OK) {
        *err = h->ctx->error;
        fm_comm_free(h->world);
        h->world = NULL;
        fm_ctx_free(h->ctx);
        h->ctx = NULL;
        return s;
    }
    h->world->time_limit = h->time_limit;
    h->world->checked = h->checked;
    h->ctx->standing = &h->standing;
    return FM_OK;
}

static void close_device(fm_host *h) {
    fm_py_free_meshes();
    fm_comm_free(h->world);
    h->world = NULL;
    fm_ctx_free(h->ctx);
    h->ctx = NULL;
}

bool fm_host_stop(void) {
    fm_host *h = &fm_the_host;
    if (pthread_mutex_trylock(&h->lock) != 0) return false;
    for (int64_t i = h->first_late; i < h->n_late; i++) h->late[i].free(h->late[i].what);
    h->first_late = h->n_late = 0;
    free(h->late);
    h->late = NULL;
    /* An interpreter keeps some objects beyond its end (extension modules in cycles); their tensors
     * still point here, and the process gives everything back anyway. */
    if (h->ctx) fm_optims_settle();
    if (h->live == 0) close_device(h);
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_destroy(&h->lock);
    return true;
}
