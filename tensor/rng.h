/* Counter-based random numbers (Philox4x32-10, Salmon et al. 2011).
 *
 * A number depends on the seed, a stream (a parameter's or layer's name), the
 * completed steps, the micro-batch and the *global* index of the element, and on
 * nothing else: so weights, dropout and noise are the same on any layout, thread
 * count and backend, and no generator state needs saving but (seed, step).
 *
 * Header-only, plain C that nvcc compiles too: every backend draws the same bits.
 */
#ifndef FM_TENSOR_RNG_H
#define FM_TENSOR_RNG_H
#include <stdint.h>

#ifdef __CUDACC__
#define FM_HD __host__ __device__
#else
#define FM_HD
#endif

/* What training counts, and random numbers depend on. */
typedef struct fm_clock {
    uint32_t step;  /* completed optimiser steps */
    uint32_t micro; /* micro-batches since */
} fm_clock;

/* Which rows of the global array a rank holds: row r is number
 * offset + r / block * stride + r % block, or offset + r where block is 0. */
typedef struct fm_rows {
    int64_t offset, block, stride;
} fm_rows;

/* Which random numbers. Element (row, col) of a [rows, cols] array has the global index
 *   (row_offset + row / row_block * row_stride + row % row_block) * cols + col
 * where the three row numbers say which rows of the global array this rank holds. */
typedef struct fm_rng_key {
    uint64_t key;   /* seed and stream, mixed */
    uint32_t step;  /* completed optimiser steps */
    uint32_t micro; /* micro-batch within the step */
    int64_t row_offset, row_block, row_stride;
} fm_rng_key;

/* The splitmix64 finaliser: turns structured integers into keys. */
static inline FM_HD uint64_t fm_mix64(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline FM_HD void fm_philox(uint64_t key, const uint32_t in[4], uint32_t out[4]) {
    uint32_t c0 = in[0], c1 = in[1], c2 = in[2], c3 = in[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The four 32-bit numbers of global elements 4*block .. 4*block + 3. */
static inline FM_HD void fm_rng_block(const fm_rng_key *k, uint64_t block, uint32_t out[4]) {
    uint32_t in[4] = {(uint32_t)block, (uint32_t)(block >> 32), k->step, k->micro};
    fm_philox(k->key, in, out);
}

static inline FM_HD int64_t fm_rng_row(const fm_rng_key *k, int64_t row) {
    return k->row_block > 0
               ? k->row_offset + row / k->row_block * k->row_stride + row % k->row_block
               : k->row_offset + row;
}

/* 32 bits of one global element (a block serves four: loops should draw blocks). */
static inline FM_HD uint32_t fm_rng_bits(const fm_rng_key *k, uint64_t element) {
    uint32_t out[4];
    fm_rng_block(k, element >> 2, out);
    return out[element & 3];
}

/* Uniform in (0, 1): the 23 high bits, centred, so neither 0 nor 1 occurs (with 24 bits the
 * centre of the last interval would round to 1). */
static inline FM_HD float fm_rng_uniform(uint32_t bits) {
    return ((float)(bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

/* Standard normal of one global element, in double, by Box-Muller; host only (initialisation, gate
 * noise). Draws from blocks that no uniform number under the same key comes from. */
double fm_rng_normal(const fm_rng_key *k, uint64_t element);

/* FNV-1a of a name: the stream of a parameter or layer. */
uint64_t fm_rng_stream(const char *name);

#endif
