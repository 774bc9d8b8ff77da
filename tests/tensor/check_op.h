/* What is checked of one case; see harness.h. */
#ifndef FM_TESTS_TENSOR_CHECK_OP_H
#define FM_TESTS_TENSOR_CHECK_OP_H
#include "tests/tensor/harness.h"

void op_check(test *t, op_run *r);
/* Evaluates the reference at the inputs as they are now. */
void op_reference(op_run *r);

#endif
