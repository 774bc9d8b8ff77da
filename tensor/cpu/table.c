/* The table of the kernels of one instruction set. */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"

const fm_ops FM_ISA_NAME(fm_cpu_ops) = {
    .mem_alloc = fm_cpu_mem_alloc,
    .mem_free = fm_cpu_mem_free,
    .copy_in = fm_cpu_copy_in,
    .copy_out = fm_cpu_copy_out,
    .copy = fm_cpu_copy,
    .copy_2d = fm_cpu_copy_2d,
    .zero = fm_cpu_zero,
    .sync = fm_cpu_sync,
#define FM_CPU_SLOT(slot) .slot = FM_ISA_NAME(cpu_##slot),
    FM_CPU_SLOT(cast) FM_CPU_SLOT(fill) FM_CPU_SLOT(add) FM_CPU_SLOT(mul) FM_CPU_SLOT(scale)
        FM_CPU_SLOT(add_rows) FM_CPU_SLOT(sum_rows) FM_CPU_SLOT(act_forward)
            FM_CPU_SLOT(act_backward) FM_CPU_SLOT(dropout) FM_CPU_SLOT(gemm)
                FM_CPU_SLOT(linear_forward) FM_CPU_SLOT(linear_backward_input)
                    FM_CPU_SLOT(linear_backward_weight) FM_CPU_SLOT(layer_norm_forward)
                        FM_CPU_SLOT(layer_norm_backward) FM_CPU_SLOT(rms_norm_forward)
                            FM_CPU_SLOT(rms_norm_backward) FM_CPU_SLOT(embedding_forward)
                                FM_CPU_SLOT(embedding_backward) FM_CPU_SLOT(softmax_forward)
                                    FM_CPU_SLOT(softmax_backward) FM_CPU_SLOT(cross_entropy_forward)
                                        FM_CPU_SLOT(cross_entropy_backward) FM_CPU_SLOT(sum)
                                            FM_CPU_SLOT(top_k) FM_CPU_SLOT(gather_cols)
                                                FM_CPU_SLOT(scatter_cols) FM_CPU_SLOT(moe_sort)
                                                    FM_CPU_SLOT(moe_gather) FM_CPU_SLOT(moe_combine)
                                                        FM_CPU_SLOT(moe_combine_weight)
                                                            FM_CPU_SLOT(adamw) FM_CPU_SLOT(sgd)
                                                                FM_CPU_SLOT(sum_squares)
#undef FM_CPU_SLOT
};
