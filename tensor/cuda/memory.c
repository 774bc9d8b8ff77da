/* The memory slots, and the scratch of an operation.
 *
 * cudaMalloc, not cudaMallocAsync: the core's allocator keeps blocks and hands them out again, so
 * that calls are few; cudaFree waits for the kernels that may still use a block and gives the
 * memory back at once, which is what the allocator expects when it trims and tries again; and NCCL
 * can register such memory, which it cannot do with memory of every pool.
 */
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/state.h"

fm_status fm_cuda_mem_alloc(fm_device *dev, size_t bytes, void **out) {
    fm_cuda *cuda;
    *out = NULL;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    cudaError_t e = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (e == cudaSuccess) return FM_OK;
    *out = NULL;
    (void)cudaGetLastError(); /* a lack of memory is no lasting error; not seen again */
    if (e != cudaErrorMemoryAllocation) {
        return fm_cuda_fail(dev->error, dev->name, e, "cudaMalloc", __FILE__, __LINE__);
    }
    size_t available = 0, total = 0;
    CUDA_TRY(dev, cudaMemGetInfo(&available, &total));
    return fm_fail(dev->error, FM_ERR_OOM, "%s: no memory for %zu bytes: %zu of %zu are free",
                   dev->name, bytes, available, total);
}

void fm_cuda_mem_free(fm_device *dev, void *p) {
    fm_cuda *cuda;
    if (!p || fm_cuda_enter(dev, &cuda) != FM_OK) return;
    cudaError_t e = cudaFree(p);
    if (e != cudaSuccess) {
        fm_cuda_fail(dev->error, dev->name, e, "cudaFree", __FILE__, __LINE__);
    }
}

/* Pageable host memory: the wait is what makes it the caller's again. */
fm_status fm_cuda_copy_in(fm_device *dev, void *dst, const void *host, size_t bytes) {
    fm_cuda *cuda;
    if (bytes == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, cuda->stream));
    CUDA_TRY(dev, cudaStreamSynchronize(cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_copy_out(fm_device *dev, void *host, const void *src, size_t bytes) {
    fm_cuda *cuda;
    if (bytes == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, cuda->stream));
    CUDA_TRY(dev, cudaStreamSynchronize(cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_copy(fm_device *dev, void *dst, const void *src, size_t bytes) {
    fm_cuda *cuda;
    if (bytes == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_copy_2d(fm_device *dev, void *dst, size_t dst_stride, const void *src,
                          size_t src_stride, size_t width, int64_t rows) {
    fm_cuda *cuda;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, fmk_copy_2d(cuda->stream, dst, dst_stride, src, src_stride, width, rows));
    return FM_OK;
}

fm_status fm_cuda_zero(fm_device *dev, void *p, size_t bytes) {
    fm_cuda *cuda;
    if (bytes == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, cudaMemsetAsync(p, 0, bytes, cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_sync(fm_device *dev) {
    fm_cuda *cuda;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    CUDA_TRY(dev, cudaStreamSynchronize(cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_scratch(fm_device *dev, size_t bytes, void **out) {
    fm_cuda *cuda = dev->impl;
    if (cuda->scratch_bytes < bytes) {
        /* cudaFree waits for the operation that may still use the old one. */
        void *old = cuda->scratch;
        cuda->scratch = NULL;
        cuda->scratch_bytes = 0;
        CUDA_TRY(dev, cudaFree(old));
        FM_TRY(fm_cuda_mem_alloc(dev, bytes, &cuda->scratch));
        cuda->scratch_bytes = bytes;
    }
    *out = cuda->scratch;
    return FM_OK;
}
