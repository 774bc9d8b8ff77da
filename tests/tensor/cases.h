/* The operations' tests, by family; each list ends with NULL. */
#ifndef FM_TESTS_TENSOR_CASES_H
#define FM_TESTS_TENSOR_CASES_H
#include "tests/tensor/harness.h"

extern const op_test *const cases_elementwise[];
extern const op_test *const cases_shape[];
extern const op_test *const cases_products[];
extern const op_test *const cases_norm[];
extern const op_test *const cases_attention[];
extern const op_test *const cases_loss[];
extern const op_test *const cases_moe[];

#endif
