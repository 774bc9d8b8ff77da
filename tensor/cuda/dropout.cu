/* dropout: y (+)= x / (1-p) where the element's uniform number is >= p, else 0.
 *
 * Numbers come from tensor/rng.h by the *global* index, so the mask is the CPU's, bit by bit. One
 * Philox block serves four neighbours in global order; a thread keeps the block it drew last, so
 * that it draws one per four elements, and one more where its elements straddle.
 *
 * Bytes per element of size e: 2e, 3e accumulating. Floor: those over the copy bandwidth (4.3 TB/s
 * on an H200); in bf16 Philox (about 20 integer products per element) may be the slower side.
 */
#include "tensor/cuda/launch.h"

struct mask_args {
    fm_rng_key key;
    int64_t cols;
    float p, scale;
};

/* The factors (0 or scale) of the V elements from flat index i on, all below rows * cols. */
template <int V>
static __device__ inline void mask(const mask_args &m, int64_t i, int count, float (&factor)[V]) {
    int64_t row = i / m.cols, col = i - row * m.cols;
    uint64_t start = (uint64_t)fm_rng_row(&m.key, row) * (uint64_t)m.cols;
    uint64_t drawn = ~(uint64_t)0; /* no such block: indices are below 2^63 */
    uint32_t bits[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < V; j++) {
        if (j >= count) break;
        if (col == m.cols) {
            col = 0;
            row++;
            start = (uint64_t)fm_rng_row(&m.key, row) * (uint64_t)m.cols;
        }
        uint64_t element = start + (uint64_t)col;
        if (element >> 2 != drawn) {
            drawn = element >> 2;
            fm_rng_block(&m.key, drawn, bits);
        }
        /* Selected, not indexed: an index would put the array into local memory. */
        uint32_t low = element & 1 ? bits[1] : bits[0], high = element & 1 ? bits[3] : bits[2];
        factor[j] = fm_rng_uniform(element & 2 ? high : low) >= m.p ? m.scale : 0;
        col++;
    }
}

template <class T, bool ACCUMULATE, int V>
static __global__ void dropout(T *y, const T *x, int64_t n, mask_args m) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    float factor[V];
    for (; i + V <= n; i += step) {
        float u[V], r[V];
        mask<V>(m, i, V, factor);
        load<V>(x + i, u);
        if (ACCUMULATE) load<V>(y + i, r);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float d = u[j] * factor[j];
            r[j] = ACCUMULATE ? r[j] + d : d;
        }
        store<V>(y + i, r);
    }
    if (i < n) mask<V>(m, i, (int)(n - i), factor);
#pragma unroll
    for (int j = 0; j < V; j++) {
        if (i + j >= n) break;
        float d = to_float(x[i + j]) * factor[j];
        y[i + j] = from_float<T>(ACCUMULATE ? to_float(y[i + j]) + d : d);
    }
}

template <class T, bool ACCUMULATE>
static cudaError_t launch_dropout(cudaStream_t s, T *y, const T *x, int64_t n, mask_args m) {
    const int V = width<T>::value;
    if (aligned16(y, x)) {
        LAUNCH((dropout<T, ACCUMULATE, V>), grid_for(n, BLOCK * V), BLOCK, s, y, x, n, m);
    } else {
        LAUNCH((dropout<T, ACCUMULATE, 1>), grid_for(n, BLOCK), BLOCK, s, y, x, n, m);
    }
    return cudaGetLastError();
}

cudaError_t fmk_dropout(cudaStream_t s, fm_dtype dt, void *y, const void *x, int64_t rows,
                        int64_t cols, float p, const fm_rng_key *key, bool accumulate) {
    if (rows <= 0 || cols <= 0) return cudaSuccess;
    mask_args m = {*key, cols, p, 1.0f / (1.0f - p)};
    WITH_FLOAT_TYPE(dt, T, {
        if (accumulate) return launch_dropout<T, true>(s, (T *)y, (const T *)x, rows * cols, m);
        return launch_dropout<T, false>(s, (T *)y, (const T *)x, rows * cols, m);
    });
}
