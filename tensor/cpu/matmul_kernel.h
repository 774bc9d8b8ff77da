/* One kernel of oneDNN's: its matmul primitive for a tile. Used by matmul.c only. */
#ifndef FM_TENSOR_CPU_MATMUL_KERNEL_H
#define FM_TENSOR_CPU_MATMUL_KERNEL_H
#include "tensor/cpu/matmul.h"

#include "tensor/cpu/onednn.h"

typedef struct fm_matmul_kernel {
    fm_matmul tile;
    dnnl_primitive_t primitive; /* NULL: an unused place */
    dnnl_memory_desc_t a, b, c, scratch;
    size_t scratch_bytes; /* that each thread brings along */
} fm_matmul_kernel;

/* On an error nothing is left behind and *k is unused. */
dnnl_status_t fm_matmul_kernel_make(fm_matmul_kernel *k, dnnl_engine_t engine,
                                    const fm_matmul *tile);
void fm_matmul_kernel_clear(fm_matmul_kernel *k);
dnnl_status_t fm_matmul_kernel_run(const fm_matmul_kernel *k, dnnl_engine_t engine,
                                   dnnl_stream_t stream, void *scratch, const void *a,
                                   const void *b, float *c);

#endif
