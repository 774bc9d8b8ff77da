/* The activations of one number, and their slopes, for every kernel that applies one. */
#ifndef FM_TENSOR_CPU_ACT_H
#define FM_TENSOR_CPU_ACT_H
#include "tensor/backend.h"
#include "tensor/cpu/vecmath.h"

/* act is a constant where a loop is compiled (FM_ACT_CALL). A glu's act is that of its first half:
 * swiglu silu, geglu gelu. NaN in, NaN out: relu compares so that a NaN passes.
 *
 * gelu = x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/π) (x + 0.044715 x³): one exp and no
 * cancellation for negative x. */
FM_INLINE float fm_act_value(fm_act act, float x) {
    switch (act) {
    case FM_ACT_GELU:
    case FM_ACT_GEGLU: {
        float u = 1.5957691216f * x * (1.0f + 0.044715f * x * x);
        return x * fm_vsigmoid(u);
    }
    case FM_ACT_GELU_ERF:
        return 0.5f * x * (1.0f + fm_verf(0.70710678f * x));
    case FM_ACT_RELU:
        return x < 0.0f ? 0.0f : x;
    case FM_ACT_RELU2: {
        float r = x < 0.0f ? 0.0f : x;
        return r * r;
    }
    case FM_ACT_SILU:
    case FM_ACT_SWIGLU:
        return x * fm_vsigmoid(x);
    case FM_ACT_NONE:
    case FM_ACT_COUNT:
        break;
    }
    return x;
}

/* d act(x) / dx; relu's is 0 at 0. */
FM_INLINE float fm_act_slope(fm_act act, float x) {
    switch (act) {
    case FM_ACT_GELU:
    case FM_ACT_GEGLU: {
        float u = 1.5957691216f * x * (1.0f + 0.044715f * x * x);
        float du = 1.5957691216f * (1.0f + 0.134145f * x * x);
        float s = fm_vsigmoid(u);
        return s + x * s * (1.0f - s) * du;
    }
    case FM_ACT_GELU_ERF:
        return 0.5f * (1.0f + fm_verf(0.70710678f * x)) + x * 0.39894228f * fm_vexp(-0.5f * x * x);
    case FM_ACT_RELU:
        return x > 0.0f ? 1.0f : (x <= 0.0f ? 0.0f : x);
    case FM_ACT_RELU2:
        return 2.0f * (x < 0.0f ? 0.0f : x);
    case FM_ACT_SILU:
    case FM_ACT_SWIGLU: {
        float s = fm_vsigmoid(x);
        return s + x * s * (1.0f - s);
    }
    case FM_ACT_NONE:
    case FM_ACT_COUNT:
        break;
    }
    return 1.0f;
}

/* fn(constant act, ...). */
#define FM_ACT_CALL(act, fn, ...)                                                                  \
    do {                                                                                           \
        switch (act) {                                                                             \
        case FM_ACT_GELU:                                                                          \
        case FM_ACT_GEGLU:                                                                         \
            fn(FM_ACT_GELU, __VA_ARGS__);                                                          \
            break;                                                                                 \
        case FM_ACT_GELU_ERF:                                                                      \
            fn(FM_ACT_GELU_ERF, __VA_ARGS__);                                                      \
            break;                                                                                 \
        case FM_ACT_RELU:                                                                          \
            fn(FM_ACT_RELU, __VA_ARGS__);                                                          \
            break;                                                                                 \
        case FM_ACT_RELU2:                                                                         \
            fn(FM_ACT_RELU2, __VA_ARGS__);                                                         \
            break;                                                                                 \
        case FM_ACT_SILU:                                                                          \
        case FM_ACT_SWIGLU:                                                                        \
            fn(FM_ACT_SILU, __VA_ARGS__);                                                          \
            break;                                                                                 \
        case FM_ACT_NONE:                                                                          \
        case FM_ACT_COUNT:                                                                         \
            fn(FM_ACT_NONE, __VA_ARGS__);                                                          \
            break;                                                                                 \
        }                                                                                          \
    } while (0)

#endif
