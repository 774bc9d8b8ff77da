/* Element types, and the conversions that both C and the kernels use. */
#ifndef FM_TENSOR_DTYPE_H
#define FM_TENSOR_DTYPE_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* name, number, bytes, text. Numbers cross the plugin boundary: append only. */
#define FM_DTYPE_MAP(X)                                                                            \
    X(FM_F32, 0, 4, "float32")                                                                     \
    X(FM_BF16, 1, 2, "bfloat16")                                                                   \
    X(FM_I32, 2, 4, "int32")                                                                       \
    X(FM_I64, 3, 8, "int64")

typedef enum fm_dtype {
#define FM_DTYPE_ENUM(name, number, bytes, text) name = number,
    FM_DTYPE_MAP(FM_DTYPE_ENUM)
#undef FM_DTYPE_ENUM
} fm_dtype;

/* A bf16 number in memory. C has no such type; kernels widen it to float. */
typedef struct fm_bf16 {
    uint16_t bits;
} fm_bf16;

size_t fm_dtype_size(fm_dtype t);
const char *fm_dtype_name(fm_dtype t);
static inline int fm_dtype_is_float(fm_dtype t) { return t == FM_F32 || t == FM_BF16; }

static inline float fm_bf16_to_f32(fm_bf16 x) {
    uint32_t u = (uint32_t)x.bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline fm_bf16 fm_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40u;
    return (fm_bf16){(uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

#endif
