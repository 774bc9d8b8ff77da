/* Where a rank stands: what it does now, for whoever wants to know why nothing moves.
 *
 * Written by the thread that computes, read by a watchdog without a lock: each field is atomic, and
 * what is read together belongs together as soon as the writer stands still, which is when it matters.
 * A NULL standing is legal: nothing is noted.
 */
#ifndef FM_TENSOR_STANDING_H
#define FM_TENSOR_STANDING_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One collective: "all_reduce number 12 of dp (4 ranks)". Texts are constants. */
typedef struct fm_standing_at {
    _Atomic(const char *) what, group;
    _Atomic uint64_t number;
    _Atomic int ranks;
} fm_standing_at;

typedef struct fm_standing {
    _Atomic int64_t
        step; /* optimiser steps completed, of the model that computed last; -1: none did */
    _Atomic int inside;       /* calls into the framework: 0 while the script's own code runs */
    _Atomic bool ended;       /* the script has ended */
    _Atomic(const char *) op; /* the operation that was begun last; NULL: none was */
    fm_standing_at began;     /* the collective that was begun last */
    fm_standing_at waited;    /* ... and the one that is waited for, while `waiting` */
    _Atomic bool waiting;     /* stays true after a wait that reached its limit */
    _Atomic double since;     /* when `waiting` last changed (fm_seconds) */
    _Atomic double limit;     /* seconds that the wait may take; 0: for ever */
} fm_standing;

/* What order other memory is seen in does not matter. */
#define FM_STAND(standing, field, value)                                                           \
    do {                                                                                           \
        if (standing) atomic_store_explicit(&(standing)->field, value, memory_order_relaxed);      \
    } while (0)
#define FM_STANDS(standing, field) atomic_load_explicit(&(standing)->field, memory_order_relaxed)

#endif
