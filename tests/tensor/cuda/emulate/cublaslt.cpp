/* cuBLASLt by its manual, column-major and slow: D = epilogue(alpha op(A) op(B) + beta C).
 *
 * Stricter than it has to be where that finds mistakes: it refuses descriptors whose shapes do not
 * fit and pointers less aligned than was promised, and offers no epilogue for a D with an odd
 * number of rows, so that the way without is walked too.
 */
#include "tensor/dtype.h"

#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

static double get(cudaDataType_t type, const void *p, int64_t i) {
    if (type == CUDA_R_16BF) return (double)fm_bf16_to_f32(static_cast<const fm_bf16 *>(p)[i]);
    return (double)static_cast<const float *>(p)[i];
}

static void put(cudaDataType_t type, void *p, int64_t i, double v) {
    if (type == CUDA_R_16BF)
        static_cast<fm_bf16 *>(p)[i] = fm_f32_to_bf16((float)v);
    else
        static_cast<float *>(p)[i] = (float)v;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lt) {
    *lt = reinterpret_cast<cublasLtHandle_t>(malloc(1));
    return *lt ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t lt) {
    free(lt);
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusName(cublasStatus_t s) {
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown";
}
const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }

/* Copies an attribute of exactly the field's size. */
#define TAKE(field)                                                                                \
    do {                                                                                           \
        if (bytes != sizeof(field)) return CUBLAS_STATUS_INVALID_VALUE;                            \
        memcpy(&(field), value, bytes);                                                            \
        return CUBLAS_STATUS_SUCCESS;                                                              \
    } while (0)

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t d, cublasComputeType_t compute,
                                      cudaDataType_t scale) {
    memset(d, 0, sizeof *d);
    d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        TAKE(d->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        TAKE(d->trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        TAKE(d->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        TAKE(d->bias);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        TAKE(d->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        TAKE(d->aux_ld);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t m, cudaDataType_t type,
                                        uint64_t rows, uint64_t cols, int64_t ld) {
    *m = cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld, 0, 1};
    return rows > 0 && cols > 0 && ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS
                                                       : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t m,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        TAKE(m->batch);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        TAKE(m->stride);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t p) {
    *p = cublasLtMatmulPreferenceOpaque_t{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) TAKE(p->workspace);
    TAKE(p->align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES]);
}

static bool fits(cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                 cublasLtMatrixLayout_t c) {
    uint64_t m = d->trans_a ? a->cols : a->rows, k = d->trans_a ? a->rows : a->cols;
    uint64_t k_b = d->trans_b ? b->cols : b->rows, n = d->trans_b ? b->rows : b->cols;
    bool aux = d->epilogue & 128;
    return k == k_b && c->rows == m && c->cols == n && a->batch == b->batch &&
           a->batch == c->batch && a->type == b->type && (!aux || (d->aux && d->aux_ld % 8 == 0)) &&
           (!(d->epilogue & 4) || d->bias);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out,
                                              cublasLtMatmulPreference_t p, int requested,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *count) {
    *count = 0;
    if (!lt || requested < 1 || c != out || !fits(d, a, b, c)) return CUBLAS_STATUS_INVALID_VALUE;
    if (d->epilogue != CUBLASLT_EPILOGUE_DEFAULT && c->rows % 2 != 0) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memcpy(results->algo.align, p->align, sizeof p->align);
    results->state = CUBLAS_STATUS_SUCCESS;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static bool is_aligned(const void *p, uint32_t bytes) { return (uintptr_t)p % bytes == 0; }

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *out, cublasLtMatrixLayout_t lout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t s) {
    if (!lt || !s || (bytes > 0 && !workspace) || !fits(d, la, lb, lc) || c != out || lc != lout ||
        !is_aligned(a, algo->align[0]) || !is_aligned(b, algo->align[1]) ||
        !is_aligned(c, algo->align[2]) || !is_aligned(out, algo->align[3])) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    float scale = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    int64_t m = (int64_t)lc->rows, n = (int64_t)lc->cols;
    int64_t k = (int64_t)(d->trans_a ? la->rows : la->cols);
    for (int64_t e = 0; e < lc->batch; e++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++) {
                double sum = 0;
                for (int64_t l = 0; l < k; l++) {
                    int64_t at = d->trans_a ? i * la->ld + l : l * la->ld + i;
                    int64_t bt = d->trans_b ? l * lb->ld + j : j * lb->ld + l;
                    sum += get(la->type, a, e * la->stride + at) *
                           get(lb->type, b, e * lb->stride + bt);
                }
                int64_t ct = e * lc->stride + j * lc->ld + i;
                double v = scale * sum;
                if (keep != 0) v += keep * get(lc->type, c, ct);
                if (d->epilogue & 4) v += get(lc->type, d->bias, i);
                if (d->epilogue & 128) put(lc->type, d->aux, j * d->aux_ld + i, v);
                if (d->epilogue & 32) {
                    v = 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
                }
                put(lc->type, out, ct, v);
            }
    return CUBLAS_STATUS_SUCCESS;
}
