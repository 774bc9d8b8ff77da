/* A slower network than the machine has: for measuring overlap, and plans for clusters.
 *
 * A collective of b bytes (fm_collective_bytes) is complete no earlier than latency + b / bandwidth
 * after the link is free: one message after another. The processor is not used for it: waits sleep.
 */
#ifndef FM_PARALLEL_THROTTLE_H
#define FM_PARALLEL_THROTTLE_H
#include "parallel/comm.h"

/* Takes `inner`, also on an error. latency in seconds, at least 0; bandwidth in bytes per second, above
 * 0, INFINITY: as fast as it is. Subgroups are throttled alike, each with a link of its own. */
fm_status fm_comm_throttled(fm_ctx *ctx, fm_comm *inner, double latency, double bandwidth,
                            fm_comm **out);

/* Reads "latency_us,GB_per_s", two numbers ("20,1.25": 20 microseconds and 1.25e9 bytes per second), into
 * what fm_comm_throttled takes. FM_ERR_VALUE: it is not of that form. */
fm_status fm_throttle_read(fm_error *err, const char *text, double *latency, double *bandwidth);

#endif
