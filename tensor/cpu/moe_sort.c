/* Stable counting sort of the T*k choices by expert.
 *
 * Cost: O(T k + E): two passes over the indices, 4 bytes each, and one write of slot and source.
 * Each chunk of choices counts its experts; a chunk's choices of expert e then start behind those of
 * the experts before e and of the chunks before it. The result is the stable order however the
 * chunks are cut.
 */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

/* next [chunks, E]: counts on entry, the first row of each (chunk, expert) afterwards. */
static void place_chunks(int32_t *counts, int32_t *offsets, int32_t *next, int64_t chunks,
                         int64_t E) {
    int32_t row = 0;
    for (int64_t e = 0; e < E; e++) {
        offsets[e] = row;
        for (int64_t c = 0; c < chunks; c++) {
            int32_t count = next[c * E + e];
            next[c * E + e] = row;
            row += count;
        }
        counts[e] = row - offsets[e];
    }
    offsets[E] = row;
}

fm_status FM_ISA_NAME(cpu_moe_sort)(fm_device *dev, int32_t *counts, int32_t *offsets,
                                    int32_t *slot, int32_t *source, const int32_t *indices,
                                    int64_t T, int64_t k, int64_t E) {
    int64_t n = T * k;
    fm_split split = fm_split_rows(n, FM_TILE(8192, 7));
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, (size_t)(split.count * E) * sizeof(int32_t),
                          &scratch));
    int32_t *next = scratch;
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < split.count; c++) {
        int32_t *count = next + c * E;
        for (int64_t e = 0; e < E; e++) count[e] = 0;
        for (int64_t i = c * split.size; i < fm_min_i64((c + 1) * split.size, n); i++)
            if (indices[i] >= 0) count[indices[i]]++;
    }
    place_chunks(counts, offsets, next, split.count, E);
#pragma omp parallel for schedule(static) if (n >= FM_PARALLEL_MIN)
    for (int64_t c = 0; c < split.count; c++) {
        int32_t *row = next + c * E;
        for (int64_t i = c * split.size; i < fm_min_i64((c + 1) * split.size, n); i++) {
            int32_t e = indices[i];
            slot[i] = e >= 0 ? row[e]++ : -1;
            if (e >= 0) source[slot[i]] = (int32_t)i;
        }
    }
    for (int64_t i = offsets[E]; i < n; i++) source[i] = -1;
    return FM_OK;
}
