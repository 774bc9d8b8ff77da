/* A device that computes nothing: what a program would hold and send is found by running the program.
 *
 * Its memory is address space that reads as zeros and takes no room until something is written. Kernels
 * are skipped, but for those whose results decide what is done next:
 *
 *   copies, zeros     are done where they change something
 *   top_k             choices are even: row t takes columns (t k + j) mod n; all values are 0
 *   softmax_forward   even: 1 / n
 *   gather_cols, moe_sort   as they are
 *   sum_squares       0
 *
 * So losses and norms are 0, routing is balanced, and the allocator's figures are those of a real step but
 * for scratch memory inside of kernels. Blocks that are given back go back at once: fresh memory is zero.
 */
#ifndef FM_TENSOR_PLAN_H
#define FM_TENSOR_PLAN_H
#include "tensor/ctx.h"

/* Turns a context of the CPU that has no tensors yet into one that plans. FM_ERR_DEVICE on another device. */
fm_status fm_ctx_plan(fm_ctx *ctx);
/* Whether a device is one that plans. */
bool fm_device_plans(const fm_device *dev);

#endif
