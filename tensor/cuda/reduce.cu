/* sum, sum_squares: one number from n, in double, in an order that depends on n alone.
 *
 * Pass 1: up to 1024 blocks, a grid-stride loop, one partial sum each. Pass 2: one block adds the
 * partial sums. Loads are 4 bytes wide, a warp's next to each other, so that the order of the
 * additions does not depend on the pointer's alignment.
 *
 * Bytes: 4n. Floor: that over the read bandwidth (about 4.3 TB/s on an H200).
 */
#include "tensor/cuda/launch.h"

template <bool SQUARE>
static __global__ void partial_sums(double *parts, const float *x, int64_t n) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        double v = x[i];
        sum += SQUARE ? v * v : v;
    }
    sum = lanes_sum<BLOCK>(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __device__ inline double sum_of_parts(const double *parts, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += BLOCK) sum += parts[i];
    return lanes_sum<BLOCK>(sum);
}

static __global__ void finish_double(double *out, const double *parts, int count) {
    double sum = sum_of_parts(parts, count);
    if (threadIdx.x == 0) out[0] = sum;
}

static __global__ void finish_float(float *y, const double *parts, int count, double factor,
                                    bool accumulate) {
    double sum = sum_of_parts(parts, count) * factor;
    if (threadIdx.x == 0) y[0] = (float)(accumulate ? y[0] + sum : sum);
}

static int parts_for(int64_t n) {
    int64_t blocks = (n + 16 * BLOCK - 1) / (16 * BLOCK);
    return blocks < 1 ? 1 : blocks < FMK_REDUCE_PARTS ? (int)blocks : (int)FMK_REDUCE_PARTS;
}

cudaError_t fmk_sum_squares(cudaStream_t s, double *out, const float *g, int64_t n,
                            double *scratch) {
    int parts = parts_for(n);
    LAUNCH((partial_sums<true>), parts, BLOCK, s, scratch, g, n);
    LAUNCH(finish_double, 1, BLOCK, s, out, scratch, parts);
    return cudaGetLastError();
}

cudaError_t fmk_sum(cudaStream_t s, float *y, const float *x, float factor, int64_t n,
                    bool accumulate, double *scratch) {
    int parts = parts_for(n);
    LAUNCH((partial_sums<false>), parts, BLOCK, s, scratch, x, n);
    LAUNCH(finish_float, 1, BLOCK, s, y, scratch, parts, (double)factor, accumulate);
    return cudaGetLastError();
}
