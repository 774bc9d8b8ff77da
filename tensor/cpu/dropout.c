/* Inverted dropout with a counted mask; forward and backward are the same.
 *
 *   y = x * (uniform(key, global element) >= p ? 1 / (1 - p) : 0)
 *
 * Cost: one read and one write; nothing is stored for the backward, which draws again. Philox draws
 * four numbers a block, 64 blocks side by side (0.36 ns an element on one Zen 5 core with x86-64-v4,
 * 1.1 with v3; with 16 blocks the chain of ten rounds is not hidden and v4 takes 0.7).
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/value.h"

enum { BLOCKS = 64, DRAWN = 4 * BLOCKS };

/* bits[i] of global element 4 * block + i: fm_rng_block with the rounds outside and the blocks
 * inside, since gcc 12 does not vectorise a loop around the rounds. */
FM_INLINE void draw(uint32_t bits[DRAWN], const fm_rng_key *key, uint64_t block) {
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    uint32_t k0 = (uint32_t)key->key, k1 = (uint32_t)(key->key >> 32);
#pragma omp simd
    for (size_t l = 0; l < BLOCKS; l++) {
        c0[l] = (uint32_t)(block + l);
        c1[l] = (uint32_t)((block + l) >> 32);
        c2[l] = key->step;
        c3[l] = key->micro;
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (size_t l = 0; l < BLOCKS; l++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[l], p1 = (uint64_t)0xCD9E8D57u * c2[l];
            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ k0;
            c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ k1;
            c1[l] = (uint32_t)p1;
            c3[l] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
#pragma omp simd
    for (size_t l = 0; l < BLOCKS; l++) {
        bits[4 * l] = c0[l];
        bits[4 * l + 1] = c1[l];
        bits[4 * l + 2] = c2[l];
        bits[4 * l + 3] = c3[l];
    }
}

FM_INLINE void apply(fm_dtype dt, void *y, const void *x, const uint32_t *bits, int64_t n, float p,
                     float scale, bool add) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        fm_put_or_add(dt, y, i, fm_get(dt, x, i) * (fm_rng_uniform(bits[i]) >= p ? scale : 0.0f),
                      add);
}

/* n elements that follow each other in the global array, the first being `global`. */
FM_INLINE void run(fm_dtype dt, void *y, const void *x, const fm_rng_key *key, int64_t global,
                   int64_t n, float p, float scale, bool add) {
    uint32_t bits[DRAWN];
    int64_t skip = global & 3; /* the run may start inside a block of four */
    for (int64_t done = 0; done < n;) {
        draw(bits, key, (uint64_t)(global + done - skip) >> 2);
        int64_t m = fm_min_i64(DRAWN - skip, n - done);
        void *to = fm_at_mut(dt, y, done);
        const void *from = fm_at(dt, x, done);
        if (m == DRAWN)
            apply(dt, to, from, bits, DRAWN, p, scale, add);
        else
            apply(dt, to, from, bits + skip, m, p, scale, add);
        done += m;
        skip = 0;
    }
}

/* Local elements [lo, hi), cut where the global rows jump. */
FM_INLINE void chunk(fm_dtype dt, void *y, const void *x, const fm_rng_key *key, int64_t lo,
                     int64_t hi, int64_t rows, int64_t cols, float p, float scale, bool add) {
    while (lo < hi) {
        int64_t row = lo / cols;
        int64_t stop = key->row_block > 0 ? (row / key->row_block + 1) * key->row_block : rows;
        int64_t n = fm_min_i64(hi, stop * cols) - lo;
        run(dt, fm_at_mut(dt, y, lo), fm_at(dt, x, lo), key,
            fm_rng_row(key, row) * cols + lo % cols, n, p, scale, add);
        lo += n;
    }
}

fm_status FM_ISA_NAME(cpu_dropout)(fm_device *dev, fm_dtype dt, void *y, const void *x,
                                   int64_t rows, int64_t cols, float p, const fm_rng_key *key,
                                   bool accumulate) {
    (void)dev;
    int64_t n = rows * cols;
    float scale = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < fm_chunk_count(n); c++)
        FM_FLOAT_ADD_CALL(dt, accumulate, chunk, y, x, key, c * FM_CHUNK, fm_chunk_end(c, n), rows,
                          cols, p, scale);
    return FM_OK;
}
