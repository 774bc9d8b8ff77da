/* A case's slots on every instruction set and on 1, 2 and 3 threads. */
#ifndef FM_TESTS_TENSOR_PRODUCTS_EACH_ISA_H
#define FM_TESTS_TENSOR_PRODUCTS_EACH_ISA_H
#include "tensor/cpu/cpu.h"
#include "tests/tensor/products/arrays.h"

enum { MAX_OUTPUTS = 4 };

typedef struct product_case {
    /* Calls the slots, from the inputs in `arguments` to the outputs. */
    fm_status (*run)(fm_device *dev, void *arguments);
    void *arguments;
    array *outputs[MAX_OUTPUTS];       /* NULL behind the last; `values` are what is wanted */
    const double *before[MAX_OUTPUTS]; /* what an output holds before; NULL: NaN */
    const char *names[MAX_OUTPUTS];
} product_case;

/* Every output near its values, the same bits on any number of threads, and twice on one device. */
void run_on_each_isa(cases *c, const product_case *p);

#endif
