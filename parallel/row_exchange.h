/* Rows that travel to the ranks that compute on them, and back: on the tape.
 *
 * A communicator of size = groups · copies ranks; ranks g·copies .. (g+1)·copies - 1 are group g (the
 * etp ranks that share ep rank g's experts). `dispatch` sends each group its rows, the same to every rank of it;
 * `collect` brings a partial result of each row back from every rank of its group, and sums these in
 * the order of the ranks. Each is the other's adjoint. With copies = 1 both are a plain all_to_all_v.
 *
 *   dispatch  y [arriving, d] = from rank 0, 1, ...: its rows for this group;   x [n, d], n >= leaving
 *             dx[i] = Σ over copies of dy
 *   collect   y [n, d]: y[i] = Σ over copies of z, 0 for leaving <= i < n;      z [arriving, d]
 *             dz = dy's rows, to every copy
 *
 * x's rows lie in the order of the groups; those behind the last that leaves stay at home. Rows travel in
 * their own dtype; sums are fp32 inside, rounded once.
 *
 * Bytes that a rank sends, each way: (rows that leave for other ranks) · copies · d · size of an element
 * in dispatch and collect's backward; (rows that arrived from other ranks) · d · size in the other two.
 *
 * All ranks of the communicator call each of them, in the same order. Errors: FM_ERR_SHAPE,
 * FM_ERR_DTYPE, FM_ERR_VALUE name the argument; FM_ERR_OOM; FM_ERR_COMM. Outputs are NULL after an error.
 */
#ifndef FM_PARALLEL_ROW_EXCHANGE_H
#define FM_PARALLEL_ROW_EXCHANGE_H
#include "parallel/comm.h"
#include "tensor/tensor.h"

/* How many rows go where: known to both sides before they travel. */
typedef struct fm_row_plan {
    int refs;
    fm_comm *comm; /* borrowed: must live as long as the tape */
    int copies;
    int64_t leaving, arriving; /* rows in all; leaving: each counted once, however many copies */
    int64_t *send, *received;  /* rows for each group; rows from each rank */
} fm_row_plan;

/* send [size / copies], received [size]: what each rank sends this one's group (copied). Communicates
 * nothing: that the ranks' numbers agree is the caller's word. */
fm_status fm_row_plan_new(fm_ctx *ctx, fm_comm *comm, int copies, const int64_t *send,
                          const int64_t *received, fm_row_plan **out);
void fm_row_plan_free(
    fm_row_plan *p); /* drops one reference (the tape's nodes hold theirs); NULL is legal */

fm_status fm_row_dispatch(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_row_plan *p);
/* rows: n of y, at least p->leaving. */
fm_status fm_row_collect(fm_ctx *ctx, fm_tensor **y, fm_tensor *z, fm_row_plan *p, int64_t rows);

/* The same in two halves: between them the rows travel and the ranks compute. So it is on the tape: what was
 * computed between the two is differentiated while the gradients travel back. */
typedef struct fm_row_flight {
    fm_row_plan *plan;
    bool home; /* collect's direction */
    bool under_way;
    fm_tensor *x, *landing; /* what is sent, and where it arrives: held until it is there */
    int64_t rows;           /* of the result */
    int64_t *parts;
    fm_request request;
    struct fm_row_trip *trip; /* there and back, where gradients are wanted */
    fm_tensor *aloft; /* stands for the rows on the tape between the two halves: without data */
} fm_row_flight;
fm_status fm_row_dispatch_start(fm_ctx *ctx, fm_row_flight *f, fm_tensor *x, fm_row_plan *p);
fm_status fm_row_collect_start(fm_ctx *ctx, fm_row_flight *f, fm_tensor *z, fm_row_plan *p,
                               int64_t rows);
/* Waits, records, and ends the flight. */
fm_status fm_row_flight_land(fm_ctx *ctx, fm_row_flight *f, fm_tensor **y);
/* Ends a flight that something else's error left in the air: waits for it. Legal on one that is
 * zeroed or has ended. */
void fm_row_flight_drop(fm_ctx *ctx, fm_row_flight *f);

#endif
