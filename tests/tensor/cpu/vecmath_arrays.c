#include "tests/tensor/cpu/vecmath_arrays.h"

#include "tensor/cpu/vecmath.h"

#define LOOP(fn)                                                                                   \
    _Pragma("omp simd") for (int i = 0; i < n; i++) y[i] = fn(x[i]);                               \
    break

void FM_ISA_NAME(vecmath_array)(int f, float *y, const float *x, int n) {
    switch (f) {
    case VECMATH_EXP:
        LOOP(fm_vexp);
    case VECMATH_LOG:
        LOOP(fm_vlog);
    case VECMATH_TANH:
        LOOP(fm_vtanh);
    case VECMATH_SIGMOID:
        LOOP(fm_vsigmoid);
    case VECMATH_ERF:
        LOOP(fm_verf);
    default:
        break;
    }
}
