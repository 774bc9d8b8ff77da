/* bfloat16's conversion for the emulation: fm_f32_to_bf16, which rounds as the GPU does. */
#ifndef FM_EMULATE_CUDA_BF16_H
#define FM_EMULATE_CUDA_BF16_H
#include "tensor/dtype.h"

struct __nv_bfloat16_raw {
    uint16_t x;
};
static inline __nv_bfloat16_raw __float2bfloat16_rn(float f) {
    __nv_bfloat16_raw raw;
    raw.x = fm_f32_to_bf16(f).bits;
    return raw;
}
#endif
