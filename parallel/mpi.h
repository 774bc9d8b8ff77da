/* MPI: starting it, and communicators over it.
 *
 * MPI is one per process, and so is fm_mpi. Its calls are serialized by a lock, so that a thread of
 * ours can move on what is under way while the ranks compute (MPI itself does so only inside its own
 * calls). No other thread of the program may call MPI.
 */
#ifndef FM_PARALLEL_MPI_H
#define FM_PARALLEL_MPI_H
#include "parallel/comm.h"

typedef struct fm_mpi fm_mpi;

typedef struct fm_mpi_config {
    int64_t count_limit; /* elements in one message; longer ones are cut. 0: 2^30 */
    double progress;     /* seconds between two looks of the thread; 0: 200 µs. < 0: no thread */
} fm_mpi_config;

/* Starts MPI. FM_ERR_UNSUPPORTED: built without MPI. FM_ERR_COMM: in MPI's words; the program must end
 * then, so that the other ranks do. */
fm_status fm_mpi_start(const fm_mpi_config *config, fm_error *err, fm_mpi **out);
/* Ends MPI; all ranks call it, after fm_comm_free of all communicators: none may be touched
 * after. NULL is legal. */
void fm_mpi_stop(fm_mpi *m);
/* Ends all ranks of the job at once, with this exit status. Does not return. */
void fm_mpi_abort(fm_mpi *m, int status) __attribute__((noreturn));

/* Where this rank stands in the job, and among the ranks that share its node's memory. */
typedef struct fm_mpi_place {
    int rank, size;
    int node_rank, node_size;
} fm_mpi_place;
fm_mpi_place fm_mpi_find_place(const fm_mpi *m);

/* all[node_size * bytes]: `mine` of each rank of the node, in order of node_rank. Called by all ranks. */
fm_status fm_mpi_gather_node(fm_mpi *m, fm_error *err, const void *mine, size_t bytes, void *all);

/* All ranks of the job; does not communicate. FM_ERR_UNSUPPORTED where ctx's device is no CPU: MPI reads
 * host memory. */
fm_status fm_comm_mpi(fm_mpi *m, fm_ctx *ctx, fm_comm **out);

/* "Open MPI v4.1.4, ..."; "none" where built without. */
const char *fm_mpi_library(void);

#endif
