/* add_rows: y[r, c] = a[r, c] + b[r % period, c], and sum_rows, its adjoint for b.
 *
 * Since b [period, cols] is contiguous, the element of b for flat index i is i % (period * cols):
 * one division a turn of 16 bytes.
 *
 * Bytes: add_rows (2 rows + period) cols e; sum_rows rows cols e + period cols 4. Floor: those over
 * the copy bandwidth (4.3 TB/s on an H200).
 */
#include "tensor/cuda/column_sum.h"

/* n and m are multiples of V. */
template <class T, int V>
static __global__ void add_rows(T *y, const T *a, const T *b, int64_t n, int64_t m) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += step) {
        float u[V], v[V];
        load<V>(a + i, u);
        load<V>(b + i % m, v);
#pragma unroll
        for (int j = 0; j < V; j++) u[j] += v[j];
        store<V>(y + i, u);
    }
}

cudaError_t fmk_add_rows(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b,
                         int64_t rows, int64_t cols, int64_t period) {
    int64_t n = rows * cols, m = period * cols;
    if (n <= 0 || m <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, T, {
        const int V = width<T>::value;
        /* The last row may lie anywhere in the period, so cols, not m, must be a multiple. */
        if (aligned16(y, a, b) && cols % V == 0) {
            LAUNCH((add_rows<T, V>), grid_for(n, BLOCK * V), BLOCK, s, (T *)y, (const T *)a,
                   (const T *)b, n, m);
        } else {
            LAUNCH((add_rows<T, 1>), grid_for(n, BLOCK), BLOCK, s, (T *)y, (const T *)a,
                   (const T *)b, n, m);
        }
    });
    return cudaGetLastError();
}

template <class T> struct row_term {
    const T *dy;
    int64_t cols;
    __device__ void add(int64_t r, int64_t c, float (&sum)[1]) const {
        sum[0] += to_float(dy[r * cols + c]);
    }
};

cudaError_t fmk_sum_rows(cudaStream_t s, fm_dtype dt, float *db, const void *dy, int64_t rows,
                         int64_t cols, int64_t period, bool accumulate, float *scratch) {
    column_out<1> to = {{db}, {accumulate}};
    WITH_FLOAT_TYPE(dt, T, {
        row_term<T> term = {(const T *)dy, cols};
        return launch_column_sum(s, term, to, rows, cols, period, scratch);
    });
}

size_t fmk_column_scratch(int64_t rows, int64_t cols, int64_t period, int sums) {
    column_plan plan = plan_columns(rows, cols, period > 0 ? period : 1);
    return plan.chunks > 1 ? (size_t)(plan.chunks * plan.period * cols * sums) * sizeof(float) : 0;
}
