/* copy_2d: rows of bytes between two strides.
 *
 * cudaMemcpy2DAsync is slow for narrow rows, which cat and split have; here one thread moves one
 * unit of 16, 4 or 1 bytes, the widest that both ends and both strides allow.
 *
 * Moves 2 * rows * width bytes; floor: that over the copy bandwidth (4.3 TB/s on an H200).
 */
#include "tensor/cuda/launch.h"

template <class Unit>
static __global__ void copy_2d(char *dst, size_t dst_stride, const char *src, size_t src_stride,
                               int64_t units, int64_t rows) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    int64_t total = units * rows;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        int64_t row = i / units, col = i - row * units;
        *reinterpret_cast<Unit *>(dst + row * dst_stride + col * sizeof(Unit)) =
            *reinterpret_cast<const Unit *>(src + row * src_stride + col * sizeof(Unit));
    }
}

cudaError_t fmk_copy_2d(cudaStream_t s, void *dst, size_t dst_stride, const void *src,
                        size_t src_stride, size_t width, int64_t rows) {
    if (width == 0 || rows <= 0) return cudaSuccess;
    uintptr_t all = (uintptr_t)dst | (uintptr_t)src | width;
    if (rows > 1) all |= dst_stride | src_stride;
    char *to = (char *)dst;
    const char *from = (const char *)src;
    if (all % 16 == 0) {
        int64_t units = (int64_t)(width / 16);
        LAUNCH((copy_2d<uint4>), grid_for(units * rows, BLOCK), BLOCK, s, to, dst_stride, from,
               src_stride, units, rows);
    } else if (all % 4 == 0) {
        int64_t units = (int64_t)(width / 4);
        LAUNCH((copy_2d<uint32_t>), grid_for(units * rows, BLOCK), BLOCK, s, to, dst_stride, from,
               src_stride, units, rows);
    } else {
        int64_t units = (int64_t)width;
        LAUNCH((copy_2d<uint8_t>), grid_for(units * rows, BLOCK), BLOCK, s, to, dst_stride, from,
               src_stride, units, rows);
    }
    return cudaGetLastError();
}
