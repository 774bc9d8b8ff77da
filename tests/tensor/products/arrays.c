#include "tests/tensor/products/arrays.h"

#include "tensor/rng.h"

#include <math.h>
#include <stdlib.h>

enum { GUARD = 256, GUARD_BYTE = 0xa5 };

static size_t bytes_of(const array *a) { return (size_t)a->n * (a->dt == FM_BF16 ? 2 : 4); }

array array_new(fm_dtype dt, int64_t n, uint64_t seed) {
    array a = {.dt = dt, .n = n};
    size_t whole = (bytes_of(&a) + 2 * GUARD + 63) / 64 * 64;
    a.memory = aligned_alloc(64, whole);
    a.values = malloc((size_t)(n + 1) * sizeof *a.values);
    if (!a.memory || !a.values) abort();
    memset(a.memory, GUARD_BYTE, whole);
    a.data = a.memory + GUARD;
    fm_rng_key key = {.key = fm_mix64(seed)};
    for (int64_t i = 0; i < n; i++) {
        float x = 2 * fm_rng_uniform(fm_rng_bits(&key, (uint64_t)i)) - 1;
        a.values[i] = dt == FM_BF16 ? fm_bf16_to_f32(fm_f32_to_bf16(x)) : x;
    }
    array_reset(&a);
    return a;
}

void array_free(array *a) {
    free(a->memory);
    free(a->values);
}

void array_reset(array *a) {
    for (int64_t i = 0; i < a->n; i++) {
        if (a->dt == FM_BF16)
            ((fm_bf16 *)a->data)[i] = fm_f32_to_bf16((float)a->values[i]);
        else
            ((float *)a->data)[i] = (float)a->values[i];
    }
}

double array_get(const array *a, int64_t i) {
    return a->dt == FM_BF16 ? fm_bf16_to_f32(((const fm_bf16 *)a->data)[i])
                            : ((const float *)a->data)[i];
}

void array_check(cases *c, const char *who, const char *name, const array *a) {
    double tolerance = a->dt == FM_BF16 ? 1e-2 : 2e-5, rms = 0;
    for (int64_t i = 0; i < a->n; i++) rms += a->values[i] * a->values[i];
    rms = a->n > 0 ? sqrt(rms / (double)a->n) : 0;
    for (int64_t i = 0; i < a->n; i++) {
        double got = array_get(a, i), want = a->values[i];
        if (!(fabs(got - want) <= tolerance * (fabs(want) + rms))) {
            case_fail(c, "%s: %s[%lld] is %.9g, not %.9g", who, name, (long long)i, got, want);
            break;
        }
    }
    const char *guards[2] = {a->memory, (const char *)a->data + bytes_of(a)};
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < GUARD; i++)
            if ((unsigned char)guards[side][i] != GUARD_BYTE) {
                case_fail(c, "%s: wrote %s %s", who, side ? "behind" : "before", name);
                break;
            }
}
