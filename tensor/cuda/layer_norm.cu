/* layer_norm: y = (x - mean) rstd w + b over rows of d, rstd = 1/sqrt(var + eps)  (Ba et al. 2016).
 *
 *   dx = rstd (g - mean(g) - x̂ mean(g x̂)),  g = dy w,  x̂ = (x - mean) rstd
 *   dw = Σ_t dy x̂,  db = Σ_t dy
 *
 * A warp has a row up to d = 1024, a block above. The variance is summed from differences to the
 * mean, a second look at a row that is in the cache by then.
 *
 * Bytes, elements of size e: forward T d 2e; backward dx T d 3e, dw and db together T d 2e more.
 * Floor: those over the copy bandwidth (4.3 TB/s on an H200), where the backward could save the
 * second 2e in one kernel; rows up to the L2's size are read from there.
 */
#include "tensor/cuda/column_sum.h"
#include "tensor/cuda/norm.h"

template <class T, int LANES, int V>
static __global__ void forward(T *y, float *mean, float *rstd, const T *x, const T *w, const T *b,
                               int64_t rows, int64_t d, float eps) {
    FOR_ROWS(t, rows) {
        const T *xt = x + t * d;
        float u[V], sum = 0, squares = 0;
        FOR_COLS(c, d) {
            load<V>(xt + c, u);
#pragma unroll
            for (int j = 0; j < V; j++) sum += u[j];
        }
        float m = lanes_sum<LANES>(sum) / (float)d;
        FOR_COLS(c, d) {
            load<V>(xt + c, u);
#pragma unroll
            for (int j = 0; j < V; j++) squares += (u[j] - m) * (u[j] - m);
        }
        float r = 1 / sqrtf(lanes_sum<LANES>(squares) / (float)d + eps);
        FOR_COLS(c, d) {
            float wc[V], bc[V];
            load<V>(xt + c, u);
            load<V>(w + c, wc);
            if (b) load<V>(b + c, bc);
#pragma unroll
            for (int j = 0; j < V; j++) u[j] = (u[j] - m) * r * wc[j] + (b ? bc[j] : 0);
            store<V>(y + t * d + c, u);
        }
        if (threadIdx.x % LANES == 0) {
            mean[t] = m;
            rstd[t] = r;
        }
    }
}

template <class T, int LANES, int V>
static __global__ void backward(T *dx, const T *dy, const T *x, const T *w, const float *mean,
                                const float *rstd, int64_t rows, int64_t d, bool accumulate) {
    FOR_ROWS(t, rows) {
        const T *xt = x + t * d, *dyt = dy + t * d;
        float m = mean[t], r = rstd[t], sum_g = 0, sum_gx = 0;
        float u[V], g[V], wc[V];
        FOR_COLS(c, d) {
            load<V>(xt + c, u);
            load<V>(dyt + c, g);
            load<V>(w + c, wc);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum_g += g[j] * wc[j];
                sum_gx += g[j] * wc[j] * ((u[j] - m) * r);
            }
        }
        float mean_g = lanes_sum<LANES>(sum_g) / (float)d;
        float mean_gx = lanes_sum<LANES>(sum_gx) / (float)d;
        FOR_COLS(c, d) {
            float old[V];
            load<V>(xt + c, u);
            load<V>(dyt + c, g);
            load<V>(w + c, wc);
            if (accumulate) load<V>(dx + t * d + c, old);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float v = r * (g[j] * wc[j] - mean_g - (u[j] - m) * r * mean_gx);
                u[j] = accumulate ? old[j] + v : v;
            }
            store<V>(dx + t * d + c, u);
        }
    }
}

template <class T> struct weight_term {
    const T *dy, *x;
    const float *mean, *rstd;
    int64_t d;
    __device__ void add(int64_t t, int64_t c, float (&sum)[2]) const {
        float g = to_float(dy[t * d + c]);
        sum[0] += g * ((to_float(x[t * d + c]) - mean[t]) * rstd[t]);
        sum[1] += g;
    }
};

template <class T, int LANES, int V>
static cudaError_t launch_forward(cudaStream_t s, T *y, float *mean, float *rstd, const T *x,
                                  const T *w, const T *b, int64_t rows, int64_t d, float eps) {
    LAUNCH((forward<T, LANES, V>), grid_for(rows, BLOCK / LANES), BLOCK, s, y, mean, rstd, x, w, b,
           rows, d, eps);
    return cudaGetLastError();
}

template <class T, int LANES, int V>
static cudaError_t launch_backward(cudaStream_t s, T *dx, const T *dy, const T *x, const T *w,
                                   const float *mean, const float *rstd, int64_t rows, int64_t d,
                                   bool accumulate) {
    LAUNCH((backward<T, LANES, V>), grid_for(rows, BLOCK / LANES), BLOCK, s, dx, dy, x, w, mean,
           rstd, rows, d, accumulate);
    return cudaGetLastError();
}

cudaError_t fmk_layer_norm_forward(cudaStream_t s, fm_dtype dt, void *y, float *mean, float *rstd,
                                   const void *x, const void *w, const void *b, int64_t T,
                                   int64_t d, float eps) {
    if (T <= 0 || d <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, E, {
        bool fast = aligned16(y, x, w, b) && d % width<E>::value == 0;
        BY_WIDTH(fast, d, E, launch_forward, s, (E *)y, mean, rstd, (const E *)x, (const E *)w,
                 (const E *)b, T, d, eps);
    });
}

template <class E>
static cudaError_t input_gradient(cudaStream_t s, E *dx, bool accumulate, const E *dy, const E *x,
                                  const E *w, const float *mean, const float *rstd, int64_t T,
                                  int64_t d) {
    bool fast = aligned16(dx, dy, x, w) && d % width<E>::value == 0;
    BY_WIDTH(fast, d, E, launch_backward, s, dx, dy, x, w, mean, rstd, T, d, accumulate);
}

cudaError_t fmk_layer_norm_backward(cudaStream_t s, fm_dtype dt, void *dx, bool accumulate_x,
                                    float *dw, bool accumulate_w, float *db, bool accumulate_b,
                                    const void *dy, const void *x, const void *w, const float *mean,
                                    const float *rstd, int64_t T, int64_t d, float *scratch) {
    if (d <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, E, {
        /* The sums first: dx may be in the place of dy. */
        if (dw || db) {
            weight_term<E> term = {(const E *)dy, (const E *)x, mean, rstd, d};
            column_out<2> to = {{dw, db}, {accumulate_w, accumulate_b}};
            cudaError_t e = launch_column_sum(s, term, to, T, d, 1, scratch);
            if (e != cudaSuccess) return e;
        }
        if (T <= 0 || !dx) return cudaSuccess;
        return input_gradient(s, (E *)dx, accumulate_x, (const E *)dy, (const E *)x, (const E *)w,
                              mean, rstd, T, d);
    });
}
