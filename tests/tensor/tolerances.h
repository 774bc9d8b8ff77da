/* How far results may be from the reference: |got - want| <= tolerance * (|want| + rms(want)).
 *
 * The one place where tolerances stand. bf16 has 8 significant bits: one rounding is 2^-9 = 0.002
 * of the value; where gradients pass intermediates kept in bf16, several. */
#ifndef FM_TESTS_TENSOR_TOLERANCES_H
#define FM_TESTS_TENSOR_TOLERANCES_H
#include "tests/tensor/harness.h"

/* [class][bf16] */
static const double tolerances[OP_CLASSES][2] = {
    [OP_EXACT] = {0, 0},         /* copies */
    [OP_ROUNDS] = {2e-6, 4e-3},  /* a few roundings an element */
    [OP_SUMS] = {1e-5, 8e-3},    /* sums over a row, exp and log */
    [OP_PRODUCTS] = {2e-5, 2e-2} /* products of matrices */
};

/* Gradients may besides be off by this: roundings of fp32 numbers of size 1 that cancel (p (1 - p)
 * of a saturated softmax), and the error of the differences. */
static const double gradient_floor = 1e-6;

#endif
