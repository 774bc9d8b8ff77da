/* Tests that several ranks run together, under mpirun.
 *
 * Each rank runs every case, in step: a barrier stands before each. A case that failed on any rank
 * has failed; a rank other than 0 says who it is; rank 0 prints the summary. Alone there is one rank.
 * MPI is started with messages of at most --count-limit elements (default: no limit), and a thread that
 * moves on every --progress seconds (default: the usual; < 0: no thread).
 */
#ifndef FM_TESTS_PARALLEL_RANKS_H
#define FM_TESTS_PARALLEL_RANKS_H
#include "parallel/mpi.h"
#include "tests/tensor/runner.h"

/* All ranks. Of the running program. */
fm_comm *ranks_world(void);
bool ranks_threaded(void);

int ranks_program(int argc, char **argv, const test_case *cases, int n);
#define RANKS_PROGRAM(cases)                                                                       \
    int main(int argc, char **argv) {                                                              \
        return ranks_program(argc, argv, cases, (int)(sizeof(cases) / sizeof *(cases)));           \
    }

#endif
