/* How fast this device multiplies matrices: what a run's speed is compared with. */
#include "pyembed/options.h"

#include "tensor/ops.h"
#include "tensor/seconds.h"

#include <math.h>

/* Large enough that the product is not bound by memory, small enough to be over at once. */
enum { SIZE_ON_HOST = 1024, SIZE_ON_GPU = 8192 };
static const double seconds_to_measure = 0.25;

/* FLOP/s of the fastest of some products. The first one makes the library's kernels. */
static fm_status measure(fm_ctx *ctx, fm_dtype dtype, double *flops) {
    int64_t n = ctx->dev->on_host ? SIZE_ON_HOST : SIZE_ON_GPU;
    fm_tensor *a = NULL, *b = NULL, *c = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &a, dtype, 2, (int64_t[]){n, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &b, dtype, 2, (int64_t[]){n, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &c, dtype, 2, (int64_t[]){n, n}));
    fm_gemm_args g = {.dt = dtype,
                      .c_dt = dtype,
                      .trans_b = true,
                      .m = n,
                      .n = n,
                      .k = n,
                      .batch = 1,
                      .a = a->data,
                      .b = b->data,
                      .c = c->data,
                      .lda = n,
                      .ldb = n,
                      .ldc = n};
    double best = INFINITY, start = fm_seconds();
    for (int i = 0; i < 2 || fm_seconds() - start < seconds_to_measure; i++) {
        double t = fm_seconds();
        FM_TRY_GOTO(FM_KERNEL(ctx, gemm, &g));
        FM_TRY_GOTO(ctx->dev->ops->sync(ctx->dev));
        t = fm_seconds() - t;
        if (i > 0 && t < best) best = t;
    }
    *flops = 2.0 * (double)n * (double)n * (double)n / best;
out:
    fm_tensor_free(a);
    fm_tensor_free(b);
    fm_tensor_free(c);
    return status;
}

static const fm_option rows[] = {
    {"dtype", 0, FM_OPT_CHOICE, 0, 0, 0, "float32|bfloat16", "'float32'", "of the matrices", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {
    "measure_peak", rows, 1,
    "FLOP/s of the fastest of some large matrix products on the device; takes 0.3 s."};

static PyObject *measure_peak(PyObject *module, PyObject *const *args, Py_ssize_t n,
                              PyObject *names) {
    (void)module;
    int dtype;
    double flops = 0;
    fm_call c;
    if (!fm_options_parse_fast(&options, args, n, names, &dtype) || !fm_call_begin(&c)) return NULL;
    size_t peak = fm_alloc_get_stats(c.ctx->alloc).peak_in_use;
    fm_status s = measure(c.ctx, (fm_dtype)dtype, &flops);
    /* The matrices are not the run's memory: where they made the peak, it is forgotten. */
    if (fm_alloc_get_stats(c.ctx->alloc).peak_in_use > peak) fm_alloc_reset_peak(c.ctx->alloc);
    return fm_call_end(&c, s) ? PyFloat_FromDouble(flops) : NULL;
}

static const fm_function functions[] = {{&options, measure_peak}, {NULL, NULL}};

int fm_add_peak(PyObject *module) { return fm_add_functions(module, functions); }
