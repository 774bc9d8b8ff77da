/* Sums over rows, for sum_rows and the weight gradients of the norms; deterministic, no atomics.
 *
 *   out_k[p, c] (+)= Σ_{r % period == p} term_k(r, c)        k < N (1 or 2 sums, read together)
 *
 * Pass 1: a block takes 32 columns and one chunk of the rows of one p; its 8 warps take every 8th
 * row and are added in order. Pass 2, only with several chunks, adds the chunks in order. The chunks
 * depend on the shape alone, so the bits are the same on every GPU.
 *
 * Floor: reading the term's arrays once; the chunks' sums are under 1/64 of that in bf16.
 */
#ifndef FM_TENSOR_CUDA_COLUMN_SUM_H
#define FM_TENSOR_CUDA_COLUMN_SUM_H
#include "tensor/cuda/launch.h"

enum { COLUMN_WARPS = 8, COLUMN_CHUNK_MIN = 256, COLUMN_CHUNKS_MAX = 128 };

/* How the ceil(rows / period) terms of a sum are cut. */
typedef struct column_plan {
    int64_t rows, cols, period;
    int64_t chunk, chunks; /* terms in one chunk; at least one chunk, which may be empty */
} column_plan;

static inline column_plan plan_columns(int64_t rows, int64_t cols, int64_t period) {
    column_plan p = {rows, cols, period, 0, 1};
    int64_t terms = (rows + period - 1) / period;
    p.chunk = (terms + COLUMN_CHUNKS_MAX - 1) / COLUMN_CHUNKS_MAX;
    if (p.chunk < COLUMN_CHUNK_MIN) p.chunk = COLUMN_CHUNK_MIN;
    if (terms > 0) p.chunks = (terms + p.chunk - 1) / p.chunk;
    return p;
}

/* out[k] is N pointers to [chunks, period, cols]; with one chunk, to the result itself. */
template <int N> struct column_out {
    float *out[N];
    bool accumulate[N];
};

template <class Term, int N>
static __global__ void column_sum(Term term, column_out<N> out, column_plan plan) {
    __shared__ float part[N][COLUMN_WARPS][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t tiles = (plan.cols + WARP - 1) / WARP;
    int64_t jobs = tiles * plan.period * plan.chunks;
    for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
        int64_t tile = job % tiles, p = job / tiles % plan.period,
                chunk = job / tiles / plan.period;
        int64_t c = tile * WARP + lane;
        int64_t terms = p < plan.rows ? (plan.rows - p - 1) / plan.period + 1 : 0;
        int64_t stop = (chunk + 1) * plan.chunk < terms ? (chunk + 1) * plan.chunk : terms;
        float sum[N];
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] = 0;
        if (c < plan.cols) {
            for (int64_t i = chunk * plan.chunk + warp; i < stop; i += COLUMN_WARPS) {
                term.add(i * plan.period + p, c, sum);
            }
        }
        __syncthreads(); /* the previous job's readers are through */
#pragma unroll
        for (int k = 0; k < N; k++) part[k][warp][lane] = sum[k];
        __syncthreads();
        if (warp < N && c < plan.cols) {
            float total = part[warp][0][lane];
            for (int w = 1; w < COLUMN_WARPS; w++) total += part[warp][w][lane];
            int64_t at = (chunk * plan.period + p) * plan.cols + c;
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (k != warp || !out.out[k]) continue;
                out.out[k][at] = out.accumulate[k] ? out.out[k][at] + total : total;
            }
        }
    }
}

/* y[i] (+)= Σ_chunk parts[chunk, i], chunks ascending. */
static __global__ void column_finish(float *y, const float *parts, int64_t n, int64_t chunks,
                                     bool accumulate) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float total = 0;
        for (int64_t c = 0; c < chunks; c++) total += parts[c * n + i];
        y[i] = accumulate ? y[i] + total : total;
    }
}

/* `to.out` are the results (NULL: not wanted). scratch: fmk_column_scratch(.., N) bytes. */
template <class Term, int N>
static cudaError_t launch_column_sum(cudaStream_t s, Term term, column_out<N> to, int64_t rows,
                                     int64_t cols, int64_t period, float *scratch) {
    if (cols <= 0 || period <= 0) return cudaSuccess;
    column_plan plan = plan_columns(rows, cols, period);
    int64_t n = period * cols;
    column_out<N> first = to;
    if (plan.chunks > 1) {
        for (int k = 0; k < N; k++) {
            first.out[k] = to.out[k] ? scratch + k * plan.chunks * n : nullptr;
            first.accumulate[k] = false;
        }
    }
    int64_t jobs = (cols + WARP - 1) / WARP * period * plan.chunks;
    LAUNCH((column_sum<Term, N>), grid_for(jobs, 1), COLUMN_WARPS * WARP, s, term, first, plan);
    for (int k = 0; k < N && plan.chunks > 1; k++) {
        if (!to.out[k]) continue;
        LAUNCH(column_finish, grid_for(n, BLOCK), BLOCK, s, to.out[k], first.out[k], n, plan.chunks,
               to.accumulate[k]);
    }
    return cudaGetLastError();
}

#endif
