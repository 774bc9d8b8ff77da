/* A communicator of ranks that are not there: this one is alone, and does what it would do among them.
 *
 * For plans, on a device that plans (tensor/plan.h): collectives are counted like any others
 * (fm_comm_stats), and complete at once. Integers, by which ranks decide what to do, are what they would
 * be if every rank were like this one: a gather has this rank's on all places, a sum is `size` times, and
 * what each rank sends this one is what this one would send to itself. Floats are not touched. Messages
 * between two ranks (send, recv) are only counted.
 */
#ifndef FM_PARALLEL_PLANNED_H
#define FM_PARALLEL_PLANNED_H
#include "parallel/comm.h"

/* FM_ERR_VALUE: `rank` is not in [0, size), or the device computes. Divided by fm_comm_split_known only. */
fm_status fm_comm_planned(fm_ctx *ctx, int rank, int size, fm_comm **out);

#endif
