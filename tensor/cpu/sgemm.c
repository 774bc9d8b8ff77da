#include "tensor/cpu/sgemm.h"

#include <cblas.h>
#include <dnnl.h>
#include <stdio.h>
#include <string.h>

/* oneDNN knows the processor by its instructions, and can be held to fewer (DNNL_MAX_CPU_ISA). */
static bool has(unsigned set) { return ((unsigned)dnnl_get_effective_cpu_isa() & set) == set; }

static bool use_dnnl(void) {
#if defined(__x86_64__)
    if (has(dnnl_cpu_isa_avx512_core)) return true;
    /* OpenBLAS goes by the processor's model. For one that it does not know, or where somebody
     * forced another, its kernels may be slow or instructions that are missing: these two are
     * what it has for AVX2. */
    const char *core = openblas_get_corename();
    return has(dnnl_cpu_isa_avx2) && strcmp(core, "Haswell") != 0 && strcmp(core, "Zen") != 0;
#else
    return false; /* oneDNN has only a plain loop there */
#endif
}

/* k == 0: the sum over nothing. The libraries' own treatment of it differs. */
static void empty_sum(int64_t m, int64_t n, bool accumulate, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m && !accumulate; i++)
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] = 0.0f;
}

bool fm_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
              int64_t lda, const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc) {
    if (m == 0 || n == 0) return true;
    if (k == 0) {
        empty_sum(m, n, accumulate, c, ldc);
        return true;
    }
    float beta = accumulate ? 1.0f : 0.0f;
    if (use_dnnl())
        return dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb,
                          beta, c, ldc) == dnnl_success;
    if (m > INT32_MAX || n > INT32_MAX || k > INT32_MAX || lda > INT32_MAX || ldb > INT32_MAX ||
        ldc > INT32_MAX)
        return false;
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a, (int)lda, b,
                (int)ldb, beta, c, (int)ldc);
    return true;
}

const char *fm_sgemm_library(void) {
    static char text[96];
    if (use_dnnl()) {
        const dnnl_version_t *v = dnnl_version();
        snprintf(text, sizeof text, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    } else {
        snprintf(text, sizeof text, "%s (%s)", openblas_get_config(), openblas_get_corename());
    }
    return text;
}
