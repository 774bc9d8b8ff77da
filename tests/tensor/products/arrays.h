/* Arrays between guard words, filled with counted random numbers; each has its values in double. */
#ifndef FM_TESTS_TENSOR_PRODUCTS_ARRAYS_H
#define FM_TESTS_TENSOR_PRODUCTS_ARRAYS_H
#include "tensor/dtype.h"
#include "tests/tensor/cpu/cases.h"

typedef struct array {
    fm_dtype dt;
    int64_t n;
    void *data;     /* 64-byte aligned, guards around it */
    double *values; /* what it was filled with, rounded to dt; for an output: what is wanted */
    char *memory;
} array;

/* n numbers in [-1, 1), the same for the same seed. */
array array_new(fm_dtype dt, int64_t n, uint64_t seed);
void array_free(array *a);
/* data holds its values again. */
void array_reset(array *a);
double array_get(const array *a, int64_t i);

/* Fails the case where data is not near the values, as far as fp32 sums of the dtype's numbers
 * allow, or a guard is broken. */
void array_check(cases *c, const char *who, const char *name, const array *a);

#endif
