/* MPI: starting it, and communicators over it.
 *
 * MPI is one per process, and so is fm_mpi. Its calls are serialized by a lock, so that a thread of
 * ours can move on what is under way while the ranks compute (MPI itself does so only inside its own
 * calls). No other thread of the program may call MPI.
 */
#ifndef FM_PARALLEL_MPI_H
#define FM_PARALLEL_MPI_H
#include "parallel/comm.h"
#include "tensor/standing.h"

typedef struct fm_mpi fm_mpi;

typedef struct fm_mpi_config {
    int64_t count_limit; /* elements in one message; longer ones are cut. 0: 2^30 */
    double progress;     /* seconds between two looks of the thread; 0: 200 µs. < 0: no thread */
} fm_mpi_config;

/* Starts MPI. FM_ERR_UNSUPPORTED: built without MPI. FM_ERR_COMM: in MPI's words; the program must end
 * then, so that the other ranks do. */
fm_status fm_mpi_start(const fm_mpi_config *config, fm_error *err, fm_mpi **out);
/* Whether all ranks have come here, within so many seconds (0: however long that takes). False at once
 * where this rank has reported an error that not all ranks have: the others are elsewhere. After false only
 * fm_mpi_abort is left. */
bool fm_mpi_meet(fm_mpi *m, double seconds);
/* Ends MPI, when all ranks have met: see fm_mpi_meet. All call it, after fm_comm_free of all communicators: none may be touched
 * after. NULL is legal. */
void fm_mpi_stop(fm_mpi *m);
/* Ends all ranks of the job at once, with this exit status. Does not return. */
void fm_mpi_abort(fm_mpi *m, int status) __attribute__((noreturn));

/* ---- the watchdog: a thread of each rank, which sends its own messages
 *
 * When a wait of a rank has reached its time limit, every rank says where it stands, that one also which
 * in no collective is, by one line on stderr; 2 s later the job is ended, and ranks that said
 * nothing (stopped, or their machine is gone) are named. It looks four times a second. An MPI that
 * does not support threads has none: the waits' own errors are all there is then. */

/* `standing` is what it tells of; it must live until fm_mpi_stop. Called once, by all ranks. */
fm_status fm_mpi_watch(fm_mpi *m, const fm_standing *standing, fm_error *err);

/* What ends this rank, a traceback: printed to stderr behind "[rank 1 host]", or, where another rank
 * fails at about the same time with the same text, one line that says so. Takes a second, so that all
 * who fail can speak before the first one ends the job; if that is not done FM_MPI_GRACE seconds
 * later, the watchdog does it. */
void fm_mpi_report(fm_mpi *m, const char *text);
enum { FM_MPI_GRACE = 5 };

/* Before fm_mpi_abort: returns at once, or, where ranks just tell where they stand, when they have. */
void fm_mpi_settle(fm_mpi *m);

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
