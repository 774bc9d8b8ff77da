#include "tensor/plan.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- memory: a head of one page in front says how long the mapping is */

enum { PAGE = 4096 };

static fm_status plan_alloc(fm_device *dev, size_t bytes, void **out) {
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return fm_fail(dev->error, FM_ERR_OOM, "no address space for %zu bytes", bytes);
    memcpy(p, &whole, sizeof whole);
    *out = p + PAGE;
    return FM_OK;
}

static void plan_free(fm_device *dev, void *p) {
    (void)dev;
    if (!p) return;
    char *head = (char *)p - PAGE;
    size_t whole;
    memcpy(&whole, head, sizeof whole);
    munmap(head, whole);
}

/* Writes only where something changes: reading takes no memory. */
static void write_changes(char *y, const char *x, size_t bytes) {
    for (size_t at = 0; at < bytes; at += PAGE) {
        size_t n = bytes - at < PAGE ? bytes - at : PAGE;
        if (memcmp(y + at, x + at, n) != 0) memmove(y + at, x + at, n);
    }
}

static fm_status plan_copy(fm_device *dev, void *dst, const void *src, size_t bytes) {
    (void)dev;
    if (bytes > 0) write_changes(dst, src, bytes);
    return FM_OK;
}

static fm_status plan_copy_2d(fm_device *dev, void *dst, size_t dst_stride, const void *src,
                              size_t src_stride, size_t width, int64_t rows) {
    for (int64_t r = 0; r < rows; r++)
        FM_TRY(plan_copy(dev, (char *)dst + (size_t)r * dst_stride,
                         (const char *)src + (size_t)r * src_stride, width));
    return FM_OK;
}

/* Whole pages are given back, and are zero when they are looked at again. */
static fm_status plan_zero(fm_device *dev, void *p, size_t bytes) {
    char *y = p;
    size_t head = (PAGE - (uintptr_t)y % PAGE) % PAGE;
    if (head > bytes) head = bytes;
    size_t pages = (bytes - head) / PAGE * PAGE;
    memset(y, 0, head);
    memset(y + head + pages, 0, bytes - head - pages);
    if (pages > 0 && madvise(y + head, pages, MADV_DONTNEED) != 0)
        return fm_fail(dev->error, FM_ERR_OOM, "the kernel keeps %zu bytes", pages);
    return FM_OK;
}

static fm_status plan_sync(fm_device *dev) {
    (void)dev;
    return FM_OK;
}

/* ---- what decides about what comes next */

static fm_status plan_softmax(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t rows,
                              int64_t n) {
    (void)dev, (void)x;
    for (int64_t i = 0; i < rows * n; i++) {
        float even = 1.0f / (float)n;
        if (dt == FM_F32)
            ((float *)y)[i] = even;
        else
            ((fm_bf16 *)y)[i] = fm_f32_to_bf16(even);
    }
    return FM_OK;
}

static fm_status plan_top_k(fm_device *dev, float *values, int32_t *indices, const float *x,
                            int64_t T, int64_t n, int64_t k) {
    (void)dev, (void)x;
    memset(values, 0, (size_t)(T * k) * sizeof *values);
    for (int64_t i = 0; i < T * k; i++) indices[i] = (int32_t)(i % n);
    return FM_OK;
}

static fm_status plan_gather_cols(fm_device *dev, float *y, const float *x, const int32_t *idx,
                                  int64_t T, int64_t n, int64_t k) {
    (void)dev;
    for (int64_t i = 0; i < T * k; i++) y[i] = idx[i] < 0 ? 0 : x[i / k * n + idx[i]];
    return FM_OK;
}

static fm_status plan_moe_sort(fm_device *dev, int32_t *counts, int32_t *offsets, int32_t *slot,
                               int32_t *source, const int32_t *indices, int64_t T, int64_t k,
                               int64_t E) {
    (void)dev;
    memset(counts, 0, (size_t)E * sizeof *counts);
    for (int64_t i = 0; i < T * k; i++)
        if (indices[i] >= 0) counts[indices[i]]++;
    offsets[0] = 0;
    for (int64_t e = 0; e < E; e++) {
        offsets[e + 1] = offsets[e] + counts[e];
        counts[e] = offsets[e]; /* the next free row, for a while */
    }
    for (int64_t i = 0; i < T * k; i++) source[i] = -1;
    for (int64_t i = 0; i < T * k; i++) {
        slot[i] = indices[i] < 0 ? -1 : counts[indices[i]]++;
        if (slot[i] >= 0) source[slot[i]] = (int32_t)i;
    }
    for (int64_t e = 0; e < E; e++) counts[e] -= offsets[e];
    return FM_OK;
}

static fm_status plan_sum_squares(fm_device *dev, double *out, const float *g, int64_t n,
                                  bool accumulate) {
    (void)dev, (void)g, (void)n;
    if (!accumulate) *out = 0;
    return FM_OK;
}

/* What is not here is skipped: fm_kernel_end. */
static const fm_ops ops = {
    .mem_alloc = plan_alloc,
    .mem_free = plan_free,
    .copy_in = plan_copy,
    .copy_out = plan_copy,
    .copy = plan_copy,
    .copy_2d = plan_copy_2d,
    .zero = plan_zero,
    .sync = plan_sync,
    .softmax_forward = plan_softmax,
    .top_k = plan_top_k,
    .gather_cols = plan_gather_cols,
    .moe_sort = plan_moe_sort,
    .sum_squares = plan_sum_squares,
};

bool fm_device_plans(const fm_device *dev) { return dev->ops == &ops; }

fm_status fm_ctx_plan(fm_ctx *ctx) {
    FM_CHECK(ctx->dev->on_host, FM_ERR_DEVICE, "a plan is made on the CPU; the device is %s",
             ctx->dev->name);
    FM_CHECK(ctx->live_tensors == 0, FM_ERR_STATE, "a plan: the context has tensors already");
    fm_alloc_trim(ctx->alloc);
    ctx->dev->ops = &ops;
    return FM_OK;
}
