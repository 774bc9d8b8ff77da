/* gemm by cuBLASLt: fp32 in true fp32 (CUBLAS_COMPUTE_32F never takes TF32), bf16 with fp32 sums.
 *
 * cuBLASLt is column-major. A row-major matrix is its transpose there, so row-major C = A B is
 * column-major Cᵀ = Bᵀ Aᵀ: the operands change places, m and n too, and nothing is copied.
 *
 * The kernel is cuBLASLt's first heuristic choice for shape, strides, types and alignment, asked for
 * once and kept; it depends on nothing measured, so a run and its resumption take the same one.
 *
 * Floor: 2 m n k batch FLOPs at the GPU's rate (790 TFLOP/s bf16 on an H200), or the operands' bytes
 * over the memory's (4.3 TB/s).
 */
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/state.h"

#include <stdlib.h>
#include <string.h>

/* What the choice of a kernel depends on. Compared as bytes: zeroed before it is filled. */
typedef struct plan_key {
    fm_dtype dt, c_dt;
    int trans_a, trans_b, accumulate, bias, gelu, aux;
    int64_t m, n, k, batch, lda, ldb, ldc, batch_a, batch_b, batch_c;
    uint32_t align_a, align_b, align_c, align_bias, align_aux;
} plan_key;

typedef struct plan {
    bool known, supported;
    plan_key key;
    cublasLtMatmulAlgo_t algo;
} plan;

enum { PLANS = 1024 };
/* A shape has one place; another shape of that place takes it over. */
struct fm_gemm_plans {
    plan at[PLANS];
};

fm_status fm_gemm_plans_new(fm_error *err, fm_gemm_plans **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return fm_fail(err, FM_ERR_OOM, "cuda: no memory for the table of products");
    return FM_OK;
}

void fm_gemm_plans_free(fm_gemm_plans *p) { free(p); }

static plan *place_of(fm_gemm_plans *plans, const plan_key *key) {
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ bytes[i]) * 0x100000001b3u;
    return &plans->at[(h ^ (h >> 32)) % PLANS];
}

static cudaDataType_t data_type(fm_dtype dt) { return dt == FM_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* The alignment that cuBLASLt may count on. No access is wider than 16 bytes; to promise more would
 * let two calls of one shape take different kernels by where their arrays happen to lie. */
static uint32_t alignment(const void *p) {
    uintptr_t low = (uintptr_t)p & (~(uintptr_t)p + 1);
    return low == 0 || low > 16 ? 16 : (uint32_t)low;
}

/* Everything cuBLASLt wants to know of one product, in its order: its A is our b. */
typedef struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c;
} product;

static fm_status describe_matrix(fm_device *dev, cublasLtMatrixLayoutOpaque_t *layout, fm_dtype dt,
                                 int64_t rows, int64_t cols, int64_t ld, int64_t batch,
                                 int64_t stride) {
    /* Its columns are our rows. */
    CUBLAS_TRY(dev,
               cublasLtMatrixLayoutInit(layout, data_type(dt), (uint64_t)cols, (uint64_t)rows, ld));
    if (batch == 1) return FM_OK;
    int32_t count = (int32_t)batch;
    CUBLAS_TRY(dev, cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                     &count, sizeof count));
    CUBLAS_TRY(dev,
               cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &stride, sizeof stride));
    return FM_OK;
}

static fm_status describe_epilogue(fm_device *dev, product *p, const void *bias, bool gelu,
                                   void *aux, int64_t ld) {
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (gelu) {
        if (aux) {
            epilogue = bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
        } else {
            epilogue = bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
        }
    } else if (bias) {
        epilogue = CUBLASLT_EPILOGUE_BIAS;
    }
    CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                   &epilogue, sizeof epilogue));
    if (bias) {
        CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                       &bias, sizeof bias));
    }
    if (aux) {
        CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(
                            &p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
        CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(
                            &p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld));
    }
    return FM_OK;
}

static fm_status describe(fm_device *dev, product *p, const fm_gemm_args *g, const void *bias,
                          bool gelu, void *aux) {
    CUBLAS_TRY(dev, cublasLtMatmulDescInit(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasOperation_t first = g->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = g->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                                   sizeof first));
    CUBLAS_TRY(dev, cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                                   sizeof second));
    FM_TRY(describe_matrix(dev, &p->a, g->dt, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n,
                           g->ldb, g->batch, g->batch_b));
    FM_TRY(describe_matrix(dev, &p->b, g->dt, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k,
                           g->lda, g->batch, g->batch_a));
    FM_TRY(describe_matrix(dev, &p->c, g->c_dt, g->m, g->n, g->ldc, g->batch, g->batch_c));
    return describe_epilogue(dev, p, bias, gelu, aux, g->n);
}

static fm_status set_preference(fm_device *dev, cublasLtMatmulPreference_t preference,
                                cublasLtMatmulPreferenceAttributes_t attribute, uint32_t value) {
    CUBLAS_TRY(dev,
               cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    return FM_OK;
}

/* Asks for a kernel; *found says whether there is one. */
static fm_status choose(fm_device *dev, product *p, const plan_key *key, cublasLtMatmulAlgo_t *algo,
                        bool *found) {
    fm_cuda *cuda = dev->impl;
    cublasLtMatmulPreferenceOpaque_t preference;
    CUBLAS_TRY(dev, cublasLtMatmulPreferenceInit(&preference));
    uint64_t bytes = cuda->workspace_bytes;
    CUBLAS_TRY(dev, cublasLtMatmulPreferenceSetAttribute(&preference,
                                                         CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &bytes, sizeof bytes));
    FM_TRY(
        set_preference(dev, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->align_b));
    FM_TRY(
        set_preference(dev, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->align_a));
    FM_TRY(
        set_preference(dev, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->align_c));
    FM_TRY(
        set_preference(dev, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->align_c));
    cublasLtMatmulHeuristicResult_t result;
    int count = 0;
    cublasStatus_t e = cublasLtMatmulAlgoGetHeuristic(cuda->lt, &p->desc, &p->a, &p->b, &p->c,
                                                      &p->c, &preference, 1, &result, &count);
    *found = e == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (*found) *algo = result.algo;
    if (e != CUBLAS_STATUS_SUCCESS && e != CUBLAS_STATUS_NOT_SUPPORTED) {
        CUBLAS_TRY(dev, e);
    }
    return FM_OK;
}

/* An empty sum: C is zero, or stays. */
static fm_status clear(fm_device *dev, const fm_gemm_args *g) {
    fm_cuda *cuda = dev->impl;
    size_t size = fm_dtype_size(g->c_dt);
    for (int64_t i = 0; i < g->batch && !g->accumulate; i++) {
        char *c = (char *)g->c + (size_t)(i * g->batch_c) * size;
        CUDA_TRY(dev, cudaMemset2DAsync(c, (size_t)g->ldc * size, 0, (size_t)g->n * size,
                                        (size_t)g->m, cuda->stream));
    }
    return FM_OK;
}

fm_status fm_cuda_gemm_epilogue(fm_device *dev, const fm_gemm_args *g, const void *bias, bool gelu,
                                void *aux, bool *done) {
    fm_cuda *cuda;
    *done = true;
    if (g->m == 0 || g->n == 0 || g->batch == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    if (g->k == 0) {
        *done = !bias && !gelu;
        return *done ? clear(dev, g) : FM_OK;
    }
    if (g->batch > INT32_MAX) {
        return fm_fail(dev->error, FM_ERR_UNSUPPORTED, "gemm: batch is %lld, allowed is up to %d",
                       (long long)g->batch, INT32_MAX);
    }
    plan_key key;
    memset(&key, 0, sizeof key);
    key.dt = g->dt, key.c_dt = g->c_dt;
    key.trans_a = g->trans_a, key.trans_b = g->trans_b, key.accumulate = g->accumulate;
    key.bias = bias != NULL, key.gelu = gelu, key.aux = aux != NULL;
    key.m = g->m, key.n = g->n, key.k = g->k, key.batch = g->batch;
    key.lda = g->lda, key.ldb = g->ldb, key.ldc = g->ldc;
    key.batch_a = g->batch_a, key.batch_b = g->batch_b, key.batch_c = g->batch_c;
    key.align_a = alignment(g->a), key.align_b = alignment(g->b), key.align_c = alignment(g->c);
    key.align_bias = alignment(bias), key.align_aux = alignment(aux);

    product p;
    FM_TRY(describe(dev, &p, g, bias, gelu, aux));
    plan *chosen = place_of(cuda->plans, &key);
    if (!chosen->known || memcmp(&chosen->key, &key, sizeof key) != 0) {
        chosen->known = false;
        FM_TRY(choose(dev, &p, &key, &chosen->algo, &chosen->supported));
        chosen->key = key;
        chosen->known = true;
    }
    *done = chosen->supported;
    if (!*done) return FM_OK;
    float alpha = 1, beta = g->accumulate ? 1 : 0;
    CUBLAS_TRY(dev, cublasLtMatmul(cuda->lt, &p.desc, &alpha, g->b, &p.a, g->a, &p.b, &beta, g->c,
                                   &p.c, g->c, &p.c, &chosen->algo, cuda->workspace,
                                   cuda->workspace_bytes, cuda->stream));
    return FM_OK;
}

fm_status fm_cuda_gemm(fm_device *dev, const fm_gemm_args *g) {
    bool done;
    FM_TRY(fm_cuda_gemm_epilogue(dev, g, NULL, false, NULL, &done));
    if (done) return FM_OK;
    return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                   "gemm: cuBLASLt has no kernel for %s to %s, m %lld, n %lld, k %lld, batch %lld, "
                   "lda %lld, ldb %lld, ldc %lld",
                   fm_dtype_name(g->dt), fm_dtype_name(g->c_dt), (long long)g->m, (long long)g->n,
                   (long long)g->k, (long long)g->batch, (long long)g->lda, (long long)g->ldb,
                   (long long)g->ldc);
}
