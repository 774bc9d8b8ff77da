/* The job: what the launcher says, MPI's start, and how a rank ends so that the others do as well. */
#include "pyembed/cores.h"
#include "pyembed/host.h"

#include "tensor/seconds.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* A rank marks its environment: what it starts (a child of multiprocessing, a tool) inherits the launcher's
 * variables and is no rank. The job's name beside it: an mpirun that a rank starts makes ranks again. */
static const char mark[] = "FMOE_RANK";

static void write_mark(char *text, size_t n, long process) {
    const char *job = getenv("PMIX_NAMESPACE");
    if (!job) job = getenv("SLURM_STEP_ID");
    snprintf(text, n, "%ld of %s", process, job ? job : "a job");
}

static bool is_child_of_rank(void) {
    const char *of = getenv(mark);
    char own[256];
    if (!of) return false;
    long process = strtol(of, NULL, 10);
    write_mark(own, sizeof own, process);
    return process != (long)getpid() && strcmp(of, own) == 0;
}

/* The variable that says so; NULL: no launcher. */
static const char *find_launcher(fm_host *h) {
    if (is_child_of_rank()) return NULL;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        int size = number_in(launchers[i].size, 0);
        if (size < 1) continue;
        h->world_size = size;
        h->rank = number_in(launchers[i].rank, 0);
        return launchers[i].size;
    }
    return NULL;
}

/* Each rank alone would train the whole model by itself, and all would write the same files. */
static int check_launcher(fm_host *h, const char *variable) {
    fm_mpi_place at = fm_mpi_find_place(h->mpi);
    if (at.rank == h->rank && at.size == h->world_size) return 0;
    if (h->rank == 0 || at.size > 1)
        fprintf(stderr,
                "train: the launcher says that this is rank %d of %d (%s), MPI that it is rank %d "
                "of %d. mpirun or srun and the MPI that train was built with (%s) do not belong "
                "together: start it with that MPI's own mpirun.\n",
                h->rank, h->world_size, variable, at.rank, at.size, fm_mpi_library());
    if (at.size > 1) fm_mpi_abort(h->mpi, 1);
    fm_mpi_stop(h->mpi);
    h->mpi = NULL;
    return 1;
}

static fm_status share_cores(fm_host *h, fm_error *err) {
    int n = fm_mpi_find_place(h->mpi).node_size;
    cpu_set_t own, *all = malloc((size_t)n * sizeof *all);
    if (!all) return fm_fail(err, FM_ERR_OOM, "out of memory: processors of %d ranks", n);
    if (!fm_cores_allowed(&own)) CPU_ZERO(&own);
    fm_status s = fm_mpi_gather_node(h->mpi, err, &own, sizeof own, all);
    if (s == FM_OK) h->threads = fm_cores_share(&own, all, n);
    free(all);
    return s;
}

/* FMOE_COMM_TIMEOUT and FMOE_COMM_CHECK. 0, or an exit status. */
static int read_limits(fm_host *h) {
    const double usual = 600;
    const char *seconds = getenv("FMOE_COMM_TIMEOUT"), *check = getenv("FMOE_COMM_CHECK");
    char *end = NULL;
    h->time_limit = seconds && *seconds ? strtod(seconds, &end) : usual;
    if (!(h->time_limit >= 0) || isinf(h->time_limit) || (end && *end)) {
        fprintf(stderr,
                "train: FMOE_COMM_TIMEOUT=%s is not allowed: seconds, or 0 for no limit, are\n",
                seconds);
        return 2;
    }
    h->checked = check && strcmp(check, "1") == 0;
    if (check && *check && strcmp(check, "0") != 0 && !h->checked) {
        fprintf(stderr, "train: FMOE_COMM_CHECK=%s is not allowed: 0 and 1 are\n", check);
        return 2;
    }
    return 0;
}

static void at_exit(int status, void *unused) {
    (void)unused;
    int end = fm_host_end(status);
    if (end == status) return;
    fflush(NULL);
    _exit(end);
}

static int start_ranks(fm_host *h, const char *variable) {
    fm_error err = {0};
    fm_status s = fm_mpi_start(&(fm_mpi_config){0}, &err, &h->mpi);
    if (s == FM_OK) {
        int status = check_launcher(h, variable);
        if (status != 0) return status;
        char text[256];
        write_mark(text, sizeof text, (long)getpid());
        if (setenv(mark, text, 1) != 0) perror("train: setenv");
        s = share_cores(h, &err);
    }
    if (s == FM_OK) s = fm_mpi_watch(h->mpi, &h->standing, &err);
    if (s == FM_OK) return 0;
    fprintf(stderr, "train: rank %d of %d: %s\n", h->rank, h->world_size, err.message);
    if (h->mpi) fm_mpi_abort(h->mpi, 1);
    return 1;
}

int fm_launch(fm_host *h) {
    h->process = getpid();
    h->threads = fm_host_cores();
    h->standing.step = -1;
    h->standing.since = fm_seconds();
    const char *variable = h->dry_run ? NULL : find_launcher(h);
    int status = read_limits(h);
    if (status == 0 && h->world_size > 1 && !h->dry_run) status = start_ranks(h, variable);
    if (status != 0) return status;
    h->threads = number_in("OMP_NUM_THREADS", h->threads);
    if (h->threads < 1) h->threads = 1;
    omp_set_num_threads(h->threads);
    /* sys.exit() in a script ends in exit(), main() sees nothing of it. */
    if (on_exit(at_exit, NULL) != 0) {
        fprintf(stderr, "train: no memory for an exit handler\n");
        return 1;
    }
    return 0;
}

int fm_host_end(int status) {
    fm_host *h = &fm_the_host;
    if (h->ended || getpid() != h->process) return status; /* a forked child is no rank */
    h->ended = true;
    if (status == 0 && h->failed_at_exit) status = 1;
    bool idle = fm_host_stop();
    if (!idle && status == 0 && h->mpi) {
        fprintf(stderr,
                "train: rank %d: the script has ended while a thread of it computes or "
                "communicates still: wait for it (join) before the end\n",
                h->rank);
        status = 1;
    }
    fflush(NULL);
    h->standing.ended = true;
    if (h->mpi && status != 0) {
        fm_mpi_settle(h->mpi);
        /* Where all end they may do so in peace: a Trainer that was told to stop does, on every rank. */
        if (!idle || !fm_mpi_meet(h->mpi, FM_MPI_GRACE)) fm_mpi_abort(h->mpi, status);
    }
    fm_mpi_stop(h->mpi);
    h->mpi = NULL;
    /* What exit() tears down would be torn from under the thread that computes. */
    if (!idle) _exit(status);
    return status;
}
