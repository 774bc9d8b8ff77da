#include "io/dataset.h"
#include "tensor/rng.h"

/* One pass of the network over 2 * half_bits bits. */
static uint64_t feistel(uint64_t key, int half_bits, uint64_t x) {
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 0; round < 6; round++) {
        uint64_t mixed = fm_mix64(key ^ fm_mix64(right + (round << 32)));
        uint64_t next = left ^ (mixed & mask);
        left = right, right = next;
    }
    return left << half_bits | right;
}

int64_t fm_permute_index(uint64_t key, int64_t n, int64_t i) {
    int half_bits = 1;
    while (half_bits < 32 && UINT64_C(1) << 2 * half_bits < (uint64_t)n) half_bits++;
    uint64_t x = (uint64_t)i;
    /* The network permutes at most 4n numbers; a walk that starts below n comes back below n, and
     * different starts end differently. */
    do x = feistel(key, half_bits, x);
    while (x >= (uint64_t)n);
    return (int64_t)x;
}
