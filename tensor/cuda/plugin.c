/* libfmoe_cuda.so: its identity, opening and closing a GPU, and errors. */
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/state.h"

#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

/* 32 MiB is what NVIDIA's manual advises for Hopper; older GPUs want 4. */
enum { WORKSPACE_BYTES = 32 << 20 };

static const fm_ops cuda_ops = {
#define SLOT(slot) .slot = fm_cuda_##slot,
    FM_CUDA_SLOT_MAP(SLOT)
#undef SLOT
};

/* FM_CUDA_ARCHS is Bazel's setting of that name: 80,90a,100a. */
#define TEXT_(...) #__VA_ARGS__
#define TEXT(...) TEXT_(__VA_ARGS__)

/* backend.h gives the type and the symbol one name, which C wants to be two. */
EXPORT const fm_backend_id *plugin_id(void) __asm__("fm_backend_id");
EXPORT fm_status fm_backend_open(int index, fm_error *err, fm_device **out);
EXPORT void fm_backend_close(fm_device *dev);

const fm_backend_id *plugin_id(void) {
    static const fm_backend_id id = {
        .abi = FM_BACKEND_ABI,
        .ops_size = sizeof(fm_ops),
        .name = "cuda",
        .built_for = "sm_" TEXT(FM_CUDA_ARCHS),
    };
    return &id;
}

fm_status fm_cuda_fail(fm_error *err, const char *name, cudaError_t e, const char *what,
                       const char *file, int line) {
    return fm_fail(err, e == cudaErrorMemoryAllocation ? FM_ERR_OOM : FM_ERR_DEVICE,
                   "%s: %s (%s:%d): %s: %s", name, what, file, line, cudaGetErrorName(e),
                   cudaGetErrorString(e));
}

fm_status fm_cublas_fail(fm_error *err, const char *name, cublasStatus_t e, const char *what,
                         const char *file, int line) {
    return fm_fail(err, e == CUBLAS_STATUS_ALLOC_FAILED ? FM_ERR_OOM : FM_ERR_DEVICE,
                   "%s: %s (%s:%d): %s: %s", name, what, file, line, cublasLtGetStatusName(e),
                   cublasLtGetStatusString(e));
}

fm_status fm_cuda_enter(fm_device *dev, fm_cuda **cuda) {
    CUDA_TRY(dev, cudaSetDevice(dev->index));
    *cuda = dev->impl;
    return FM_OK;
}

/* Fills what fm_backend_open has made; what was reached is freed by fm_backend_close. */
static fm_status start(fm_device *dev) {
    fm_cuda *cuda = dev->impl;
    struct cudaDeviceProp gpu;
    CUDA_TRY(dev, cudaSetDevice(dev->index));
    CUDA_TRY(dev, cudaGetDeviceProperties(&gpu, dev->index));
    snprintf(dev->model, sizeof dev->model, "%.64s (sm_%d%d, %d SMs, %zu MiB)", gpu.name, gpu.major,
             gpu.minor, gpu.multiProcessorCount, gpu.totalGlobalMem >> 20);
    cudaError_t e = fmk_probe();
    if (e != cudaSuccess) {
        return fm_fail(dev->error, FM_ERR_DEVICE,
                       "%s is a %s, and this plugin was built for %s: %s: %s", dev->name,
                       dev->model, plugin_id()->built_for, cudaGetErrorName(e),
                       cudaGetErrorString(e));
    }
    CUDA_TRY(dev, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
    CUDA_TRY(dev, cudaMallocHost((void **)&cuda->host, sizeof *cuda->host));
    CUDA_TRY(dev, cudaMalloc(&cuda->workspace, WORKSPACE_BYTES));
    cuda->workspace_bytes = WORKSPACE_BYTES;
    CUBLAS_TRY(dev, cublasLtCreate(&cuda->lt));
    return fm_gemm_plans_new(dev->error, &cuda->plans);
}

fm_status fm_backend_open(int index, fm_error *err, fm_device **out) {
    *out = NULL;
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) {
        return fm_fail(err, FM_ERR_DEVICE, "no usable GPU: cudaGetDeviceCount: %s: %s",
                       cudaGetErrorName(e), cudaGetErrorString(e));
    }
    if (index < 0 || index >= count) {
        return fm_fail(err, FM_ERR_VALUE, "no GPU cuda:%d: this machine has %d, numbered from 0",
                       index, count);
    }
    fm_device *dev = calloc(1, sizeof *dev);
    fm_cuda *cuda = calloc(1, sizeof *cuda);
    if (!dev || !cuda) {
        free(dev);
        free(cuda);
        return fm_fail(err, FM_ERR_OOM, "cuda:%d: no memory for the device's record", index);
    }
    dev->ops = &cuda_ops;
    dev->error = err;
    dev->impl = cuda;
    dev->index = index;
    snprintf(dev->name, sizeof dev->name, "cuda:%d", index);
    fm_status status = start(dev);
    if (status != FM_OK) {
        fm_backend_close(dev);
        return status;
    }
    *out = dev;
    return FM_OK;
}

/* Errors of the ending have nobody to go to: what failed before is recorded already. */
void fm_backend_close(fm_device *dev) {
    if (!dev) return;
    fm_cuda *cuda = dev->impl;
    (void)cudaSetDevice(dev->index);
    if (cuda->stream) (void)cudaStreamSynchronize(cuda->stream);
    fm_gemm_plans_free(cuda->plans);
    if (cuda->lt) (void)cublasLtDestroy(cuda->lt);
    (void)cudaFree(cuda->scratch);
    (void)cudaFree(cuda->workspace);
    (void)cudaFreeHost(cuda->host);
    if (cuda->stream) (void)cudaStreamDestroy(cuda->stream);
    free(cuda);
    free(dev);
}
