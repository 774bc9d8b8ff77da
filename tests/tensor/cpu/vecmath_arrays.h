/* The functions of tensor/cpu/vecmath.h over arrays, compiled for each instruction set. */
#ifndef FM_TESTS_TENSOR_CPU_VECMATH_ARRAYS_H
#define FM_TESTS_TENSOR_CPU_VECMATH_ARRAYS_H

enum { VECMATH_EXP, VECMATH_LOG, VECMATH_TANH, VECMATH_SIGMOID, VECMATH_ERF, VECMATH_COUNT };

/* y[i] = f(x[i]), i < n */
typedef void vecmath_array_fn(int f, float *y, const float *x, int n);
vecmath_array_fn vecmath_array_v2, vecmath_array_v3, vecmath_array_v4, vecmath_array_generic;

#endif
