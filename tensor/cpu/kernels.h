/* Prototypes of the kernels: one per slot of fm_ops (tensor/backend.h), with the slot's type,
 * so that neither can drift from the other. cpu_add_v4 is the slot `add` for x86-64-v4. */
#ifndef FM_TENSOR_CPU_KERNELS_H
#define FM_TENSOR_CPU_KERNELS_H
#include "tensor/backend.h"
#include "tensor/cpu/isa.h"

/* Every slot but the memory's, which device.h declares. */
/* clang-format off */
#define FM_CPU_KERNEL_MAP(X)                                                                       \
    X(cast) X(fill) X(add) X(mul) X(scale) X(add_rows) X(sum_rows)                                 \
    X(act_forward) X(act_backward) X(dropout)                                                      \
    X(gemm) X(linear_forward) X(linear_backward_input) X(linear_backward_weight)                   \
    X(layer_norm_forward) X(layer_norm_backward) X(rms_norm_forward) X(rms_norm_backward)          \
    X(attention_forward) X(attention_backward) X(rope)                                             \
    X(embedding_forward) X(embedding_backward) X(softmax_forward) X(softmax_backward)              \
    X(cross_entropy_forward) X(cross_entropy_backward) X(sum)                                      \
    X(top_k) X(gather_cols) X(scatter_cols) X(moe_sort) X(moe_gather) X(moe_combine)               \
    X(moe_combine_weight) X(adamw) X(sgd) X(sum_squares)                                           \
    X(local_ids) X(cross_entropy_merge)
/* clang-format on */

#define FM_CPU_DECLARE(slot) __typeof__(*((fm_ops *)0)->slot) FM_ISA_NAME(cpu_##slot);
FM_CPU_KERNEL_MAP(FM_CPU_DECLARE)
#undef FM_CPU_DECLARE

extern const fm_ops FM_ISA_NAME(fm_cpu_ops);

#endif
