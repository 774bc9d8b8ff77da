#include "pyembed/host.h"
#include "pyembed/mesh_type.h"

#include <errno.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fm_host fm_the_host = {.world_size = 1, .threads = 1, .seed = 0};

/* What launchers tell each process: its number and how many there are. */
static const struct {
    const char *rank, *size;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMIX_RANK", "PMIX_SIZE"},
    {"PMI_RANK", "PMI_SIZE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
};

static int number_in(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    if (!text || !*text) return otherwise;
    char *end;
    long n = strtol(text, &end, 10);
    return *end || n < 0 || n > 1 << 24 ? otherwise : (int)n;
}

static void find_launcher(fm_host *h) {
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        int size = number_in(launchers[i].size, 0);
        if (size < 1) continue;
        h->world_size = size;
        h->rank = number_in(launchers[i].rank, 0);
        return;
    }
}

/* Hyper-threads of one core share its multipliers: only the first of each core counts. */
int fm_host_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return omp_get_num_procs();
    int cores = 0, processors = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        processors++;
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 cpu);
        FILE *f = fopen(path, "re");
        int first = cpu;
        if (f) {
            char text[64], *end;
            long number = fgets(text, sizeof text, f) ? strtol(text, &end, 10) : -1;
            if (number >= 0 && number < CPU_SETSIZE && end != text) first = (int)number;
            fclose(f);
        }
        /* Where the first sibling is not ours, this one stands for the core. */
        bool counted = first < cpu && first >= 0 && CPU_ISSET(first, &set);
        cores += !counted;
    }
    return cores > 0 ? cores : processors > 0 ? processors : 1;
}

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
    find_launcher(h);
    if (h->world_size > 1) {
        if (h->rank == 0)
            fprintf(stderr,
                    "train: a launcher started %d ranks; this version trains on one rank only "
                    "(data, tensor and expert parallelism are not there yet). "
                    "Start it without mpirun or srun, or with -n 1.\n",
                    h->world_size);
        return 1;
    }
    h->threads = number_in("OMP_NUM_THREADS", 0);
    if (h->threads < 1) h->threads = fm_host_cores();
    omp_set_num_threads(h->threads);
    return 0;
}

fm_status fm_host_open(fm_error *err) {
    fm_host *h = &fm_the_host;
    if (h->ctx) return FM_OK;
    /* The libraries' pools are sized at first use. */
    omp_set_num_threads(h->threads);
    fm_host_shield_workers();
    FM_TRY(fm_ctx_new(h->device, err, h->why, sizeof h->why, &h->ctx));
    h->ctx->seed = h->seed;
    fm_status s = fm_comm_self(h->ctx, &h->world);
    if (s != FM_OK) {
        *err = h->ctx->error;
        fm_ctx_free(h->ctx);
        h->ctx = NULL;
    }
    return s;
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
    if (h->live == 0) {
        fm_py_free_meshes();
        fm_comm_free(h->world);
        h->world = NULL;
        fm_ctx_free(h->ctx);
        h->ctx = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_destroy(&h->lock);
    return true;
}
