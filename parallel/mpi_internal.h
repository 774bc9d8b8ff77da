/* What the files of the MPI transport share. */
#ifndef FM_PARALLEL_MPI_INTERNAL_H
#define FM_PARALLEL_MPI_INTERNAL_H
#include "parallel/mpi.h"

#include <mpi.h>
#include <pthread.h>
#include <time.h>

struct fm_mpi {
    int64_t count_limit;
    MPI_Op bf16_sum, bf16_max;
    pthread_mutex_t lock; /* around every call of MPI */
    /* The thread that moves on: sleeps on `wake` while nothing is under way. Guarded by lock. */
    pthread_t thread;
    pthread_cond_t wake;
    bool threaded, stop;
    int under_way;
    struct timespec interval;
};

/* A communicator's own. */
typedef struct fm_mpi_group {
    fm_mpi *mpi;
    MPI_Comm comm;
} fm_mpi_group;

/* One collective under way: its messages. */
typedef struct fm_mpi_state {
    int n, size;
    MPI_Request *requests;
} fm_mpi_state;

/* MPI's error as ours; `what` is the collective or call. */
fm_status fm_mpi_check(fm_error *err, int code, const char *what);

/* Begins a collective's messages. With the lock held. On an error some may be under way. */
fm_status fm_mpi_post(fm_comm *c, fm_ctx *ctx, const fm_collective *w, fm_mpi_state *s);

#endif
