/* How fast this device multiplies matrices: what a run's speed is compared with. */
#include "pyembed/host.h"
#include "pyembed/options.h"

#include "tensor/ops.h"
#include "tensor/seconds.h"

#include <math.h>

/* A product y [T, out] = x [T, in] wᵀ that is not bound by memory. On the host it is one tile a
 * thread and over in half a millisecond, so that some of hundreds fall between what else the machine
 * does: on a busy one, products eight times as large were seen at half the rate. */
enum { ROWS_OF_THREAD = 256, SIZE_ON_HOST = 512, SIZE_ON_GPU = 8192 };
static const double seconds_to_measure = 0.25;

/* The products that training is made of: y = x wᵀ, dx = dy w, dw = dyᵀ x. */
enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, N_PRODUCTS };

static fm_status multiply(fm_ctx *ctx, int product, const fm_linear_args *a, void *dx, float *dw) {
    switch (product) {
    case FORWARD:
        FM_TRY(FM_KERNEL(ctx, linear_forward, a));
        break;
    case BACKWARD_INPUT:
        FM_TRY(FM_KERNEL(ctx, linear_backward_input, a, dx, a->y, false));
        break;
    default:
        FM_TRY(FM_KERNEL(ctx, linear_backward_weight, a, dw, false, NULL, false, a->y));
    }
    return ctx->dev->ops->sync(ctx->dev);
}

/* FLOP/s of the fastest of some products. The first of each kind makes the library's kernels. */
static fm_status measure(fm_ctx *ctx, fm_dtype dtype, double *flops) {
    bool on_host = ctx->dev->on_host;
    int64_t n = on_host ? SIZE_ON_HOST : SIZE_ON_GPU;
    int64_t T = on_host ? (int64_t)ROWS_OF_THREAD * fm_the_host.threads : n;
    fm_tensor *x = NULL, *w = NULL, *y = NULL, *dx = NULL, *dw = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &x, dtype, 2, (int64_t[]){T, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &w, dtype, 2, (int64_t[]){n, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &y, dtype, 2, (int64_t[]){T, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &dx, dtype, 2, (int64_t[]){T, n}));
    FM_TRY_GOTO(fm_tensor_zeros(ctx, &dw, FM_F32, 2, (int64_t[]){n, n}));
    fm_linear_args a = {
        .dt = dtype, .T = T, .in = n, .out = n, .E = 1, .x = x->data, .w = w->data, .y = y->data};
    double best = INFINITY, start = fm_seconds();
    for (int i = 0; i < 2 * N_PRODUCTS || fm_seconds() - start < seconds_to_measure; i++) {
        double t = fm_seconds();
        FM_TRY_GOTO(multiply(ctx, i % N_PRODUCTS, &a, dx->data, dw->data));
        t = fm_seconds() - t;
        if (i >= N_PRODUCTS && t < best) best = t;
    }
    *flops = 2.0 * (double)T * (double)n * (double)n / best;
out:
    fm_tensor_free(dw);
    fm_tensor_free(dx);
    fm_tensor_free(y);
    fm_tensor_free(w);
    fm_tensor_free(x);
    return status;
}

static const fm_option rows[] = {
    {"dtype", 0, FM_OPT_CHOICE, 0, 0, 0, "float32|bfloat16", "'float32'", "of the matrices", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {
    "measure_peak", rows, 1,
    "FLOP/s of the fastest of some large products on the device, by the kernels that layers train "
    "with; takes 0.3 s."};

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
