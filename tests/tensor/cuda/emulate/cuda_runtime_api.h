/* As much of the CUDA runtime as tensor/cuda uses, for a CPU: the same names, so that the plugin's
 * own sources compile unchanged. See README.md. */
#ifndef FM_EMULATE_CUDA_RUNTIME_API_H
#define FM_EMULATE_CUDA_RUNTIME_API_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidDevice = 101,
} cudaError_t;
typedef struct emulated_stream *cudaStream_t;
enum { cudaStreamNonBlocking = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem;
};
struct cudaFuncAttributes {
    int maxThreadsPerBlock;
};
typedef enum cudaDataType { CUDA_R_32F, CUDA_R_16BF } cudaDataType_t;
typedef cudaDataType_t cudaDataType;

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorName(cudaError_t e);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamDestroy(cudaStream_t s);

#ifdef __cplusplus
}

/* ---- what nvcc knows without a header */
#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static /* one block runs at a time */

struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16)));
struct emulated_dim {
    unsigned x, y, z;
};
extern emulated_dim threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads(void);

static inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* One value of 8 bytes from each thread of the warp; returns the lane's. */
uint64_t emulated_exchange(uint64_t mine, unsigned lane);
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int bits) {
    static_assert(sizeof(T) <= 8, "a register or two");
    (void)mask;
    uint64_t mine = 0;
    memcpy(&mine, &x, sizeof x);
    mine = emulated_exchange(mine, (threadIdx.x % 32) ^ (unsigned)bits);
    memcpy(&x, &mine, sizeof x);
    return x;
}

/* Calls body(arg) once for each thread of each block. */
void emulated_launch(unsigned grid, unsigned block, void (*body)(void *), void *arg);
template <class F> static void emulated_call(void *f) { (*static_cast<F *>(f))(); }
template <class F> static void emulated_run(unsigned grid, unsigned block, F f) {
    emulated_launch(grid, block, emulated_call<F>, &f);
}
#define LAUNCH(kernel, grid, block, stream, ...)                                                   \
    ((void)(stream),                                                                               \
     emulated_run((unsigned)(grid), (unsigned)(block), [&]() { (kernel)(__VA_ARGS__); }))
#endif
#endif
