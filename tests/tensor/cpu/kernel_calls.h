/* Every CPU kernel of this room called on made-up inputs, with its outputs collected: what the
 * comparisons of cpu_kernels_test.c run again and again. */
#ifndef FM_TESTS_TENSOR_CPU_KERNEL_CALLS_H
#define FM_TESTS_TENSOR_CPU_KERNEL_CALLS_H
#include "tensor/backend.h"

enum { CALL_MAX_ARRAYS = 16 };

typedef struct call {
    fm_device *dev;
    fm_dtype dt;
    int64_t T, d;
    bool accumulate; /* for the kernels that can */
    int poison;      /* >= 0: that input's (by order of creation) first element is NaN */
    struct call_array {
        void *data;
        fm_dtype dt;
        int64_t n;
        bool is_output;
    } arrays[CALL_MAX_ARRAYS];
    int n_arrays, n_inputs; /* n_inputs: float inputs so far */
} call;

typedef struct kernel_call {
    const char *name;
    fm_status (*run)(call *c);
    bool has_dt; /* else fp32 alone */
    /* A digit per float input: how many outputs a NaN in its first element reaches. "" where there
     * is nothing to see: fill has no input, top_k refuses a NaN. */
    const char *nan_reach;
} kernel_call;

extern const kernel_call kernel_calls[];
extern const int kernel_calls_count;

/* The outputs after another, widened to double; *n of them. The caller frees the result; NULL: no
 * memory. */
double *call_outputs(const call *c, int64_t *n);
int call_nan_outputs(const call *c); /* how many output arrays have a NaN */
void call_free(call *c);

#endif
