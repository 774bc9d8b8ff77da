/* The state of an opened CPU device, and what its kernels share. Compiled once. */
#ifndef FM_TENSOR_CPU_DEVICE_H
#define FM_TENSOR_CPU_DEVICE_H
#include "tensor/backend.h"

/* Scratch memory: one growing block per user. A kernel asks once a call, before its parallel
 * region; the block is valid until the next request for the same user. The two are apart so that
 * a layer can hold a buffer of its own around a product that packs its operands. */
typedef enum fm_cpu_scratch_user {
    FM_CPU_SCRATCH_KERNEL,
    FM_CPU_SCRATCH_PRODUCT,
    FM_CPU_SCRATCH_USERS
} fm_cpu_scratch_user;

typedef struct fm_cpu {
    struct {
        void *data;
        size_t bytes;
    } scratch[FM_CPU_SCRATCH_USERS];
    /* Belongs to the product kernels (kernels of a library that are made once per shape);
     * freed by `free_products` when the device is closed. */
    void *products;
    void (*free_products)(void *products);
    char isa[8]; /* "v4" */
} fm_cpu;

/* At least `bytes` bytes, 64-byte aligned, contents undefined. FM_ERR_OOM names the size. */
fm_status fm_cpu_scratch(fm_device *dev, fm_cpu_scratch_user user, size_t bytes, void **out);

/* The memory slots of the table; the same for every instruction set. */
fm_status fm_cpu_mem_alloc(fm_device *dev, size_t bytes, void **out);
void fm_cpu_mem_free(fm_device *dev, void *p);
fm_status fm_cpu_copy_in(fm_device *dev, void *dst, const void *host, size_t bytes);
fm_status fm_cpu_copy_out(fm_device *dev, void *host, const void *src, size_t bytes);
fm_status fm_cpu_copy(fm_device *dev, void *dst, const void *src, size_t bytes);
fm_status fm_cpu_copy_2d(fm_device *dev, void *dst, size_t dst_stride, const void *src,
                         size_t src_stride, size_t width, int64_t rows);
fm_status fm_cpu_zero(fm_device *dev, void *p, size_t bytes);
fm_status fm_cpu_sync(fm_device *dev);

#endif
