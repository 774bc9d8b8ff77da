/* The table of the kernels of one instruction set. */
#include "tensor/cpu/device.h"
#include "tensor/cpu/kernels.h"

const fm_ops FM_ISA_NAME(fm_cpu_ops) = {.mem_alloc = fm_cpu_mem_alloc,
                                        .mem_free = fm_cpu_mem_free,
                                        .copy_in = fm_cpu_copy_in,
                                        .copy_out = fm_cpu_copy_out,
                                        .copy = fm_cpu_copy,
                                        .copy_2d = fm_cpu_copy_2d,
                                        .zero = fm_cpu_zero,
                                        .sync = fm_cpu_sync,
#define FM_CPU_SLOT(slot) .slot = FM_ISA_NAME(cpu_##slot),
                                        /* clang-format off */
    FM_CPU_KERNEL_MAP(FM_CPU_SLOT)
/* clang-format on */
#undef FM_CPU_SLOT
};
