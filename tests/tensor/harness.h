/* Tests of operations. A test is a struct: parameters, inputs, the operation, a plain reference in
 * double, a tolerance. The harness makes cases of it (each dtype, each row of sizes) and checks
 *
 *   forward    outputs against the reference; inputs unchanged; nothing recorded under no_grad
 *   backward   gradients against central differences of the reference, in double
 *   again      a second forward gives the same bits, a second backward doubles the gradients
 *   twice      inputs that are themselves computed, each used twice: gradients double
 *   alone      each input as the only one that wants a gradient
 *   recompute  fm_recompute gives the same bits, outputs and gradients
 *   nan        a NaN in an input reaches exactly the outputs that it reaches in the reference
 *   oom        allocation 0, 1, 2, ... fails: FM_ERR_OOM, nothing leaks, and the next call works
 *
 * All inputs and the gradients of leaves lie between guard words, which are checked at the end.
 */
#ifndef FM_TESTS_TENSOR_HARNESS_H
#define FM_TESTS_TENSOR_HARNESS_H
#include "tensor/ops.h"
#include "tests/tensor/runner.h"

#include <math.h>

enum { OP_MAX_PARAMS = 8, OP_MAX_INPUTS = 6, OP_MAX_OUTPUTS = 4 };

/* What an operation does to its numbers; tolerances.h has what that may cost. */
typedef enum op_class { OP_EXACT, OP_ROUNDS, OP_SUMS, OP_PRODUCTS, OP_CLASSES } op_class;
enum { OP_F32 = 1, OP_BF16 = 2 };

/* In a reference's output: this element is undefined and not compared. */
#define OP_UNDEFINED HUGE_VAL

typedef struct op_array {
    fm_dtype dtype;
    int ndim;
    int64_t shape[FM_MAX_DIMS], n;
    bool grad;       /* differentiable */
    int64_t grad_n;  /* elements behind these have an undefined gradient; default n */
    double *v;       /* input: its values; output: the reference's */
    double *dv;      /* input: the numerical gradient (NaN where not sampled); output: dL/dv */
    double *scratch; /* output: the reference at a shifted input */
} op_array;

typedef struct op_test op_test;
typedef struct op_run {
    const op_test *test;
    fm_dtype dt;
    int64_t p[OP_MAX_PARAMS]; /* the parameters, in the order of their names */
    uint64_t seed, drawn;
    op_array in[OP_MAX_INPUTS], out[OP_MAX_OUTPUTS];
    int n_in, n_out;
} op_run;

struct op_test {
    const char *name;
    const char *params[OP_MAX_PARAMS];
    int dtypes; /* OP_F32 | OP_BF16; 0: both */
    op_class tolerance;
    bool nan_is_error; /* a NaN gives FM_ERR_NAN */
    /* Declares inputs and outputs (op_in_*, op_out). */
    void (*setup)(op_run *r);
    fm_status (*apply)(const op_run *r, fm_ctx *ctx, fm_tensor **in, fm_tensor **out);
    /* in[i] and out[i] are arrays of in[i].n and out[i].n doubles */
    void (*reference)(const op_run *r, double *const *in, double **out);
    int n_sizes;
    const int64_t (*sizes)[OP_MAX_PARAMS];
};

/* Inputs: of normal numbers, times `scale`; not differentiable ones of integers in [low, high). */
op_array *op_in(op_run *r, fm_dtype dt, double scale, int ndim, const int64_t *shape);
op_array *op_in_int(op_run *r, int64_t low, int64_t high, int ndim, const int64_t *shape);
op_array *op_out(op_run *r, fm_dtype dt, int ndim, const int64_t *shape);
#define OP_SHAPE(...)                                                                              \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

double op_uniform(op_run *r); /* in (0, 1) */
double op_normal(op_run *r);
double op_round(fm_dtype dt, double x); /* to what dt can hold */

/* Runs all cases of the tests (a list that ends with NULL) on t->ctx. */
void op_tests_run(test *t, const op_test *const *tests);

#define OP_SIZES(array) .n_sizes = (int)(sizeof(array) / sizeof *(array)), .sizes = (array)

#endif
