/* exp, log, tanh, sigmoid and erf in plain C that compilers vectorise.
 *
 * gcc 12 vectorises a call of expf only under -ffast-math, which we do not use: it makes NaN
 * invisible. These are branch-free polynomials, inlined into the caller's loop.
 *
 * Largest errors, in units in the last place of the exact result, over all floats and with and
 * without fma (tests/tensor/cpu/vecmath_test.c):
 *
 *   fm_vexp      1.0   exact limits: exp(-inf) = 0, overflow gives inf; denormal results are kept
 *   fm_vlog      0.8   denormal arguments are right; log(0) = -inf, log(x < 0) = NaN
 *   fm_vtanh     1.3
 *   fm_vsigmoid  2.2   results below 2^-126 are flushed to 0
 *   fm_verf      1.3
 *
 * NaN in, NaN out, everywhere. The coefficients are minimax fits (Lawson's reweighted least
 * squares in double, then rounded) of our own; the reductions are those of Cody and Waite 1980.
 */
#ifndef FM_TENSOR_CPU_VECMATH_H
#define FM_TENSOR_CPU_VECMATH_H
#include "tensor/cpu/isa.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

FM_INLINE float fm_float_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

FM_INLINE uint32_t fm_bits_of_float(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* x = n ln 2 + r; e^r = 1 + r + r² P(r); times 2^n in two steps, so that results may be denormal
 * and overflow to inf. Beyond the clamp the result is 0 or inf anyhow; a NaN passes the clamp. */
FM_INLINE float fm_vexp(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves the rounded integer below */
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float t = x * 1.44269504f + magic;
    float n = t - magic;
    uint32_t k = fm_bits_of_float(t) - 0x4b400000u;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 0x1.6a2352p-10f;
    p = p * r + 0x1.123a6cp-7f;
    p = p * r + 0x1.5558f4p-5f;
    p = p * r + 0x1.555490p-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    uint32_t half = (uint32_t)((int32_t)k >> 1);
    float s1 = fm_float_of_bits((half + 127u) << 23);
    float s2 = fm_float_of_bits((k - half + 127u) << 23);
    return p * s1 * s2;
}

/* x = m 2^e with m in [sqrt ½, sqrt 2); log(1 + f) = f - f²/2 + f³ P(f). */
FM_INLINE float fm_vlog(float x) {
    float scaled = x < 0x1p-126f ? x * 0x1p23f : x;
    float bias = x < 0x1p-126f ? -23.0f : 0.0f;
    uint32_t bits = fm_bits_of_float(scaled);
    int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    float f = fm_float_of_bits(bits - ((uint32_t)e << 23)) - 1.0f;
    float n = (float)e + bias;
    float p = 0x1.1457a8p-4f;
    p = p * f + -0x1.de3c16p-4f;
    p = p * f + 0x1.e6f06ap-4f;
    p = p * f + -0x1.fc2208p-4f;
    p = p * f + 0x1.233768p-3f;
    p = p * f + -0x1.555c4ep-3f;
    p = p * f + 0x1.99a4b6p-3f;
    p = p * f + -0x1.000006p-2f;
    p = p * f + 0x1.555548p-2f;
    float f2 = f * f;
    float low = p * f * f2;
    low = low - n * 2.12194440e-4f;
    low = low - 0.5f * f2;
    float y = n * 0.693359375f + (f + low);
    y = x > 0.0f ? y : (x == 0.0f ? -INFINITY : NAN);
    return x == INFINITY ? x : y;
}

FM_INLINE float fm_vsigmoid(float x) { return 1.0f / (1.0f + fm_vexp(-x)); }

/* Near 0 x + x³ P(x²), where the other form would cancel; else 1 - 2 / (e^2|x| + 1). */
FM_INLINE float fm_vtanh(float x) {
    float a = fabsf(x), z = x * x;
    float p = -0x1.75e1ccp-8f;
    p = p * z + 0x1.52269cp-6f;
    p = p * z + -0x1.b83c5ap-5f;
    p = p * z + 0x1.110726p-3f;
    p = p * z + -0x1.555532p-2f;
    float small = p * z * x + x;
    float large = copysignf(1.0f - 2.0f / (fm_vexp(2.0f * a) + 1.0f), x);
    return a < 0.625f ? small : large;
}

/* Near 0 x + x P(x²); else 1 - e^-Q(|x|), with Q a fit of -log(erfc); 1 from |x| = 4 on. */
FM_INLINE float fm_verf(float x) {
    float a = fabsf(x), z = x * x;
    float p = 0x1.5cd4b2p-14f;
    p = p * z + -0x1.aa3f30p-11f;
    p = p * z + 0x1.54c7f6p-8f;
    p = p * z + -0x1.b80e90p-6f;
    p = p * z + 0x1.ce2e0ap-4f;
    p = p * z + -0x1.812742p-2f;
    p = p * z + 0x1.06eba8p-3f;
    float small = p * x + x;
    float t = a > 4.0f ? 4.0f : a;
    float q = -0x1.9ae902p-13f;
    q = q * t + 0x1.8ee16ep-9f;
    q = q * t + -0x1.6c2a76p-6f;
    q = q * t + 0x1.a9b42ep-4f;
    q = q * t + 0x1.463cc0p-1f;
    q = q * t + 0x1.20af5ap+0f;
    q = q * t + 0x1.9a5c86p-13f;
    float large = copysignf(1.0f - fm_vexp(-q), x);
    return a < 0.92f ? small : large;
}

#endif
