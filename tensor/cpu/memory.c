/* Host memory, copies and scratch of the CPU device. */
#include "tensor/cpu/device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    ALIGN = 64,
    HUGE_PAGE = 2 << 20,
    /* A copy of less is over before a second thread has woken up (some µs, at about 10 GB/s). */
    PARALLEL_COPY = 1 << 20,
    COPY_CHUNK = 256 << 10,
};

fm_status fm_cpu_mem_alloc(fm_device *dev, size_t bytes, void **out) {
    *out = NULL;
    /* Weights, moments and activations are walked from end to end: with pages of 4 KiB the walk
     * misses the TLB at each, and the first touch of 2 MiB costs 512 faults instead of one.
     * Smaller blocks stay on small pages, where a huge one would be mostly air. */
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGN;
    if (posix_memalign(out, align, bytes > 0 ? bytes : 1) != 0) {
        *out = NULL;
        return fm_fail(dev->error, FM_ERR_OOM, "cpu: no memory for %zu bytes", bytes);
    }
    /* Advice: without it, or where the kernel has none, the block is as good, only slower. */
    if (align == HUGE_PAGE) (void)madvise(*out, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return FM_OK;
}

void fm_cpu_mem_free(fm_device *dev, void *p) {
    (void)dev;
    free(p);
}

/* memcpy by both threads: one core alone does not fill the memory's lanes. */
static void copy_bytes(void *dst, const void *src, size_t bytes) {
    if (bytes < PARALLEL_COPY) {
        if (bytes > 0) memcpy(dst, src, bytes);
        return;
    }
    int64_t chunks = (int64_t)((bytes + COPY_CHUNK - 1) / COPY_CHUNK);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; c++) {
        size_t at = (size_t)c * COPY_CHUNK;
        memcpy((char *)dst + at, (const char *)src + at,
               bytes - at < COPY_CHUNK ? bytes - at : COPY_CHUNK);
    }
}

fm_status fm_cpu_copy_in(fm_device *dev, void *dst, const void *host, size_t bytes) {
    (void)dev;
    copy_bytes(dst, host, bytes);
    return FM_OK;
}

fm_status fm_cpu_copy_out(fm_device *dev, void *host, const void *src, size_t bytes) {
    (void)dev;
    copy_bytes(host, src, bytes);
    return FM_OK;
}

fm_status fm_cpu_copy(fm_device *dev, void *dst, const void *src, size_t bytes) {
    (void)dev;
    copy_bytes(dst, src, bytes);
    return FM_OK;
}

fm_status fm_cpu_copy_2d(fm_device *dev, void *dst, size_t dst_stride, const void *src,
                         size_t src_stride, size_t width, int64_t rows) {
    (void)dev;
    if (width == 0) return FM_OK;
    bool parallel = rows > 1 && width >= PARALLEL_COPY / (size_t)rows;
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t r = 0; r < rows; r++)
        memcpy((char *)dst + (size_t)r * dst_stride, (const char *)src + (size_t)r * src_stride,
               width);
    return FM_OK;
}

fm_status fm_cpu_zero(fm_device *dev, void *p, size_t bytes) {
    (void)dev;
    if (bytes < PARALLEL_COPY) {
        if (bytes > 0) memset(p, 0, bytes);
        return FM_OK;
    }
    int64_t chunks = (int64_t)((bytes + COPY_CHUNK - 1) / COPY_CHUNK);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; c++) {
        size_t at = (size_t)c * COPY_CHUNK;
        memset((char *)p + at, 0, bytes - at < COPY_CHUNK ? bytes - at : COPY_CHUNK);
    }
    return FM_OK;
}

fm_status fm_cpu_sync(fm_device *dev) {
    (void)dev;
    return FM_OK;
}

fm_status fm_cpu_scratch(fm_device *dev, fm_cpu_scratch_user user, size_t bytes, void **out) {
    fm_cpu *cpu = dev->impl;
    if (cpu->scratch[user].bytes < bytes) {
        void *grown;
        FM_TRY(fm_cpu_mem_alloc(dev, bytes, &grown));
        free(cpu->scratch[user].data); /* contents are not kept */
        cpu->scratch[user].data = grown;
        cpu->scratch[user].bytes = bytes;
    }
    *out = cpu->scratch[user].data;
    return FM_OK;
}
