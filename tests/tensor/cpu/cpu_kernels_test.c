/* What the harness that compares with a reference does not look at: that kernels give the same bits
 * on 1, 2 and 3 threads, the same numbers to rounding on every instruction set, take sizes of 0 and
 * 1, and hand a NaN on; that moe_sort is the stable sort, and dropout's mask the counted one. */
#include "tensor/cpu/cpu.h"
#include "tests/tensor/cpu/cases.h"
#include "tests/tensor/cpu/kernel_calls.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

static const struct size {
    int64_t T, d;
} sizes[] = {
    {0, 7}, {3, 0}, {1, 1}, {5, 7}, {67, 129}, {300, 257}, {1001, 33}, {2, 16500},
};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static const char *dt_name(fm_dtype dt) { return dt == FM_BF16 ? "bf16" : "fp32"; }

/* The outputs of one call; NULL after an error. The caller frees them. */
static double *outputs(cases *c, const char *isa, int threads, const kernel_call *k, call shape,
                       int64_t *n) {
    fm_error error = {0};
    fm_device *dev;
    if (fm_cpu_open_isa(isa, &error, &dev) != FM_OK) {
        case_fail(c, "%s does not open: %s", isa, error.message);
        return NULL;
    }
    omp_set_num_threads(threads);
    shape.dev = dev;
    fm_status s = k->run(&shape);
    double *y = NULL;
    if (s != FM_OK)
        case_fail(c, "%s, %d threads: status %d: %s", isa, threads, (int)s, error.message);
    else
        y = call_outputs(&shape, n);
    call_free(&shape);
    fm_cpu_close(dev);
    return y;
}

static bool same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

/* Sums of d numbers differ by their order: some units in the last place, more where they cancel. */
static bool close_to(double a, double b, fm_dtype dt) {
    double tolerance = dt == FM_BF16 ? 1.0 / 64 : 1e-4;
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return fabs(a - b) <= tolerance * fmax(1.0, fabs(b));
}

static void check_equal(cases *c, const kernel_call *k, call shape, const char **isas, int n_isas) {
    double *first = NULL;
    int64_t n0 = 0;
    for (int v = 0; v < n_isas; v++) {
        double *one = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            int64_t n = 0;
            double *y = outputs(c, isas[v], threads, k, shape, &n);
            if (!y) break;
            for (int64_t i = 0; one && i < n; i++)
                if (!same_bits(y[i], one[i])) {
                    case_fail(c, "%s: output %lld is %.9g on 1 thread, %.9g on %d", isas[v],
                              (long long)i, one[i], y[i], threads);
                    break;
                }
            for (int64_t i = 0; first && threads == 1 && i < n; i++)
                if (!close_to(y[i], first[i], shape.dt)) {
                    case_fail(c, "output %lld is %.9g on %s, %.9g on %s", (long long)i, first[i],
                              isas[0], y[i], isas[v]);
                    break;
                }
            if (one)
                free(y);
            else
                one = y, n0 = n;
        }
        for (int64_t i = 0; one && v == 0 && i < n0; i++)
            if (isnan(one[i])) {
                case_fail(c, "%s: output %lld is NaN", isas[v], (long long)i);
                break;
            }
        if (v == 0)
            first = one;
        else
            free(one);
    }
    free(first);
}

/* Each float input in turn has a NaN as its first element. */
static void check_nan(cases *c, const kernel_call *k, call shape, const char *isa) {
    fm_error error = {0};
    if (fm_cpu_open_isa(isa, &error, &shape.dev) != FM_OK) {
        case_fail(c, "%s does not open: %s", isa, error.message);
        return;
    }
    for (int input = 0; k->nan_reach[input]; input++) {
        call one = shape;
        one.poison = input;
        fm_status s = k->run(&one);
        int reached = call_nan_outputs(&one), expected = k->nan_reach[input] - '0';
        if (s != FM_OK || reached != expected)
            case_fail(c, "%s: status %d; a NaN in input %d reaches %d outputs, not %d", isa, (int)s,
                      input, reached, expected);
        if (one.n_inputs != (int)strlen(k->nan_reach))
            case_fail(c, "%d inputs, but '%s' stands for %d", one.n_inputs, k->nan_reach,
                      (int)strlen(k->nan_reach));
        call_free(&one);
    }
    fm_cpu_close(shape.dev);
}

/* Brute force: expert by expert, the choices in order. */
static void check_sort(cases *c, fm_device *dev, int64_t T, int64_t k, int64_t E) {
    int64_t n = T * k;
    size_t bytes = (size_t)(n + E + 1) * sizeof(int32_t);
    int32_t *idx = malloc(bytes), *slot = malloc(bytes), *source = malloc(bytes);
    int32_t *counts = malloc(bytes), *offsets = malloc(bytes);
    if (!idx || !slot || !source || !counts || !offsets) abort();
    fm_rng_key key = {.key = 11};
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = fm_rng_bits(&key, (uint64_t)i);
        /* Skewed, some dropped, and the last expert without a choice. */
        uint32_t e = (bits >> 8) % (uint32_t)E, f = (bits >> 20) % (uint32_t)E;
        idx[i] = bits % 7 == 0 || E == 1 ? -1 : (int32_t)(e < f ? e : f);
        if (idx[i] == E - 1) idx[i] = 0;
    }
    if (dev->ops->moe_sort(dev, counts, offsets, slot, source, idx, T, k, E) != FM_OK)
        case_fail(c, "moe_sort: %s", dev->error->message);
    int32_t row = 0;
    for (int32_t e = 0; e < E; e++) {
        if (offsets[e] != row) case_fail(c, "offsets[%d] is %d, not %d", e, offsets[e], row);
        for (int64_t i = 0; i < n; i++) {
            if (idx[i] != e) continue;
            if (slot[i] != row || source[row] != i)
                case_fail(c, "choice %lld of expert %d: slot %d, not %d; source[%d] is %d",
                          (long long)i, e, slot[i], row, row, source[row]);
            row++;
        }
        if (counts[e] != row - offsets[e])
            case_fail(c, "counts[%d] is %d, not %d", e, counts[e], row - offsets[e]);
    }
    if (offsets[E] != row) case_fail(c, "offsets[E] is %d, not %d", offsets[E], row);
    for (int64_t i = 0; i < n; i++) {
        if (idx[i] < 0 && slot[i] != -1)
            case_fail(c, "dropped choice %lld has slot %d", (long long)i, slot[i]);
        if (i >= row && source[i] != -1)
            case_fail(c, "source[%lld] is %d behind the last row", (long long)i, source[i]);
    }
    free(idx), free(slot), free(source), free(counts), free(offsets);
}

static void check_dropout(cases *c, fm_device *dev, int64_t rows, int64_t cols, fm_rng_key key) {
    int64_t n = rows * cols;
    float *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y), p = 0.25f;
    if (!x || !y) abort();
    for (int64_t i = 0; i < n; i++) x[i] = 1.0f + (float)(i % 100);
    if (dev->ops->dropout(dev, FM_F32, y, x, rows, cols, p, &key, false) != FM_OK)
        case_fail(c, "dropout: %s", dev->error->message);
    for (int64_t i = 0; i < n; i++) {
        uint64_t global = (uint64_t)(fm_rng_row(&key, i / cols) * cols + i % cols);
        bool kept = fm_rng_uniform(fm_rng_bits(&key, global)) >= p;
        float want = kept ? x[i] * (1.0f / (1.0f - p)) : 0.0f;
        if (y[i] != want)
            case_fail(c, "row %lld, column %lld: %g, not %g", (long long)(i / cols),
                      (long long)(i % cols), (double)y[i], (double)want);
    }
    free(x), free(y);
}

static void check_top_k_nan(cases *c, fm_device *dev) {
    float x[3][5] = {{1, 2, 3, 4, 5}, {9, 8, 7, 6, NAN}, {NAN, 1, 1, 1, 1}}, values[3][2];
    int32_t indices[3][2];
    fm_status s = dev->ops->top_k(dev, *values, *indices, *x, 3, 5, 2);
    if (s != FM_ERR_NAN || !strstr(dev->error->message, "row 1, column 4"))
        case_fail(c, "status %d, message '%s'", (int)s, dev->error->message);
}

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    const char *isas[FM_CPU_MAX_ISAS];
    int n_isas = fm_cpu_isas(isas);
    for (int i = 0; i < kernel_calls_count; i++) {
        const kernel_call *k = &kernel_calls[i];
        for (int dt = 0; dt <= (k->has_dt ? 1 : 0); dt++) {
            call shape = {.dt = dt ? FM_BF16 : FM_F32, .T = 9, .d = 21, .poison = -1};
            for (int s = 0; s < N_SIZES; s++) {
                for (int add = 0; add <= 1; add++) {
                    shape.T = sizes[s].T, shape.d = sizes[s].d, shape.accumulate = add;
                    if (!case_begin(&c, "%s %s T=%lld d=%lld accumulate=%d", k->name,
                                    dt_name(shape.dt), (long long)shape.T, (long long)shape.d, add))
                        continue;
                    check_equal(&c, k, shape, isas, n_isas);
                    case_end(&c);
                }
            }
            shape.T = 9, shape.d = 21, shape.accumulate = false;
            if (*k->nan_reach && case_begin(&c, "%s %s NaN", k->name, dt_name(shape.dt))) {
                for (int v = 0; v < n_isas; v++) check_nan(&c, k, shape, isas[v]);
                case_end(&c);
            }
        }
    }
    for (int v = 0; v < n_isas; v++) {
        static const int64_t sort[][3] = {{0, 2, 4}, {1, 1, 1}, {13, 2, 5}, {30000, 2, 64}};
        for (size_t i = 0; i < sizeof sort / sizeof *sort; i++) {
            if (!case_begin(&c, "moe_sort order %s T=%d", isas[v], (int)sort[i][0])) continue;
            fm_error error = {0};
            fm_device *dev;
            if (fm_cpu_open_isa(isas[v], &error, &dev) != FM_OK) abort();
            check_sort(&c, dev, sort[i][0], sort[i][1], sort[i][2]);
            fm_cpu_close(dev);
            case_end(&c);
        }
        static const fm_rng_key keys[] = {
            {.key = 0x123456789abcdefull, .step = 9, .micro = 1},
            {.key = 3, .row_offset = 5, .row_block = 3, .row_stride = 12},
            /* blocks beyond 2^32 */
            {.key = 4, .row_offset = 1ll << 40},
        };
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            if (!case_begin(&c, "dropout mask %s key=%d", isas[v], (int)i)) continue;
            fm_error error = {0};
            fm_device *dev;
            if (fm_cpu_open_isa(isas[v], &error, &dev) != FM_OK) abort();
            check_dropout(&c, dev, 101, 517, keys[i]);
            check_dropout(&c, dev, 7, 3, keys[i]);
            fm_cpu_close(dev);
            case_end(&c);
        }
        if (case_begin(&c, "top_k NaN %s", isas[v])) {
            fm_error error = {0};
            fm_device *dev;
            if (fm_cpu_open_isa(isas[v], &error, &dev) != FM_OK) abort();
            check_top_k_nan(&c, dev);
            fm_cpu_close(dev);
            case_end(&c);
        }
    }
    return cases_end(&c);
}
