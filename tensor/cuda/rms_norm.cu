/* rms_norm: y = x rstd w over rows of d, rstd = 1/sqrt(mean(x²) + eps)  (Zhang & Sennrich 2019).
 *
 *   dx = rstd (g - x̂ mean(g x̂)),  g = dy w,  x̂ = x rstd;   dw = Σ_t dy x̂
 *
 * A warp has a row up to d = 1024, a block above.
 *
 * Bytes, elements of size e: forward T d 2e; backward dx T d 3e, dw T d 2e more. Floor: those over
 * the copy bandwidth (4.3 TB/s on an H200).
 */
#include "tensor/cuda/column_sum.h"
#include "tensor/cuda/norm.h"

template <class T, int LANES, int V>
static __global__ void forward(T *y, float *rstd, const T *x, const T *w, int64_t rows, int64_t d,
                               float eps) {
    FOR_ROWS(t, rows) {
        const T *xt = x + t * d;
        float u[V], squares = 0;
        FOR_COLS(c, d) {
            load<V>(xt + c, u);
#pragma unroll
            for (int j = 0; j < V; j++) squares += u[j] * u[j];
        }
        float r = 1 / sqrtf(lanes_sum<LANES>(squares) / (float)d + eps);
        FOR_COLS(c, d) {
            float wc[V];
            load<V>(xt + c, u);
            load<V>(w + c, wc);
#pragma unroll
            for (int j = 0; j < V; j++) u[j] = u[j] * r * wc[j];
            store<V>(y + t * d + c, u);
        }
        if (threadIdx.x % LANES == 0) rstd[t] = r;
    }
}

template <class T, int LANES, int V>
static __global__ void backward(T *dx, const T *dy, const T *x, const T *w, const float *rstd,
                                int64_t rows, int64_t d, bool accumulate) {
    FOR_ROWS(t, rows) {
        const T *xt = x + t * d, *dyt = dy + t * d;
        float r = rstd[t], sum_gx = 0;
        float u[V], g[V], wc[V];
        FOR_COLS(c, d) {
            load<V>(xt + c, u);
            load<V>(dyt + c, g);
            load<V>(w + c, wc);
#pragma unroll
            for (int j = 0; j < V; j++) sum_gx += g[j] * wc[j] * (u[j] * r);
        }
        float mean_gx = lanes_sum<LANES>(sum_gx) / (float)d;
        FOR_COLS(c, d) {
            float old[V];
            load<V>(xt + c, u);
            load<V>(dyt + c, g);
            load<V>(w + c, wc);
            if (accumulate) load<V>(dx + t * d + c, old);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float v = r * (g[j] * wc[j] - u[j] * r * mean_gx);
                u[j] = accumulate ? old[j] + v : v;
            }
            store<V>(dx + t * d + c, u);
        }
    }
}

template <class T> struct weight_term {
    const T *dy, *x;
    const float *rstd;
    int64_t d;
    __device__ void add(int64_t t, int64_t c, float (&sum)[1]) const {
        sum[0] += to_float(dy[t * d + c]) * (to_float(x[t * d + c]) * rstd[t]);
    }
};

template <class T, int LANES, int V>
static cudaError_t launch_forward(cudaStream_t s, T *y, float *rstd, const T *x, const T *w,
                                  int64_t rows, int64_t d, float eps) {
    LAUNCH((forward<T, LANES, V>), grid_for(rows, BLOCK / LANES), BLOCK, s, y, rstd, x, w, rows, d,
           eps);
    return cudaGetLastError();
}

template <class T, int LANES, int V>
static cudaError_t launch_backward(cudaStream_t s, T *dx, const T *dy, const T *x, const T *w,
                                   const float *rstd, int64_t rows, int64_t d, bool accumulate) {
    LAUNCH((backward<T, LANES, V>), grid_for(rows, BLOCK / LANES), BLOCK, s, dx, dy, x, w, rstd,
           rows, d, accumulate);
    return cudaGetLastError();
}

cudaError_t fmk_rms_norm_forward(cudaStream_t s, fm_dtype dt, void *y, float *rstd, const void *x,
                                 const void *w, int64_t T, int64_t d, float eps) {
    if (T <= 0 || d <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, E, {
        bool fast = aligned16(y, x, w) && d % width<E>::value == 0;
        BY_WIDTH(fast, d, E, launch_forward, s, (E *)y, rstd, (const E *)x, (const E *)w, T, d,
                 eps);
    });
}

template <class E>
static cudaError_t input_gradient(cudaStream_t s, E *dx, bool accumulate, const E *dy, const E *x,
                                  const E *w, const float *rstd, int64_t T, int64_t d) {
    bool fast = aligned16(dx, dy, x, w) && d % width<E>::value == 0;
    BY_WIDTH(fast, d, E, launch_backward, s, dx, dy, x, w, rstd, T, d, accumulate);
}

cudaError_t fmk_rms_norm_backward(cudaStream_t s, fm_dtype dt, void *dx, bool accumulate_x,
                                  float *dw, bool accumulate_w, const void *dy, const void *x,
                                  const void *w, const float *rstd, int64_t T, int64_t d,
                                  float *scratch) {
    if (d <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, E, {
        /* The sum first: dx may be in the place of dy. */
        if (dw) {
            weight_term<E> term = {(const E *)dy, (const E *)x, rstd, d};
            column_out<1> to = {{dw}, {accumulate_w}};
            cudaError_t e = launch_column_sum(s, term, to, T, d, 1, scratch);
            if (e != cudaSuccess) return e;
        }
        if (T <= 0 || !dx) return cudaSuccess;
        return input_gradient(s, (E *)dx, accumulate_x, (const E *)dy, (const E *)x, (const E *)w,
                              rstd, T, d);
    });
}
