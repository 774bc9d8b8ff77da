/* What the files of the MPI transport share. */
#ifndef FM_PARALLEL_MPI_INTERNAL_H
#define FM_PARALLEL_MPI_INTERNAL_H
#include "parallel/mpi.h"

#include <mpi.h>
#include <pthread.h>
#include <time.h>

/* A communicator's own. */
typedef struct fm_mpi_group {
    fm_mpi *mpi;
    MPI_Comm comm;
    struct fm_mpi_group *next;
} fm_mpi_group;

typedef struct fm_watch fm_watch; /* watchdog.c */

struct fm_mpi {
    int64_t count_limit;
    fm_mpi_place place;
    MPI_Comm world,
        node; /* the job's ranks, apart from what others do in MPI_COMM_WORLD; the node's */
    /* In the order in which they were made: MPI_Comm_free waits for the others, and ranks let go of
     * communicators in different orders (garbage collection). All are freed by fm_mpi_stop. */
    fm_mpi_group *first, *last;
    MPI_Op bf16_sum, bf16_max;
    pthread_mutex_t lock; /* around every call of MPI */
    /* The thread that moves on: sleeps on `wake` while nothing is under way. Guarded by lock. */
    pthread_t thread;
    pthread_cond_t wake;
    bool threaded, stop, can_thread;
    bool met; /* at the end */
    int under_way;
    struct timespec interval;
    fm_watch *watch; /* NULL: nobody watches */
};

/* One collective under way: its messages. */
typedef struct fm_mpi_state {
    int n, size;
    MPI_Request *requests;
} fm_mpi_state;

/* MPI's error as ours; `what` is the collective or call. */
fm_status fm_mpi_check(fm_error *err, int code, const char *what);

/* Finds this rank's place. The job's and the node's communicator are made. */
fm_status fm_mpi_look_around(fm_mpi *m, fm_error *err);

/* This rank reported an error, but not all others did. With the lock held. */
bool fm_watch_fails_alone(const fm_watch *w);
/* Ends the watchdog's thread, and frees what it had. NULL is legal. */
void fm_watch_stop(fm_watch *w);

/* Begins a collective's messages. With the lock held. On an error some may be under way. */
fm_status fm_mpi_post(fm_comm *c, fm_ctx *ctx, const fm_collective *w, fm_mpi_state *s);

#endif
