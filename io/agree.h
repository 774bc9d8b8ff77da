/* What the ranks of a save say to each other, and how long they wait for one another. */
#ifndef FM_IO_AGREE_H
#define FM_IO_AGREE_H
#include "io/disk.h"
#include "parallel/comm.h"

/* A wait for ranks whose disks may be slow: it ends when nothing has changed in the folder where they write
 * for `limit` seconds. Make it anew for each wait. */
typedef struct fm_patience {
    char folder[FM_PATH];
    double limit;
    double since, looked; /* seconds: of the last change, of the last look; 0: not begun */
    int64_t seen;         /* entries and bytes there */
} fm_patience;

/* False: it is at its end. To be asked again and again, with a pause between. */
bool fm_patience_left(fm_patience *p);

/* All ranks. Each comes with its status (where that is no FM_OK the words are in ctx->error) and with n
 * numbers, and gets everybody's: all [size, n]. Where one has failed, all get the status and the words of
 * the lowest that has, with "rank R: " in front unless that is 0. FM_ERR_COMM: no word from some rank
 * within the patience, or the transport's failure; it is this rank's alone. */
fm_status fm_save_agree(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, fm_status mine, int n,
                        const int64_t *numbers, int64_t *all);

/* All ranks: whether each is ready to write this step, the same one, and all of it (the ranks' balances
 * sum to 0, see fm_ckpt_balance). *id: a number that no other save has, of this or another program. */
fm_status fm_save_agree_to_begin(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, fm_status mine,
                                 int64_t step, uint64_t balance, uint64_t *id);

#endif
