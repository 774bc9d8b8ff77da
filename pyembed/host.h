/* The program's one state: the device that was asked for, the context that serves it, and the
 * lock around the context. Everything below pyembed/ is handed its context.
 */
#ifndef FM_PYEMBED_HOST_H
#define FM_PYEMBED_HOST_H
#include "parallel/mpi.h"
#include "tensor/standing.h"

#include <pthread.h>
#include <sys/types.h>

typedef struct fm_host {
    char device[32];      /* as asked: "auto", "cpu", "cuda", "cuda:0" */
    int threads;          /* OpenMP threads of this rank */
    int rank, world_size; /* right from the start, before a device is open */
    bool dry_run;         /* nothing is computed and the other ranks are not there: dry_run.py */
    fm_mpi *mpi;          /* NULL where this rank is alone */
    pid_t process;        /* the rank's: what a script forks is none */
    bool ended;           /* fm_host_end was here */
    fm_standing standing; /* what the watchdog tells of */
    double time_limit;    /* seconds that a collective may wait; 0: for ever */
    bool checked;         /* ranks compare what they start */
    fm_ctx *ctx;          /* NULL until something needs a device */
    fm_comm *world;       /* all ranks; there when ctx is */
    char why[256];        /* why not a GPU; empty: nothing was given up */
    uint64_t seed;        /* of fmoe.manual_seed, kept for a context that is not open yet */
    int64_t calls;        /* into the framework so far */
    int64_t live;         /* Python objects that point into the context */
    bool failed_at_exit;  /* a save that was waited for at the end went wrong */
    /* A context serves one thread at a time. Recursive: a gate written in Python is called inside
     * a forward and calls operations itself. */
    pthread_mutex_t lock;
    /* What lost its last reference while another thread was computing: freed by the next holder of
     * the lock. Guarded by the interpreter's lock. */
    struct fm_late {
        void (*free)(void *);
        void *what;
    } * late;
    int64_t first_late, n_late, late_size; /* in order of arrival: [first_late, n_late) */
} fm_host;

extern fm_host fm_the_host;

/* Makes OpenMP's threads sleep soon when they wait, by starting the program again once with a setting
 * that libgomp reads before main. Call first of all; see spin.c. */
void fm_host_limit_spinning(char **argv);

/* Gives the main thread's signal handlers a stack of their own, and keeps signals away from OpenMP's
 * threads, which are started by it; see signal_stack.c. */
void fm_host_signal_stack(void);
void fm_host_shield_workers(void);

/* Reads the environment: threads, launcher; starts MPI where a launcher started more ranks than one.
 * 0, or an exit status with the reason on stderr. */
int fm_host_start(const char *device);
int fm_launch(fm_host *h); /* its second half, launch.c */

/* The end of the program, with the script's exit status; also called by exit(). Status 0: waits for the
 * other ranks' ends. Otherwise ends the whole job, with this status, unless the others end as well within
 * FM_MPI_GRACE seconds. Returns the status to exit with. */
int fm_host_end(int status);

/* Opens the device unless that was done already. On an error `err` says why. */
fm_status fm_host_open(fm_error *err);

/* Closes the device where no object is left that needs it. False: a thread is computing still, and
 * nothing was done. */
bool fm_host_stop(void);

/* The folder that holds the Python package `fmoe`: in the runfiles of Bazel, or beside the
 * program. 0 when found. */
int fm_package_dir(char *out, size_t n);

#endif
