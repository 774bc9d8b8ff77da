/* The error of exp, log, tanh, sigmoid and erf against libm in double, for every instruction set of
 * this processor, over every 331st of all floats, and at the special values. */
#include "tensor/cpu/cpu.h"
#include "tests/tensor/cpu/cases.h"
#include "tests/tensor/cpu/vecmath_arrays.h"

#include <math.h>
#include <stdint.h>

enum { BLOCK = 4096, STRIDE = 331 };

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static const struct function {
    const char *name;
    double (*exact)(double);
    double ulp;   /* the bound that vecmath.h states */
    bool flushes; /* results below 2^-126 may be 0 */
} functions[VECMATH_COUNT] = {
    [VECMATH_EXP] = {"exp", exp, 1.0, false},
    [VECMATH_LOG] = {"log", log, 0.8, false},
    [VECMATH_TANH] = {"tanh", tanh, 1.3, false},
    [VECMATH_SIGMOID] = {"sigmoid", sigmoid, 2.2, true},
    [VECMATH_ERF] = {"erf", erf, 1.3, false},
};

static const struct variant {
    const char *isa;
    vecmath_array_fn *array;
} variants[] = {
#if defined(__x86_64__)
    {"v2", vecmath_array_v2},
    {"v3", vecmath_array_v3},
    {"v4", vecmath_array_v4},
#else
    {"generic", vecmath_array_generic},
#endif
};

/* Distance of y from the exact value, in units of the last place of a float there. */
static double ulp_error(float y, double exact, bool flushes) {
    if (isnan(exact)) return isnan(y) ? 0 : INFINITY;
    float rounded = (float)exact;
    if (y == rounded) return 0;
    if (flushes && fabs(exact) < 0x1p-126 && y == 0.0f) return 0;
    if (isinf(rounded) || isinf(y) || isnan(y)) {
        /* One step from the largest float to inf is an error of one place, no more. */
        double largest = 0x1.fffffep127;
        return !isnan(y) && fabs(exact) > 0.9999999 * largest && fabs((double)y) >= largest &&
                       signbit(y) == signbit(rounded)
                   ? 1
                   : INFINITY;
    }
    int e;
    frexp(exact, &e);
    return fabs((double)y - exact) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void check(cases *c, int f, const struct variant *v, const float *x, int n, double *worst,
                  float *where) {
    static float y[BLOCK];
    v->array(f, y, x, n);
    for (int i = 0; i < n; i++) {
        double e = ulp_error(y[i], functions[f].exact((double)x[i]), functions[f].flushes);
        if (e > *worst) *worst = e, *where = x[i];
        if (!(e <= functions[f].ulp))
            case_fail(c, "%s(%a) = %a, exactly %a: %.3f ulp, allowed %.3f", functions[f].name,
                      (double)x[i], (double)y[i], functions[f].exact((double)x[i]), e,
                      functions[f].ulp);
    }
}

static void run(cases *c, int f, const struct variant *v) {
    static const float special[] = {
        0.0f,
        -0.0f,
        1.0f,
        -1.0f,
        0x1p-149f,
        -0x1p-149f,
        0x1p-126f,
        0x1.fffffep127f,
        -0x1.fffffep127f,
        INFINITY,
        -INFINITY,
        NAN,
        -NAN,
        88.7228f,
        88.7229f,
        89.0f,
        -87.3365f,
        -103.27f,
        -103.98f,
        -104.5f,
        0.625f,
        0.92f,
        4.0f,
        9.1f,
        1e-20f,
        0x1.fffffep-1f,
    };
    double worst = 0;
    float where = 0;
    check(c, f, v, special, sizeof special / sizeof *special, &worst, &where);
    /* A signalling and a loaded NaN. */
    float nans[] = {float_of(0x7f800001u), float_of(0xffffffffu)};
    check(c, f, v, nans, 2, &worst, &where);
    static float x[BLOCK];
    for (uint64_t bits = 0; bits < 1ull << 32;) {
        int n = 0;
        for (; n < BLOCK && bits < 1ull << 32; n++, bits += STRIDE) x[n] = float_of((uint32_t)bits);
        check(c, f, v, x, n, &worst, &where);
    }
    printf("%-8s %s: largest error %.3f ulp at %a\n", functions[f].name, v->isa, worst,
           (double)where);
}

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    const char *isas[FM_CPU_MAX_ISAS];
    int n_isas = fm_cpu_isas(isas);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        bool runs = false;
        for (int j = 0; j < n_isas; j++) runs |= strcmp(isas[j], variants[i].isa) == 0;
        for (int f = 0; f < VECMATH_COUNT; f++) {
            if (!case_begin(&c, "%s(%s)", functions[f].name, variants[i].isa)) continue;
            if (!runs) {
                case_skip(&c, "this processor does not run it");
                continue;
            }
            run(&c, f, &variants[i]);
            case_end(&c);
        }
    }
    return cases_end(&c);
}
