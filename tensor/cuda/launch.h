/* What every .cu file of the plugin starts from: element types, 16-byte accesses, launches.
 *
 * The kernels keep to plain CUDA C++ (blocks, threads, __shared__, __syncthreads, warp shuffles;
 * no inline PTX, cooperative groups or lambdas), so that tests/tensor/cuda/emulate can compile the
 * same files for a CPU and run them.
 */
#ifndef FM_TENSOR_CUDA_LAUNCH_H
#define FM_TENSOR_CUDA_LAUNCH_H
#include "tensor/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

/* A template's commas need parentheses: LAUNCH((map<float, 4>), grid, block, stream, y, n). */
#ifdef __CUDACC__
#define LAUNCH(kernel, grid, block, stream, ...)                                                   \
    kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#endif

enum { BLOCK = 256, WARP = 32 };

/* Blocks for `work` items at `per_block` each. Kernels loop, so that the cap is no limit. */
static inline unsigned grid_for(int64_t work, int64_t per_block) {
    int64_t blocks = (work + per_block - 1) / per_block;
    return (unsigned)(blocks < (1 << 20) ? blocks : (1 << 20));
}

/* Runs the statements with T = float or fm_bf16; for functions that return cudaError_t. */
#define WITH_FLOAT_TYPE(dt, T, ...)                                                                \
    do {                                                                                           \
        if ((dt) == FM_F32) {                                                                      \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        } else if ((dt) == FM_BF16) {                                                              \
            typedef fm_bf16 T;                                                                     \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            return cudaErrorInvalidValue;                                                          \
        }                                                                                          \
    } while (0)

static __device__ inline float to_float(float x) { return x; }
static __device__ inline float to_float(fm_bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

/* From fp32, to nearest even; NaN stays NaN. */
template <class T> static __device__ inline T from_float(float x) { return (T)x; }
template <> __device__ inline fm_bf16 from_float<fm_bf16>(float x) {
    __nv_bfloat16_raw raw = __float2bfloat16_rn(x);
    fm_bf16 y;
    y.bits = raw.x;
    return y;
}

/* V elements that the compiler moves in 16-byte pieces. */
template <class T, int V> struct alignas(sizeof(T) * V > 16 ? 16 : sizeof(T) * V) pack { T v[V]; };
template <int V, class T> static __device__ inline void load(const T *p, float (&x)[V]) {
    pack<T, V> q = *reinterpret_cast<const pack<T, V> *>(p);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = to_float(q.v[j]);
}
template <int V, class T> static __device__ inline void store(T *p, const float (&x)[V]) {
    pack<T, V> q;
#pragma unroll
    for (int j = 0; j < V; j++) q.v[j] = from_float<T>(x[j]);
    *reinterpret_cast<pack<T, V> *>(p) = q;
}

/* Elements in one thread's turn: 16 bytes of the narrowest of its types. */
template <class A, class B = A> struct width {
    static const int value = sizeof(A) < sizeof(B) ? 16 / sizeof(A) : 16 / sizeof(B);
};

static inline bool aligned16(const void *a, const void *b = nullptr, const void *c = nullptr,
                             const void *d = nullptr) {
    return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) & 15) == 0;
}

/* Σ over the LANES threads that share a row (one warp, or the whole block of LANES threads), in a
 * fixed order; every one of them gets it. All threads of the warp or block must come here. */
template <int LANES, class F> static __device__ inline F lanes_sum(F x) {
#pragma unroll
    for (int o = WARP / 2; o > 0; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
    if (LANES == WARP) return x;
    __shared__ F part[LANES / WARP];
    __syncthreads(); /* the previous call's readers are through */
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = x;
    __syncthreads();
    x = part[0];
    for (int w = 1; w < LANES / WARP; w++) x += part[w];
    return x;
}

#endif
