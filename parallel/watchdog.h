/* What the watchdog's two files share: its messages and what was heard. */
#ifndef FM_PARALLEL_WATCHDOG_H
#define FM_PARALLEL_WATCHDOG_H
#include "parallel/mpi_internal.h"

#include <semaphore.h>

enum { FM_HOST_NAME = 64 };

/* kind: what a rank tells the others */
typedef enum fm_word {
    FM_LATE,  /* a wait of mine has reached its limit: say where you stand */
    FM_SPOKE, /* I have */
    FM_FAILED /* an error ends me: its hash, and whether another rank prints it */
} fm_word;

typedef struct fm_heard {
    bool late, spoke, failed;
    bool left_to_another; /* that rank prints nothing but "the same" */
    uint64_t hash;
} fm_heard;

/* All but the thread is guarded by the lock of mpi. */
struct fm_watch {
    fm_mpi *mpi;
    MPI_Comm comm;
    const fm_standing *standing;
    pthread_t thread;
    bool threaded;
    sem_t stop;
    char (*hosts)[FM_HOST_NAME]; /* of each rank */
    fm_heard *heard;             /* of each rank; this one's is what it said itself */
    bool spoke;
    double late_at;   /* when this rank's wait was found to be late; 0: it was not */
    double failed_at; /* when an error was reported; 0: none was */
};

/* To all others; they look four times a second. */
void fm_watch_tell(fm_watch *w, fm_word word, uint64_t hash, bool left_to_another);
/* Takes in what they told; answers. */
void fm_watch_listen(fm_watch *w);
/* Whether this rank waits for longer than it may. */
bool fm_watch_late(const fm_watch *w);
/* One write, so that ranks' lines do not mix. */
void fm_watch_print(const fm_watch *w, const char *text);

#endif
