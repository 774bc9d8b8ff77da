#ifndef FM_TENSOR_SECONDS_H
#define FM_TENSOR_SECONDS_H
#include <time.h>

/* Seconds since some moment: only differences mean something. */
static inline double fm_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
